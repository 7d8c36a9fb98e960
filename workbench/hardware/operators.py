"""What an operator is to a runtime: a product, traffic, something done on the way, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.hardware.counts import OperatorClass
from workbench.hardware.formulas import formulas, recurrent_layer

# fmt: off
ON_THE_WAY = frozenset({
    "relu", "relu_", "clamp", "clamp_", "clamp_min", "clamp_min_", "hardtanh", "hardtanh_", "leaky_relu",
    "leaky_relu_", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm",
    "_batch_norm_with_update",
})
"""After a product, every runtime computes these before it writes the product's result."""

TRAFFIC = frozenset({
    "_softmax", "_log_softmax", "_safe_softmax", "native_layer_norm", "native_group_norm", "_fused_rms_norm",
    "rms_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "cat", "stack", "embedding",
    "_embedding_bag", "gather", "scatter", "scatter_", "index", "index_put", "index_put_", "index_select",
    "masked_fill", "masked_fill_", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
    "replication_pad2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "pixel_shuffle", "pixel_unshuffle", "clone", "copy_", "_to_copy", "contiguous", "repeat", "roll", "flip",
    "sort", "topk", "cumsum", "argmax", "argmin", "max", "min", "amax", "amin", "mean", "sum", "prod", "var",
    "var_mean", "std", "norm", "linalg_vector_norm", "any", "all", "where", "arange", "zeros", "ones", "full",
    "empty", "new_zeros", "new_ones", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like", "rand",
    "randn", "bernoulli", "scalar_tensor", "fill_", "zero_", "normal_", "uniform_", "lift_fresh", "detach_", "eye",
    "tril", "triu", "native_dropout", "channel_shuffle", "one_hot", "unsafe_split", "unsafe_chunk",
    "split_with_sizes_copy", "_unsafe_view", "resize_", "bincount", "nonzero", "cummax", "masked_select",
    "_fake_quantize_learnable_per_tensor_affine", "fake_quantize_per_tensor_affine_cachemask",
    "fake_quantize_per_channel_affine_cachemask", "_local_scalar_dense", "item", "quantize_per_tensor",
    "dequantize", "glu", "local_response_norm", "_unsafe_index", "im2col", "col2im", "unfold", "searchsorted",
    "new_full", "linspace",
})
"""Known to have no products to speak of; beside all that torch tags as pointwise or as a reduction."""
# fmt: on


def macs(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int | None:
    """Multiply-accumulates of one call; None where no formula is known.

    Args:
        func: An overload.
        args: As it was called.
        kwargs: As it was called.
        out: What it returned.
    """
    from torch.utils.flop_counter import flop_registry

    packet = func._overloadpacket
    own = formulas().get(packet)
    if own is not None:
        return own([*args, *kwargs.values()], out)
    theirs = flop_registry.get(packet)
    return None if theirs is None else int(theirs(*args, **kwargs, out_val=out)) // 2


def known(func: Any) -> bool:
    """Whether there is a formula, so that the operator is not taken apart."""
    from torch.utils.flop_counter import flop_registry

    packet = func._overloadpacket
    return packet in formulas() or packet in flop_registry


def traffic(func: Any) -> bool:
    """Whether an operator without a formula is known to have no products."""
    tags = {str(tag).rpartition(".")[2] for tag in func.tags}
    return bool(tags & {"pointwise", "reduction"}) or name_of(func) in TRAFFIC


def name_of(func: Any) -> str:
    """``convolution`` of ``aten.convolution.default``."""
    return func._overloadpacket.__name__


def spoken(name: str) -> str:
    """An operator as a row is called by it: which kernel of attention torch took here does not matter there."""
    return "scaled_dot_product_attention" if name.startswith("_scaled_dot_product") else name.strip("_")


def class_of(func: Any, args: Sequence[Any], products: int | None) -> tuple[OperatorClass, tuple[int, int]]:
    """The class, and the channels that a product sums over and gives, within one group.

    Args:
        func: An overload.
        args: As it was called.
        products: Its MACs.
    """
    if not products:
        return OperatorClass.MEMORY, (1, 1)
    packet = func._overloadpacket
    name = name_of(func)
    if formulas().get(packet) is recurrent_layer:
        return OperatorClass.RECURRENT, (args[1].shape[-1], args[1].shape[0])
    if name.startswith("convolution") or name in ("_convolution", "cudnn_convolution", "_slow_conv2d_forward"):
        return _of_convolution(args)
    if name.startswith("conv"):
        return OperatorClass.CONVOLUTION, (1, 1)
    shapes = [tuple(each.shape) for each in args if isinstance(each, Tensor) and each.dim() >= 2]
    if len(shapes) < 2:
        return OperatorClass.GEMM, (math.prod(shapes[0][-1:]) if shapes else 1, 1)
    summed, given = shapes[-1][-2], shapes[-1][-1]
    if "attention" in name:
        summed, given = shapes[0][-1], shapes[1][-2]
    return OperatorClass.GEMM, (summed, given)


def _of_convolution(args: Sequence[Any]) -> tuple[OperatorClass, tuple[int, int]]:
    x, weight = args[0], args[1]
    transposed = bool(args[6]) if len(args) > 8 else False
    groups = int(args[8]) if len(args) > 8 else x.shape[1] // max(weight.shape[1], 1)
    first, second = weight.shape[:2]
    summed, given = (first // groups, second) if transposed else (second, first // groups)
    if groups > 1 and summed == 1:
        return OperatorClass.DEPTHWISE, (1, given * groups)
    return OperatorClass.CONVOLUTION, (summed, given)


def reads(func: Any, args: Sequence[Any], tensor: Tensor) -> int:
    """How often an operator reads a weight: a recurrent layer reads that of its state at every step.

    Args:
        func: An overload.
        args: As it was called.
        tensor: One of them.
    """
    recurrent = formulas().get(func._overloadpacket) is recurrent_layer
    return int(args[0].shape[0]) if recurrent and tensor is args[2] else 1


def is_view(func: Any, storages: set[int], out: Sequence[Tensor]) -> bool:
    """Whether nothing is computed or moved: what comes out lies in memory that went in, unchanged.

    Args:
        func: An overload.
        storages: Addresses of the inputs' storages.
        out: The tensors that came out.
    """
    if getattr(func, "is_view", False) or name_of(func) in ("_unsafe_view", "unsafe_split", "detach", "alias"):
        return True
    if torch.Tag.inplace_view in func.tags:
        return True
    inplace = func._schema.is_mutable
    same = [tensor.untyped_storage().data_ptr() in storages for tensor in out if tensor.numel()]
    return not inplace and bool(same) and all(same)


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of nested arguments."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
