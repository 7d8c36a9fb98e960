"""Pictures that a small network tells apart after a moment."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures with a bright quarter; which one is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    pictures = torch.randn(n, 1, 8, 8, generator=generator)
    for label, (top, left) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        pictures[labels == label, :, top : top + 4, left : left + 4] += 0.7
    return pictures, labels


def learned(model: nn.Module, *, steps: int, rate: float) -> nn.Module:
    """The model itself, trained for a moment, in evaluation mode."""
    pictures, labels = data(600, 3)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
    return model.eval()
