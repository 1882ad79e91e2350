"""What `bench` and `compare` print."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from lacoot_deploy_cli.main import run
from tiny_models import chain, classifier

from lacoot_deploy.bench import latency
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.protocol import NodePlacement
from lacoot_deploy.errors import ProviderError
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.workflow.benching import benchmark

QUICK = BenchOptions(min_time=0.2, rounds=2, memory=False)
CPU = Runtime("cpu", threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = folder / "a_model_with_quite_a_long_name_as_files_have.onnx", folder / "short.onnx"
    for path, blocks in zip(paths, (24, 2), strict=True):
        onnx.save(chain(blocks, channels=16, side=16), path)
    return paths


def shown(result, capsys, **options):
    from lacoot_deploy_cli.bench import show

    show(result, **options)
    return capsys.readouterr()


def test_lines_fit_80_columns_and_hold_the_figures(files, capsys):
    result = benchmark(*files, options=QUICK, runtime=CPU)
    result.b.gpu_memory_bytes = 300 * 2**20
    result.speedup, result.ci95, result.noise_floor, result.verdict = (
        2.7123,
        (2.6871, 2.7401),
        0.011,
        "faster",
    )
    text = shown(result, capsys).out
    lines = text.splitlines()
    # A path is never broken, however long the folder's is.
    assert all(len(line.rstrip()) <= 80 or len(line.removeprefix("A  ").split()) == 1 for line in lines)
    for word in (
        "median",
        "90th percentile",
        "interquartile range",
        "first run",
        "file",
        "GPU memory",
        "300 MiB",
    ):
        assert word in text
    assert "99th" not in text or result.a.p99_ms is not None
    assert "B is faster: speed-up 2.712 (95 % interval 2.687 to 2.740; noise floor 1.1 %)" in " ".join(
        text.split()
    )


def test_nodes_that_fell_back_are_named_and_with_v_all_nodes(files, capsys):
    result = benchmark(files[0], options=QUICK, runtime=CPU)
    result.a.placement = {"cuda": 71, "cpu": 1}
    result.a.nodes[0] = NodePlacement(node="odd_one", op="Relu", provider="cpu")
    result.a.cpu_nodes = ["odd_one"]
    text = shown(result, capsys).out
    assert "nodes 71 on cuda, 1 on cpu" in text
    assert "fell back to the CPU: odd_one" in " ".join(text.split())
    verbose = shown(result, capsys, verbose=1).out
    assert all(node.node in verbose for node in result.a.nodes)


def test_what_cuda_adds_is_told_beside_it(files, capsys, monkeypatch):
    """The measuring process's answers are the CPU's, with what CUDA changes in them."""
    real = latency.ask

    def as_on_cuda(request, progress=None):
        assert request.kind == "latency"
        if request.options.cuda_graph:
            raise ProviderError("B cannot run on cuda: it has control flow")
        answer = real(request.model_copy(update={"runtime": CPU, "options": replace(QUICK, min_time=0.2)}))
        return answer.model_copy(
            update={"provider": "cuda", "io_binding": request.options.io_binding is not False}
        )

    monkeypatch.setattr(latency, "ask", as_on_cuda)
    result = benchmark(*files, options=QUICK, runtime=Runtime("cuda", threads=1))
    assert result.environment.io_binding
    assert result.environment.tf32 is True
    copies, graph = result.variants["host_copies"], result.variants["cuda_graph"]
    assert copies.ci95[0] <= copies.speedup <= copies.ci95[1]
    assert (graph.a_ms, graph.reason) == (None, "B cannot run on cuda: it has control flow")
    out, notes = shown(result, capsys)
    assert "TF32 on, inputs and outputs on the device" in " ".join(out.split())
    assert "with host copies:" in out
    assert "with cuda graph: B cannot run on cuda" in notes


def test_what_to_expect_of_another_network_is_not_told(files, tmp_path):
    other = chain(3, channels=16, side=16)
    for node in other.graph.node:
        node.name = f"other_{node.name}"
    onnx.save(other, tmp_path / "other.onnx")
    result = benchmark(files[0], tmp_path / "other.onnx", per_block=True, options=QUICK, runtime=CPU)
    assert result.realised is None
    assert any("not A without some of its blocks" in warning for warning in result.warnings)
    assert benchmark(*files, per_block=True, options=QUICK, runtime=CPU).realised is not None


def test_exit_codes_of_bench(files, capsys):
    common = ["--min-time", "0.2", "--rounds", "2", "--threads", "1"]
    a, b = map(str, files)
    assert run(["bench", a, b, *common, "--provider", "cpu", "--require-speedup", "1000"]) == 6
    assert run(["bench", b, a, *common, "--provider", "cpu", "--fail-if-slower", "5"]) == 6
    assert run(["bench", a, *common, "--provider", "nonsense"]) == 7
    assert run(["bench", a, *common, "--dim", "n=x"]) == 2
    assert run(["bench", a + "x", *common]) == 3
    assert "There is no file" in capsys.readouterr().err


def test_compare_names_the_worst_samples_and_where_nan_is(tmp_path, capsys):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 8)).astype(np.float32)
    broken = weight.copy()
    broken[2, 3] = np.nan
    for name, values in (("a", weight), ("b", broken)):
        onnx.save(classifier(values), tmp_path / f"{name}.onnx")
    x = rng.standard_normal((9, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=(x @ weight).argmax(axis=1))
    data = ["--data", f"npz:{tmp_path / 'data.npz'}", "--provider", "cpu"]
    assert run(["compare", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), *data]) == 4
    out, error = capsys.readouterr()
    assert "9 entries of B are NaN or infinite, the first at [0, 3]" in " ".join(out.split())
    assert "9 NaN or infinite entries where" in error
    assert all(len(line) <= 80 for line in out.splitlines())
