from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import chain, classifier, make_model, text_encoder

from lacoot_deploy.bench import bench
from lacoot_deploy.bench.environment import Activity, noise_warnings, overheated_times
from lacoot_deploy.bench.files import file_hash, total_bytes
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.protocol import REQUEST, ModelFile, Request
from lacoot_deploy.errors import GateError, InputError, ProviderError, UsageError
from lacoot_deploy.machine import describe_machine
from lacoot_deploy.runtime.libraries import driver_problem
from lacoot_deploy.runtime.options import Runtime

QUICK = BenchOptions(min_time=0.3, rounds=2, memory=False)
CPU = Runtime("cpu", threads=1)


@pytest.fixture(scope="module")
def far_apart():
    """A is eight times B: any honest measurement sees that, on any machine."""
    return bench(chain(16, channels=16, side=16), chain(2, channels=16, side=16), options=QUICK, runtime=CPU)


def test_a_large_difference_is_seen(far_apart):
    assert far_apart.verdict == "faster"
    assert far_apart.ci95[0] > 1.5
    assert far_apart.ci95[0] <= far_apart.speedup <= far_apart.ci95[1]
    assert far_apart.a.p50_ms > far_apart.b.p50_ms


def test_the_json_document_has_the_agreed_keys_and_raw_samples(far_apart):
    document = json.loads(json.dumps(far_apart.document()))
    agreed = {
        "schema_version",
        "a",
        "b",
        "speedup",
        "ci95",
        "noise_floor",
        "verdict",
        "pairs",
        "environment",
        "samples",
    }
    assert agreed <= document.keys()
    assert len(document["samples"]["a"]) == len(document["samples"]["b"]) == 2
    assert sum(map(len, document["samples"]["log_ratios"])) == document["pairs"]
    assert sum(map(len, document["samples"]["a"])) == document["a"]["samples"]
    assert document["environment"]["provider"] == "cpu"
    assert document["environment"]["tf32"] is None
    assert document["a"]["placement"] == {"cpu": 48}
    pooled = np.concatenate([np.array(r) for r in document["samples"]["log_ratios"]])
    assert document["speedup"] == pytest.approx(float(np.exp(np.median(pooled))), rel=1e-4)


def test_gates(far_apart):
    far_apart.require(speedup=1.1, fail_if_slower=5)
    with pytest.raises(GateError, match="at least 1000 is required") as caught:
        far_apart.require(speedup=1000)
    assert caught.value.exit_code == 6


def test_a_slower_b_fails_the_gate_on_slowness():
    result = bench(
        chain(2, channels=16, side=16), chain(16, channels=16, side=16), options=QUICK, runtime=CPU
    )
    assert result.verdict == "slower"
    with pytest.raises(GateError, match="slower by 10 % at most"):
        result.require(fail_if_slower=10)


def test_one_model_has_a_latency_and_no_gate(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(text_encoder(), path)
    result = bench(path, options=replace(QUICK, memory=True, batch=3, dims={"sequence": 7}), runtime=CPU)
    assert result.b is None
    assert result.speedup is None
    assert result.environment.shapes == {"input_ids": [3, 7], "attention_mask": [3, 7]}
    assert result.environment.batch == 3
    assert result.a.per_second == pytest.approx(3 / (result.a.p50_ms / 1e3))
    assert result.a.file_bytes == path.stat().st_size
    assert result.a.sha256 == file_hash(path)
    if os.path.exists("/proc/self/status"):
        assert 0 < result.a.peak_memory_bytes < 2**30
    with pytest.raises(GateError, match="two models"):
        result.require(speedup=1)


def test_where_every_node_ran_and_how_far_figures_can_be_trusted(far_apart):
    a = far_apart.a
    assert len(a.nodes) == 48
    assert {node.provider for node in a.nodes} == {"cpu"}
    assert {"Conv", "Relu", "Add"} >= {node.op for node in a.nodes}
    medians = [np.median(one) for one in far_apart.samples.a]
    assert a.standard_errors["p50_ms"] == pytest.approx(np.std(medians, ddof=1) / np.sqrt(2), rel=0.01)
    assert a.warm_runs >= 3
    assert far_apart.environment.why == "cpu, as asked for"


def test_the_warm_up_can_be_lengthened():
    result = bench(chain(2), options=replace(QUICK, rounds=1, warmup_runs=400), runtime=CPU)
    assert result.a.warm_runs >= 400
    assert result.a.standard_errors == {}


def test_cuda_graphs_off_cuda_are_a_usage_error():
    with pytest.raises(UsageError, match="no CUDA graphs on cpu"):
        bench(chain(2), options=replace(QUICK, cuda_graph=True), runtime=CPU)


def test_inputs_beyond_the_memory_are_refused_before_they_are_made():
    free = describe_machine().memory_available_bytes
    if free is None:
        pytest.skip("this system does not tell its free memory")
    with pytest.raises(InputError, match=r"would take .* GiB of memory, but .* are free"):
        bench(classifier(), options=replace(QUICK, batch=free // 24 * 2), runtime=CPU)


def test_the_measuring_process_ends_with_its_caller(tmp_path):
    onnx.save(chain(4, channels=32, side=64), tmp_path / "model.onnx")
    request = Request(
        kind="latency",
        models={"a": ModelFile(path=tmp_path / "model.onnx", label="model")},
        runtime=CPU,
        options=BenchOptions(min_time=600),
    )
    (tmp_path / REQUEST).write_text(request.model_dump_json())
    command = [sys.executable, "-m", "lacoot_deploy.bench.worker", str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.stdin.close()
    assert process.wait(30) == 1


def test_given_feeds_are_used_and_checked():
    x = np.zeros((5, 6), np.float32)
    result = bench(classifier(), classifier(), feeds={"x": x}, options=QUICK, runtime=CPU)
    assert result.environment.shapes == {"x": [5, 6]}
    assert result.environment.inputs == "given"
    with pytest.raises(InputError, match=r"'x' .* expects shape \[n, 6\], got \[5, 7\]"):
        bench(classifier(), feeds={"x": np.zeros((5, 7), np.float32)}, options=QUICK, runtime=CPU)


def test_models_that_take_other_inputs_are_refused():
    with pytest.raises(InputError, match="input"):
        bench(classifier(), text_encoder(), options=QUICK, runtime=CPU)


def test_io_binding_runs_on_the_cpu_too():
    result = bench(chain(2), chain(2), options=replace(QUICK, io_binding=True), runtime=CPU)
    assert result.environment.io_binding
    assert result.a.p50_ms > 0


@pytest.mark.skipif(driver_problem() is None, reason="this machine has an NVIDIA driver")
def test_a_provider_that_does_not_work_ends_with_exit_code_7():
    with pytest.raises(ProviderError, match="mend") as caught:
        bench(classifier(), options=QUICK, runtime=Runtime("cuda", threads=1))
    assert caught.value.exit_code == 7


def test_a_custom_operator_a_missing_file_and_too_large_an_input_are_input_errors(tmp_path):
    shape = (TensorProto.FLOAT, ["n", 3])
    custom = make_model(
        [helper.make_node("Sparkle", ["x"], ["y"], domain="my.ops")],
        {"x": shape},
        {"y": shape},
        domains={"my.ops": 1},
    )
    with pytest.raises(InputError, match=r"my\.ops:Sparkle"):
        bench(custom, options=QUICK, runtime=CPU)
    with pytest.raises(InputError, match="does not exist"):
        bench(tmp_path / "none.onnx", options=QUICK, runtime=CPU)
    with pytest.raises(InputError, match="memory"):
        bench(classifier(), options=replace(QUICK, batch=10**13), runtime=CPU)
    square = make_model(
        [helper.make_node("MatMul", ["x", "t"], ["y"]), helper.make_node("Transpose", ["x"], ["t"])][::-1],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, ["n", "n"])},
    )
    with pytest.raises(InputError, match="memory"):
        bench(square, options=replace(QUICK, batch=10**7), runtime=CPU)


@pytest.mark.parametrize(
    "option",
    [
        {"rounds": 0},
        {"min_time": 0},
        {"batch": 0},
        {"dims": {"q": 2}},
        {"warmup_time": -1},
        {"warmup_runs": 0},
    ],
)
def test_options_out_of_range_are_usage_errors(option):
    with pytest.raises(UsageError):
        bench(classifier(), options=replace(QUICK, **option), runtime=CPU)


def test_external_data_counts_as_bytes_on_disk(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    assert total_bytes(path) == path.stat().st_size + (tmp_path / "w.data").stat().st_size
    assert bench(path, options=QUICK, runtime=CPU).a.file_bytes == total_bytes(path)


def test_external_bytes_of_function_bodies_and_sparse_weights_count_too(tmp_path):
    model = classifier()
    for name, size in (("body", 8), ("values", 12), ("indices", 24)):
        (tmp_path / f"{name}.data").write_bytes(bytes(size))

    def outside(name, kind, size):
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=[size])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{name}.data")
        return tensor

    constant = onnx.helper.make_node("Constant", [], ["c"], value=outside("body", onnx.TensorProto.FLOAT, 2))
    model.functions.append(onnx.helper.make_function("local", "F", [], ["c"], [constant], model.opset_import))
    sparse = model.graph.sparse_initializer.add(dims=[9])
    sparse.values.CopyFrom(outside("values", onnx.TensorProto.FLOAT, 3))
    sparse.indices.CopyFrom(outside("indices", onnx.TensorProto.INT64, 3))
    onnx.save(model, tmp_path / "model.onnx")
    assert total_bytes(tmp_path / "model.onnx") == (tmp_path / "model.onnx").stat().st_size + 8 + 12 + 24


def test_what_disturbs_a_measurement_is_said():
    quiet = Activity(load_before=0.1, load_after=0.2, other_cpu=0.02, throttled=0, stolen_share=0.0)
    assert noise_warnings(quiet, cpus=4, quota=None, threads=None, floor=0.005) == []
    noisy = Activity(
        load_before=3.0, other_cpu=1.2, throttled=7, stolen_share=0.08, overheated=4, gpu_slowed=0.25
    )
    text = " ".join(noise_warnings(noisy, cpus=2, quota=1.0, threads=4, floor=0.08, unstable=["a.onnx"]))
    for words in (
        "1.2 of 2",
        "7 times",
        "8%",
        "quota of 1",
        "4 threads share 2",
        "8.0%",
        "a.onnx did not settle",
    ):
        assert words in text


def test_processors_that_overheat_are_counted(tmp_path):
    assert overheated_times(tmp_path) is None
    for cpu, count in (("cpu0", 2), ("cpu1", 5)):
        folder = tmp_path / cpu / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    assert overheated_times(tmp_path) == 7


@pytest.mark.gpu
@pytest.mark.skipif(driver_problem() is not None, reason="no NVIDIA driver on this machine")
def test_cuda_is_timed_on_the_device_with_host_copies_and_as_a_graph_beside_it():
    result = bench(
        chain(8, channels=32, side=32),
        chain(4, channels=32, side=32),
        options=replace(QUICK, batch=8, use_tf32=False),
        runtime=Runtime("cuda", threads=1),
    )
    assert result.environment.io_binding
    assert result.environment.tf32 is False
    assert result.environment.gpu
    assert result.a.placement == {"cuda": 24}
    assert set(result.variants) == {"host_copies", "cuda_graph"}
    assert all(variant.reason is None for variant in result.variants.values())
