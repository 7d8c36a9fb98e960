"""The operators that a loaded graph may name, and nothing else.

They are functions of tensors that torch documents as such. What reads files, changes global settings, takes
raw storages or skips its checks (``_unsafe``) is not among them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from workbench.errors import LoadError

_ATEN = """
__and__ __iand__ __ior__ __ixor__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d
_cdist_forward _convolution _fused_rms_norm _log_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
_native_batch_norm_legit_no_training _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu
_shape_as_tensor _softmax _to_copy _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm _weight_norm_interface abs
absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator
alias all alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax
argmin argsort argwhere asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d
baddbmm batch_norm bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
block_diag bmm broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist ceil celu channel_shuffle chunk clamp
clamp_max clamp_min clip clone col2im column_stack combinations complex concat concatenate conj conj_physical
constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy
copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod cumsum deg2rad det detach diag
diag_embed diagonal diagonal_copy diff digamma dist div divide dot dropout dsplit dstack einsum elu embedding
embedding_bag empty empty_like eq erf erfc erfinv exp exp2 expand expand_as expand_copy expm1 eye
feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn
fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill fix flatten flip fliplr
flipud float_power floor floor_divide fmax fmin fmod frac frobenius_norm full full_like gather ge gelu ger glu greater
greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window hann_window
hardshrink hardsigmoid hardswish hardtanh heaviside hsplit hstack hypot im2col imag index index_add index_copy
index_fill index_put index_select inner instance_norm inverse isclose isfinite isin isinf isnan item kron l1_loss
layer_norm le leaky_relu lerp less less_equal lgamma lift_fresh_copy linalg_cross linalg_det linalg_inv linalg_matmul
linalg_matrix_norm linalg_norm linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit
logspace logsumexp lstm lstm_cell lt mH mT masked_fill masked_scatter masked_select matmul matrix_H matrix_power max
max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean median meshgrid min
minimum mish mm moveaxis movedim mse_loss mul multiply mv nan_to_num nanmean nanmedian nansum narrow narrow_copy
native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg negative new_empty
new_full new_ones new_zeros nonzero norm normal not_equal numpy_T one_hot ones ones_like outer pad pairwise_distance
permute permute_copy pixel_shuffle pixel_unshuffle polar positive pow prelu prod quantile rad2deg ravel real
reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu
rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention
scatter scatter_add scatter_reduce searchsorted select select_copy select_scatter selu sgn sigmoid sign signbit silu
sin sinc sinh slice slice_copy slice_scatter softmax softplus softshrink sort special_entr special_erf special_erfc
special_erfinv special_exp2 special_expit special_expm1 special_gammaln special_i0 special_log1p special_log_softmax
special_logit special_logsumexp special_ndtr special_round special_sinc special_softmax special_xlogy split split_copy
split_with_sizes split_with_sizes_copy sqrt square squeeze squeeze_copy stack std std_mean sub subtract sum
sum_to_size swapaxes swapdims sym_numel sym_size t t_copy take take_along_dim tan tanh tensor_split tensordot
threshold tile to topk trace transpose transpose_copy tril tril_indices triu triu_indices true_divide trunc type_as
unbind unbind_copy unflatten unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as view_copy vsplit vstack where xlogy zero zeros
zeros_like
"""
ATEN = frozenset(_ATEN.split())
"""Base names; a name with ``_`` at its end is the same in place, where torch has it."""

_CHECKS = """
_assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar
sym_constrain_range sym_constrain_range_for_size
"""
CHECKS = frozenset(_CHECKS.split())
"""Operators that only check, which a loaded module leaves out."""

_PYTHON = """
add sub mul truediv floordiv mod neg pos abs eq ne lt le gt ge and_ or_ xor not_ invert rshift getitem index
"""
_MATH = "ceil floor trunc sqrt log log2 exp cos sin tan pow isqrt fabs gcd"
_SIZES = "sym_int sym_float sym_not sym_max sym_min sym_ite sym_sum"
_SYMBOLIC: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _PYTHON.split()},
    **{f"math.{name}": getattr(math, name) for name in _MATH.split()},
    **{f"torch.{name}": getattr(torch, name) for name in _SIZES.split()},
    "_operator.pow": math.pow,  # an integer power or shift may fill the memory; a float overflows
}


def symbolic(target: str) -> Callable[..., Any] | None:
    """The function on sizes (plain integers and floats) that a target names, or None."""
    return _SYMBOLIC.get(target)


def aten(target: str) -> torch._ops.OpOverload:
    """The operator that a target such as ``torch.ops.aten.conv2d.default`` names.

    Raises:
        LoadError: It is not on the list.
    """
    parts = target.split(".")
    name = parts[3] if len(parts) == 5 and parts[:3] == ["torch", "ops", "aten"] else ""
    if name in ATEN or name.removesuffix("_") in ATEN or name in CHECKS:
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and parts[4] in packet.overloads():
            found: torch._ops.OpOverload = getattr(packet, parts[4])
            return found
        raise LoadError(f"The graph calls {target[:100]!r}, which this version of torch does not have.")
    raise LoadError(
        f"The graph calls {target[:100]!r}, which is not an operator that is loaded from files. "
        "Load the model from its own code and weights instead, or export it without this call."
    )
