from __future__ import annotations

import contextlib
import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import workbench
from workbench import Deployment, Distillation, Quantization, Recipe, RecipeError
from workbench.recipe import Features

bits = st.none() | st.integers(2, 8)
weight_bits = st.none() | st.integers(1, 8)
schemes = st.sampled_from(["affine", "codebook"])
overrides = st.fixed_dictionaries({}, optional={"weight_bits": weight_bits, "activation_bits": bits, "scheme": schemes})
quantizations = st.builds(
    Quantization,
    weight_bits=weight_bits,
    activation_bits=bits,
    method=st.sampled_from(["nearest", "naive", "gptq", "quantease", "adaround"]),
    scheme=st.sampled_from(["symmetric", "affine", "midrise"]),
    granularity=st.sampled_from(["tensor", "channel"]),
    range=st.sampled_from(["minmax", "percentile", "mse", "hessian"]),
    correction=st.sampled_from(["none", "bias"]),
    layers=st.dictionaries(st.sampled_from(["conv*", "conv1", "fc?", "fc2"]), overrides, max_size=3),
)
distillations = st.none() | st.builds(
    Distillation, width=st.floats(0.01, 1), temperature=st.floats(0.1, 100), labels=st.integers(0, 10_000)
)
deployments = st.builds(Deployment, batch=st.integers(1, 512), threads=st.integers(1, 64))
recipes = st.builds(Recipe, quantization=quantizations, distillation=distillations, deployment=deployments)


@given(recipes)
def test_json_round_trip_keeps_value_hash_and_key(recipe: Recipe) -> None:
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.key == recipe.key
    assert again.label == recipe.label


@given(recipes)
def test_code_makes_the_same_recipe(recipe: Recipe) -> None:
    names: dict[str, object] = {}
    exec(recipe.code(), names)  # noqa: S102 - our own text, which is what a user pastes
    assert names["recipe"] == recipe


@given(recipes, recipes)
def test_equal_recipes_and_only_these_share_a_key(one: Recipe, other: Recipe) -> None:
    assert (one == other) == (one.key == other.key)


def test_the_order_of_overrides_does_not_matter() -> None:
    first = Quantization(layers={"fc1": {"weight_bits": 4}, "fc2": {"weight_bits": 8}})
    second = Quantization(layers={"fc2": {"weight_bits": 8}, "fc1": {"weight_bits": 4}})
    assert first == second
    assert Recipe(quantization=first).key == Recipe(quantization=second).key


def test_the_most_specific_override_wins_field_by_field() -> None:
    quantization = Quantization(
        weight_bits=4,
        activation_bits=8,
        layers={
            "*": {"activation_bits": 7},
            "conv*": {"weight_bits": 6},
            "conv1": {"weight_bits": None},
        },
    )
    assert quantization.bits_for("conv1") == (None, 7)
    assert quantization.bits_for("conv2") == (6, 7)
    assert quantization.bits_for("fc1") == (4, 7)


BAD_BITS = [0, 9, -3, 4.5, "four", float("nan"), True, 2**70]


@pytest.mark.parametrize("bad", BAD_BITS, ids=str)
@pytest.mark.parametrize(("field", "least"), [("weight_bits", 1), ("activation_bits", 2)])
def test_bad_bits_name_the_field_the_value_and_what_is_allowed(field: str, least: int, bad: object) -> None:
    with pytest.raises(RecipeError) as error:
        Quantization(**{field: bad})
    assert field in str(error.value)
    assert repr(bad) in str(error.value)
    assert f"{least} to 8" in str(error.value)


def test_an_activation_has_at_least_two_bits() -> None:
    with pytest.raises(RecipeError, match="activation_bits = 1: allowed are whole numbers from 2 to 8"):
        Quantization(weight_bits=1, activation_bits=1)


@pytest.mark.parametrize("bad", BAD_BITS, ids=str)
def test_bad_bits_deep_in_a_recipe_name_the_layer(bad: object) -> None:
    with pytest.raises(RecipeError, match=r"fc2\.weight_bits|fc2.*weight_bits"):
        Recipe(quantization={"layers": {"fc2": {"weight_bits": bad}}})


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Deployment(batch=0), "batch"),
        (lambda: Deployment(batch=1.5), "batch"),
        (lambda: Deployment(threads=0), "threads"),
        (lambda: Deployment(device="toaster"), "device"),
        (lambda: Deployment(runtime=""), "runtime"),
        (lambda: Distillation(temperature=0), "temperature"),
        (lambda: Distillation(temperature=float("nan")), "temperature"),
        (lambda: Distillation(width=0), "width"),
        (lambda: Distillation(width=1.5), "width"),
        (lambda: Distillation(weight=-0.1), "weight"),
        (lambda: Distillation(epochs=0), "epochs"),
        (lambda: Distillation(labels=-1), "labels"),
        (lambda: Distillation(form="wide"), "form.*'width', 'depth', 'separable' or 'low_rank'"),
        (lambda: Distillation(depth=0), "depth"),
        (lambda: Distillation(rank=1.01), "rank"),
        (lambda: Distillation(initial="zero"), "initial"),
        (lambda: Distillation(layers={"fc1": 0}), r"layers\.fc1"),
        (lambda: Distillation(student="../x"), "student"),
        (lambda: Quantization(method="magic"), "method"),
        (lambda: Quantization(range=7), "range"),
        (lambda: Quantization(bits=4), "bits"),
        (lambda: Recipe(version=2), "version"),
    ],
)
def test_other_bad_values_name_their_field(make, field: str) -> None:
    with pytest.raises(RecipeError, match=field):
        make()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "4", '{"version": 99}', '{"what": 1}', "[" * 100_000])
def test_bad_json_is_refused_in_words(text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.from_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
@example({"self": None})
def test_any_json_is_a_recipe_or_a_recipe_error(value: object) -> None:
    with contextlib.suppress(RecipeError):
        Recipe.from_json(json.dumps({"quantization": value}))


def test_numpy_integers_are_whole_numbers() -> None:
    assert Quantization(weight_bits=np.int64(4)) == Quantization(weight_bits=4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Features(weight=-1), "Features.weight = -1: allowed are numbers above 0 and at most 1,000,000."),
        (
            lambda: Features(weight=2e6),
            "Features.weight = 2000000.0: allowed are numbers above 0 and at most 1,000,000.",
        ),
        (
            lambda: Distillation(features={"weight": -1}),
            "features: Features.weight = -1: allowed are numbers above 0 and at most 1,000,000.",
        ),
        (
            lambda: Distillation(temperature=0),
            "Distillation.temperature = 0: allowed are numbers above 0 and at most 100.",
        ),
        (lambda: Distillation(weight=-0.1), "Distillation.weight = -0.1: allowed are numbers from 0 to 1."),
        (lambda: Distillation(epochs=0), "Distillation.epochs = 0: allowed are numbers from 1."),
        (lambda: Distillation(layers={"fc1": 1.5}), "Distillation.layers.fc1 = 1.5: allowed are numbers at most 1."),
    ],
)
def test_a_number_out_of_range_is_answered_with_the_range(make, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make()
    assert str(caught.value) == said


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe(quantization=Quantization(layers={"fc2": {"weight_bits": 8}}))
    with pytest.raises(Exception, match="frozen"):
        recipe.version = 1
    with pytest.raises(TypeError, match="replace"):
        recipe.quantization.layers["fc1"] = {}


def test_replace_validates() -> None:
    with pytest.raises(RecipeError, match="weight_bits"):
        Quantization(weight_bits=4).replace(weight_bits=9)


def test_labels_are_short_and_tell_recipes_apart() -> None:
    assert Recipe().label == "fp32"
    assert Recipe(quantization=Quantization(weight_bits=4, activation_bits=8)).label == "W4 A8"
    assert (
        Recipe(quantization=Quantization(weight_bits=4, activation_bits=8, layers={"fc2": {"weight_bits": 8}})).label
        == "W4 A8, fc2 W8"
    )


def test_the_face_of_the_package() -> None:
    assert {"Bench", "Recipe", "Quantization", "Distillation", "Deployment", "Task", "zoo"} <= set(dir(workbench))


def test_a_recipe_of_before_means_what_it_meant() -> None:
    text = '{"quantization": {"weight_bits": 4, "method": "nearest", "scheme": "affine", "range": "mse"}}'
    assert Recipe.from_json(text).quantization == Quantization(weight_bits=4, scheme="affine")


@pytest.mark.parametrize("field", ["method", "scheme", "granularity", "range", "correction"])
def test_a_wrong_value_is_answered_with_the_right_ones(field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Quantization(**{field: "magic"})
    allowed = get_args(Quantization.model_fields[field].annotation)
    assert all(repr(value) in str(caught.value) for value in allowed)


def test_what_depends_on_the_layers_inputs_says_so() -> None:
    assert not Quantization(range="percentile", scheme="midrise").informed
    assert not Quantization(method="naive", range="hessian", correction="bias").informed
    for field, value in (("method", "gptq"), ("range", "hessian"), ("correction", "bias")):
        assert Quantization(**{field: value}).informed


def test_a_layer_can_have_a_grid_of_its_own() -> None:
    q = Quantization(
        weight_bits=4, layers={"conv*": {"scheme": "affine", "weight_bits": 3}, "conv1": {"scheme": "codebook"}}
    )
    assert [q.scheme_for(name) for name in ("conv1", "conv2", "fc1")] == ["codebook", "affine", "symmetric"]
    assert q.bits_for("conv1") == (3, None)
    recipe = Recipe(quantization=q)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert "conv1 codebook" in recipe.label
    assert "scheme='codebook'" in repr(q)


def test_a_grid_that_is_left_open_is_no_part_of_a_recipe() -> None:
    left_out, none = ({"fc1": {"weight_bits": 4}}, {"fc1": {"weight_bits": 4, "scheme": None}})
    assert Quantization(layers=left_out) == Quantization(layers=none)
    assert Recipe(quantization=Quantization(layers=left_out)).key == Recipe(quantization=Quantization(layers=none)).key


def test_a_grid_that_there_is_not_is_named() -> None:
    with pytest.raises(RecipeError, match="codebook"):
        Quantization(layers={"fc1": {"scheme": "ternary"}})


def test_a_distillation_of_the_usual_form_keeps_the_key_that_it_had() -> None:
    fields = set(Recipe(distillation=Distillation(width=0.3)).model_dump()["distillation"])
    assert fields.isdisjoint({"student", "form", "layers", "depth", "rank", "initial"})
    assert Recipe(distillation=Distillation(loss="kd", weight=0.9)).key == (
        "e5b33460023a8780792b83b5e69d4358d0af08d51a68611ce90ff66c22810a47"
    )


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"width": 0.3}, "student ×0.3"),
        ({"layers": {"fc1": 0.25, "conv*": 1}}, "student ×0.5, conv* ×1, fc1 ×0.25"),
        ({"layers": {"a": 0.1, "b": 0.2, "c": 0.3}}, "student ×0.5, a ×0.1, b ×0.2, +1"),
        ({"form": "depth", "depth": 0.75}, "student depth ×0.75"),
        ({"form": "separable", "initial": "model"}, "student separable"),
        ({"form": "low_rank", "rank": 0.1}, "student rank ×0.1"),
        ({"student": "mine"}, "student mine"),
    ],
    ids=str,
)
def test_a_student_of_any_form_has_a_name_and_survives_json_and_code(fields: dict[str, object], label: str) -> None:
    recipe = Recipe(distillation=Distillation(**fields))
    assert recipe.label == label
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert hash(Recipe.from_json(recipe.to_json())) == hash(recipe)
    scope: dict[str, object] = {}
    exec(recipe.code(), scope)  # noqa: S102 - as above
    assert scope["recipe"] == recipe
