"""From the state of a rewritten network back to the state that the model loads."""

from __future__ import annotations

import pytest
import torch

from workbench.form import Folded, Form, Normed


def test_nothing_rewritten_is_nothing_changed() -> None:
    state = {"a.weight": torch.randn(2, 2)}
    assert Form().restored(state) == state


def test_a_folded_norm_comes_back_as_one_that_does_nothing() -> None:
    bias = torch.tensor([1.0, -2.0, 3.0])
    form = Form(folded={"norm": Folded(3, 1e-3, True, "conv.bias"), "plain": Folded(2, 1e-5, False, "")})
    made = form.restored({"conv.weight": torch.ones(3, 1), "conv.bias": bias})
    norm = torch.nn.BatchNorm1d(3, eps=1e-3).eval()
    norm.load_state_dict({k.removeprefix("norm."): v for k, v in made.items() if k.startswith("norm.")})
    x = torch.randn(4, 3)
    assert torch.allclose(norm(x), x + bias, atol=1e-6)  # the new bias is the norm's again
    assert "conv.bias" not in made
    plain = torch.nn.BatchNorm1d(2, affine=False).eval()
    plain.load_state_dict({k.removeprefix("plain."): v for k, v in made.items() if k.startswith("plain.")})
    assert torch.allclose(plain(x[:, :2]), x[:, :2], atol=1e-6)


def test_tied_parts_are_joined_under_both_names() -> None:
    q, k, v = (torch.full((2, 3), float(i)) for i in range(3))
    parts = ("q", "k", "v")
    form = Form(
        tied={f"b.{part}": f"a.{part}" for part in parts},
        joined={f"{name}.in_proj_weight": tuple(f"{name}.{part}" for part in parts) for name in "ab"},
    )
    made = form.restored({"a.q": q, "a.k": k, "a.v": v, "rest": q})
    assert set(made) == {"a.in_proj_weight", "b.in_proj_weight", "rest"}
    assert torch.equal(made["b.in_proj_weight"], torch.cat([q, k, v]))


def test_length_and_direction_of_a_weight_of_which_a_row_is_zero() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    made = Form(normed={"w": Normed("g", "v", 0)}).restored({"w": weight})
    assert set(made) == {"g", "v"}
    assert made["g"].flatten().tolist() == [5.0, 0.0]
    assert torch.allclose(torch._weight_norm(made["v"], made["g"], 0), weight)


def test_the_root_is_taken_off_every_name() -> None:
    form = Form(root="model.", tied={"model.b": "model.a"})
    assert set(form.restored({"model.a": torch.ones(1)})) == {"a", "b"}


@pytest.mark.parametrize("features", [0, -3, 2**21])
def test_a_norm_that_no_model_has_is_refused_before_it_is_made(features: int) -> None:
    with pytest.raises(ValueError, match="features"):
        Form(folded={"norm": Folded(features, 1e-5, True, "")}).restored({})


@pytest.mark.parametrize(
    "form",
    [
        Form(tied={"b": "a"}),
        Form(joined={"b": ("a",)}),
        Form(normed={"a": Normed("g", "v", 0)}),
        Form(folded={"n": Folded(2, 1e-5, True, "a")}),
    ],
    ids=["tied", "joined", "normed", "folded"],
)
def test_a_tensor_that_is_missing_is_an_error(form: Form) -> None:
    with pytest.raises(KeyError):
        form.restored({})
