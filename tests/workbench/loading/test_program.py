from __future__ import annotations

import json
import warnings
import zipfile

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from workbench.errors import LoadError, WorkbenchError
from workbench.loading import load
from workbench.loading.batches import FixedBatch


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1, dilation=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = self.up(F.gelu(self.deep(x)))
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class OneDimension(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm1d(4)
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 3, batch_first=True)

    def forward(self, x):
        out, (hidden, _) = self.lstm(self.norm(self.conv(x)).transpose(1, 2))
        out, state = self.gru(out)
        return {"out": out, "states": (hidden, state)}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.norm = nn.LayerNorm(8)
        self.layer = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("shift", torch.rand(8), persistent=False)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.norm(self.embedding(tokens))
        for _ in range(2):  # the same layer twice
            x = x + self.layer(x)
        with torch.no_grad():
            x = x * self.scale + self.shift
        return self.out(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.w1 = nn.Parameter(torch.rand(4, 8))

    def forward(self, x, mask=None):
        return F.linear(self.encoder(x, src_key_padding_mask=mask), self.w1), x.mean(1)


class Sizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x, *, scale=2.0):
        x, _ = self.cell(x)
        return (x.reshape(x.shape[0], -1, 3) * scale).split(1, dim=2), [x.amax(1), None]


CASES = {
    "convolutions": (Convolutions, lambda n: (torch.randn(n, 3, 8, 8),), {}),
    "one-dimension": (OneDimension, lambda n: (torch.randn(n, 2, 6),), {}),
    "tied": (Tied, lambda n: (torch.randint(0, 20, (n, 5)),), {}),
    "attention": (Attention, lambda n: (torch.randn(n, 5, 8), torch.zeros(n, 5, dtype=torch.bool)), {}),
    "sizes": (Sizes, lambda n: (torch.randn(n, 4, 6),), {"scale": 3.0}),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)),
        lambda n: (torch.randn(n, 1, 4, 4, 4),),
        {},
    ),
}


def saved(path, model, inputs, kwargs=None, *, dynamic=True, decomposed=False):
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = [{0: batch} for _ in inputs] if dynamic else None
    if dynamic and kwargs:
        shapes = ({0: batch}, *[None] * len(kwargs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, inputs, kwargs or {}, dynamic_shapes=tuple(shapes) if shapes else None)
        if decomposed:
            program = program.run_decompositions()
        torch.export.save(program, path)
    return program


def agree(left, right, tolerance=1e-5):
    left, right = pytree.tree_leaves(left), pytree.tree_leaves(right)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CASES)
def test_a_program_computes_what_it_did_and_shows_its_layers(tmp_path, name):
    make, inputs, kwargs = CASES[name]
    model = make().eval()
    saved(tmp_path / "m.pt2", model, inputs(2), kwargs)
    loaded = load(tmp_path / "m.pt2")
    with torch.no_grad():
        for count in (1, 2, 3):
            given = inputs(count)
            agree(loaded(*given, **kwargs), model(*given, **kwargs))
    assert not any(module.training for module in loaded.modules())
    kinds = (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose2d,
        nn.Embedding,
        nn.LSTM,
        nn.GRU,
        nn.LayerNorm,
    )
    expected = {n: type(m) for n, m in model.named_modules() if isinstance(m, kinds)}
    found = {n: type(m) for n, m in loaded.named_modules() if isinstance(m, kinds)}
    for layer, kind in expected.items():
        if kind is not nn.modules.linear.NonDynamicallyQuantizableLinear:
            assert found.get(layer) is kind, f"{layer} is not shown; there are {found}"
    own = dict(model.named_parameters())
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in own.values())


@pytest.mark.parametrize("name", ["convolutions", "tied", "one-dimension"])
def test_a_loaded_program_can_be_traced_and_exported_again(tmp_path, name):
    make, inputs, _ = CASES[name]
    saved(tmp_path / "m.pt2", make().eval(), inputs(2))
    loaded, given = load(tmp_path / "m.pt2"), inputs(2)
    with torch.no_grad():
        expected = loaded(*given)
        agree(torch.fx.symbolic_trace(loaded)(*given), expected)
        agree(torch.export.export(loaded, given).module()(*given), expected)


def test_a_loaded_program_can_go_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    make, inputs, _ = CASES["convolutions"]
    saved(tmp_path / "m.pt2", make().eval(), inputs(2))
    loaded, given = load(tmp_path / "m.pt2"), inputs(2)
    torch.onnx.export(loaded, given, tmp_path / "m.onnx", dynamo=True, verbose=False, input_names=["x"])
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": given[0].numpy()})
    with torch.no_grad():
        agree(torch.tensor(found), loaded(*given), 1e-4)


def test_shared_weights_stay_shared(tmp_path):
    make, inputs, _ = CASES["tied"]
    saved(tmp_path / "m.pt2", make().eval(), inputs(2))
    loaded = load(tmp_path / "m.pt2")
    embedding = next(m for m in loaded.modules() if isinstance(m, nn.Embedding))
    heads = [m for m in loaded.modules() if isinstance(m, nn.Linear) and m.weight is embedding.weight]
    assert len(heads) == 1


def test_decomposed_programs_show_their_layers_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    given = (torch.randn(2, 1, 4, 4),)
    saved(tmp_path / "m.pt2", model, given, decomposed=True)
    loaded = load(tmp_path / "m.pt2")
    assert [type(m) for n, m in loaded.named_modules() if n] == [nn.Conv2d, nn.Linear]
    with torch.no_grad():
        agree(loaded(*given), model(*given))


class Baked(nn.Module):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x).reshape(self.batch, 2, 2).transpose(1, 2), self.fc.bias.sum()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_size_that_is_baked_in_is_cut_to(tmp_path, size, count):
    saved(tmp_path / "m.pt2", Baked(size), (torch.randn(size, 6),), dynamic=False)
    loaded = load(tmp_path / "m.pt2")
    assert isinstance(loaded, FixedBatch)
    x = torch.randn(count, 6)
    fc = next(m for m in loaded.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        agree(loaded(x), (fc(x).reshape(count, 2, 2).transpose(1, 2), fc.bias.sum()))


def test_arguments_by_name_and_constants_are_cut_and_kept(tmp_path):
    class Named(nn.Module):
        def forward(self, scale, x, *, mask, flag=None):
            return (x * scale + mask).reshape(2, -1)

    kwargs = {"mask": torch.rand(2, 3), "flag": None}
    saved(tmp_path / "m.pt2", Named(), (2.0, torch.randn(2, 3)), kwargs, dynamic=False)
    loaded, x, mask = load(tmp_path / "m.pt2"), torch.randn(5, 3), torch.rand(5, 3)
    assert isinstance(loaded, FixedBatch)
    agree(loaded(2.0, x, mask=mask), x * 2 + mask)
    agree(loaded(2.0, x=x, mask=mask, flag=None), x * 2 + mask)


def test_a_batch_size_that_was_only_an_examples_is_not_cut(tmp_path):
    make, inputs, _ = CASES["convolutions"]
    model = make().eval()
    saved(tmp_path / "m.pt2", model, inputs(2), dynamic=False)
    loaded = load(tmp_path / "m.pt2")
    assert not isinstance(loaded, FixedBatch)
    with torch.no_grad():
        agree(loaded(x := inputs(5)[0]), model(x))


def test_recurrent_layers_are_not_cut(tmp_path):
    make, inputs, _ = CASES["one-dimension"]
    model = make().eval()
    saved(tmp_path / "m.pt2", model, inputs(2), dynamic=False)
    loaded = load(tmp_path / "m.pt2")
    assert not isinstance(loaded, FixedBatch)
    with torch.no_grad():
        agree(loaded(x := inputs(3)[0]), model(x))


def test_results_that_cannot_be_put_together_are_not_made_up(tmp_path):
    class Turned(nn.Module):
        def forward(self, x):
            return x.reshape(1, 3).t()

    saved(tmp_path / "m.pt2", Turned(), (torch.randn(1, 3),), dynamic=False)
    loaded = load(tmp_path / "m.pt2")
    agree(loaded(torch.ones(1, 3)), torch.ones(3, 1))
    with pytest.raises(WorkbenchError, match="dynamic batch"):
        loaded(torch.randn(2, 3))


def test_a_mean_over_the_batch_is_found_by_the_trial(tmp_path):
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    saved(tmp_path / "m.pt2", Centred(), (torch.randn(2, 3),), dynamic=False)
    assert isinstance(load(tmp_path / "m.pt2"), FixedBatch)


def test_a_program_of_a_training_model_is_loaded_for_evaluation(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    saved(tmp_path / "m.pt2", model, (torch.randn(2, 4),))
    with pytest.warns(UserWarning, match="training mode"):
        loaded = load(tmp_path / "m.pt2")
    x = torch.randn(3, 4)
    with torch.no_grad():
        agree(loaded(x), model[0](x))


def edited(path, change, entry="models/model.json"):
    """The archive with one of its JSON entries changed."""
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(n for n in contents if n.endswith(entry))
    content = json.loads(contents[name])
    change(content)
    contents[name] = json.dumps(content).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in contents.items():
            archive.writestr(key, value)


@pytest.fixture
def small(tmp_path):
    saved(tmp_path / "m.pt2", nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (torch.randn(2, 3),))
    return tmp_path / "m.pt2"


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten._sparse_coo_tensor_unsafe.default",
        "torch.hub.load",
        "torch.os.system",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "torch.ops.load_library",
        "torch.ops.aten.relu.default.__class__",
        "math.factorial",
        "#ext:thing",
    ],
)
def test_operators_that_are_not_listed_are_refused(small, target):
    edited(small, lambda p: p["graph_module"]["graph"]["nodes"][-1].update(target=target))
    with pytest.raises(LoadError, match="not an operator that is loaded"):
        load(small)


@pytest.mark.parametrize("code", ["__import__('os').system('touch {}')", "open('{}', 'w')"])
def test_nothing_that_torch_would_evaluate_is_evaluated(small, tmp_path, code):
    canary = tmp_path / "canary"
    text = code.format(canary)

    def poison(program):
        graph = program["graph_module"]["graph"]
        graph["sym_int_values"]["s"] = {"as_expr": {"expr_str": text, "hint": None}}
        for meta in graph["tensor_values"].values():
            meta["sizes"] = [{"as_expr": {"expr_str": text, "hint": None}} for _ in meta["sizes"]]
        program["guards_code"] = [text]
        program["graph_module"]["graph"]["nodes"][-1]["metadata"]["stack_trace"] = f'"""\n{text}\n"""'

    edited(small, poison)
    loaded = load(small)  # sizes and guards are not looked at
    loaded(torch.randn(2, 3))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["x=open('{}','w')", "x):\n    open('{}', 'w')\n    return (x", "class", "é"])
def test_names_that_would_be_written_into_source_are_checked(small, tmp_path, name):
    canary = tmp_path / "canary"
    poisoned = name.format(canary)
    edited(small, lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(forward_arg_names=[poisoned]))
    with pytest.raises(LoadError, match="not a name"):
        load(small)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["forward", "__class__", "_modules", "training", 'a"]; open("x")', "a b", ""])
def test_names_of_tensors_are_checked(small, name):
    def rename(program):
        spec = program["graph_module"]["signature"]["input_specs"][0]["parameter"]
        renamed.append(spec["parameter_name"])
        spec["parameter_name"] = name

    def rename_weight(config):
        config["config"][name] = config["config"].pop(renamed[0])

    renamed: list[str] = []
    edited(small, rename)
    edited(small, rename_weight, "model_weights_config.json")
    with pytest.raises(LoadError, match="a tensor"):
        load(small)


def test_weights_that_declare_more_than_their_bytes_are_refused(small):
    def grow(config):
        next(iter(config["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 2**40}, {"as_int": 3}]

    edited(small, grow, "model_weights_config.json")
    with pytest.raises(LoadError, match=r"needs .* elements"):
        load(small)


def test_broadcast_weights_are_not_blown_up(small):
    def grow(config):
        meta = next(iter(config["config"].values()))["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 2**30}, {"as_int": 2**30}], [{"as_int": 0}, {"as_int": 0}]

    edited(small, grow, "model_weights_config.json")
    with pytest.raises(LoadError, match="declares"):
        load(small)


@pytest.mark.parametrize("greed", ["zeros", "squares", "list"])
def test_a_program_that_would_fill_the_memory_is_not_run(tmp_path, greed):
    """It has a fixed batch, which loading tries out."""
    saved(tmp_path / "m.pt2", nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (torch.randn(1, 3),), dynamic=False)

    def poison(program):
        graph = program["graph_module"]["graph"]
        if greed == "zeros":
            size = {"name": "size", "arg": {"as_ints": [2**20, 2**20]}, "kind": 1}
            outputs = [{"as_tensor": {"name": "huge"}}]
            graph["nodes"] += [{"target": "torch.ops.aten.zeros.default", "inputs": [size], "outputs": outputs}]
            graph["outputs"] = outputs
        if greed == "squares":
            for step in range(60):
                last = {"as_sym_int": {"as_name": f"n{step - 1}"}} if step else {"as_int": 2**60}
                inputs = [{"name": "", "arg": last, "kind": 1}] * 2
                outputs = [{"as_sym_int": {"as_name": f"n{step}"}}]
                graph["nodes"] += [{"target": "_operator.mul", "inputs": inputs, "outputs": outputs}]
            graph["outputs"] = outputs
        if greed == "list":
            inputs = [{"name": "", "arg": arg, "kind": 1} for arg in ({"as_ints": [1, 2]}, {"as_int": 2**40})]
            graph["nodes"] += [
                {"target": "_operator.mul", "inputs": inputs, "outputs": [{"as_sym_int": {"as_name": "n"}}]}
            ]

    edited(tmp_path / "m.pt2", poison)
    if greed == "list":
        with pytest.raises(LoadError, match="not a number"):
            load(tmp_path / "m.pt2")
    else:
        assert isinstance(load(tmp_path / "m.pt2"), FixedBatch)


def test_pickled_weights_are_refused(small):
    edited(small, lambda c: next(iter(c["config"].values())).update(use_pickle=True), "model_weights_config.json")
    with pytest.raises(LoadError, match="pickle"):
        load(small)


def test_programs_that_change_their_own_state_are_refused_with_the_way_out(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(3)).train()
    saved(tmp_path / "m.pt2", model, (torch.randn(2, 3),), decomposed=True)
    with pytest.raises(LoadError, match=r"model\.eval"):
        load(tmp_path / "m.pt2")


def test_compressed_archives_are_refused(small):
    with zipfile.ZipFile(small) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in contents.items():
            archive.writestr(key, value)
        archive.writestr("m/bomb", b"\0" * 2**24)
    with pytest.raises(LoadError, match="compressed"):
        load(small)


def test_a_program_with_a_checkpoints_ending_says_what_it_is(small):
    with pytest.raises(LoadError, match=r"\.pt2"):
        load(small.rename(small.with_suffix(".pt")), model=nn.Linear(3, 2))


def test_an_archive_of_another_kind_says_what_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/aotinductor/model/code.so", "x")
    with pytest.raises(LoadError, match="compiled code"):
        load(tmp_path / "m.pt2")
