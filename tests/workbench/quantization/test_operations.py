from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workbench.inputs import Inputs
from workbench.quantization.finding import find_layers
from workbench.quantization.operations import operations


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        return F.linear(F.conv2d(x, self.one, padding=1).mean((2, 3)), self.two)


SHARED = nn.Linear(12, 12)
IMAGES = torch.randn(3, 3, 12, 12)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Sequential(nn.Linear(12, 7), nn.Linear(7, 4)), IMAGES),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), IMAGES),
        (nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, groups=3)), IMAGES),
        (nn.Sequential(nn.Conv1d(12, 4, 3, dilation=2)), IMAGES[:, 0]),
        (nn.Sequential(nn.ConvTranspose2d(3, 6, 3, stride=2)), IMAGES),
        (Functional(), IMAGES),
    ],
    ids=["linear", "used twice", "convolutions", "dilated", "transposed", "functional"],
)
def test_products_are_counted_as_torch_counts_them(model, x):
    model, example = model.eval(), Inputs(x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        example.call(model)

    found = operations(model, find_layers(model, example)[0], example)

    assert found * len(x) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_a_recurrent_layer_multiplies_once_per_step():
    model = nn.Sequential(nn.LSTM(5, 7, batch_first=True)).eval()
    example = Inputs(torch.randn(3, 11, 5))

    assert operations(model, find_layers(model, example)[0], example) == 2 * 11 * 4 * 7 * (5 + 7)
