"""ONNX's LSTM, GRU and RNN as torch's.

ONNX stacks the gates of an LSTM as input, output, forget, cell and those of a GRU as update, reset,
new; torch as input, forget, cell, output and as reset, update, new (the operator specification, and
the documentation of `torch.nn.LSTM` and `torch.nn.GRU`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.loading.onnx_values import Node, Untranslatable, Value

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def recurrent(
    node: Node,
    x: Value,
    weight: Value,
    recurrence: Value,
    bias: Value = None,
    lengths: Value = None,
    hidden: Value = None,
    cell: Value = None,
    peepholes: Value = None,
) -> Any:
    """One layer, forward, reverse or both.

    Args:
        node: An LSTM, GRU or RNN.
        x: (steps, batch, features).
        weight: (directions, gates * width, features), constant.
        recurrence: (directions, gates * width, width), constant.
        bias: (directions, 2 * gates * width), constant.
        lengths: Not supported: every sequence is as long as the batch's.
        hidden: (directions, batch, width); zeros where absent.
        cell: As `hidden`, of an LSTM.
        peepholes: Not supported.

    Returns:
        (steps, directions, batch, width), the last hidden state, and of an LSTM the last cell state.

    Raises:
        Untranslatable: torch's layers cannot express it.
    """
    _check(node, lengths, peepholes)
    if not all(value is None or isinstance(value, Tensor) for value in (weight, recurrence, bias)):
        raise Untranslatable(f"{node.op} with weights that are computed has no torch form here.")
    directions, width = recurrence.shape[0], recurrence.shape[2]
    reverse = node.get("direction", "forward") == "reverse"
    weights = {}
    for direction in range(directions):
        suffix = "_l0_reverse" if direction else "_l0"
        weights["weight_ih" + suffix] = _reordered(node, weight[direction])
        weights["weight_hh" + suffix] = _reordered(node, recurrence[direction])
        if bias is not None:
            of_input, of_hidden = bias[direction].chunk(2)
            weights["bias_ih" + suffix] = _reordered(node, of_input)
            weights["bias_hh" + suffix] = _reordered(node, of_hidden)

    def make() -> nn.Module:
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[node.op]
        more: dict[str, Any] = {"nonlinearity": _activations(node)[0].lower()} if node.op == "RNN" else {}
        return kind(weight.shape[2], width, bias=bias is not None, bidirectional=directions == 2, **more)

    inputs = [torch.flip(x, (0,)) if reverse else x]
    state = _state(node, hidden, cell)
    if state is not None:
        inputs.append(state)
    result = node.build.layer(node, make, weights, inputs)
    steps, last = result[0], result[1]
    # (steps, batch, directions * width) -> (steps, directions, batch, width)
    steps = torch.transpose(steps.unflatten(2, (directions, width)), 1, 2)
    if reverse:
        steps = torch.flip(steps, (0,))
    return (steps, last[0], last[1]) if node.op == "LSTM" else (steps, last)


def _activations(node: Node) -> tuple[str, ...]:
    return node.get("activations") or _ACTIVATIONS[node.op]


def _check(node: Node, lengths: Value, peepholes: Value) -> None:
    expected = _ACTIVATIONS[node.op]
    given = _activations(node)
    usual = tuple(given) in (expected, 2 * expected)
    if node.op == "RNN":
        usual = len(set(given)) == 1 and given[0] in ("Tanh", "Relu")
    for wrong, what in (
        (lengths is not None, "sequences of several lengths"),
        (peepholes is not None, "peepholes"),
        (node.get("layout", 0), "the batch first"),
        (node.get("clip"), "clipping"),
        (node.get("input_forget", 0), "coupled gates"),
        (not usual, "other activations"),
        (node.op == "GRU" and not node.get("linear_before_reset", 0), "the reset before the product"),
    ):
        if wrong:
            raise Untranslatable(f"{node.op} with {what} has no torch form here.")


def _reordered(node: Node, stacked: Tensor) -> Tensor:
    gates = stacked.chunk(len(_GATES[node.op]))
    return torch.cat([gates[place] for place in _GATES[node.op]])


def _state(node: Node, hidden: Value, cell: Value) -> Any:
    """The initial state; zeros that an exporter wrote down for one batch size are left to torch."""
    given = [value for value in ((hidden, cell) if node.op == "LSTM" else (hidden,)) if value is not None]
    if all(isinstance(value, Tensor) and not value.any() for value in given):
        return None
    if node.op == "LSTM":
        if len(given) < 2:
            raise Untranslatable("LSTM with one of its two states given has no torch form here.")
        return tuple(node.build.lift(value) for value in given)
    return node.build.lift(given[0])


OPERATORS = {"GRU": recurrent, "LSTM": recurrent, "RNN": recurrent}
