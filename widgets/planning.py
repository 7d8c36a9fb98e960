"""The part of a session that plans: a budget becomes a proposal, which can be edited, tried, improved or discarded."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from widgets.desk import Desk, merged, method_of
from widgets.foreseeing import Errand, Foreseeing
from widgets.formatting import change_unit, duration, points, size, small
from widgets.problems import in_words
from workbench.arguments import is_number
from workbench.errors import Cancelled, PlanError, RecipeError, WorkbenchError
from workbench.recipe import Quantization, Recipe
from workbench.report import Report

if TYPE_CHECKING:
    from workbench.planning.plan import Plan

EVALUATIONS = 20
"""Mixes that are measured to improve a proposal."""
BITS = (2, 3, 4, 6, 8)
USUAL = 8
"""Bits of the activations in a plan for a recipe that quantizes nothing yet."""
SLOW = 2.0
"""Seconds from which on a frontier is not computed anew after every measurement."""
TOGETHER: dict[str, tuple[Any, Any, str]] = {
    "method": ("brecq", "quantease", "BRECQ"),
    "correction": ("batchnorm", "bias", "the correction of mean and spread"),
    "equalize": (True, False, "equalizing channels"),
}
"""Of each field, what makes layers depend on each other, the nearest value that does not, and the first in words."""
DEPEND = "layers depend on each other: what each costs does not add up, so no mix of bits can be planned."
TRAINED = "Bits are planned for the model itself: what a student or a fine-tuned network loses has to be measured."
KINDS = {"size": "max_bytes", "loss": "max_drop"}
"""What a budget is of, and what `Bench.plan` calls it."""


class Outlook(NamedTuple):
    """The predicted frontier of one method."""

    template: Recipe
    frontier: tuple[Report, ...]
    """From the smallest mix to the one that loses least; nothing beats one of them in both."""
    seen: int
    """Recipes that were measured when it was computed."""
    seconds: float
    """It took so long."""

    def pick(self, kind: str, budget: float) -> Report | None:
        """The best mix of the frontier within a budget; None where even the nearest is beyond it."""
        if kind == "size":
            return next((each for each in reversed(self.frontier) if each.size.value <= budget), None)
        return next((each for each in self.frontier if each.drop.value <= budget), None)


class Obstacle(NamedTuple):
    """Why bits cannot be planned for the recipe on the screen."""

    reason: str
    instead: Recipe | None
    """The same bits with the nearest method that can be planned with; None where there is none."""


@dataclass(frozen=True)
class Proposal:
    """A plan that waits to be tried."""

    template: Recipe
    """What is not planned: method, activations, deployment."""
    kind: str
    """What the budget is of: ``size``, bytes, or ``loss``, in the metric's unit."""
    budget: float
    report: Report
    """Predicted, or measured where the plan was improved so."""
    plan: Plan | None = None
    """With reasons; None until it was worked out."""
    settled: bool = False
    """Whether this is the answer to the budget; until then it is the nearest point of the frontier."""
    edited: bool = False
    """Whether a person changed the plan's bits."""
    note: str = ""
    """Why the budget is not kept, in words."""
    max_latency: float | None = None
    """Seconds that a call may take beside it; None: any."""

    @property
    def recipe(self) -> Recipe:
        """What is proposed."""
        return self.report.recipe

    def limit(self) -> dict[str, float]:
        """The budget as `Bench.plan` takes it."""
        also = {} if self.max_latency is None else {"max_latency": self.max_latency}
        return {KINDS[self.kind]: self.budget, **also}


class Planning(Foreseeing):
    """Proposals beside the recipe on the screen, which stays until one is tried."""

    _improving: int | None = None
    """Evaluations that the proposal is being improved with."""

    def propose(
        self, *, max_bytes: float | None = None, max_drop: float | None = None, max_latency: float | None = None
    ) -> None:
        """Propose the best mix of bits under a budget, at once, as predicted.

        Args:
            max_bytes: Of the file; or
            max_drop: What may be lost, in the metric's unit: 0.005 is half a point.
            max_latency: Seconds that a call may take here, beside either; kernels are timed for it, so the proposal
                says a moment later whether it is kept.

        Raises:
            WorkbenchError: Not exactly one of size and loss, one that is no number, or nothing can be planned yet.
        """
        given = {"size": max_bytes, "loss": max_drop}
        wanted = [(kind, budget) for kind, budget in given.items() if budget is not None]
        if len(wanted) != 1:
            raise WorkbenchError("propose: one budget is needed, max_bytes=… or max_drop=….")
        kind, budget = wanted[0]
        if not _finite(budget):
            raise WorkbenchError(f"{KINDS[kind]} = {budget!r:.40}: a number is needed.")
        if kind == "size" and budget <= 0:
            raise WorkbenchError(f"max_bytes = {budget:g}: a file has more than 0 bytes.")
        if max_latency is not None and not (_finite(max_latency) and max_latency > 0):
            raise WorkbenchError(f"max_latency = {max_latency!r:.40}: seconds above 0 are needed.")
        with self._change():
            self._require_open()
            outlook = self._outlook()
            if outlook is None or not outlook.frontier:
                raise WorkbenchError("What each layer costs is not known yet, so there is nothing to plan with.")
            report = outlook.pick(kind, float(budget))
            nearest = outlook.frontier[0 if kind == "size" else -1]
            note = "" if report is not None else _beyond(kind, float(budget), nearest)
            most = None if max_latency is None else float(max_latency)
            self._put(Proposal(outlook.template, kind, float(budget), report or nearest, note=note, max_latency=most))

    def edit_proposal(self, names: Sequence[str], **bits: int | None) -> None:
        """Give layers of the proposal other bits; its prediction follows.

        Args:
            names: Layers of the bench, or wildcards.
            bits: ``weight_bits``, ``activation_bits``, or both; None is floating point.

        Raises:
            WorkbenchError: There is no proposal, or the bits are not possible; nothing has changed.
        """
        with self._change():
            proposal = self._proposed()
            recipe = proposal.recipe
            edited = recipe.replace(quantization=merged(recipe.quantization, names, bits))
            self.bench.check(edited)
            report = self._predicted(edited)
            if report is None:
                raise WorkbenchError(f"{edited.label} cannot be predicted; discard the proposal and measure it.")
            self._put(replace(proposal, report=report, edited=True, settled=True, note=_over(proposal, report)))

    def improve_proposal(self) -> None:
        """Spend measurements on a better mix for the proposal's budget; the proposal follows the best so far.

        Raises:
            WorkbenchError: There is no proposal, or something else is measured.
        """
        with self._change():
            proposal = self._proposed()
            if self.busy or self.training:
                raise WorkbenchError("Something is being measured; cancel it, or wait for its end.")
            self._put(replace(proposal, edited=False))
            self._improving = EVALUATIONS
            self._set(planning="Beginning to measure…")
            self._consider()

    def stop_improving(self) -> None:
        """End `improve_proposal` with the best so far."""
        with self._change():
            if self._improving is not None:
                self._improved()
                self._consider()

    def take_proposal(self) -> None:
        """Try the proposal: one step of the history, measured like any recipe.

        Raises:
            WorkbenchError: There is none, or it has become impossible.
        """
        with self._change():
            recipe = self._proposed().recipe
            self._apply(recipe)
            self._put(None)

    def discard_proposal(self) -> None:
        """Forget the proposal; the recipe on the screen is as it was."""
        with self._change():
            self._put(None)

    def obstacle(self) -> Obstacle | None:
        """What keeps bits from being planned; None where nothing does, as far as is known."""
        if self._closed or self.baseline is None or not hasattr(self.bench, "sensitivity_stream"):
            return None
        method = method_of(self.recipe)
        if method is None:
            return Obstacle(TRAINED, None)
        quantization, causes = _apart(self.recipe.quantization)
        if causes:
            instead = self.recipe.replace(quantization=quantization)
            said = f"{' and '.join(causes)} {'make' if causes[1:] else 'makes'} {DEPEND}"
            return Obstacle(said[0].upper() + said[1:], None if method_of(instead) in self._desk.hopeless else instead)
        if method in self._desk.hopeless:
            return Obstacle(self._desk.hopeless[method] or f"{self.recipe.label} cannot be predicted.", None)
        return None

    def plan_otherwise(self) -> None:
        """Change the recipe to the nearest method that bits can be planned with; one step of the history.

        Raises:
            WorkbenchError: There is none, or nothing keeps bits from being planned.
        """
        with self._change():
            self._require_open()
            found = self.obstacle()
            if found is None or found.instead is None:
                raise WorkbenchError("There is no other method to plan with; measure the recipe.")
            self._apply(found.instead)

    # Inside

    def _proposed(self) -> Proposal:
        self._require_open()
        if self.proposal is None:
            raise WorkbenchError("There is no proposal; choose a budget first.")
        proposal: Proposal = self.proposal
        return proposal

    def _put(self, proposal: Proposal | None) -> None:
        """Every change of the proposal by a person; what was under way for the old one ends."""
        self._improved()
        self._desk.proposal = proposal
        self._set(proposal=proposal, problem="")
        self._consider()

    def _improved(self) -> None:
        self._improving = None
        self._set(planning="")

    def _move(self, recipe: Recipe) -> None:
        with self._change():
            desk = self._desk
            if self._errand is not None and self._errand.desk != desk.name:
                self._improved()
            if desk.proposal is not None and desk.proposal.template != template_of(recipe):
                desk.proposal = None
            self._set(proposal=desk.proposal)
            super()._move(recipe)
            self._set(outlook=self._outlook())

    def _outlook(self) -> Outlook | None:
        template = template_of(self.recipe)
        return None if template is None else self._desk.outlooks.get(template)

    def _interrupt(self) -> None:
        if self._errand is not None and self._errand.kind == "improving":
            self._improved()
        super()._interrupt()

    def _next_errand(self) -> tuple[Errand, Callable[..., None]] | None:
        """After learning: the frontier, then the proposal's exact answer, then measuring for it."""
        found = super()._next_errand()
        if found is not None:
            return found
        desk, template, proposal = self._desk, template_of(self.recipe), self.proposal
        if template is None or method_of(template) not in desk.learned:
            return None
        if self._improving is not None and proposal is not None:
            return Errand("improving", desk.name, proposal.limit()), partial(self._improve, desk, proposal)
        outlook = desk.outlooks.get(template)
        if outlook is None or (outlook.seen != len(desk.tried) and outlook.seconds < SLOW):
            subject = (template, len(desk.tried))
            return Errand("outlook", desk.name, subject), partial(self._look_out, desk, template)
        if proposal is not None and not proposal.settled:
            return Errand("answering", desk.name, proposal), partial(self._answer, desk, proposal)
        return None

    def _look_out(self, desk: Desk, template: Recipe, errand: Errand, cancel: threading.Event) -> None:
        """In the worker: the predicted frontier."""
        started, seen = time.monotonic(), len(desk.tried)
        bits = _bits_of(template)
        plan = desk.bench.plan(template=template, bits=bits, evaluations=0, cancel=cancel) if bits else None
        frontier = plan.predicted if plan is not None else ()
        with self._change():
            desk.outlooks[template] = Outlook(template, frontier, seen, time.monotonic() - started)
            if desk is self._desk:
                self._set(outlook=self._outlook())
            self._errand_done(errand)

    def _answer(self, desk: Desk, proposal: Proposal, errand: Errand, cancel: threading.Event) -> None:
        """In the worker: the best mix for exactly this budget, with its reasons."""
        try:
            plan = desk.bench.plan(
                template=proposal.template, bits=_bits_of(proposal.template), evaluations=0, cancel=cancel,
                **proposal.limit(),
            )  # fmt: skip
            answer = replace(proposal, report=plan.report, plan=plan, settled=True, note="")
        except PlanError as error:
            answer = _refused(proposal, error)
        with self._change():
            if errand == self._errand:
                desk.proposal = answer
                self._set(proposal=answer)
            self._errand_done(errand)

    def _improve(self, desk: Desk, proposal: Proposal, errand: Errand, cancel: threading.Event) -> None:
        """In the worker: measure what promises most, and show the best so far."""
        limit, template = proposal.limit(), proposal.template
        stream = desk.bench.plan_stream(
            template=template, bits=_bits_of(template), evaluations=EVALUATIONS, cancel=cancel, **limit
        )
        answer = proposal
        shown = -1
        try:
            for plan in stream:
                if plan.evaluations != shown or plan.complete:
                    shown, note = plan.evaluations, "" if plan.kept else _over(proposal, plan.report)
                    answer = replace(proposal, report=plan.report, plan=plan, settled=True, note=note)
                    self._show_better(errand, desk, answer, f"{plan.evaluations} of {plan.total} mixes measured")
        except PlanError as error:
            self._show_better(errand, desk, _refused(proposal, error), "")
        with self._change():
            if template in desk.outlooks:  # what was measured has made predictions better
                desk.outlooks[template] = desk.outlooks[template]._replace(seen=-1)
            if errand == self._errand:
                self._improved()
            self._errand_done(errand)

    def _show_better(self, errand: Errand, desk: Desk, proposal: Proposal, said: str) -> None:
        with self._change():
            if errand != self._errand:
                raise Cancelled
            desk.proposal = proposal
            self._set(proposal=proposal, planning=said)

    def _give_up(self, errand: Errand, reason: str) -> None:
        super()._give_up(errand, reason)
        desk = self._desks[errand.desk]
        if errand.kind == "outlook":
            template = errand.subject[0]  # type: ignore[index]
            desk.outlooks[template] = Outlook(template, (), len(desk.tried), math.inf)
        elif errand.kind == "improving":
            self._improved()
        elif errand.kind == "answering" and desk.proposal is not None:
            desk.proposal = replace(desk.proposal, settled=True)
            if desk is self._desk:
                self._set(proposal=desk.proposal)

    def _errand_failed(self, errand: Errand, error: BaseException) -> None:
        if errand.kind != "learning" and isinstance(error, WorkbenchError):
            with self._change():
                if errand == self._errand:
                    self._set(problem=in_words("Planning", error))
        super()._errand_failed(errand, error)


def template_of(recipe: Recipe) -> Recipe | None:
    """What a plan for a recipe leaves as it is: all but the weights' bits; None where nothing can be planned."""
    if method_of(recipe) is None:
        return None
    quantization = recipe.quantization
    bits = quantization.activation_bits if quantization.active else USUAL
    return Recipe(
        quantization=quantization.replace(weight_bits=None, activation_bits=bits, layers={}),
        deployment=recipe.deployment,
    )


def _apart(quantization: Quantization) -> tuple[Quantization, list[str]]:
    """The nearest quantization in which no layer's cost depends on the others, and what makes them depend so far."""
    changes = {
        field: other
        for field, (value, other, _) in TOGETHER.items()
        if getattr(quantization, field) == value
    }  # fmt: skip
    return quantization.replace(**changes), [TOGETHER[field][-1] for field in changes]


def _bits_of(template: Recipe) -> tuple[int, ...]:
    """Bits that the method has for weights; a plan needs two to choose from."""
    able = []
    for bits in BITS:
        try:
            template.quantization.replace(weight_bits=bits)
        except RecipeError:
            continue
        able.append(bits)
    return tuple(able) if len(able) > 1 else ()


def _finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _over(proposal: Proposal, report: Report) -> str:
    """What is said where a mix does not keep the budget; nothing where it does."""
    value = report.size.value if proposal.kind == "size" else report.drop.value
    return "" if value <= proposal.budget else f"Over the budget of {_amount(proposal.kind, proposal.budget, report)}."


def _beyond(kind: str, budget: float, nearest: Report) -> str:
    least = nearest.size.value if kind == "size" else nearest.drop.value
    asked, nearest_one = _amount(kind, budget, nearest), _amount(kind, least, nearest)
    what = "is as small as" if kind == "size" else "loses as little as"
    return f"No mix {what} {asked}; the nearest has {nearest_one}."


def _refused(proposal: Proposal, error: PlanError) -> Proposal:
    nearest = error.nearest
    if not isinstance(nearest, Report):
        raise error
    most, latency = proposal.max_latency, nearest.latency
    if most is not None and latency is not None and latency.value > most:  # no bits of any layer change that
        where = nearest.recipe.deployment.runtime
        note = f"{where} takes {duration(latency.value)} a call at best, not {duration(most)}: bits do not change that."
        return replace(proposal, settled=True, note=f"{note} Try another runtime, threads or batch.")
    note = _beyond(proposal.kind, proposal.budget, nearest)
    return replace(proposal, report=nearest, plan=None, settled=True, note=note)


def _amount(kind: str, value: float, report: Report) -> str:
    if kind == "size":
        return str(size(value))
    metric = report.metric
    return f"{points(value) if metric.share else small(value)} {change_unit(metric) or f'of {metric.name}'}"
