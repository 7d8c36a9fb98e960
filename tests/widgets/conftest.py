"""A session without a bench behind it, and reports to put on it, for the parts that draw them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import traitlets

from workbench import statistics
from workbench.errors import WorkbenchError
from workbench.hardware import profiles
from workbench.recipe import Distillation, Finetuning, Quantization, Recipe
from workbench.report import Advice, Estimate, LayerRow, Report

sys.path.insert(0, str(Path(__file__).parent))  # `small_bench`


class Info(NamedTuple):
    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


class Offer(NamedTuple):
    name: str
    reason: str | None


LAYERS = (
    Info("conv1", "Conv2d", (4, 1, 3, 3), 40),
    Info("fc1", "Linear", (8, 64), 520),
    Info("fc2", "Linear", (10, 8), 90),
)
RUNTIMES = (
    Offer("eager", None),
    Offer("onnxruntime", None),
    Offer("openvino", "openvino: not installed; pip install openvino"),
)


def make_report(
    recipe: Recipe | None = None,
    *,
    lost: int = 100,
    gained: int = 40,
    evaluated: int = 10_000,
    right: int = 9_186,
    size: float = 48_900.0,
    latency: tuple[float, float, float] | None = (30e-6, 32e-6, 34e-6),
    speedup: tuple[float, float, float] | None = (0.98, 1.05, 1.15),
    costs: dict[str, tuple[float, float, float]] | None = None,
    advice: Advice | None = None,
    notes: tuple[str, ...] = (),
    running: str = "",
    untimed: str = "",
) -> Report:
    """A report whose statistics are the engine's own."""
    recipe = recipe or Recipe(quantization=Quantization(weight_bits=4, activation_bits=8))

    def estimate(ends: tuple[float, float, float] | None, unit: str) -> Estimate | None:
        return ends and Estimate(low=ends[0], value=ends[1], high=ends[2], unit=unit, source="measured")

    rows = []
    for layer in LAYERS:
        bits = dict(zip(("weight_bits", "activation_bits"), recipe.quantization.bits_for(layer.name), strict=True))
        cost = estimate((costs or {}).get(layer.name), "")
        rows.append(
            LayerRow(
                **layer._asdict(), **bits, bytes=layer.parameters, sqnr=20.0 if any(bits.values()) else None, cost=cost
            )
        )
    return Report(
        recipe=recipe,
        evaluated=evaluated,
        total=10_000,
        accuracy=statistics.proportion(right * evaluated // 10_000 - lost + gained, evaluated, "simulated"),
        drop=statistics.paired_difference(lost, gained, evaluated, "simulated"),
        flips=statistics.flips(lost, gained, evaluated),
        size=Estimate.exact(size, "B"),
        latency=estimate(latency, "s"),
        speedup=estimate(speedup, ""),
        layers=tuple(rows),
        advice=advice,
        notes=notes,
        running=running,
        untimed=untimed,
    )


class Task:
    calibration, noun = range(512), "images"

    def __len__(self) -> int:
        return 10_000


class Fake(traitlets.HasTraits):
    """The traits of a session, and a note of every call."""

    models = traitlets.Tuple(("seed-cnn", "other"))
    absent = traitlets.Tuple()
    model = traitlets.Unicode("seed-cnn")
    loading = traitlets.Unicode("")
    bench = traitlets.Any()
    recipe = traitlets.Instance(Recipe, args=())
    report = traitlets.Instance(Report, allow_none=True)
    stale = traitlets.Bool(False)
    baseline = traitlets.Instance(Report, allow_none=True)
    tried = traitlets.Tuple(())
    imported = traitlets.Tuple(())
    status = traitlets.Unicode("")
    progress = traitlets.Float(0.0)
    busy = traitlets.Bool(False)
    problem = traitlets.Unicode("")
    can_undo = traitlets.Bool(False)
    can_redo = traitlets.Bool(False)
    distillation = traitlets.Instance(Distillation, args=())
    curve = traitlets.Tuple(())
    training = traitlets.Bool(False)
    paused = traitlets.Bool(False)
    seeds = traitlets.Int(1)
    lap = traitlets.Any()
    study = traitlets.Any()
    sketch = traitlets.Any()
    example = traitlets.Int(0)
    spoken = traitlets.Any()
    compared = traitlets.Any()
    finetuning = traitlets.Instance(Finetuning, args=())
    lesson = traitlets.Unicode("")
    choosing = traitlets.Bool(False)
    choice = traitlets.Any()
    preflight = traitlets.Any()
    prediction = traitlets.Instance(Report, allow_none=True)
    foreseen = traitlets.Tuple(())
    sensing = traitlets.Float(None, allow_none=True)
    sensing_takes = traitlets.Float(0.0)
    outlook = traitlets.Any()
    proposal = traitlets.Any()
    planning = traitlets.Unicode("")
    explanation = traitlets.Any()
    flip_list = traitlets.Any()
    histograms = traitlets.Dict()
    explaining = traitlets.Unicode("")
    profiles = traitlets.Tuple(profiles())
    profile = traitlets.Any()
    elsewhere = traitlets.Any()
    findings = traitlets.Dict()
    looking = traitlets.Tuple()
    clocking = traitlets.Bool(False)
    exporting = traitlets.Unicode("")
    exported = traitlets.Unicode("")
    export_problem = traitlets.Unicode("")
    asked_to_learn = False
    obstacle = staticmethod(lambda: None)
    trains = staticmethod(lambda recipe: False)

    def __init__(self, **values: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        bench = SimpleNamespace(
            description="650 parameters · a task",
            layers=LAYERS,
            training_images=20_000,
            task=Task(),
            check=lambda recipe: None,
            runtimes=lambda: RUNTIMES,
            devices=lambda: (Offer("cpu", None), Offer("cuda", "not on this machine")),
            students=lambda: ("tiny",),
            teachers=lambda: (Offer("teacher-cnn", None), Offer("self", None)),
        )
        super().__init__(bench=bench, **values)

    @contextlib.contextmanager
    def guard(self, what: str = "That") -> Any:
        try:
            yield
        except WorkbenchError as error:
            self.problem = str(error)
        except Exception as error:
            self.problem = f"{what} failed: {error}"

    def update(self, **changes: Any) -> None:
        quantization = {k: v for k, v in changes.items() if k in Quantization.model_fields}
        deployment = {k: v for k, v in changes.items() if k not in quantization}
        self.recipe = self.recipe.replace(
            quantization=self.recipe.quantization.replace(**quantization),
            deployment=self.recipe.deployment.replace(**deployment),
        )

    def set_layers(self, names: list[str], **bits: Any) -> None:
        if unknown := set(names) - {layer.name for layer in LAYERS}:
            raise WorkbenchError(f"no layer {sorted(unknown)}")
        layers = {**self.recipe.quantization.layers, **dict.fromkeys(names, bits)}
        self.recipe = self.recipe.replace(quantization=self.recipe.quantization.replace(layers=layers))

    def propose(self, **budget: float) -> None:
        self.calls.append(("propose", budget))

    def edit_proposal(self, names: list[str], **bits: Any) -> None:
        self.calls.append(("edit_proposal", names, bits))

    def update_distillation(self, **changes: Any) -> None:
        self.distillation = self.distillation.replace(**changes)

    def update_finetuning(self, **changes: Any) -> None:
        self.finetuning = self.finetuning.replace(**changes)

    def choose_seeds(self, seeds: int) -> None:
        if seeds not in (1, 3, 5):
            raise WorkbenchError(f"seeds = {seeds}")
        self.seeds = seeds

    def sketch_student(self) -> None:
        """What is on the fake is all that it knows."""

    def hear(self, example: int | None = None) -> None:
        self.example = self.example if example is None else example

    def restore(self, key: str) -> None:
        if key not in {report.recipe.key for report in self.tried}:
            raise WorkbenchError("that recipe was not tried")
        self.calls.append(("restore", key))

    def choose_model(self, name: str) -> None:
        if name not in self.models:
            raise WorkbenchError(f"no model {name!r}")
        self.model = name

    def __getattr__(self, name: str) -> Any:
        if name not in {
            "explain",
            "stop_explaining",
            "show_histogram",
            "look",
            "measure_imported",
            "stop_looking",
            "choose_profile",
            "add_profiles",
            "calibrate",
            "forget_calibration",
            "undo",
            "redo",
            "cancel",
            "close",
            "distil",
            "pair_layers",
            "choose_width",
            "pause_training",
            "resume_training",
            "stop_training",
            "compare",
            "end_comparison",
            "forget",
            "without_distillation",
            "finetune",
            "without_finetuning",
            "choose_method",
            "take_advice",
            "clear_layers",
            "take_proposal",
            "improve_proposal",
            "stop_improving",
            "discard_proposal",
            "learn",
            "stop_learning",
        }:
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def report():
    """`make_report`: reports to order."""
    return make_report


@pytest.fixture
def session():
    """`Fake`: a session to order."""
    return Fake


@pytest.fixture
def send():
    """Lets the browser say something to a part: through the same door as a message from the page."""

    def deliver(part: Any, content: Any) -> None:
        part._handle_custom_msg(content, [])

    return deliver
