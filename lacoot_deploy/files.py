"""Writing files so that an interruption leaves either nothing or the whole result."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lacoot_deploy.errors import InputError

STAGING_SUFFIX = ".lacoot-tmp"
"""Ends the name of the hidden folder beside a target in which it is written; a killed process leaves one behind."""


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; what is written there becomes `target` in one step.

    The temporary file is synced and renamed when the block ends normally, and removed when it raises.

    Raises:
        InputError: The folder is missing or cannot be written, the disk is full, or the target is no file.
    """
    target = Path(target)
    check_target(target)
    try:
        with staging_folder(target) as folder:
            temporary = folder / "new"
            # Made here with the permissions of any new file, so that nobody has to ask for the mask.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}.") from None
    sync_folder(target.parent)


@contextlib.contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, `.NAME.RANDOM.lacoot-tmp`, in which it can be written; removed at the end.

    What killed processes left of the same target is removed first: the folders that no living process has locked.

    Raises:
        OSError: The folder cannot be made.
    """
    prefix = "." + os.fsencode(target.name)[:100].decode(errors="ignore") + "."
    _remove_left_over(target.parent, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=STAGING_SUFFIX, dir=target.parent))
        lock = _lock(folder, wait=False)
        if folder.is_dir():
            break
        # Between its making and its locking another process took it for a left-over one.
        _unlock(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold off other processes that write into the folder by way of this; where that cannot be, go on without."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        _unlock(lock)


def _remove_left_over(parent: Path, prefix: str) -> None:
    try:
        names = [name for name in os.listdir(parent) if name.startswith(prefix)]
    except OSError:
        return
    for name in names:
        middle = name.removeprefix(prefix).removesuffix(STAGING_SUFFIX)
        if name.endswith(STAGING_SUFFIX) and "." not in middle:
            lock = _lock(parent / name, wait=False)
            if lock is not None:
                shutil.rmtree(parent / name, ignore_errors=True)
                _unlock(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder for as long as the process lives; None where another holds it or the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        _unlock(handle)
        return None
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def check_target(target: str | Path, *, inputs: Iterable[str | Path] = ()) -> None:
    """Raise early where `target` cannot become a file, so that no work is done for nothing.

    Args:
        target: The file to write.
        inputs: Files that the work reads and that must stay as they are.

    Raises:
        InputError: The target is one of the inputs, a folder or a device, or its folder does not exist or cannot be
            written.
    """
    target = Path(target)
    if "\0" in str(target):
        raise InputError(f"{str(target)!r} cannot be written: no name can hold that.")
    try:
        if target.is_dir():
            raise InputError(f"{target} is a folder; give the name of a file to write.")
        # A link such as /dev/stdout leads to a file where the output is redirected, but is not ours to replace.
        special = target.is_symlink() and target.parent.resolve().parts[1:2] in (("dev",), ("proc",))
        if special or (target.exists() and not target.is_file()):
            raise InputError(f"{target} is no regular file and will not be replaced; choose another output.")
        folder = target.parent
        if not folder.is_dir():
            raise InputError(f"The folder {folder} does not exist; create it or choose another output.")
    except (OSError, ValueError) as error:
        # Too long, or with a character that no name can have.
        raise InputError(
            f"{target} cannot be written: {getattr(error, 'strerror', None) or error}."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"The folder {folder} cannot be written; choose another output.")
    for path in inputs:
        if same_file(target, Path(path)):
            raise InputError(
                f"{target} is an input of this very command; it is never overwritten. Choose another output."
            )


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, that is there or would be."""
    try:
        return a.samefile(b)
    except (OSError, ValueError):
        return a.absolute() == b.absolute()


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
