"""Protobuf's wire format, as far as needed to change some bytes of a file and leave every other one as it is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lacoot_deploy.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Path_ = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes:
        number: Its number.
        wire: Its wire type.
        start: Where its tag begins.
        payload: Where its payload begins.
        end: Where it ends.
    """

    number: int
    wire: int
    start: int
    payload: int
    end: int


@dataclass(frozen=True)
class Edit:
    """Bytes that take the place of others: the payload of a field, or what is added at one place.

    Attributes:
        start: Where the old bytes begin.
        end: Where they end; equal to `start` for an addition.
        data: The new ones.
    """

    start: int
    end: int
    data: bytes | memoryview


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends.

    Raises:
        InputError: The bytes end within it.
    """
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise InputError("The file is damaged: a number in it has no end.")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that lies from `start` to `end`.

    Raises:
        InputError: The bytes are no message.
    """
    at = start
    while at < end:
        tag, payload = read_varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            _, after = read_varint(data, payload)
        elif wire == BYTES:
            length, payload = read_varint(data, payload)
            after = payload + length
        elif wire in (FIXED32, FIXED64):
            after = payload + (4 if wire == FIXED32 else 8)
        else:
            raise InputError("The file is damaged: it holds a field of no known kind.")
        if after > end:
            raise InputError("The file is damaged: a field reaches beyond its message.")
        yield Field(tag >> 3, wire, at, payload, after)
        at = after


def locate_all(data: memoryview, paths: Sequence[Path_]) -> dict[Path_, Field]:
    """The fields at many paths, every message read through once.

    Raises:
        InputError: One of them is not there.
    """
    found: dict[Path_, Field] = {}
    _locate_below(data, (), 0, len(data), {path: path for path in paths}, found)
    if len(found) != len(set(paths)):
        raise InputError("The file is not what it was when it was read.")
    return found


def _locate_below(
    data: memoryview,
    here: Path_,
    start: int,
    end: int,
    wanted: dict[Path_, Path_],
    found: dict[Path_, Field],
) -> None:
    heads: dict[tuple[int, int], dict[Path_, Path_]] = {}
    for rest, path in wanted.items():
        heads.setdefault(rest[0], {})[rest[1:]] = path
    counts: dict[int, int] = {}
    numbers = {number for number, _ in heads}
    for entry in fields(data, start, end):
        if entry.number not in numbers:
            continue
        key = (entry.number, counts.get(entry.number, 0))
        counts[entry.number] = key[1] + 1
        below = heads.get(key)
        if below is None:
            continue
        if () in below:
            found[below.pop(())] = entry
        if below:
            _locate_below(data, (*here, key), entry.payload, entry.end, below, found)


def rewritten(data: memoryview, edits: Sequence[Edit]) -> list[bytes | memoryview]:
    """The file with edits made, as pieces to be written one after another; lengths around them are brought up to date.

    Args:
        data: The file.
        edits: Edits that do not overlap, each of a whole payload, or an addition at a message's end.
    """
    ordered = sorted(edits, key=lambda edit: edit.start)
    pieces, _ = _message(data, 0, len(data), ordered)
    return pieces


def _message(
    data: memoryview, start: int, end: int, edits: Sequence[Edit]
) -> tuple[list[bytes | memoryview], int]:
    """The message from `start` to `end` with the edits inside it made, and how long it has become."""
    pieces: list[bytes | memoryview] = []
    size, kept = 0, start
    starts = [edit.start for edit in edits]

    def put(piece: bytes | memoryview) -> None:
        nonlocal size
        if len(piece):
            pieces.append(piece)
            size += len(piece)

    for entry in fields(data, start, end):
        low, high = bisect_left(starts, entry.payload), bisect_left(starts, entry.end)
        inside = edits[low:high]
        if not inside:
            continue
        put(data[kept : entry.start])
        whole = len(inside) == 1 and (inside[0].start, inside[0].end) == (entry.payload, entry.end)
        if entry.wire != BYTES:
            put(data[entry.start : entry.payload])
            put(inside[0].data)
        else:
            if whole:
                body: list[bytes | memoryview] = [inside[0].data]
                length = len(inside[0].data)
            else:
                body, length = _message(data, entry.payload, entry.end, inside)
            put(varint(entry.number << 3 | BYTES) + varint(length))
            for piece in body:
                put(piece)
        kept = entry.end
    put(data[kept:end])
    for edit in edits:
        if edit.start == edit.end == end:
            put(edit.data)
    return pieces, size
