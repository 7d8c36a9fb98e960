"""Writes a recipe's network down, reads it again, compares it with the simulation, and only then puts it in place."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from workbench.errors import Cancelled, WorkbenchError
from workbench.evaluation import Evaluation
from workbench.exporting.agreement import Agreement
from workbench.exporting.comparing import Comparison, Run
from workbench.exporting.folder import Contents, fill
from workbench.exporting.formats import Format, format_of, possible
from workbench.exporting.onnx_graph import OwnGraph
from workbench.exporting.onset import EXAMPLES, onset
from workbench.exporting.placing import check_place, place_files, place_folder, workshop
from workbench.grid import QuantizedLayer
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec
from workbench.recipe import Deployment, Recipe
from workbench.runtimes import RUNTIMES
from workbench.runtimes.isolation import tried

CHECK_SECONDS = 5.0
"""What was written is compared on all examples, or on as many as this allows."""
LEAST_EXAMPLES = 100
"""But always on as many."""
LEAST_SHARE = 0.95
"""Of same answers. Ties in rounding explain fewer differences in any network that was seen; a wrong scale, more."""
LEAST_LIKENESS = 0.99
"""Cosine or R² of outputs that are no classes."""


@dataclass(frozen=True)
class Exported:
    """How far an export is."""

    stage: str
    """``writing``, ``comparing``, of a folder ``measuring``, and ``done``."""
    path: Path
    """Where it goes; it is there when it is done."""
    files: tuple[Path, ...] = ()
    """What was written; known when it is done."""
    size: int = 0
    """Bytes of these files."""
    agreement: Agreement | None = None
    """Of what was written with the simulation."""

    @property
    def done(self) -> bool:
        """Whether it is in its place."""
        return self.stage == "done"


@dataclass(frozen=True, eq=False)
class Shipment:
    """What is written down."""

    evaluation: Evaluation
    network: Network
    """The recipe's."""
    asked: Mapping[str, LayerSpec]
    recipe: Recipe
    contents: Callable[[], Contents]
    """What a folder tells of it beside the model; asked for when it is needed."""


def export_stream(
    shipment: Shipment, path: Path, *, overwrite: bool = False, cancel: threading.Event | None = None
) -> Iterator[Exported]:
    """Write a file, or a folder where the path has no ending.

    Args:
        shipment: What is written.
        path: Its ending says how.
        overwrite: Whether what is there may be replaced.
        cancel: Checked before every batch that is compared.

    Yields:
        How far it is; the last one is done.

    Raises:
        WorkbenchError: The path or the format cannot be, the disk does not take it, or what was written does not do
            what was simulated. What was at the path is still there.
        Cancelled: `cancel` was set; nothing was written.
    """
    folder = not path.suffix
    written_as = OwnGraph() if folder else format_of(path)
    check_place(path, folder=folder, overwrite=overwrite)
    network = shipment.network
    layers = network.quantized(shipment.asked)
    refusal = written_as.refusal(network, layers)
    if refusal is not None:
        raise WorkbenchError(f"{path.name}: {refusal} {possible(network, layers, written_as)}")
    state = Exported("writing", path)
    yield state
    with workshop(path) as made:
        model = made / ("model.onnx" if folder else path.name)
        try:
            written_as.write(model, network, layers, shipment.recipe)
        except WorkbenchError as error:
            raise WorkbenchError(f"{path.name}: {error} {possible(network, layers, written_as)}") from error
        _try_first(shipment, written_as, layers, path, cancel)
        for agreement in _compared(shipment, written_as, model, cancel):
            state = replace(state, stage="comparing", agreement=agreement)
            yield state
        if not explained(agreement):
            raise WorkbenchError(_unexplained(shipment, written_as, layers, path, agreement, cancel))
        if folder:
            state = replace(state, stage="measuring")
            yield state
            contents = shipment.contents()
            fill(made, network, contents, agreement)
            if cancel is not None and cancel.is_set():
                raise Cancelled
            names = sorted(each.name for each in made.iterdir())
            place_folder(made, path)
            files = tuple(path / name for name in names)
        else:
            files = place_files(made, path, sorted(made.iterdir()))
    size = sum(each.stat().st_size for each in files)
    yield replace(state, stage="done", files=files, size=size)


def explained(agreement: Agreement) -> bool:
    """Whether rounding explains as much disagreement as there is; of few examples, as much as there may be."""
    return agreement.rate.high >= (LEAST_SHARE if agreement.metric.share else LEAST_LIKENESS)


def _try_first(
    shipment: Shipment,
    written_as: Format,
    layers: Mapping[str, QuantizedLayer],
    path: Path,
    cancel: threading.Event | None,
) -> None:
    """Where native code reads it again, let it meet a model of unknown kind in another process first.

    Raises:
        WorkbenchError: It crashed there, or was not done in time.
        Cancelled: `cancel` was set.
    """
    runtime = next((each for each in RUNTIMES if each.name == written_as.program and each.takes == "graph"), None)
    if runtime is not None:
        network = shipment.network
        try:
            tried(runtime, network, layers, Deployment(runtime=runtime.name, batch=network.batch), cancel)
        except WorkbenchError as error:
            raise WorkbenchError(f"{path.name} was not written: {error}") from error


def _compared(
    shipment: Shipment, written_as: Format, model: Path, cancel: threading.Event | None
) -> Iterator[Agreement]:
    run = written_as.reload(model, shipment.network)
    known = (shipment.evaluation, shipment.network, shipment.asked, shipment.recipe)
    comparison = Comparison(*known, run, written_as.program)
    return comparison.stream(cancel, CHECK_SECONDS, LEAST_EXAMPLES)


def _unexplained(
    shipment: Shipment,
    written_as: Format,
    layers: Mapping[str, QuantizedLayer],
    path: Path,
    agreement: Agreement,
    cancel: threading.Event | None,
) -> str:
    """What is said of a file that does not do what was simulated, with the layer where it starts."""

    def prepare(some: Mapping[str, QuantizedLayer]) -> Run:
        kept = {name: layer for name, layer in layers.items() if name in some}
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / f"model{written_as.ending}"
            written_as.write(model, shipment.network, kept, shipment.recipe)
            return written_as.reload(model, shipment.network)

    inputs = shipment.evaluation.task.inputs[list(agreement.differing)]
    inputs = inputs[inputs.batches(torch.arange(len(inputs)), EXAMPLES)[0]]
    found = onset(shipment.network, shipment.asked, inputs, prepare, cancel)
    where = agreement.model_copy(update={"layer": found.layer, "distance": found.distance, "reason": found.reason})
    return f"{path.name} was not written: read again, it does not do what was simulated. {where.sentence}"
