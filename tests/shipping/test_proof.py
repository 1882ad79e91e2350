"""Files run in fresh processes: what agrees, what does not, and what cannot be tried."""

from __future__ import annotations

import pytest
from builders import random_feeds, residual_cnn

from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.shipping.proof import Prover
from lacoot_deploy.shipping.trials import CPU


@pytest.fixture
def case(tmp_path):
    """A file, the answers that are expected of it, and what proves them."""
    model = residual_cnn(1)[0]
    path = tmp_path / "model.onnx"
    save_model(model, path)
    feeds = random_feeds(model, batch=3)
    folder = tmp_path / "proof"
    folder.mkdir()
    return path, open_session(path, CPU).run(feeds), Prover(folder, feeds)


def test_onnx_runtime_gives_the_same_answers_in_a_fresh_process(case):
    path, expected, prover = case
    proof = prover.onnxruntime(path, expected)
    assert (proof.runs, proof.drift, proof.reason) == (True, 0.0, None)


def test_answers_that_differ_are_no_proof(case):
    path, expected, prover = case
    proof = prover.onnxruntime(path, {name: values + 1 for name, values in expected.items()})
    assert not proof.runs
    assert "differ by" in proof.reason


def test_a_file_that_does_not_load_gives_the_reason(case):
    path, expected, prover = case
    path.write_bytes(path.read_bytes()[:200])
    proof = prover.onnxruntime(path, expected)
    assert not proof.runs
    assert proof.reason


def test_openvino_agrees(case):
    pytest.importorskip("openvino", reason="the second engine is an extra")
    path, expected, prover = case
    proof = prover.openvino(path, expected)
    assert proof.runs, proof.reason
    assert proof.drift < 1e-5


def test_openvino_is_not_tried_where_it_cannot_be(case, monkeypatch):
    path, expected, prover = case
    assert "ORT format" in prover.openvino(path.with_suffix(".ort"), expected).reason
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install" in prover.openvino(path, expected).reason
