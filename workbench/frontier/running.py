"""Measures a programme of recipes on many processes, and keeps what is there after each step."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from workbench.environment import environment
from workbench.errors import WorkbenchError
from workbench.frontier.shipped import Frontier, imported, read, write
from workbench.recipe import Distillation, Recipe
from workbench.report import Report
from workbench.store import Store

if TYPE_CHECKING:
    from workbench.bench import Bench

AT_ONCE = 4
"""Recipes in a piece of work that needs no training; a command that was killed does its last pieces again."""


class Step(NamedTuple):
    """How far it is."""

    done: int
    """Recipes in the file."""
    total: int
    latest: tuple[Report, ...]
    """What came last."""
    seconds: float


def run(
    bench: Bench, recipes: Sequence[Recipe], path: Path, executor: Executor, store: Path | None = None
) -> Iterator[Step]:
    """Measure recipes on all examples and write the file again after each piece of work.

    Recipes that are in the file already are not measured again, and students and fine-tuned networks are kept in
    the store, so that a run that was killed goes on where it was. Each piece of work is one function call with
    texts as arguments: any executor carries it, also one whose workers are other machines, as a Dask client's
    `get_executor`.

    Args:
        bench: A model of the zoo, which the workers load by its name.
        recipes: What is measured; those that share a student are one piece of work.
        path: The file.
        executor: What carries the work.
        store: Of the workers; their user's own by default.

    Yields:
        At the start, and after each piece of work.

    Raises:
        WorkbenchError: The file is not a frontier, or is one of another model; or a worker died.
    """
    started = time.monotonic()
    frontier = _begun(bench, path)
    there = {report.recipe for report in frontier.reports}
    missing = [recipe for recipe in recipes if recipe not in there]
    done = len(recipes) - len(missing)
    yield Step(done, len(recipes), (), 0.0)
    order = {recipe: place for place, recipe in enumerate(recipes)}
    jobs: list[Future[list[str]]] = [
        executor.submit(measured, bench.name, [recipe.to_json() for recipe in piece], str(store) if store else None)
        for piece in _pieces(missing)
    ]
    broken: BrokenExecutor | None = None
    try:
        for job in as_completed(jobs):
            try:
                latest = tuple(Report.model_validate_json(text) for text in job.result())
            except BrokenExecutor as error:  # what others have finished is still worth keeping
                broken = error
                continue
            reports = sorted((*frontier.reports, *latest), key=lambda report: order.get(report.recipe, len(order)))
            frontier = frontier.model_copy(update={"reports": tuple(reports)})
            write(frontier, path)
            done += len(latest)
            yield Step(done, len(recipes), latest, time.monotonic() - started)
    finally:
        for job in jobs:
            job.cancel()
    if broken is not None:
        raise WorkbenchError(
            f"A worker process died ({broken}); {path} holds {len(frontier.reports)} recipes. The same command goes on "
            "from there; with fewer processes it needs less memory."
        ) from broken


def workers(processes: int) -> ProcessPoolExecutor:
    """Processes of this machine that end when this one does, also when it is killed."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # in the middle of a training no exception would come through

    threading.Thread(target=watch, daemon=True).start()


def measured(model: str, recipes: Sequence[str], store: str | None = None) -> list[str]:
    """In a worker: the reports of some recipes of a model of the zoo, as JSON.

    Raises:
        WorkbenchError: There is no such model, or it cannot be measured so.
    """
    bench = _bench(model, store)
    return [_whole(bench, Recipe.from_json(text)).model_dump_json() for text in recipes]


def _bench(model: str, store: str | None) -> Bench:
    """A new one for each piece: what it remembers of a student, hundreds of megabytes, goes with it."""
    from workbench import zoo

    torch.set_num_threads(1)  # the processes share the cores
    return zoo.load(model, store=Store(store))


def _whole(bench: Bench, recipe: Recipe) -> Report:
    """All that does not depend on the machine; nothing is timed."""
    for report in bench.follow(recipe):
        if report.complete and (recipe.distillation is None or report.distillation is not None):
            return imported(report)
    raise WorkbenchError(f"The bench had nothing to report on {recipe.label}.")


def _begun(bench: Bench, path: Path) -> Frontier:
    weights, data = bench.identity
    if not path.exists():
        return Frontier(model=bench.name, weights=weights, data=data, environment=environment())
    frontier = read(path)
    if not frontier.belongs_to(weights, data):
        raise WorkbenchError(f"{path} is the frontier of other weights or data; name another file, or delete it.")
    return frontier


def _pieces(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Those of one student together, so that it is trained once; the others a few at a time."""
    groups: dict[Distillation | int | None, list[Recipe]] = {}
    for place, recipe in enumerate(recipes):
        plain = recipe.distillation is None and recipe.finetuning is None
        groups.setdefault(place // AT_ONCE if plain else recipe.distillation, []).append(recipe)
    return list(groups.values())
