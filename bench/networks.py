"""Networks of the literature with random weights: for what depends on their shapes alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

IMAGE = (3, 224, 224)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


class Inverted(nn.Module):
    """Widens, filters each channel, narrows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        widen = [convolution(inputs, wide, 1), nn.ReLU6()] if expansion > 1 else []
        filters = [convolution(wide, wide, 3, stride, wide), nn.ReLU6()]
        self.body = nn.Sequential(*widen, *filters, convolution(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v1() -> nn.Module:
    """arXiv:1704.04861, table 1: 569 M multiply-adds."""
    parts: list[nn.Module] = [convolution(3, 32, 3, 2), nn.ReLU6()]
    channels = 32
    for outputs, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2)):
        parts += [convolution(channels, channels, 3, stride, channels), nn.ReLU6()]
        parts += [convolution(channels, outputs, 1), nn.ReLU6()]
        channels = outputs
    parts += [convolution(1024, 1024, 3, 1, 1024), nn.ReLU6(), convolution(1024, 1024, 1), nn.ReLU6()]
    return nn.Sequential(*parts, *head(1024, 1000))


def mobilenet_v2() -> nn.Module:
    """arXiv:1801.04381, table 2: 300 M multiply-adds."""
    parts: list[nn.Module] = [convolution(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    for expansion, outputs, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            parts.append(Inverted(inputs, outputs, stride if block == 0 else 1, expansion))
            inputs = outputs
    return nn.Sequential(*parts, convolution(320, 1280, 1), nn.ReLU6(), *head(1280, 1000))


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(convolution(inputs, outputs, 3, stride), nn.ReLU())
        self.second = convolution(outputs, outputs, 3)
        self.short = convolution(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(self.second(self.first(x)) + self.short(x))


class Bottleneck(nn.Module):
    """Narrows, filters, widens, and a way around; the stride is where the first version of the network had it."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        first = (convolution(inputs, width, 1, stride), nn.ReLU(), convolution(width, width, 3), nn.ReLU())
        self.body = nn.Sequential(*first, convolution(width, 4 * width, 1))
        self.short = convolution(inputs, 4 * width, 1, stride) if inputs != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(self.body(x) + self.short(x))


def resnet50() -> nn.Module:
    """arXiv:1512.03385, table 1: 3.8 G multiply-adds at 224 x 224."""
    parts: list[nn.Module] = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            parts.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*parts, *head(2048, 1000))


def resnet8() -> nn.Module:
    """MLPerf Tiny's image classification: 12.5 M MACs."""
    blocks = (Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
    return nn.Sequential(convolution(3, 16, 3), nn.ReLU(), *blocks, *head(64, 10))


def resnet18() -> nn.Module:
    """arXiv:1512.03385, table 1: 1.8 G multiply-adds."""
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = (convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, *head(512, 1000))


class Encoder(nn.Module):
    """Six layers of 384, as in small text encoders."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.layers(x)


class Recurrent(nn.Module):
    """Two layers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, hidden, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.lstm(x)[0]


@torch.no_grad()
def settled(build: Callable[[], nn.Module], seed: int = 0, images: int = 16) -> nn.Module:
    """A network with random weights whose activations keep their size from layer to layer, as trained ones do.

    Args:
        build: Makes the network.
        seed: Of its weights.
        images: How many random ones its normalisations take their statistics from.

    Returns:
        The network in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # the mean of all that was seen
        network.train()(torch.randn(images, *IMAGE))
    return network.eval()
