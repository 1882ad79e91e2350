"""The recipe: every setting of a training run, from a TOML file and `--set key=value`, checked before work starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lacoot_deploy.errors import InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class CutSetting(BaseModel):
    """What a plan leaves of one block; the values of the repair are weights and travel with them.

    Attributes:
        block: Path of the module.
        form: `bypass` leaves nothing of it, `shortcut` its skip path.
        repair: Kind of the map in its place.
        axis: Channel axis of the map.
        rank: Number of axes of the block's value.
        channels: Channels of the map; 0 for none.
        low: The value is clipped from below at this; None for not at all.
        high: And from above at this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    block: str
    form: Literal["bypass", "shortcut"] = "bypass"
    repair: Literal["none", "affine", "linear"] = "none"
    axis: int = Field(default=1, ge=0)
    rank: int = Field(default=4, ge=1)
    channels: int = Field(default=0, ge=0)
    low: float | None = None
    high: float | None = None


ROUNDS = ("easier", "nepenthe", "tlc", "layercollapse")
"""Methods that make activations linear in rounds."""

BELONGING: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            *("penalty", "penalty_schedule", "penalty_initial", "penalty_start", "penalty_end"),
            *("penalty_stride", "penalty_blocks"),
        ),
        ("lacoot",),
    ),
    (("rounds", "round_epochs", "round_lr", "only", "move_padding", "merge"), ROUNDS),
    (("per_round",), ("easier", "tlc", "layercollapse")),
    (("zeta", "prune_limit"), ("nepenthe",)),
    (("slope_penalty", "slope_rate", "slope_tolerance", "slope_layers"), ("layercollapse",)),
)
"""Settings that only some methods know."""


class Recipe(BaseModel):
    """Settings of one training run; without a file it is the digits demo.

    Attributes:
        method: The training method; `lacoot` is cross-entropy plus lambda times the mean distance over blocks.
            The others train the network and then make its activations linear in rounds: `easier`, `nepenthe`, `tlc`
            and `layercollapse`.
        model: A name in the registry, `torchvision:NAME`, `timm:NAME` or `python:module:function`.
        model_args: Keyword arguments for the model's constructor.
        linear: Activations that are identities from the start: the control of the methods that make them so.
        without: Blocks replaced by what their removal leaves (identity, or the shortcut of a strided block) before
            training: the equally shallow network from scratch.
        cuts: Blocks replaced by what a plan leaves of them, repairs as layers; `train --heal` sets it.
        refits: Blocks whose last linear layer has taken in the norm behind it, which `train --heal` does where the plan
            has refitted it.
        teacher: Run folder or checkpoint whose network's answers are learned beside the labels; None for none.
        distill: Share of the teacher in the loss; the labels have the rest.
        temperature: By which both networks' scores are divided before they are compared.
        weights: Local file of weights to start from (safetensors or a weights-only checkpoint).
        freeze: Module paths whose parameters and normalisation statistics stay as they are.
        data: Image source (`digits`, `cifar10:PATH`, `fashion-mnist:PATH`, `imagefolder:PATH`).
        size: Side in pixels that images are resized to; None keeps their own size.
        val_fraction: Share of the training images carved out for validation.
        limit: Train on that many images, drawn at random, and validate on as many in proportion; None for all.
        augment: Augmentations of training images: `flip` (left-right) and `crop` (4 pixels, zero padded).
        epochs: Passes over the training images; those of the dense network for a method of rounds, which takes it ready
            from `weights` with 0.
        batch_size: Images per optimiser step, over all processes and accumulated parts together.
        accumulate: Number of parts a batch is split into, one after the other, to save memory.
        optimizer: `sgd` (momentum) or `adamw`.
        lr: Peak learning rate.
        momentum: Of sgd.
        nesterov: Nesterov momentum, for sgd.
        weight_decay: Decay of every weight.
        schedule: `step` (times gamma at each milestone) or `cosine` (to 0).
        milestones: Epochs at which the learning rate drops, for `step`.
        gamma: Factor of each drop.
        warmup: Epochs of linear warm-up; fractions allowed.
        label_smoothing: Share of the target spread over all classes.
        clip: Largest gradient norm; None for no clipping.
        penalty: lambda, the weight of the penalty; 0 trains plainly, whatever the settings below say.
        penalty_schedule: `constant`, or `linear` or `cosine` from the initial weight to lambda between start and end.
        penalty_initial: That initial weight: 0 to let the penalty rise, more than lambda to let it fall.
        penalty_start: Share of the training at which the penalty sets in.
        penalty_end: Share of the training at which the penalty reaches lambda.
        penalty_stride: n > 1 looks only at every n-th row and column of activations.
        penalty_blocks: Names of the blocks to penalise; empty for all that a bypass can remove.
        estimator: `sampled` (maximum over random directions) or `ascent` (maximised direction).
        p: Order of the Wasserstein distance.
        projections: Number of random directions.
        seed: Seed of weights, order, augmentation and directions.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        precision: `fp32`, or `bf16` for autocast.
        channels_last: Memory format of convolutional activations; the faster one on most devices.
        compile: Use `torch.compile`.
        measure_samples: Validation images on which the distances of the manifest are measured.
        max_drop: Accuracy in points that the recommended plan may cost on validation data; a method of rounds stops
            where it is exceeded and keeps the last good network.
        rounds: Most rounds after the dense training; None for the method's own number (9 for nepenthe and
            layercollapse, as many as there are activations for the others).
        round_epochs: Epochs of each; None for as many as the dense training has.
        round_lr: Peak learning rate of each; None for `lr`.
        per_round: Activations that one round makes linear (easier, tlc, layercollapse).
        only: Activations that may go; empty for all that can.
        move_padding: Move the padding of a convolution to the one before it when the activation between them goes, so
            that they merge exactly.
        merge: Which linear neighbours become one in the exported file: those where it is `cheaper`, `always`, `never`.
        zeta: Share of the non-zero weights that a round prunes (nepenthe).
        prune_limit: Largest share of one layer's non-zero weights that a round prunes (nepenthe).
        slope_penalty: Weight of the sum of (1 - slope)^2 (layercollapse).
        slope_rate: Factor on the learning rate of slopes (layercollapse), which AdamW moves by no more than the rate in
            a step.
        slope_tolerance: An activation goes when its slope is nearer to 1 than this (layercollapse).
        slope_layers: Activations that get a slope: those between linear layers (`fc`), or between convolutions too
            (`all`, as in Layer Folding).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["lacoot", "easier", "nepenthe", "tlc", "layercollapse"] = "lacoot"
    model: str = "digits-resnet"
    model_args: dict[str, Any] = Field(default_factory=dict)
    linear: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    cuts: tuple[CutSetting, ...] = ()
    refits: tuple[str, ...] = ()
    teacher: str | None = None
    distill: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    weights: str | None = None
    freeze: tuple[str, ...] = ()
    data: str = "digits"
    size: int | None = Field(default=None, ge=1)
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    limit: int | None = Field(default=None, ge=2)
    augment: tuple[Literal["flip", "crop"], ...] = ()
    epochs: int = Field(default=25, ge=0)
    batch_size: int = Field(default=64, ge=2)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["step", "cosine"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip: float | None = Field(default=None, gt=0)
    penalty: float = Field(default=3.0, ge=0)
    penalty_schedule: Literal["constant", "linear", "cosine"] = "constant"
    penalty_initial: float = Field(default=0.0, ge=0)
    penalty_start: float = Field(default=0.0, ge=0, le=1)
    penalty_end: float = Field(default=1.0, gt=0, le=1)
    penalty_stride: int = Field(default=1, ge=1)
    penalty_blocks: tuple[str, ...] = ()
    estimator: Literal["sampled", "ascent"] = "sampled"
    p: float = Field(default=2.0, ge=1)
    projections: int = Field(default=50, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    measure_samples: int = Field(default=512, ge=2)
    max_drop: float = Field(default=1.0, ge=0)
    rounds: int | None = Field(default=None, ge=1)
    round_epochs: int | None = Field(default=None, ge=1)
    round_lr: float | None = Field(default=None, gt=0)
    per_round: int = Field(default=1, ge=1)
    only: tuple[str, ...] = ()
    move_padding: bool = False
    merge: Literal["always", "cheaper", "never"] = "cheaper"
    zeta: float = Field(default=0.5, gt=0, lt=1)
    prune_limit: float = Field(default=1.0, gt=0, le=1)
    slope_penalty: float = Field(default=0.1, gt=0)
    slope_rate: float = Field(default=1.0, gt=0)
    slope_tolerance: float = Field(default=0.05, gt=0, lt=1)
    slope_layers: Literal["fc", "all"] = "fc"

    @model_validator(mode="before")
    @classmethod
    def _penalty_of_lacoot(cls, data: Any) -> Any:
        """Without a word about it only lacoot has a penalty."""
        if isinstance(data, dict) and data.get("method", "lacoot") != "lacoot":
            return {"penalty": 0.0} | data
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        if self.penalty_initial > 0 and self.penalty_schedule == "constant":
            raise ValueError(
                "penalty_initial needs penalty_schedule linear or cosine, to go from it to the penalty"
            )
        if self.penalty_end < self.penalty_start:
            raise ValueError(f"penalty_end {self.penalty_end} lies before penalty_start {self.penalty_start}")
        if self.schedule == "step" and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        if self.warmup > self.epochs and (
            self.epochs or self.warmup != type(self).model_fields["warmup"].default
        ):
            raise ValueError(f"warmup {self.warmup} is longer than the training of {self.epochs} epochs")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.epochs == 0 and (self.method == "lacoot" or self.weights is None):
            raise ValueError("epochs = 0 is for a method of rounds that begins with given weights")
        if self.epochs == 0 and self.round_epochs is None:
            raise ValueError("epochs = 0 leaves open how long a round is; set round_epochs")
        for names, methods in BELONGING:
            for name in names:
                if self.method not in methods and self._set(name):
                    owner = " and ".join(methods) if len(methods) < 4 else "the methods of rounds"
                    raise ValueError(f"{name} belongs to {owner}, and the method is {self.method}")
        return self

    def _set(self, name: str) -> bool:
        """Whether a setting of some methods is not as it is by default; a recipe read back names all of them."""
        value = getattr(self, name)
        return bool(value != (0.0 if name == "penalty" else type(self).model_fields[name].default))

    def differing(self, other: Recipe, *, ignore: frozenset[str] = frozenset()) -> list[str]:
        """Names of the settings in which two recipes differ, in the order of the fields."""
        # As JSON, so that a recipe equals itself read back from a file (lists for tuples).
        ours, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [name for name in ours if name not in ignore and ours[name] != theirs[name]]


DEMO: dict[str, Any] = {"epochs": 50, "penalty": 5.0, "val_fraction": 0.2}
"""What the digits demo sets beside the defaults: so few images need a larger share to choose and confirm by."""


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a TOML file (the digits demo without one) with `key=value` overrides applied on top.

    Values of overrides are read as TOML (`0.5`, `true`, `["layer1.1"]`); what is no TOML value is taken as text, so
    `data=cifar10:/data/cifar10.zip` needs no quotes. `model_args.NAME=value` reaches into a table.

    Raises:
        InputError: The file is missing or is no TOML, or a value does not fit.
        UsageError: An override is not `key=value`, or a key does not exist.
    """
    settings: dict[str, Any] = dict(DEMO) if path is None else _read(Path(path))
    origin = "The default recipe" if path is None else str(path)
    given: dict[str, Any] = {}
    apply_overrides(given, overrides)
    if path is None and given.get("method", "lacoot") != "lacoot":
        del settings["penalty"]  # the demo's, which is not for the others
    apply_overrides(settings, overrides)
    return check_recipe(settings, origin=origin)


def apply_overrides(settings: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put `key=value` overrides into settings, as `load_recipe` describes them.

    Raises:
        UsageError: An override is not `key=value`.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"{text!r} is no setting; give key=value, such as epochs=10.")
        table, *inner = key.split(".")
        if not inner:
            settings[table] = _value(value)
            continue
        held = settings.setdefault(table, {})
        if not isinstance(held, dict) or len(inner) > 1:
            raise UsageError(f"{key!r} does not name a setting; {table} holds no {'.'.join(inner)!r}.")
        held[inner[0]] = _value(value)


def check_recipe(settings: dict[str, Any], *, origin: str) -> Recipe:
    """Settings as a recipe.

    Raises:
        UsageError: A key does not exist; the message lists those that do.
        InputError: A value does not fit.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        known = ", ".join(Recipe.model_fields)
        unknown = [str(p["loc"][0]) for p in problems if p["type"] == "extra_forbidden"]
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise UsageError(f"{origin}: {names} is no setting; the settings are {known}.") from None
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if not where:
            raise InputError(f"{origin}: {message}.") from None
        raise InputError(f"{origin}: {where} = {first['input']!r}: {message}.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The recipe {path} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The recipe {path} is no TOML: {error}.") from None


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    # A line break in the text would smuggle in further keys.
    return parsed["value"] if len(parsed) == 1 else text.strip()
