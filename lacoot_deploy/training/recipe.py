"""The recipe: every setting of a training run, from a TOML file and `--set key=value`, checked before work starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.cuts import CutSetting
from lacoot_deploy.training.methods.base import MethodSettings, RoundsSettings
from lacoot_deploy.training.methods.registry import METHODS, owners
from lacoot_deploy.transport.options import SlicedOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Recipe(BaseModel):
    """Settings of one training run; without a file it is the digits demo.

    Attributes:
        method: The training method, by its name in the registry; `lacoot` is cross-entropy plus lambda times the mean
            distance over blocks. Others train the network and then make its activations linear in rounds: `easier`,
            `nepenthe`, `tlc` and `layercollapse`.
        settings: Those of the method alone: a section of its name in the file, `[easier]`. Their bare names beside the
            other settings are read too.
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
        data: Image source (`digits`, `cifar10:PATH`, `fashion-mnist:PATH`, `imagefolder:PATH`), or one's own images and
            labels (`npz:PATH`, `python:module:function`).
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
        estimator: `sampled` (maximum over random directions) or `ascent` (maximised direction).
        p: Order of the Wasserstein distance.
        projections: Number of random directions.
        seed: Seed of weights, order, augmentation and directions.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        threads: Threads on the CPU; None to find the fastest number by trying, again when steps have become slow. On
            another number the sums of a run are rounded otherwise; a resumed run takes the number that it had.
        precision: `fp32`, or `bf16` for autocast.
        channels_last: Memory format of convolutional activations; the faster one on most devices.
        compile: Use `torch.compile`.
        measure_samples: Validation images on which the distances of the manifest are measured.
        max_drop: Accuracy in points that the recommended plan may cost on validation data; a method of rounds stops
            where it is exceeded and keeps the last good network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = "lacoot"
    settings: SerializeAsAny[MethodSettings]
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
    estimator: Literal["sampled", "ascent"] = "sampled"
    p: float = Field(default=2.0, ge=1)
    projections: int = Field(default=50, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    measure_samples: int = Field(default=512, ge=2)
    max_drop: float = Field(default=1.0, ge=0)

    if TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            """As `model_validate`: the bare names of a method's settings are taken too."""

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, data: Any) -> Any:
        """The settings of the method, from its section and from bare names, which win; other sections may stand by."""
        if not isinstance(data, Mapping):
            return data
        method = data.get("method", "lacoot")
        if not isinstance(method, str) or method not in METHODS:
            raise PydanticCustomError(
                "method", "Input should be " + " or ".join(", ".join(map(repr, METHODS)).rsplit(", ", 1))
            )
        section = data.get(method, data.get("settings", {}))
        if isinstance(section, MethodSettings):
            section = section.model_dump()
        if not isinstance(section, Mapping):
            raise ValueError(f"{method} is a section of settings, not {section!r}")
        own, rest = dict(section), {}
        for name, value in data.items():
            if name in METHODS[method].settings.model_fields:
                own[name] = value
            elif (others := owners(name)) and method not in others:
                _refuse_foreign(name, value, others, method)
            elif name not in METHODS and name != "settings":
                rest[name] = value
            elif name != method and isinstance(value, Mapping) and name in METHODS:
                _checked(name, dict(value))
        if "method" not in data and (lost := [name for name in METHODS if name in data and name != method]):
            raise ValueError(f"there is a section [{lost[0]}] but no method; set method = {lost[0]!r}")
        return rest | {"settings": _checked(method, own)}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        if self.schedule == "step" and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        if self.warmup > self.epochs and (
            self.epochs or self.warmup != type(self).model_fields["warmup"].default
        ):
            raise ValueError(f"warmup {self.warmup} is longer than the training of {self.epochs} epochs")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.epochs == 0:
            if not isinstance(self.settings, RoundsSettings) or self.weights is None:
                raise ValueError("epochs = 0 is for a method of rounds that begins with given weights")
            if self.settings.round_epochs is None:
                raise ValueError("epochs = 0 leaves open how long a round is; set round_epochs")
        return self

    @model_serializer(mode="wrap")
    def _with_section(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The method's settings under its name, as in a file."""
        data: dict[str, Any] = handler(self)
        return {self.method if name == "settings" else name: value for name, value in data.items()}

    @property
    def distance(self) -> SlicedOptions:
        """How distances are estimated."""
        return SlicedOptions(self.p, self.estimator, self.projections)

    def flat(self) -> dict[str, Any]:
        """Every setting by its bare name, as JSON has it."""
        # As JSON, so that a recipe equals itself read back from a file (lists for tuples).
        data: dict[str, Any] = self.model_dump(mode="json")
        own: dict[str, Any] = data.pop(self.method)
        return data | own

    def differing(self, other: Recipe, *, ignore: frozenset[str] = frozenset()) -> list[str]:
        """Names of the settings in which two recipes differ, in the order of the fields."""
        ours, theirs = self.flat(), other.flat()
        names = ["method", *ours, *(name for name in theirs if name not in ours)]
        return [n for n in dict.fromkeys(names) if n not in ignore and ours.get(n) != theirs.get(n)]


def _checked(method: str, section: dict[str, Any]) -> MethodSettings:
    """A method's settings; what is wrong with one is said with its name."""
    kind = METHODS[method].settings
    try:
        return kind.model_validate(section)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where, said = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise PydanticCustomError(
                "unknown_setting", f"{where!r} is no setting of {method}, which has {known}"
            ) from None
        raise ValueError(f"{where} = {first['input']!r}: {said}" if where else said) from None


def _refuse_foreign(name: str, value: Any, methods: list[str], method: str) -> None:
    """Refuse a setting of other methods that says something; a recipe read back may name all of them."""
    silent = 0.0 if name == "penalty" else METHODS[methods[0]].settings.model_fields[name].default
    if (tuple(value) if isinstance(value, list) else value) == silent:
        return
    owner = " and ".join(methods) if len(methods) < 4 else "the methods of rounds"
    raise ValueError(f"{name} belongs to {owner}, and the method is {method}")


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
        if table in METHODS:
            settings.pop(inner[0], None)  # the bare name, which would win
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
        unknown = [str(p["loc"][0]) for p in problems if p["type"] == "extra_forbidden"]
        if unknown:
            names = ", ".join(map(repr, unknown))
            entry = METHODS[settings.get("method", "lacoot")].settings
            known = ", ".join([*(n for n in Recipe.model_fields if n != "settings"), *entry.model_fields])
            raise UsageError(f"{origin}: {names} is no setting; the settings are {known}.") from None
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "unknown_setting":
            raise UsageError(f"{origin}: {message}.") from None
        if first["type"] == "method":
            where, first["input"] = "method", settings["method"]
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
