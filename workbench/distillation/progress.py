"""How far a training is."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from workbench.distillation.trained import Trained
from workbench.errors import WorkbenchError
from workbench.report import Estimate


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    """Optimizer steps that each of the two has taken."""
    steps: int
    """Optimizer steps of each in all."""
    seconds: float
    """Spent on training, also by an earlier process."""
    samples_per_second: float
    """Training examples that both together have learned from, by this process."""
    student: Estimate | None
    """Accuracy, or the task's own metric, on held-out training examples; None where nothing was learned."""
    control: Estimate | None
    loss: float
    """Of the student's latest batch; NaN before the first one."""
    done: bool = False
    cancelled: bool = False
    note: str = ""
    """Sentences that a reader of the curves has to know, or nothing."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """What the student's latest loss is the sum of: ``teacher``, ``labels``, ``hidden layers``."""
    control_loss: float = float("nan")
    """Of the control's latest batch."""
    seconds_left: float | None = None
    """Until the last step at the speed until now; None where that is not known."""
    paused: bool = False
    """Whether it holds until `pause` is cleared."""
    resumed: bool = False
    """Whether it goes on from a step of an earlier process, or of before a cancel."""

    @property
    def kept(self) -> bool:
        """Whether there is something to keep of a training that was stopped here."""
        return self.student is not None

    def to_dict(self) -> dict[str, Any]:
        """What JSON can say."""
        return {
            each.name: value.model_dump() if isinstance(value := getattr(self, each.name), Estimate) else value
            for each in fields(self)
        }

    def noted(self, note: str) -> Progress:
        """The same with one more sentence."""
        return replace(self, note=f"{self.note} {note}".strip())

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Progress:
        """The reverse of `to_dict`."""
        estimates = {name: told[name] and Estimate(**told[name]) for name in ("student", "control")}
        return cls(**{**told, **estimates})


def with_note(training: Generator[Progress, None, Trained], note: str) -> Generator[Progress, None, Trained]:
    """A training whose progress says something more."""
    while True:
        try:
            progress = next(training)
        except StopIteration as end:
            trained: Trained = end.value
            return trained
        yield progress.noted(note)


class DivergenceError(WorkbenchError):
    """A loss became NaN or infinite."""

    def __init__(self, text: str, trained: Trained | None) -> None:
        super().__init__(text)
        self.trained = trained
        """The best weights until then; None where none were evaluated after a step."""
