"""Writing files so that an interruption leaves either nothing or the whole result."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lacoot_deploy.errors import InputError


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; what is written there becomes `target` in one step.

    The temporary file is synced and renamed when the block ends normally, and removed when it raises.

    Raises:
        InputError: The folder is missing or cannot be written, the disk is full, or the target is a folder.
    """
    target = Path(target)
    check_target(target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise InputError(f"Cannot write in {target.parent}: {error.strerror or error}.") from None
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"Cannot write {target}: {error.strerror or error}.") from None
        sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_target(target: str | Path) -> None:
    """Raise early where `target` cannot become a file, so that no work is done for nothing.

    Raises:
        InputError: The target is a folder, or its folder does not exist or cannot be written.
    """
    target = Path(target)
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file to write.")
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist; create it or choose another output.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"The folder {folder} cannot be written; choose another output.")


def atomic_write_bytes(target: str | Path, data: bytes) -> None:
    """Write `data` to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(target: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, whole or not at all."""
    atomic_write_bytes(target, text.encode("utf-8"))


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; reads in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename durable where the platform lets a folder be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
