"""Recurrent layers, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, UnknownOperatorError, operator

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_KINDS: dict[str, Run] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


@operator("LSTM", "GRU", "RNN", weights=(1, 2, 3))
def recurrent(call: Call) -> Run:
    """One or two directions over x [T, B, C], without lengths of their own for each sample."""
    direction, size = call.text("direction", "forward"), call.integer("hidden_size", 1)
    ways = 2 if direction == "bidirectional" else 1
    names = call.attributes.get("activations") or _DEFAULTS[call.op] * ways
    after = bool(call.integer("linear_before_reset", 0))
    if call.integer("layout", 0) or "clip" in call.attributes or call.integer("input_forget", 0):
        raise UnknownOperatorError("with a layout, clipping or coupled gates")
    if any(name.lower() not in _KINDS for name in names):
        raise UnknownOperatorError(f"with the activations {', '.join(names)}")
    functions = [_KINDS[name.lower()] for name in names]
    per = len(functions) // ways

    def run(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Any, ...]:
        b, lengths, start, cell = (*rest, None, None, None, None)[:4]
        if lengths is not None and bool((lengths != x.shape[0]).any()):
            raise UnknownOperatorError("with a length of its own for each sample")
        outputs, hidden, cells = [], [], []
        for way in range(ways):
            back = direction == "reverse" or way == 1
            h = x.new_zeros(x.shape[1], size) if start is None else start[way]
            c = x.new_zeros(x.shape[1], size) if cell is None else cell[way]
            shift = x.new_zeros(2 * w.shape[1]) if b is None else b[way]
            one, two = shift.chunk(2)
            found = []
            for t in reversed(range(x.shape[0])) if back else range(x.shape[0]):
                h, c = _STEPS[call.op](x[t], h, c, (w[way], r[way], one, two), functions[way * per :], after)
                found.append(h)
            outputs.append(torch.stack(found[::-1] if back else found))
            hidden.append(h)
            cells.append(c)
        return torch.stack(outputs, 1), torch.stack(hidden), torch.stack(cells)

    return run


Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""Input weights, recurrent weights and the bias of each."""


def _lstm(
    x: Tensor, h: Tensor, c: Tensor, weights: Weights, f: list[Run], after: bool
) -> tuple[Tensor, Tensor]:
    w, r, one, two = weights
    i, o, forget, new = (x @ w.T + h @ r.T + one + two).chunk(4, -1)
    c = f[0](forget) * c + f[0](i) * f[1](new)
    return f[0](o) * f[2](c), c


def _gru(
    x: Tensor, h: Tensor, c: Tensor, weights: Weights, f: list[Run], after: bool
) -> tuple[Tensor, Tensor]:
    w, r, one, two = weights
    size = h.shape[-1]
    given = x @ w.T + one
    gates = given[:, : 2 * size] + h @ r[: 2 * size].T + two[: 2 * size]
    z, reset = (f[0](part) for part in gates.chunk(2, -1))
    if after:
        new = f[1](given[:, 2 * size :] + reset * (h @ r[2 * size :].T + two[2 * size :]))
    else:
        new = f[1](given[:, 2 * size :] + (reset * h) @ r[2 * size :].T + two[2 * size :])
    return (1 - z) * new + z * h, c


def _rnn(
    x: Tensor, h: Tensor, c: Tensor, weights: Weights, f: list[Run], after: bool
) -> tuple[Tensor, Tensor]:
    w, r, one, two = weights
    return f[0](x @ w.T + h @ r.T + one + two), c


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
