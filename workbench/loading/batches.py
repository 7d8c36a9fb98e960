"""Programs that were exported for one batch size, made to take any."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from workbench.errors import WorkbenchError
from workbench.loading.graphs import Input

_MOST_FLOPS = 2e10
_MOST_BYTES = 256 * 2**20


class FixedBatch(nn.Module):
    """Cuts any batch into the one size that a program takes, and puts the results together again.

    The last piece is padded by repeating its last example; what these give is thrown away.
    """

    def __init__(self, program: nn.Module, batch: int, arguments: Sequence[str], batched: Collection[str]) -> None:
        """
        Args:
            program: Takes and returns tensors whose first dimension is `batch`.
            batch: The size that it takes.
            arguments: The names of all its arguments, in order.
            batched: Those whose first dimension is the batch.
        """
        super().__init__()
        self.program = program
        self.batch = batch
        self.arguments = tuple(arguments)
        self.batched = frozenset(batched)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The program's results for the whole batch.

        Raises:
            WorkbenchError: A result has its batch elsewhere than in the first dimension.
        """
        given = dict(zip(self.arguments, inputs, strict=False)) | named
        count = next(x.shape[0] for name, x in given.items() if name in self.batched)
        pieces = []
        for start in range(0, count, self.batch):
            piece = {
                name: _padded(x[start : start + self.batch], self.batch) if name in self.batched else x
                for name, x in given.items()
            }
            pieces.append(self.program(**piece))
        return _joined(pieces, self.batch, count)


def _padded(piece: torch.Tensor, batch: int) -> torch.Tensor:
    short = batch - piece.shape[0]
    return torch.cat([piece, piece[-1:].expand(short, *piece.shape[1:])]) if short else piece


def _joined(pieces: list[Any], batch: int, count: int) -> Any:
    leaves = [pytree.tree_flatten(piece) for piece in pieces]
    columns = zip(*[values for values, _ in leaves], strict=True)
    joined = []
    for column in columns:
        first = column[0]
        if not isinstance(first, torch.Tensor):
            joined.append(first)
        elif first.dim() and first.shape[0] == batch:
            joined.append(torch.cat(column)[:count])
        elif all(torch.equal(first, other) for other in column) and (count == batch or batch not in first.shape):
            joined.append(first)  # it does not depend on the batch
        else:
            raise WorkbenchError(
                f"The program was exported for {batch} examples, and returns a tensor of shape {list(first.shape)} "
                f"whose first dimension is not the batch: it can be called with {batch} examples only, not {count}. "
                "Export it with a dynamic batch dimension."
            )
    return pytree.tree_unflatten(joined, leaves[0][1])


def any_batch(module: fx.GraphModule, inputs: list[Input] | None) -> nn.Module:
    """The module itself where it takes any batch size, else a `FixedBatch` around it.

    An exported size is often only an example's: convolutions and linear layers do not care. It is tried: a
    batch of two must give what two batches of one give, on random inputs of the program's own kinds. Where a
    trial would be large, or is not possible, the module is cut to the size that it was exported for, which
    is always right.

    Args:
        module: In evaluation mode.
        inputs: What it takes, or None where that is not a plain list of tensors (it is then left alone).
    """
    if not inputs or not inputs[0].shape or inputs[0].shape[0] is None:
        return module
    batch = inputs[0].shape[0]
    batched = {x.name for x in inputs if x.shape and x.shape[0] == batch}
    if batch == 0 or _takes_any(module, inputs, batched, batch):
        return module
    arguments = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
    return FixedBatch(module, batch, arguments, batched)


def _takes_any(module: fx.GraphModule, inputs: list[Input], batched: set[str], batch: int) -> bool:
    try:
        with torch.no_grad():
            if not _is_small(module, _examples(inputs, batched, 2, torch.device("meta"))):
                return False
            two = _examples(inputs, batched, 2, torch.device("cpu"))
            both = _tensors(module(**two))
            single = [_tensors(_run_one(module, two, batched, index, batch)) for index in (0, 1)]
    except Exception:  # whatever it does not take, it does not take
        return False
    return len(both) > 0 and all(_agree(whole, a, b, batch) for whole, a, b in zip(both, *single, strict=True))


def _agree(both: torch.Tensor, first: torch.Tensor, second: torch.Tensor, batch: int) -> bool:
    """Whether two examples at once gave what each gave alone, in whichever dimension the batch is.

    Args:
        both: The result for a batch of two.
        first: The result for a batch that holds the first example only.
        second: The result for a batch that holds the second example only.
        batch: How many times these hold it.
    """
    expected = [first] if first.shape == second.shape and torch.equal(first, second) else []  # no batch in it
    expected += [
        torch.cat([x.narrow(dimension, 0, 1) for x in (first, second)], dimension)
        for dimension in range(both.dim())
        if both.shape[dimension] == 2 and first.dim() == both.dim() and first.shape[dimension] == batch
    ]
    return any(
        both.shape == alone.shape
        and torch.allclose(both.double(), alone.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
        for alone in expected
    )


def _run_one(module: nn.Module, two: dict[str, torch.Tensor], batched: set[str], index: int, batch: int) -> Any:
    """One of two examples in a batch of the exported size, which the program takes for certain."""
    one = {
        name: x[index : index + 1].expand(batch, *x.shape[1:]).contiguous() if name in batched else x
        for name, x in two.items()
    }
    return module(**one)


def _examples(inputs: list[Input], batched: set[str], count: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random inputs; a size that may vary is 4, and integers are small enough to index anything."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, torch.Tensor] = {}
    for x in inputs:
        sizes = [4 if size is None else size for size in x.shape]
        shape = [count, *sizes[1:]] if x.name in batched else sizes
        if device.type == "meta":
            made[x.name] = torch.empty(shape, dtype=x.dtype, device=device)
        elif x.dtype.is_floating_point or x.dtype.is_complex:
            made[x.name] = torch.randn(shape, dtype=torch.float32, generator=generator).to(x.dtype)
        else:
            made[x.name] = torch.randint(0, 2, shape, generator=generator).to(x.dtype)
    return made


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


class _Bytes(fx.Interpreter):
    """Runs a graph on the meta device, where nothing is computed, and counts what its results would take."""

    def __init__(self, module: fx.GraphModule, examples: dict[str, torch.Tensor]) -> None:
        super().__init__(module)
        self.examples = examples
        self.total = 0

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.examples[target] if target in self.examples else super().placeholder(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, int) and abs(result) > 2**63:
            raise MemoryError  # a size squared again and again
        self.total += sum(t.numel() * t.element_size() for t in _tensors(result) if n.op != "get_attr")
        if self.total > _MOST_BYTES:
            raise MemoryError
        return result

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        state = {name: t.to("meta") for name, t in layer.state_dict(keep_vars=True).items()}
        return torch.func.functional_call(layer, state, args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().get_attr(target, args, kwargs).to("meta")


def _is_small(module: fx.GraphModule, examples: dict[str, torch.Tensor]) -> bool:
    """Whether a run takes little time and memory, by its shapes alone; a hostile graph may ask for a terabyte."""
    with FlopCounterMode(display=False) as flops:
        _Bytes(module, examples).run()
    return flops.get_total_flops() < _MOST_FLOPS
