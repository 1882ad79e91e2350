"""Every conversion on small networks: its answers, what it refuses and why, and what the file still knows of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, residual_mlp

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.io import fingerprint, load_model, save_model
from lacoot_deploy.manifest import CollapseRecord, Manifest, read_manifest, write_manifest
from lacoot_deploy.runtime.evaluate import predict
from lacoot_deploy.runtime.reading import read_model
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.shipping.carry import manifest_of
from lacoot_deploy.shipping.chain import apply_chain
from lacoot_deploy.shipping.conversion import CannotConvertError, Job
from lacoot_deploy.shipping.operators import fallbacks
from lacoot_deploy.shipping.registry import CONVERSIONS, chain_of
from lacoot_deploy.shipping.targets import TARGETS, get_target
from lacoot_deploy.shipping.trials import CPU, Trials, distance
from lacoot_deploy.tasks import Judge

HISTORY = [CollapseRecord(model_sha256_before="abc", blocks=["layer9"])]


def job_for(model, tmp_path, **changes) -> Job:
    """A job on a model whose manifest tells of an earlier cut, with 32 random samples."""
    write_manifest(model, Manifest(history=HISTORY))
    model.metadata_props.add(key="somebody", value="else's")
    path = tmp_path / "model.onnx"
    save_model(model, path)
    feeds = random_feeds(model, batch=32)
    samples = Samples(feeds)
    judge = Judge.of(predict(open_session(path, CPU), samples), samples)
    folder = tmp_path / "work"
    folder.mkdir()
    job = Job(path, folder, samples, Trials(samples, judge), get_target("cpu"))
    return replace(job, **changes)


def applied(job, text, tmp_path):
    return apply_chain(chain_of(text), job, tmp_path / "result")


def drift(job, path):
    return distance(job.trials.outputs(path), job.trials.judge.dense)


CASES = [
    ("fp16", residual_cnn, 0.005),
    ("int8", residual_cnn, 0.05),
    ("int8-dynamic", residual_mlp, 0.05),
    ("weights4", lambda: residual_mlp(width=32), 0.3),
    ("weights8", lambda: residual_mlp(width=32), 0.05),
    ("fixed", residual_cnn, 1e-5),
    ("ort", residual_cnn, 1e-5),
    ("fixed+int8+ort", residual_cnn, 0.05),
]


@pytest.mark.parametrize(("text", "build", "bound"), CASES)
def test_answers_stay_and_so_does_what_the_file_knows(text, build, bound, tmp_path):
    job = job_for(build()[0], tmp_path, batch=4)
    made = applied(job, text, tmp_path)
    assert drift(job, made.path) <= bound
    manifest = manifest_of(made.path)
    assert [record.blocks for record in manifest.history] == [["layer9"]]
    assert [record.conversion for record in manifest.conversions] == text.split("+")
    assert manifest.conversions[0].model_sha256_before == fingerprint(load_model(job.path))
    if made.path.suffix == ".ort":
        assert "somebody" in {entry.key for entry in read_model(made.path).metadata_props}
        lines = made.beside[0].read_text().splitlines()
        assert any(line.startswith(("ai.onnx;", "com.microsoft;")) for line in lines)
    else:
        assert {entry.key for entry in load_model(made.path).metadata_props} == {
            "lacoot.manifest",
            "somebody",
        }


def test_ort_format_answers_exactly_as_the_onnx_file(tmp_path):
    job = job_for(residual_cnn()[0], tmp_path)
    path = applied(job, "ort", tmp_path).path
    found, wanted = job.trials.outputs(path), job.trials.outputs(job.path)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("text", "build", "reason"),
    [
        ("int8-dynamic", residual_cnn, "transformers"),
        ("weights4", residual_cnn, "MatMul"),
        ("fixed+fixed", residual_cnn, "twice"),
    ],
)
def test_what_does_not_suit_a_model_is_refused_with_the_reason(text, build, reason, tmp_path):
    with pytest.raises((CannotConvertError, UsageError), match=reason):
        applied(job_for(build()[0], tmp_path), text, tmp_path)


def test_what_is_quantised_already_is_not_quantised_again(tmp_path):
    job = job_for(residual_cnn()[0], tmp_path)
    path = applied(job, "int8", tmp_path).path
    with pytest.raises(CannotConvertError, match="quantised already"):
        applied(replace(job, path=path, folder=tmp_path / "again"), "int8", tmp_path / "again")


def test_a_cut_that_exceeds_the_limit_itself_is_not_searched(tmp_path):
    job = job_for(residual_cnn()[0], tmp_path)
    other = tmp_path / "other.onnx"
    save_model(residual_cnn(seed=5)[0], other)
    with pytest.raises(CannotConvertError, match="before it is converted"):
        applied(replace(job, path=other, max_drop=1.0), "int8", tmp_path)


def test_fixed_shapes_are_those_of_the_samples_and_the_batch(tmp_path):
    job = job_for(residual_cnn()[0], tmp_path, batch=3)
    path = applied(job, "fixed", tmp_path).path
    session = open_session(path, CPU)
    assert [info.shape for info in session.inputs] == [(3, 3, 8, 8)]
    assert [info.shape for info in session.outputs] == [(3, 3)]
    with pytest.raises(CannotConvertError, match="fixed already"):
        applied(replace(job, path=path, folder=tmp_path / "again"), "fixed", tmp_path / "again")


def test_opset_goes_up_and_says_why_it_cannot_go_where_it_cannot(tmp_path):
    job = job_for(residual_cnn(opset=17)[0], tmp_path, opset=21)
    path = applied(job, "opset", tmp_path).path
    assert load_model(path).opset_import[0].version == 21
    assert drift(job, path) < 1e-6
    with pytest.raises(CannotConvertError, match="already"):
        applied(replace(job, opset=17, folder=tmp_path / "same"), "opset", tmp_path)


def overflowing():
    """A network whose middle is a million times too large for float16."""
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", ["N", 16]), g.normal(16, 16, name="w1"))
    big = g.op("Mul", x, g.weight(np.float32(1e6), name="up"))
    small = g.op("Div", g.op("Abs", big), g.weight(np.float32(1e6), name="down"))
    return g.model({g.op("MatMul", small, g.normal(16, 4, name="w2"), output="y"): ["N", 4]})


def test_float16_finds_the_nodes_that_it_breaks(tmp_path):
    job = job_for(overflowing(), tmp_path)
    made = applied(job, "fp16", tmp_path)
    kinds = {node.name: node.op_type for node in load_model(made.path).graph.node}
    assert {kinds[name] for name in made.kept_float} == {"Mul", "Abs", "Div"}
    assert drift(job, made.path) < 0.01
    assert read_manifest(load_model(made.path)).conversions[0].kept_float == list(made.kept_float)


def outlier_net():
    """Two convolutions; the second one's input has one channel a thousand times the others."""
    g = GraphBuilder()

    def conv(value, weight, name):
        return g.op("Conv", value, g.weight(weight.astype(np.float32), name=name), pads=[1, 1, 1, 1])

    first = g.random.normal(size=(8, 3, 3, 3)) * 0.3
    first[0] *= 3000
    second = g.random.normal(size=(8, 8, 3, 3)) * 0.1
    second[:, 0] /= 3000
    value = conv(g.input("image", ["N", 3, 8, 8]), first, "wild")
    value = conv(value, second, "tame")
    flat = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", value)))
    return g.model({g.op("Gemm", flat, g.normal(8, 3, name="head"), output="logits"): ["N", 3]})


def test_int8_keeps_the_layer_in_float32_that_it_hurts(tmp_path):
    job = job_for(outlier_net(), tmp_path)
    plain = applied(job, "int8", tmp_path)
    assert plain.kept_float == ()
    before = job.trials.drop(job.trials.outputs(plain.path))
    assert before > 5
    mixed = applied(replace(job, folder=tmp_path / "mixed", max_drop=3.2), "int8", tmp_path)
    assert 0 < len(mixed.kept_float) < 3
    assert job.trials.drop(job.trials.outputs(mixed.path)) <= 3.2
    assert any("stay float32" in note for note in mixed.notes)


def test_operators_that_fell_back_are_told(tmp_path):
    job = job_for(residual_cnn()[0], tmp_path)
    half = applied(job, "fp16", tmp_path).path
    said = fallbacks(half, tmp_path, numbers="fp16", runtime=CPU)
    # Processors without float16 kernels compute the file in float32, all of it.
    assert not said or "Conv" in said[0]
    whole = applied(replace(job, folder=tmp_path / "b"), "int8", tmp_path).path
    assert fallbacks(whole, tmp_path, numbers="int8", runtime=CPU) == []
    assert fallbacks(job.path, tmp_path, numbers="int8", runtime=CPU) == [
        "float32: 7 FusedConv, 1 Gemm"
    ] or any("Conv" in text for text in fallbacks(job.path, tmp_path, numbers="int8", runtime=CPU))


def test_every_target_has_chains_that_exist_and_a_reason():
    for target in TARGETS.values():
        assert target.why.endswith(".")
        assert all(chain_of(text) for text in target.chains)
    with pytest.raises(UsageError, match="Did you mean 'mobile'"):
        get_target("mobil")


@pytest.mark.parametrize("text", ["int9", "int8+fp16", "ort+int8", "int8+int8"])
def test_chains_that_make_no_sense(text):
    with pytest.raises(UsageError):
        chain_of(text)


def test_each_conversion_is_named_in_the_registry_and_says_what_it_is():
    assert set(CONVERSIONS) == {
        "fp16", "int8", "int8-dynamic", "weights4", "weights8", "fixed", "opset", "ort"
    }  # fmt: skip
    assert all(conversion.summary for conversion in CONVERSIONS.values())
