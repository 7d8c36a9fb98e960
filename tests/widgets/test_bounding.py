"""A session that asks what a device that is not here would take: at once, with the recipe, rescaled by one latency."""

from __future__ import annotations

import threading

import pytest
import small_bench
from small_bench import LONG, until

from widgets.bounding import LONGEST
from widgets.session import Session
from workbench.errors import WorkbenchError
from workbench.hardware import ProfileError, profiles
from workbench.recipe import Distillation, Quantization, Recipe

INT8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))
MINE = """
[[profile]]
name = "My board"
family = "single-board computer"
peaks = { fp32 = 1e9, int8 = 4e9 }
[profile.sources]
peaks = "by hand"
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench.made(tmp_path_factory.mktemp("store"))


@pytest.fixture
def session(bench):
    session = Session(bench, INT8)
    session.wait(LONG)
    yield session
    session.close()


def current(session):
    """The bound of what is on the screen, when it is there."""
    found = lambda: session.elsewhere  # noqa: E731
    until(lambda: found() is not None and found().recipe == session.recipe and found().profile == session.profile)
    return session.elsewhere


def test_without_a_device_nothing_is_asked(session):
    assert session.elsewhere is None and session.profile is None
    assert session.profiles == profiles() and len(session.profiles) >= 14
    assert "workbench-bounding" not in [thread.name for thread in threading.enumerate()]


def test_a_device_is_asked_about_the_recipe_on_the_screen_and_follows_it(session, bench):
    session.choose_profile("Raspberry Pi 5")
    assert current(session).bound == bench.bound(INT8, "Raspberry Pi 5")
    session.update(weight_bits=None, activation_bits=None, batch=8)
    found = current(session)  # it waits for no measurement
    assert found.bound == bench.bound(session.recipe, "Raspberry Pi 5") and found.bound.batch == 8
    session.choose_profile("STM32H7A3")
    assert current(session).bound.device == "STM32H7A3"
    session.choose_profile(None)
    assert session.elsewhere is None


def test_a_device_without_kernels_says_what_it_lacks(session):
    session.update(weight_bits=None, activation_bits=None)
    session.choose_profile("Coral Edge TPU")
    found = current(session)
    assert found.bound.latency is None and "int8 alone" in found.bound.reason


def test_one_measured_latency_is_shown_for_what_was_measured_and_stretches_the_rest(session, bench):
    session.choose_profile("Raspberry Pi 4")
    plain = current(session).bound.latency
    session.calibrate(5 * plain.high)
    until(lambda: session.elsewhere.calibration is not None)
    found = session.elsewhere
    assert (found.bound.latency.value, found.bound.latency.source) == (5 * plain.high, "imported")
    assert found.calibration.seconds == 5 * plain.high and found.calibration.predicted == plain

    session.update(batch=4)
    other = current(session).bound.latency
    expected = bench.bound(session.recipe, "Raspberry Pi 4").latency.value * 5 * plain.high / plain.value
    assert other.source == "predicted" and other.value == pytest.approx(expected)
    session.undo()
    until(lambda: current(session).bound.latency.source == "imported")

    # a runtime of this machine changes nothing there; another device is as it was; forgotten, all is as before
    session.update(threads=2)
    assert current(session).bound.latency.source == "imported"
    session.choose_profile("Raspberry Pi 5")
    assert current(session).calibration is None
    session.choose_profile("Raspberry Pi 4")
    assert current(session).calibration is not None
    session.forget_calibration()
    until(lambda: session.elsewhere.calibration is None)
    assert session.elsewhere.bound.latency == plain


def test_what_is_no_time_changes_nothing(session):
    with pytest.raises(WorkbenchError, match="Choose a device first"):
        session.calibrate(0.1)
    session.choose_profile("Raspberry Pi 4")
    current(session)
    session.calibrate(0.5)
    until(lambda: session.elsewhere.calibration is not None)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(WorkbenchError, match="seconds above 0"):
            session.calibrate(wrong)
    session.update(batch=2)
    assert current(session).calibration.seconds == 0.5


def test_a_device_of_ones_own_is_one_more(session):
    assert [each.name for each in session.add_profiles(MINE)] == ["My board"]
    assert session.profiles[-1].name == "My board" and session.profile.name == "My board"
    assert current(session).bound.device == "My board"
    slow = MINE.replace("1e9", "1e6").replace("4e9", "4e6")
    session.calibrate(1.0)
    session.add_profiles(slow)  # written anew: the old one and what was measured on it are gone
    assert [each.name for each in session.profiles].count("My board") == 1
    assert current(session).calibration is None and session.profile.peaks["fp32"] == 1e6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINE.replace("4e9", "-4e9"), r"profile 1 \(My board\): peaks.int8 = -4"),
        (MINE.replace('peaks = "by hand"', ""), "sources.peaks: the figure has no source"),
        ("hello", "this is not TOML"),
        ("", "one \\[\\[profile\\]\\] table"),
        (MINE.replace("My board", "Raspberry Pi 5"), "comes along already"),
        ("#" * (LONGEST + 1), "at most"),
        ("".join(MINE.replace("My board", f"Board {k}") for k in range(60)), "At most 50"),
    ],
)
def test_a_wrong_profile_is_refused_by_row_and_field(session, text, says):
    with pytest.raises(WorkbenchError, match=says):
        session.add_profiles(text)
    assert session.profiles == profiles() and session.profile is None


def test_an_unknown_device_is_refused(session):
    with pytest.raises(WorkbenchError, match="'Raspberry Pi 5'"):
        session.choose_profile("raspberry pi 5")


class Untrained:
    """A bench whose students nobody trained, and whose bounds fail."""

    def __init__(self, bench, **answers):
        self._bench = bench
        self._answers = answers

    def __getattr__(self, name):
        return self._answers.get(name) or getattr(self._bench, name)


def test_nothing_is_trained_for_a_bound(bench):
    session = Session(Untrained(bench, distilled=lambda _: False, check=lambda _: None), INT8)
    session.wait(LONG)
    session.choose_profile("Raspberry Pi 5")
    current(session)
    with session._change():
        session._set(recipe=Recipe(distillation=Distillation()))
        session._ask()
    assert "not trained yet" in current(session).reason and session.elsewhere.bound is None
    session.close()


def test_a_bound_that_fails_says_why_and_the_session_lives_on(bench):
    def refuse(recipe, profile):
        raise ProfileError("No such thing.")

    session = Session(Untrained(bench, bound=refuse), INT8)
    session.wait(LONG)
    session.choose_profile("Raspberry Pi 5")
    found = current(session)
    assert (found.bound, found.reason) == (None, "No such thing.")
    session.close()
    assert "workbench-bounding" not in [thread.name for thread in threading.enumerate()]
