"""What a fine-tuning leaves on disk: where it is after each epoch, and what it made in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workbench import tensor_files
from workbench.checkpoints import CheckpointFile
from workbench.errors import WorkbenchError
from workbench.finetuning.twin import Slot
from workbench.grid import AnyGrid
from workbench.grids import GRIDS, Stored

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Position:
    """A training at the end of an epoch; the order of examples follows from seed and epoch."""

    epoch: int
    """Epochs that are done."""
    step: int
    seconds: float
    best: float
    """The highest score on held-out examples, larger is better."""
    tensors: Mapping[str, Tensor]
    """Parameters, the optimizer's moments, and the best parameters."""


@dataclass(frozen=True)
class Checkpoint(CheckpointFile):
    """The file of a fine-tuning."""

    def save(self, position: Position) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        self.write({name: getattr(position, name) for name in ("epoch", "step", "seconds", "best")}, position.tensors)

    def load(self) -> Position | None:
        """Where the training was; None where there is no file, or a damaged or foreign one."""
        found = self.read()
        kinds = {"epoch": int, "step": int, "seconds": float, "best": float}
        try:
            return found and Position(tensors=found[1], **{name: kind(found[0][name]) for name, kind in kinds.items()})
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What a fine-tuning made."""

    weights: dict[str, Tensor]
    """In the place of the model's own parameters, by their names in its state."""
    grids: dict[Slot, AnyGrid]
    shapes: dict[str, tuple[int, ...]]
    """Of the layers' weights."""
    steps: int
    seconds: float
    cancelled: bool = False
    """Whether it ended before its last epoch, so that these are the best weights until then."""

    def save(self, path: Path) -> None:
        """Write all, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights.{name}": value for name, value in self.weights.items()}
        described = []
        for index, (slot, grid) in enumerate(self.grids.items()):
            stored = grid.stored()
            tensors |= {f"grids.{index}.{name}": value for name, value in stored.tensors.items()}
            shape = self.shapes.get(slot[0], ()) if slot[1] == "weight" else ()
            described.append([slot, grid.kind, grid.axis, shape, dict(stored.about)])
        about = {"format": FORMAT, "steps": self.steps, "seconds": self.seconds, "grids": described}
        tensor_files.save(path, about, tensors)

    @classmethod
    def load(cls, path: Path) -> Finetuned:
        """Read what `save` wrote.

        Raises:
            OSError: There is no such file, or it cannot be read.
            WorkbenchError: It is truncated, altered, or not of this kind.
        """
        try:
            about, tensors = tensor_files.load(path)
            if about["format"] != FORMAT:
                raise ValueError("it has another format than this version writes")
            grids = {}
            shapes = {}
            for index, (slot, kind, axis, shape, told) in enumerate(about["grids"]):
                layer, part, bits = str(slot[0]), str(slot[1]), int(slot[2])
                prefix = f"grids.{index}."
                held = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                grids[layer, part, bits] = GRIDS[kind].restored(bits, axis, tuple(shape), Stored(held, told))
                if part == "weight":
                    shapes[layer] = tuple(shape)
            weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
            return cls(weights, grids, shapes, int(about["steps"]), float(about["seconds"]))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise WorkbenchError(
                f"{path.name} cannot be used as a fine-tuned network: {error}. Delete it and fine-tune again."
            ) from error
