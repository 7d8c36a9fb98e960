"""Attention in separate products against torch's own, over options, shapes and masks."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench.quantization.attention import OPERANDS, SplitAttention


@st.composite
def attentions(draw: st.DrawFn) -> tuple[nn.MultiheadAttention, tuple[torch.Tensor, ...], dict[str, object]]:
    """An attention, its query, key and value, and the arguments of a call."""
    heads, width, n = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    embed, target, source = heads * width, draw(st.integers(1, 5)), draw(st.integers(1, 5))
    other = draw(st.booleans())
    kdim, vdim = (draw(st.integers(1, 6)), draw(st.integers(1, 6))) if other else (embed, embed)
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch_first, batched = draw(st.booleans()), draw(st.booleans())
    attention = nn.MultiheadAttention(
        embed,
        heads,
        bias=draw(st.booleans()),
        add_bias_kv=draw(st.booleans()),
        add_zero_attn=draw(st.booleans()),
        kdim=kdim if other else None,
        vdim=vdim if other else None,
        batch_first=batch_first,
        dropout=0.5,
    ).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    shapes = ((target, embed), (source, kdim), (source, vdim))
    if batched:
        shapes = tuple((n, *s) if batch_first else (s[0], n, s[1]) for s in shapes)
    options: dict[str, object] = {
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    mask_kind = draw(st.sampled_from(["none", "bool", "float", "each head"]))
    if mask_kind != "none":
        shape = (n * heads if batched else heads, target, source) if mask_kind == "each head" else (target, source)
        mask = torch.rand(shape) < 0.4
        mask[..., 0] = False  # something is left to attend to
        options["attn_mask"] = torch.randn(shape).masked_fill(mask, -1e4) if mask_kind == "float" else mask
    if draw(st.booleans()):
        padding = torch.rand((n, source) if batched else (source,)) < 0.4
        padding[..., 0] = False
        floats = mask_kind == "float"  # torch wants both of one type
        options["key_padding_mask"] = torch.zeros(padding.shape).masked_fill(padding, -1e4) if floats else padding
    return attention, tuple(torch.randn(shape) for shape in shapes), options


@settings(deadline=None, max_examples=120)
@given(attentions())
def test_it_returns_what_the_original_returns(
    drawn: tuple[nn.MultiheadAttention, tuple[torch.Tensor, ...], dict[str, object]],
) -> None:
    attention, arguments, options = drawn
    before = copy.deepcopy(attention.state_dict())
    with torch.inference_mode():
        wanted, told = attention(*arguments, **options)
        found, ours = SplitAttention(attention)(*arguments, **options)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert (ours is None) == (told is None)
    if told is not None:
        assert ours.shape == told.shape
        assert torch.allclose(ours, told, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in attention.state_dict().items())


def test_its_projections_are_linear_layers_and_its_operands_have_places() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True).eval()
    split = SplitAttention(attention)
    assert all(isinstance(getattr(split, f"{part}_proj"), nn.Linear) for part in ("q", "k", "v", "out"))
    joint = torch.cat([split.q_proj.weight, split.k_proj.weight, split.v_proj.weight])
    assert torch.equal(joint, attention.in_proj_weight)
    seen: dict[str, tuple[int, ...]] = {}
    for operand in OPERANDS:
        getattr(split, operand).register_forward_hook(lambda _, a, __, o=operand: seen.__setitem__(o, a[0].shape))
    split(*(torch.randn(3, 5, 6),) * 3)
    assert seen == {
        "queries": (3, 2, 5, 3),
        "keys": (3, 2, 5, 3),
        "probabilities": (3, 2, 5, 5),
        "values": (3, 2, 5, 3),
    }


@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer_layers_take_it_for_an_attention(batch_first: bool) -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).eval()
    decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=batch_first).eval()
    x, y = torch.randn(3, 3, 8), torch.randn(3, 3, 8)
    with torch.inference_mode():
        wanted = decoder(y, encoder(x))
        encoder.self_attn = SplitAttention(encoder.self_attn)
        decoder.self_attn, decoder.multihead_attn = map(SplitAttention, (decoder.self_attn, decoder.multihead_attn))
        assert torch.allclose(decoder(y, encoder(x)), wanted, atol=1e-5)
