"""What students of one model learn from, and what they are measured on while they do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from workbench.distillation import losses
from workbench.distillation.asking import Teacher
from workbench.distillation.augmenting import require_images
from workbench.distillation.goal import CLASSES, Goal, MetricScore
from workbench.distillation.objective import require_loss
from workbench.distillation.teacher import mean_of, outputs_of
from workbench.errors import RecipeError
from workbench.metrics import TopK
from workbench.network import Network
from workbench.recipe import Distillation
from workbench.task import HELD_OUT, Task


class Lessons:
    """A task's training part, for one model."""

    def __init__(self, network: Network, task: Task) -> None:
        """
        Args:
            network: The model that students take their form from.
            task: Without training data there is nothing to learn from.
        """
        self._network = network
        self._task = task

    @property
    def available(self) -> int:
        """Training examples beside those that are held out; 0 where no student can be trained."""
        if self._task.training is None or len(self._task.inputs.columns) > 1:
            return 0
        return self._task.training.size - self._task.training.held_out

    @cached_property
    def goal(self) -> Goal:
        """What the outputs are, and how good they are: top-1 accuracy, or the task's own metric."""
        outputs = self._network.call(self._network.example)
        metric = self._task.metrics_for(outputs)[0]
        if isinstance(metric, TopK) and outputs.dim() == 2:
            return CLASSES
        return Goal(False, MetricScore(metric), metric.info.higher_is_better)

    def require_module(self) -> None:
        """Refuse models that no student can be made of.

        Raises:
            RecipeError: It is a graph, or takes several inputs.
        """
        if self._network.graph_only or len(self._network.example.columns) > 1:
            what = "an ONNX graph" if self._network.graph_only else "a model of several inputs"
            raise RecipeError(f"No student is made of {what}; load a torch module that takes one tensor.")

    def check(self, settings: Distillation) -> None:
        """Whether there are data for these settings, and whether the losses are some for them.

        Raises:
            RecipeError: What is wrong with which field, and what is allowed.
        """
        self.require_module()
        if not self.available:
            raise RecipeError(
                "distillation: this task has no training examples, or a single one; give the Task "
                f"`training=(inputs, targets)` with more of them. A tenth, at most {HELD_OUT:,}, is held out."
            )
        require_loss(settings, classes=self.goal.classes)
        require_images(settings, self._network.example.tensors[0])
        if settings.features:
            losses.get_feature_loss(settings.features.loss)
        if settings.images > self.available:
            raise RecipeError(f"distillation.images = {settings.images}: the task has {self.available:,} to train on.")
        if settings.labels > settings.images:
            raise RecipeError(
                f"distillation.labels = {settings.labels}: at most as many as images can have one, "
                f"and these are {settings.images:,}."
            )

    @property
    def has_targets(self) -> bool:
        """Whether something is known to be right."""
        return self._task.targets is not None and self._tensors[1].numel() > 0

    def training(self, settings: Distillation) -> tuple[Tensor, Tensor]:
        """Inputs and targets that these settings learn from."""
        inputs, targets = self._tensors
        return inputs[: settings.images], targets[: settings.images]

    def validation(self, teachers: Sequence[Teacher]) -> tuple[Tensor, Tensor]:
        """Held-out inputs and what is right for them: the targets, or else what the teachers say."""
        inputs, targets = self._tensors
        rest = slice(len(inputs) - self._task.training.held_out, None)  # type: ignore[union-attr]
        if self.has_targets:
            return inputs[rest], targets[rest]
        classes = self.goal.classes
        said = mean_of([outputs_of(each.module, inputs[rest]) for each in teachers], 1.0 if classes else None)
        return inputs[rest], said.argmax(1) if classes else said

    @property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return self._task.training.tensors  # type: ignore[union-attr]
