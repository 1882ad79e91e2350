"""The --data grammar against a model's inputs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lacoot_deploy.data import DataOptions, InputInfo, load_samples
from lacoot_deploy.data.types import join
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord

TWO = (InputInfo("ids", ("N", 4), "int64"), InputInfo("mask", ("N", 4), "float32"))


def test_npz_gives_every_input_by_name_and_the_labels(tmp_path):
    path = tmp_path / "a b.npz"
    np.savez(path, ids=np.zeros((6, 4), np.int32), mask=np.ones((6, 4)), labels=np.arange(6))
    samples = load_samples(f"npz:{path}", inputs=TWO, limit=4, seed=1)
    assert {name: a.dtype.name for name, a in samples.feeds.items()} == {"ids": "int64", "mask": "float32"}
    assert len(samples) == 4
    assert samples.labels is not None
    assert len(samples.labels) == 4
    assert [len(feeds["ids"]) for feeds in samples.batches(3)] == [3, 1]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"ids": np.zeros((6, 4), int)}, "lacks an array for input 'mask'"),
        ({"ids": np.zeros((6, 5), int), "mask": np.ones((6, 4))}, "input 'ids': it has shape"),
        ({"ids": np.zeros((6, 4)), "mask": np.ones((6, 4))}, "'ids': it is float64"),
        ({"ids": np.zeros((6, 4), int), "mask": np.ones((5, 4))}, "different numbers of samples"),
        (
            {"ids": np.zeros((6, 4), int), "mask": np.ones((6, 4)), "lables": np.zeros(6)},
            r"'lables', which is neither an input \(ids, mask\) nor labels; did you mean 'labels'\?",
        ),
        (
            {"ids": np.zeros((6, 4), int), "mask": np.ones((6, 4)), "colour": np.zeros(6)},
            "are called labels.colour",
        ),
        (
            {"ids": np.zeros((6, 4), int), "mask": np.ones((6, 4)), "labels.a": np.zeros(5)},
            "different numbers of samples",
        ),
        ({"ids": np.zeros((0, 4), int), "mask": np.ones((0, 4))}, "holds no samples"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, arrays, said):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=said):
        load_samples(f"npz:{path}", inputs=TWO)


def test_object_arrays_and_files_that_are_no_npz_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, ids=np.array([{}], dtype=object), mask=np.ones((1, 4)))
    with pytest.raises(InputError, match=r"no usable \.npz"):
        load_samples(f"npz:{path}", inputs=TWO)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no usable \.npz"):
        load_samples(f"npz:{path}", inputs=TWO)
    with pytest.raises(InputError, match="does not exist"):
        load_samples("npz:missing.npz", inputs=TWO)


def test_a_function_of_ones_own_may_return_a_mapping_or_a_pair(tmp_path, monkeypatch):
    (tmp_path / "my_calibration.py").write_text(
        "import numpy as np\n"
        "def mapping():\n    return {'x': np.ones((5, 2), np.float32)}\n"
        "def pair():\n    return np.ones((5, 2)), [0, 1, 0, 1, 0]\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    one = (InputInfo("x", (None, 2), "float32"),)
    assert load_samples("python:my_calibration:mapping", inputs=one).labels is None
    pair = load_samples("python:my_calibration:pair", inputs=one)
    assert pair.labels is not None
    assert pair.labels.tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(InputError, match="expected a mapping"):
        load_samples("python:my_calibration:wrong", inputs=one)
    with pytest.raises(InputError, match="no function"):
        load_samples("python:my_calibration:missing", inputs=one)
    with pytest.raises(InputError, match="cannot be imported"):
        load_samples("python:there_is_no_such_module:f", inputs=one)
    with pytest.raises(UsageError, match="python:module:function"):
        load_samples("python:my_calibration", inputs=one)


def test_images_need_preprocessing_and_one_input_and_are_turned_for_nhwc_models():
    pytest.importorskip("sklearn")
    record = PreprocessingRecord(mean=[0.3], std=[0.4], size=(8, 8), channels=1)
    image = (InputInfo("input", ("N", 1, 8, 8), "float32"),)
    assert load_samples("digits", inputs=image, preprocessing=record, limit=5).feeds["input"].shape == (
        5,
        1,
        8,
        8,
    )
    turned = (InputInfo("input", ("N", 8, 8, 1), "float32"),)
    assert load_samples("digits", inputs=turned, preprocessing=record, limit=5).feeds["input"].shape == (
        5,
        8,
        8,
        1,
    )
    with pytest.raises(UsageError, match="--mean"):
        load_samples("digits", inputs=image)
    with pytest.raises(InputError, match="2 inputs"):
        load_samples("digits", inputs=TWO, preprocessing=record)


@pytest.mark.parametrize(("declared", "value"), [((), np.float32(2)), ((1,), np.ones(1, np.float32))])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_arrays_without_a_sample_axis_are_shared_by_all_samples(tmp_path, declared, value, batch):
    inputs = [InputInfo("x", (batch, 3), "float32"), InputInfo("scale", declared, "float32")]
    np.savez(tmp_path / "d.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3), scale=value)
    samples = load_samples(f"npz:{tmp_path / 'd.npz'}", inputs=inputs)
    assert samples.shared == {"scale"}
    assert len(samples) == 4
    part = samples.take(np.array([3, 1]))
    assert part.number(0) == 3
    assert [feeds["scale"].shape for feeds in part.batches(1)] == [value.shape] * 2
    both = join(part, samples.take(slice(0, 1)))
    assert len(both) == 3
    assert both.number(2) == 0
    assert both.feeds["scale"].shape == value.shape


def saved(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_labels_may_have_any_shape_and_several_names(tmp_path):
    one = (InputInfo("x", ("N", 2), "float32"),)
    arrays = {"x": np.ones((5, 2), np.float32), "labels": np.ones((5, 3, 3)), "labels.age": np.arange(5.0)}
    samples = load_samples(saved(tmp_path / "d.npz", **arrays), inputs=one)
    assert {name: a.shape for name, a in samples.label_arrays.items()} == {"labels": (5, 3, 3), "age": (5,)}
    part = join(samples.take(np.array([4])), samples.take(slice(0, 2)))
    assert part.further_labels["age"].tolist() == [4, 0, 1]
    with pytest.raises(InputError, match="single value"):
        load_samples(saved(tmp_path / "e.npz", x=arrays["x"], labels=np.float32(3)), inputs=one)


def test_samples_need_not_be_counted_by_the_first_axis(tmp_path):
    time_first = (InputInfo("x", ("T", "N", 2), "float32"), InputInfo("lengths", ("N",), "int64"))
    x = np.arange(7 * 5 * 2, dtype=np.float32).reshape(7, 5, 2)
    spec = saved(tmp_path / "d.npz", x=x, lengths=np.arange(5))
    samples = load_samples(DataOptions(spec, sample_axis={"x": 1}), inputs=time_first)
    assert len(samples) == 5
    part = samples.take(np.array([3, 1]))
    (feeds,) = part.batches(4, full=True)
    assert feeds["x"].shape == (7, 4, 2)
    np.testing.assert_array_equal(feeds["x"][:, :2], x[:, [3, 1]])
    assert feeds["lengths"].tolist() == [3, 1, 1, 1]
    with pytest.raises(InputError, match="different numbers of samples"):
        load_samples(spec, inputs=time_first)
    with pytest.raises(
        UsageError, match="--sample-axis names 'y', which is no input; the model has x, lengths"
    ):
        load_samples(DataOptions(spec, sample_axis={"y": 1}), inputs=time_first)
    with pytest.raises(InputError, match=r"lengths=1: the array in .* has 1 axes"):
        load_samples(DataOptions(spec, sample_axis={"lengths": 1}), inputs=time_first)


def test_an_input_can_be_said_to_be_shared(tmp_path):
    inputs = (InputInfo("x", ("N", 2), "float32"), InputInfo("size", ("K",), "int64"))
    spec = saved(tmp_path / "d.npz", x=np.ones((5, 2), np.float32), size=np.array([3, 4]))
    samples = load_samples(DataOptions(spec, shared=("size",)), inputs=inputs)
    assert [feeds["size"].tolist() for feeds in samples.batches(3)] == [[3, 4]] * 2
    with pytest.raises(UsageError, match="--shared names 'sise'"):
        load_samples(DataOptions(spec, shared=("sise",)), inputs=inputs)


def test_samples_may_differ_in_size(tmp_path):
    free = (InputInfo("x", ("N", "T"), "float32"),)
    lengths = [3, 3, 5, 3, 3, 3]
    arrays = {f"x.{i}": np.full(n, i) for i, n in enumerate(lengths)}
    samples = load_samples(saved(tmp_path / "d.npz", **arrays, labels=np.arange(6)), inputs=free)
    assert [feeds["x"].shape for feeds in samples.batches(2)] == [(2, 3), (1, 5), (2, 3), (1, 3)]
    assert list(samples.parts(2)) == [(0, 2), (2, 1), (3, 2), (5, 1)]
    part = samples.take(np.array([2, 5, 4]))
    assert [feeds["x"][:, 0].tolist() for feeds in part.batches(4)] == [[2.0], [5.0, 4.0]]
    assert len(join(part, samples)) == 9
    del arrays["x.1"]
    with pytest.raises(InputError, match=r"no x\.1"):
        load_samples(saved(tmp_path / "d.npz", **arrays), inputs=free)
    fixed = (InputInfo("x", ("N", 3), "float32"),)
    with pytest.raises(InputError, match=r"shape \[1, 5\], expected \[N, 3\]"):
        load_samples(saved(tmp_path / "d.npz", **arrays | {"x.1": arrays["x.0"]}), inputs=fixed)


def test_a_folder_of_arrays_is_read_when_it_is_used(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    np.save(tmp_path / "labels.npy", np.arange(5))
    samples = load_samples(f"npz:{tmp_path}", inputs=(InputInfo("x", ("N", 2), "float32"),))
    assert isinstance(samples.feeds["x"].base, np.memmap)
    assert samples.take(np.array([4])).feeds["x"].tolist() == [[8, 9]]


def test_what_a_function_of_ones_own_raises_is_told_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "my_broken.py").write_text(
        "import numpy as np\n"
        "def boom():\n    raise ValueError('disk gone')\n"
        "def late():\n    yield {'x': np.ones((1, 2))}\n    raise OSError('no more')\n"
        "def each():\n    for i in range(4):\n        yield {'x': np.full((1, i + 1), i), 'labels': np.array([i])}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    free = (InputInfo("x", ("N", "T"), "float64"),)
    with pytest.raises(InputError, match=r"boom failed in my_broken.py, line 3 .*: ValueError: disk gone"):
        load_samples("python:my_broken:boom", inputs=free)
    with pytest.raises(InputError, match=r"late failed in my_broken.py, line 6 .*: OSError: no more"):
        load_samples("python:my_broken:late", inputs=free)
    each = load_samples("python:my_broken:each", inputs=(InputInfo("x", ("N", "T"), "int64"),))
    assert [feeds["x"].shape for feeds in each.batches(8)] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert each.labels.tolist() == [0, 1, 2, 3]
