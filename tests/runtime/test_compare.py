from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import classifier, make_model, text_encoder

from lacoot_deploy.data import Samples
from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.errors import InputError, VerificationError
from lacoot_deploy.runtime.compare import Limits, compare_models
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session


def cpu(model, label="model"):
    return open_session(model, runtime=Runtime("cpu"), label=label)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 8)).astype(np.float32)
    other = weight + 0.3 * rng.standard_normal(weight.shape).astype(np.float32)
    x = rng.standard_normal((203, 6)).astype(np.float32)
    labels = (x @ weight).argmax(axis=1)
    return weight, other, Samples({"x": x}, labels)


def test_figures_are_those_of_numpy(pair):
    weight, other, samples = pair
    result = compare_models(cpu(classifier(weight)), cpu(classifier(other)), samples, batch_size=20)
    x = samples.feeds["x"].astype(np.float64)
    a, b = x @ weight, x @ other
    drift = result.outputs["logits"]
    assert drift.max_abs == pytest.approx(np.abs(b - a).max(), rel=1e-4)
    assert drift.rel_rms == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-4)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert drift.cosine == pytest.approx(cosine.mean(), rel=1e-5)
    relative = np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)
    assert [w.index for w in drift.worst] == np.argsort(-relative)[:5].tolist()
    agree = (a.argmax(1) == b.argmax(1)).mean() * 100
    assert result.agreement == pytest.approx(agree)
    assert result.accuracy is not None
    assert result.accuracy.a == 100.0
    assert result.accuracy.b == pytest.approx(agree)
    assert result.accuracy.drop_points == pytest.approx(100 - agree)
    low, high = result.accuracy.ci95
    assert low < result.accuracy.drop_points < high
    assert result.top5 is not None
    assert result.top5.a == 100.0


def test_the_json_document_has_the_agreed_keys(pair):
    weight, other, samples = pair
    document = json.loads(
        compare_models(cpu(classifier(weight)), cpu(classifier(other)), samples).model_dump_json()
    )
    assert {"schema_version", "outputs", "agreement", "accuracy", "samples"} <= document.keys()
    assert {"max_abs", "rel_rms", "cosine"} <= document["outputs"]["logits"].keys()
    assert {"a", "b", "drop_points", "ci95"} <= document["accuracy"].keys()


def test_a_model_equals_itself_and_the_batch_size_does_not_matter(pair):
    weight, _, samples = pair
    result = compare_models(
        cpu(classifier(weight)), cpu(classifier(weight, batch=10)), samples, batch_size=10
    )
    assert result.outputs["logits"].max_abs == 0
    assert result.outputs["logits"].unequal == 0
    assert result.outputs["logits"].worst == []
    assert result.agreement == 100
    assert result.violations == []
    result.require()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_abs=0.1), "maximum absolute difference"),
        (Limits(max_rel_rms=0.01), "relative RMS"),
        (Limits(min_agreement=99.9), "agree in"),
        (Limits(max_drop=1), "drops by"),
    ],
)
def test_an_exceeded_limit_is_a_verification_error(pair, limits, words):
    weight, other, samples = pair
    result = compare_models(cpu(classifier(weight)), cpu(classifier(other)), samples, limits=limits)
    with pytest.raises(VerificationError, match=words) as caught:
        result.require()
    assert caught.value.exit_code == 4


def test_a_drop_limit_without_labels_is_not_met_silently(pair):
    weight, other, samples = pair
    result = compare_models(
        cpu(classifier(weight)), cpu(classifier(other)), Samples(samples.feeds), limits=Limits(max_drop=50)
    )
    assert result.accuracy is None
    assert "no labels" in result.violations[0]


def test_nan_is_found_located_and_never_accepted():
    node = helper.make_node("Log", ["x"], ["y"])
    shape = (TensorProto.FLOAT, ["n", 3])
    log = make_model([node], {"x": shape}, {"y": shape})
    plain = make_model([helper.make_node("Abs", ["x"], ["y"])], {"x": shape}, {"y": shape})
    x = np.ones((10, 3), np.float32)
    x[4, 2] = -1
    x[7, 0] = 0
    result = compare_models(cpu(plain), cpu(log, "broken.onnx"), Samples({"x": x}), batch_size=3)
    drift = result.outputs["y"]
    assert drift.nonfinite_a is None
    assert drift.nonfinite_b is not None
    assert (drift.nonfinite_b.count, drift.nonfinite_b.samples, drift.nonfinite_b.first) == (
        2,
        [4, 7],
        [4, 2],
    )
    assert drift.new_nonfinite == 2
    with pytest.raises(VerificationError, match=r"broken\.onnx has 2 NaN .* sample 4"):
        result.require()


def test_several_inputs_integer_outputs_and_free_dimensions():
    model = text_encoder()
    model.graph.node.append(helper.make_node("ArgMax", ["pooled"], ["label"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    ids = np.random.default_rng(0).integers(0, 7, (20, 5))
    samples = Samples({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    result = compare_models(cpu(model), cpu(model), samples, batch_size=8)
    assert result.outputs["label"].unequal == 0
    assert result.predictions == "pooled"


def test_string_outputs_are_compared_by_equality():
    def pick(words: list[str]):
        words_tensor = helper.make_tensor(
            "words", TensorProto.STRING, [len(words)], [w.encode() for w in words]
        )
        model = make_model(
            [helper.make_node("Gather", ["words", "x"], ["y"])],
            {"x": (TensorProto.INT64, ["n"])},
            {"y": (TensorProto.STRING, ["n"])},
        )
        model.graph.initializer.append(words_tensor)
        return cpu(model)

    samples = Samples({"x": np.array([0, 1, 2, 1])})
    drift = compare_models(pick(["a", "b", "c"]), pick(["a", "b", "z"]), samples).outputs["y"]
    assert drift.max_abs is None
    assert drift.unequal == 0.25
    assert [w.index for w in drift.worst] == [2]


def test_a_limit_on_differences_of_an_output_without_numbers_is_not_passed_over():
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"])
    model = make_model(
        [helper.make_node("Gather", ["words", "x"], ["y"])],
        {"x": (TensorProto.INT64, ["n"])},
        {"y": (TensorProto.STRING, ["n"])},
    )
    model.graph.initializer.append(words)
    samples = Samples({"x": np.array([0, 1])})
    result = compare_models(cpu(model), cpu(model), samples, limits=Limits(max_abs=1.0))
    with pytest.raises(VerificationError, match="no output holds numbers"):
        result.require()
    assert compare_models(cpu(model), cpu(model), samples, limits=Limits(min_agreement=100)).violations == []


def test_models_with_other_signatures_are_refused_with_the_reason():
    base = cpu(classifier(), "a.onnx")
    samples = Samples({"x": np.zeros((2, 6), np.float32)})
    with pytest.raises(InputError, match=r"'logits' has shape \[n, 4\] in a\.onnx but \[n, 5\] in b\.onnx"):
        compare_models(base, cpu(classifier(classes=5), "b.onnx"), samples)
    with pytest.raises(InputError, match=r"inputs of a\.onnx are x, of b\.onnx input_ids, attention_mask"):
        compare_models(base, cpu(text_encoder(), "b.onnx"), samples)


def test_rows_that_differ_in_number_are_left_out_and_said():
    def finder(least):
        nodes = [
            helper.make_node("Greater", ["x", "least"], ["found"]),
            helper.make_node("NonZero", ["found"], ["places"]),
            helper.make_node("MatMul", ["x", "weight"], ["y"]),
        ]
        model = make_model(
            nodes,
            {"x": (TensorProto.FLOAT, ["n", 3])},
            {"places": (TensorProto.INT64, [2, "k"]), "y": (TensorProto.FLOAT, ["n", 4])},
        )
        for name, value in (("least", np.float32(least)), ("weight", np.eye(3, 4, dtype=np.float32))):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return cpu(model)

    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    labels = x.argmax(axis=1)
    result = compare_models(finder(0.0), finder(0.5), Samples({"x": x}, labels), batch_size=8)
    assert result.outputs["places"].max_abs is None
    assert "'places' has shape [2, " in result.notes[0]
    assert result.outputs["y"].max_abs == 0
    assert result.accuracy.drop_points == 0


def test_labels_that_the_model_cannot_tell_are_refused(pair):
    weight, other, samples = pair
    wrong = Samples(samples.feeds, (samples.labels + 1) % 8)
    a, b = cpu(classifier(weight)), cpu(classifier(other))
    with pytest.raises(InputError, match=r"Labels less one give 100.00 %.*--trust-labels"):
        compare_models(a, b, wrong)
    assert compare_models(a, b, wrong, task=TaskOptions(trust_labels=True)).dense.believed is False


def test_a_metric_of_the_user_per_sample_and_as_one_number(pair):
    weight, other, samples = pair

    def margin(outputs, labels):
        return outputs["logits"][np.arange(len(labels)), labels]

    def mean_margin(outputs, labels):
        return margin(outputs, labels).mean()

    a, b = cpu(classifier(weight)), cpu(classifier(other))
    each = compare_models(a, b, samples, metric=margin).accuracy
    whole = compare_models(a, b, samples, metric=mean_margin).accuracy
    assert each is not None
    assert whole is not None
    assert each.metric == "margin"
    assert each.drop_points == pytest.approx(whole.drop_points, rel=1e-5)
    np.testing.assert_allclose(each.ci95, whole.ci95, atol=0.3 * (each.ci95[1] - each.ci95[0]))


def test_top_k_as_a_metric_is_the_top_k_accuracy(pair):
    weight, other, samples = pair
    a, b = cpu(classifier(weight)), cpu(classifier(other))
    plain = compare_models(a, b, samples)
    five = compare_models(a, b, samples, task=TaskOptions(measure="top-5")).accuracy
    assert five == plain.top5
    seven = compare_models(a, b, samples, task=TaskOptions(measure="top-7")).accuracy
    assert seven.metric == "top-7"
    assert seven.b >= five.b
    # Without labels A's answers stand in.
    two = compare_models(a, b, Samples(samples.feeds), task=TaskOptions("classification:top-2"))
    assert two.accuracy is None
    assert two.fidelity.b == compare_models(a, b, samples, task=TaskOptions(measure="top-2")).accuracy.b


def test_a_metric_that_fails_is_an_input_error_that_names_it(pair):
    weight, other, samples = pair

    def nonsense(outputs, labels):
        return outputs["nope"]

    with pytest.raises(
        InputError, match=r"nonsense failed in test_compare\.py, line \d+ .*: KeyError: 'nope'"
    ):
        compare_models(cpu(classifier(weight)), cpu(classifier(other)), samples, metric=nonsense)
