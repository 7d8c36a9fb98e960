"""Graphs written by hand: what exporters of other years and frameworks write, held against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from workbench.loading.onnx_bounds import BoundedSizes
from workbench.loading.onnx_conversion import convert
from workbench.loading.onnx_file import read_onnx
from workbench.loading.onnx_module import from_onnx
from workbench.loading.onnx_session import OnnxModule
from workbench.loading.onnx_trial import _types
from workbench.loading.onnx_values import Untranslatable

RANDOM = np.random.default_rng(0)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def model(nodes, shape, opset, outputs=1, **initializers):
    """A graph from `x` to `y` (, `y1`, ...)."""
    names = ["y", *(f"y{place}" for place in range(1, outputs))]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_value_info(name, onnx.TypeProto()) for name in names],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for value, typed in zip(made.graph.output, _with_types(made), strict=True):
        value.CopyFrom(typed)
    return made


def _with_types(made):
    """Outputs as onnxruntime finds them."""
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": TensorProto.FLOAT, "tensor(int64)": TensorProto.INT64, "tensor(bool)": TensorProto.BOOL}
    return [helper.make_tensor_value_info(out.name, kinds[out.type], out.shape) for out in session.get_outputs()]


def node(op, *inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def agree(made, *batches):
    """Translate without the trial in a process of its own, and hold against onnxruntime."""
    proto = read_onnx(made.SerializeToString())
    onnx.checker.check_model(proto)
    module = convert(proto, {name: (kind, dims) for name, (kind, dims) in _types(proto).items()})
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in batches:
        found = module(torch.from_numpy(x))
        found = found if isinstance(found, tuple) else (found,)
        for mine, theirs in zip(found, session.run(None, {"x": x}), strict=True):
            torch.testing.assert_close(mine.detach(), torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)
    return module


I64 = np.int64
IMAGE = ["b", 2, 7, 8]
IMAGES = (floats(1, 2, 7, 8), floats(3, 2, 7, 8))
GRAPHS = {
    # axes as an attribute, as an input
    "Squeeze 11": ([node("Unsqueeze", "x", outputs=["t"], axes=[0, 3]), node("Squeeze", "t", axes=[0, 3])], 11, {}),
    "Squeeze 13": (
        [node("Unsqueeze", "x", "a", outputs=["t"]), node("Squeeze", "t", "a")],
        13,
        {"a": np.array([0, -2], I64)},
    ),
    "ReduceMean 11": ([node("ReduceMean", "x", axes=[2, 3], keepdims=0)], 11, {}),
    "ReduceMean 18": ([node("ReduceMean", "x", "a")], 18, {"a": np.array([-1], I64)}),
    "ReduceSum of all": ([node("ReduceSum", "x", keepdims=0)], 13, {}),
    "ReduceL2": ([node("ReduceL2", "x", axes=[1])], 13, {}),
    "Slice 9": ([node("Slice", "x", starts=[1, -3], ends=[2**31, -1], axes=[1, 3])], 9, {}),
    "Slice 13": (
        [node("Slice", "x", "s", "e", "a", "t")],
        13,
        {"s": np.array([5, -1], I64), "e": np.array([2**40, -(2**63)], I64), "a": np.array([3, 2], I64)}
        | {"t": np.array([2, -1], I64)},
    ),
    "Clip 7": ([node("Clip", "x", min=-0.5, max=0.25)], 7, {}),
    "Clip 13": ([node("Clip", "x", "", "high")], 13, {"high": np.float32(0.25)}),
    "Pad 10": ([node("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.5)], 10, {}),
    "Pad reflected": ([node("Pad", "x", "p", mode="reflect")], 13, {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1], I64)}),
    "Pad 18 with axes": (
        [node("Pad", "x", "p", "v", "a")],
        18,
        {"p": np.array([1, 2], I64), "v": np.float32(2), "a": np.array([-2], I64)},
    ),
    "Softmax 11 over the rest": ([node("Softmax", "x", axis=1)], 11, {}),
    "LogSoftmax 13": ([node("LogSoftmax", "x", axis=1)], 13, {}),
    "Dropout 7": ([node("Dropout", "x", ratio=0.4)], 7, {}),
    "Split 11": ([node("Split", "x", outputs=["a", "y"], axis=3, split=[3, 5])], 11, {}),
    "Split 18": ([node("Split", "x", outputs=["a", "y"], axis=2, num_outputs=2)], 18, {}),
    "Upsample 9": ([node("Upsample", "x", "s")], 9, {"s": np.array([1, 1, 2, 3], np.float32)}),
    "Resize 10": ([node("Resize", "x", "s")], 10, {"s": np.array([1, 1, 2, 2], np.float32)}),
    "Resize nearest": ([node("Resize", "x", "", "s")], 13, {"s": np.array([1, 1, 2, 2], np.float32)}),
    "Resize linear to a size": (
        [node("Resize", "x", "", "", "n", mode="linear", coordinate_transformation_mode="align_corners")],
        13,
        {"n": np.array([3, 2, 5, 11], I64)},
    ),
    "Gemm transB=0": (
        [node("Flatten", "x", outputs=["f"]), node("Gemm", "f", "w", "c")],
        13,
        {"w": floats(112, 5), "c": floats(5)},
    ),
    "Gemm scaled": (
        [node("Flatten", "x", outputs=["f"]), node("Gemm", "f", "w", "c", alpha=0.5, beta=2.0, transB=1)],
        13,
        {"w": floats(5, 112), "c": floats(1, 5)},
    ),
    "MatMul and Add": (
        [node("MatMul", "x", "w", outputs=["m"]), node("Add", "c", "m")],
        13,
        {"w": floats(8, 3), "c": floats(3)},
    ),
    "Conv padded on one side": (
        [node("Conv", "x", "w", pads=[0, 1, 2, 0], dilations=[1, 2])],
        11,
        {"w": floats(3, 2, 2, 3)},
    ),
    "Conv SAME_UPPER": (
        [node("Conv", "x", "w", "c", auto_pad="SAME_UPPER", strides=[2, 3], group=2)],
        11,
        {"w": floats(4, 1, 2, 4), "c": floats(4)},
    ),
    "ConvTranspose": (
        [node("ConvTranspose", "x", "w", strides=[2, 2], pads=[1, 1, 0, 1], group=2)],
        11,
        {"w": floats(2, 3, 3, 3)},
    ),
    "MaxPool padded on one side": (
        [node("MaxPool", "x", kernel_shape=[3, 2], pads=[0, 0, 2, 1], strides=[2, 2])],
        12,
        {},
    ),
    "AveragePool, padding not counted": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[0, 1, 2, 1], strides=[2, 1])],
        11,
        {},
    ),
    "AveragePool, padding counted": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1)],
        11,
        {},
    ),
    "BatchNormalization 9": (
        [node("BatchNormalization", "x", "s", "c", "m", "v", epsilon=1e-3)],
        9,
        {"s": floats(2), "c": floats(2), "m": floats(2), "v": np.abs(floats(2)) + 0.1},
    ),
    "LayerNormalization": ([node("LayerNormalization", "x", "s", axis=2)], 17, {"s": floats(7, 8)}),
    "DepthToSpace": (
        [node("Concat", "x", "x", outputs=["t"], axis=1), node("DepthToSpace", "t", blocksize=2)],
        13,
        {},
    ),
    "SpaceToDepth": (
        [node("Slice", "x", outputs=["t"], starts=[0], ends=[6], axes=[2]), node("SpaceToDepth", "t", blocksize=2)],
        9,
        {},
    ),
    "PRelu": ([node("PRelu", "x", "s")], 13, {"s": floats(2, 1, 1)}),
    "Selu": ([node("Selu", "x")], 13, {}),
    "CumSum": ([node("CumSum", "x", "a", exclusive=1, reverse=1)], 13, {"a": np.array(3, I64)}),
    "Trilu": ([node("Trilu", "x", "k", upper=0)], 14, {"k": np.array(-1, I64)}),
    "TopK": ([node("TopK", "x", "k", outputs=["y", "i"])], 11, {"k": np.array([3], I64)}),
    "ArgMax": ([node("ArgMax", "x", axis=1, keepdims=0)], 13, {}),
    "Where": (
        [node("Greater", "x", "t", outputs=["g"]), node("Where", "g", "x", "t")],
        13,
        {"t": np.float32(0.2)},
    ),
    "integer division towards zero": (
        [node("Cast", "x", outputs=["i"], to=7), node("Div", "i", "two", outputs=["d"]), node("Cast", "d", to=1)],
        13,
        {"two": np.array(-2, I64)},
    ),
    "flattened by its own shape": (
        [
            node("Shape", "x", outputs=["s"]),
            node("Gather", "s", "zero", outputs=["n"]),
            node("Unsqueeze", "n", outputs=["n1"], axes=[0]),
            node("Concat", "n1", "rest", outputs=["t"], axis=0),
            node("Reshape", "x", "t"),
        ],
        11,
        {"zero": np.array(0, I64), "rest": np.array([-1], I64)},
    ),
    "reshaped by pieces of its own shape, the last one empty": (
        [
            node("Shape", "x", outputs=["s"]),
            node("Slice", "s", outputs=["front"], starts=[0], ends=[2]),
            node("Slice", "s", outputs=["back"], starts=[4], ends=[9]),
            node("Concat", "front", "rest", "back", outputs=["t"], axis=0),
            node("Reshape", "x", "t"),
        ],
        9,
        {"rest": np.array([-1], I64)},
    ),
    "zeros of its own shape": (
        [
            node("Shape", "x", outputs=["s"]),
            node("ConstantOfShape", "s", outputs=["z"], value=helper.make_tensor("v", 1, [1], [2.0])),
            node("Mul", "x", "z"),
        ],
        11,
        {},
    ),
    "expanded along the batch": (
        [
            node("Shape", "x", outputs=["s"]),
            node("Expand", "w", "s", outputs=["e"]),
            node("Add", "x", "e"),
        ],
        11,
        {"w": floats(1, 2, 7, 8)},
    ),
}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_operators_agree_with_onnxruntime(name):
    nodes, opset, initializers = GRAPHS[name]
    made = model(nodes, IMAGE, opset, **initializers)
    # a written size fits one batch
    agree(made, *([floats(3, 2, 7, 8)] if name == "Resize linear to a size" else IMAGES))


ELEMENTWISE = ["Abs", "Atan", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity"]
ELEMENTWISE += ["LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"]
ELEMENTWISE += ["Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Celu"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(ELEMENTWISE), min_size=1, max_size=4), st.integers(1, 4))
def test_chains_of_functions_agree_with_onnxruntime(names, batch):
    values = ["x", *(f"t{place}" for place in range(len(names) - 1)), "y"]
    nodes = [node(op, values[place], outputs=[values[place + 1]]) for place, op in enumerate(names)]
    x = np.linspace(0.31, 1.57, batch * 6, dtype=np.float32).reshape(batch, 6)  # Reciprocal and Ceil jump at zero
    if names.count("Reciprocal") + names.count("Ceil") + names.count("Floor") + names.count("Round") > 1:
        return  # a rounding error on a step is as large as the step
    if any(op in ("Floor", "Round", "Ceil", "Sign") for op in names) and "Reciprocal" in names:
        return
    agree(model(nodes, ["b", 6], 18), x)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_have_their_gates_in_torchs_order(op, direction):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    both = 2 if direction == "bidirectional" else 1
    attributes = {"hidden_size": 5, "direction": direction} | ({"linear_before_reset": 1} if op == "GRU" else {})
    made = model(
        [node(op, "x", "w", "r", "c", outputs=["y", "y1"], **attributes)],
        [6, "b", 3],
        14,
        outputs=2,
        w=floats(both, gates * 5, 3),
        r=floats(both, gates * 5, 5),
        c=floats(both, gates * 10),
    )
    module = agree(made, floats(6, 1, 3), floats(6, 4, 3))
    assert any(isinstance(layer, getattr(nn, op)) for layer in module.modules())


def test_a_recurrent_layer_that_torch_cannot_express_says_why():
    made = model([node("GRU", "x", "w", "r", hidden_size=5)], [6, "b", 3], 14, w=floats(1, 15, 3), r=floats(1, 15, 5))
    module = from_onnx(made.SerializeToString())
    assert isinstance(module, OnnxModule)
    assert "the reset before the product" in module.reason
    assert module(torch.randn(6, 2, 3)).shape == (6, 1, 2, 5)


@pytest.mark.parametrize("declared", ["b", 2])
def test_the_batch_of_the_exported_example_is_freed(declared):
    """A Reshape to the example's (2, 112) must not hold the module to batches of two."""
    made = model(
        [node("Reshape", "x", "t", outputs=["f"]), node("Gemm", "f", "w")],
        [declared, 2, 7, 8],
        13,
        t=np.array([2, 112], I64),
        w=floats(112, 3),
    )
    module = from_onnx(made.SerializeToString())
    x = floats(5, 2, 7, 8)
    assert not isinstance(module, OnnxModule), module.reason
    expected = x.reshape(5, 112) @ numpy_helper.to_array(made.graph.initializer[1])
    torch.testing.assert_close(module(torch.from_numpy(x)).detach().numpy(), expected)


def test_one_matrix_used_twice_stays_one_parameter():
    made = model(
        [node("MatMul", "x", "w", outputs=["a"]), node("Relu", "a", outputs=["r"]), node("MatMul", "r", "w")],
        ["b", 4],
        13,
        w=floats(4, 4),
    )
    module = agree(made, floats(3, 4))
    assert len(list(module.parameters())) == 1


def test_a_matrix_read_both_ways_stays_one_parameter():
    made = model(
        [node("Gemm", "x", "w", outputs=["a"], transB=1), node("Gemm", "a", "w", transB=0)],
        ["b", 4],
        13,
        w=floats(3, 4),
    )
    module = agree(made, floats(3, 4))
    assert len(list(module.parameters())) == 1


def test_equal_biases_are_not_tied():
    made = model(
        [node("Gemm", "x", "w", "c", outputs=["a"]), node("Gemm", "a", "v", "c")],
        ["b", 4],
        13,
        w=floats(4, 4),
        v=floats(4, 4),
        c=np.zeros(4, np.float32),
    )
    assert len(list(agree(made, floats(3, 4)).parameters())) == 4


def test_half_precision_comes_back_in_single():
    made = model(
        [node("Cast", "x", outputs=["h"], to=10), node("MatMul", "h", "w", outputs=["m"]), node("Cast", "m", to=1)],
        ["b", 4],
        13,
        w=floats(4, 3).astype(np.float16),
    )
    module = from_onnx(made.SerializeToString())
    (weight,) = module.parameters()
    assert weight.dtype == torch.float32
    assert np.array_equal(weight.detach().numpy().T, numpy_helper.to_array(made.graph.initializer[0]))


def test_names_become_paths():
    made = model(
        [
            helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["a"], name="/encoder/layer.0/query/MatMul"),
            helper.make_node("Add", ["encoder.layer.0.query.bias", "a"], ["y"]),
        ],
        ["b", 4],
        13,
        **{"onnx::MatMul_7": floats(4, 3), "encoder.layer.0.query.bias": floats(3)},
    )
    module = agree(made, floats(2, 4))
    assert isinstance(module.get_submodule("encoder.layer.0.query"), nn.Linear)


@pytest.mark.parametrize(
    "name", ["forward", "graph", "a" + ".b" * 3000, "x); import os; os.abort(", "", "é\n", "_modules"]
)
def test_no_name_is_too_strange(name):
    """Names end up in generated code and in attributes."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name or "x", f"{name}.weight"], ["y"], name=name)],
        "main",
        [helper.make_tensor_value_info(name or "x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(floats(4, 3), f"{name}.weight")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    proto = read_onnx(made.SerializeToString())
    module = convert(proto, {name or "x": (1, ["b", 4])})
    x = floats(2, 4)
    torch.testing.assert_close(
        module(torch.from_numpy(x)).detach().numpy(), x @ numpy_helper.to_array(made.graph.initializer[0])
    )


def test_a_wrong_translation_is_caught(monkeypatch):
    from workbench.loading import onnx_conversion

    monkeypatch.setitem(onnx_conversion.OPERATORS, "Relu", lambda node, x: torch.tanh(x))
    module = from_onnx(model([node("Relu", "x")], ["b", 4], 13).SerializeToString())
    assert isinstance(module, OnnxModule)
    assert "differ in output 0" in module.reason


def test_too_large_values_are_refused_before_they_are_made():
    with BoundedSizes(2**20), pytest.raises(Untranslatable, match="too large"):
        torch.ones(2**12, 1) @ torch.ones(1, 2**12)
    with BoundedSizes(2**20), pytest.raises(Untranslatable, match="too large"):
        torch.zeros(2**45)
    with BoundedSizes(2**20):
        assert torch.ones(2**8, 2).sum() == 2**9


def test_other_models_can_still_be_traced_after_a_graph_that_makes_tensors_of_sizes():
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Add", ["x", "zeros"], ["y"]),
    ]
    made = from_onnx(model(nodes, ["n", 3], 13).SerializeToString())
    assert isinstance(made, torch.fx.GraphModule)
    x = torch.randn(4, 3)

    assert torch.equal(torch.fx.symbolic_trace(made)(x), x)  # what its sizes make is not a constant of the trace
    assert torch.equal(torch.fx.symbolic_trace(nn.Identity())(x), x)
