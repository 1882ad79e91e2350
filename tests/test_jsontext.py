"""JSON from strangers is refused in a sentence where it could not be written back."""

from __future__ import annotations

import json
import time

import pytest

from lacoot_deploy.errors import InputError
from lacoot_deploy.jsontext import MAX_DEPTH, parse_json
from lacoot_deploy.manifest import ArrayRecord, Manifest, Plan, parse_manifest, parse_plan, to_json


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nul",
        "[1,]",
        "9" * 5000,
        "-" + "9" * 21,
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        "1e999",
        "\x00",
        "'a'",
    ],
)
def test_what_is_no_json(text):
    with pytest.raises(InputError, match=r"^The thing is not JSON"):
        parse_json(text, "The thing")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 400, 100_000])
def test_nesting_without_end(opening, depth):
    closing = "]" if opening == "[" else "}"
    with pytest.raises(InputError, match="nested too deeply"):
        parse_json(opening * depth + "1" + closing * depth, "It")


def test_what_is_nested_less_is_read():
    depth = MAX_DEPTH - 1
    assert parse_json("[" * depth + "]" * depth, "It")


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udfff": 1}', '[["a", "\\uDBFF"]]'])
def test_half_of_a_pair(text):
    with pytest.raises(InputError, match="surrogate"):
        parse_json(text, "It")
    assert parse_json('"\\ud83d\\ude00 \\\\ud800"', "It") == "\N{GRINNING FACE} \\ud800"


def test_wide_and_deep_at_once_takes_no_time():
    began = time.perf_counter()
    text = "[" * 60 + ",".join(["0"] * 300_000) + "]" * 60
    assert parse_json(text, "It")
    assert time.perf_counter() - began < 2


STEP = '{"block": "a", "input": "a", "output": "b", "form": "bypass"%s}'
BLOCK = '{"name": "a", "input": "b", "output": "c"%s}'


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        '"text"',
        "null",
        '{"schema_version": "new"}',
        '{"schema_version": 0}',
        '{"schema_version": -1}',
        '{"schema_version": 2}',
        '{"blocks": {}}',
        '{"blocks": [3]}',
        '{"blocks": [{"name": "a"}]}',
        '{"blocks": [' + BLOCK % ', "shape": [[1]]' + "]}",
        '{"blocks": [' + BLOCK % ', "distances": {"mswd": {"value": NaN}}' + "]}",
        '{"blocks": [' + BLOCK % ', "distances": {"mswd": {"value": 1e999}}' + "]}",
        '{"blocks": [' + BLOCK % ', "distances": {"mswd": {"value": null}}' + "]}",
        '{"preprocessing": {"mean": [0], "std": [1], "size": [1]}}',
        '{"plan": {"steps": [' + STEP % ', "repair": {"kind": "quadratic"}' + "]}}",
        '{"plan": {"schema_version": 9}}',
        '{"producer": "\\ud800"}',
        '{"source": {"recipe": ' + '{"a":' * 400 + "1" + "}" * 400 + "}}",
    ],
)
def test_manifests_of_the_wrong_kind(text):
    with pytest.raises(InputError, match="The manifest in m"):
        parse_manifest(text, path="m")


def test_what_is_read_can_be_written_and_read_again():
    text = '{"new": {"a": [1, 2.5, null, "\\u00e4"]}, "blocks": [' + BLOCK % ', "extra": true' + "]}"
    once = parse_manifest(text)
    again = parse_manifest(to_json(once))
    assert again == once
    assert json.loads(to_json(again)) == json.loads(to_json(once))
    assert parse_plan(to_json(Plan(limit={"max_drop": float("inf")}))).limit == {"max_drop": None}
    assert isinstance(once, Manifest)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([10**19], ""),
        ([2**62, 4], ""),
        ([-1], ""),
        ([2], "AAAA"),
        ([1], "\N{SNOWMAN}"),
        ([1] * 99, "AAAAAA=="),
        ([], ""),
    ],
)
def test_arrays_that_do_not_fill_their_shape(shape, data):
    with pytest.raises(InputError, match="damaged array"):
        ArrayRecord(shape=shape, data=data).unpack()
