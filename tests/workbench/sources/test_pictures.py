from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import Task, TaskError
from workbench.sources import base, folder

RANDOM = np.random.default_rng(0)
PLAIN: dict[str, Any] = {"size": 8, "resize": 8, "mean": (0.0,), "std": (1.0,)}


def picture(height: int = 10, width: int = 12) -> Image.Image:
    """Smooth, so that resizing and JPEG change little."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([y * 255 / height, x * 255 / width, (x + y) * 4], 2).astype(np.uint8))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three dogs and two cats."""
    for name in ("dog/1.png", "dog/2.jpg", "dog/deep/3.png", "cat/b.PNG", "cat/a.bmp"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture().save(file)
    return tmp_path


def test_class_folders_in_sorted_order(pets: Path) -> None:
    found = folder(pets, size=8, resize=10)
    assert found.classes == ("cat", "dog")
    assert found.targets.tolist() == [0, 0, 1, 1, 1]
    assert found.inputs.tensors[0].shape == (5, 3, 8, 8)
    assert found.inputs.tensors[0].dtype == torch.float32
    assert found.notes == ()
    assert torch.equal(found.inputs.tensors[0], folder(str(pets), size=8, resize=10).inputs.tensors[0])


def test_values_are_resized_cropped_and_normalised(tmp_path: Path) -> None:
    image = picture(20, 31)
    image.save(tmp_path / "a.png")
    found = folder(tmp_path, size=6, resize=10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).inputs.tensors[0][0]
    resized = np.asarray(image.resize((15, 10), Image.Resampling.BILINEAR), np.float64) / 255
    expected = (resized[2:8, 4:10] - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]  # (15 - 6) / 2 rounds to 4
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_images_without_classes_have_no_targets(tmp_path: Path) -> None:
    for value in (3, 1, 2):
        Image.new("RGB", (9, 9), (value * 50,) * 3).save(tmp_path / f"{value}.png")
    (tmp_path / "notes").mkdir()
    found = folder(tmp_path, **PLAIN)
    assert found.targets is None
    assert found.classes == ()
    np.testing.assert_allclose(found.inputs.tensors[0][:, 0, 0, 0] * 255, [50, 100, 150], rtol=1e-5)
    assert len(Task.fidelity(found)) == 2


def saved(mode: str, where: Path) -> Path:
    image = picture(16, 16)
    match mode:
        case "I;16":
            values = (np.asarray(image.convert("L")).astype(np.uint16)) * 257
            file = where / "16.png"
            Image.fromarray(values).save(file)
        case "CMYK":
            file = where / "cmyk.jpg"
            image.convert("CMYK").save(file, quality=95)
        case "P":
            file = where / "palette.gif"
            image.quantize(256).save(file)
        case _:
            file = where / f"{mode}.png"
            image.convert(mode).save(file)
    return file


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("grey", [False, True])
def test_every_mode_is_converted(mode: str, grey: bool, tmp_path: Path) -> None:
    saved(mode, tmp_path)
    found = folder(tmp_path, size=16, resize=16, mean=0.0, std=1.0, grey=grey).inputs.tensors[0][0]
    one = grey or mode in ("L", "LA", "I;16")
    expected = np.asarray(picture(16, 16).convert("L" if one else "RGB"), np.float64) / 255
    expected = expected[None] if one else expected.transpose(2, 0, 1)
    assert found.shape == (1 if grey else 3, 16, 16)
    assert abs(found.numpy() - expected).mean() < 0.03


def test_grey_averages_the_three_values(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 51).save(tmp_path / "a.png")
    found = folder(tmp_path, size=8, resize=8, grey=True).inputs.tensors[0]
    assert float(found.mean()) == pytest.approx((0.2 - 0.449) / 0.226, rel=1e-4)


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = picture(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held at 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    found = folder(tmp_path, **PLAIN).inputs.tensors[0][0]
    upright = np.rot90(np.asarray(image), -1).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found.numpy(), upright, atol=1e-5)


def test_turned_pictures_keep_their_proportions(tmp_path: Path) -> None:
    image = picture(8, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    found = folder(tmp_path, **PLAIN).inputs.tensors[0][0]
    upright = np.rot90(np.asarray(image), -1)[4:12].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found.numpy(), upright, atol=1e-5)


def test_unreadable_pictures_are_named_skipped_and_counted(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (pets / "dog/2.jpg").read_bytes()
    (pets / "cat/broken.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "dog/text.png").write_text("not a picture")
    (pets / "dog/script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n")
    Image.new("RGB", (400, 400)).save(pets / "dog/large.png")  # more than twice what is allowed
    Image.new("RGB", (250, 300)).save(pets / "cat/large.png")  # more than what is allowed
    Image.new("RGB", (1, 1500)).save(pets / "dog/narrow.png")
    Image.fromarray(np.ones((9, 9), np.float32)).save(pets / "dog/float.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    found = folder(pets, **PLAIN)
    assert found.targets.tolist() == [0, 0, 1, 1, 1]
    (note,) = found.notes
    assert note == (
        "7 of 12 pictures could not be read: cat/broken.jpg (truncated), cat/large.png (too many pixels), "
        "dog/float.tif (its pixels are floats of unknown range), dog/large.png (too many pixels), "
        "dog/narrow.png (1 × 1,500 pixels are too narrow), and 2 more"
    )
    assert Task.classification(found).notes == found.notes


def test_other_formats_are_no_pictures(pets: Path) -> None:
    (pets / "dog/script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n")
    picture().save(pets / "dog/icon.png", format="ICO")
    assert folder(pets, **PLAIN).notes == (
        "2 of 7 pictures could not be read: dog/icon.png (not a picture), dog/script.jpg (not a picture)",
    )


def test_hidden_files_and_other_endings_are_passed_over(pets: Path) -> None:
    (pets / "cat/readme.txt").write_text("cats")
    (pets / "cat/.hidden.png").write_bytes(b"")
    (pets / ".cache").mkdir()
    (pets / ".cache/a.png").write_bytes(b"")
    os.mkfifo(pets / "cat/pipe.png")
    found = folder(pets, **PLAIN)
    assert found.classes == ("cat", "dog")
    assert (len(found), found.notes) == (5, ())


def test_links_that_lead_outside_are_not_followed(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    picture().save(outside / "secret.png")
    (pets / "cat/link.png").symlink_to(outside / "secret.png")
    (pets / "cat/inside.png").symlink_to(pets / "dog/1.png")
    (pets / "elsewhere").symlink_to(outside)
    (pets / "dog/up").symlink_to(pets)
    found = folder(pets, **PLAIN)
    assert found.classes == ("cat", "dog")
    assert found.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.notes == ("2 links were not followed",)


def test_a_limit_is_shared_evenly(tmp_path: Path) -> None:
    for name, count in (("a", 1), ("b", 9), ("c", 9)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("L", (8, 8), index).save(tmp_path / name / f"{index}.png")
    found = folder(tmp_path, limit=7, **PLAIN)
    assert found.targets.tolist() == [0, 1, 1, 1, 2, 2, 2]
    values = found.inputs.tensors[0][:, 0, 0, 0] * 255
    np.testing.assert_allclose(values, [0, 0, 1, 2, 0, 1, 2], atol=1e-4)
    assert found.notes == ("the first 7 of 19 pictures were read, evenly from 3 classes",)
    assert len(folder(tmp_path, limit=100, **PLAIN)) == 19
    flat = folder(tmp_path / "b", limit=2, **PLAIN)
    assert flat.notes == ("the first 2 of 9 pictures were read",)


def test_a_class_without_pictures_keeps_its_number(pets: Path) -> None:
    (pets / "cow").mkdir()
    picture().save(pets / "beside.png")
    found = folder(pets, **PLAIN)
    assert found.classes == ("cat", "cow", "dog")
    assert found.targets.tolist() == [0, 0, 2, 2, 2]
    assert found.notes == ("class 'cow' has no pictures", "1 pictures beside the class folders were left out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 300}, "size = 300: it goes from 1 to `resize`, which is 8"),
        ({"size": 0}, "size = 0"),
        ({"limit": 0}, "limit = 0: at least one"),
        ({"interpolation": "bilinaer"}, "interpolation = 'bilinaer' is not known. Did you mean 'bilinear'"),
        ({"mean": (1.0, 2.0)}, "mean = .* one value, or three"),
        ({"std": (1.0, 0.0, 1.0)}, "std = .* above 0"),
    ],
)
def test_arguments_out_of_range_are_named(changes: dict[str, Any], words: str, pets: Path) -> None:
    with pytest.raises(TaskError, match=words):
        folder(pets, **(PLAIN | changes))


def test_a_folder_without_pictures_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match=r"nowhere': there is no such folder"):
        folder(pets / "nowhere")
    (pets / "empty/a").mkdir(parents=True)
    with pytest.raises(TaskError, match=r"empty': there are no pictures in it; a folder per class .*\.jpg"):
        folder(pets / "empty")
    (pets / "empty/a/1.png").write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"1 of 1 pictures could not be read: a/1\.png \(not a picture\)"):
        folder(pets / "empty")
    monkeypatch.setattr(base, "MEMORY", 3000)
    with pytest.raises(TaskError, match=r"images: 6 examples take about .* such as limit=3"):
        folder(pets, **PLAIN)
    assert len(folder(pets, limit=3, **PLAIN)) == 2  # one of them is unreadable
