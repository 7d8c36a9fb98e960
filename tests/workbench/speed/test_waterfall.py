"""Which lever makes it faster: on runtimes that the test makes, whose calls take what it says."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workbench import Cancelled, Deployment, Quantization, Recipe, WorkbenchError, runtimes
from workbench.inputs import Inputs
from workbench.report import Estimate
from workbench.runtimes import timing
from workbench.speed import waterfall as module
from workbench.speed.disturbances import disturbances
from workbench.speed.subject import Subject
from workbench.speed.waterfall import Step, Waterfall, product, waterfall


class Machine:
    """Time passes only in calls; how long is a table by runtime, threads and whether it is quantized."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.takes: dict[tuple[str, int, bool], float | Exception] = {}
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "cores", lambda: 2)
        monkeypatch.setattr(module, "_contiguous", lambda *_: self.work(("contiguous", 1, False)))
        monkeypatch.setattr(module, "disturbances", lambda *_: ())
        monkeypatch.setattr(runtimes, "prepare", self.prepare)

    def work(self, key: tuple[str, int, bool]) -> Callable[[], None]:
        found = self.takes[key]
        if isinstance(found, Exception):
            raise found

        def call() -> None:
            self.now += found

        return call

    def prepare(self, deployment: Deployment, _: object, layers: dict[str, object], cancel: object) -> _Prepared:
        return _Prepared(self.work((deployment.runtime, deployment.threads, bool(layers))))


class _Prepared:
    note = None

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work

    def bound(self, _: Inputs) -> Callable[[], None]:
        return self.work


class _Source:
    def __init__(self, graph_only: bool = False) -> None:
        self.graph_only = graph_only
        self.module = nn.Identity()
        self.output = None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(monkeypatch)
    made.takes = {
        ("contiguous", 1, False): 8e-3,
        ("eager", 1, False): 4e-3,
        ("inductor", 1, False): 5e-3,
        ("onnxruntime", 1, False): 2e-3,
        ("onnxruntime", 1, True): 1e-3,
        ("onnxruntime", 2, True): 0.8e-3,
    }
    return made


def subject(recipe: Recipe, *, graph_only: bool = False, shape: tuple[int, ...] = (1, 4, 4)) -> Subject:
    layers = {"conv": object()} if recipe.quantization.active else {}
    return Subject(recipe, _Source(graph_only), layers, lambda size: Inputs(torch.zeros(size, *shape)))  # type: ignore[arg-type]


W8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))


def steps(found: Waterfall) -> dict[str, Step]:
    return {step.name: step for step in found.steps}


def last(stream) -> Waterfall:
    *_, found = stream
    return found


def test_every_step_is_compared_with_the_one_before(machine: Machine) -> None:
    found = last(waterfall(subject(W8), threading.RLock()))
    factors = {name: step.factor.value for name, step in steps(found).items() if step.factor is not None}
    assert factors == pytest.approx(
        {
            "eager": 1,
            "channels-last": 2,
            "inductor": 0.8,
            "onnxruntime fp32": 2.5,
            "W8 A8": 2,
            "2 threads": 1.25,
        }
    )
    assert found.total is not None
    assert found.total.value == pytest.approx(8e-3 / 0.8e-3)
    assert found.complete
    assert steps(found)["inductor"].note == "Slower here."
    levers = {name: each.value for name, each in found.levers.items()}
    assert levers == pytest.approx({"software optimisation": 4, "low precision": 2, "parallel execution": 1.25})


def test_the_factors_multiply_to_the_total_and_so_do_the_levers(machine: Machine) -> None:
    found = last(waterfall(subject(W8), threading.RLock()))
    assert found.total is not None
    assert math.prod(s.factor.value for s in found.steps if s.factor) == pytest.approx(found.total.value)
    assert math.prod(each.value for each in found.levers.values()) == pytest.approx(found.total.value)
    for before, step in zip(found.steps, found.steps[1:], strict=False):
        assert step.total.value == pytest.approx(before.total.value * step.factor.value)


def test_a_step_that_fails_says_why_and_the_next_is_compared_with_the_last_that_ran(machine: Machine) -> None:
    machine.takes["inductor", 1, False] = RuntimeError("no compiler\nat line 7")
    found = steps(last(waterfall(subject(W8), threading.RLock())))
    assert "no compiler" in found["inductor"].reason
    assert "line 7" not in found["inductor"].reason
    assert found["inductor"].seconds is None
    assert found["onnxruntime fp32"].factor.value == pytest.approx(2)


def test_an_fp32_recipe_has_no_low_precision_and_an_onnx_graph_no_torch(machine: Machine) -> None:
    machine.takes["onnxruntime", 2, False] = 1e-3
    found = steps(last(waterfall(subject(Recipe(), graph_only=True), threading.RLock())))
    assert "fp32" in found["low precision"].reason
    for name in ("eager", "channels-last", "inductor"):
        assert "ONNX graph" in found[name].reason
    assert found["onnxruntime fp32"].factor.value == 1
    assert found["2 threads"].factor.value == pytest.approx(2)


def test_channels_are_put_last_in_images_alone(machine: Machine) -> None:
    found = steps(last(waterfall(subject(W8, shape=(7,)), threading.RLock())))
    assert "no channels" in found["channels-last"].reason


def test_threads_are_those_of_the_recipe_or_all_processors(machine: Machine) -> None:
    machine.takes["onnxruntime", 4, True] = 1.6e-3
    four = W8.replace(deployment=Deployment(threads=4))
    found = steps(last(waterfall(subject(four), threading.RLock())))
    assert found["4 threads"].factor.value == pytest.approx(1e-3 / 1.6e-3)
    assert "asks for 1" in steps(last(waterfall(subject(W8), threading.RLock())))["2 threads"].note


def test_more_threads_than_processors_are_warned_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "disturbances", disturbances)
    machine.takes["onnxruntime", 500, True] = 1e-3
    many = W8.replace(deployment=Deployment(threads=500))
    assert any("500 threads share" in said for said in last(waterfall(subject(many), threading.RLock())).disturbances)


def test_a_recipe_for_a_torch_runtime_gets_a_graph_runtime_in_its_place(machine: Machine) -> None:
    eager = W8.replace(deployment=Deployment(runtime="eager"))
    assert "eager" in steps(last(waterfall(subject(eager), threading.RLock())))["onnxruntime fp32"].note


def test_it_grows_and_can_be_cancelled_between_steps(machine: Machine) -> None:
    cancel = threading.Event()
    stream = waterfall(subject(W8), threading.RLock(), cancel)
    grown = [next(stream) for _ in range(3)]
    assert [len(found.steps) for found in grown] == [0, 1, 2]
    assert [found.stage for found in grown] == ["eager", "channels-last", "inductor"]
    assert not grown[-1].complete
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)


def test_an_error_that_is_nobodys_library_comes_out(machine: Machine) -> None:
    broken = Subject(W8, _Source(), {}, lambda _: (_ for _ in ()).throw(WorkbenchError("beyond memory")))  # type: ignore[arg-type]
    with pytest.raises(WorkbenchError, match="beyond memory"):
        last(waterfall(broken, threading.RLock()))


factors = st.tuples(st.floats(0.1, 10), st.floats(0, 0.5), st.floats(0, 0.5)).map(
    lambda f: Estimate(value=f[0], low=f[0] * (1 - f[1]), high=f[0] * (1 + f[2]), unit="×", source="measured")
)


@given(st.lists(factors, min_size=1, max_size=6))
def test_the_interval_of_a_product_holds_it_and_is_wider_than_any_and_narrower_than_all_ends(some: list[Estimate]):
    found = product(some)
    assert found.value == pytest.approx(math.prod(each.value for each in some))
    assert found.low <= found.value * (1 + 1e-9)
    assert found.high >= found.value * (1 - 1e-9)
    assert math.prod(e.low for e in some) * (1 - 1e-9) <= found.low
    assert found.high <= math.prod(e.high for e in some) * (1 + 1e-9)
    for each in some:
        assert found.high / found.value >= each.high / each.value * (1 - 1e-9)


def test_it_is_readable_as_text_and_as_a_page(machine: Machine) -> None:
    machine.takes["inductor", 1, False] = RuntimeError("<script>")
    found = last(waterfall(subject(W8), threading.RLock()))
    assert "channels-last" in str(found)
    assert "2.00×" in str(found)
    page = found._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
