"""Scores equal those of well-known implementations."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from lacoot_deploy.data.types import Samples
from lacoot_deploy.tasks import Judge, TaskOptions

RANDOM = np.random.default_rng(1)


def score(task, outputs, labels=None, further=None, inputs=None):
    count = len(next(iter(outputs.values())))
    feeds = {"x": np.zeros((count, 1), np.float32), **(inputs or {})}
    judge = Judge.of(outputs, Samples(feeds, labels, further_labels=further or {}), TaskOptions(task))
    return judge.dense_score().value


def test_several_answers_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics")
    values = np.round(RANDOM.standard_normal((200, 4)), 1)
    labels = (values + RANDOM.standard_normal((200, 4)) > 0.3).astype(int)
    y = {"y": values}
    assert score("multilabel", y, labels) == pytest.approx(100 * np.mean((values > 0) == labels))
    f1 = metrics.f1_score(labels, values > 0, average="macro")
    assert score("multilabel:F1", y, labels) == pytest.approx(100 * f1)
    precision = metrics.average_precision_score(labels, values, average="macro")
    assert score("multilabel:average precision", y, labels) == pytest.approx(100 * precision)


def test_numbers_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics")
    truth = RANDOM.standard_normal((200, 3)) * [1, 5, 0.1] + [0, 10, 3]
    values = truth + RANDOM.standard_normal((200, 3)) * [0.3, 1, 0.2]
    for name, function, scale in (
        ("R2", metrics.r2_score, 100),
        ("MSE", metrics.mean_squared_error, 1),
        ("MAE", metrics.mean_absolute_error, 1),
    ):
        assert score(f"regression:{name}", {"y": values}, truth) == pytest.approx(
            scale * function(truth, values)
        )


def test_classes_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics")
    values, labels = RANDOM.standard_normal((300, 8)), RANDOM.integers(0, 8, 300)
    y = {"y": values}
    assert score("classification", y, labels) == pytest.approx(
        100 * metrics.accuracy_score(labels, values.argmax(axis=1))
    )
    for k in (3, 5):
        expected = metrics.top_k_accuracy_score(labels, values, k=k)
        assert score(f"classification:top-{k}", y, labels) == pytest.approx(100 * expected)


def test_maps_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics")
    values, labels = RANDOM.standard_normal((20, 4, 6, 5)), RANDOM.integers(0, 4, (20, 6, 5))
    labels[0, 0] = 255
    real = labels != 255
    expected = metrics.jaccard_score(labels[real], values.argmax(axis=1)[real], average="macro")
    assert score("segmentation", {"y": values}, labels) == pytest.approx(100 * expected)
    assert score("segmentation", {"y": values.transpose(0, 2, 3, 1)}, labels) == pytest.approx(100 * expected)


def test_a_map_is_brought_to_the_labels_size_as_torch_does():
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("sklearn.metrics")
    values, labels = RANDOM.standard_normal((20, 3, 4, 5)), RANDOM.integers(0, 3, (20, 9, 10))
    large = torch.nn.functional.interpolate(
        torch.tensor(values), size=(9, 10), mode="bilinear", align_corners=False
    )
    expected = metrics.jaccard_score(labels.ravel(), large.argmax(1).numpy().ravel(), average="macro")
    assert score("segmentation", {"y": values}, labels) == pytest.approx(100 * expected)


def test_tokens_are_scored_as_torch_does():
    torch = pytest.importorskip("torch")
    values, ids = RANDOM.standard_normal((20, 7, 11)), RANDOM.integers(0, 11, (20, 7))
    mask = np.arange(7)[None] < RANDOM.integers(3, 8, 20)[:, None]
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    wanted = torch.tensor(np.where(mask, ids, -100)[:, 1:])
    entropy = torch.nn.functional.cross_entropy(
        torch.tensor(values)[:, :-1].reshape(-1, 11), wanted.reshape(-1)
    )
    # Labels that are the input's own tokens stand for the next token, as language models are given them.
    assert score("tokens", {"y": values}, ids, inputs=inputs) == pytest.approx(float(entropy.exp()))
    assert score("tokens:cross-entropy", {"y": values}, ids, inputs=inputs) == pytest.approx(float(entropy))
    tags = RANDOM.integers(0, 11, (20, 7))
    expected = 100 * np.mean((values.argmax(axis=2) == tags)[mask])
    assert score("tokens", {"y": values}, tags, inputs=inputs) == pytest.approx(expected)


def test_pairs_of_vectors_are_scored_as_scipy_does():
    stats = pytest.importorskip("scipy.stats")
    vectors = RANDOM.standard_normal((60, 8))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.round(RANDOM.random(30), 1)
    order = RANDOM.permutation(60)
    labels = {"pair": np.repeat(np.arange(30), 2)[order], "score": np.repeat(scores, 2)[order]}
    expected = stats.spearmanr((unit[0::2] * unit[1::2]).sum(axis=1), scores).statistic
    assert score("embedding", {"y": vectors[order]}, None, labels) == pytest.approx(100 * expected)


def detections(images, most, classes):
    """Random boxes of every class, some of them near true ones, as a detector's rows and as labels."""
    corner = RANDOM.uniform(0, 80, (images, 4, 2))
    true = np.concatenate([corner, corner + RANDOM.uniform(5, 40, (images, 4, 2))], axis=2)
    true_classes = RANDOM.integers(-1, classes, (images, 4))
    near = np.repeat(true, most // 4, axis=1) + RANDOM.normal(0, 4, (images, most, 4))
    near[:, :, 2:] = np.maximum(near[:, :, 2:], near[:, :, :2] + 1)
    guess = np.where(RANDOM.random((images, most)) < 0.7, np.repeat(true_classes, most // 4, axis=1), 0)
    rows = np.concatenate([near, RANDOM.random((images, most, 1)), np.maximum(guess, 0)[:, :, None]], axis=2)
    return rows, {"boxes": true, "classes": true_classes}


def test_detections_are_scored_as_coco_does():
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    rows, labels = detections(40, 12, 3)
    truth, found = coco.COCO(), []
    truth.dataset = {
        "images": [{"id": i} for i in range(len(rows))],
        "categories": [{"id": c} for c in range(3)],
        "annotations": [],
    }
    for i in range(len(rows)):
        for box, c in zip(labels["boxes"][i], labels["classes"][i], strict=True):
            if c >= 0:
                size = box[2:] - box[:2]
                truth.dataset["annotations"].append(
                    {
                        "id": len(truth.dataset["annotations"]) + 1,
                        "image_id": i,
                        "category_id": int(c),
                        "bbox": [*box[:2], *size],
                        "area": float(size.prod()),
                        "iscrowd": 0,
                    }
                )
        found += [[i, *row[:2], *(row[2:4] - row[:2]), row[4], row[5]] for row in rows[i]]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judged = evaluation.COCOeval(truth, truth.loadRes(np.array(found)), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    expected = 100 * judged.stats
    assert 5 < expected[0] < 60
    for name, value in (("mAP", expected[0]), ("mAP50", expected[1]), ("mAP75", expected[2])):
        assert score(f"detection:{name}", {"boxes": rows}, None, labels) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("layout", ["apart", "grid", "objectness", "listed"])
def test_every_layout_of_boxes_gives_the_same_score(layout):
    rows, labels = detections(20, 12, 3)
    # Boxes far from one another, so that suppression takes none out.
    shift = 1000.0 * np.arange(12)[None, :, None]
    shifted = rows[:, :, :4] + shift
    labels = {**labels, "boxes": labels["boxes"] + shift[:, ::3]}
    one_hot = rows[:, :, 4:5] * (rows[:, :, 5:6] == np.arange(3))
    centre = (shifted[:, :, :2] + shifted[:, :, 2:]) / 2
    centred = np.concatenate([centre, shifted[:, :, 2:] - shifted[:, :, :2]], axis=2)
    expected = score("detection", {"y": np.concatenate([shifted, rows[:, :, 4:]], axis=2)}, None, labels)
    outputs = {
        "apart": {"boxes": shifted, "scores": one_hot},
        "grid": {"y": np.concatenate([centred, one_hot], axis=2).transpose(0, 2, 1)},
        "objectness": {"y": np.concatenate([centred, np.ones((20, 12, 1)), one_hot], axis=2)},
        "listed": {"b": shifted, "s": rows[:, :, 4], "c": rows[:, :, 5]},
    }[layout]
    if layout in ("grid", "objectness"):  # real ones have thousands of boxes
        outputs = {
            "y": np.concatenate([outputs["y"]] + [outputs["y"] * 0] * 2, axis=2 if layout == "grid" else 1)
        }
    assert score("detection", outputs, None, labels) == pytest.approx(expected)
