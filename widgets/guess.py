"""A question before its answer: what a recipe costs, guessed and then measured."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import between, change_unit, fixed, score, size
from widgets.part import Message, Part, source
from workbench.errors import WorkbenchError
from workbench.recipe import Quantization, Recipe
from workbench.report import MetricInfo, Report

if TYPE_CHECKING:
    from widgets.session import Session

STEPS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 90.0)
"""What can be guessed: points of a share, units of any other metric. Fine where most answers lie."""


def place(value: float) -> float:
    """Where a value lies on the scale of guesses: 0 at its start, 1 at its end, what is beyond at the ends."""
    at = bisect_right(STEPS, value) - 1
    if at < 0 or at >= len(STEPS) - 1:
        return 0.0 if at < 0 else 1.0
    part = (value - STEPS[at]) / (STEPS[at + 1] - STEPS[at])
    return round((at + part) / (len(STEPS) - 1), 4)


def guess_view(
    question: str,
    guess: float,
    report: Report | None = None,
    metric: MetricInfo | None = None,
    *,
    waiting: str = "",
    problem: str = "",
) -> dict[str, Any]:
    """The picture of a question.

    Args:
        question: As it is asked.
        guess: One of `STEPS`.
        report: The answer, once it is to be shown.
        metric: What is guessed, as far as that is known before the answer.
        waiting: What is being done about it.
        problem: Why there is no answer.
    """
    metric = report.metric if report is not None else metric or MetricInfo()
    unit = change_unit(metric)
    texts = [f"{step:g}" for step in STEPS]
    view: dict[str, Any] = {
        "question": question,
        "guess": {
            "values": list(STEPS),
            "texts": texts,
            "spoken": [f"{text} {unit} lost" for text in texts],
            "value": guess,
            "disabled": report is not None or bool(waiting),
        },
        "unit": unit,
        "can_show": report is None and not waiting,
        "waiting": waiting or problem,
        "answer": None,
    }
    if report is None:
        return view
    factor = 100.0 if metric.share else 1.0
    low, lost, high = (factor * end for end in (report.drop.low, report.drop.value, report.drop.high))
    interval = between(fixed(low), fixed(high))
    sure = not report.drop.includes(0)
    if low <= guess <= high:
        compared = "Your guess lies within its interval."
    else:
        compared = f"That is {fixed(abs(lost - guess))} {unit} {'more' if lost > guess else 'less'} than you guessed."
    told = f"It costs {fixed(lost)} {unit} {interval}" if sure else f"Not distinguishable from fp32 {interval}"
    view["answer"] = {
        "origin": {"origin": report.drop.source, "word": report.drop.source},
        "guess": place(guess),
        "value": place(lost),
        "low": place(low),
        "high": place(high),
        "text": [
            {"text": told, "tone": ("loss" if lost > 0 else "gain") if sure else ""},
            {
                "text": f" · {score(report.accuracy.value, metric)} with {size(report.size.value)}. {compared}",
                "tone": "",
            },
        ],
    }
    return view


class Guess(Part):
    """Asks what a recipe will cost; the answer is measured when it is asked for, and stays on the session.

    Example:
        >>> Guess(session, Quantization(weight_bits=3), "What will 3 bits cost?")  # doctest: +SKIP
    """

    _esm = source("guess.js")
    watches: ClassVar[tuple[str, ...]] = ("tried", "recipe", "busy", "status", "problem", "baseline")

    def __init__(self, session: Session, recipe: Recipe | Quantization, question: str, **traits: Any) -> None:
        """
        Args:
            session: What measures the recipe and keeps its report.
            recipe: What the question is about, or its quantization alone.
            question: In the reader's words.
            traits: Of the widget itself, as ``layout``.

        Raises:
            RecipeError: The session's bench cannot measure the recipe.
        """
        self.recipe = Recipe(quantization=recipe) if isinstance(recipe, Quantization) else recipe
        session.bench.check(self.recipe)
        self._question = question
        self._guess = 1.0
        self._asked = False
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """Question, guess and, once asked for, the answer."""
        session = self.session
        report = self._report()
        mine = self._asked and session.recipe == self.recipe
        waiting = session.status if mine and session.busy and report is None else ""
        metric = session.baseline.metric if session.baseline is not None else None
        problem = session.problem if mine and report is None else ""
        return guess_view(self._question, self._guess, report, metric, waiting=waiting, problem=problem)

    def actions(self) -> dict[str, Any]:
        """``guess``: a ``value`` of `STEPS`; ``show``: the answer."""
        return {"guess": self._set_guess, "show": self._show}

    def _report(self) -> Report | None:
        if not self._asked:
            return None
        return next((report for report in self.session.tried if report.recipe == self.recipe), None)

    def _set_guess(self, message: Message) -> None:
        value = message.get("value")
        if isinstance(value, bool) or value not in STEPS:
            raise WorkbenchError(
                f"A guess is one of {', '.join(f'{step:g}' for step in STEPS)}; this is {value!r:.40}."
            )
        if self._report() is None:  # what is known cannot be guessed any more
            self._guess = float(value)
            self.refresh()

    def _show(self, _: Message) -> None:
        self._asked = True
        self.session.recipe = self.recipe
        self.refresh()
