"""What a conversion to another precision, shape or format leaves in the manifest."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lacoot_deploy.manifest.records import Record


class ConversionRecord(Record):
    """One conversion of a model's file, such as to int8.

    Attributes:
        conversion: Its name, as `ship --convert` knows it.
        model_sha256_before: Fingerprint of the graph that it was applied to.
        kept_float: Names of the nodes, or of the operators, that stay in float32.
        settings: How it was done: types, calibration, shapes.
        target: The device that it was done for.
        producer: The program that did it.
    """

    conversion: str
    model_sha256_before: str = ""
    kept_float: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)
    target: str | None = None
    producer: str | None = None
