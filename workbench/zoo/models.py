"""The networks that come along.

Both take images of shape (N, 1, 28, 28) with values in [0, 1] and return logits of shape (N, 10).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def seed_cnn() -> nn.Sequential:
    """The survey's running example: three convolutions and two Linear layers, 93,322 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3),  # (N, 32, 26, 26)
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # (N, 32, 13, 13)
            conv2=nn.Conv2d(32, 64, 3),  # (N, 64, 11, 11)
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # (N, 64, 5, 5)
            conv3=nn.Conv2d(64, 64, 3),  # (N, 64, 3, 3)
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(576, 64),
            relu4=nn.ReLU(),
            fc2=nn.Linear(64, 10),
        )
    )


def teacher_cnn(*, batch_norm: bool = False) -> nn.Sequential:
    """A wider, deeper network for the same images, about 0.3 M parameters.

    It is trained with BatchNorm, which is then folded into the convolutions: what is shipped and
    what `zoo.load` returns has none.

    Args:
        batch_norm: Put a BatchNorm2d behind every convolution, for training.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def block(index: int, channels: tuple[int, int], pool: bool) -> None:
        layers[f"conv{index}"] = nn.Conv2d(*channels, 3, padding=1)
        if batch_norm:
            layers[f"norm{index}"] = nn.BatchNorm2d(channels[1])
        layers[f"relu{index}"] = nn.ReLU()
        if pool:
            layers[f"pool{index}"] = nn.MaxPool2d(2)

    block(1, (1, 32), pool=False)  # (N, 32, 28, 28)
    block(2, (32, 32), pool=True)  # (N, 32, 14, 14)
    block(3, (32, 64), pool=False)
    block(4, (64, 64), pool=True)  # (N, 64, 7, 7)
    block(5, (64, 128), pool=True)  # (N, 128, 3, 3)
    layers["flatten"] = nn.Flatten()
    if batch_norm:
        layers["dropout"] = nn.Dropout(0.3)
    layers["fc1"] = nn.Linear(1152, 128)
    layers["relu6"] = nn.ReLU()
    layers["fc2"] = nn.Linear(128, 10)
    return nn.Sequential(layers)


ARCHITECTURES = {"seed-cnn": seed_cnn, "teacher-cnn": teacher_cnn}
