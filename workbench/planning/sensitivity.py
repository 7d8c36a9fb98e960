"""What each layer's weights and input cost at each bit-width, alone and together, on calibration data.

One layer on a grid at a time (one-layer-on sensitivity, as in HAWQ, Dong et al. 2019, with the outputs themselves
in place of a Hessian), then a few random mixes of the whole network, from which `prediction` learns how
the single effects come together.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.errors import Cancelled, RecipeError
from workbench.files import write_atomically
from workbench.layers import SUM, follows
from workbench.network import Network
from workbench.outputs import selected
from workbench.planning.losses import Effect, OutputLoss
from workbench.quantization.quantizer import ActivationSpec, LayerSpec, WeightSpec, specs
from workbench.recipe import MAX_BITS, MIN_BITS, Quantization
from workbench.task import Task

Term = WeightSpec | ActivationSpec
"""What is put on a grid: one layer's weights, or its input."""
Asked = Mapping[str, LayerSpec]

FORMAT = 1
MIXES = 64
"""Whole mixes that are tried for one method."""
OPERATIONS = 4e12
"""Floating point operations for one method's effects and mixes at most; a large model gets fewer examples."""
LEAST_EXAMPLES = 16
OUTPUT_BYTES = 64 * 2**20
"""Memory for the outputs of one run at most."""
ALONE = 0.15
"""Share of the mixes in which a layer's input may stay in floating point."""


class Progress(NamedTuple):
    """Runs over the calibration data that are done, of all."""

    done: int
    total: int


class Sensitivity:
    """Effects of single terms and of whole mixes, measured when they are asked for and kept on disk."""

    def __init__(
        self, network: Network, task: Task, baseline: Callable[[], float], folder: Path, version: str = ""
    ) -> None:
        """
        Args:
            network: Whose layers are put on grids.
            task: Gives calibration data and metric; its evaluation is never looked at.
            baseline: What the fp32 network scores.
            folder: Where effects are kept for the next process.
            version: Of what measures; effects of another one are measured again.
        """
        self.effects: dict[Term, Effect] = {}
        self.mixes: dict[tuple[Term, ...], Effect] = {}
        self.revision = 0
        """Grows with everything that is learned."""
        self._network = network
        self._task = task
        self._baseline = baseline
        self._file = folder / f"{network.key[:32]}-{task.key[:32]}.json"
        self._version = version
        self._loss: OutputLoss | None = None
        self._parts: list[Tensor] = []
        self._preparing = threading.Lock()
        self._levels: dict[Quantization, list[dict[str, LayerSpec]]] = {}
        self._ready: set[Quantization] = set()
        self._read()

    # What there is

    def terms(self, quantization: Quantization) -> list[Term]:
        """Everything that a method can put on grids: each layer's weights and input at each bit-width."""
        return [term for asked in self._single(quantization) for spec in asked.values() for term in spec if term]

    def known(self, asked: Asked) -> bool:
        """Whether the effect of each part of a mix was measured."""
        return all(term in self.effects for term in terms_of(asked))

    def ready(self, quantization: Quantization) -> bool:
        """Whether everything was measured that `measure` would."""
        method = _method(quantization)
        if method not in self._ready:
            rest = any(term not in self.effects for term in self.terms(quantization))
            if rest or any(terms_of(mix) not in self.mixes for mix in self._random(quantization)):
                return False
            self._ready.add(method)
        return True

    # Measuring

    def measure(self, quantization: Quantization, cancel: threading.Event | None = None) -> Iterator[Progress]:
        """Measure what is missing for a method; what was measured is kept even if the rest is cancelled.

        Args:
            quantization: The method; its bits and layers do not count.
            cancel: Checked before every batch.

        Yields:
            After every run over the calibration data.

        Raises:
            Cancelled: `cancel` was set.
        """
        singles = [
            {**fp32_of(asked), name: part}
            for asked in reversed(self._single(quantization))
            for name, spec in reversed(asked.items())  # the last layers first: what comes before them is remembered
            for part in (spec._replace(activation=None), spec._replace(weight=None))
            if any(part)
        ]
        mixes = self._random(quantization)
        done, total, news = 0, len(singles) + len(mixes), False
        try:
            for asked in (*singles, *mixes):
                terms, alone = terms_of(asked), done < len(singles)
                if (terms[0] not in self.effects) if alone else (terms not in self.mixes):
                    effect = self._run(asked, total, cancel, remember=alone)
                    if alone:
                        self.effects[terms[0]] = effect
                    else:
                        self.mixes[terms] = effect
                    self.revision += 1
                    news = True
                done += 1
                yield Progress(done, total)
        finally:
            if news:
                self._write()

    def _run(self, asked: Asked, runs: int, cancel: threading.Event | None, remember: bool) -> Effect:
        loss = self._prepared(runs, cancel)
        return loss.effect(self._outputs(asked, cancel, remember))

    def _prepared(self, runs: int, cancel: threading.Event | None) -> OutputLoss:
        with self._preparing:
            if self._loss is None:
                calibration = self._task.calibration
                first = self._network.call(self._network.example)
                each = first.numel() * first.element_size() / len(self._network.example)
                affordable = int(OPERATIONS // (runs * max(self._network.operations, 1.0)))
                most = min(max(LEAST_EXAMPLES, affordable), max(1, int(OUTPUT_BYTES // max(each, 1))))
                self._parts = calibration.batches(torch.arange(min(len(calibration), most)), self._network.batch)
                reference = self._outputs(fp32_of(self._network.layers), cancel, True)
                metric = self._task.metrics_for(reference[0])[0]
                self._loss = OutputLoss(metric, reference, self._baseline(), self._task.targets is not None)
            return self._loss

    @torch.inference_mode()
    def _outputs(self, asked: Asked, cancel: threading.Event | None, remember: bool) -> list[Tensor]:
        found = []
        for index, part in enumerate(self._parts):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            key = ("sensitivity", index) if remember else None
            batch = self._task.calibration[part].channels_last()
            found.append(selected(self._network.simulation.run(batch, asked, key), self._task.output))
        return found

    def _single(self, quantization: Quantization) -> list[dict[str, LayerSpec]]:
        """All layers at each bit-width in turn; of the bit-widths that the method has."""
        method = _method(quantization)
        if method in self._levels:
            return self._levels[method]
        made = []
        for bits in range(MIN_BITS, MAX_BITS + 1):
            named = {n: {"weight_bits": bits, "activation_bits": bits} for n in self._tried(quantization)}
            try:
                asked = quantization.replace(weight_bits=bits, activation_bits=bits, layers=named)
            except RecipeError:
                continue
            made.append(specs(asked, self._network.layers))
        self._levels[method] = made
        return made

    def _tried(self, quantization: Quantization) -> list[str]:
        """Operands of sums only where the method asks for them: what else is measured does not depend on them."""
        return [
            n for n, layer in self._network.layers.items() if layer.kind != SUM or follows(layer, quantization.sums)
        ]

    def _random(self, quantization: Quantization) -> list[dict[str, LayerSpec]]:
        """Mixes from coarse to fine ones: each draws its bits from a lowest of its own on."""
        levels = self._single(quantization)
        if not levels:
            return []
        random, made = np.random.default_rng(0), []
        for index in range(MIXES):
            lowest = index % max(1, len(levels) - 1)
            alone = random.random() < ALONE
            mix = fp32_of(self._network.layers)
            for name in self._tried(quantization):
                weight, activation = (levels[int(at)][name] for at in random.integers(lowest, len(levels), 2))
                kept = None if alone and random.random() < 0.5 else activation.activation
                mix[name] = LayerSpec(weight.weight, kept)
            made.append(mix)
        return [mix for mix in made if any(any(spec) for spec in mix.values())]

    # Keeping

    def _write(self) -> None:
        content = {
            "format": FORMAT,
            "version": self._version,
            "effects": [[_plain(term), *effect] for term, effect in list(self.effects.items())],
            "mixes": [[[_plain(t) for t in terms], *effect] for terms, effect in list(self.mixes.items())],
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(content).encode())
        except OSError:  # a full or read-only disk costs the next process some seconds, and nothing else
            return

    def _read(self) -> None:
        try:
            content = json.loads(self._file.read_bytes())
            if content["format"] != FORMAT or content["version"] != self._version:
                return
            effects = {_term(plain): _effect(numbers) for plain, *numbers in content["effects"]}
            mixes = {tuple(map(_term, terms)): _effect(numbers) for terms, *numbers in content["mixes"]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # absent, cut off or altered: measured again
            return
        self.effects, self.mixes = effects, mixes
        self.revision += 1


def terms_of(asked: Asked) -> tuple[Term, ...]:
    """The parts of a mix that lie on grids."""
    return tuple(term for spec in asked.values() for term in (spec.weight, spec.activation) if term is not None)


def fp32_of(layers: Sequence[str] | Mapping[str, object]) -> dict[str, LayerSpec]:
    """No layer on any grid."""
    return {name: LayerSpec(None, None) for name in layers}


def _method(quantization: Quantization) -> Quantization:
    """All but bits and layers."""
    return quantization.replace(weight_bits=None, activation_bits=None, layers={})


def _plain(term: Term) -> dict[str, object]:
    return {"kind": "weight" if isinstance(term, WeightSpec) else "activation", **term._asdict()}


def _term(plain: dict[str, object]) -> Term:
    fields = {name: value for name, value in plain.items() if name != "kind"}
    made = (WeightSpec if plain["kind"] == "weight" else ActivationSpec)(**fields)  # type: ignore[arg-type]
    hash(made)
    return made


def _effect(numbers: Sequence[float]) -> Effect:
    effect = Effect(*map(float, numbers))
    if not all(map(math.isfinite, effect)):
        raise ValueError("an effect is a number")
    return effect
