"""The --data grammar against a model's inputs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lacoot_deploy.data import InputInfo, load_samples
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
            {"ids": np.zeros((6, 4), int), "mask": np.ones((6, 4)), "labels": np.zeros((6, 2))},
            "one integer per sample",
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
