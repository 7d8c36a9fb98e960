"""What of a module a user could see change."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def fingerprint(module: nn.Module) -> dict[str, Any]:
    """Everything that must be as it was: values, identities, flags, gradients, hooks, and the random generator."""
    seen: dict[str, Any] = {"random": torch.get_rng_state().tolist(), "threads": torch.get_num_threads()}
    seen["grad mode"] = torch.is_grad_enabled()
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        gradient = tensor.grad
        seen[f"tensor {name}"] = (
            id(tensor),
            tensor.data_ptr(),
            tensor.detach().cpu().reshape(-1).view(torch.uint8).tolist(),
            tensor.dtype,
            tensor.device,
            tensor.stride(),
            tensor.requires_grad,
            None if gradient is None else gradient.tolist(),
        )
    for name, part in module.named_modules(remove_duplicate=False):
        attributes = {key: id(value) for key, value in vars(part).items()}
        hooks = {kind: [(key, id(hook)) for key, hook in getattr(part, kind).items()] for kind in HOOKS}
        # parametrisations make classes of their own; copying notes the slots of one
        own = {key: id(value) for key, value in vars(type(part)).items() if key != "__slotnames__"}
        seen[f"module {name}"] = (id(part), type(part), part.training, sorted(attributes), attributes, hooks, own)
    return seen
