"""The student that distillation settings ask for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from workbench.distillation.misfit import misfit
from workbench.distillation.students.depth import drop_blocks
from workbench.distillation.students.low_rank import factorize
from workbench.distillation.students.reduced import Reduced, finished, layers_of, run
from workbench.distillation.students.separable import separate
from workbench.distillation.students.width import narrow
from workbench.errors import RecipeError, WorkbenchError, nearest
from workbench.recipe import Distillation

Own = nn.Module | Callable[[], nn.Module]
"""A user's own student, or a function that makes one."""


def make_student(
    model: nn.Module, example: Tensor, settings: Distillation, own: Mapping[str, Own] | None = None
) -> Reduced:
    """Make the student of some settings; the same settings and model give the same one.

    Args:
        model: Gives the student its form and, where asked, its first weights; left as it is.
        example: A batch of inputs, shape (n, ...), floating point.
        settings: What was chosen.
        own: Students that are no form of the model, by name. A function is called with the random state of the
            seed; a module begins with the weights that it has.

    Raises:
        RecipeError: There is no own student of that name.
        WorkbenchError: The form cannot be made of the model, or would leave it as large as it is; the text says why.
    """
    if settings.student is not None:
        return _own(model, example, settings, own or {})
    if settings.form == "width":
        layers = dict(settings.layers)
        reduced = narrow(model, example, settings.width, settings.seed, layers, settings.initial)
        share = min((settings.width, *layers.values()))
    else:
        makers = {
            "depth": lambda: drop_blocks(model, example, settings.depth),
            "separable": lambda: separate(model, example),
            "low_rank": lambda: factorize(model, example, settings.rank),
        }
        reduced = makers[settings.form]()
        share = {"depth": settings.depth, "low_rank": settings.rank}.get(settings.form, 0.0)
        if settings.initial == "random":
            reduced = reduced._replace(fresh=initialise(reduced.module, settings.seed))
    if not reduced.changed and share < 1:
        raise WorkbenchError(
            f"Nothing of {type(model).__name__} can be reduced by form = {settings.form!r}: "
            f"{'; '.join(in_words(reduced.kept)) or 'it has no Linear layer and no convolution'}. Choose another form."
        )
    return reduced


def initialise(module: nn.Module, seed: int) -> tuple[str, ...]:
    """New values for all layers, in place, as their classes choose them.

    Args:
        module: Of any kind.
        seed: Of the values. PyTorch's global random state is left as it is.

    Returns:
        Modules with parameters whose class does not say how they begin: these keep what they have.
    """
    kept = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif any(value is not None for value in part._parameters.values()):
                kept.append(name)
    return tuple(kept)


def in_words(kept: Mapping[str, str]) -> list[str]:
    """``conv1, conv2: reason``, a reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in kept.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}: {reason}"
        for reason, names in by_reason.items()
    ]


def _own(model: nn.Module, example: Tensor, settings: Distillation, own: Mapping[str, Own]) -> Reduced:
    name = settings.student or ""
    if name not in own:
        raise RecipeError(f"distillation.student: there is no student {name!r}. {nearest(name, own)}")
    given = own[name]
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        made = copy.deepcopy(given if isinstance(given, nn.Module) else given())
        if not isinstance(made, nn.Module):
            raise WorkbenchError(f"The student {name!r} is a {type(made).__name__}; a torch.nn.Module is needed.")
        ours = run(copy.deepcopy(model).eval(), example).output
        try:
            theirs = run(made.eval(), example).output
        except WorkbenchError as error:
            raise WorkbenchError(
                f"The student {name!r} does not take what the model takes. The model: {tuple(example.shape[1:])} per "
                f"example. The student: {misfit(made, example) or error}."
            ) from error
        if theirs != ours:
            raise WorkbenchError(
                f"For an example of shape {tuple(example.shape[1:])}, the student {name!r} returns {theirs[1:]} and "
                f"the model {ours[1:]}; both need the same classes."
            )
        fresh = _same(made, model) if settings.initial == "model" else ()
        return finished(Reduced(made, tuple(layers_of(made)), {}, fresh), example, ours, model.training)


@torch.no_grad()
def _same(made: nn.Module, model: nn.Module) -> tuple[str, ...]:
    """Copy what has the same name and shape; returns the layers that the model has no values for."""
    values, fresh = model.state_dict(), []
    for name, tensor in made.state_dict().items():
        if name in values and values[name].shape == tensor.shape:
            tensor.copy_(values[name])
        else:
            fresh.append(name.rpartition(".")[0])
    return tuple(dict.fromkeys(fresh))
