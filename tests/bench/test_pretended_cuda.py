"""The code for ONNX Runtime on CUDA, on a pretended machine that records what it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pretended_cuda import Machine
from tiny_models import chain, classifier

from lacoot_deploy.bench import bench, latency, worker
from lacoot_deploy.bench.opener import Opener
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.protocol import ModelFile, Request
from lacoot_deploy.bench.runners import BoundRunner, make_runner
from lacoot_deploy.errors import ProviderError
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.providers import CPU, CUDA
from lacoot_deploy.runtime.sessions import open_session

ON_CUDA = Runtime("cuda")
QUICK = BenchOptions(min_time=0.05, rounds=2, warmup_time=0.0, warmup_runs=1, memory=False)


@pytest.fixture
def machine(monkeypatch):
    return Machine().installed(monkeypatch)


def test_tf32_is_off_where_outputs_are_compared_and_the_users_options_are_passed_on(machine):
    session = open_session(classifier(), Runtime("cuda", provider_options={"gpu_mem_limit": "1000"}))
    assert (session.provider, session.why) == ("cuda", "cuda, as asked for")
    (opened,) = machine.sessions
    assert opened.providers == [(CUDA, {"gpu_mem_limit": "1000", "use_tf32": "0"}), (CPU, {})]
    assert opened.fallback == 0
    assert {p.provider for p in session.placement} == {CUDA}


@pytest.mark.parametrize(
    ("asked", "option"), [(None, {}), (True, {"use_tf32": "1"}), (False, {"use_tf32": "0"})]
)
def test_tf32_is_a_choice_where_speed_is_measured(machine, asked, option):
    open_session(classifier(), ON_CUDA, use_tf32=asked)
    assert machine.sessions[0].providers[0] == (CUDA, option)


def test_auto_takes_cuda_where_it_runs_the_model_and_the_cpu_where_it_runs_nothing_of_it(machine):
    assert open_session(classifier()).provider == "cuda"
    machine.on_cpu = {"MatMul", "Add", "Gemm"}
    session = open_session(classifier())
    assert session.provider == "cpu"
    assert "CUDA does not work here" in session.why


def shape_reader() -> onnx.ModelProto:
    """Flattens by a computed shape, then takes the sign: shape arithmetic, and one operator of real work."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], name="first"),
        helper.make_node("Concat", ["n", "rest"], ["to"], name="join", axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"], name="flatten"),
        helper.make_node("Sign", ["flat"], ["y"], name="work"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])]
    fixed = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("rest", TensorProto.INT64, [1], [6]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_shape_arithmetic_on_the_cpu_is_no_fallback_and_real_work_is(machine):
    machine.on_cpu = {"Shape", "Gather", "Concat"}
    session = open_session(shape_reader(), ON_CUDA, optimization="none", allow_cpu_nodes=False)
    assert {p.node for p in session.placement if p.provider == CPU} == {"shape", "first", "join"}
    assert session.fallback_nodes() == ()
    machine.on_cpu |= {"Sign"}
    with pytest.raises(ProviderError, match=r"1 of 5 nodes fall back to the CPU: work \(Sign\)"):
        open_session(shape_reader(), ON_CUDA, optimization="none", allow_cpu_nodes=False)


def test_bound_runs_copy_nothing_and_write_to_fixed_places_after_a_first_run_outside_any_graph(machine):
    session = open_session(classifier(), ON_CUDA)
    x = np.random.default_rng(0).standard_normal((4, session.inputs[0].shape[1])).astype(np.float32)
    runner = make_runner(session, {"x": x}, io_binding=True)
    assert isinstance(runner, BoundRunner)
    for _ in range(3):
        runner.run()
    assert [run.kind for run in machine.runs] == ["bound"] * 4
    assert [run.graph for run in machine.runs] == ["-1", None, None, None]
    assert len({run.outputs for run in machine.runs[1:]}) == 1
    assert {device for run in machine.runs for device in run.devices} == {"cuda"}
    value = next(iter(runner._binding.outputs.values())).numpy()
    np.testing.assert_allclose(value, session.ort.real.run(None, {"x": x})[0])
    assert runner._binding.waited == 4, "every run is waited for"


def on_disk(folder: Path, **models: onnx.ModelProto) -> dict[str, ModelFile]:
    for name, model in models.items():
        onnx.save(model, str(folder / f"{name}.onnx"))
    return {name: ModelFile(path=folder / f"{name}.onnx", label=name) for name in models}


@pytest.mark.parametrize(
    ("provider", "option"), [("cuda", "enable_cuda_graph"), ("tensorrt", "trt_cuda_graph_enable")]
)
def test_a_graph_is_asked_for_by_the_providers_own_option_and_binds(machine, tmp_path, provider, option):
    request = Request(
        kind="latency",
        models=on_disk(tmp_path, a=classifier()),
        runtime=Runtime(provider),
        options=BenchOptions(cuda_graph=True, io_binding=False),
    )
    opener = Opener(request)
    assert (opener.provider, opener.io_binding) == (provider, True)
    assert machine.sessions[0].providers[0][1][option] == "1"
    opener.runner(request.models["a"]).run()
    assert [run.graph for run in machine.runs] == ["-1", None]


def answered(monkeypatch):
    """The measuring process's work, done in this one, where the machine is pretended."""

    def ask(request, progress=None):
        return worker._latency(request)

    monkeypatch.setattr(latency, "ask", ask)


def test_a_benchmark_on_cuda_binds_and_tells_host_copies_and_graphs_beside_it(machine, monkeypatch):
    answered(monkeypatch)
    result = bench(chain(4), chain(2), QUICK, runtime=ON_CUDA)
    assert result.environment.provider == "cuda"
    assert result.environment.io_binding
    assert result.environment.tf32 is True
    assert set(result.a.placement) == {"cuda"}
    assert result.a.cpu_nodes == []
    assert set(result.variants) == {"host_copies", "cuda_graph"}
    assert {run.kind for run in machine.runs} == {"bound", "host"}
    captured = [opened.captured for opened in machine.sessions]
    assert any(captured)
    assert not all(captured)


def test_a_model_that_cannot_be_captured_is_measured_without_and_the_reason_told(machine, monkeypatch):
    answered(monkeypatch)
    machine.captures = False
    result = bench(chain(4), chain(2), QUICK, runtime=ON_CUDA)
    assert result.speedup is not None
    assert result.variants["host_copies"].speedup is not None
    assert result.variants["cuda_graph"].reason
    assert result.variants["cuda_graph"].speedup is None


def test_nodes_that_fall_back_are_an_error_in_a_benchmark_unless_allowed(machine, monkeypatch):
    answered(monkeypatch)
    machine.on_cpu = {"Relu"}
    with pytest.raises(ProviderError, match=r"fall back to the CPU"):
        bench(chain(2), options=QUICK, runtime=ON_CUDA)
    allowed = BenchOptions(**{**QUICK.__dict__, "allow_cpu_nodes": True, "variants": False})
    assert bench(chain(2), options=allowed, runtime=ON_CUDA).a.cpu_nodes
