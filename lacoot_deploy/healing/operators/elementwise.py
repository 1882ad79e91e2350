"""Operators that work on every entry by itself."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import (
    Call,
    Run,
    UnknownOperatorError,
    operator,
    simple,
    torch_dtype,
)

simple(
    Abs=torch.abs,
    Neg=torch.neg,
    Sign=torch.sign,
    Floor=torch.floor,
    Ceil=torch.ceil,
    Round=torch.round,
    Exp=torch.exp,
    Log=torch.log,
    Sqrt=torch.sqrt,
    Reciprocal=torch.reciprocal,
    Erf=torch.erf,
    Sin=torch.sin,
    Cos=torch.cos,
    Tan=torch.tan,
    Asin=torch.asin,
    Acos=torch.acos,
    Atan=torch.atan,
    Sinh=torch.sinh,
    Cosh=torch.cosh,
    Asinh=torch.asinh,
    Acosh=torch.acosh,
    Atanh=torch.atanh,
    Sigmoid=torch.sigmoid,
    Tanh=torch.tanh,
    Relu=torch.relu,
    Mish=F.mish,
    Softsign=F.softsign,
    HardSwish=F.hardswish,
    IsNaN=torch.isnan,
    Not=torch.logical_not,
    BitwiseNot=torch.bitwise_not,
    And=torch.logical_and,
    Or=torch.logical_or,
    Xor=torch.logical_xor,
    BitwiseAnd=torch.bitwise_and,
    BitwiseOr=torch.bitwise_or,
    BitwiseXor=torch.bitwise_xor,
    Equal=torch.eq,
    Greater=torch.gt,
    Less=torch.lt,
    GreaterOrEqual=torch.ge,
    LessOrEqual=torch.le,
    Where=torch.where,
    Identity=lambda x: x,
    Softplus=lambda x: F.softplus(x, threshold=30.0),
)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """ONNX divides whole numbers towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_ARITHMETIC: dict[str, Run] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _divide}


@operator("Add", "Sub", "Mul", "Div", weights=(0, 1))
def arithmetic(call: Call) -> Run:
    """The four operations; before operator set 7 the second operand was laid along a stated axis."""
    run = _ARITHMETIC[call.op]
    if call.version >= 7 or not call.integer("broadcast", 0):
        return run
    axis = call.integer("axis", -1)

    def aligned(a: Tensor, b: Tensor) -> Any:
        start = a.ndim - b.ndim if axis < 0 else axis
        return run(a, b.reshape(*b.shape, *[1] * (a.ndim - start - b.ndim)))

    return aligned


@operator("Pow")
def power(call: Call) -> Run:
    """Power, in the type of its base."""

    def run(x: Tensor, exponent: Tensor) -> Tensor:
        if exponent.ndim == 0 or exponent.numel() == 1:
            # A square as a product: its slope at zero is no 0 * log 0.
            value = float(exponent)
            return x * x if value == 2.0 else torch.pow(x, value).to(x.dtype)
        return torch.pow(x, exponent).to(x.dtype)

    if 1 in call.constants and call.constants[1].size == 1:
        fixed = float(call.constants[1].reshape(-1)[0])
        if fixed == 2.0:
            return lambda x, exponent: x * x
        return lambda x, exponent: torch.pow(x, fixed).to(x.dtype)
    return run


@operator("Mod")
def modulo(call: Call) -> Run:
    """Remainder: with the sign of the divisor, or as C's fmod with the sign of the dividend."""
    return torch.fmod if call.integer("fmod", 0) else torch.remainder


_FOLDS: dict[str, Run] = {"Sum": torch.add, "Max": torch.maximum, "Min": torch.minimum}


@operator("Sum", "Max", "Min", "Mean", weights=(0, 1))
def variadic(call: Call) -> Run:
    """Sum, mean, maximum or minimum of any number of operands."""
    if call.op == "Mean":
        return lambda *xs: functools.reduce(torch.add, xs) / len(xs)
    fold = _FOLDS[call.op]
    return lambda *xs: functools.reduce(fold, xs)


@operator("BitShift")
def bit_shift(call: Call) -> Run:
    """Shift of bits to the left or to the right."""
    left = call.text("direction", "LEFT") == "LEFT"
    return torch.bitwise_left_shift if left else torch.bitwise_right_shift


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Run:
    """Slope `alpha` below zero."""
    alpha = call.number("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@operator("PRelu", weights=(1,))
def prelu(call: Call) -> Run:
    """A slope per channel below zero, laid out as any broadcast."""
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(call: Call) -> Run:
    """`alpha` (exp x - 1) below zero."""
    alpha = call.number("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@operator("Selu")
def selu(call: Call) -> Run:
    """Scaled exponential unit with any two constants."""
    alpha, gamma = call.number("alpha", 1.6732632423543772), call.number("gamma", 1.0507009873554805)
    return lambda x: gamma * F.elu(x, alpha)


@operator("Celu")
def celu(call: Call) -> Run:
    """Exponential unit that is smooth for every alpha."""
    alpha = call.number("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Run:
    """A line between 0 and 1."""
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Run:
    """Zero up to a threshold."""
    alpha = call.number("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(call: Call) -> Run:
    """Zero around zero, moved towards it outside."""
    bias, limit = call.number("bias", 0.0), call.number("lambd", 0.5)

    def run(x: Tensor) -> Tensor:
        return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))

    return run


@operator("Gelu")
def gelu(call: Call) -> Run:
    """Gaussian error linear unit, exact or by tanh."""
    approximate = call.text("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(call: Call) -> Run:
    """X sigmoid(alpha x)."""
    alpha = call.number("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


@operator("Clip")
def clip(call: Call) -> Run:
    """Bounds from operands, or from attributes before operator set 11."""
    if call.version < 11:
        low, high = call.number("min", -math.inf), call.number("max", math.inf)
        return lambda x: torch.clamp(x, low, high)

    def known(place: int) -> Any:
        return call.constants[place].item() if place in call.constants else None

    low, high = known(1), known(2)
    if (1 in call.constants or call.operands < 2) and (2 in call.constants or call.operands < 3):
        if low is None and high is None:
            return lambda x, *bounds: x
        return lambda x, *bounds: torch.clamp(x, low, high)

    def run(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
        if least is not None:
            x = torch.maximum(x, least.to(x.device))
        return x if most is None else torch.minimum(x, most.to(x.device))

    return run


@operator("Cast", "CastLike")
def cast(call: Call) -> Run:
    """Another element type; half precision stays float32."""
    if call.op == "CastLike":
        return lambda x, like: x.to(like.dtype)
    element = call.integer("to", 0)
    dtype = torch_dtype(element)
    return lambda x: x.to(dtype)


@operator("IsInf")
def is_inf(call: Call) -> Run:
    """Where entries are infinite, of either sign or of one."""
    positive, negative = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    if positive and negative:
        return torch.isinf
    return torch.isposinf if positive else torch.isneginf


@operator("Dropout", host=(1, 2))
def dropout(call: Call) -> Run:
    """Nothing at inference, which is how a file that is shipped runs."""
    if call.version >= 12 and 2 in call.constants and bool(call.constants[2].reshape(-1)[0]):
        raise UnknownOperatorError("in training mode")
    if call.wants(1):
        return lambda x, *rest: (x, torch.ones_like(x, dtype=torch.bool))
    return lambda x, *rest: x
