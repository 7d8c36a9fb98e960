"""The part of a session that finds out where the time goes: on demand, one thing after the other, undisturbed."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import traitlets

from widgets.bounding import Bounding
from widgets.desk import Desk
from widgets.measuring import SECONDS_BETWEEN
from widgets.problems import in_words
from widgets.worker import Pace, Worker
from workbench.errors import Cancelled, WorkbenchError, nearest
from workbench.recipe import Recipe
from workbench.report import Report

PATIENCE = 0.1
"""Seconds between two looks at whether everything else has ended."""
DWELL = 0.5
"""Seconds that a recipe has been at rest before anything is looked at that nobody asked for."""
KEPT = 12
"""Findings of one kind that are kept for a model: going back to a recipe finds them."""

LOOKS = ("waterfall", "layers", "sweep", "timing", "agreement", "confusion", "interaction")
"""What can be looked at: what each lever brings, seconds of each layer, which runtime wins at which batch and thread
count, how far the latency can be believed, whether what runs gives what is simulated, what a student answers where its
teacher answers what, and what the levers of a recipe lose alone and together."""


class Finding(NamedTuple):
    """What was found out about a recipe, so far."""

    recipe: Recipe
    result: Any
    """A `Waterfall`, `LayerTimes`, `Sweep`, `TimingDetails`, `Agreement`, `AgreementMatrix` or `Interaction`; None
    where it failed before anything."""
    done: bool
    reason: str = ""
    """Why it failed; "" where it did not."""


class Clocking(Bounding):
    """Keeps what was found out about the speed of recipes, and finds out more when it is asked for.

    Two looks are had by themselves when a recipe has come to rest: the waterfall, once it was asked for with this
    model, and whether what runs in integer kernels is what is simulated. They give way to everything else.
    """

    findings = traitlets.Dict(read_only=True)
    """`Finding` by what was looked at, of the recipe on the screen where there is one, else of the latest. Default:
    none."""
    looking = traitlets.Tuple(read_only=True)
    """What is being looked at, and what waits for it, in order. Default: ()."""
    clocking = traitlets.Bool(read_only=True)
    """Whether the first of `looking` has begun; until then it waits for what else is done. Default: False."""

    def __init__(self, desk: Desk) -> None:
        self._kept: dict[tuple[str, str], dict[str, Finding]] = {}
        self._shift = 0
        self._looked_at: tuple[str, Recipe] | None = None
        self._following: set[str] = set()
        """Models whose waterfall follows the recipe."""
        self._unasked: set[str] = set()
        """Of `looking`, those that nobody asked for; they come last."""
        self._rested = 0.0
        self._clock = Worker("workbench-clocking")
        self._clock_end = weakref.finalize(self, self._clock.close)
        super().__init__(desk)

    def look(self, kind: str) -> None:
        """Look at one of `LOOKS` for the recipe on the screen, after what is being looked at already.

        It begins when nothing else is being measured, trained or explained, as that would spoil its times.

        Raises:
            WorkbenchError: There is no such look.
        """
        with self._change():
            self._require_open()
            if kind not in LOOKS:
                raise WorkbenchError(f"There is no look {str(kind)[:40]!r}. {nearest(str(kind), LOOKS)}")
            self.bench.check(self.recipe)
            if kind == "waterfall":
                self._following.add(self._desk.name)
            asked = [each for each in self.looking if each not in self._unasked]
            if kind in asked:
                return
            begun = bool(self.looking)
            self._unasked.discard(kind)
            own = [each for each in self.looking if each in self._unasked]
            gives_way = self.clocking and self.looking[0] not in (*asked, kind)
            self._set(looking=(*asked, kind, *own), problem="")
            if gives_way or not begun:
                self._begin_again()
            self._consider()

    def stop_looking(self, kind: str | None = None) -> None:
        """End a look, or forget that it waits; all of them by default. What was found out stays.

        A waterfall follows the recipe no longer, until it is asked for again.
        """
        with self._change():
            if kind in ("waterfall", None):
                self._following.discard(self._desk.name)
            left = tuple(each for each in self.looking if kind is not None and each != kind)
            if left == self.looking:
                return
            running = left[:1] != self.looking[:1]
            self._unasked &= {*left}
            self._set(looking=left)
            if running:
                self._begin_again()
            self._consider()

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            self._shift += 1
            self._clock.cancel()
            self._set(looking=(), clocking=False)
        super().close()
        self._clock_end()  # not under the lock, which a job may need to come to its end

    # Inside

    def _begin_again(self) -> None:
        """With the first of what is left to look at."""
        self._shift += 1
        self._clock.cancel()
        self._set(clocking=False)
        if self.looking:
            self._clock.submit(
                partial(self._work_off, self._shift, self._desk, self.recipe), partial(self._gave_up, self._shift)
            )

    def _move(self, recipe: Recipe) -> None:
        with self._change():
            name = self._desk.name
            if (name, recipe) != self._looked_at:
                self._looked_at = (name, recipe)
                self._shift += 1
                self._clock.cancel()
                self._unasked.clear()
                self._set(looking=(), clocking=False, findings=self._known(name, recipe))
            super()._move(recipe)

    def _rest(self, report: Report, seconds: float | None = None) -> None:
        super()._rest(report, seconds)
        self._rested = time.monotonic()
        # what does not run has no time to take apart and no outputs to compare
        wanted = self._own_looks() if report.latency is not None and not self._clock.closed else ()
        if new := [kind for kind in wanted if kind not in self.looking]:
            begun = bool(self.looking)
            self._unasked |= {*new}
            self._set(looking=(*self.looking, *new))
            if not begun:
                self._begin_again()

    def _own_looks(self) -> tuple[str, ...]:
        """What is looked at without being asked for: not yet found out about the recipe on the screen."""
        name, recipe = self._desk.name, self.recipe
        able = {
            "waterfall": name in self._following,
            "agreement": hasattr(self.bench, "runs_integers") and self.bench.runs_integers(recipe),
        }
        found = {kind: self._kept.get((name, kind), {}).get(recipe.key) for kind in able}
        return tuple(kind for kind, each in found.items() if able[kind] and (each is None or not each.done))

    def _consider(self) -> None:
        super()._consider()
        with self._change():
            if self._errand is not None:
                self._give_way()

    @traitlets.observe("busy", "training", "explaining")
    def _make_room(self, change: Any) -> None:
        if change["new"]:
            with self._change():
                self._give_way()

    def _give_way(self) -> None:
        """What nobody asked for waits again."""
        if self.clocking and self.looking[0] in self._unasked:
            self._begin_again()

    def _known(self, model: str, recipe: Recipe) -> dict[str, Finding]:
        """For each look: what is known of this recipe, or else of the last one that was looked at."""
        known = {}
        for kind in LOOKS:
            kept = self._kept.get((model, kind))
            if kept:
                known[kind] = kept.get(recipe.key) or next(reversed(kept.values()))
        return known

    def _at_rest(self) -> bool:
        """What is learned in the background would spoil the times that somebody waits for."""
        return super()._at_rest() and all(kind in self._unasked for kind in self.looking)

    def _occupied(self) -> bool:
        """An explanation waits for what has begun here; what waits here waits for it."""
        return super()._occupied() or self.clocking

    def _quiet(self) -> bool:
        """Whether nothing else computes, and what is next to be looked at may begin."""
        others = (self._measuring, self._learning, self._foreseeing, self._explainer)
        early = self.looking[0] in self._unasked and time.monotonic() - self._rested < DWELL
        busy = self.busy or self.training or self.explaining or early
        return not busy and all(worker.idle for worker in others)

    def _work_off(self, shift: int, desk: Desk, recipe: Recipe, cancel: threading.Event) -> None:
        """In the worker: one look after the other, until none waits."""
        while not cancel.is_set():
            with self._change():
                if shift != self._shift or not self.looking:
                    return
                if quiet := self._quiet():
                    self._set(clocking=True)
                kind = self.looking[0]
            if not quiet:
                time.sleep(PATIENCE)
                continue
            try:
                self._look_at(shift, kind, desk, recipe, cancel)
            except Cancelled:
                raise
            except Exception as error:  # one look that fails must not keep the others from being had
                self._failed_look(shift, kind, desk, recipe, error)
            with self._change():
                if shift != self._shift:
                    return
                self._unasked.discard(kind)
                self._set(looking=self.looking[1:])
                if not self.looking:
                    self._set(clocking=False)
                    self._consider()

    def _look_at(self, shift: int, kind: str, desk: Desk, recipe: Recipe, cancel: threading.Event) -> None:
        pace, result = Pace(SECONDS_BETWEEN), None
        for result in stream_of(desk.bench, kind, recipe, cancel):
            if pace.due():
                self._keep(shift, kind, desk, Finding(recipe, result, done=False))
        if result is None:
            raise WorkbenchError(f"Nothing was found out about {recipe.label}.")
        self._keep(shift, kind, desk, Finding(recipe, result, done=True))

    def _failed_look(self, shift: int, kind: str, desk: Desk, recipe: Recipe, error: BaseException) -> None:
        reason = in_words(f"Looking at the {kind} of {recipe.label}", error)
        with self._change():
            before = self.findings.get(kind)
            kept = before.result if before is not None and before.recipe == recipe else None
        self._keep(shift, kind, desk, Finding(recipe, kept, done=True, reason=reason))

    def _keep(self, shift: int, kind: str, desk: Desk, finding: Finding) -> None:
        with self._change():
            if shift != self._shift:
                raise Cancelled
            kept = self._kept.setdefault((desk.name, kind), {})
            kept.pop(finding.recipe.key, None)  # so that it is the latest
            kept[finding.recipe.key] = finding
            if len(kept) > KEPT:
                kept.pop(next(iter(kept)))
            findings: Mapping[str, Finding] = self.findings
            self._set(findings={**findings, kind: finding})

    def _gave_up(self, shift: int, error: BaseException) -> None:
        text = "" if isinstance(error, Cancelled) else in_words("Looking at where the time goes", error)
        with self._change():
            if shift == self._shift:
                self._unasked.clear()
                self._set(looking=(), clocking=False)
                if text:
                    self._set(problem=text)
                self._consider()


def stream_of(bench: Any, kind: str, recipe: Recipe, cancel: threading.Event) -> Iterator[Any]:
    """Growing results of one look; the last one is complete."""
    if kind == "layers":
        yield bench.layer_times(recipe, cancel=cancel)
    elif kind == "waterfall":
        yield from bench.waterfall_stream(recipe, cancel=cancel)
    elif kind == "sweep":
        yield from bench.sweep_stream(recipe, cancel=cancel)
    elif kind == "timing":
        yield from bench.timing_stream(recipe, cancel=cancel)
    elif kind == "confusion":
        yield bench.confusion(recipe, cancel=cancel)
    elif kind == "interaction":
        yield from bench.interaction_stream(recipe, cancel=cancel)
    else:
        yield from bench.agreement_stream(recipe, cancel=cancel)
