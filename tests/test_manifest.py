"""The manifest travels inside an ONNX file and survives what it does not know."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import GraphBuilder

from lacoot_deploy.errors import InputError
from lacoot_deploy.manifest import (
    MANIFEST_KEY,
    ArrayRecord,
    BlockRecord,
    DistanceRecord,
    Manifest,
    Plan,
    PlanStep,
    RepairRecord,
    parse_manifest,
    parse_plan,
    read_manifest,
    to_json,
    write_manifest,
)


def small_model():
    g = GraphBuilder()
    g.op("Relu", g.input("x", ["N", 4]), output="y")
    return g.model(outputs={"y": ["N", 4]})


def small_manifest() -> Manifest:
    block = BlockRecord(
        name="layer1.0",
        input="a",
        output="b",
        shape=["batch", 4],
        distances={"mswd": DistanceRecord(value=0.25, floor=0.1)},
    )
    return Manifest(producer="test", blocks=[block])


def test_what_is_written_is_read_back_and_other_metadata_stays():
    model = small_model()
    model.metadata_props.add(key="author", value="someone")
    write_manifest(model, small_manifest())
    write_manifest(model, small_manifest())
    assert read_manifest(model) == small_manifest()
    assert [entry.key for entry in model.metadata_props] == ["author", MANIFEST_KEY]


def test_a_model_without_a_manifest_has_none():
    assert read_manifest(small_model()) is None


def test_onnx_runtime_shows_the_manifest(tmp_path):
    import onnxruntime

    model = small_model()
    write_manifest(model, small_manifest())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map[MANIFEST_KEY]
    assert parse_manifest(text) == small_manifest()


def test_the_first_name_of_the_ascent_is_read_as_todays():
    block = {"name": "b", "input": "i", "output": "o", "distances": {"mswd_ascent": {"value": 2.0}}}
    manifest = parse_manifest(json.dumps({"schema_version": 1, "blocks": [block]}))
    assert {name: d.value for name, d in manifest.blocks[0].distances.items()} == {"mswd-ascent": 2.0}


def test_unknown_fields_are_kept_at_every_level():
    text = json.dumps(
        {
            "schema_version": 1,
            "future": {"a": 1},
            "blocks": [{"name": "b", "input": "i", "output": "o", "colour": "red"}],
        }
    )
    again = json.loads(to_json(parse_manifest(text)))
    assert again["future"] == {"a": 1}
    assert again["blocks"][0]["colour"] == "red"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 2}', "upgrade lacoot-deploy"),
        ('{"schema_version": 0}', "no release ever wrote"),
        ("[]", "top level"),
        ("{", "not JSON"),
        ('{"blocks": [{"name": 1}]}', "blocks.0"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_in_one_sentence(text, said):
    with pytest.raises(InputError, match=said) as error:
        parse_manifest(text, path="model.onnx")
    assert "model.onnx" in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_come_back_bit_for_bit():
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    again = ArrayRecord.pack(values).unpack()
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize(
    "record", [{"shape": [3], "data": "AAAA"}, {"shape": [-1], "data": ""}, {"shape": [1], "data": "!"}]
)
def test_a_damaged_array_is_refused(record):
    with pytest.raises(InputError, match="damaged array"):
        ArrayRecord(**record).unpack()


def test_a_plan_has_one_digest_however_often_it_is_written():
    ones, zeros = ArrayRecord.pack(np.ones(2)), ArrayRecord.pack(np.zeros(2))
    repair = RepairRecord(kind="affine", axis=1, scale=ones, shift=zeros)
    step = PlanStep(block="a", input="x", output="y", form="bypass", repair=repair, evidence={"b": 1, "a": 2})
    plan = Plan(steps=[step])
    again = parse_plan(to_json(plan, indent=2))
    assert again == plan
    assert again.digest() == plan.digest()


def test_numbers_that_json_cannot_hold_become_null():
    plan = Plan(evidence={"loss": float("inf"), "list": [float("nan"), 1.0]})
    assert json.loads(to_json(plan))["evidence"] == {"loss": None, "list": [None, 1.0]}
