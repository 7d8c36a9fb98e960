"""Trains the checkpoints that come along.

    python -m workbench.zoo.train seed-cnn --source /usr/share/datasets/fashion-mnist

The source is the folder of Debian's `dataset-fashion-mnist`: all 60,000 training images are used,
while the repository carries 20,000 of them. The 10,000 test images are read once, at the end.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from workbench.zoo import checkpoints, fashion_mnist
from workbench.zoo.models import ARCHITECTURES, teacher_cnn


def augment(batch: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Mirrors half of the images and shifts the batch by up to `shift` pixels each way."""
    mirrored = torch.rand(len(batch), generator=generator) < 0.5
    batch = torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)
    down, right = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
    padded = F.pad(batch, (shift,) * 4)
    return padded[..., down : down + 28, right : right + 28].contiguous(memory_format=torch.channels_last)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, shift: int, seed: int) -> None:
    """AdamW with a one-cycle schedule, batch 128."""
    generator = torch.Generator().manual_seed(seed)
    batch = 128
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        started, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(images), generator=generator).split(batch)[: steps // epochs]:
            loss = F.cross_entropy(model(augment(images[index], shift, generator)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}  loss {total * epochs / steps:.4f}  {time.perf_counter() - started:.1f} s")


def fold_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """`teacher_cnn` without BatchNorm, with the same outputs in evaluation mode."""
    model.eval()
    folded = teacher_cnn()
    for name, module in folded.named_children():
        if isinstance(module, nn.Conv2d):
            convolution, norm = model.get_submodule(name), model.get_submodule(name.replace("conv", "norm"))
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101 - narrows the type
            assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101
            module.load_state_dict(fuse_conv_bn_eval(convolution, norm).state_dict())
        elif isinstance(module, nn.Linear):
            module.load_state_dict(model.get_submodule(name).state_dict())
    return folded.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy, 0..1."""
    hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(sum(hits)) / len(images)


def main() -> None:
    """Train, fold, evaluate and save one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(ARCHITECTURES))
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--shift", type=int, default=2, help="pixels; 0 suits a network that is small for the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    read = fashion_mnist
    images = read.images(options.source / "train-images-idx3-ubyte.gz")
    labels = read.labels(options.source / "train-labels-idx1-ubyte.gz")
    model = teacher_cnn(batch_norm=True) if options.name == "teacher-cnn" else ARCHITECTURES[options.name]()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(model, images, labels, options.epochs, options.shift, options.seed)

    shipped = fold_batch_norm(model) if options.name == "teacher-cnn" else model.eval()
    test = read.images(options.source / "t10k-images-idx3-ubyte.gz")
    reached = accuracy(shipped, test, read.labels(options.source / "t10k-labels-idx1-ubyte.gz"))
    header = {
        "architecture": options.name,
        "task": "fashion-mnist",
        "trained_on": "60,000 Fashion-MNIST training images, half of them mirrored, shifted by up to "
        f"{options.shift} pixels",
        "accuracy": reached,
        "epochs": options.epochs,
        "seed": options.seed,
        "optimizer": "AdamW 3e-3, weight decay 1e-2, one-cycle, batch 128",
        "torch": torch.__version__,
        "command": shlex.join(["python", "-m", "workbench.zoo.train", *sys.argv[1:]]),
    }
    print(f"{options.name}: {reached:.2%} -> {checkpoints.save(shipped, options.name, header)}")


if __name__ == "__main__":
    main()
