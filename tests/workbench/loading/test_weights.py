from __future__ import annotations

import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench.errors import LoadError
from workbench.loading import load
from workbench.loading.checkpoints import read_checkpoint


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        return self.fc(self.norm(self.conv1(x)).mean((2, 3)))


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net()


SAVERS = {
    "w.safetensors": lambda state, path: safetensors.torch.save_file(state, path),
    "w.pt": torch.save,
    "w.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "w.bin": lambda state, path: torch.save({k: nn.Parameter(v, False) for k, v in state.items()}, path),
}


@pytest.mark.parametrize("name", SAVERS)
def test_weights_come_back_into_a_class_and_into_an_instance(tmp_path, net, name):
    SAVERS[name](net.state_dict(), tmp_path / name)
    made = load(tmp_path / name, model=Net, width=4)
    assert same(made, net)
    assert not made.training
    mine = Net()
    assert load(str(tmp_path / name), model=mine) is mine
    assert same(mine, net)


@pytest.mark.parametrize("new", [True, False])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_tensor_is_read_as_torch_reads_it(tmp_path_factory, new, data):
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]
    kind = data.draw(st.sampled_from(kinds))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    whole = (torch.randn([*shape, 3]) * 9).to(kind)
    tensor = data.draw(
        st.sampled_from([whole, whole[..., 1], whole.transpose(0, -1), whole[..., 0:1].expand(*shape, 5)])
    )
    path = tmp_path_factory.mktemp("any") / "w.pt"
    torch.save({"a": tensor, "n": {"b": whole}}, path, _use_new_zipfile_serialization=new)
    held = read_checkpoint(path)
    assert torch.equal(held["a"], tensor)
    assert held["a"].dtype == kind
    assert torch.equal(held["n"]["b"], whole)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16])
def test_newer_types_are_read(tmp_path, dtype):
    tensor = torch.arange(6).to(dtype)
    torch.save({"a": tensor}, tmp_path / "w.pt")
    assert torch.equal(read_checkpoint(tmp_path / "w.pt")["a"].view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict", "ema", "anything"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_nested_and_prefixed_weights_are_found(tmp_path, net, nest, prefix):
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"optimizer": optimizer, "epoch": 3, nest: state}, tmp_path / "w.pt")
    assert same(load(tmp_path / "w.pt", model=Net), net)


def test_the_nest_that_fits_wins(tmp_path, net):
    other = {name: torch.zeros(9) for name in net.state_dict()}
    torch.save({"state_dict": other, "ema": net.state_dict()}, tmp_path / "w.pt")
    assert same(load(tmp_path / "w.pt", model=Net), net)


def test_tied_weights_may_be_in_the_file_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.outside = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.outside.weight = self.inside.weight

    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    loaded = load(tmp_path / "w.safetensors", model=Tied)
    assert same(loaded, model)
    assert loaded.inside.weight is loaded.outside.weight


def test_a_model_on_the_meta_device_gets_memory(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with torch.device("meta"):
        empty = Net()
    assert same(load(tmp_path / "w.pt", model=empty), net)
    assert empty.fc.weight.device.type == "cpu"


def test_a_meta_model_with_buffers_that_no_file_holds_is_refused(tmp_path):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("mask", torch.ones(2), persistent=False)

    torch.save(Masked().state_dict(), tmp_path / "w.pt")
    with torch.device("meta"):
        empty = Masked()
    with pytest.raises(LoadError, match="mask"):
        load(tmp_path / "w.pt", model=empty)


def test_a_lazy_model_is_refused(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="lazy"):
        load(tmp_path / "w.pt", model=nn.Sequential(nn.LazyLinear(3)))


FAULTS = {
    "missing": (lambda s: s.pop("fc.weight"), r"fc\.weight \[2, 4\]"),
    "renamed": (
        lambda s: s.update({"layer1.conv1.weight": s.pop("conv1.weight")}),
        r"'layer1\.conv1\.weight' of the same",
    ),
    "extra": (lambda s: s.update(head=torch.rand(7)), r"head \[7\]"),
    "shape": (lambda s: s.update({"fc.bias": torch.rand(3)}), r"fc\.bias is \[3\], the model has \[2\]"),
    "kind": (lambda s: s.update({"fc.bias": torch.ones(2).long()}), r"fc\.bias is torch\.int64"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, net, fault, name):
    change, words = FAULTS[fault]
    state = dict(net.state_dict())
    change(state)
    SAVERS[name](state, tmp_path / name)
    mine, before = Net().train(), Net()
    before.load_state_dict(mine.state_dict())
    with pytest.raises(LoadError, match=words):
        load(tmp_path / name, model=mine)
    assert same(mine, before)
    assert mine.training


def test_a_pickled_module_is_refused_and_not_run(tmp_path, net):
    torch.save(net, tmp_path / "w.pt")
    with pytest.raises(LoadError, match=r"state_dict\(\)"):
        load(tmp_path / "w.pt", model=Net)
    torch.save(net, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(LoadError, match="Net"):
        load(tmp_path / "old.pt", model=Net)


def test_torchscript_is_refused_with_the_way_out(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(LoadError, match=r"TorchScript.*torch\.export\.save"):
        load(tmp_path / "w.pt", model=Net)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrap", [lambda p: pickle.dumps(p), lambda p: pickle.dumps({"a": p}, 2)])
def test_pickles_never_run(tmp_path, wrap):
    canary = tmp_path / "canary"
    (tmp_path / "w.pt").write_bytes(wrap(Touch(canary)))
    with pytest.raises(LoadError):
        load(tmp_path / "w.pt", model=Net)
    torch.save({"a": Touch(canary), **Net().state_dict()}, tmp_path / "v.pt")
    load(tmp_path / "v.pt", model=Net)  # what is not a tensor is left out, and not made
    assert not canary.exists()


def test_a_checkpoint_that_declares_more_than_it_holds_is_refused(tmp_path):
    torch.save({"a": torch.rand(3)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in entries if n.endswith("data.pkl"))
    assert b"K\x03\x85" in entries[name]  # the shape (3,)
    entries[name] = entries[name].replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85")
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for key, value in entries.items():
            archive.writestr(key, value)
    with pytest.raises(LoadError, match="storage has 3"):
        read_checkpoint(tmp_path / "w.pt")


def test_a_checkpoint_cut_short_is_refused(tmp_path, net):
    for new in (True, False):
        torch.save(net.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        content = (tmp_path / "w.pt").read_bytes()
        for length in (1, 10, len(content) // 2, len(content) - 1):
            (tmp_path / "cut.pt").write_bytes(content[:length])
            with pytest.raises(LoadError):
                load(tmp_path / "cut.pt", model=Net)


def test_weights_without_a_model_say_what_they_hold(tmp_path, net):
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(LoadError, match=r"conv1\.bias \[4\].*model=Net"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wieghts.pt", "Did you mean 'weights.pt'"),
        ("weights.xyz", "Known endings"),
        ("nowhere/weights.pt", "does not exist"),
        ("folder.pt", "is a folder"),
        ("empty.pt", "is empty"),
        ("weights.pt\0", "ending"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, name, words):
    (tmp_path / "weights.pt").write_bytes(b"x")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(LoadError, match=words):
        load(tmp_path / name, model=Net)


def test_other_things_in_the_place_of_arguments(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="model= is a int"):
        load(tmp_path / "w.pt", model=3)
    with pytest.raises(LoadError, match="made a dict"):
        load(tmp_path / "w.pt", model=dict)
    with pytest.raises(LoadError, match="depth"):
        load(tmp_path / "w.pt", model=Net, depth=3)
    with pytest.raises(LoadError, match="arguments are for a class"):
        load(tmp_path / "w.pt", model=net, width=3)
    with pytest.raises(LoadError, match="brings its own"):
        load(tmp_path / "w.onnx" if (tmp_path / "w.onnx").write_bytes(b"x") else "", model=net)
