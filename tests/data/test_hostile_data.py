"""Data from strangers: damaged, lying or dangerous files end in one sentence, within bounded time and memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from lacoot_deploy.data import InputInfo, load_images, load_samples
from lacoot_deploy.data import bounds as bounds_module
from lacoot_deploy.data.pickled import read_batch
from lacoot_deploy.errors import InputError

RANDOM = np.random.default_rng(0)
FLOATS = [InputInfo("x", ("n", 4), "float32")]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 8, height: int = 8) -> bytes:
    """A picture that says it is that large; its pixels are those of a small one."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((3 * 8 + 1) * 8))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def pictures(first: bytes) -> dict[str, bytes]:
    return {"a/0.png": first, **{f"{c}/{n}.png": png() for c in "ab" for n in range(1, 6)}}


def refused(source: str, match: str, split: str = "train", **options) -> None:
    """The source is refused; nothing is warned about, and no more is allocated than a small source needs."""
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=match):
            load_images(source, split, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


class TestPictures:
    @pytest.mark.parametrize("side", [9000, 12_000, 30_000, 2**31 - 1])
    def test_bombs(self, tmp_path, side):
        path = archive(tmp_path / "b.zip", pictures(png(side, side)))
        refused(f"imagefolder:{path}", "too large|no readable image")

    @pytest.mark.parametrize(
        "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a" + bytes(20), b""]
    )
    def test_other_formats_under_a_pictures_name(self, tmp_path, data):
        """PostScript would go to an interpreter outside."""
        path = archive(tmp_path / "b.zip", pictures(data))
        refused(f"imagefolder:{path}", "no readable image")

    def test_damaged_at_every_byte(self, tmp_path):
        whole = png()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            path = archive(tmp_path / "b.zip", pictures(bytes(damaged)))
            with contextlib.suppress(InputError):
                assert load_images(f"imagefolder:{path}", "train").images.shape[1] == 3

    @pytest.mark.parametrize("size", [(0, 0), (-5, 3), (10**6, 10**6), (1, 10**9)])
    def test_impossible_sizes(self, tmp_path, size):
        path = archive(tmp_path / "b.zip", pictures(png()))
        refused(f"imagefolder:{path}", "cannot be brought to", size=size)

    def test_more_than_the_memory_holds(self, tmp_path, monkeypatch):
        monkeypatch.setattr(bounds_module, "memory_bound", lambda: 1000)
        path = archive(tmp_path / "b.zip", pictures(png()))
        refused(f"imagefolder:{path}", r"half of this machine's")


class TestArchives:
    def test_names_that_lead_outside_are_never_written(self, tmp_path):
        folder = tmp_path / "deep" / "er"
        folder.mkdir(parents=True)
        members = {f"../../{c}/{n}.png": png() for c in "ab" for n in range(5)} | {"/etc/x/1.png": png()}
        path = archive(folder / "t.zip", members)
        assert len(load_images(f"imagefolder:{path}", "train")) > 0
        assert sorted(os.listdir(tmp_path)) == ["deep"]
        assert os.listdir(folder) == ["t.zip"]

    def test_a_member_that_unpacks_to_far_more(self, tmp_path):
        path = archive(tmp_path / "b.zip", pictures(bytes(200 * 2**20)))
        assert path.stat().st_size < 10**6
        refused(f"imagefolder:{path}", "unpacks to more than 64 MiB")

    def test_damaged_at_every_byte(self, tmp_path):
        whole = archive(
            tmp_path / "w.zip", {"a/0.png": png(), "b/0.png": png(), "a/1.png": png()}
        ).read_bytes()
        path = tmp_path / "b.zip"
        for place in range(0, len(whole), 2):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            with contextlib.suppress(InputError):
                load_images(f"imagefolder:{path}", "train")

    def test_a_tar_archive_that_goes_on_and_on(self, tmp_path):
        path = tmp_path / "b.tar.gz"
        with tarfile.open(path, "w:gz") as file:
            for number in range(1200):
                file.addfile(tarfile.TarInfo(f"data_batch_{number}"))
        refused(f"cifar10:{path}", "far more than CIFAR-10")
        info = tarfile.TarInfo("huge")
        info.size = 2**40
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
        refused(f"cifar10:{path}", "far more than CIFAR-10")

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x1f\x8b" + bytes(20), gzip.compress(b"x" * 600, mtime=0), b"BZh9" + bytes(99), bytes(5000)],
        ids=["empty", "gzip-header", "gzip", "bzip2-header", "zeros"],
    )
    def test_no_archive(self, tmp_path, data):
        path = tmp_path / "b.tar"
        path.write_bytes(data)
        refused(f"cifar10:{path}", "neither a zip nor a tar|lacks data_batch")

    @pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "/" + "x/" * 3000])
    def test_names_that_no_file_can_have(self, name):
        for kind in ("cifar10", "fashion-mnist", "imagefolder"):
            refused(f"{kind}:{name}", "does not exist")
        with pytest.raises(InputError, match="does not exist"):
            load_samples(f"npz:{name}", inputs=FLOATS)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((2**31, 2**31, 4), "along one axis"),
        ((2**32 - 1, 2**32 - 1, 2**31), "along one axis"),
        ((2**26, 2**26, 2**26), "memory"),
        ((2**24, 1, 1), "truncated"),
        ((4, 1, 1), None),
    ],
)
def test_idx_files_that_lie_about_their_size(tmp_path, header, said):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *header) + b"abcd")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 4) + b"\0\1\2\3")
    if said is None:
        assert len(load_images(f"fashion-mnist:{tmp_path}", "test")) == 4
    else:
        with pytest.raises(InputError, match=said):
            load_images(f"fashion-mnist:{tmp_path}", "test")


def test_idx_files_whose_compression_is_damaged(tmp_path):
    whole = gzip.compress(
        struct.pack(">4I", 0x803, 4, 28, 28) + RANDOM.integers(0, 4, 4 * 784, np.uint8).tobytes()
    )
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 4) + bytes(4))
    said = set()
    for place in range(40, len(whole), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(damaged)
        with contextlib.suppress(InputError):
            load_images(f"fashion-mnist:{tmp_path}", "test")
            continue
        said.add(place)
    assert said


def call(module: str, name: str, arguments: bytes) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


class TestPickles:
    @pytest.mark.parametrize(
        "data",
        [
            call("os", "system", b"X\x04\0\0\0true\x85"),
            call("numpy", "ndarray", b"I1099511627776\n\x85"),
            call("_codecs", "encode", b"X\x04\0\0\0trueX\x04\0\0\0zlib\x86"),
            call("builtins", "eval", b"X\x011\0\0\0\x85"),
            b"\x80\x02K\x01r\xff\xff\xff\x7f.",
            b"\x80\x02}" + b"K\x01" + b"\x85" * 200_000 + b"K\x01s.",
            b"\x80\x02\x8f(" + b"K\x01" + b"\x85" * 200_000 + b"\x90.",
            b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"(i__builtin__\neval\n.",
            b"\x80\x02Ptarget\n.",
            b"",
            b"0.",
            b".",
            pickle.dumps([1]),
            pickle.dumps({b"data": None, b"labels": [1]}),
            pickle.dumps({b"data": b"abc", b"labels": [1]}),
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10**30]}),
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
            pickle.dumps({b"data": np.zeros((1, 3072), np.float64), b"labels": [1]}),
            pickle.dumps({b"data": np.array([None]), b"labels": [1]}),
        ],
    )
    def test_what_is_no_batch(self, data):
        tracemalloc.start()
        with pytest.raises(InputError, match="is no CIFAR-10 batch"):
            read_batch(data, "b")
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()

    @pytest.mark.parametrize("protocol", range(5))
    def test_what_is_one(self, protocol):
        data = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
        images, labels = read_batch(
            pickle.dumps({b"data": data, b"labels": [1, 2, 9]}, protocol=protocol), "b"
        )
        np.testing.assert_array_equal(images.reshape(3, -1), data)
        assert labels.tolist() == [1, 2, 9]


def npy(header: bytes) -> bytes:
    padded = header.ljust(63) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def saved(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class TestArrays:
    @pytest.mark.parametrize(
        "member",
        [
            npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
            npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
            npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
            npy(b"{'descr': '|V2000000000', 'fortran_order': False, 'shape': (1,)}"),
            npy(b"{'descr': "),
            npy(b'"""'),
            npy(b"(" * 60),
            npy(b"__import__('os').system('true')"),
            b"\x93NUMPY\x09\x09",
            b"\x80\x04.",
            b"",
        ],
    )
    def test_damaged_headers(self, tmp_path, member):
        path = archive(tmp_path / "d.npz", {"x.npy": member})
        with pytest.raises(InputError, match=r"d\.npz"):
            load_samples(f"npz:{path}", inputs=FLOATS)

    def test_objects_are_refused_and_never_made(self, tmp_path, monkeypatch):
        class Evil:
            def __reduce__(self):
                return os.system, ("touch pwned",)

        monkeypatch.chdir(tmp_path)
        for name, write in (("a.npz", np.savez), ("b.npz", lambda p, x: p.write_bytes(pickle.dumps(x)))):
            write(tmp_path / name, x=np.array([Evil()] * 4, dtype=object))
            with pytest.raises(InputError, match="no usable"):
                load_samples(f"npz:{tmp_path / name}", inputs=FLOATS)
        assert not (tmp_path / "pwned").exists()

    def test_a_single_array_is_no_archive(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((3, 4), np.float32))
        with pytest.raises(InputError, match=r"no usable \.npz file"):
            load_samples(f"npz:{tmp_path / 'a.npy'}", inputs=FLOATS)

    def test_more_than_the_memory_holds(self, tmp_path, monkeypatch):
        monkeypatch.setattr(bounds_module, "memory_bound", lambda: 10**6)
        np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((10**6, 4), np.float32))
        with pytest.raises(InputError, match="half of this machine's"):
            load_samples(f"npz:{tmp_path / 'bomb.npz'}", inputs=FLOATS)

    def test_unknown_compression_and_encryption(self, tmp_path):
        whole = saved(x=np.zeros((3, 4), np.float32))
        central = whole.find(b"PK\x01\x02")
        for place, value, also in ((central + 10, 99, None), (central + 8, 1, 6)):
            damaged = bytearray(whole)
            damaged[place] |= value
            if also is not None:
                damaged[also] |= value
            (tmp_path / "d.npz").write_bytes(damaged)
            with pytest.raises(InputError, match="no usable"):
                load_samples(f"npz:{tmp_path / 'd.npz'}", inputs=FLOATS)

    def test_damaged_at_every_byte(self, tmp_path):
        whole = saved(x=np.ones((3, 4), np.float32), labels=np.arange(3))
        path = tmp_path / "d.npz"
        for place in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            with contextlib.suppress(InputError):
                load_samples(f"npz:{path}", inputs=FLOATS)

    @pytest.mark.parametrize(
        ("inputs", "arrays", "said"),
        [
            (FLOATS, {"x": np.zeros((3, 4), np.float32), "labels": np.int64(3)}, "single value"),
            (FLOATS, {"x": np.zeros((3, 4), np.float32), "labels": np.zeros(2)}, "numbers of samples"),
            (FLOATS, {"x": np.zeros((0, 4), np.float32)}, "no samples"),
            (FLOATS, {"x": np.array([["a"] * 4])}, "expected float32"),
            ([InputInfo("x", (), "float32")], {"x": np.float32(1)}, "no array with a first axis"),
            ([InputInfo("x", ("n", 4), "seq(float)")], {"x": np.zeros((3, 4), np.float32)}, "cannot hold"),
        ],
    )
    def test_arrays_that_are_no_samples(self, tmp_path, inputs, arrays, said):
        np.savez(tmp_path / "d.npz", **arrays)
        with pytest.raises(InputError, match=said):
            load_samples(f"npz:{tmp_path / 'd.npz'}", inputs=inputs)
