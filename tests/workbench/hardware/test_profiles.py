"""The profiles that come along, a user's own, and what a faulty one gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.hardware import Profile, ProfileError, load_profiles, profile, profiles
from workbench.hardware.library import parsed
from workbench.hardware.profile import BITS, STEEPEST

GOOD = """
[[profile]]
name = "Board"
family = "single-board computer"
peaks = { fp32 = 1e9, int8 = 4e9 }
memory = 1e9
memory_bandwidth = 2e9
operator_overhead = [1e-6, 5e-6]
[profile.sources]
peaks = "datasheet"
memory = "datasheet"
memory_bandwidth = "datasheet"
operator_overhead = "measured"
"""


def test_from_microcontroller_to_data_centre() -> None:
    families = {each.family for each in profiles()}
    assert len(profiles()) >= 14
    assert {"microcontroller", "phone", "single-board computer", "edge accelerator", "FPGA"} <= families
    assert {"laptop", "desktop", "data centre"} <= families
    assert len({each.name for each in profiles()}) == len(profiles())


@pytest.mark.parametrize("device", profiles(), ids=lambda each: each.name)
def test_every_figure_has_a_source_and_peaks_grow_as_bits_fall(device: Profile) -> None:
    figures = device.model_fields_set - {"name", "family", "description", "sources"}
    assert figures == {key.partition(".")[0] for key in device.sources}
    assert all(len(text) > 10 for text in device.sources.values())
    rates = [device.peaks[kernel] for kernel in device.kernels]
    assert rates == sorted(rates)


def test_known_figures() -> None:
    """Dense, not sparse: the datasheets' headlines are twice these."""
    assert profile("NVIDIA H100 SXM").peaks["fp16"] == 989e12
    assert profile("NVIDIA A100 SXM 80 GB").peaks["int8"] == 624e12
    assert profile("NVIDIA L4").peaks["int8"] == 242.5e12
    assert profile("Jetson Orin Nano 8 GB Super").peaks["int8"] == 33.4e12


def test_an_unknown_name_gets_what_was_probably_meant() -> None:
    with pytest.raises(ProfileError, match="'Raspberry Pi 5'"):
        profile("raspberry pi 5")


def test_a_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    (mine,) = load_profiles(file)
    assert (mine.name, mine.peaks["int8"], mine.operator_overhead) == ("Board", 4e9, (1e-6, 5e-6))
    assert load_profiles(str(file)) == (mine,)


def test_whole_numbers_are_figures_too() -> None:
    (mine,) = parsed(GOOD.replace("memory = 1e9", "memory = 1000000000"), "x")
    assert mine.memory == 1e9


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "Board"', "", r"profile 1 \(without a name\).*name: missing"),
        ("peaks = { fp32 = 1e9, int8 = 4e9 }", "", r"profile 1 \(Board\).*peaks: missing"),
        ("int8 = 4e9", "int8 = -4e9", r"profile 1 \(Board\): peaks.int8 = -4000000000.0"),
        ("int8 = 4e9", 'int8 = "4e9"', "peaks.int8 = '4e9'"),
        ("int8 = 4e9", "int8 = nan", "peaks.int8 = nan"),
        ("int8 = 4e9", "int8 = true", "peaks.int8 = True"),
        ("int8 = 4e9", "int3 = 4e9", "peaks.int3"),
        ("peaks = { fp32 = 1e9, int8 = 4e9 }", "peaks = {}", "peaks: at least one"),
        ("memory = 1e9", "memory = 0", "memory = 0"),
        ("memory_bandwidth = 2e9", "memory_bandwith = 2e9", "memory_bandwith: there is no such field.*bandwidth"),
        ('memory = "datasheet"', 'memory = " "', "sources.memory: the figure has no source"),
        ('memory_bandwidth = "datasheet"', "", "sources.memory_bandwidth: the figure has no source"),
        ('peaks = "datasheet"', 'peaks = "datasheet"\npower = "a guess"', "sources.power: there is no such figure"),
        ('peaks = "datasheet"', '"peaks.int4" = "datasheet"', "sources.peaks.int4: there is no such figure"),
        ("[1e-6, 5e-6]", "[5e-6, 1e-6]", "operator_overhead:.*not .low, high"),
        ("[1e-6, 5e-6]", "[1e-6, 5e-5]", "operator_overhead:.*at most 10 times"),
        ('"single-board computer"', '"toaster"', "family = 'toaster'"),
        ("memory = 1e9", "memory = 1e9\ncache = 2e9", "cache: 2e\\+09 bytes on the chip are more"),
        ("fp32 = 1e9", "fp16 = 0.5e9", "peaks.int8: 8 times peaks.fp16.*sparse"),
        ("memory = 1e9", "memory = 1e9\nscale = 2.0", "scale: this is set by a measured latency"),
        ("[[profile]]", "[[profil]]", "one \\[\\[profile\\]\\] table"),
        ("[[profile]]", "[[profile]", "this is not TOML"),
    ],
)
def test_a_fault_is_named_by_row_and_field(old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(ProfileError, match=f"(?s)mine.toml.*{says}"):
        parsed(GOOD.replace(old, new, 1), "mine.toml")


def test_a_name_twice_and_the_row_of_a_later_fault() -> None:
    with pytest.raises(ProfileError, match="profile 2: name: 'Board' is there twice"):
        parsed(GOOD + GOOD, "x")
    with pytest.raises(ProfileError, match=r"profile 2 \(Other\): memory = -1"):
        parsed(GOOD + GOOD.replace("Board", "Other").replace("memory = 1e9", "memory = -1"), "x")


@pytest.mark.parametrize("name", ["absent.toml", "", "."])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProfileError, match="it cannot be read"):
        load_profiles(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profiles(tmp_path / "x.toml")


def test_kernels_for_bits() -> None:
    a100, coral = profile("NVIDIA A100 SXM 80 GB"), profile("Coral Edge TPU")
    assert a100.kernels_for(3) == ("int4", "int8", "fp32")
    assert a100.kernels_for(5) == ("int8", "fp32")
    assert a100.kernels_for(None) == ("fp32",)
    assert coral.kernels_for(None) == ()
    assert profile("Apple M4 GPU").kernels_for(8) == ("fp32",)
    assert all(BITS[kernel] >= 4 for each in profiles() for kernel in each.kernels_for(4))


@pytest.mark.parametrize(("predicted", "measured"), [(1.0, 0.0), (1.0, -1.0), (0.0, 1.0), (1.0, float("nan"))])
def test_a_calibration_needs_times(predicted: float, measured: float) -> None:
    with pytest.raises(ProfileError, match="seconds above 0"):
        profile("Coral Edge TPU").calibrated(predicted, measured)


def test_the_steepest_rise_is_allowed() -> None:
    text = GOOD.replace("fp32 = 1e9, int8 = 4e9", f"fp16 = 1e9, int8 = {STEEPEST}e9")
    assert parsed(text, "x")[0].peaks["int8"] == STEEPEST * 1e9
