"""The part of a session that writes the recipe on the screen down as a file, in a thread of its own."""

from __future__ import annotations

import io
import re
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import traitlets

from widgets.desk import Desk
from widgets.formatting import SPACE, count, figures, score, size
from widgets.importing import Importing
from widgets.problems import in_words
from widgets.worker import Worker
from workbench.errors import Cancelled, WorkbenchError, nearest
from workbench.recipe import Recipe

if TYPE_CHECKING:
    from workbench.exporting.exporter import Exported

PATIENCE = 0.1
"""Seconds between two looks at whether the measuring has ended."""
Deliver = Callable[[str, bytes], None]
"""Gets the name of a file and what is in it, in the worker."""


class Form(NamedTuple):
    """One way to write a recipe down."""

    label: str
    ending: str
    """Of the path that the bench writes; "" is a folder."""
    what: str


FORMS = {
    "safetensors": Form("packed weights, .safetensors", ".safetensors", "Whole-number weights with their scales."),
    "onnx": Form("graph, .onnx", ".onnx", "With QDQ nodes, for onnxruntime and others."),
    "pt2": Form("program, .pt2", ".pt2", "For torch.export.load."),
    "openvino": Form("OpenVINO, .zip", ".xml", "Its .xml and .bin."),
    "folder": Form("folder that runs, .zip", "", "The model, a script that runs it, examples and the report."),
}
"""What can be written, by name."""


class Exporting(Importing):
    """Writes files that are read again and compared before anybody gets them."""

    exporting = traitlets.Unicode(read_only=True)
    """How far the writing is; "" (default) when nothing is written."""
    exported = traitlets.Unicode(read_only=True)
    """What was written last, and how far it does what was simulated. Default: ""."""
    export_problem = traitlets.Unicode(read_only=True)
    """Why the last one could not be written. Default: ""."""

    def __init__(self, desk: Desk) -> None:
        self._shipment = 0
        self._exporter = Worker("workbench-exporting")
        self._exporter_end = weakref.finalize(self, self._exporter.close)
        super().__init__(desk)

    def export(self, form: str, deliver: Deliver) -> None:
        """Write the recipe on the screen down. It begins when the measuring has ended, whose times it would spoil.

        Args:
            form: One of `FORMS`. What is more than one file is packed into one ``.zip``.
            deliver: Is called with the file when it is there.

        Raises:
            WorkbenchError: There is no such form, or the recipe cannot be had.
        """
        with self._change():
            self._require_open()
            if form not in FORMS:
                raise WorkbenchError(f"There is no form {str(form)[:40]!r}. {nearest(str(form), FORMS)}")
            self.bench.check(self.recipe)
            self._shipment += 1
            self._set(exporting="Waiting for the measuring to end…" if self._occupied() else "Writing…")
            self._set(exported="", export_problem="")
            self._exporter.submit(
                partial(self._export, self._shipment, self._desk, self.recipe, form, deliver),
                partial(self._not_exported, self._shipment),
            )
            self._give_way()
            self._consider()

    def stop_exporting(self) -> None:
        """End it; nobody gets anything."""
        with self._change():
            if self.exporting:
                self._shipment += 1
                self._exporter.cancel()
                self._set(exporting="")
                self._consider()

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            self._shipment += 1
            self._exporter.cancel()
            self._set(exporting="")
        super().close()
        self._exporter_end()  # not under the lock, which a job may need to come to its end

    # Inside

    def _at_rest(self) -> bool:
        """What is learned in the background has time."""
        return super()._at_rest() and not self.exporting

    def _quiet(self) -> bool:
        return super()._quiet() and self._exporter.idle

    def _export(
        self, number: int, desk: Desk, recipe: Recipe, form: str, deliver: Deliver, cancel: threading.Event
    ) -> None:
        """In the worker: write, read again, compare, pack, deliver."""
        with self._settled:
            while self._occupied() and not cancel.is_set():
                self._settled.wait(PATIENCE)
        stem = re.sub(r"[^\w.×-]+", "-", f"{desk.bench.name} {recipe.label}")
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{stem.replace('.', '-')}{FORMS[form].ending}"
            for state in desk.bench.export_stream(recipe, path, cancel=cancel):
                self._say(number, _progress(state))
            name, content = packed(state.files, path.stem, form)
        self._say(number, "Handing it to the browser…")
        deliver(name, content)
        seconds = f"{figures(time.monotonic() - started)}{SPACE}s"
        with self._change():
            if number == self._shipment:
                self._set(exporting="", exported=f"{name}: {size(len(content))}, {seconds}. {_checked(state)}".strip())
                self._consider()

    def _say(self, number: int, text: str) -> None:
        with self._change():
            if number != self._shipment:
                raise Cancelled
            self._set(exporting=text)

    def _not_exported(self, number: int, error: BaseException) -> None:
        with self._change():
            if number != self._shipment:
                return
            problem = "" if isinstance(error, Cancelled) else in_words("Writing it", error)
            self._set(exporting="", export_problem=problem)
            self._consider()


def packed(files: Sequence[Path], stem: str, form: str) -> tuple[str, bytes]:
    """A name and the bytes of one file; several are put into an archive, in a folder of their own."""
    if len(files) == 1:
        return files[0].name, files[0].read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in files:
            archive.write(each, f"{stem}/{each.name}")
    return f"{stem}-{form}.zip", packed.getvalue()


def _progress(state: Exported) -> str:
    found = state.agreement
    if state.stage == "comparing" and found is not None:
        return f"Reading it again: {count(found.examples)} of {count(found.total)} compared"
    return {"writing": "Writing…", "measuring": "Measuring for its report…"}.get(state.stage, "Packing…")


def _checked(state: Exported) -> str:
    found = state.agreement
    if found is None:
        return ""
    rate, examples = score(found.rate.value, found.metric), count(found.examples)
    if found.metric.counted:
        return f"Read again, it gives the simulation’s answer on {rate} of {examples} examples."
    return f"Read again, {found.metric.name} with the simulation is {rate}, on {examples} examples."
