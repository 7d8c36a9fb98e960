"""Two small data sets of scikit-learn and a network for each: handwritten digits, and the progression of diabetes.

The files are read from the installed package, without importing it, which would take seconds.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.task import Task, TrainingData
from workbench.zoo import packages

SCIKIT_LEARN = packages.Package("sklearn", "scikit-learn")
DIGITS = packages.File(SCIKIT_LEARN, "datasets/data/digits.csv.gz")
DIABETES = packages.File(SCIKIT_LEARN, "datasets/data/diabetes_data_raw.csv.gz")
PROGRESSION = packages.File(SCIKIT_LEARN, "datasets/data/diabetes_target.csv.gz")
SPLIT_SEED = 0
LARGEST_PIXEL = 16


class Part(NamedTuple):
    """Some rows of a table."""

    inputs: Tensor
    """Shape (n, features), float32."""
    targets: Tensor
    """Class indices of shape (n,), or values of shape (n, 1)."""


class Split(NamedTuple):
    """A table in three parts that share no row; which row goes where is drawn with a fixed seed."""

    training: Part
    calibration: Part
    test: Part


def digits_mlp() -> nn.Sequential:
    """Takes 8x8 pixels as rows of 64 values in 0..1; returns logits of shape (n, 10)."""
    return _mlp(64, 64, 32, 10)


def diabetes_mlp() -> nn.Sequential:
    """Takes ten standardised measurements; returns the disease's progression after a year, shape (n, 1)."""
    return _mlp(10, 32, 16, 1)


def _mlp(*widths: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        layers[f"fc{index}"] = nn.Linear(inputs, outputs)
        layers[f"relu{index}"] = nn.ReLU()
    layers.popitem()
    return nn.Sequential(layers)


ARCHITECTURES = {"digits-mlp": digits_mlp, "diabetes-mlp": diabetes_mlp}


@lru_cache(maxsize=1)
def digits() -> Split:
    """1,797 handwritten digits: 1,100 to train, 197 to calibrate, 500 to test.

    Raises:
        WorkbenchError: scikit-learn is not installed, or its file cannot be read.
    """
    rows = _read(DIGITS, ",", 65)
    return _split(rows[:, :-1] / LARGEST_PIXEL, rows[:, -1].long(), 197, 500)


@lru_cache(maxsize=1)
def diabetes() -> Split:
    """442 patients: 292 to train, 50 to calibrate, 100 to test.

    Measurements are standardised by mean and standard deviation of the training part.

    Raises:
        WorkbenchError: scikit-learn is not installed, or its files cannot be read.
    """
    split = _split(_read(DIABETES, " ", 10), _read(PROGRESSION, " ", 1), 50, 100)
    mean, deviation = split.training.inputs.mean(0), split.training.inputs.std(0)
    return Split(*(part._replace(inputs=(part.inputs - mean) / deviation) for part in split))


def digits_task() -> Task:
    """Top-1 accuracy on 500 digits.

    Raises:
        WorkbenchError: See `digits`.
    """
    training, calibration, test = digits()
    return Task.classification(
        *test,
        calibration=calibration.inputs,
        training=TrainingData(len(training.inputs), lambda: training),
        classes=10,
        name="digits",
        description=f"handwritten digits, {len(test.inputs)} test images",
        noun="digits",
    )


def diabetes_task() -> Task:
    """Error of the predicted progression, in points of its score (25 to 346), on 100 patients.

    Raises:
        WorkbenchError: See `diabetes`.
    """
    training, calibration, test = diabetes()
    return Task.regression(
        *test,
        calibration=calibration.inputs,
        training=TrainingData(len(training.inputs), lambda: training),
        name="diabetes",
        description=f"progression of diabetes, {len(test.inputs)} test patients",
        noun="patients",
    )


def _split(inputs: Tensor, targets: Tensor, calibration: int, test: int) -> Split:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SPLIT_SEED))
    sizes = [len(inputs) - calibration - test, calibration, test]
    return Split(*(Part(inputs[index], targets[index]) for index in order.split(sizes)))


def _read(file: packages.File, delimiter: str, columns: int) -> Tensor:
    """All numbers of a gzipped table, shape (rows, columns)."""
    path = file.found()
    try:
        with gzip.open(path, "rt") as opened:
            lines = opened.read().splitlines()
        if not lines:
            raise ValueError("it is empty")
        rows = np.loadtxt(lines, delimiter=delimiter, dtype=np.float32, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise WorkbenchError(f"{path} cannot be read as a table ({error}). Install scikit-learn again.") from error
    if rows.shape[1] != columns:
        raise WorkbenchError(
            f"{path} has {rows.shape[1]} columns, {columns} were expected. Install a scikit-learn from 1.5 on."
        )
    return torch.from_numpy(rows)
