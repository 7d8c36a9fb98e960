"""Models of all shapes, with random weights that quantize as trained ones do, and data that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm

from workbench.inputs import Inputs

N = 36
VOCABULARY = 30


class Case(NamedTuple):
    """A model, and what it takes."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    """As a user passes them to a task."""


def real(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, *shape)


def tokens(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(1, VOCABULARY, (N, *shape))


def Lambda(run: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> nn.Module:  # noqa: N802 - reads as a class
    """A model whose forward is a function of itself and its inputs."""
    made = type("Lambda", (nn.Module,), {"forward": run})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def norm(kind: type[nn.Module], features: int, **options: Any) -> nn.Module:
    """A BatchNorm that has learned something."""
    made = kind(features, **options)
    made.running_mean.copy_(torch.randn(features) * 0.3)
    made.running_var.copy_(torch.rand(features) + 0.3)
    if made.affine:
        nn.init.uniform_(made.weight, 0.5, 1.5)
        nn.init.normal_(made.bias, std=0.3)
    return made


def conv(dimensions: int, transposed: bool = False) -> Case:
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dimensions}d")
    return Case(
        lambda: nn.Sequential(kind(3, 6, 3), nn.ReLU(), kind(6, 4, 2, stride=2), nn.Flatten(2), nn.LazyLinear(5)),
        real(3, *(6,) * dimensions),
    )


class Tied(nn.Module):
    """An embedding whose weight is the output layer's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 12)
        self.inner = nn.Linear(12, 12)
        self.head = nn.Linear(12, VOCABULARY, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.table(ids))).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], head: int = 5, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 8, **options)
        self.batch_first = self.rnn.batch_first
        self.head = nn.Linear(8 * (2 if self.rnn.bidirectional else 1), head)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x if self.batch_first else x.transpose(0, 1))
        return self.head(out.mean(1 if self.batch_first else 0))


class Attending(nn.Module):
    """Attention to another sequence of other width, or to itself."""

    def __init__(self, other: bool = False, mask: bool = False, **options: Any) -> None:
        super().__init__()
        self.other = nn.Linear(12, 10) if other else None
        self.attention = nn.MultiheadAttention(
            12, 3, batch_first=True, **({"kdim": 10, "vdim": 10} if other else {}), **options
        )
        self.head = nn.Linear(12, 5)
        if mask:
            self.register_buffer("mask", torch.ones(7, 7).triu(1).bool())
        else:
            self.mask = None

    def forward(self, x: Tensor) -> Tensor:
        key = x if self.other is None else self.other(x)
        out, _ = self.attention(x, key, key, attn_mask=self.mask, need_weights=False)
        return self.head(out.mean(1))


class Padded(nn.Module):
    """A transformer over tokens, of which 0 fills up: masks made from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 12, padding_idx=0)
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, ids: Tensor) -> Tensor:
        kept = (ids != 0).unsqueeze(-1)
        x = self.encoder(self.table(ids), src_key_padding_mask=ids == 0)
        return self.head((x * kept).sum(1) / kept.sum(1))


class Branching(nn.Module):
    """A residual network whose first convolution goes to a BatchNorm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), norm(nn.BatchNorm2d, 6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(nn.BatchNorm2d, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = F.relu(self.norm1(x))
        x = F.relu(self.norm2(self.second(y)) + x, inplace=True)
        return self.head(x.mean((2, 3)))


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.scale = nn.Linear(8, 16), nn.Linear(16, 5), weight(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.one(x))
        if float(x.sum()) > 0:
            h = h * 1.1
        return self.two(h @ self.scale)


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    cache: None = None


class Options(nn.Module):
    """Optional arguments of several kinds, as transformers has them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(VOCABULARY, 12), nn.Linear(12, 5)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layers: int = 1, return_dict: bool = True
    ) -> Output | Tensor:
        x = self.table(input_ids)
        if attention_mask is not None:
            x = x * attention_mask.unsqueeze(-1)
        hidden = torch.tanh(x.mean(1)) * layers
        return Output(hidden, self.head(hidden)) if return_dict else self.head(hidden)


def repeated() -> nn.Module:
    """One block under three names, with attention and a folded norm in it."""
    block = Lambda(
        lambda m, x: x + m.norm(m.linear(m.attention(x, x, x)[0]).flatten(0, 1)).view_as(x),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        linear=nn.Linear(8, 8, bias=False),
        norm=norm(nn.BatchNorm1d, 8),
    )
    return nn.Sequential(block, nn.Tanh(), block, nn.Flatten(), nn.Linear(40, 5))


def shared_once() -> nn.Module:
    """A convolution and its BatchNorm that are registered twice and run once."""
    layer, after = nn.Conv2d(3, 6, 3, bias=False), norm(nn.BatchNorm2d, 6)
    return Lambda(
        lambda m, x: m.head(F.relu(m.body(x)).mean((2, 3))),
        body=nn.Sequential(layer, after),
        again=nn.Sequential(layer, after),
        head=nn.Linear(6, 5),
    )


def old_weight_norm() -> nn.Module:
    with torch.enable_grad():
        made = nn.Sequential(weight_norm(nn.Linear(8, 16)), nn.ReLU(), weight_norm(nn.Linear(16, 5), dim=None))
        made(torch.randn(2, 8))  # leaves weights with a history, which cannot be copied deeply
    return made


CASES: dict[str, Case] = {
    "mlp": Case(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)), real(8)),
    "one linear": Case(lambda: nn.Linear(8, 5), real(8)),
    "conv1d": conv(1),
    "conv2d": conv(2),
    "conv3d": conv(3),
    "transposed 1d": conv(1, transposed=True),
    "transposed 2d": conv(2, transposed=True),
    "transposed 3d": conv(3, transposed=True),
    "grouped": Case(
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 3, groups=2),
            nn.Flatten(),
            nn.LazyLinear(5),
        ),
        real(4, 6, 6),
    ),
    "depthwise dilated": Case(
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, dilation=2, groups=4), nn.ReLU6(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.LazyLinear(5)
        ),
        real(4, 9, 9),
    ),
    "padding same and asymmetric": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 4, padding="same"),
            nn.ReLU(),
            nn.ZeroPad2d((0, 1, 2, 0)),
            nn.Conv2d(6, 4, (3, 2), padding=(1, 0), padding_mode="replicate"),
            nn.Flatten(),
            nn.LazyLinear(5),
        ),
        real(3, 7, 7),
    ),
    "tied embedding": Case(Tied, tokens(6)),
    "tied by a function": Case(
        lambda: Lambda(
            lambda m, ids: F.linear(m.inner(m.table(ids)).mean(1), m.table.weight),
            table=nn.Embedding(VOCABULARY, 12),
            inner=nn.Linear(12, 12),
        ),
        tokens(6),
    ),
    "tied at the root": Case(
        lambda: (lambda m: setattr(m, "own", m.layer.weight) or m)(
            Lambda(lambda m, x: torch.tanh(m.layer(x)) @ m.own.t() @ m.head, layer=nn.Linear(8, 8), head=weight(8, 5))
        ),
        real(8),
    ),
    "used twice": Case(
        lambda: (lambda layer: nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(8, 5)))(nn.Linear(8, 8)),
        real(8),
    ),
    "registered twice": Case(shared_once, real(3, 6, 6)),
    "block repeated": Case(repeated, real(5, 8)),
    "lstm": Case(lambda: Recurrent(nn.LSTM, batch_first=True), real(7, 6)),
    "lstm two layers, both ways": Case(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), real(7, 6)),
    "lstm projected": Case(
        lambda: Lambda(lambda m, x: m.rnn(x)[0].mean(1), rnn=nn.LSTM(6, 8, proj_size=5, batch_first=True)), real(7, 6)
    ),
    "gru": Case(lambda: Recurrent(nn.GRU, batch_first=True), real(7, 6)),
    "gru two layers, both ways": Case(
        lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True, batch_first=True), real(7, 6)
    ),
    "rnn": Case(lambda: Recurrent(nn.RNN), real(7, 6)),
    "lstm cell": Case(
        lambda: Lambda(lambda m, x: m.head(m.cell(x, m.cell(x))[0]), cell=nn.LSTMCell(6, 8), head=nn.Linear(8, 5)),
        real(6),
    ),
    "embedding, pooled": Case(
        lambda: Lambda(
            lambda m, ids: m.head(m.table(ids).amax(1)), table=nn.Embedding(VOCABULARY, 12), head=nn.Linear(12, 5)
        ),
        tokens(6),
    ),
    "embedding bag": Case(
        lambda: nn.Sequential(nn.EmbeddingBag(VOCABULARY, 12, mode="mean"), nn.Linear(12, 5)), tokens(6)
    ),
    "embedding that renormalises": Case(
        lambda: nn.Sequential(nn.Embedding(VOCABULARY, 12, max_norm=1.0), nn.Flatten(), nn.Linear(72, 5)), tokens(6)
    ),
    "attention": Case(Attending, real(7, 12)),
    "attention, masked": Case(lambda: Attending(mask=True), real(7, 12)),
    "attention, other keys": Case(lambda: Attending(other=True), real(7, 12)),
    "attention, bias of keys": Case(lambda: Attending(add_bias_kv=True, add_zero_attn=True), real(7, 12)),
    "attention, without bias": Case(lambda: Attending(bias=False), real(7, 12)),
    "transformer": Case(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, norm_first=True), 2),
        real(7, 12),
    ),
    "transformer with padding": Case(Padded, lambda: tokens(7)() * (torch.arange(7) < torch.randint(2, 8, (N, 1)))),
    "two inputs": Case(
        lambda: Lambda(
            lambda m, a, b: m.head(torch.cat([F.relu(m.left(a)), m.right(b).mean((2, 3))], 1)),
            left=nn.Linear(8, 6),
            right=nn.Conv2d(3, 6, 3),
            head=nn.Linear(12, 5),
        ),
        lambda: (torch.randn(N, 8), torch.randn(N, 3, 5, 5)),
    ),
    "named inputs": Case(
        Options, lambda: {"input_ids": tokens(6)(), "attention_mask": (torch.rand(N, 6) > 0.3).long()}
    ),
    "dataclass output": Case(Options, tokens(6)),
    "dict output": Case(
        lambda: Lambda(
            lambda m, x: {"hidden": (h := F.relu(m.body(x))), "logits": m.head(h)},
            body=nn.Linear(8, 16),
            head=nn.Linear(16, 5),
        ),
        real(8),
    ),
    "tuple output": Case(
        lambda: Lambda(
            lambda m, x: (m.head(h := F.relu(m.body(x))), [h]), body=nn.Linear(8, 16), head=nn.Linear(16, 5)
        ),
        real(8),
    ),
    "functional linear": Case(
        lambda: Lambda(
            lambda m, x: F.linear(input=F.relu(F.linear(x, weight=m.one, bias=m.shift)), weight=m.two),
            one=weight(16, 8),
            shift=nn.Parameter(torch.randn(16)),
            two=weight(5, 16),
        ),
        real(8),
    ),
    "functional conv": Case(
        lambda: Lambda(
            lambda m, x: m.head(F.conv_transpose2d(F.relu(F.conv2d(x, m.one, m.shift)), m.two).mean((2, 3))),
            one=weight(6, 3, 3, 3),
            shift=nn.Parameter(torch.randn(6)),
            two=weight(6, 4, 2, 2),
            head=nn.Linear(4, 5),
        ),
        real(3, 6, 6),
    ),
    "matmul": Case(
        lambda: Lambda(
            lambda m, x: torch.addmm(m.shift, m.fc(F.relu(x @ m.one)) @ m.two.t(), m.three),
            one=weight(8, 16),
            fc=nn.Linear(16, 16),
            two=weight(12, 16),
            three=weight(12, 5),
            shift=nn.Parameter(torch.randn(5)),
        ),
        real(8),
    ),
    "stacked experts": Case(
        lambda: Lambda(
            lambda m, x: torch.matmul(x.expand(3, -1, -1), m.experts).relu().mean(0) @ m.square,
            experts=weight(3, 8, 8),
            square=weight(8, 8),
        ),
        real(8),
    ),
    "in place": Case(
        lambda: Lambda(
            lambda m, x: m.head(m.one(x.mul_(0.5)).relu_().add_(m.two(x)).clamp_(max=3)),
            one=nn.Linear(8, 16),
            two=nn.Linear(8, 16),
            head=nn.Linear(16, 5),
        ),
        real(8),
    ),
    "in place on what is kept": Case(
        lambda: Lambda(
            lambda m, x: m.head((h := m.one(x)).add_(m.two(h))),
            one=nn.Linear(8, 8),
            two=nn.Linear(8, 8),
            head=nn.Linear(8, 5),
        ),
        real(8),
    ),
    "norm after conv": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            norm(nn.BatchNorm2d, 6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 1),
            norm(nn.BatchNorm2d, 6, affine=False),
            nn.Flatten(),
            nn.LazyLinear(5),
        ),
        real(3, 6, 6),
    ),
    "norm before conv": Case(
        lambda: nn.Sequential(norm(nn.BatchNorm2d, 3), nn.Conv2d(3, 6, 3), nn.Flatten(), nn.LazyLinear(5)),
        real(3, 6, 6),
    ),
    "linear and norm": Case(
        lambda: nn.Sequential(nn.Linear(8, 16, bias=False), norm(nn.BatchNorm1d, 16), nn.ReLU(), nn.Linear(16, 5)),
        real(8),
    ),
    "linear and norm of another axis": Case(
        lambda: nn.Sequential(nn.Linear(8, 6), norm(nn.BatchNorm1d, 4), nn.Flatten(), nn.Linear(24, 5)), real(4, 8)
    ),
    "transposed and norm": Case(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 6, 3, bias=False),
            norm(nn.BatchNorm2d, 6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, groups=2),
            norm(nn.BatchNorm2d, 4),
            nn.Flatten(),
            nn.LazyLinear(5),
        ),
        real(3, 5, 5),
    ),
    "weight norm": Case(
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(8, 16)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(16, 5))
        ),
        real(8),
    ),
    "weight norm, old": Case(old_weight_norm, real(8)),
    "branch before norm": Case(Branching, real(3, 6, 6)),
    "data-dependent": Case(DataDependent, real(8)),
    "dropout, training": Case(
        lambda: nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 5)).train(), real(8)
    ),
    "double": Case(
        lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)).double(),
        lambda: torch.randn(N, 8).double(),
    ),
    "unused layer": Case(lambda: Lambda(lambda m, x: m.head(x), head=nn.Linear(8, 5), unused=nn.Linear(3, 3)), real(8)),
    "ragged tokens": Case(
        lambda: Lambda(
            lambda m, ids: m.head(m.table(ids).mean(1)), table=nn.Embedding(VOCABULARY, 12), head=nn.Linear(12, 5)
        ),
        lambda: ([torch.randint(1, VOCABULARY, (2 + i % 3,)) for i in range(N)],),
    ),
    "regression": Case(lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), real(8)),
    "random in evaluation": Case(
        lambda: Lambda(lambda m, x: m.two(F.dropout(m.one(x), 0.1)), one=nn.Linear(8, 16), two=nn.Linear(16, 5)),
        real(8),
    ),
}


def made(name: str) -> tuple[nn.Module, Any]:
    """The model of a case, initialised, and its inputs; the same ones at every call."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        case = CASES[name]
        inputs, model = case.inputs(), case.make()
        training = model.training
        if any("Lazy" in type(m).__name__ for m in model.modules()):
            Inputs.of(inputs)[:2].call(model.eval())
        return model.train(training), inputs
