"""Arithmetic on dimensions: numbers where they are numbers, else products of symbols that cancel where they must.

A symbolic dimension is a text. At its top level it is a product, such as `4*batch`; whatever else it holds is one
factor, taken as it stands. So `(4*batch)/4` is `batch` again, which is what decides most reshapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from lacoot_deploy.graph.model.blocks import Dim

Factors = tuple[int, "Counter[str]"]


def factors(dim: int | str) -> Factors:
    """The numeric factor of a dimension and its symbols with their powers."""
    if isinstance(dim, int):
        return dim, Counter()
    parts = _split(dim)
    number, symbols = 1, Counter[str]()
    for part in parts:
        if part.isascii() and part.isdigit():
            number *= int(part)
        else:
            symbols[part] += 1
    return number, symbols


def _split(text: str) -> list[str]:
    """The factors of a product, each stripped; a text with another operator at its top level is one factor."""
    text = text.strip()
    if not any(sign in text for sign in "*+-/ "):
        return [text]
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        if sign in "([":
            depth += 1
        elif sign in ")]":
            depth -= 1
        elif (
            depth == 0
            and sign == "*"
            and text[place - 1 : place] != "*"
            and text[place + 1 : place + 2] != "*"
        ):
            parts.append(text[start:place].strip())
            start = place + 1
        elif depth == 0 and sign in "+-/":
            return [f"({text})"]
    parts.append(text[start:].strip())
    return parts if all(parts) else [f"({text})"]


LONGEST = 2000
"""A dimension whose text would be longer is given up as unknown: texts can double with every node."""


def monomial(number: int, symbols: Counter[str]) -> Dim:
    """The dimension with these factors, always written the same way; None where it would be too long a text."""
    if not symbols:
        return number
    if symbols.total() > LONGEST:
        return None
    names = sorted(symbols.elements())
    return bounded("*".join(names if number == 1 else [str(number), *names]))


def bounded(text: str) -> Dim:
    """The text, or None where it is too long."""
    return text if len(text) <= LONGEST else None


def canonical(dim: Dim) -> Dim:
    """The same dimension the way this module writes it."""
    return _canonical(dim) if isinstance(dim, str) else dim


@lru_cache(maxsize=4096)
def _canonical(dim: str) -> Dim:
    return monomial(*factors(dim))


def multiply(a: Dim, b: Dim) -> Dim:
    """Product a * b; None where either is unknown."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    (m, left), (n, right) = factors(a), factors(b)
    return 0 if m * n == 0 else monomial(m * n, left + right)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all; None where one is unknown."""
    result: Dim = 1
    for dim in dims:
        result = multiply(result, dim)
    return result


def divide(a: Dim, b: Dim) -> Dim:
    """Quotient a // b; exact where the factors of b are among those of a."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        # ONNX divides integers towards zero.
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    (m, left), (n, right) = factors(a), factors(b)
    if n and m % n == 0 and all(left[name] >= count for name, count in right.items()):
        return monomial(m // n, left - right)
    return bounded(f"({a}//{b})")


def modulo(a: Dim, b: Dim) -> Dim:
    """Remainder a mod b."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    (m, left), (n, right) = factors(a), factors(b)
    if n and m % n == 0 and all(left[name] >= count for name, count in right.items()):
        return 0
    return bounded(f"({a}%{b})")


def add(a: Dim, b: Dim) -> Dim:
    """Sum a + b."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a == 0:
        return canonical(b)
    if b == 0:
        return canonical(a)
    (m, left), (n, right) = factors(a), factors(b)
    if left == right:
        return monomial(m + n, left) if m + n else 0
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int):
        base, offset = _offset(str(a))
        total = offset + b
        return canonical(base) if total == 0 else bounded(f"({base}{total:+d})")
    return bounded("(" + "+".join(sorted((str(a), str(b)))) + ")")


def _offset(text: str) -> tuple[str, int]:
    """The parts of `(base+3)`; the text itself and 0 for anything else."""
    if text.startswith("(") and text.endswith(")"):
        inner = text[1:-1]
        for place in range(len(inner) - 1, 0, -1):
            if inner[place] in "+-":
                if inner.isascii() and inner[place + 1 :].isdigit() and "(" not in inner[place:]:
                    return inner[:place], int(inner[place:])
                break
            if not inner[place].isdigit():
                break
    return text, 0


def negate(a: Dim) -> Dim:
    """-a."""
    return multiply(a, -1)


def subtract(a: Dim, b: Dim) -> Dim:
    """Difference a - b; 0 where both are the same."""
    if a is not None and a == b:
        return 0
    return add(a, negate(b))


def sample_value(dim: Dim) -> int:
    """The dimension with every symbol taken as 1, as for one sample; 1 where unknown."""
    if isinstance(dim, int):
        return dim
    return 1 if dim is None else _number_in(dim)


@lru_cache(maxsize=4096)
def _number_in(dim: str) -> int:
    return max(factors(dim)[0], 1)
