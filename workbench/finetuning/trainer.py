"""Trains a network on its grids, epoch after epoch, so that it can be stopped, killed and gone on with."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workbench.checkpoints import NOT_KEPT, moments, set_moments
from workbench.errors import WorkbenchError
from workbench.finetuning.checkpoint import Checkpoint, Finetuned, Position
from workbench.finetuning.twin import Twin, Widths, restore
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.recipe import Finetuning
from workbench.report import Estimate

EXAMPLES_BETWEEN = 4000
"""Examples that are trained on between two evaluations. Counted in examples, not in seconds: the weights that are
kept must not depend on the speed of the machine."""
SECONDS_BETWEEN = 0.2
PAUSE_SECONDS = 0.05
"""Between two looks whether a pause is over."""
STEP_RATE = 3.0
"""Learning rate of the logarithms of steps, as a multiple of that of the weights."""
WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""
LARGEST_GRADIENT = 5.0
"""Norm of the gradient of all weights together; longer ones are shortened."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""(the network's measured output for a batch, indices of its examples) -> a scalar to make smaller."""
Score = Callable[[bool], Estimate]
"""Accuracy on held-out examples: on some, or (True) on all of them."""


@dataclass(frozen=True)
class Progress:
    """How far a fine-tuning is."""

    step: int
    """Optimizer steps taken."""
    steps: int
    """In all."""
    epoch: int
    """Epochs that are done."""
    epochs: int
    seconds: float
    """Spent on training, also by an earlier process."""
    samples_per_second: float
    """Training examples, by this process."""
    accuracy: Estimate | None
    """Of the quantized network on held-out training examples, never test examples."""
    loss: float
    """Of the latest batch; NaN before the first one."""
    done: bool = False
    cancelled: bool = False
    resumed: bool = False
    """Whether it goes on from an epoch of an earlier process."""
    note: str = ""
    """A sentence that a reader of the curve has to know, or nothing."""
    paused: bool = False
    """Whether it holds until `pause` is cleared."""

    @property
    def kept(self) -> bool:
        """Whether there is something to keep of a training that was stopped here."""
        return self.step > 0


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is learned."""

    inputs: Inputs
    objective: Objective
    selected: Callable[[object], Tensor]
    """The measured part of what the network returns."""
    score: Score
    higher_is_better: bool
    widths: Sequence[Widths]
    """Bits that the network is to be good at, all on each batch."""
    batch: int


def finetune(
    twin: Twin,
    lesson: Lesson,
    settings: Finetuning,
    cancel: threading.Event | None = None,
    checkpoint: Checkpoint | None = None,
    pause: threading.Event | None = None,
) -> Generator[Progress, None, Finetuned]:
    """Train weights, biases and steps together with Adam, the learning rate rising at first and falling to zero.

    Several widths learn from the same batch, and their gradients are added up (the joint training of Yu et al.,
    "Any-Precision Deep Neural Networks", 2021), each on grids of its own.

    Args:
        twin: Is trained in place.
        lesson: Data, loss and score.
        settings: What was chosen.
        cancel: Stops before the next step.
        checkpoint: Where every epoch's end is kept, and gone on from.
        pause: While it is set, the training holds before the next step; that time does not count.

    Yields:
        At least five times a second where a step is no longer than that, also in a pause, and at every epoch's end,
        once it is kept.
        The last one has ``done=True``, also after a cancel or where the loss is no number any more
        (`Progress.note` says so).

    Returns:
        What was learned; after a cancel or a failure, the best on held-out examples until then. The same settings,
        data and thread count give the same bits, also where it was interrupted in between.

    Raises:
        WorkbenchError: No gradient comes back through the model.
    """
    training = _Training(twin, lesson, settings, checkpoint)
    spoken = 0.0
    for epoch in range(training.epoch, settings.epochs):
        for index in training.order(epoch):
            due = training.step % training.between == 0
            if due and not _is_set(cancel):
                training.evaluate()
            if due or time.perf_counter() - spoken >= SECONDS_BETWEEN:
                spoken = time.perf_counter()
                yield training.progress()
            if _is_set(pause):
                yield from _held(training, cancel, pause)
            if _is_set(cancel):
                training.return_to_best()
                yield replace(training.progress(), done=True, cancelled=True)
                return training.finished(cancelled=True)
            if not math.isfinite(training.learn(index)):
                training.return_to_best()
                yield replace(training.progress(), done=True, note=training.diverged())
                return training.finished(cancelled=True)
        training.epoch = epoch + 1
        if training.epoch < settings.epochs:
            training.keep()
            yield training.progress()
    training.accuracy = lesson.score(True)
    yield replace(training.progress(), done=True)
    return training.finished(cancelled=False)


def _held(training: _Training, cancel: threading.Event | None, pause: threading.Event | None) -> Generator[Progress]:
    training.hold()
    spoken = 0.0
    while _is_set(pause) and not _is_set(cancel):
        if time.perf_counter() - spoken >= SECONDS_BETWEEN:
            spoken = time.perf_counter()
            yield replace(training.progress(), paused=True)
        time.sleep(PAUSE_SECONDS)
    training.go_on()


class _Training:
    """The state of one training."""

    def __init__(self, twin: Twin, lesson: Lesson, settings: Finetuning, checkpoint: Checkpoint | None) -> None:
        self.step = self.epoch = 0
        self.accuracy: Estimate | None = None
        self.between = -(-EXAMPLES_BETWEEN // lesson.batch)
        self._twin = twin
        self._lesson = lesson
        self._settings = settings
        self._checkpoint = checkpoint
        self._resumed, self._note, self._loss = False, "", math.nan
        self._best, self._best_parts = -math.inf, _copies(twin.parts())
        weights, steps = twin.learning()
        self._weights = weights
        self._parameters = {name: p for name, p in twin.named_parameters() if p.requires_grad}
        rates = [(weights, 1.0), (steps, STEP_RATE)]
        groups = [{"params": list(each), "rate": rate} for each, rate in rates if each]
        self._optimizer = torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)
        self._each = len(lesson.inputs.batches(torch.arange(len(lesson.inputs)), lesson.batch))
        self.steps = settings.epochs * self._each
        self._spent, self._measured, self._seen = 0.0, 0.0, 0
        self._started: float | None = time.perf_counter()  # None while it holds
        self._resume()

    def order(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch, by seed and epoch alone."""
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + epoch)
        inputs = self._lesson.inputs
        return inputs.batches(torch.randperm(len(inputs), generator=generator), self._lesson.batch)

    def learn(self, index: Tensor) -> float:
        """One optimizer step.

        Returns:
            The loss before it.
        """
        lesson, rate = self._lesson, self._settings.learning_rate * _share(self.step / max(self.steps, 1))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self._optimizer.zero_grad()
        batch, total = lesson.inputs[index].channels_last(), 0.0
        with torch.inference_mode(False), torch.enable_grad():
            for widths in lesson.widths:
                with seeded(self._settings.seed + self.step):
                    loss = lesson.objective(lesson.selected(self._twin(batch, widths)), index) / len(lesson.widths)
                if not loss.requires_grad:
                    raise WorkbenchError(
                        "No gradient comes back through this model, so it cannot be fine-tuned: look for "
                        "`torch.no_grad`, `.detach()` or numpy in its forward."
                    )
                loss.backward()
                total += loss.item()
        self._loss = total
        norm = torch.nn.utils.clip_grad_norm_(self._weights, LARGEST_GRADIENT)
        if not math.isfinite(total) or not math.isfinite(norm):
            return math.nan
        self._optimizer.step()
        self.step += 1
        self._seen += len(index)
        return total

    def evaluate(self) -> None:
        """Measure on some held-out examples, and remember the parameters if none were better."""
        self.accuracy = self._lesson.score(False)
        score = self.accuracy.value if self._lesson.higher_is_better else -self.accuracy.value
        if score >= self._best:
            self._best, self._best_parts = score, _copies(self._twin.parts())

    def return_to_best(self) -> None:
        """Have the best parameters until now."""
        restore(self._twin, self._best_parts)

    def keep(self) -> None:
        """Write where it is; what prevents it goes into the note, and the training goes on."""
        if self._checkpoint is None:
            return
        tensors = {f"parts.{name}": value for name, value in self._twin.parts().items()}
        tensors |= {f"best.{name}": value for name, value in self._best_parts.items()}
        tensors |= moments(self._optimizer, {id(p): name for name, p in self._parameters.items()})
        try:
            self._checkpoint.save(Position(self.epoch, self.step, self._seconds, self._best, tensors))
            self._note = ""
        except OSError as error:
            self._note = NOT_KEPT.format(error=error)

    def diverged(self) -> str:
        """What is said when the loss is no number any more."""
        return (
            f"The loss became {self._loss} at step {self.step} of {self.steps}; the best weights until then are used. "
            f"Try a learning rate below {self._settings.learning_rate:g}, or look for extreme values in the training "
            "inputs."
        )

    def progress(self) -> Progress:
        """Where it is."""
        return Progress(
            step=self.step,
            steps=self.steps,
            epoch=self.epoch,
            epochs=self._settings.epochs,
            seconds=self._seconds,
            samples_per_second=self._seen / max(self._here, 1e-9),
            accuracy=self.accuracy,
            loss=self._loss,
            resumed=self._resumed,
            note=self._note,
        )

    def finished(self, *, cancelled: bool) -> Finetuned:
        """What was learned."""
        grids = {slot: grid.made() for slot, grid in self._twin.held.items()}
        return Finetuned(self._twin.weights(), grids, self._twin.shapes, self.step, self._seconds, cancelled)

    def hold(self) -> None:
        """Let the clock stand still."""
        self._measured, self._started = self._here, None

    def go_on(self) -> None:
        """Let the clock run again."""
        self._started = time.perf_counter()

    @property
    def _here(self) -> float:
        """Seconds of training in this process."""
        return self._measured + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def _seconds(self) -> float:
        return self._spent + self._here

    def _resume(self) -> None:
        position = self._checkpoint.load() if self._checkpoint else None
        if position is None or position.step != position.epoch * self._each or position.epoch >= self._settings.epochs:
            return
        tensors = position.tensors
        before = _copies(self._twin.parts())
        try:
            best = {name: tensors[f"best.{name}"] for name in before}
            restore(self._twin, {name: tensors[f"parts.{name}"] for name in before})
            set_moments(self._optimizer, self._parameters, tensors)
        except (KeyError, ValueError):  # of another version: it begins anew
            restore(self._twin, before)
            self._optimizer.state.clear()
            return
        self.epoch, self.step, self._spent = position.epoch, position.step, position.seconds
        self._best, self._best_parts, self._resumed = position.best, best, True


def _share(done: float) -> float:
    """Of the highest learning rate: up along a line, down along a cosine."""
    if done < WARM_UP:
        return (done + 0.1 * WARM_UP) / (1.1 * WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _copies(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in parts.items()}


def _is_set(cancel: threading.Event | None) -> bool:
    return cancel is not None and cancel.is_set()
