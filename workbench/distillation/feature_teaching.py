"""What a student's hidden layers learn from its teacher's: read by hooks, brought to one width and grid, compared."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.distillation import losses
from workbench.distillation.layer_pairs import Shape, channels_of, evaluating, grid_of, proposed, shapes
from workbench.errors import RecipeError, WorkbenchError, nearest
from workbench.recipe import Features
from workbench.tracing import running

BY_POSITION = ("hints", "attention")
"""Losses that compare what both have at the same place; the others compare examples."""
KEPT_BYTES = 2**29
"""What a teacher's features may take; more of them are computed again for each batch."""
BATCH = 250


class Reader:
    """Keeps what named layers of a network return, each time that it runs."""

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        """
        Args:
            network: Gets hooks, which stay.
            layers: Names of its modules.
        """
        self.features: dict[str, Tensor] = {}
        """By layer, of the latest run; of a layer that is called several times, from its last call."""
        modules = dict(network.named_modules())
        for name in layers:
            modules[name].register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, leaving: Any) -> None:
            if isinstance(leaving, Tensor):
                self.features[name] = leaving

        return hook

    def shape(self, who: str, name: str) -> Shape:
        """Of one example of the latest run.

        Raises:
            WorkbenchError: The layer was not called, or returned something else than a tensor (n, channels, ...).
        """
        if name not in self.features or self.features[name].dim() < 2:
            raise WorkbenchError(
                f"distillation.features.pairs: {name!r} of the {who} returns no tensor (n, channels, ...) that could "
                "be compared; name another layer."
            )
        return tuple(self.features[name].shape[1:])


class FeatureTeaching(nn.Module):
    """The loss of a student's hidden layers; its own parameters are the connectors'.

    Each loss is measured in a unit of its own, so that one weight suits layers and losses of any size: hints in the
    mean square of the teacher's features, attention as a squared distance of two vectors of length 1.
    """

    def __init__(
        self,
        settings: Features,
        student: nn.Module,
        teacher: nn.Module,
        inputs: Tensor,
        seed: int,
        *,
        kept: bool = True,
    ) -> None:
        """
        Args:
            settings: Which loss, how strong, between which layers.
            student: Gets hooks.
            teacher: Is copied: others may run it meanwhile.
            inputs: All that will be learned from, shape (n, ...).
            seed: Of the connectors' initialisation. PyTorch's global random state is left as it is.
            kept: Whether the inputs are always the same, so that the teacher's features can be kept.

        Raises:
            RecipeError: There is no such loss or layer; the layers that there are, are named.
            WorkbenchError: Two layers cannot be compared; their shapes are shown.
        """
        super().__init__()
        self._function = losses.get_feature_loss(settings.loss)
        self._name = settings.loss
        self._weight = settings.weight
        teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        if settings.pairs:
            _require_layers("student", student, settings.pairs)
            _require_layers("teacher", teacher, settings.pairs.values())
        self.pairs = dict(settings.pairs) or proposed(
            settings.loss, shapes(student, inputs[:1]), shapes(teacher, inputs[:1])
        )
        """Student's layer to teacher's."""
        self._student, self._teacher = Reader(student, self.pairs), Reader(teacher, set(self.pairs.values()))
        self._teach = [teacher]  # in a list, or its parameters would count as this module's
        with torch.inference_mode(), running(), evaluating(student):
            student(inputs[:1])
            teacher(inputs[:1])
        self._sizes: list[Shape] = []
        """Positions of the features of a pair, or () where they are left as they are."""
        self.connectors = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for mine, other in self.pairs.items():
                ours, theirs = self._student.shape("student", mine), self._teacher.shape("teacher", other)
                self._sizes.append(_common_size(settings.loss, mine, ours, other, theirs))
                self.connectors.append(_connector(settings.loss, channels_of(ours), channels_of(theirs)))
        told = self._told(inputs[:BATCH])
        self._units = [self._unit(each) for each in told]
        small = kept and sum(each[0].nbytes for each in told) * len(inputs) <= KEPT_BYTES
        self._kept = [torch.cat(parts) for parts in zip(*map(self._told, inputs.split(BATCH)), strict=True)] * small

    def forward(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """The loss of the batch that the student has just seen.

        Args:
            inputs: That batch, shape (n, ...).
            rows: Which of all inputs these are, shape (n,).

        Returns:
            A value per example, shape (n,): the mean over the pairs, times the weight.
        """
        told = [each[rows] for each in self._kept] or self._told(inputs)
        found = []
        for k, (name, theirs) in enumerate(zip(self.pairs, told, strict=True)):
            ours = self.connectors[k](self._at_positions(self._student.features[name], self._sizes[k]))
            found.append(self._function(ours, theirs) / self._units[k])
        return self._weight * torch.stack(found).mean(0)

    def _told(self, inputs: Tensor) -> list[Tensor]:
        """The teacher's features for some inputs, as they are compared; only what the loss looks at."""
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), running():
            self._teach[0](inputs)
        layers = (self._teacher.features[name] for name in self.pairs.values())
        found = [self._at_positions(each, size) for each, size in zip(layers, self._sizes, strict=True)]
        if self._name == "attention":
            return [each.square().mean(1, keepdim=True).sqrt() for each in found]
        return found

    def _at_positions(self, features: Tensor, size: Shape) -> Tensor:
        """Feature maps averaged down to a number of positions; tokens' channels first where attention looks at them."""
        if self._name == "attention" and features.dim() == 3:
            return features.transpose(1, 2)
        if size and size != features.shape[2:]:
            return F.adaptive_avg_pool2d(features, (size[0], size[1]))
        return features

    def _unit(self, told: Tensor) -> float:
        if self._name == "hints":
            return max(float(told.square().mean()), torch.finfo(told.dtype).tiny)
        return 1 / told[0, 0].numel() if self._name == "attention" else 1.0


def _require_layers(who: str, network: nn.Module, names: Iterable[str]) -> None:
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            there = "" if near.startswith("Known") else f" Known: {', '.join(known[:40])}."
            raise RecipeError(f"distillation.features.pairs: the {who} has no layer {name!r}. {near}{there}")


def _common_size(loss: str, mine: str, ours: Shape, other: str, theirs: Shape) -> Shape:
    """Height and width at which two layers are compared, the smaller of each; () where nothing needs to be done."""
    if loss not in BY_POSITION:
        return ()
    images = len(ours) == len(theirs) == 3
    alike = len(ours) == len(theirs) and (images or grid_of(ours) == grid_of(theirs))
    if not alike or (loss == "attention" and not grid_of(ours)):
        raise WorkbenchError(
            f"distillation.features.pairs: {mine!r} of the student returns {ours} per example and {other!r} of the "
            f"teacher {theirs}; {loss} compares position with position"
            f"{', and needs some' if loss == 'attention' else ''}. Name layers that have them alike, or take the loss "
            "'distance', which needs none."
        )
    return tuple(min(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True)) if images else ()


def _connector(loss: str, ours: int, theirs: int) -> nn.Module:
    """What brings a student's features to the teacher's width: nothing, or one linear map at every position."""
    return _Connector(ours, theirs) if loss == "hints" and ours != theirs else nn.Identity()


class _Connector(nn.Module):
    """A 1x1 convolution, for any number of positions: FitNets' regressor in its smallest form."""

    def __init__(self, ours: int, theirs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(ours, theirs)

    def forward(self, features: Tensor) -> Tensor:
        last = features.movedim(1, -1) if features.dim() > 3 else features  # of vectors and tokens they come last
        mapped: Tensor = self.linear(last)
        return mapped.movedim(-1, 1) if features.dim() > 3 else mapped
