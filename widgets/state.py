"""The observable state behind the view, and how it changes: under one lock, as a whole, never by a failing observer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import traitlets

from widgets.problems import in_words
from workbench.errors import Cancelled, WorkbenchError
from workbench.preflight import Preflight
from workbench.recipe import Distillation, Finetuning, Recipe
from workbench.report import Report

FIRST_DISTILLATION = Distillation(initial="model")
"""Settings that a person begins with. The model's weights are at hand, and a student that begins with them is about 3
points better after 8 passes (`bench/losses.py`). Recipes written before there was a choice mean random ones, so that a
`Distillation` of which nothing else is said still does."""


class Door(traitlets.Instance):
    """A trait that can be assigned to; the value goes through a method of the session, which may refuse it."""

    def __init__(self, first: Any, method: str) -> None:
        super().__init__(type(first))
        self._first = first
        self._method = method

    def make_dynamic_default(self) -> Any:
        """The value to begin with, which cannot be changed and so may be everyone's."""
        return self._first

    def __set__(self, session: Any, value: Any) -> None:
        getattr(session, self._method)(self._validate(session, value))


class State(traitlets.HasTraits):
    """The traits of a `Session`. Several that belong together change together, before any observer is called.

    Observers are called with the session's lock held, on whatever thread made the change: they should
    note that there is something to draw, and never wait for another thread that uses the session.
    """

    models = traitlets.Tuple(read_only=True)
    """Names of the models on offer, text."""
    absent = traitlets.Tuple(read_only=True)
    """Models that would be on offer but cannot be used here, each with a ``name`` and a ``reason``. Default: ()."""
    model = traitlets.Unicode(read_only=True)
    """Name of the one on the bench."""
    bench = traitlets.Any(read_only=True)
    """The current `workbench.Bench`; never None."""
    loading = traitlets.Unicode(read_only=True)
    """Name of the model that is being loaded; "" (default) when none is. Until it is there, all else is as before."""
    recipe = Door(Recipe(), "_apply")
    """What is on the screen; assigning is a step of the history and is measured. Default: fp32."""
    report = traitlets.Instance(Report, allow_none=True, read_only=True)
    """The latest report, partial while `busy` (fewer examples, no latency yet); None (default) before the first."""
    stale = traitlets.Bool(read_only=True)
    """Whether `report` belongs to an earlier recipe or model. Default: False."""
    prediction = traitlets.Instance(Report, allow_none=True, read_only=True)
    """What was predicted for `recipe` when it was chosen; None (default) where what layers cost is not known."""
    foreseen = traitlets.Tuple(read_only=True)
    """`Foreseen` recipes of this model: predicted first and measured then, in that order. Default: ()."""
    sensing = traitlets.Float(None, allow_none=True, read_only=True)
    """How much of what layers cost is learned, 0..1; None (default) while nothing is being learned."""
    sensing_takes = traitlets.Float(0.0, read_only=True)
    """About how many seconds learning takes where it waits to be asked for; 0 (default) where it does not."""
    outlook = traitlets.Any(read_only=True)
    """The predicted frontier, an `Outlook`, of the method on the screen; None (default) until it is known."""
    proposal = traitlets.Any(read_only=True)
    """A `Proposal`: a plan that waits to be tried, edited or discarded; None (default) where there is none."""
    planning = traitlets.Unicode(read_only=True)
    """What is done to improve the proposal by measuring, for the page; "" (default) where nothing is."""
    baseline = traitlets.Instance(Report, allow_none=True, read_only=True)
    """The same model in fp32; None (default) until it was measured."""
    preflight = traitlets.Instance(Preflight, allow_none=True, read_only=True)
    """What was found out about the model itself, more and more; None (default) before anything was."""
    tried = traitlets.Tuple(read_only=True)
    """Reports over all examples, one per recipe, in the order tried, the baseline first. Default: ()."""
    status = traitlets.Unicode(read_only=True)
    """What is going on, for the page. Default: ""."""
    progress = traitlets.Float(0.0, read_only=True)
    """Share of the examples seen, 0..1; while only a training runs, share of its steps. Default: 0."""
    busy = traitlets.Bool(read_only=True)
    """Whether something is measured or loaded. Default: False."""
    problem = traitlets.Unicode(read_only=True)
    """The last error in words; "" (default) when all is fine. The next change that is accepted clears it."""
    can_undo = traitlets.Bool(read_only=True)
    """Whether there is an earlier step. Default: False."""
    can_redo = traitlets.Bool(read_only=True)
    """Whether there is an undone step. Default: False."""
    distillation = Door(FIRST_DISTILLATION, "_settle_distillation")
    """Settings for the next training; they enter the recipe when it has ended. Default: `FIRST_DISTILLATION`,
    within what the bench can do."""
    finetuning = Door(Finetuning(), "_settle_finetuning")
    """Settings for the next fine-tuning; they enter the recipe when it has ended. Default: as `Finetuning()`,
    within what the bench has images for."""
    curve = traitlets.Tuple(read_only=True)
    """`Progress` of the latest training, at most 400 points, the last one last. Default: ()."""
    seeds = traitlets.Int(1, read_only=True)
    """With how many seeds the next distillation is run, one after the other. Default: 1."""
    training = traitlets.Bool(read_only=True)
    """Whether a distillation or a fine-tuning is under way. Default: False."""
    paused = traitlets.Bool(read_only=True)
    """Whether the distillation under way was told to hold. Default: False."""
    lap = traitlets.Any(read_only=True)
    """The `Lap` that `curve` is of, of a distillation with several seeds; None (default) of any other training."""
    study = traitlets.Any(read_only=True)
    """What the latest distillation with several seeds came to, a `SeedStudy`; None (default) where there was none."""
    lesson = traitlets.Unicode(read_only=True)
    """What `curve` is of: ``distillation`` or ``finetuning``; "" (default) before the first."""
    choosing = traitlets.Bool(read_only=True)
    """Whether methods are being tried. Default: False."""
    choice = traitlets.Any(read_only=True)
    """The best `Choice` so far, of the latest time that methods were tried; None (default) before."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._closed = False
        super().__init__()

    def _require_open(self) -> None:
        if self._closed:
            raise WorkbenchError("This session is closed; make a new one with Session(...).")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            self.set_trait(name, value)

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Everything inside is one change: other threads wait, and observers see only its result."""
        with self._lock, self.hold_trait_notifications():
            yield

    def notify_change(self, change: Any) -> None:
        """Call the observers; one that fails is reported like any error and does not stop the session."""
        with self.guard(f"An observer of {change['name']}"):
            super().notify_change(change)

    @contextlib.contextmanager
    def guard(self, what: str = "That") -> Iterator[None]:
        """Turns an exception into `problem`, and lets none out: for message handlers, where it would vanish.

        Args:
            what: Start of the sentence for an error that is not a user's: ``Drawing the tiles``.
        """
        try:
            yield
        except Cancelled:
            pass
        except Exception as error:
            text = in_words(what, error)
            with self._lock:
                self._set(problem=text)
