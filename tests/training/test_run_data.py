"""Training on images of one's own: an npz file, or a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lacoot_deploy.data import load_images
from lacoot_deploy.errors import InputError
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run_data import load_data, own_images


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_images("digits", "train")


def test_bytes_from_a_file_are_images_like_any_others(digits: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", pictures=digits.images[:200], labels=digits.labels[:200])
    data = load_data(Recipe(data=f"npz:{tmp_path / 'd.npz'}", val_fraction=0.25))
    assert data.train.images.dtype == np.uint8
    assert len(data.train) + len(data.val) == 200
    assert abs(len(data.val) - 50) <= 5
    assert data.sizes == {"classes": 10, "channels": 1}
    assert data.preprocessing.std[0] < 1
    assert set(data.val.labels) == set(range(10)), "of every class alike"


def test_floats_from_a_function_are_taken_as_they_are(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "d.npz", x=digits.images[:60, 0] / 16 - 3.5, y=digits.labels[:60])
    (tmp_path / "own_digits.py").write_text(
        "import numpy as np, pathlib\n"
        "def data():\n    f = np.load(pathlib.Path(__file__).parent / 'd.npz')\n    return f['x'], f['y']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = load_data(Recipe(data="python:own_digits:data"))
    expected = data.val.images[:4]
    assert expected.min() < -3
    assert np.allclose(data.example().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 1, 2, 2), np.uint8)}, "one array of images and 'labels'"),
        ({"x": np.zeros((4, 3)), "labels": np.zeros(4)}, r"'x' in .* is float64 \[4, 3\]"),
        ({"x": np.zeros((4, 1, 2, 2), np.int32), "labels": np.zeros(4)}, "takes bytes or floats"),
        ({"x": np.full((4, 1, 2, 2), np.nan), "labels": np.zeros(4)}, "not finite"),
        ({"x": np.zeros((4, 1, 2, 2)), "labels": np.full(4, -1)}, "one whole number from 0 up"),
        ({"x": np.zeros((4, 1, 2, 2)), "labels": np.zeros((4, 2))}, "one whole number from 0 up"),
    ],
)
def test_what_is_no_images_with_classes_is_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=message):
        own_images(f"npz:{tmp_path / 'd.npz'}", 0.5)
