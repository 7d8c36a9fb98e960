"""Networks that were trained on their grids: made on demand, kept on disk, found again."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.distillation.losses import kd
from workbench.errors import Cancelled, RecipeError, WorkbenchError, nearest
from workbench.evaluation import Outcomes
from workbench.finetuning.checkpoint import Checkpoint, Finetuned
from workbench.finetuning.lsq import TrainedGrid, trained
from workbench.finetuning.trainer import Lesson, Objective, Progress, finetune
from workbench.finetuning.twin import Slot, Twin, Widths
from workbench.inputs import Inputs
from workbench.metrics import TopK
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import Finetuning, LayerOverride, Quantization, Recipe
from workbench.report import Estimate
from workbench.statistics import Resampling
from workbench.task import Task, TrainingData
from workbench.waiting import alone

SHOWN = 1000
"""Held-out examples of each point of the curve; the last point rests on all."""
BATCH = 100
TEMPERATURE = 2.0
"""Of the teacher's classes in the loss."""
KEPT_OUTPUTS = 256 * 2**20
"""Bytes of the teacher's outputs that are computed once; larger ones are computed again for each batch."""
MADE_BY = "1"
"""Part of a file's name; to be raised when the trainer would make other weights."""
TINY = 1e-30
TOUCHING = 1e-4
"""Values on one grid that differ by less are the same: a step was held as its logarithm."""

Base = Callable[[Recipe, threading.Event | None], Network]
"""Gives the network that a recipe without fine-tuning quantizes."""
Teachers = Mapping[str, Callable[[], Network]]
"""Who can teach beside the network itself, made when it is needed."""


class FinetunedNetworks:
    """All fine-tuned networks of one model on one task."""

    def __init__(self, base: Base, task: Task, folder: Path, teachers: Teachers | None = None) -> None:
        """
        Args:
            base: The model's own network, its student's, or an equalised one.
            task: With training data, or nothing can be trained.
            folder: Of the store.
            teachers: By the names that `Finetuning.teacher` takes.
        """
        self._base = base
        self._teachers = dict(teachers or {})
        self._task = task
        self._folder = folder / "finetuned"
        self._found: dict[str, Network] = {}
        self._lock = threading.Lock()

    @property
    def available(self) -> int:
        """Training examples beside the held-out ones; 0 where nothing can be trained."""
        return 0 if self._task.training is None else self._training.size - self._training.held_out

    @property
    def _training(self) -> TrainingData:
        return self._task.training  # type: ignore[return-value]  # looked at first

    def check(self, recipe: Recipe, network: Network) -> None:
        """Whether a recipe can be fine-tuned.

        Args:
            recipe: With `Recipe.finetuning`.
            network: Of the model on the bench; a student has the same layers.

        Raises:
            RecipeError: What is wrong with which field, and what is allowed.
        """
        settings, quantization = _settings(recipe), recipe.quantization
        if network.graph_only:
            raise RecipeError(
                "finetuning: this model is an ONNX graph, through which no gradient comes back. Load it as a PyTorch "
                "module, or choose a method such as quantization.method='quantease'."
            )
        if self.available <= 0:
            raise RecipeError(
                "finetuning: this task has no training examples; give the Task `training=(inputs, targets)`."
            )
        if settings.images > self.available:
            raise RecipeError(
                f"finetuning.images = {settings.images}: the task has {self.available:,} to train on, beside "
                f"{self._training.held_out:,} that are held out."
            )
        if settings.teacher is not None and settings.teacher not in self._teachers:
            raise RecipeError(
                f"finetuning.teacher: there is no teacher {settings.teacher!r}. "
                f"{nearest(settings.teacher, self._teachers)}"
            )
        if settings.teacher is not None and settings.distillation == 0:
            raise RecipeError(
                f"finetuning.distillation = 0: the teacher {settings.teacher!r} has no share in the loss. Choose one "
                "above 0, or leave the teacher out."
            )
        if quantization.method == "naive":
            raise RecipeError(
                "finetuning: the naive quantizer has no step that could be learned. Choose another quantization.method."
            )
        asked = specs(quantization, network.layers)
        if not any(any(spec) for spec in asked.values()):
            raise RecipeError("finetuning: the recipe quantizes no layer; choose quantization.weight_bits first.")
        others = sorted({spec.weight.bits for spec in asked.values() if spec.weight} - set(settings.nested))
        if settings.nested and others:
            raise RecipeError(
                f"finetuning.nested = {settings.nested}: the recipe has weights of {', '.join(map(str, others))} bits, "
                "which are not among them."
            )

    def check_control(self) -> None:
        """Whether there are labels that a network could learn from without a teacher.

        Raises:
            RecipeError: There are none.
        """
        if self.available <= 0 or self._task.targets is None or not _are_classes(self._training.tensors[1]):
            raise RecipeError(
                "finetuning: without a teacher there is nothing to learn from here; a control needs a task whose "
                "training examples have classes."
            )

    def teacher(self, recipe: Recipe, cancel: threading.Event | None = None) -> Network:
        """Whose outputs a recipe's network learns from: the named teacher, or what the recipe quantizes, in fp32."""
        return self._teacher(_settings(recipe)) or self._base(_untrained(recipe), cancel)

    def known(self, recipe: Recipe) -> bool:
        """Whether it was made already, here or in an earlier process."""
        key = self._key(recipe, None)
        return key in self._found or self._path(key).exists()

    def get(self, recipe: Recipe, cancel: threading.Event | None = None) -> Network:
        """The fine-tuned network; trains it where that was not done yet.

        Raises:
            Cancelled: `cancel` was set before it had learned anything to keep.
        """
        key = self._key(recipe, cancel)
        if key not in self._found:
            for _ in self.train(recipe, cancel):
                pass
        if key not in self._found:
            raise Cancelled
        return self._found[key]

    def train(
        self, recipe: Recipe, cancel: threading.Event | None = None, pause: threading.Event | None = None
    ) -> Iterator[Progress]:
        """Fine-tune, go on from the last epoch of a training that was interrupted, or find what was made.

        What a cancelled training made is used in this process and not kept as finished: to train again goes on
        from its last epoch.

        Raises:
            Cancelled: `cancel` was set while another training went on.
        """
        settings = _settings(recipe)
        with alone(self._lock, cancel):  # one training at a time; a second one of the same recipe finds the first
            base = self._base(_untrained(recipe), cancel)
            key = self._key(recipe, cancel)
            done = self._load(key, base)
            if done is not None:
                epochs = settings.epochs
                yield Progress(done.steps, done.steps, epochs, epochs, done.seconds, 0.0, None, math.nan, done=True)
                return
            yield Progress(0, 1, 0, settings.epochs, 0.0, 0.0, None, math.nan)  # what follows takes seconds
            checkpoint = Checkpoint(self._path(key).with_suffix(".epoch.safetensors"), key)
            try:
                twin, lesson = self._prepared(recipe, base, cancel)
            except Cancelled:
                yield Progress(0, 1, 0, settings.epochs, 0.0, 0.0, None, math.nan, done=True, cancelled=True)
                return
            training = finetune(twin, lesson, settings, cancel, checkpoint, pause)
            while True:
                try:
                    progress = next(training)
                except StopIteration as end:
                    made: Finetuned = end.value
                    break
                if progress.done:
                    last = progress
                else:
                    yield progress
            if not made.cancelled:
                with contextlib.suppress(OSError):  # a full or read-only disk: it lives on in memory
                    made.save(self._path(key))
                    checkpoint.remove()
            if last.kept:
                self._found[key] = base.retrained(made.weights, made.grids)
            yield last

    def _prepared(self, recipe: Recipe, base: Network, cancel: threading.Event | None) -> tuple[Twin, Lesson]:
        settings = _settings(recipe)
        plain = explicit(recipe.quantization, base)
        grids: dict[Slot, TrainedGrid] = {}
        widths: list[Widths] = []
        for bits in settings.nested or (None,):
            asked = specs(plain if bits is None else _with_weights(plain, bits), base.layers)
            base.prepare(asked, cancel)
            width: dict[str, tuple[int | None, int | None]] = {}
            for name, spec in asked.items():
                made = base.quantizer.layer(name, spec)
                if spec.weight and made.weight_grid is not None:
                    grids.setdefault((name, "weight", spec.weight.bits), trained(made.weight_grid))
                if spec.activation and made.activation_grid is not None:
                    grids.setdefault((name, "activation", spec.activation.bits), trained(made.activation_grid))
                width[name] = (
                    spec.weight.bits if spec.weight else None,
                    spec.activation.bits if spec.activation else None,
                )
            widths.append(width)
        twin = Twin(base.module, {n: layer for n, layer in base.layers.items() if any(widths[0][n])}, grids)
        if plain.informed and not settings.nested:
            _begin_rounded(twin, base, specs(plain, base.layers))
        return twin, self._lesson(settings, base, twin, widths, cancel)

    def _lesson(
        self, settings: Finetuning, base: Network, twin: Twin, widths: list[Widths], cancel: threading.Event | None
    ) -> Lesson:
        read, targets = self._training.tensors
        everything = Inputs.of(read, "training inputs").single()
        inputs, output = everything[: settings.images], self._task.output
        batch = min(BATCH, base.batch)
        reference = _Outputs(self._teacher(settings) or base, inputs, batch, cancel)
        metric = self._task.metrics_for(reference.example)[0]
        classes = isinstance(metric, TopK) and reference.example.dim() == 2
        told = targets if classes and self._task.targets is not None and _are_classes(targets) else None
        held = slice(len(everything) - self._training.held_out, None)
        kept = everything[held]
        scored = self._task.targets is not None
        wanted = targets[held] if scored else _Outputs(base, kept, batch, cancel).all()

        @torch.no_grad()
        def score(whole: bool) -> Estimate:
            count = len(kept) if whole else min(SHOWN, len(kept))
            parts = kept.batches(torch.arange(count), batch)
            rows = [
                metric.statistics(selected(twin(kept[i].channels_last(), widths[0]), output), wanted[i]) for i in parts
            ]
            order = torch.cat(parts)
            return Outcomes((metric,), (torch.cat(rows),), Resampling(count), torch.arange(count)[order]).accuracy()

        return Lesson(
            inputs=inputs,
            objective=_objective(settings.distillation, reference, told, classes),
            selected=lambda given: selected(given, output),
            score=score,
            higher_is_better=metric.info.higher_is_better,
            widths=widths,
            batch=batch,
        )

    def _teacher(self, settings: Finetuning) -> Network | None:
        """Who teaches in the place of the network in fp32.

        Raises:
            WorkbenchError: It does not take the model's inputs, or returns other classes.
        """
        return None if settings.teacher is None else self._teachers[settings.teacher]()

    def _key(self, recipe: Recipe, cancel: threading.Event | None) -> str:
        base = self._base(_untrained(recipe), cancel)
        settings = _settings(recipe)
        quantization = explicit(recipe.quantization, base)
        if settings.nested:  # one network for all of these widths
            quantization = _with_weights(quantization, max(filter(None, settings.nested)))
        told: tuple[str, ...] = (
            MADE_BY,
            settings.model_dump_json(),
            quantization.model_dump_json(),
            base.key,
            self._task.key,
            self._task.training_key,
        )
        teacher = self._teacher(settings)
        if teacher is not None:
            told = (*told, teacher.key)
        return hashlib.sha256(" ".join(told).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _load(self, key: str, base: Network) -> Finetuned | None:
        try:
            made = Finetuned.load(self._path(key))
        except (OSError, WorkbenchError):  # missing, truncated or altered: it is trained again
            return None
        if key not in self._found:
            self._found[key] = base.retrained(made.weights, made.grids)
        return made


class _Outputs:
    """What a network in fp32 gives for each training example, computed once where that fits into memory."""

    def __init__(self, network: Network, inputs: Inputs, batch: int, cancel: threading.Event | None) -> None:
        self._network, self._inputs, self._batch = network, inputs, batch
        self.example = self._of(inputs.batches(torch.arange(len(inputs)), batch)[0])
        """Of the first batch."""
        if not self.example.is_floating_point():
            raise WorkbenchError("finetuning: the model's output are whole numbers, through which nothing is learned.")
        fits = self.example.nbytes / len(self.example) * len(inputs) <= KEPT_OUTPUTS
        self._kept = self.all(cancel) if fits and inputs.uniform else None

    def __call__(self, index: Tensor) -> Tensor:
        """Of some examples, shape (k, ...)."""
        return self._of(index) if self._kept is None else self._kept[index]

    def all(self, cancel: threading.Event | None = None) -> Tensor:
        """Of all examples, in their order.

        Raises:
            Cancelled: `cancel` was set.
        """
        made: list[Tensor] = []
        order = self._inputs.batches(torch.arange(len(self._inputs)), self._batch)
        for part in order:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            made.append(self._of(part))
        found = torch.cat(made)
        in_order = torch.empty_like(found)
        in_order[torch.cat(order)] = found
        return in_order

    def _of(self, index: Tensor) -> Tensor:
        with torch.inference_mode(False):  # plain tensors, which training may read
            return self._network.call(self._inputs[index].channels_last()).clone()


def explicit(quantization: Quantization, network: Network) -> Quantization:
    """The same with the bits of each layer by its name: recipes that ask the same of a network become equal."""
    layers = {
        name: LayerOverride(
            weight_bits=spec.weight.bits if spec.weight else None,
            activation_bits=spec.activation.bits if spec.activation else None,
            **({"scheme": own} if (own := quantization.scheme_for(name)) != quantization.scheme else {}),
        )
        for name, spec in specs(quantization, network.layers).items()
    }
    return quantization.replace(weight_bits=None, activation_bits=None, layers=layers)


def _with_weights(quantization: Quantization, bits: int) -> Quantization:
    """All quantized weights of an `explicit` one at other bits."""
    layers = {
        name: own.replace(weight_bits=bits if own.weight_bits else None) for name, own in quantization.layers.items()
    }
    return quantization.replace(layers=layers)


@torch.no_grad()
def _begin_rounded(twin: Twin, base: Network, asked: Mapping[str, LayerSpec]) -> None:
    """Begin where a method left the network that looks at data: what it rounded otherwise than to nearest moves."""
    own = dict(twin.module.named_parameters())
    for name, spec in asked.items():
        layer = base.layers[name]
        for key, value in base.quantizer.parameters(name, spec).items():
            if key == layer.weight_name and spec.weight is not None:
                nearest = twin.held[name, "weight", spec.weight.bits].fake_quantize(own[key])
                step = (value - nearest).abs()
                own[key].copy_(torch.where(step <= TOUCHING * value.abs(), own[key], value))
            elif key in own:
                own[key].copy_(value)


def _objective(share: float, reference: _Outputs, targets: Tensor | None, classes: bool) -> Objective:
    """How far outputs are from those of the teacher in fp32 and, by the rest of the share, from the labels."""

    def taught(outputs: Tensor, index: Tensor) -> Tensor:
        wanted = reference(index)
        if classes:
            return kd(outputs, wanted, TEMPERATURE).mean()
        return (outputs - wanted).square().mean() / wanted.square().mean().clamp(min=TINY)

    def told(outputs: Tensor, index: Tensor) -> Tensor:
        if targets is None or share == 1:
            return taught(outputs, index)
        right = F.cross_entropy(outputs, targets[index])
        return right if share == 0 else share * taught(outputs, index) + (1 - share) * right

    return told


def _are_classes(targets: Tensor) -> bool:
    return targets.dim() == 1 and not targets.is_floating_point()


def _settings(recipe: Recipe) -> Finetuning:
    if recipe.finetuning is None:
        raise RecipeError("finetuning: the recipe has none; give it `finetuning=Finetuning()`.")
    return recipe.finetuning


def _untrained(recipe: Recipe) -> Recipe:
    return recipe.replace(finetuning=None)
