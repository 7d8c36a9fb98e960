"""The private copy computes what the model computes, and its state leads back to the model's."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from workbench import WorkbenchError
from workbench.inputs import Inputs
from workbench.quantization.attention import SplitAttention
from workbench.quantization.preparation import prepared


def learned(norm: nn.Module, seed: int = 0) -> nn.Module:
    """A BatchNorm after training."""
    generator = torch.Generator().manual_seed(seed)
    norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator))
    norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.2)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.randn(norm.num_features, generator=generator))
            norm.bias.copy_(torch.randn(norm.num_features, generator=generator))
    return norm


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(x)


def test_a_norm_for_several_processes_is_folded_as_any_other() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), learned(nn.SyncBatchNorm(3))), torch.randn(2, 2, 5, 5)
    made = prepared(model, Inputs(x))
    assert set(made.form.folded) == {"1"}
    assert torch.allclose(output(made.module, x), output(model, x), atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from([1, 2, 3]),
    transposed=st.booleans(),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_norms_fold_into_any_convolution(
    kind: int, transposed: bool, groups: int, bias: bool, affine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = getattr(nn, f"Conv{'Transpose' if transposed else ''}{kind}d")(4, 6, 3, groups=groups, bias=bias)
    norm = learned(getattr(nn, f"BatchNorm{kind}d")(6, affine=affine, eps=1e-3), seed)
    model, x = nn.Sequential(conv, norm), torch.randn(2, 4, *(5,) * kind)
    made = prepared(model, Inputs(x))
    wanted = output(model, x)
    assert isinstance(made.module[1], nn.Identity)
    assert torch.allclose(output(made.module, x), wanted, rtol=1e-4, atol=1e-4)
    # and back: the model loads the state, with a norm that does nothing
    again = copy.deepcopy(model)
    again.load_state_dict(made.form.restored(dict(made.module.state_dict())), strict=True)
    assert torch.allclose(output(again, x), wanted, rtol=1e-3, atol=1e-3)
    assert torch.equal(output(made.original, x), wanted)


def test_a_norm_stays_where_folding_would_change_the_output() -> None:
    class Branch(nn.Module):
        def __init__(self, elsewhere: bool) -> None:
            super().__init__()
            self.conv, self.norm, self.elsewhere = nn.Conv2d(2, 3, 3), learned(nn.BatchNorm2d(3)), elsewhere

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + (y if self.elsewhere else 0)

    x = torch.randn(2, 2, 5, 5)
    assert set(prepared(Branch(False), Inputs(x)).form.folded) == {"norm"}
    made = prepared(Branch(True), Inputs(x))
    assert not made.form.folded
    assert torch.equal(output(made.module, x), output(made.original, x))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        (lambda layer: nn.Sequential(layer, nn.BatchNorm1d(4), layer))(nn.Linear(4, 4)),
    ],
    ids=["before", "after something else", "without statistics", "of a layer that runs twice"],
)
def test_norms_that_cannot_be_folded_stay(model: nn.Module) -> None:
    x = torch.randn(6, 4)
    made = prepared(model, Inputs(x))
    assert not made.form.folded
    assert torch.allclose(output(made.module, x), output(model, x), atol=1e-6)


def test_one_bad_fold_does_not_keep_the_others() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.na = nn.Linear(4, 4), learned(nn.BatchNorm1d(4))
            self.b, self.nb = nn.Linear(4, 4), learned(nn.BatchNorm1d(4), 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.nb(self.b(self.na(y) * y))

    made = prepared(Two(), Inputs(torch.randn(5, 4)))
    assert set(made.form.folded) == {"nb"}
    assert isinstance(made.module.na, nn.BatchNorm1d)


def weighted(kind: str) -> nn.Module:
    if kind == "new":
        return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    if kind == "new, along no axis":
        return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3), dim=None))
    return nn.Sequential(weight_norm(nn.Linear(4, 3), dim=1))


@pytest.mark.parametrize("kind", ["new", "new, along no axis", "old"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_normalisation_becomes_a_weight_and_back(kind: str) -> None:
    torch.manual_seed(0)
    model, x = weighted(kind), torch.randn(2, 4)
    model(x)  # the old kind now holds a weight with a gradient history
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = prepared(model, Inputs(x))
    assert set(dict(made.module.named_parameters())) == {"0.weight", "0.bias"}
    assert torch.allclose(output(made.module, x), output(model, x), atol=1e-6)
    state = dict(made.module.state_dict())
    state["0.weight"] = torch.cat([torch.zeros(1, 4), state["0.weight"][1:]])  # as a low grid can make it
    again = weighted(kind)
    again.load_state_dict(made.form.restored(state), strict=True)
    assert torch.allclose(output(again, x), x @ state["0.weight"].T + state["0.bias"], atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [spectral_norm, parametrizations.spectral_norm, parametrizations.orthogonal])
def test_other_parametrised_weights_become_plain_ones(make: Any) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(make(nn.Linear(4, 4))), torch.randn(2, 4)
    model(x)
    made = prepared(model, Inputs(x))
    assert set(dict(made.module.named_parameters())) == {"0.weight", "0.bias"}
    assert torch.allclose(output(made.module, x), output(model, x), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(bias=st.booleans(), other=st.booleans(), extra=st.booleans(), seed=st.integers(0, 10**6))
def test_attention_is_split_and_joined_again(bias: bool, other: bool, extra: bool, seed: int) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(
                6, 2, bias=bias, add_bias_kv=extra, kdim=4 if other else None, vdim=4 if other else None
            )

        def forward(self, x: Tensor) -> Tensor:
            key = x[..., :4] if other else x
            return self.attention(x, key, key)[0]

    torch.manual_seed(seed)
    model, x = Attends(), torch.randn(3, 3, 6)
    made = prepared(model, Inputs(x))
    assert isinstance(made.module.attention, SplitAttention)
    again = Attends()
    again.load_state_dict(made.form.restored(dict(made.module.state_dict())), strict=True)
    assert torch.allclose(output(again, x), output(model, x), atol=1e-6)


def test_what_cannot_be_copied_or_has_no_values_is_told() -> None:
    x = Inputs(torch.randn(2, 4))
    with pytest.raises(WorkbenchError, match=r"weight has no shape yet.*lazy layer"):
        prepared(nn.Sequential(nn.LazyLinear(3)), x)
    with pytest.raises(WorkbenchError, match="meta device"):
        prepared(nn.Linear(4, 3, device="meta"), x)
    with pytest.raises(WorkbenchError, match="TorchScript"):
        prepared(torch.jit.trace(nn.Linear(4, 3), torch.randn(2, 4)), x)
    locked = nn.Linear(4, 3)
    locked.lock = threading.Lock()
    with pytest.raises(WorkbenchError, match="cannot be copied"):
        prepared(locked, x)
    with pytest.raises(WorkbenchError, match=r"does not run on Inputs\(2 × \(4\)\)"):
        prepared(nn.Linear(5, 3), x)


def test_the_example_is_not_written_into() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    example = Inputs(torch.zeros(2, 4))
    prepared(Writes(), example)
    assert torch.equal(example.tensors[0], torch.zeros(2, 4))
