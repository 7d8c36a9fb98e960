"""A question before its answer: how many times as fast one recipe is as another, guessed and then timed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import duration, ratio
from widgets.part import Message, Part, source
from widgets.waterfall import factor_of
from workbench.errors import WorkbenchError
from workbench.recipe import Recipe
from workbench.report import Estimate, Report
from workbench.speed.apart import times_faster

if TYPE_CHECKING:
    from widgets.session import Session

STEPS = (
    0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0,
)  # fmt: skip
"""Factors that can be guessed; 1: the same."""


def place(factor: float) -> float:
    """Where a factor lies on the scale of guesses: 0 at its start, 1 at its end, between steps by its logarithm."""
    if factor <= STEPS[0] or factor >= STEPS[-1]:
        return 0.0 if factor <= STEPS[0] else 1.0
    at = max(index for index, step in enumerate(STEPS) if step <= factor)
    part = math.log(factor / STEPS[at]) / math.log(STEPS[at + 1] / STEPS[at])
    return round((at + part) / (len(STEPS) - 1), 4)


def speed_view(
    question: str, guess: float, reports: tuple[Report, Report] | None, *, waiting: str = ""
) -> dict[str, Any]:
    """The picture of a question.

    Args:
        question: As it is asked.
        guess: One of `STEPS`.
        reports: The recipe's and that of what it is compared with, once the answer is to be shown.
        waiting: What is being done about it, or why there is no answer.
    """
    view: dict[str, Any] = {
        "question": question,
        "guess": {
            "values": list(STEPS),
            "texts": [f"{step:g}×" for step in STEPS],
            "spoken": [f"{step:g} times as fast" for step in STEPS],
            "value": guess,
            "disabled": reports is not None,
        },
        "unit": "as fast",
        "can_show": reports is None,
        "waiting": waiting,
        "answer": None,
    }
    if reports is None:
        return view
    factor = times_faster(*reports)
    view["answer"] = {
        "origin": {"origin": factor.source, "word": factor.source},
        "guess": place(guess),
        "value": place(factor.value),
        "low": place(factor.low),
        "high": place(factor.high),
        "text": [
            {"text": _told(factor), "tone": "" if factor.includes(1) else "gain" if factor.value > 1 else "loss"},
            {"text": f" · {_each(reports[0])}, before {_each(reports[1])}. {_compared(guess, factor)}", "tone": ""},
        ],
    }
    return view


def _told(factor: Estimate) -> str:
    if factor.includes(1):
        return f"Not distinguishable {factor_of(factor)}"
    return f"{factor_of(factor)} as fast"


def _each(report: Report) -> str:
    """``800 µs for 32 images`` or ``40 µs``."""
    batch, latency = report.recipe.deployment.batch, report.latency
    took = str(duration(latency.value)) if latency is not None else ""
    return f"{took} for {batch}" if batch > 1 else took


def _compared(guess: float, factor: Estimate) -> str:
    if factor.includes(guess):
        return "Your guess lies within its interval."
    off = factor.value / guess
    return f"That is {ratio(max(off, 1 / off))} {'more' if off > 1 else 'less'} than you guessed."


class GuessSpeed(Part):
    """Asks how many times as fast a recipe is; both are timed when the answer is asked for.

    Example:
        >>> GuessSpeed(session, int8, fp32, "How many times as fast is int8?")  # doctest: +SKIP
    """

    _esm = source("guess.js")
    watches: ClassVar[tuple[str, ...]] = ("tried", "report", "recipe", "busy", "status", "problem")

    def __init__(self, session: Session, recipe: Recipe, against: Recipe, question: str, **traits: Any) -> None:
        """
        Args:
            session: What times the recipes and keeps their reports.
            recipe: What the question is about.
            against: What it is compared with.
            question: In the reader's words.
            traits: Of the widget itself, as ``layout``.

        Raises:
            RecipeError: The session's bench cannot measure one of the recipes.
        """
        for each in (recipe, against):
            session.bench.check(each)
        self.recipe, self.against = recipe, against
        self._question = question
        self._guess = 1.0
        self._asked = False
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """Question, guess and, once asked for, the answer."""
        session = self.session
        mine, its = self._report(self.recipe), self._report(self.against)
        reports = (mine, its) if self._asked and mine is not None and its is not None else None
        waiting = ""
        if self._asked and reports is None:
            here = session.recipe in (self.recipe, self.against)
            waiting = session.problem or (session.status if here and session.busy else "")
            if here and not session.busy and not session.problem:
                waiting = "One of the two is timed; press Show again for the other."
        return speed_view(self._question, self._guess, reports, waiting=waiting)

    def actions(self) -> dict[str, Any]:
        """``guess``: a ``value`` of `STEPS`; ``show``: the answer."""
        return {"guess": self._set_guess, "show": self._show}

    def _report(self, recipe: Recipe) -> Report | None:
        tried = (report for report in self.session.tried if report.recipe == recipe)
        found = next(tried, None)
        return found if found is not None and found.latency is not None else None

    def _set_guess(self, message: Message) -> None:
        value = message.get("value")
        if isinstance(value, bool) or value not in STEPS:
            raise WorkbenchError(
                f"A guess is one of {', '.join(f'{step:g}' for step in STEPS)}; this is {value!r:.40}."
            )
        if not self._asked or self._report(self.recipe) is None:  # what is known cannot be guessed any more
            self._guess = float(value)
            self.refresh()

    def _show(self, _: Message) -> None:
        self._asked = True
        missing = next((each for each in (self.against, self.recipe) if self._report(each) is None), self.recipe)
        self.session.recipe = missing
        self.refresh()
