"""Files of unknown origin: every one of these ends in a LoadError, and nothing else happens."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from workbench.errors import LoadError
from workbench.loading import onnx_module
from workbench.loading.onnx_file import read_onnx
from workbench.loading.onnx_module import from_onnx
from workbench.loading.onnx_session import OnnxModule


def model(nodes, initializers=(), shape=("b", 4), functions=(), imports=()):
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n"])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 17), *imports]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def linear():
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(weight, "w")])


def refused(made, match):
    with pytest.raises(LoadError, match=match):
        from_onnx(made if isinstance(made, bytes | Path) else made.SerializeToString())


def with_external(folder: Path, location: str, length: int = 48, **entries):
    made = linear()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": length, **entries}.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, str(value)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_external_data_in_the_folder_is_read(tmp_path):
    values = np.arange(12, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(b"12345678" + values.tobytes())
    module = from_onnx(with_external(tmp_path, "weights.bin", offset=8))
    (weight,) = module.parameters()
    assert np.array_equal(weight.detach().numpy().T.ravel(), values)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "a/../../secret.bin", "/etc/passwd", "C:\\secret", "..\\secret.bin", "", "a\0b"]
)
def test_external_data_outside_of_the_folder_is_not_read(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    refused(with_external(folder, location), "outside of the model's folder")


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    refused(with_external(folder, "weights.bin"), "not a file within")


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"length": 2**40}, "declares 48 bytes"),
        ({"offset": 1}, "declares 48 bytes"),
        ({"offset": -48}, "negative place"),
        ({"offset": "zero"}, "names no number"),
    ],
)
def test_external_data_that_is_not_there(tmp_path, entries, match):
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    refused(with_external(tmp_path, "weights.bin", **entries), match)


def test_external_data_needs_a_folder_and_a_file(tmp_path):
    path = with_external(tmp_path, "weights.bin")
    refused(path.read_bytes(), "load the model from its path")
    refused(path, "is not there")
    refused(tmp_path / "none.onnx", "cannot be read")


@pytest.mark.parametrize("dims", [[2**40], [2**31, 2**31], [4, 4], [-4, 3], [2**62, 4]])
def test_declared_sizes_are_not_believed(dims):
    made = linear()
    del made.graph.initializer[0].dims[:]
    made.graph.initializer[0].dims.extend(dims)
    refused(made, "declares")


def test_a_negative_size_of_an_input():
    refused(model([helper.make_node("Relu", ["x"], ["y"])], shape=[-5, 4]), "negative size -5")


def test_minus_one_is_a_free_size():
    module = from_onnx(model([helper.make_node("Relu", ["x"], ["y"])], shape=[-1, 4]).SerializeToString())
    assert module(torch.ones(3, 4)).shape == (3, 4)


def test_a_cycle():
    refused(model([helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]), "not a valid")


def test_a_function_that_calls_itself():
    here = helper.make_opsetid("here", 1)
    again = helper.make_node("F", ["a"], ["c"], domain="here")
    function = helper.make_function("here", "F", ["a"], ["c"], [again], [here])
    refused(
        model([helper.make_node("F", ["x"], ["y"], domain="here")], functions=[function], imports=[here]),
        "cannot open|ended the process|not a valid",
    )


@pytest.mark.parametrize("depth", [20, 200])
def test_graphs_within_graphs(depth):
    """At 200 the message is deeper than a protocol buffer may be."""
    content = _field(1, _field(4, b"Identity") + _field(1, b"x") + _field(2, b"t")) + _field(2, b"g")
    for _ in range(depth):
        # by hand, for the message is too deep to be copied: node { op_type If, attribute { name, type GRAPH, g } }
        attribute = _field(1, b"then_branch") + bytes([20 << 3 & 127 | 128, 20 << 3 >> 7, 5]) + _field(6, content)
        content = _field(1, _field(4, b"If") + _field(2, b"t") + _field(5, attribute)) + _field(2, b"g")
    refused(_field(7, content) + bytes([8, 8]) + _field(8, bytes([16, 17])), "nested|not an ONNX")


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protocol buffer field."""
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def test_a_loop_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(onnx_module, "SECONDS", 2.0)
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["b", 4]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["b", 4]),
        ],
    )
    made = model(
        [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)],
        [numpy_helper.from_array(np.array(2**62), "n"), numpy_helper.from_array(np.array(True), "t")],
    )
    refused(made, "took longer")


GIANT = {
    "ConstantOfShape": [
        helper.make_node("ConstantOfShape", ["n"], ["z"]),
        helper.make_node("MatMul", ["x", "z"], ["y"]),
    ],
    "Expand": [helper.make_node("Expand", ["x", "n"], ["y"])],
    "outer product": [
        helper.make_node("ConstantOfShape", ["n1"], ["c"]),
        helper.make_node("Transpose", ["c"], ["r"]),
        helper.make_node("Mul", ["c", "r"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["y"]),
    ],
}


def memory_for(content):
    """How a load ends in a process of its own, and the most bytes that it or the trial in it held.

    torch and onnxruntime alone take 0.4 GiB. The peak is read from the process's own memory map where there is
    one: what `getrusage` tells of a process begins with the peak of the one that started it.
    """
    script = """
        import resource, sys
        from pathlib import Path
        from workbench.errors import LoadError
        from workbench.loading.onnx_module import from_onnx
        try:
            print(type(from_onnx(sys.stdin.buffer.read())).__name__)
        except LoadError as error:
            print("LoadError")
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        print(own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=content,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    what, mine, childs = ended.stdout.split()
    return what, max(int(mine), int(childs)) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", list(GIANT))
def test_a_small_file_cannot_take_much_memory(name):
    numbers = [("n", np.array([4, 2**30 if name == "ConstantOfShape" else 2**33])), ("n1", np.array([2**18, 1]))]
    content = model(GIANT[name], [numpy_helper.from_array(array, key) for key, array in numbers]).SerializeToString()

    what, most = memory_for(content)

    assert what in (b"LoadError", b"OnnxModule")
    assert most < 2**30


CONTENT = linear().SerializeToString()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_files_load_or_say_why_not(changes):
    content = bytearray(CONTENT)
    for place, value in changes:
        content[place] = value
    try:
        module = from_onnx(bytes(content))
    except LoadError as error:
        assert str(error)
    else:
        assert callable(module)


@given(st.integers(0, len(CONTENT) - 1))
def test_a_part_of_a_file_is_not_read_as_a_model(end):
    try:
        proto = read_onnx(CONTENT[:end])
    except LoadError:
        return
    # what is cut off at the end of a field is a shorter message, and no valid model
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)


def test_a_missing_operator_set():
    made = linear()
    made.opset_import[0].version = 6
    refused(made, "opset 6")
    del made.opset_import[:]
    refused(made, "opset None")


def test_what_onnxruntime_does_not_know_is_an_error_and_not_a_module():
    made = model([helper.make_node("Unheard", ["x"], ["y"], domain="of")], imports=[helper.make_opsetid("of", 1)])
    refused(made, "cannot open")


def test_a_giant_input_is_not_made():
    made = model([helper.make_node("Relu", ["x"], ["y"])], shape=["b", 2**40])
    module = from_onnx(made.SerializeToString())
    assert isinstance(module, OnnxModule)
    assert "declares the shape" in module.reason
    assert memory_for(made.SerializeToString())[1] < 2**30
