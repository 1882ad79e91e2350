"""What every conversion shares: the job it is given, what it gives back, and how it says that it cannot be done."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lacoot_deploy.errors import InputError

if TYPE_CHECKING:
    from lacoot_deploy.data.types import Samples
    from lacoot_deploy.shipping.targets import Target
    from lacoot_deploy.shipping.trials import Trials


class CannotConvertError(InputError):
    """A conversion that this model does not allow; the message is the reason, for the account."""


@dataclass(frozen=True)
class Job:
    """What a conversion works on.

    Attributes:
        path: The file to convert.
        folder: An empty folder for what it writes.
        calibration: Samples that ranges are taken from.
        trials: Runs files on the samples that choose.
        target: The device.
        max_drop: Most that the score may drop on the choosing samples, against the dense float32 file; None for no
            limit.
        batch: The size that a free first axis is fixed to.
        opset: The version of ONNX's own operators to convert to, for `opset`.
    """

    path: Path
    folder: Path
    calibration: Samples
    trials: Trials
    target: Target
    max_drop: float | None = None
    batch: int = 1
    opset: int | None = None


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        path: The file.
        settings: How it was done, for the manifest.
        kept_float: What stays in float32: nodes of int8, operators of float16.
        beside: Further files that belong to it, such as a list of operators.
        notes: What a reader should know.
    """

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    kept_float: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


class Conversion(ABC):
    """One way to change a file: one in each module of this room, and one entry in the registry.

    Attributes:
        name: As `--convert` knows it.
        summary: One line for the help text.
        suffix: Of the file that it writes.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    suffix: ClassVar[str] = ".onnx"

    @abstractmethod
    def convert(self, job: Job) -> Converted:
        """Convert the file of the job.

        Raises:
            CannotConvertError: The model does not allow it; the message says why.
        """


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Run a library's tool: what it prints and logs is swallowed, what it raises becomes a reason.

    Raises:
        CannotConvertError: The tool failed.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # these tools raise whatever their own libraries do
        text = " ".join(str(error).split()) or type(error).__name__
        raise CannotConvertError(f"{what} failed: {text[:300]}") from error
    finally:
        logging.disable(level)
