"""The part of a session that asks what a device that is not here would take, for the recipe on the screen."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import Any, NamedTuple

import traitlets

from widgets.desk import Desk
from widgets.explaining import Explaining
from widgets.problems import in_words
from widgets.worker import Worker
from workbench.errors import Cancelled, WorkbenchError, nearest
from workbench.hardware import DeviceBound, Profile, profiles
from workbench.hardware.library import parsed
from workbench.recipe import Deployment, Recipe
from workbench.report import Estimate

LONGEST = 20_000
"""Characters of a profile that somebody writes on the page."""
MOST = 50
"""Profiles of somebody's own at most."""


class Calibration(NamedTuple):
    """A latency that somebody measured on a device that is not here."""

    model: str
    recipe: Recipe
    """What was measured there; only its batch counts of its deployment."""
    seconds: float
    predicted: Estimate
    """What was predicted for it before."""


class Elsewhere(NamedTuple):
    """What a recipe would take on a device that is not here."""

    recipe: Recipe
    profile: Profile
    bound: DeviceBound | None
    reason: str
    """Why there is none; "" where there is one."""
    calibration: Calibration | None
    """Behind the profile's figures, where they were stretched."""


class Bounding(Explaining):
    """Keeps the bound of a chosen device in step with the recipe: arithmetic, in a thread of its own."""

    profiles = traitlets.Tuple(read_only=True)
    """Devices that can be asked about, those of somebody's own last."""
    profile = traitlets.Instance(Profile, allow_none=True, read_only=True)
    """The one that is asked about; None (default) where none is."""
    elsewhere = traitlets.Any(read_only=True)
    """`Elsewhere` of the latest recipe that was asked about; None (default) while no device is chosen."""

    @traitlets.default("profiles")
    def _those_that_come_along(self) -> tuple[Profile, ...]:
        return profiles()

    def __init__(self, desk: Desk) -> None:
        self._calibrations: dict[str, Calibration] = {}
        self._asked_about: tuple[str, Recipe, Profile] | None = None
        self._reckoner = Worker("workbench-bounding")
        self._reckoner_end = weakref.finalize(self, self._reckoner.close)
        super().__init__(desk)

    def choose_profile(self, name: str | None) -> None:
        """Ask about a device that is not here; None asks about none.

        Raises:
            WorkbenchError: There is no profile of that name.
        """
        with self._change():
            self._require_open()
            known = {each.name: each for each in self.profiles}
            if name is not None and name not in known:
                raise WorkbenchError(f"There is no device {name!r:.60} here. {nearest(str(name), known)}")
            self._set(profile=None if name is None else known[name], problem="")
            self._ask()

    def add_profiles(self, text: str) -> tuple[Profile, ...]:
        """Put devices of one's own on offer, and ask about the first of them.

        Args:
            text: TOML with a ``[[profile]]`` table for each, as in ``workbench/hardware/profiles.toml``.

        Raises:
            WorkbenchError: It is not that; row and field are named. Or there are too many, or a name that is taken.
        """
        if not isinstance(text, str) or len(text) > LONGEST:
            raise WorkbenchError(f"A TOML text of at most {LONGEST:,} characters is needed.")
        found = parsed(text, "Your text")
        with self._change():
            self._require_open()
            supplied = {each.name for each in profiles()}
            for each in found:
                if each.name in supplied:
                    raise WorkbenchError(f"name: {each.name!r} comes along already; give yours another name.")
            new = {each.name for each in found}
            kept = tuple(each for each in self.profiles if each.name not in new)
            if len(kept) + len(found) > len(supplied) + MOST:
                raise WorkbenchError(f"At most {MOST} devices of your own can be kept.")
            for name in new:
                self._calibrations.pop(name, None)
            self._set(profiles=(*kept, *found), profile=found[0], problem="")
            self._ask()
        return found

    def calibrate(self, seconds: float) -> None:
        """Stretch the chosen device's times to a latency that was measured there, for the recipe on the screen.

        Raises:
            WorkbenchError: No device is chosen, nothing is predicted for it, or that is no time.
        """
        with self._change():
            self._require_open()
            found: Elsewhere | None = self.elsewhere
            if found is None or found.recipe != self.recipe or found.bound is None or self.profile is None:
                raise WorkbenchError("Choose a device first; a measured latency rescales what is predicted for it.")
            before = self._calibrations.pop(found.profile.name, None)
            try:
                plain = self.bench.bound(self.recipe, found.profile)
                plain.rescaled(seconds)  # refuses what is no time, or where nothing is predicted
                made = Calibration(self.model, _as_there(self.recipe), float(seconds), plain.latency)
            except WorkbenchError:
                if before is not None:
                    self._calibrations[found.profile.name] = before
                raise
            self._calibrations[found.profile.name] = made
            self._set(problem="")
            self._ask()

    def forget_calibration(self) -> None:
        """Back to what the chosen device's published figures say."""
        with self._change():
            if self.profile is not None and self._calibrations.pop(self.profile.name, None) is not None:
                self._ask()

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        self._reckoner.cancel()
        super().close()
        self._reckoner_end()  # not under the lock, which a job may need to come to its end

    # Inside

    def _move(self, recipe: Recipe) -> None:
        with self._change():
            super()._move(recipe)
            if self.profile is not None and (self._desk.name, recipe, self.profile) != self._asked_about:
                self._ask()

    def _file_trained(self) -> None:
        """A student that was not there when it was asked about may be there now."""
        if self.profile is not None and self.elsewhere is not None and self.elsewhere.bound is None:
            self._ask()

    @traitlets.observe("busy")
    def _ask_again_at_rest(self, change: Any) -> None:
        if not change["new"]:
            with self._change():
                self._file_trained()

    def _ask(self) -> None:
        """Have the bound made; without a device there is none."""
        profile = self.profile
        if profile is None:
            self._asked_about = None
            self._reckoner.cancel()
            self._set(elsewhere=None)
            return
        desk, recipe = self._desk, self.recipe
        self._asked_about = asked = (desk.name, recipe, profile)
        calibration = self._calibrations.get(profile.name)
        self._reckoner.submit(
            partial(self._reckon, asked, desk, calibration), partial(self._not_reckoned, asked, calibration)
        )

    def _reckon(
        self, asked: tuple[str, Recipe, Profile], desk: Desk, calibration: Calibration | None, cancel: threading.Event
    ) -> None:
        """In the worker: the bound; nothing is trained for it."""
        _, recipe, profile = asked
        bench = desk.bench
        if recipe.distillation is not None and not bench.distilled(recipe.distillation):
            raise WorkbenchError("The student is not trained yet; what it takes elsewhere follows then.")
        found = bound_there(bench, desk.name, recipe, profile, calibration)
        with self._change():
            if asked == self._asked_about and not cancel.is_set():
                self._set(elsewhere=Elsewhere(recipe, profile, found, "", calibration))

    def _not_reckoned(
        self, asked: tuple[str, Recipe, Profile], calibration: Calibration | None, error: BaseException
    ) -> None:
        with self._change():
            if asked != self._asked_about or isinstance(error, Cancelled):
                return
            reason = in_words(f"Asking about {asked[2].name}", error)
            self._set(elsewhere=Elsewhere(asked[1], asked[2], None, reason, calibration))


def bound_there(
    bench: Any, model: str, recipe: Recipe, profile: Profile, calibration: Calibration | None
) -> DeviceBound:
    """A bound that knows of a measured latency: that latency itself for what was measured, else a stretched range."""
    if calibration is None:
        found: DeviceBound = bench.bound(recipe, profile)
        return found
    if (model, _as_there(recipe)) == (calibration.model, calibration.recipe):
        found = bench.bound(recipe, profile)
        return found.rescaled(calibration.seconds)
    stretched: DeviceBound = bench.bound(recipe, profile.calibrated(calibration.predicted.value, calibration.seconds))
    return stretched


def _as_there(recipe: Recipe) -> Recipe:
    """Without what is of this machine alone."""
    return recipe.replace(deployment=Deployment(batch=recipe.deployment.batch))
