"""What every record of ours shares: unknown fields survive, JSON is canonical, versions are checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from lacoot_deploy.errors import InputError
from lacoot_deploy.jsontext import parse_json

SCHEMA_VERSION = 1


class Record(BaseModel):
    """Base of all records: unknown fields are kept, so that an older tool does not lose a newer one's notes."""

    # Built when first used: most files hold no manifest, and building takes a tenth of a start.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null", defer_build=True)


R = TypeVar("R", bound=Record)


def check_version(version: int, what: str) -> int:
    """The version of a record, checked to be one that this program reads; for pydantic validators."""
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"the {what} has schema_version {version}, and this lacoot-deploy reads up to {SCHEMA_VERSION}: "
            f"upgrade lacoot-deploy"
        )
    if version < 1:
        raise ValueError(f"the {what} has schema_version {version}, which no release ever wrote")
    return version


def to_json(record: Record, *, indent: int | None = None) -> str:
    """Canonical JSON of a record: keys sorted, nothing optional left out, non-finite numbers as null.

    Args:
        record: The record.
        indent: Spaces of an indented text; None for one line.
    """
    separators = (",", ":") if indent is None else None
    data = record.model_dump(mode="json")
    return json.dumps(_finite(data), sort_keys=True, separators=separators, indent=indent, ensure_ascii=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if np.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [_finite(value) for value in data]
    return data


def parse_record(kind: type[R], text: str, what: str) -> R:
    """Parse a record's JSON text.

    Raises:
        InputError: It is no JSON, of the wrong structure or of a newer version; `what` says in messages what it is.
    """
    data = parse_json(text, what)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"{what} cannot be used: {where}: {message}.") from None
