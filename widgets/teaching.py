"""What a teacher says to an example, what its student makes of it, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.distillation_panel import temperature_view
from widgets.flip_rows import picture_of
from widgets.formatting import count, percent
from widgets.looks import section_view
from widgets.part import Message, Part, source, text_of
from workbench.errors import WorkbenchError
from workbench.levers.interaction import levers
from workbench.recipe import Distillation

if TYPE_CHECKING:
    from widgets.distilling import Spoken
    from workbench.levers.teaching import AgreementMatrix
    from workbench.task import Task

MOST_CLASSES = 10
"""Bars of an example: of more classes, those that the teacher finds most probable at the lowest temperature."""
ROW = 8
"""Examples that are shown to pick one from."""
SPEAKERS = ("teacher", "student", "control")
WITHOUT = {
    "confusion": "Nothing was distilled yet, so there is no student to compare.",
    "interaction": "The recipe has one lever at most; distil a student and set bits, or fine-tune.",
}
"""Why a look cannot be had."""


def spoken_view(
    spoken: Spoken | None, settings: Distillation, task: Task | None, pictures: dict[Any, Any]
) -> dict[str, Any]:
    """The picture of what is said to one example: bars for every temperature, so that a slider need not wait.

    Args:
        spoken: What is known.
        settings: Whose temperature is shown.
        task: Whose example it is.
        pictures: Examples that were shown before, which is added to.
    """
    view: dict[str, Any] = {"temperature": temperature_view(settings), "at": {}, "classes": [], "reason": ""}
    view |= {"index": 0, "target": "", "speakers": [], "picture": "", "text": "", "total": len(task) if task else 0}
    if spoken is None:
        return view
    view |= {"index": spoken.index, "reason": spoken.reason} | picture_of(spoken.index, task, pictures)
    if not spoken.softened:
        return view
    coolest = spoken.softened[min(spoken.softened)]
    order = sorted(range(len(coolest.classes)), key=lambda k: -coolest.teacher[k])[:MOST_CLASSES]
    order.sort()
    speakers = [name for name in SPEAKERS if getattr(coolest, name) is not None]
    target = coolest.target
    return view | {
        "classes": [{"name": coolest.classes[k], "right": k == target} for k in order],
        "target": "" if target is None else coolest.classes[target],
        "speakers": speakers,
        "at": {
            f"{temperature:g}": {name: _bars(getattr(each, name), order) for name in speakers}
            for temperature, each in spoken.softened.items()
        },
    }


def _bars(probabilities: Sequence[float], order: Sequence[int]) -> list[dict[str, Any]]:
    return [{"share": round(probabilities[k], 4), "text": percent(probabilities[k]).text} for k in order]


def differing_view(
    found: AgreementMatrix | None,
    task: Task | None,
    pictures: dict[Any, Any],
    *,
    pair: tuple[int, int] | None = None,
    at: int = 0,
    example: int = 0,
) -> dict[str, Any] | None:
    """A row of examples on which student and teacher differ, to pick one from.

    Args:
        found: What is known; None where nothing was asked for.
        task: Whose examples they are.
        pictures: Examples that were shown before, which is added to.
        pair: Only those of the teacher's and the student's answer; None: all.
        at: Place of the first one.
        example: The one that is looked at.
    """
    if found is None:
        return None
    some = [each for each in found.differing if pair is None or (each.teacher, each.student) == pair]
    at = min(at, max(0, len(some) - 1)) // ROW * ROW
    rows = [
        {
            "index": each.index,
            "now": each.index == example,
            "spoken": f"no. {each.index}: teacher {found.classes[each.teacher]}, student {found.classes[each.student]}",
            "name": f"{found.classes[each.teacher]} → {found.classes[each.student]}",
            **picture_of(each.index, task, pictures),
        }
        for each in some[at : at + ROW]
    ]
    return {
        "rows": rows,
        "at": at,
        "size": ROW,
        "total": len(some),
        "pair": "" if pair is None else f"{found.classes[pair[0]]} → {found.classes[pair[1]]}",
        "where": f"{at + 1}–{at + len(rows)} of {count(len(some))}" if rows else "none",
    }


class Teaching(Part):
    """Bars of what the teacher and its student say to an example, softened by the temperature; where they differ;
    and where the loss of a recipe with several levers comes from."""

    _esm = source("looks.js", "agreement_matrix.js", "interaction.js", "teaching.js")
    watches: ClassVar[tuple[str, ...]] = (
        "bench",
        "recipe",
        "distillation",
        "training",
        "example",
        "spoken",
        "findings",
        "looking",
        "clocking",
    )

    def __init__(self, session: Any, **traits: Any) -> None:
        self._pictures: dict[Any, Any] = {}
        self._pair: tuple[int, int] | None = None
        self._at = 0
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """What is known; of an earlier recipe it is greyed."""
        session = self.session
        session.hear()
        recipe, task = session.recipe, getattr(session.bench, "task", None)
        why = {
            "confusion": "" if recipe.distillation is not None else WITHOUT["confusion"],
            "interaction": "" if len(levers(recipe)) > 1 else WITHOUT["interaction"],
        }
        compared = session.findings.get("confusion")
        return {
            "differing": differing_view(
                compared.result if compared is not None else None,
                task,
                self._pictures,
                pair=self._pair,
                at=self._at,
                example=session.example,
            ),
            "possible": session.bench is not None and session.bench.training_images > 0,
            "spoken": spoken_view(session.spoken, session.distillation, task, self._pictures),
            "sections": [
                section_view(
                    kind, session.findings.get(kind), recipe, session.looking, clocking=session.clocking, why=reason
                )
                for kind, reason in why.items()
            ],
        }

    def actions(self) -> dict[str, Any]:
        """What the browser may ask for.

        ``hear``: the example with that ``index``; ``temperature``: of the settings; ``look`` at a ``kind``, ``stop``;
        ``pair``: only examples of the teacher's answer ``row`` and the student's ``column``, or all without these;
        ``turn``: examples from the place ``at`` on.
        """
        return {
            "hear": self._hear,
            "temperature": lambda message: self.session.update_distillation(temperature=message.get("temperature")),
            "pair": self._choose,
            "turn": self._turn,
            "look": lambda message: self.session.look(text_of(message, "kind")),
            "stop": lambda message: self.session.stop_looking(text_of(message, "kind")),
        }

    def _hear(self, message: Message) -> None:
        index = message.get("index")
        if index is None:
            raise WorkbenchError("hear: the index of an example is needed.")
        self.session.hear(index)

    def _choose(self, message: Message) -> None:
        compared = self.session.findings.get("confusion")
        found = compared.result if compared is not None else None
        if found is None:
            raise WorkbenchError("Student and teacher were not compared yet; compare them first.")
        pair = (message.get("row"), message.get("column"))
        if pair == (None, None):
            self._pair = None
        else:
            row, column = (_place(each, name) for each, name in zip(pair, ("row", "column"), strict=True))
            if max(row, column) >= len(found.classes):
                raise WorkbenchError(f"There is no class {max(row, column)}; the last one is {len(found.classes) - 1}.")
            self._pair = (row, column)
        self._at = 0
        first = next((each for each in found.differing if (each.teacher, each.student) == self._pair), None)
        if first is not None:
            self.session.hear(first.index)
        self.refresh()

    def _turn(self, message: Message) -> None:
        self._at = _place(message.get("at"), "at")
        self.refresh()


def _place(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WorkbenchError(f"{name} = {value!r:.40}: a place, from 0, is needed.")
    return value
