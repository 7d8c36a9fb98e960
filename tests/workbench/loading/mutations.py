"""Small valid model files, and ways to damage them or to make them hostile: for the tests and for the bench."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import safetensors.torch
import torch
from onnx import TensorProto, helper
from torch import nn

ENDINGS = {
    "safetensors": "weights.safetensors",
    "pt": "weights.pt",
    "pt2": "program.pt2",
    "onnx": "graph.onnx",
    "config": "config.json",
    "recipe": "recipe.json",
}
CANARY = "CANARY_PATH"
"""Stands in hostile payloads for the file that they would create."""


def network() -> nn.Module:
    """What the weights of the seeds belong to."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).eval()


def seeds() -> dict[str, list[bytes]]:
    """Valid files by kind; the configuration is there only where transformers is installed."""
    model = network()
    made = {kind: [] for kind in ENDINGS}
    made["safetensors"] = [safetensors.torch.save(model.state_dict(), {"format": "pt"})]
    for held, new in ((model.state_dict(), True), ({"state_dict": model.state_dict(), "epoch": 3}, False)):
        buffer = io.BytesIO()
        torch.save(held, buffer, _use_new_zipfile_serialization=new)
        made["pt"].append(buffer.getvalue())
    made["pt2"] = [_program(model, (torch.randn(2, 1, 4, 4),)), _program(_Sequence(), (torch.ones(2, 3).long(),))]
    made["pt2"].append(_program(model, (torch.randn(1, 1, 4, 4),), dynamic=False))  # loading it tries other sizes
    made["onnx"] = [_onnx()]
    made["recipe"] = [
        b'{"version":1,"quantization":{"weight_bits":4,"activation_bits":8,"layers":{"fc*":{"weight_bits":null}}},'
        b'"distillation":{"width":0.5,"epochs":3},"deployment":{"runtime":"eager","batch":2}}'
    ]
    made["config"] = [
        b'{"architectures":["BertForSequenceClassification"],"model_type":"bert","hidden_size":8,"num_hidden_layers":1,'
        b'"num_attention_heads":2,"intermediate_size":8,"vocab_size":20,"max_position_embeddings":16,"hidden_act":"gelu"}'
    ]
    return made


class _Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.cell = nn.Embedding(5, 4), nn.LayerNorm(4), nn.LSTM(4, 3, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.norm(self.embedding(tokens)).reshape(tokens.shape[0], -1, 4)
        return {"out": self.cell(x)[0].softmax(-1)}


def _program(model: nn.Module, inputs: tuple[torch.Tensor, ...], *, dynamic: bool = True) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", max=64)
        buffer = io.BytesIO()
        shapes = ({0: batch},) if dynamic else None
        torch.export.save(torch.export.export(model.eval(), inputs, dynamic_shapes=shapes), buffer)
    return buffer.getvalue()


def _onnx() -> bytes:
    values = {"w": [4, 1, 3, 3], "b": [4], "m": [16, 3]}
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, torch.rand(shape).flatten().tolist())
        for name, shape in values.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "seed", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


# What hostile files carry


class _Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


class _Open:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, (CANARY, "w")


def _pickles() -> list[bytes]:
    class_like = b"\x80\x02c__main__\nNet\nq\x00)\x81q\x01}q\x02X\x01\x00\x00\x00aq\x03K\x01sb."
    huge = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."
    nested = b"\x80\x02" + b"]" * 50_000 + b"."
    doubling = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple whose printing or hashing never ends
    ends = (b".", b"}h\x00K\x01s.", b"(h\x00o.", b"h\x00\x93.", b"(h\x00h\x00tQ.", b"X\x01\x00\x00\x00ah\x00R.")
    marks = b"\x80\x02" + b"N" * 300_000 + b"(t" * 300_000 + b"."
    saved = [pickle.dumps({"w": kind()}, protocol) for kind in (_Command, _Open) for protocol in (0, 2, 4)]
    return [
        *saved,
        class_like,
        huge,
        nested,
        marks,
        *(doubling + end for end in ends),
        b"cos\nsystem\n(S'touch " + CANARY.encode() + b"'\ntR.",
    ]


CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"open('{CANARY}', 'w')",
    f"x=open('{CANARY}', 'w')",
    f"'); open('{CANARY}', 'w'); ('",
    f'"""\nopen("{CANARY}", "w")\n"""',
    f"Symbol('s0', cls=lambda *a, **k: open('{CANARY}', 'w'))",
    f"x):\n    open('{CANARY}', 'w')\n    return (x",
]
TARGETS = [
    "torch.load",
    "torch.hub.load",
    "torch.ops.load_library",
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.set_.source_Storage",
    "torch.ops.aten.empty_strided.default",
    "torch.ops.aten.repeat.default",
    "torch.ops.aten.zeros.default",
    "torch.ops.aten.mm.default",
    "torch.ops.higher_order.cond",
    "torch.os.system",
    "_operator.mul",
    "_operator.pow",
    "_operator.attrgetter",
    "_operator.methodcaller",
    "math.factorial",
]
_ODD: list[Any] = [
    None, True, -1, 0, 1, 7, 2**31, 2**40, 2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf"), "", "x", "é\0",
    "../../../../etc/passwd", "/dev/zero", "A" * 100_000, [], {}, [[]], {"as_int": 2**40}, {"as_ints": [2**40] * 3},
    *CODE, *TARGETS,
]  # fmt: skip


def _deep(levels: int) -> str:
    return "[" * levels + "]" * levels


# Mutators: bytes -> bytes


def flip(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(len(damaged))] = rng.choice((0, 0xFF, 0x7F, rng.randrange(256)))
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice((0, 1, 8, rng.randrange(len(content)), len(content) - 1))]


def splice(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randrange(len(content)), rng.randrange(len(content))))
    at = rng.randrange(len(content))
    kind = rng.randrange(3)
    if kind == 0:
        return content[:start] + content[end:]
    return content[:at] + content[start:end] * rng.choice((1, 2)) + content[at + (kind - 1) * (end - start) :]


def edit_json(text: bytes, rng: random.Random) -> bytes:
    """Change, delete, repeat or wrap a few values of a JSON document."""
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            break
        container, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del container[key]
            case 1:
                container[key] = [container[key]] * rng.choice((0, 1, 3))
            case 2 if isinstance(container[key], int) and not isinstance(container[key], bool):
                container[key] = rng.choice((container[key] + 1, -container[key], container[key] * 10**9, 2**62))
            case 3 if isinstance(container, list):
                container.extend(copy.deepcopy(container) * rng.choice((1, 5)))
            case 4:
                container[key] = copy.deepcopy(rng.choice(places)[0])
            case _:
                container[key] = copy.deepcopy(rng.choice(_ODD))
    if rng.random() < 0.03:
        return f'{{"version": 1, "quantization": {_deep(100_000)}, "config": {_deep(900)}}}'.encode()
    return json.dumps(document).encode()


def _places(value: Any) -> Any:
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(entry)


def edit_zip(content: bytes, rng: random.Random) -> bytes:
    """Change the entries of an archive, with right lengths and checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    names = list(entries)
    pickled = [name for name in names if name.endswith(".pkl") or "sample_inputs" in name]
    parsed = [name for name in names if name.endswith(".json")]
    name = rng.choice(rng.choice([group for group in (names, pickled, parsed, parsed) if group]))
    compression = zipfile.ZIP_STORED
    match rng.randrange(10):
        case 0:
            del entries[name]
        case 1:
            entries[rng.choice(("../../evil", "/abs", name.partition("/")[0] + "/code/x.py", name + "x"))] = (
                b"import os"
            )
        case 2:
            entries[name] = rng.choice(_pickles())
        case 3:
            compression = zipfile.ZIP_DEFLATED
            entries[name] = b"\0" * 2**22
        case 4:
            entries[name] = entries[rng.choice(names)]
        case 5 if len(entries[name]) > 0:
            entries[name] = truncate(entries[name], rng)
        case _ if name.endswith(".json") and len(entries[name]) > 20:
            entries[name] = edit_json(entries[name], rng)
        case _ if entries[name]:
            entries[name] = flip(entries[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for key, value in entries.items():
            archive.writestr(key, value)
    return buffer.getvalue()


def edit_header(content: bytes, rng: random.Random) -> bytes:
    """Change the JSON header of a safetensors file, with or without its length."""
    (length,) = struct.unpack("<Q", content[:8])
    header = edit_json(content[8 : 8 + length], rng)
    declared = rng.choice((len(header), len(header), len(header), 2**40, 2**63 - 1, length))
    return struct.pack("<Q", declared) + header + content[8 + length :]


def edit_onnx(content: bytes, rng: random.Random) -> bytes:
    """Change shapes, operators, attributes and where weights lie."""
    model = onnx.load_from_string(content)
    graph = model.graph
    node, weight = rng.choice(graph.node), rng.choice(graph.initializer)
    match rng.randrange(9):
        case 0:
            weight.dims[0] = rng.choice((2**40, -1, 0, 7, 2**62))
        case 1:
            weight.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", rng.choice(("/etc/passwd", "../../x", "w.bin"))),
                ("length", "99999999999"),
            ):
                entry = weight.external_data.add()
                entry.key, entry.value = key, value
            weight.ClearField("float_data")
        case 2:
            node.op_type = rng.choice(("Expand", "Tile", "ConstantOfShape", "Loop", "Nope", "__import__", "Resize"))
        case 3:
            attribute = node.attribute.add()
            attribute.name, attribute.type, attribute.i = rng.choice(("axis", "group", "to", "é")), 2, 2**40
        case 4:
            node.input[0] = rng.choice(("y", "nowhere", "", node.output[0]))
        case 5:
            graph.node.extend([node] * rng.choice((1, 500)))
        case 6:
            shape = graph.initializer.add()
            shape.name, shape.data_type = "shape", TensorProto.INT64
            shape.dims.append(3)
            shape.int64_data.extend([2**20, 2**20, 2**20])
            graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
            graph.output[0].name = "huge"
        case 7:
            node.name = rng.choice(CODE)
            weight.name = rng.choice(CODE)
        case 8:
            del model.opset_import[:]
            model.ir_version = rng.choice((0, 1, 2**40))
    return model.SerializeToString()


def poison_program(content: bytes, rng: random.Random) -> bytes:
    """Put code or a foreign target where torch's own loader would evaluate, resolve or execute it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(n for n in entries if n.endswith("models/model.json"))
    program, code = json.loads(entries[name]), rng.choice(CODE)
    graph = program["graph_module"]["graph"]
    match rng.randrange(7):
        case 0:
            rng.choice(graph["nodes"])["target"] = rng.choice(TARGETS)
        case 1:
            code = rng.choice(CODE[:2])  # torch.export.load does run these
            for meta in graph["tensor_values"].values():
                meta["sizes"] = [{"as_expr": {"expr_str": code, "hint": None}} for _ in meta["sizes"]]
        case 2:
            program["guards_code"] = [code]
        case 3:
            program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [code]
        case 4:
            rng.choice(graph["nodes"]).update(name=code, metadata={"stack_trace": code, "nn_module_stack": code})
        case 5:
            program["range_constraints"][code] = {"min_val": 0, "max_val": 2}
            program["verifiers"] = [code]
        case 6:  # squares of a size, which as Python integers would fill the memory
            node = {"target": "_operator.mul", "metadata": {}, "outputs": [{"as_sym_int": {"as_name": "big"}}]}
            for step in range(60):
                last = {"as_sym_int": {"as_name": f"big{step - 1}"}} if step else {"as_int": 2**62}
                inputs = [{"name": "", "arg": last, "kind": 1}] * 2
                made = {**node, "inputs": inputs, "outputs": [{"as_sym_int": {"as_name": f"big{step}"}}]}
                graph["nodes"].insert(step, made)
            graph["outputs"][0] = {"as_sym_int": {"as_name": "big59"}}
    entries[name] = json.dumps(program).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, value in entries.items():
            archive.writestr(key, value)
    return buffer.getvalue()


def swap_pickle(_: bytes, rng: random.Random) -> bytes:
    return rng.choice(_pickles())


def edit_numbers(content: bytes, rng: random.Random) -> bytes:
    """Change small integers of a pickle in place: shapes, strides, offsets, lengths."""
    damaged = bytearray(content)
    for at in rng.sample(range(len(damaged) - 5), k=min(200, len(damaged) - 5)):
        if damaged[at] in b"KMJ":
            width = {75: 1, 77: 2, 74: 4}[damaged[at]]
            damaged[at + 1 : at + 1 + width] = rng.choice((b"\xff", b"\x7f", b"\x00")) * width
            if rng.random() < 0.5:
                break
    return bytes(damaged)


MUTATORS: dict[str, list[Callable[[bytes, random.Random], bytes]]] = {
    "safetensors": [flip, truncate, splice, edit_header, edit_header, edit_header],
    "pt": [flip, truncate, splice, edit_numbers, swap_pickle, edit_zip, edit_zip],
    "pt2": [flip, truncate, splice, edit_zip, edit_zip, edit_zip, poison_program, poison_program],
    "onnx": [flip, truncate, splice, edit_onnx, edit_onnx],
    "config": [flip, truncate, splice, edit_json, edit_json, edit_json],
    "recipe": [flip, truncate, splice, edit_json, edit_json, edit_json],
}


def mutated(folder: Path, count: int, seed: int, kinds: list[str], canary: Path) -> list[tuple[str, Path]]:
    """Write `count` files, each in a folder of its own, the kinds in turn.

    Returns:
        (kind, path) of each.
    """
    rng, valid, written = random.Random(seed), seeds(), []
    for index in range(count):
        kind = kinds[index % len(kinds)]
        content = rng.choice(valid[kind])
        for _ in range(rng.choice((1, 1, 1, 2))):
            mutate = rng.choice(MUTATORS[kind])
            try:
                content = mutate(content, rng) or content
            except (ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, NotImplementedError, struct.error):
                content = flip(content, rng)  # a damaged file cannot be edited by its structure once more
            except Exception:  # protobuf's DecodeError has no public base
                content = flip(content, rng)
        place = folder / f"{index:05d}"
        place.mkdir()
        path = place / ENDINGS[kind]
        path.write_bytes(content.replace(CANARY.encode(), str(canary).encode()))
        written.append((kind, path))
    return written
