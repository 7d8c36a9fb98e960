"""Effects of layers: measured once, kept on disk, measured again where the file is no good."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from workbench import Cancelled, Quantization
from workbench.planning import sensitivity
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from small import KINDS, classification

METHOD = Quantization()


@pytest.fixture(autouse=True)
def few_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MIXES", 16)


def file_of(store: Store) -> Path:
    (file,) = (store.folder / "sensitivity").glob("*.json")
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_bits_cost_more(kind: str, store: Store) -> None:
    bench = KINDS[kind](store)
    costs = bench.sensitivity()
    for layer in bench.layers:
        for part in ("weights", "activations"):
            noise = {c.bits: c.noise for c in costs if (c.layer, c.part) == (layer.name, part)}
            assert set(noise) in ({*range(2, 9)}, set())
            if noise:
                assert noise[2] > noise[4] > noise[8]
    assert all(cost.drop.low <= cost.drop.value <= cost.drop.high for cost in costs)


def test_the_evaluation_is_never_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = classification(store)
    assert bench.baseline.complete
    monkeypatch.setattr(bench._evaluation, "stream", lambda *_, **__: pytest.fail("it was"))
    assert bench.sensitivity()


def test_it_says_how_far_it_is_and_asks_nothing_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = classification(store)
    first = list(bench.sensitivity_stream())
    assert [progress.done for progress in first] == list(range(1, first[-1].total + 1))
    monkeypatch.setattr(bench._network.simulation, "run", lambda *_: pytest.fail("measured again"))
    assert list(bench.sensitivity_stream(Quantization(weight_bits=4, layers={"0": {"weight_bits": 2}})))


def test_another_process_finds_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = classification(store).sensitivity()
    other = classification(Store(store.folder))
    monkeypatch.setattr(other._network.simulation, "run", lambda *_: pytest.fail("measured again"))
    assert other.forecast.sensitivity.ready(METHOD)
    assert sorted(e.noise for e in other.forecast.sensitivity.effects.values()) == sorted(c.noise for c in costs)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 10_000,
        lambda text: '{"format": 1}',
        lambda text: text.replace('"version": "', '"version": "0.0.0-other-'),
        lambda text: text.replace('"kind": "weight"', '"kind": "weight", "unknown": 1', 1),
        lambda text: text.replace('"layer": "0"', '"layer": []', 1),
        lambda text: text.replace('"bits": 2', '"bits": {}', 1),
        lambda text: text.replace("0.0", "NaN", 1),
    ],
)
def test_a_damaged_file_is_made_again(damage: object, store: Store) -> None:
    first = classification(store)
    costs = first.sensitivity()
    file = file_of(store)
    before = file.read_text()
    after = damage(before)  # type: ignore[operator]
    assert after != before
    file.write_text(after)
    other = classification(Store(store.folder))
    assert not other.forecast.sensitivity.effects
    assert other.sensitivity() == costs
    assert classification(Store(store.folder)).forecast.sensitivity.ready(METHOD)


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(store: Store) -> None:
    (store.folder / "sensitivity").write_text("in the way")
    assert classification(store).sensitivity()


def test_what_was_measured_before_a_cancel_is_kept(store: Store) -> None:
    cancel, bench = threading.Event(), classification(store)
    stream = bench.sensitivity_stream(cancel=cancel)
    for _ in range(5):
        next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)
    assert len(classification(Store(store.folder)).forecast.sensitivity.effects) == 5
