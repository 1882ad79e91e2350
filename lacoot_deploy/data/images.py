"""Image sources: the digits in scikit-learn, CIFAR-10, Fashion-MNIST and folders of class folders."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.splits import SPLITS, VAL_FRACTION, holdout
from lacoot_deploy.data.types import ImageSet
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
MAX_PIXELS = 64 * 1024 * 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024
TEST_FRACTION = 0.2
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
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
    if not root.exists():
        raise InputError(f"{root} does not exist; give the path of the {kind} data.")
    return _in_size(reader(root, split, size, val_fraction), size)


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
            count = int(np.prod(shape, dtype=np.int64))
            if count > MAX_PIXELS * 64:
                raise InputError(f"{path} claims {count} bytes, which is too large.")
            data = file.read(count)
    except (OSError, EOFError, struct.error) as error:
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
        return path.read_bytes() if path.is_file() else None

    return read


def _tar_members(path: Path) -> Callable[[str], bytes | None]:
    try:
        with tarfile.open(path) as archive:
            found: dict[str, bytes] = {}
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and "batch" in name and member.size <= MAX_IMAGE_BYTES:
                    file = archive.extractfile(member)
                    if file is not None:
                        found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path} is neither a zip nor a tar archive of CIFAR-10: {error}.") from None
    return found.get


class _ArraysOnly(pickle.Unpickler):
    """Reads the pickled CIFAR batches (a dict of bytes, lists and one array) and refuses anything else."""

    allowed = frozenset({("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            from numpy._core import multiarray

            return multiarray._reconstruct
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _cifar_batches(
    read: Callable[[str], bytes | None], root: Path, split: str, val_fraction: float
) -> ImageSet:
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    images, labels = [], []
    for name in names:
        raw, packed = read(name), read(f"{name}.bin")
        try:
            if packed is not None:
                rows = np.frombuffer(packed, np.uint8).reshape(-1, 3073)
                images.append(rows[:, 1:].reshape(-1, 3, 32, 32))
                labels.append(rows[:, 0].astype(np.int64))
            elif raw is not None:
                batch = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
                images.append(np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32))
                labels.append(np.asarray(batch[b"labels"], np.int64))
            else:
                raise InputError(f"{root} lacks {name}.")
        except (pickle.UnpicklingError, ValueError, KeyError, TypeError, EOFError, AttributeError) as error:
            raise InputError(f"{name} in {root} is no CIFAR-10 batch: {error}.") from None
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
    names = sorted(_names(root))
    parts: dict[str, list[str]] = {}
    for name in names:
        pieces = PurePosixPath(name).parts
        part = pieces[-3] if len(pieces) >= 3 and pieces[-3] in SPLITS else ""
        if len(pieces) >= 2:
            parts.setdefault(part, []).append(name)
    if not any(parts.values()):
        raise InputError(f"{root} holds no images in class folders (CLASS/*.jpg or train/CLASS/*.jpg).")
    classes = tuple(sorted({PurePosixPath(name).parts[-2] for group in parts.values() for name in group}))

    def load(group: list[str]) -> ImageSet:
        labels = np.array([classes.index(PurePosixPath(name).parts[-2]) for name in group], np.int64)
        return ImageSet(_decode_all(root, group, size), labels, classes)

    def choose(group: list[str], keep: NDArray[np.int64]) -> list[str]:
        return [group[i] for i in keep]

    def label(group: list[str]) -> NDArray[np.int64]:
        return np.array([classes.index(PurePosixPath(name).parts[-2]) for name in group], np.int64)

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


def _names(root: Path) -> Iterator[str]:
    if root.is_file():
        try:
            with zipfile.ZipFile(root) as archive:
                for info in archive.infolist():
                    if not info.is_dir() and PurePosixPath(info.filename).suffix.lower() in IMAGE_SUFFIXES:
                        yield info.filename
        except zipfile.BadZipFile as error:
            raise InputError(f"{root} is a damaged zip archive: {error}.") from None
        return
    for path in root.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path.relative_to(root).as_posix()


def _decode_all(root: Path, names: list[str], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    if not names:
        raise InputError(f"{root} holds no images for this split.")
    images: NDArray[np.uint8] | None = None
    for index, (name, data) in enumerate(_contents(root, names)):
        image = _decode(data, size, f"{root}/{name}")
        if images is None:
            images = np.empty((len(names), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise InputError(
                f"{root}/{name} is {image.shape[1]}x{image.shape[2]}, others are "
                f"{images.shape[2]}x{images.shape[3]}; give --size to bring them to one size."
            )
        images[index] = image
    assert images is not None
    return images


def _contents(root: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    if not root.is_file():
        for name in names:
            yield name, (root / name).read_bytes()
        return
    with zipfile.ZipFile(root) as archive:
        for name in names:
            if archive.getinfo(name).file_size > MAX_IMAGE_BYTES:
                raise InputError(f"{name} in {root} unpacks to more than {MAX_IMAGE_BYTES >> 20} MiB.")
            try:
                yield name, archive.read(name)
            except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
                raise InputError(f"{name} in {root} cannot be unpacked: {error}.") from None


def _decode(data: bytes, size: tuple[int, int] | None, name: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"{name} has {picture.width}x{picture.height} pixels, which is too large.")
            image: Any = picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name} is no readable image: {error}.") from None
    if size is not None and (image.height, image.width) != tuple(size):
        height, width = size
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


_READERS: dict[str, Callable[[Path, str, tuple[int, int] | None, float], ImageSet]] = {
    "cifar10": _cifar10,
    "fashion-mnist": _fashion,
    "imagefolder": _imagefolder,
}
