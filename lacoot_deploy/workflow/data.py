"""The samples that `--data` and its companions name, as inputs of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lacoot_deploy.data import DataOptions, Samples, load_samples
from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.splits import VAL_FRACTION
from lacoot_deploy.errors import UsageError
from lacoot_deploy.manifest import Manifest, PreprocessingRecord

if TYPE_CHECKING:
    import onnx


def samples_for(model: onnx.ModelProto, manifest: Manifest | None, options: DataOptions) -> Samples:
    """The samples that the options name, as inputs of the model.

    Raises:
        UsageError: The options do not make sense together.
        InputError: The data is missing or does not fit the model.
    """
    from lacoot_deploy.runtime.feeds import model_inputs

    return load_samples(
        options,
        inputs=model_inputs(model),
        preprocessing=_preprocessing(model, manifest, options),
        val_fraction=_val_fraction(manifest),
    )


def task_of(manifest: Manifest | None, options: DataOptions) -> TaskOptions:
    """What the user says about the task, and what the manifest does where the user says nothing."""
    known = manifest.task if manifest is not None else None
    return replace(options.task, recorded=None if known is None else known.choice)


def _val_fraction(manifest: Manifest | None) -> float:
    """The share of the training images that the model's own training held out for validation."""
    recipe = manifest.source.recipe if manifest is not None and manifest.source is not None else None
    value = (recipe or {}).get("val_fraction")
    return value if isinstance(value, float) and 0 < value < 1 else VAL_FRACTION


def _preprocessing(
    model: onnx.ModelProto, manifest: Manifest | None, options: DataOptions
) -> PreprocessingRecord | None:
    from lacoot_deploy.runtime.feeds import model_inputs

    given = (options.mean, options.std, options.size)
    recorded = manifest.preprocessing if manifest is not None else None
    if given == (None, None, None):
        return recorded
    mean = options.mean or (tuple(recorded.mean) if recorded is not None else None)
    std = options.std or (tuple(recorded.std) if recorded is not None else None)
    if mean is None or std is None:
        raise UsageError("Give --mean and --std together, on the 0..1 scale, one value or one per channel.")
    if len(mean) != len(std):
        raise UsageError(f"--mean has {len(mean)} values and --std has {len(std)}.")
    size = options.size or (recorded.size if recorded is not None else None)
    shape = model_inputs(model)[0].shape
    if size is None:
        fixed = [d for d in shape[2:4] if isinstance(d, int)]
        if len(shape) != 4 or len(fixed) != 2:
            raise UsageError("The model does not fix the image size: give --size.")
        size = (fixed[0], fixed[1])
    channels = recorded.channels if recorded is not None else max(len(mean), 3 if len(mean) != 1 else 1)
    if recorded is None and len(shape) == 4 and isinstance(shape[1], int) and shape[1] in (1, 3):
        channels = shape[1]
    return PreprocessingRecord(mean=list(mean), std=list(std), size=size, channels=channels)
