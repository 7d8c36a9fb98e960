"""Pictures are PNG files that a reader of PNG reads back; what is no picture is a short text."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from widgets.thumbnails import LARGEST, pixels_of, png, shown
from workbench.inputs import Inputs


@pytest.mark.parametrize("shape", [(5, 7), (6, 4, 3), (1, 1)])
def test_a_file_is_read_back_by_another_reader(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_numbers_become_grey_levels_and_large_pictures_small():
    array = np.linspace(-2, 3, 16).reshape(1, 4, 4)
    pixels = pixels_of(array)
    assert pixels.shape == (4, 4) and pixels.min() == 0 and pixels.max() == 255
    assert pixels_of(np.zeros((3, 224, 300))).shape == (38, 50, 3)
    assert max(pixels_of(np.zeros((500, 20, 3))).shape) <= LARGEST
    assert pixels_of(np.zeros((5, 8, 8))) is None and pixels_of(np.zeros((1, 2, 9))) is None
    assert not pixels_of(np.full((1, 5, 5), 7.0)).any()


def test_texts_and_tables_are_short_texts():
    assert shown(Inputs(torch.tensor([[101, 7, 0, 12, 0, 0]]))[0:1]) == {"picture": "", "text": "101 7 0 12"}
    table = shown(Inputs(torch.tensor([[0.5, -1.25]]))[0:1])
    assert table == {"picture": "", "text": "0.5, −1.25"}
    named = shown(Inputs(ids=torch.arange(1, 51)[None], mask=torch.ones(1, 50, dtype=torch.int64)))
    assert named["text"].startswith("ids: 1 2 3") and "mask: 1 1" in named["text"] and len(named["text"]) <= 90


def test_examples_of_several_shapes_are_shown():
    ragged = Inputs((torch.rand(1, 6, 6), torch.rand(1, 8, 8)))
    assert shown(ragged[1:2])["picture"].startswith("data:image/png")
