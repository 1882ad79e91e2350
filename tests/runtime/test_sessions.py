from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import classifier, make_model, text_encoder

from lacoot_deploy.data import InputInfo
from lacoot_deploy.errors import InputError, ProviderError, UsageError
from lacoot_deploy.runtime import providers, sessions
from lacoot_deploy.runtime.libraries import Library, driver_problem, needed_names
from lacoot_deploy.runtime.messages import run_error
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.placement import Placement, shape_arithmetic_nodes
from lacoot_deploy.runtime.providers import CPU, CUDA
from lacoot_deploy.runtime.sessions import open_session

needs_no_cuda = pytest.mark.skipif(driver_problem() is None, reason="this machine has an NVIDIA driver")


def test_a_session_tells_its_signature_and_runs():
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    session = open_session(classifier(weight), runtime=Runtime("cpu"))
    assert session.inputs == (InputInfo("x", ("n", 3), "float32"),)
    assert session.outputs == (InputInfo("logits", ("n", 2), "float32"),)
    x = np.ones((5, 3), dtype=np.float32)
    np.testing.assert_allclose(session.run({"x": x})["logits"], x @ weight)
    assert [(p.node, p.op, p.provider) for p in session.placement] == [
        ("head", "MatMul", "CPUExecutionProvider")
    ]


@needs_no_cuda
def test_auto_takes_the_cpu_where_cuda_does_not_work_and_says_so():
    session = open_session(classifier())
    assert session.provider == "cpu"
    assert "driver" in session.why or "without CUDA" in session.why


@needs_no_cuda
@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "CUDAExecutionProvider", "openvino", "nonsense"])
def test_a_provider_that_does_not_run_the_model_is_an_error_with_exit_code_7(provider, capfd):
    with pytest.raises(ProviderError, match=r"mend|known are") as caught:
        open_session(classifier(), runtime=Runtime(provider))
    assert caught.value.exit_code == 7
    assert capfd.readouterr() == ("", "")


def on_cuda(placed: tuple[Placement, ...]):
    """A session as it would be on a machine with CUDA, its nodes placed as given."""
    session = open_session(classifier(), runtime=Runtime("cpu"))
    session.provider, session.placement = "cuda", placed
    session.ort = SimpleNamespace(get_providers=lambda: [CUDA, CPU])
    return session


@pytest.fixture
def cuda_listed(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(sessions, "preload_cuda", lambda: None)


def test_nodes_that_fall_back_to_the_cpu_are_listed_and_an_error_unless_allowed(cuda_listed):
    placed = (
        Placement("conv", "Conv", CUDA),
        Placement("shape", "Shape", CPU, shape_arithmetic=True),
        *(Placement(f"odd{i}", "NonZero", CPU) for i in range(7)),
    )
    with pytest.raises(
        ProviderError, match=r"7 of 9 nodes fall back .*odd0 \(NonZero\), .* and 2 more"
    ) as caught:
        sessions._exactly(CUDA, lambda full: on_cuda(placed), "m.onnx", allow_cpu_nodes=False)
    assert caught.value.exit_code == 7
    allowed = sessions._exactly(CUDA, lambda full: on_cuda(placed), "m.onnx", allow_cpu_nodes=True)
    assert [p.node for p in allowed.fallback_nodes()] == [f"odd{i}" for i in range(7)]
    clean = sessions._exactly(CUDA, lambda full: on_cuda(placed[:2]), "m.onnx", allow_cpu_nodes=False)
    assert clean.fallback_nodes() == ()


def test_a_provider_that_was_silently_left_out_is_an_error(cuda_listed):
    left_out = on_cuda((Placement("conv", "Conv", CPU),))
    with pytest.raises(ProviderError, match=r"m\.onnx cannot run on cuda: .* To mend it: "):
        sessions._exactly(CUDA, lambda full: left_out, "m.onnx", allow_cpu_nodes=True)


def test_a_missing_cuda_library_is_named_with_what_brings_it(cuda_listed, monkeypatch, tmp_path):
    monkeypatch.setattr(providers, "driver_problem", lambda: None)
    monkeypatch.setattr(providers, "preload_cuda", lambda: None)
    monkeypatch.setattr(providers, "provider_binary", lambda name: tmp_path)
    libraries = (Library("libcudart.so.13", None), Library("libcudnn.so.9", "no such file"))
    monkeypatch.setattr(providers, "required_libraries", lambda binary: libraries)

    def attempt(full: str):
        if full == CUDA:
            raise RuntimeError("Failed to load library libonnxruntime_providers_cuda.so")
        return open_session(classifier(), runtime=Runtime("cpu"))

    wanted = r"these libraries cannot be loaded: libcudnn\.so\.9\. To mend it: pip install"
    with pytest.raises(ProviderError, match=wanted) as caught:
        sessions._exactly(CUDA, attempt, "m.onnx", allow_cpu_nodes=True)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    "said",
    [
        "[ONNXRuntimeError] : 6 : BFCArena: Failed to allocate memory for requested buffer of size 8589934592",
        "CUDA failure 2: out of memory ; GPU=0",
        "std::bad_alloc",
    ],
)
def test_memory_that_runs_out_on_any_device_is_said_so(said):
    error = run_error("m.onnx", RuntimeError(said))
    assert "m.onnx runs out of memory" in str(error)
    assert ("8 GiB" in str(error)) == ("8589934592" in said)
    assert error.exit_code == 3


def test_files_that_do_not_load_are_input_errors(tmp_path, capfd):
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"this is no model")
    with pytest.raises(InputError, match="cannot be parsed"):
        open_session(junk, runtime=Runtime("cpu"))
    with pytest.raises(InputError, match="does not exist"):
        open_session(tmp_path / "none.onnx", runtime=Runtime("cpu"))
    assert capfd.readouterr() == ("", "")


def test_a_custom_operator_is_named():
    node = helper.make_node("Sparkle", ["x"], ["y"], domain="my.ops")
    shape = (TensorProto.FLOAT, ["n", 3])
    model = make_model([node], {"x": shape}, {"y": shape}, domains={"my.ops": 1})
    with pytest.raises(InputError, match=r"my\.ops:Sparkle"):
        open_session(model, runtime=Runtime("cpu"))


def test_external_data_is_found_from_the_path_and_from_a_loaded_model(tmp_path):
    path = tmp_path / "model.onnx"
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    onnx.save(classifier(weight), path, save_as_external_data=True, location="model.data", size_threshold=0)
    x = np.ones((1, 3), dtype=np.float32)
    loaded = onnx.load(path, load_external_data=False)
    for session in (
        open_session(path, runtime=Runtime("cpu")),
        open_session(loaded, runtime=Runtime("cpu"), source=path),
    ):
        np.testing.assert_allclose(session.run({"x": x})["logits"], x @ weight)
    (tmp_path / "model.data").unlink()
    with pytest.raises(InputError, match=r"(?i)external"):
        open_session(path, runtime=Runtime("cpu"))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "needs the input 'x'"),
        ({"x": np.zeros((1, 6), np.float32), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.zeros((1, 6))}, "expects float32, got float64"),
        ({"x": np.zeros((1, 5), np.float32)}, r"expects shape \[n, 6\], got \[1, 5\]"),
    ],
)
def test_feeds_that_do_not_fit_are_named(feeds, message):
    with pytest.raises(InputError, match=message):
        open_session(classifier(), runtime=Runtime("cpu")).run(feeds)


def test_an_output_that_does_not_exist_is_named():
    session = open_session(classifier(), runtime=Runtime("cpu"))
    with pytest.raises(InputError, match="no output 'nope'; it has logits"):
        session.run({"x": np.zeros((1, 6), np.float32)}, ["nope"])


def test_running_out_of_memory_is_an_input_error():
    node = helper.make_node("ConstantOfShape", ["size"], ["y"])
    model = make_model([node], {"size": (TensorProto.INT64, [2])}, {"y": (TensorProto.FLOAT, None)})
    with pytest.raises(InputError, match="out of memory"):
        open_session(model, runtime=Runtime("cpu")).run({"size": np.array([10**6, 10**6])})


def test_options_that_make_no_sense_are_usage_errors():
    with pytest.raises(UsageError, match="optimisation"):
        open_session(classifier(), runtime=Runtime("cpu"), optimization="fast")
    with pytest.raises(UsageError, match="threads"):
        open_session(classifier(), runtime=Runtime("cpu", threads=0))


def test_shape_arithmetic_is_told_from_work():
    flatten = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], name="pick"),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0, name="join"),
        helper.make_node("Reshape", ["x", "target"], ["flat"], name="reshape"),
        helper.make_node("Add", ["flat", "flat"], ["y"], name="work"),
    ]
    model = make_model(
        flatten,
        {"x": (TensorProto.FLOAT, ["n", 2, 3])},
        {"y": (TensorProto.FLOAT, None)},
        {"zero": np.array([0]), "rest": np.array([-1])},
    )
    assert shape_arithmetic_nodes(model) == {"shape", "pick", "join"}


def test_symbolic_and_unnamed_dimensions_come_through():
    session = open_session(text_encoder(), runtime=Runtime("cpu"))
    assert session.inputs[0] == InputInfo("input_ids", ("batch", "sequence"), "int64")


def test_float16_and_overridable_initialisers():
    weight = np.ones((2, 2), np.float16)
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT16, [None, 2]), "w": (TensorProto.FLOAT16, [2, 2])},
        {"y": (TensorProto.FLOAT16, [None, 2])},
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    session = open_session(model, runtime=Runtime("cpu"))
    assert [(i.name, i.shape, i.dtype) for i in session.inputs] == [("x", (None, 2), "float16")]


def test_the_needed_libraries_of_an_elf_file_are_read():
    onnxruntime = pytest.importorskip("onnxruntime")
    from pathlib import Path

    found = list((Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so"))
    if not found:
        pytest.skip("ONNX Runtime's extension is no ELF file here")
    assert any(name.startswith("libc.so") for name in needed_names(found[0]))
    assert needed_names(Path(__file__)) == ()


@pytest.mark.gpu
@pytest.mark.skipif(driver_problem() is not None, reason="no NVIDIA driver on this machine")
def test_cuda_runs_every_node_of_a_model_made_for_it():
    session = open_session(classifier(), runtime=Runtime("cuda"), allow_cpu_nodes=False, use_tf32=False)
    assert session.provider == "cuda"
    assert {p.provider for p in session.placement} == {"CUDAExecutionProvider"}
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    cpu = open_session(classifier(), runtime=Runtime("cpu"))
    np.testing.assert_allclose(
        session.run({"x": x})["logits"], cpu.run({"x": x})["logits"], rtol=1e-5, atol=1e-5
    )
