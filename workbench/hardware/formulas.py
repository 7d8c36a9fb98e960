"""MACs of the operators that `torch.utils.flop_counter` counts as nothing.

In torch 2.13 these are attention on the CPU (fused or within `nn.MultiheadAttention`'s fast path), recurrent layers
in oneDNN, products with a vector, `nn.Bilinear`, and everything with weights that are quantized already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

Formula = Callable[[Sequence[Any], Any], int]
"""Takes an operator's arguments, all by position, and what it returned; gives MACs."""


def attention(args: Sequence[Any], _: Any) -> int:
    """Queries (…, T, D), keys (…, S, D), values (…, S, V): T·S·D for the scores and T·S·V for their sum, each head."""
    queries, keys, values = args[:3]
    heads = math.prod(queries.shape[:-2])
    return heads * queries.shape[-2] * keys.shape[-2] * (queries.shape[-1] + values.shape[-1])


def multi_head_attention(args: Sequence[Any], _: Any) -> int:
    """The fast path of `nn.MultiheadAttention`: query (B, T, E), key and value (B, S, E)."""
    batch, steps, width = args[0].shape
    return _heads(batch, steps, args[1].shape[1], width)


def encoder_layer(args: Sequence[Any], _: Any) -> int:
    """The fast path of `nn.TransformerEncoderLayer`: source (B, T, E), then among others two weights of E·F."""
    batch, steps, width = args[0].shape
    feedforward = sum(weight.numel() for weight in _matrices(args) if width in weight.shape) - 4 * width * width
    return _heads(batch, steps, steps, width) + batch * steps * feedforward


def _heads(batch: int, steps: int, keys: int, width: int) -> int:
    projections = 2 * steps * width**2 + 2 * keys * width**2
    return batch * (projections + 2 * steps * keys * width)


def _matrices(args: Sequence[Any]) -> list[Tensor]:
    return [each for each in args[1:] if isinstance(each, Tensor) and each.dim() == 2 and each.is_floating_point()]


def recurrent_layer(args: Sequence[Any], _: Any) -> int:
    """One direction of one layer, input (T, B, I): every step multiplies by both weights."""
    steps, batch = args[0].shape[:2]
    return steps * batch * (args[1].numel() + args[2].numel())


def matrix_vector(args: Sequence[Any], _: Any) -> int:
    """(M, N) by (N)."""
    return args[0].numel()


def added_matrix_vector(args: Sequence[Any], _: Any) -> int:
    """(M) added to (M, N) by (N)."""
    return args[1].numel()


def added_batches(args: Sequence[Any], _: Any) -> int:
    """`addbmm`: (B, M, K) by (B, K, N), summed over B."""
    return args[1].numel() * args[2].shape[-1]


def bilinear(args: Sequence[Any], out: Any) -> int:
    """(N, I) by (O, I, J) by (N, J), the second operand first: N·O·I·J and N·O·I."""
    *_, first, second = args[1].shape
    return out.numel() * first * (second + 1)


def linear_alike(args: Sequence[Any], out: Any) -> int:
    """Input (…, I) and any weight of (O, I), packed or not; output (…, O)."""
    return out.numel() * args[0].shape[-1]


def packed_convolution(args: Sequence[Any], out: Any) -> int:
    """A convolution with packed weights of (O, I/groups, …)."""
    weight = args[1].weight() if hasattr(args[1], "weight") else args[1].unpack()[0]
    return out.numel() * weight[0].numel()


@cache
def formulas() -> Mapping[Any, Formula]:
    """By operator, those of this torch that exist."""
    aten, quantized = torch.ops.aten, torch.ops.quantized
    known: dict[str, Formula] = {
        "_scaled_dot_product_flash_attention_for_cpu": attention,
        "_scaled_dot_product_fused_attention_overrideable": attention,
        "_scaled_dot_product_attention_math_for_mps": attention,
        "_native_multi_head_attention": multi_head_attention,
        "_transformer_encoder_layer_fwd": encoder_layer,
        "mkldnn_rnn_layer": recurrent_layer,
        "mv": matrix_vector,
        "dot": matrix_vector,
        "vdot": matrix_vector,
        "addmv": added_matrix_vector,
        "addbmm": added_batches,
        "_trilinear": bilinear,
        "_int_mm": linear_alike,
        "_weight_int8pack_mm": linear_alike,
        "_weight_int4pack_mm": linear_alike,
        "_weight_int4pack_mm_for_cpu": linear_alike,
        "mkldnn_linear": linear_alike,
    }
    packed: dict[str, Formula] = {
        **dict.fromkeys(
            ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16"), linear_alike
        ),
        **{f"conv{n}d{end}": packed_convolution for n in (1, 2, 3) for end in ("", "_relu", "_dynamic")},
    }
    return {
        getattr(space, name): formula
        for space, names in ((aten, known), (quantized, packed))
        for name, formula in names.items()
        if hasattr(space, name)
    }
