"""Models and tasks that come along, ready to measure: ``zoo.load("seed-cnn")``."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from workbench.errors import WorkbenchError, nearest
from workbench.task import CALIBRATION_EXAMPLES, Task, TrainingData
from workbench.zoo import checkpoints, fashion_mnist
from workbench.zoo.models import ARCHITECTURES

if TYPE_CHECKING:
    from workbench.bench import Bench
    from workbench.store import Store

TRAINING_IMAGES = 20_000


def names() -> tuple[str, ...]:
    """The names that `load` and `model` know."""
    return tuple(ARCHITECTURES)


def model(name: str) -> nn.Module:
    """A trained network in evaluation mode.

    Raises:
        WorkbenchError: No such name, or its checkpoint is missing, truncated or altered.
    """
    if name not in ARCHITECTURES:
        raise WorkbenchError(f"There is no model {name!r} in the zoo. {nearest(name, ARCHITECTURES)}")
    network = ARCHITECTURES[name]()
    try:
        checkpoints.load(network, name)
    except ValueError as error:
        raise WorkbenchError(str(error)) from error
    return network.eval()


@lru_cache(maxsize=1)
def task() -> Task:
    """Fashion-MNIST: 10,000 test images; calibration and distillation from 20,000 training images.

    Raises:
        WorkbenchError: A data file is missing, truncated or altered.
    """
    folder = checkpoints.data_folder() / "fashion-mnist"
    try:
        inputs = fashion_mnist.images(folder / "t10k-images-idx3-ubyte.gz")
        targets = fashion_mnist.labels(folder / "t10k-labels-idx1-ubyte.gz")
        calibration = fashion_mnist.images(folder / "train20k-images-idx3-ubyte.gz", CALIBRATION_EXAMPLES)
    except ValueError as error:
        raise WorkbenchError(str(error)) from error
    return Task.classification(
        inputs,
        targets,
        calibration=calibration,
        training=TrainingData(TRAINING_IMAGES, lambda: _training(folder)),
        classes=fashion_mnist.CLASSES,
        name="fashion-mnist",
        description=f"Fashion-MNIST, {len(inputs):,} test images",
        noun="images",
    )


def _training(folder: Path) -> tuple[Tensor, Tensor]:
    try:
        images = fashion_mnist.images(folder / "train20k-images-idx3-ubyte.gz")
        return images, fashion_mnist.labels(folder / "train20k-labels-idx1-ubyte.gz")
    except ValueError as error:
        raise WorkbenchError(str(error)) from error


def load(name: str, *, store: Store | None = None) -> Bench:
    """A model of the zoo on its task.

    Example:
        >>> load("seed-cnn").parameters
        93322

    Args:
        name: One of `names`.
        store: Where reports are kept; the user's own store by default.

    Raises:
        WorkbenchError: No such name, or a file that comes along is missing or altered.
    """
    from workbench.bench import Bench

    others = {other: partial(model, other) for other in reversed(ARCHITECTURES) if other != name}
    return Bench(model(name), task(), name=name, store=store, teachers=others)
