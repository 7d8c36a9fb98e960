"""The file that a frontier is kept in: reports without what depends on a machine, bound to one model and its data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from workbench.errors import RecipeError, WorkbenchError
from workbench.files import write_atomically
from workbench.recipe import Recipe
from workbench.report import Estimate, Report

LEFT_OUT = {"scores", "latency", "speedup", "layers", "advice", "notes", "environment"}
"""Of each report: times belong to the machine that took them, and the rest is found again in a second."""
DIGITS = 6
MOST_BYTES = 20_000_000

log = logging.getLogger(__name__)


class Frontier(BaseModel):
    """Reports of one model, measured elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    model: str
    weights: str
    """SHA-256 of the model's."""
    data: str
    """SHA-256 of the task's."""
    environment: dict[str, str] = {}
    """What measured."""
    reports: tuple[Report, ...] = ()

    def belongs_to(self, weights: str, data: str) -> bool:
        """Whether these are reports on just these weights and data."""
        return (self.weights, self.data) == (weights, data)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights by their names: other than a network's key, it says nothing of the code that runs them."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def imported(report: Report) -> Report:
    """A report as it is shown elsewhere: every estimate marked so, without what depends on the machine."""
    told = {name: value for name, value in report if name not in LEFT_OUT}
    return Report(**_marked(told))


def write(frontier: Frontier, path: Path) -> None:
    """Write it whole or not at all, one report a line.

    Raises:
        OSError: It cannot be written.
    """
    head = frontier.model_dump(mode="json", exclude={"reports"})
    lines = ",\n".join(_line(report) for report in frontier.reports)
    text = f'{json.dumps(head, sort_keys=True)[:-1]}, "reports": [\n{lines}\n]}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def read(path: Path) -> Frontier:
    """Read what `write` wrote. The file is not trusted: it is data, and every value is checked.

    Raises:
        WorkbenchError: It cannot be read, is damaged, or was written by a later version.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise WorkbenchError(f"{path} is no frontier: it is larger than {MOST_BYTES / 1e6:.0f} MB.")
        found = Frontier.model_validate_json(path.read_bytes())
    except OSError as error:
        raise WorkbenchError(f"The frontier {path} cannot be read: {error.strerror}.") from error
    except (ValidationError, RecipeError) as error:
        what = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise WorkbenchError(
            f"The frontier {path} is damaged, or of a later version: {what}. Make it again with `workbench frontier`."
        ) from error
    if not all(report.complete and report.accuracy.source == "imported" for report in found.reports):
        raise WorkbenchError(f"The frontier {path} has reports that are not over all examples, or not marked imported.")
    return found


def along(path: Path | None, weights: str, data: str) -> tuple[Report, ...]:
    """The reports of a file if it is whole and about these weights and data; else none, and the log says why."""
    if path is None or not path.exists():
        return ()
    try:
        found = read(path)
    except WorkbenchError as error:
        log.warning("%s", error)
        return ()
    if not found.belongs_to(weights, data):
        log.warning("The frontier %s is about other weights or other data than %s has here.", path, found.model)
        return ()
    return found.reports


def _line(report: Report) -> str:
    fields = report.model_dump(mode="json", exclude={"recipe", *LEFT_OUT}, exclude_defaults=True)
    recipe = report.recipe.model_dump(mode="json")  # whole: what is left out must not follow later defaults
    return json.dumps({"recipe": recipe, **_rounded(fields)}, separators=(",", ":"), ensure_ascii=False)


def _marked(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.model_copy(update={"source": "imported"})
    if isinstance(value, dict):
        return {name: _marked(each) for name, each in value.items()}
    if isinstance(value, BaseModel) and not isinstance(value, Recipe):
        return value.model_copy(update={name: _marked(each) for name, each in value})
    return value


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
