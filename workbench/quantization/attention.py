"""Multi-head attention as separate products, so that each of its weights and operands can be put on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OPERANDS = ("queries", "keys", "probabilities", "values")
"""Places before the two products of activations."""


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` in evaluation mode, with projections that are Linear layers.

    It returns what the original returns, within the rounding of another order of operations, and takes
    the same arguments.
    """

    # TransformerEncoderLayer asks for these; so they keep it off its fused path, which reads the weights itself
    in_proj_bias = None
    _qkv_same_embed_dim = False
    bias_k: Tensor | None
    bias_v: Tensor | None
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    queries: nn.Identity
    keys: nn.Identity
    probabilities: nn.Identity
    values: nn.Identity

    def __init__(self, original: nn.MultiheadAttention) -> None:
        """
        Args:
            original: Left as it is.
        """
        super().__init__()
        self.embed_dim, self.num_heads = original.embed_dim, original.num_heads
        self.batch_first, self.add_zero_attn = original.batch_first, original.add_zero_attn
        if original.in_proj_weight is not None:
            weights = original.in_proj_weight.chunk(3)
        else:
            weights = (original.q_proj_weight, original.k_proj_weight, original.v_proj_weight)
        biases = (None,) * 3 if original.in_proj_bias is None else original.in_proj_bias.chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            self.add_module(name, _linear(weight, bias))
        self.out_proj = _linear(original.out_proj.weight, original.out_proj.bias)
        self.bias_k, self.bias_v = original.bias_k, original.bias_v
        for operand in OPERANDS:
            self.add_module(operand, nn.Identity())
        self.train(original.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 - a hint; the mask itself is in attn_mask
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(1 - self.batch_first) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        n = query.shape[0]
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, bias.expand(n, 1, -1)], 1) for x, bias in ((k, self.bias_k), (v, self.bias_v)))
            added += 1
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (n, heads, length, d)
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
            added += 1
        scores = self.queries(q) @ self.keys(k).transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = _merged(attn_mask, key_padding_mask, n, self.num_heads, scores.dtype)
        if mask is not None:
            scores = scores + F.pad(mask, (0, added))
        probabilities = scores.softmax(-1)
        mixed = self.probabilities(probabilities) @ self.values(v)
        output = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        if not self.batch_first:
            output = output.transpose(0, 1)
        if not batched:
            output = output.squeeze(1 - self.batch_first)
        if not need_weights:
            return output, None
        told = probabilities.mean(1) if average_attn_weights else probabilities
        return output, told if batched else told.squeeze(0)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(1, 1, bias=bias is not None, device="meta")
    made.out_features, made.in_features = weight.shape
    # copies: parts of a joint projection are views, and views cannot be written to a file one by one
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made


def _merged(mask: Tensor | None, padding: Tensor | None, n: int, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Both masks as one that is added to the scores, broadcast over what it does not name."""
    total = None
    if mask is not None:
        total = _additive(mask, dtype)
        if total.dim() == 3:
            total = total.unflatten(0, (n, heads))
    if padding is not None:
        added = _additive(padding, dtype)[:, None, None, :]
        total = added if total is None else total + added
    return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
    return mask.to(dtype)
