"""What test_killed.py kills: a process of its own that trains by way of the bench, and says where it is.

python killed_training.py FOLDER
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_training import HELD_OUT, INPUTS, RULE, network

import workbench as wb
from workbench import trained_students
from workbench.checkpoints import CheckpointFile
from workbench.store import Store

SETTINGS = wb.Distillation(teacher="big", images=512, labels=64, epochs=125)
STEPS = 1000


def bench(folder: Path) -> wb.Bench:
    """A model with BatchNorm and dropout on few numbers: a step takes two milliseconds."""
    told = ((INPUTS @ RULE).argmax(1), (HELD_OUT @ RULE).argmax(1))
    task = wb.Task.classification(HELD_OUT, told[1], calibration=INPUTS[:50], training=(INPUTS, told[0]), classes=4)
    return wb.Bench(network(16), task, store=Store(folder), teachers={"big": network(24).eval()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    trained_students.CheckpointFile = partial(CheckpointFile, every=0.02, share=0.5)
    for progress in bench(Path(sys.argv[1])).distil(SETTINGS):
        print(progress.step, progress.resumed, flush=True)
