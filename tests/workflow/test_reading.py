"""Models that are not plain ONNX files, through the commands: ONNX Runtime's own format, and training mode."""

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, run

from lacoot_deploy.bench.files import total_bytes
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.reading import read_model
from lacoot_deploy.workflow.comparing import compare
from lacoot_deploy.workflow.inspecting import inspect


@pytest.fixture
def in_both_formats(tmp_path):
    import onnxruntime as ort

    model, _ = residual_cnn(blocks=2)
    model.metadata_props.add(key="who", value="somebody")
    onnx.save(model, tmp_path / "m.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    return tmp_path


def test_onnx_runtimes_own_format_is_inspected_and_compared(in_both_formats):
    plain, own = in_both_formats / "m.onnx", in_both_formats / "m.ort"
    blocks = [
        [(block.name, block.forms, block.macs) for block in inspect(path).blocks] for path in (plain, own)
    ]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) == 2
    model = read_model(own)
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run(model, feeds)[0], run(onnx.load(plain), feeds)[0])
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("who", "somebody")]
    shape = [20, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    images = np.random.default_rng(0).normal(size=shape)
    np.savez(in_both_formats / "d.npz", image=images.astype(np.float32))
    found = compare(plain, own, f"npz:{in_both_formats / 'd.npz'}")
    assert found.agreement == 100
    assert total_bytes(own) == own.stat().st_size


def test_onnx_runtimes_own_format_is_timed(in_both_formats):
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.workflow.benching import benchmark

    quick = BenchOptions(rounds=1, min_time=0.05, memory=False)
    report = benchmark(in_both_formats / "m.onnx", in_both_formats / "m.ort", quick)
    assert report.b is not None
    assert report.b.file_bytes == (in_both_formats / "m.ort").stat().st_size


@pytest.mark.parametrize("kind", ["Dropout", "BatchNormalization"])
def test_training_mode_is_told_and_refused_by_what_compares(kind, tmp_path):
    g = GraphBuilder()
    x = g.op("Conv", g.input("x", ["N", 3, 4, 4]), g.normal(4, 3, 1, 1))
    if kind == "Dropout":
        g.op("Dropout", x, g.weight(0.5), g.weight(True, dtype=bool), output="y")
    else:
        stats = [g.normal(4) for _ in range(3)] + [g.weight(np.ones(4))]
        g.op("BatchNormalization", x, *stats, training_mode=1, output="y")
        g.nodes[-1].output.extend(["mean", "variance"])
    path = tmp_path / "t.onnx"
    onnx.save(g.model({"y": ["N", 4, 4, 4]}, infer=False), path)
    assert any(f"in training mode ({kind}" in text for text in inspect(path, probe=False).notes)
    np.savez(tmp_path / "d.npz", x=np.zeros((8, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match="export it in evaluation mode"):
        compare(path, path, f"npz:{tmp_path / 'd.npz'}")


def test_an_idle_dropout_is_no_training(tmp_path):
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 4]))
    g.op("Dropout", x, g.weight(0.5), g.weight(False, dtype=bool), output="y")
    onnx.save(g.model({"y": ["N", 4]}), tmp_path / "e.onnx")
    assert inspect(tmp_path / "e.onnx").notes == []
