"""Pictures in class folders or in a zip archive of them: listed, unpacked and decoded within bounds."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.bounds import MAX_IMAGE_BYTES, MAX_PIXELS, check_bytes
from lacoot_deploy.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What a picture may be, whatever its name says: Pillow hands some of its other formats to programs outside."""


def picture_names(root: Path) -> Iterator[str]:
    """Names of all pictures in a folder or zip archive, as paths with slashes.

    Names are only ever looked up in the archive that they come from; nothing is unpacked to disk.

    Raises:
        InputError: The folder cannot be read or the archive is damaged.
    """
    if root.is_file():
        for info in _open_zip(root).infolist():
            if (
                info.filename
                and not info.is_dir()
                and PurePosixPath(info.filename).suffix.lower() in IMAGE_SUFFIXES
            ):
                yield info.filename
        return
    try:
        for path in root.rglob("*"):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path.relative_to(root).as_posix()
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error.strerror or error}.") from None


def decode_all(root: Path, names: list[str], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """All named pictures as uint8 [N, 3, H, W].

    Args:
        root: The folder or zip archive.
        names: As `picture_names` gives them.
        size: Height and width that they are brought to (shorter side resized, centre cropped); without it they must
            all be of one size.

    Raises:
        InputError: One cannot be read, is too large or of another size, or together they do not fit in memory.
    """
    if not names:
        raise InputError(f"{root} holds no images for this split.")
    images: NDArray[np.uint8] | None = None
    for index, (name, data) in enumerate(_contents(root, names)):
        image = _decode(data, size, f"{root}/{name}")
        if images is None:
            check_bytes(len(names) * image.size, f"The {len(names)} images of {root}")
            images = np.empty((len(names), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise InputError(
                f"{root}/{name} is {image.shape[1]}x{image.shape[2]}, others are "
                f"{images.shape[2]}x{images.shape[3]}; give --size to bring them to one size."
            )
        images[index] = image
    assert images is not None
    return images


def _open_zip(root: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(root)
    except Exception as error:  # a damaged directory ends in whatever its fields lead to
        raise InputError(f"{root} is a damaged zip archive: {error}.") from None


def _contents(root: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    if not root.is_file():
        for name in names:
            yield name, _read(root / name)
        return
    with _open_zip(root) as archive:
        for name in names:
            if archive.getinfo(name).file_size > MAX_IMAGE_BYTES:
                raise InputError(f"{name} in {root} unpacks to more than {MAX_IMAGE_BYTES >> 20} MiB.")
            try:
                data = archive.read(name)
            except Exception as error:  # every way of packing has errors of its own
                raise InputError(f"{name} in {root} cannot be unpacked: {error}.") from None
            yield name, data


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise InputError(f"{path} is larger than {MAX_IMAGE_BYTES >> 20} MiB.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def _decode(data: bytes, size: tuple[int, int] | None, name: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Its own limits are checked below, and what it finds odd in a picture is no news to the user.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise InputError(
                        f"{name} has {picture.width}x{picture.height} pixels, which is too large."
                    )
                image: Any = picture.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # a decoder ends in whatever a damaged picture leads to
        raise InputError(f"{name} is no readable image: {error}.") from None
    if size is not None and (image.height, image.width) != tuple(size):
        height, width = size
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))
