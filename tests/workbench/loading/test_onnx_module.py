"""Torch models go out as ONNX and come back as torch modules; both must compute the same."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.loading.onnx_module import from_onnx
from workbench.loading.onnx_session import OnnxModule


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.fc, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(torch.tanh(self.fc(self.table(x))))


class Recurrent(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.cell = kind(6, 5, batch_first=True, **how)
        self.fc = nn.Linear(5 * (2 if how.get("bidirectional") else 1), 3)

    def forward(self, x):
        return self.fc(self.cell(x)[0][:, -1])


class Upscaler(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2, dilation=1)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        x = F.interpolate(self.up(self.conv(x)), scale_factor=2, mode="bilinear")
        return F.interpolate(x, scale_factor=2, mode="nearest")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, x, y):
        return torch.cat([self.a(x), self.b(y)], 1), self.a(x) * self.b(y)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.place = nn.Embedding(30, 16), nn.Parameter(torch.randn(9, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for parameter in self.body.parameters():
            nn.init.normal_(parameter, std=0.3)  # copies of a layer would be merged by the exporter

    def forward(self, x):
        return self.body(self.table(x) + self.place).mean(1)


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, groups=2, padding=2, dilation=2),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8, 5),
    )


def one_dimensional():
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, stride=2, dilation=2), nn.ELU(), nn.AvgPool1d(2), nn.GroupNorm(2, 4), nn.Flatten()
    )


MODELS = {
    "cnn": (cnn, (torch.randn(2, 1, 12, 12),)),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3, bias=False), nn.Softmax(-1)),
        (torch.randn(2, 4),),
    ),
    "linear on sequences": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 3)),
        (torch.randn(2, 5, 4),),
    ),
    "tied": (Tied, (torch.randint(0, 20, (2, 7)),)),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (torch.randn(2, 7, 6),)),
    "upscaler": (Upscaler, (torch.randn(2, 2, 8, 8),)),
    "two inputs": (TwoInputs, (torch.randn(2, 4), torch.randn(2, 3))),
    "encoder": (Encoder, (torch.randint(0, 30, (2, 9)),)),
    "1d": (one_dimensional, (torch.randn(2, 3, 30),)),
}


def exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(
            model, inputs, dynamo=True, dynamic_shapes=tuple({0: batch} for _ in inputs), verbose=False
        )
    return program.model_proto.SerializeToString()


@pytest.fixture(scope="module", params=list(MODELS))
def case(request):
    """(the torch model, its inputs, the ONNX file, what was made of it)"""
    torch.manual_seed(0)
    make, inputs = MODELS[request.param]
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    content = exported(model, inputs)
    return model, inputs, content, from_onnx(content)


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("times", [1, 3])
def test_it_computes_what_torch_and_onnxruntime_compute(case, times):
    model, inputs, content, module = case
    assert not isinstance(module, OnnxModule), module.reason
    batch = tuple(torch.cat([value.flip(0)] * times) for value in inputs)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    reference = session.run(
        None, {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), batch, strict=True)}
    )
    with torch.no_grad():
        pairs = zip(as_tuple(model(*batch)), as_tuple(module(*batch)), reference, strict=True)
    for original, found, run in pairs:
        torch.testing.assert_close(found, original, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found, torch.from_numpy(run), rtol=1e-3, atol=1e-4)


def test_layers_come_back_as_modules_of_the_same_name_and_weight(case):
    model, _, _, module = case
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding, nn.BatchNorm2d, nn.LSTM)
    found = dict(module.named_modules())
    for name, layer in model.named_modules():
        # attention's projections have their own names; a module of several layers becomes several
        if not isinstance(layer, kinds) or "self_attn" in name or getattr(layer, "num_layers", 1) > 1:
            continue
        assert type(found[name]) is type(layer), name
        for (key, mine), (_, theirs) in zip(found[name].named_parameters(), layer.named_parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, msg=f"{name}.{key}")


@pytest.mark.parametrize("case", ["cnn", "two inputs"], indirect=True)
def test_it_goes_out_again(case):
    _, inputs, _, module = case
    again = from_onnx(exported(module, inputs))
    for one, two in zip(as_tuple(module(*inputs)), as_tuple(again(*inputs)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_it_can_be_traced_and_copied(case):
    _, inputs, _, module = case
    for other in (torch.fx.symbolic_trace(module), copy.deepcopy(module)):
        for one, two in zip(as_tuple(module(*inputs)), as_tuple(other(*inputs)), strict=True):
            assert torch.equal(one, two)


def test_tied_weights_stay_one_parameter():
    model = Tied().eval()
    module = from_onnx(exported(model, (torch.randint(0, 20, (2, 7)),)))
    assert module.head.weight is module.table.weight
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in model.parameters())


def graph(text: str, **initializers) -> bytes:
    model = onnx.parser.parse_model(text)
    for name, value in initializers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model.SerializeToString()


def test_an_unknown_operator_runs_as_it_is():
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    bias = np.arange(3, dtype=np.float32)
    content = graph(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[batch, 4] x) => (int64[2, n] y, float[batch, 3] scores) {
            product = MatMul(x, fc.weight)
            scores = Add(product, fc.bias)
            y = NonZero(scores)
        }""".replace("fc.weight", "w").replace("fc.bias", "b"),
        w=weight,
        b=bias,
    )
    module = from_onnx(content)
    assert isinstance(module, OnnxModule)
    assert module.reason == "The operator NonZero has no torch form here."
    x = torch.randn(5, 4)
    places, scores = module(x)
    torch.testing.assert_close(scores, x @ torch.from_numpy(weight) + torch.from_numpy(bias))
    assert torch.equal(places, scores.nonzero().t())
    (layer,) = module.layers().values()
    assert (layer.op, layer.weight_name, layer.axis, layer.input, layer.bias_name) == ("MatMul", "w", 1, "x", "b")
    assert np.array_equal(layer.weight, weight)
    assert layer.name in {node.name for node in module.proto.graph.node}

    kept = io.BytesIO()
    pickle.dump(module, kept)
    for other in (copy.deepcopy(module), pickle.loads(kept.getvalue())):  # noqa: S301 - made above
        assert torch.equal(other({"x": x})[1], scores)
        assert torch.equal(other(x=x)[1], scores)


def test_missing_and_unknown_inputs_of_a_graph_are_named():
    module = from_onnx(
        graph('<ir_version: 8, opset_import: ["": 17]> main (float[b, 4] x) => (int64[2, n] y) { y = NonZero(x) }')
    )
    for wrong in ({}, {"z": torch.ones(1, 4)}):
        with pytest.raises(ValueError, match="takes the inputs x"):
            module(wrong)
    with pytest.raises(ValueError, match="cannot run"):
        module(torch.ones(2, 5))
