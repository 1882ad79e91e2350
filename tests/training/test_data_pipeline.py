from __future__ import annotations

import numpy as np
import pytest
import torch

from lacoot_deploy.data import ImageSet, normalise, preprocessing_of
from lacoot_deploy.errors import InputError
from lacoot_deploy.training.data_pipeline import (
    DeviceImages,
    batch_indices,
    epoch_order,
    pieces_of,
    seeded,
)
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run_data import recipe_images


def images(count: int = 12, *, channels: int = 3, side: int = 8) -> ImageSet:
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    return ImageSet(data, np.arange(count) % 3, ("a", "b", "c"))


def pipeline(data: ImageSet, **options: object) -> DeviceImages:
    return DeviceImages(data, preprocessing_of(data.images), device=torch.device("cpu"), **options)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_normalised_as_the_onnx_side_does_it(channels_last: bool) -> None:
    data = images()
    batch, labels = pipeline(data, channels_last=channels_last).batch(torch.tensor([3, 1]))
    expected = normalise(data.images[[3, 1]], preprocessing_of(data.images))
    assert np.allclose(batch.numpy(), expected, atol=1e-6)
    assert labels.tolist() == [0, 1]
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.is_contiguous(memory_format=order)


def test_augmentation_flips_and_shifts_each_image_by_itself() -> None:
    data = images(64)
    source = pipeline(data)
    plain, _ = source.batch(torch.arange(64))
    black = (0 * source.scale + source.shift).expand(1, 3, 8, 8)
    varied, labels = source.augmented(torch.arange(64), ("flip", "crop"), torch.Generator().manual_seed(0))
    assert labels.tolist() == data.labels.tolist()
    seen = set()
    for image, result in zip(plain, varied, strict=True):
        padded = black[0].repeat(1, 2, 2)
        padded[:, 4:12, 4:12] = image
        matches = {
            (flip, top, left)
            for flip in (False, True)
            for top in range(9)
            for left in range(9)
            if torch.allclose(
                (
                    padded[:, top : top + 8, left : left + 8].flip(2)
                    if flip
                    else padded[:, top : top + 8, left : left + 8]
                ),
                result,
                atol=1e-5,
            )
        }
        assert matches
        seen |= matches
    assert {flip for flip, _, _ in seen} == {False, True}
    assert len(seen) > 30


def test_flip_alone_gives_the_image_or_its_mirror() -> None:
    source = pipeline(images(32))
    plain, _ = source.batch(torch.arange(32))
    varied, _ = source.augmented(torch.arange(32), ("flip",), torch.Generator().manual_seed(1))
    flipped = [torch.equal(v, p.flip(2)) for p, v in zip(plain, varied, strict=True)]
    same = [torch.equal(v, p) for p, v in zip(plain, varied, strict=True)]
    assert all(f or s for f, s in zip(flipped, same, strict=True))
    assert 5 < sum(flipped) < 27


def test_the_same_seed_draws_the_same_and_another_epoch_another() -> None:
    source = pipeline(images())
    draw = [
        source.augmented(torch.arange(12), ("flip", "crop"), seeded(0, epoch, 1))[0] for epoch in (0, 0, 1)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert torch.equal(epoch_order(20, seed=1, epoch=2), epoch_order(20, seed=1, epoch=2))
    assert not torch.equal(epoch_order(20, seed=1, epoch=2), epoch_order(20, seed=1, epoch=3))


def test_validation_passes_every_image_once_in_order() -> None:
    source = pipeline(images(10))
    labels = [label for _, part in source.in_order(4) for label in part.tolist()]
    assert labels == [i % 3 for i in range(10)]
    assert [len(part) for _, part in source.in_order(4)] == [4, 4, 2]


def test_images_are_resized_on_the_device() -> None:
    data = images(side=8)
    record = preprocessing_of(data.images).model_copy(update={"size": (16, 16)})
    batch, _ = DeviceImages(data, record, device=torch.device("cpu")).batch(torch.arange(2))
    assert batch.shape == (2, 3, 16, 16)


def test_a_rest_too_small_for_every_process_is_dropped() -> None:
    assert [len(b) for b in batch_indices(torch.arange(10), 4)] == [4, 4, 2]
    assert [len(b) for b in batch_indices(torch.arange(9), 4)] == [4, 4]
    assert [len(b) for b in batch_indices(torch.arange(10), 4, pieces=2)] == [4, 4]


def test_processes_make_together_what_one_makes_alone() -> None:
    source = pipeline(images())
    whole, _ = source.augmented(torch.arange(11), ("flip", "crop"), seeded(0, 0, 1))
    shares = pieces_of(11, shares=2, parts=2)
    assert [[piece.stop - piece.start for piece in share] for share in shares] == [[3, 3], [3, 2]]
    parts = [
        source.augmented(torch.arange(11), ("flip", "crop"), seeded(0, 0, 1), piece)[0]
        for share in shares
        for piece in share
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        pipeline(images()).__class__(images(0), preprocessing_of(images().images), device=torch.device("cpu"))


def test_a_limit_takes_training_and_validation_images_in_proportion() -> None:
    whole, held = recipe_images(Recipe(val_fraction=0.2))
    few, few_held = recipe_images(Recipe(val_fraction=0.2, limit=400))
    assert len(few) == 400
    assert len(few_held) == round(400 / len(whole) * len(held))
    assert set(few.labels) == set(whole.labels), "drawn over all classes"
    known = {image.tobytes() for image in whole.images}
    assert all(image.tobytes() in known for image in few.images)
    again, _ = recipe_images(Recipe(val_fraction=0.2, limit=400))
    assert np.array_equal(again.images, few.images)
    everything, _ = recipe_images(Recipe(val_fraction=0.2, limit=10**6))
    assert len(everything) == len(whole)
