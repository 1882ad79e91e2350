"""Which shared libraries an execution provider needs, and which of them this machine cannot load."""

from __future__ import annotations

import ctypes
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_PT_LOAD, _PT_DYNAMIC = 1, 2

# What the loader finds on any machine; not worth a line in `doctor`.
_SYSTEM = (
    "libc.",
    "libm.",
    "libdl.",
    "librt.",
    "libpthread.",
    "libgcc_s.",
    "libstdc++.",
    "ld-linux",
    "libonnxruntime",
)


@dataclass(frozen=True)
class Library:
    """One shared library that a provider needs.

    Attributes:
        name: Its file name, such as `libcublasLt.so.13`.
        problem: Why it cannot be loaded; None where it can.
    """

    name: str
    problem: str | None


def driver_problem() -> str | None:
    """Why the NVIDIA driver cannot be loaded; None where it can."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    return _load_problem(name)


def required_libraries(binary: Path) -> tuple[Library, ...]:
    """The libraries that a provider's binary names as needed, each tried with the system's loader.

    Only 64-bit little-endian ELF files (Linux) are read; for others the answer is empty.
    """
    return tuple(
        Library(name, _load_problem(name)) for name in needed_names(binary) if not name.startswith(_SYSTEM)
    )


def needed_names(binary: Path) -> tuple[str, ...]:
    """The DT_NEEDED entries of a 64-bit little-endian ELF file; () for any other file (System V gABI, chapter 5)."""
    try:
        with binary.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
                return ()
            offset, entry_size, count = (
                struct.unpack_from("<Q", header, 32)[0],
                *struct.unpack_from("<HH", header, 54),
            )
            segments = []
            for index in range(count):
                file.seek(offset + index * entry_size)
                kind, _, start, address, _, size = struct.unpack("<IIQQQQ", file.read(40))
                segments.append((kind, start, address, size))
            dynamic = next((s for s in segments if s[0] == _PT_DYNAMIC), None)
            if dynamic is None:
                return ()
            file.seek(dynamic[1])
            table = file.read(dynamic[3])
            entries = []
            for tag, value in struct.iter_unpack("<qQ", table[: len(table) // 16 * 16]):
                if tag == _DT_NULL:
                    break
                entries.append((tag, value))
            strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
            if strings is None:
                return ()
            base = next(s[1] - s[2] for s in segments if s[0] == _PT_LOAD and s[2] <= strings < s[2] + s[3])
            names = []
            for tag, value in entries:
                if tag == _DT_NEEDED:
                    file.seek(strings + base + value)
                    names.append(file.read(256).split(b"\0", 1)[0].decode("ascii", "replace"))
            return tuple(names)
    except (OSError, struct.error, StopIteration):
        return ()


def _load_problem(name: str) -> str | None:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return None
