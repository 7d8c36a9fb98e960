"""Trains the small networks on scikit-learn's tables that come along.

    python -m workbench.zoo.train_tables digits-mlp

The test part of the table is read once, at the end.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.zoo import checkpoints, tables
from workbench.zoo.train import accuracy

BATCH = 64


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of 8x8 pixels, each image moved by at most one pixel each way."""
    padded = F.pad(images.view(-1, 8, 8), (1,) * 4)
    places = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[y : y + 8, x : x + 8] for image, (y, x) in zip(padded, places, strict=True)]).flatten(1)


def train_digits(model: nn.Module, part: tables.Part, epochs: int, seed: int) -> None:
    """Cross-entropy on images of which half are moved; AdamW with a one-cycle schedule."""
    generator = torch.Generator().manual_seed(seed)
    optimizer, schedule = _optimizer(model, epochs * -(-len(part.inputs) // BATCH), 1e-2)
    for _ in range(epochs):
        for index in torch.randperm(len(part.inputs), generator=generator).split(BATCH):
            images = part.inputs[index]
            moved = torch.rand(len(index), 1, generator=generator) < 0.5
            batch = torch.where(moved, shifted(images, generator), images)
            _step(F.cross_entropy(model(batch), part.targets[index], label_smoothing=0.05), optimizer, schedule)


def train_diabetes(model: nn.Sequential, part: tables.Part, epochs: int, seed: int) -> None:
    """Squared error on standardised targets, inputs with noise; the last layer then takes over their scale."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = part.targets.mean(), part.targets.std()
    wanted = (part.targets - mean) / deviation
    optimizer, schedule = _optimizer(model, epochs * -(-len(wanted) // BATCH), 1e-1)
    for _ in range(epochs):
        for index in torch.randperm(len(wanted), generator=generator).split(BATCH):
            batch = part.inputs[index]
            noisy = batch + 0.3 * torch.randn(batch.shape, generator=generator)
            _step(F.mse_loss(model(noisy), wanted[index]), optimizer, schedule)
    last = model[-1]
    assert isinstance(last, nn.Linear)  # noqa: S101 - narrows the type
    with torch.no_grad():
        last.weight.mul_(deviation)
        last.bias.mul_(deviation).add_(mean)


@torch.inference_mode()
def r_squared(model: nn.Module, part: tables.Part) -> float:
    """Coefficient of determination."""
    rest = (model(part.inputs) - part.targets).square().sum()
    return float(1 - rest / (part.targets - part.targets.mean()).square().sum())


def main() -> None:
    """Train, evaluate and save one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(tables.ARCHITECTURES))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = tables.ARCHITECTURES[options.name]()
    if options.name == "digits-mlp":
        split = tables.digits()
        train_digits(model, split.training, options.epochs, options.seed)
        reached = {"accuracy": accuracy(model.eval(), *split.test)}
    else:
        split = tables.diabetes()
        train_diabetes(model, split.training, options.epochs, options.seed)
        reached = {"r_squared": r_squared(model.eval(), split.test)}
    rows = len(split.training.inputs)
    header = {
        "architecture": options.name,
        "task": options.name.removesuffix("-mlp"),
        "trained_on": f"{rows:,} rows of scikit-learn's table, drawn with seed {tables.SPLIT_SEED}",
        **reached,
        "epochs": options.epochs,
        "seed": options.seed,
        "optimizer": f"AdamW 3e-3, one-cycle, batch {BATCH}",
        "torch": torch.__version__,
        "command": shlex.join(["python", "-m", "workbench.zoo.train_tables", *sys.argv[1:]]),
    }
    print(f"{options.name}: {reached} -> {checkpoints.save(model, options.name, header)}")


def _optimizer(
    model: nn.Module, steps: int, decay: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.OneCycleLR) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


if __name__ == "__main__":
    main()
