"""Image sources: the digits in scikit-learn, CIFAR-10, Fashion-MNIST and folders of class folders."""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.bounds import MAX_IMAGE_BYTES, MAX_PIXELS, check_bytes, check_image_size
from lacoot_deploy.data.pickled import read_batch
from lacoot_deploy.data.pictures import decode_all, picture_names
from lacoot_deploy.data.splits import SPLITS, VAL_FRACTION, holdout
from lacoot_deploy.data.types import ImageSet
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord

MAX_MEMBERS = 1000
TEST_FRACTION = 0.2
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BATCHES += tuple(f"{name}.bin" for name in BATCHES)
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def load_images(
    spec: str,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    val_fraction: float = VAL_FRACTION,
) -> ImageSet:
    """Images and labels of one split of a source.

    Sources with no validation split of their own have one carved from the training images (stratified, always
    the same images); the digits and folders without `train/` and `test/` have a fifth set apart as test.

    Args:
        spec: `digits`, `cifar10:PATH`, `fashion-mnist:PATH` or `imagefolder:PATH`.
        split: `train`, `val` or `test`.
        size: Height and width that a folder's images are brought to (shorter side resized, centre cropped);
            without it they must all be of one size.
        val_fraction: Share of the training images carved out for `val`.

    Raises:
        UsageError: The source or split does not exist.
        InputError: The data is missing or malformed.
    """
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    if size is not None:
        check_image_size(size)
    kind, _, path = spec.partition(":")
    if kind == "digits" and not path:
        return _in_size(_part(_digits(), None, split, val_fraction), size)
    reader = _READERS.get(kind)
    if reader is None:
        known = "digits, " + ", ".join(f"{name}:PATH" for name in _READERS)
        raise UsageError(f"The image source {spec!r} is not known; use one of {known}.")
    if not path:
        raise UsageError(f"The source {kind} needs a path: {kind}:PATH.")
    root = Path(path)
    if not exists(root):
        raise InputError(f"{root} does not exist; give the path of the {kind} data.")
    return _in_size(reader(root, split, size, val_fraction), size)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that no file system can hold is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def normalise(images: NDArray[np.uint8], preprocessing: PreprocessingRecord) -> NDArray[np.float32]:
    """Model inputs: float32 [N, C, H, W], (image / 255 - mean) / std per channel.

    Args:
        images: uint8 [N, C, H, W].
        preprocessing: Mean and standard deviation on the 0..1 scale; one value serves all channels.

    Raises:
        InputError: The channels or the size do not fit the preprocessing.
    """
    channels, size = images.shape[1], images.shape[2:]
    if channels != preprocessing.channels or tuple(size) != tuple(preprocessing.size):
        want = (preprocessing.channels, *preprocessing.size)
        raise InputError(f"The images have shape {(channels, *size)}, but the model was made for {want}.")
    mean = np.asarray(preprocessing.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(preprocessing.std, np.float32).reshape(1, -1, 1, 1)
    if mean.shape[1] not in (1, channels) or std.shape[1] not in (1, channels):
        raise InputError(f"Mean and std must have 1 or {channels} values.")
    if not np.all(std > 0):
        raise InputError("Every std must be greater than 0.")
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def preprocessing_of(images: NDArray[np.uint8]) -> PreprocessingRecord:
    """Per-channel mean and standard deviation of a training set, on the 0..1 scale.

    Args:
        images: uint8 [N, C, H, W].
    """
    levels = np.arange(256, dtype=np.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        m = float(counts @ levels / counts.sum())
        mean.append(round(m, 6))
        std.append(round(max(float(np.sqrt(counts @ (levels - m) ** 2 / counts.sum())), 1e-3), 6))
    height, width = images.shape[2:]
    return PreprocessingRecord(mean=mean, std=std, size=(height, width), channels=images.shape[1])


def _in_size(images: ImageSet, size: tuple[int, int] | None) -> ImageSet:
    """Images of sources that come as arrays, in the size asked for."""
    if size is None or images.images.shape[2:] == tuple(size) or not len(images):
        return images
    from PIL import Image

    height, width = size
    check_bytes(len(images) * images.images.shape[1] * height * width, "The resized images")
    resized = np.empty((*images.images.shape[:2], height, width), np.uint8)
    for target, image in zip(resized, images.images, strict=True):
        for plane, channel in zip(target, image, strict=True):
            plane[:] = Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR)
    return ImageSet(resized, images.labels, images.classes)


def _part(train: ImageSet, test: ImageSet | None, split: str, val_fraction: float) -> ImageSet:
    if test is None:
        kept, held = holdout(train.labels, TEST_FRACTION)
        train, test = train.take(kept), train.take(held)
    if split == "test":
        return test
    kept, held = holdout(train.labels, val_fraction)
    return train.take(held if split == "val" else kept)


def _digits() -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "The digits come with scikit-learn, which is not installed: pip install 'lacoot-deploy[demo]'."
        ) from None
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return ImageSet(images, bunch.target.astype(np.int64), tuple(str(d) for d in range(10)))


def _fashion(root: Path, split: str, size: tuple[int, int] | None, val_fraction: float) -> ImageSet:
    def part(prefix: str) -> ImageSet:
        images = _idx(root, f"{prefix}-images-idx3-ubyte", 3)
        labels = _idx(root, f"{prefix}-labels-idx1-ubyte", 1).astype(np.int64)
        if len(images) != len(labels):
            raise InputError(f"{root}: {len(images)} images but {len(labels)} labels of {prefix}.")
        return ImageSet(images[:, None], labels, FASHION_CLASSES)

    if not root.is_dir():
        raise InputError(f"{root} is no folder; give the folder that holds the idx files.")
    if split == "test":
        return part("t10k")
    return _part(part("train"), _nothing(1), split, val_fraction)


def _nothing(channels: int) -> ImageSet:
    return ImageSet(np.zeros((0, channels, 0, 0), np.uint8), np.zeros(0, np.int64), ())


def _idx(root: Path, name: str, rank: int) -> NDArray[np.uint8]:
    packed, plain = root / f"{name}.gz", root / name
    if not packed.is_file() and not plain.is_file():
        raise InputError(f"{root} holds neither {name} nor {name}.gz.")
    path, opener = (packed, gzip.open) if packed.is_file() else (plain, open)
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * rank)
            magic, *shape = struct.unpack(f">{rank + 1}I", header)
            if magic != 0x800 + rank:
                raise InputError(f"{path} is no idx file of bytes with {rank} axes.")
            count = math.prod(shape)
            if max(shape) > MAX_PIXELS:
                raise InputError(
                    f"{path} claims {max(shape)} images or pixels along one axis; it is damaged."
                )
            check_bytes(count, f"{path}, as its header says,")
            data = file.read(count)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
    if len(data) != count:
        raise InputError(f"{path} is truncated: {len(data)} of {count} bytes.")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _cifar10(root: Path, split: str, size: tuple[int, int] | None, val_fraction: float) -> ImageSet:
    if root.is_file() and zipfile.is_zipfile(root):
        return _class_folders(root, split, size or (32, 32), val_fraction)
    if root.is_file():
        return _cifar_batches(_tar_members(root), root, split, val_fraction)
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-10-batches-bin"):
        if any((folder / name).is_file() for name in ("data_batch_1", "data_batch_1.bin")):
            return _cifar_batches(_folder_members(folder), root, split, val_fraction)
    return _class_folders(root, split, size or (32, 32), val_fraction)


def _folder_members(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        path = folder / name
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > MAX_IMAGE_BYTES:
                raise InputError(
                    f"{path} is larger than {MAX_IMAGE_BYTES >> 20} MiB; it is no CIFAR-10 batch."
                )
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None

    return read


def _tar_members(path: Path) -> Callable[[str], bytes | None]:
    """The batches in a tar archive, which is read and never unpacked to disk."""
    found: dict[str, bytes] = {}
    passed = 0
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                # What is passed over is decompressed too: an archive must not go on for ever.
                passed += member.size
                if number > MAX_MEMBERS or passed > MAX_MEMBERS * MAX_IMAGE_BYTES // 16:
                    raise InputError(f"{path} holds far more than CIFAR-10 does; it is another archive.")
                name = PurePosixPath(member.name).name
                if member.isfile() and name in BATCHES and member.size <= MAX_IMAGE_BYTES:
                    file = archive.extractfile(member)
                    if file is not None:
                        found[name] = file.read()
    except InputError:
        raise
    except Exception as error:  # every compression has errors of its own
        raise InputError(f"{path} is neither a zip nor a tar archive of CIFAR-10: {error}.") from None
    return found.get


def _cifar_batches(
    read: Callable[[str], bytes | None], root: Path, split: str, val_fraction: float
) -> ImageSet:
    images, labels = [], []
    for name in BATCHES[5:6] if split == "test" else BATCHES[:5]:
        raw, packed = read(name), read(f"{name}.bin")
        if packed is not None:
            if len(packed) % 3073:
                raise InputError(f"{name}.bin in {root} is no CIFAR-10 batch: it has {len(packed)} bytes.")
            rows = np.frombuffer(packed, np.uint8).reshape(-1, 3073)
            images.append(rows[:, 1:].reshape(-1, 3, 32, 32))
            labels.append(rows[:, 0].astype(np.int64))
        elif raw is not None:
            pictures, numbers = read_batch(raw, f"{name} in {root}")
            images.append(pictures)
            labels.append(numbers)
        else:
            raise InputError(f"{root} lacks {name}.")
    whole = ImageSet(np.concatenate(images), np.concatenate(labels), CIFAR10_CLASSES)
    if whole.labels.size and (whole.labels.min() < 0 or whole.labels.max() > 9):
        raise InputError(f"{root} holds labels outside 0..9; it is no CIFAR-10.")
    return whole if split == "test" else _part(whole, _nothing(3), split, val_fraction)


def _imagefolder(root: Path, split: str, size: tuple[int, int] | None, val_fraction: float) -> ImageSet:
    return _class_folders(root, split, size, val_fraction)


def _class_folders(root: Path, split: str, size: tuple[int, int] | None, val_fraction: float) -> ImageSet:
    """A folder or zip of `train/CLASS/*` and `test/CLASS/*` (also `val/CLASS/*`), or of `CLASS/*` alone."""
    if root.is_file() and not zipfile.is_zipfile(root):
        raise InputError(f"{root} is neither a folder nor a zip archive.")
    names = sorted(picture_names(root))
    parts: dict[str, list[str]] = {}
    for name in names:
        pieces = PurePosixPath(name).parts
        part = pieces[-3] if len(pieces) >= 3 and pieces[-3] in SPLITS else ""
        if len(pieces) >= 2:
            parts.setdefault(part, []).append(name)
    if not any(parts.values()):
        raise InputError(f"{root} holds no images in class folders (CLASS/*.jpg or train/CLASS/*.jpg).")
    classes = tuple(sorted({PurePosixPath(name).parts[-2] for group in parts.values() for name in group}))
    numbers = {name: number for number, name in enumerate(classes)}

    def load(group: list[str]) -> ImageSet:
        return ImageSet(decode_all(root, group, size), label(group), classes)

    def choose(group: list[str], keep: NDArray[np.int64]) -> list[str]:
        return [group[i] for i in keep]

    def label(group: list[str]) -> NDArray[np.int64]:
        return np.array([numbers[PurePosixPath(name).parts[-2]] for name in group], np.int64)

    if split in parts and split != "train":
        return load(parts[split])
    if "train" in parts:
        pool = parts["train"]
        if split == "test":
            raise InputError(f"{root} has a train/ folder but no test/ folder.")
    else:
        pool = parts.get("", [])
        kept, held = holdout(label(pool), TEST_FRACTION)
        if split == "test":
            return load(choose(pool, held))
        pool = choose(pool, kept)
    if "val" in parts:
        return load(pool)
    kept, held = holdout(label(pool), val_fraction)
    return load(choose(pool, held if split == "val" else kept))


_READERS: dict[str, Callable[[Path, str, tuple[int, int] | None, float], ImageSet]] = {
    "cifar10": _cifar10,
    "fashion-mnist": _fashion,
    "imagefolder": _imagefolder,
}

IMAGE_SOURCES = ("digits", *_READERS)
"""The kinds of image sources."""
