"""Image sources: every format that CIFAR-10, Fashion-MNIST and class folders come in, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lacoot_deploy.data import holdout, load_images, normalise, preprocessing_of
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord

RANDOM = np.random.default_rng(0)


def png(size: tuple[int, int] = (8, 6), value: int = 7) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path, parts: tuple[str, ...] = ("train", "test"), count: int = 10) -> Path:
    for part in parts:
        for value, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:04d}.png").write_bytes(png(value=10 * value + i))
    return root


def test_splits_are_stratified_nested_and_always_the_same():
    labels = np.repeat(np.arange(5), 40)
    kept, held = holdout(labels, 0.1)
    assert np.bincount(labels[held]).tolist() == [4] * 5
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(200))
    np.testing.assert_array_equal(holdout(labels, 0.1)[1], held)
    assert set(held) < set(holdout(labels, 0.3)[1])


def test_the_digits_have_three_parts_that_share_no_image():
    pytest.importorskip("sklearn")
    parts = {split: load_images("digits", split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1295, "val": 143, "test": 359}
    assert parts["train"].images.shape[1:] == (1, 8, 8)
    assert parts["train"].images.max() == 255


def test_folders_and_zips_of_class_folders_give_the_same_images(tmp_path):
    root = class_folders(tmp_path / "data")
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.png")):
            file.write(path, path.relative_to(root))
    for split, count in (("train", 18), ("val", 2), ("test", 20)):
        one, two = load_images(f"imagefolder:{root}", split), load_images(f"imagefolder:{archive}", split)
        assert len(one) == count
        assert one.classes == ("cat", "dog")
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)


def test_a_folder_without_train_and_test_has_a_fifth_set_apart(tmp_path):
    class_folders(tmp_path, parts=("",))
    sizes = [len(load_images(f"imagefolder:{tmp_path}", split)) for split in ("train", "val", "test")]
    assert sizes == [14, 2, 4]


def test_images_of_several_sizes_need_a_size(tmp_path):
    class_folders(tmp_path, parts=("",))
    (tmp_path / "cat" / "zzzz.png").write_bytes(png((5, 9)))
    source = f"imagefolder:{tmp_path}"

    def all_parts() -> list[int]:
        return [len(load_images(source, split)) for split in ("train", "val", "test")]

    with pytest.raises(InputError, match="--size"):
        all_parts()
    assert load_images(f"imagefolder:{tmp_path}", "train", size=(4, 4)).images.shape[1:] == (3, 4, 4)


def cifar_batch(labels: list[int]) -> bytes:
    data = RANDOM.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return pickle.dumps({b"data": data, b"labels": labels, b"batch_label": b"x"}, protocol=2)


def test_the_original_cifar_batches_pickled_packed_or_in_a_tar(tmp_path):
    labels = [i % 10 for i in range(40)]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(cifar_batch(labels))
    assert len(load_images(f"cifar10:{tmp_path}", "train")) == 180
    test = load_images(f"cifar10:{tmp_path}", "test")
    assert test.images.shape == (40, 3, 32, 32)
    assert test.classes[3] == "cat"
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    again = load_images(f"cifar10:{tmp_path / 'cifar.tar.gz'}", "test")
    np.testing.assert_array_equal(again.images, test.images)
    packed = tmp_path / "packed"
    packed.mkdir()
    rows = np.concatenate([np.asarray(labels, np.uint8)[:, None], test.images.reshape(40, -1)], axis=1)
    (packed / "data_batch_1.bin").write_bytes(b"")
    (packed / "test_batch.bin").write_bytes(rows.tobytes())
    np.testing.assert_array_equal(load_images(f"cifar10:{packed}", "test").images, test.images)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_cifar_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil()}))
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(InputError, match="no CIFAR-10 batch"):
        load_images(f"cifar10:{tmp_path}", "test")
    assert not (tmp_path / "pwned").exists()


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{values.ndim + 1}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def test_fashion_mnist_is_read_packed_or_plain_and_truncation_is_found(tmp_path):
    images, labels = RANDOM.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images)[:-5])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    train = load_images(f"fashion-mnist:{tmp_path}", "train")
    assert train.images.shape == (30, 1, 28, 28)
    assert train.classes[9] == "ankle boot"
    with pytest.raises(InputError, match="truncated"):
        load_images(f"fashion-mnist:{tmp_path}", "test")


def test_broken_images_and_archives_are_named(tmp_path):
    (tmp_path / "cat").mkdir()
    for i in range(10):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cat/\d\.png is no readable image"):
        load_images(f"imagefolder:{tmp_path}", "train")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        load_images(f"imagefolder:{broken}", "train")


def test_unknown_sources_splits_and_paths_are_said_to_be_so(tmp_path):
    with pytest.raises(UsageError, match="use one of digits"):
        load_images("mnist", "train")
    with pytest.raises(UsageError, match="needs a path"):
        load_images("cifar10:", "train")
    with pytest.raises(UsageError, match="split"):
        load_images("digits", "dev")
    with pytest.raises(InputError, match="does not exist"):
        load_images(f"cifar10:{tmp_path / 'missing'}", "train")
    with pytest.raises(InputError, match="holds no images"):
        load_images(f"imagefolder:{tmp_path}", "train")


def test_normalised_images_have_mean_0_and_std_1():
    images = RANDOM.integers(0, 200, (50, 3, 4, 4), dtype=np.uint8)
    record = preprocessing_of(images)
    values = normalise(images, record)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(axis=(0, 2, 3)), 1, atol=1e-4)


def test_images_that_the_model_was_not_made_for_are_refused():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    with pytest.raises(InputError, match="was made for"):
        normalise(images, PreprocessingRecord(mean=[0.5], std=[1], size=(5, 5)))
    with pytest.raises(InputError, match="greater than 0"):
        normalise(images, PreprocessingRecord(mean=[0.5], std=[0], size=(4, 4)))


def test_the_real_cifar10_archive(shared_data):
    test = load_images(f"cifar10:{shared_data / 'cifar10.zip'}", "test")
    assert test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_images_of_every_source_come_in_the_size_asked_for(tmp_path):
    pytest.importorskip("sklearn")
    own, larger = load_images("digits", "val"), load_images("digits", "val", size=(16, 12))
    assert larger.images.shape == (len(own), 1, 16, 12)
    assert larger.images.dtype == np.uint8
    np.testing.assert_array_equal(larger.labels, own.labels)
    # Brought back by means of blocks, the pictures are those that they were.
    back = larger.images.reshape(-1, 1, 8, 2, 4, 3).mean(axis=(3, 5))
    down = own.images.reshape(-1, 1, 8, 4, 2).mean(axis=4)
    assert np.corrcoef(back.ravel(), down.ravel())[0, 1] > 0.97
