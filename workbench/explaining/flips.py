"""Examples that a recipe answers differently from fp32, and the layers that are behind it."""

from __future__ import annotations

from html import escape
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbench.recipe import Recipe
from workbench.report import MetricInfo


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Frozen):
    """What a network says to an example."""

    text: str
    """The class, the number, or how good it is: ``shirt``, ``152.3``, ``cosine 0.981``."""
    probability: float | None = None
    """Of the class that was named; None where the output is no choice of a class."""
    margin: float | None = None
    """By how much this class is more probable than the next one."""
    score: float
    """By the task's metric; larger is better, 0 and 1 for wrong and right."""


class Flip(_Frozen):
    """One example."""

    index: int
    """In the task."""
    kind: Literal["lost", "gained"]
    """Right at fp32 and wrong now, or the other way; else: a lower score now, or a higher one."""
    target: str
    """What is right; empty where fp32's own answer is, or where it is not a word or a number."""
    fp32: Answer
    now: Answer
    undone_by: tuple[str, ...] = ()
    """Layers each of which, restored alone to fp32, brings fp32's side back, the strongest first. Where examples
    are not right or wrong: layers that alone take back at least half of the change."""


class FlipList(_Frozen):
    """Flips of a recipe against the model in fp32; grows until `complete`."""

    recipe: Recipe
    metric: MetricInfo
    lost: tuple[Flip, ...] = ()
    """The surest of fp32's answers first; where scores fell, the largest fall first."""
    gained: tuple[Flip, ...] = ()
    """The surest of today's answers first; where scores rose, the largest rise first."""
    lost_total: int = 0
    gained_total: int = 0
    """How many there are; the lists stop at a limit."""
    examples: int = 0
    """Compared."""
    layers: tuple[str, ...] = ()
    """That were restored, one at a time, so far."""
    done: int = 0
    total: int = 1
    """Layers to restore, and one for the answers."""

    @property
    def complete(self) -> bool:
        """Whether nothing more is coming."""
        return self.done == self.total

    @property
    def sentence(self) -> str:
        """How many there are, and which layer is behind most of them."""
        words = ("lost", "won") if self.metric.counted else ("worse", "better")
        text = f"{self.lost_total:,} {words[0]}, {self.gained_total:,} {words[1]} of {self.examples:,} examples"
        behind = self.behind
        if not self.complete or not behind:
            return f"{text}."
        name = max(behind, key=lambda each: behind[each])
        return f"{text}; {name}, restored alone, undoes {behind[name]} of the {len(self.lost)} {words[0]} in the list."

    @property
    def behind(self) -> dict[str, int]:
        """How many of the listed losses each layer undoes alone."""
        found: dict[str, int] = {}
        for flip in self.lost:
            for name in flip.undone_by:
                found[name] = found.get(name, 0) + 1
        return found

    def undone(self, flip: Flip) -> str:
        """Which layers undo a flip, in words."""
        if flip.undone_by:
            return ", ".join(flip.undone_by)
        return "none alone" if self.complete else "…"

    def __str__(self) -> str:
        rows = [
            f"  {flip.kind:6} {flip.index:6} {flip.target}: {flip.fp32.text} → {flip.now.text}, "
            f"undone by {self.undone(flip)}"
            for flip in (*self.lost[:10], *self.gained[:5])
        ]
        return "\n".join([self.sentence, *rows])

    def _repr_html_(self) -> str:
        """The first of both lists, for a notebook's output."""
        cells = (
            (flip.kind, str(flip.index), flip.target, flip.fp32.text, flip.now.text, self.undone(flip))
            for flip in (*self.lost[:10], *self.gained[:5])
        )
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        heads = "".join(f"<th>{head}</th>" for head in ("", "example", "right", "fp32 said", "now", "undone by"))
        return f"<p><b>{escape(self.sentence)}</b></p><table><tr>{heads}</tr>{rows}</table>"
