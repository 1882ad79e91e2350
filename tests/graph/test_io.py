"""Reading and writing ONNX files: one clear sentence for every failure, and all-or-nothing writes."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import onnx
import pytest
from builders import random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy import files
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model import io
from lacoot_deploy.graph.model.io import fingerprint, load_model, save_model
from lacoot_deploy.manifest import Manifest, write_manifest


@pytest.fixture
def model():
    return residual_mlp()[0]


@pytest.fixture
def saved(tmp_path, model):
    path = tmp_path / "model.onnx"
    save_model(model, path)
    return path


def test_what_is_saved_is_what_is_loaded(saved, model):
    assert load_model(saved) == model
    assert load_model(str(saved)) == model
    assert os.listdir(saved.parent) == ["model.onnx"]


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"There is no file .*nothing\.onnx\."):
        load_model(tmp_path / "nothing.onnx")


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder; give the ONNX file inside it"):
        load_model(tmp_path)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(InputError, match="is empty; it may be the rest of an interrupted"):
        load_model(tmp_path / "empty.onnx")


@pytest.mark.parametrize(
    "data", [b"\x00" * 64, b"\x89PNG\r\n\x1a\n", os.urandom(4096), b"hello world\n", b"\x08\x08"]
)
def test_what_is_no_model(tmp_path, data):
    path = tmp_path / "other.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"other\.onnx is not an ONNX model"):
        load_model(path)


def test_every_cut_short_file_is_refused(tmp_path, saved):
    data = saved.read_bytes()
    path = tmp_path / "short.onnx"
    for length in {*range(1, 60), *range(60, len(data), 97), *range(len(data) - 20, len(data))}:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="cut short"):
            load_model(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Relu", "a node"),
        ("layer0.w1", "a weight"),
        ("builders", "the model's description"),
        ("built", "a graph's description"),
        ("a note", "a node"),
        ("unusual", "a weight"),
        ("axis name", "a value's type or note"),
        ("the key", "the model's metadata"),
    ],
)
def test_names_that_are_no_text(tmp_path, model, text, what):
    model.graph.node[-1].doc_string = "a note"
    model.graph.initializer.add(name="unusual", data_type=1, dims=[0])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "axis name"
    model.metadata_props.add(key="the key", value="v")
    data = model.SerializeToString()
    assert text.encode() in data
    path = tmp_path / "odd.onnx"
    path.write_bytes(data.replace(text.encode(), b"\xff" * len(text)))
    with pytest.raises(InputError, match=f"is damaged: {what} holds bytes that are no text"):
        load_model(path)


def test_a_graph_without_nodes(tmp_path, model):
    del model.graph.node[:]
    onnx.save(model, tmp_path / "hollow.onnx")
    with pytest.raises(InputError, match="empty graph, without any node"):
        load_model(tmp_path / "hollow.onnx")


def test_a_file_above_the_limit(tmp_path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)
    with pytest.raises(InputError, match=r"larger than 2 GiB.*save its weights as external data"):
        load_model(path)


def test_a_missing_target_folder(tmp_path, model):
    with pytest.raises(InputError, match=r"The folder .*nowhere does not exist"):
        save_model(model, tmp_path / "nowhere" / "out.onnx")


def test_a_target_that_is_a_folder(tmp_path, model):
    with pytest.raises(InputError, match="is a folder; give the name of a file to write"):
        save_model(model, tmp_path)


def test_a_target_that_is_a_device_is_not_replaced(model):
    with pytest.raises(InputError, match="no regular file"):
        save_model(model, "/dev/null")


def test_a_folder_that_cannot_be_written(tmp_path, model, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError, match=r"out\.onnx cannot be written: Permission denied\."):
        save_model(model, tmp_path / "out.onnx")


@pytest.mark.parametrize("alias", ["same", "relative", "symlink", "hardlink"])
def test_the_input_is_never_overwritten(saved, model, alias, monkeypatch):
    target = saved
    if alias == "relative":
        monkeypatch.chdir(saved.parent)
        target = "model.onnx"
    elif alias != "same":
        target = saved.parent / "alias.onnx"
        (target.symlink_to if alias == "symlink" else target.hardlink_to)(saved)
    before = saved.read_bytes()
    with pytest.raises(InputError, match="is the input itself; give another output"):
        save_model(model, target, source=saved)
    assert saved.read_bytes() == before


def test_an_invalid_result_of_a_valid_source_is_refused(saved, model):
    model.graph.node[0].input[0] = "nobody"
    target = saved.parent / "out.onnx"
    with pytest.raises(InputError, match=r"out\.onnx was not written.*nobody"):
        save_model(model, target, source=saved)
    with pytest.raises(InputError, match=r"out\.onnx was not written"):
        save_model(model, target)
    assert os.listdir(saved.parent) == ["model.onnx"]


def test_shapes_that_contradict_each_other_are_refused(saved, model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(InputError, match="was not written"):
        save_model(model, saved.parent / "out.onnx", source=saved)


def test_a_source_that_was_invalid_already_may_stay_so(tmp_path, model):
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    save_model(model, tmp_path / "out.onnx", source=tmp_path / "odd.onnx")
    assert load_model(tmp_path / "out.onnx") == model


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("fault", ["fsync", "replace", "check"])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_interrupted_anywhere_the_target_is_absent_or_whole(
    tmp_path, monkeypatch, existed, external, fault, call
):
    model, _ = residual_cnn()
    feeds = random_feeds(model)
    wanted = run(model, feeds)
    source = tmp_path / "in.onnx"
    onnx.save(model, source, save_as_external_data=external, location="in.bin", size_threshold=0)
    model = load_model(source)
    target = tmp_path / "out.onnx"
    if existed:
        save_model(model, target, source=source)
    seen = 0

    def failing(original):
        def wrapped(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen > call:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return wrapped

    if fault == "check":
        monkeypatch.setattr(io, "_problem", failing(io._problem))
    else:
        monkeypatch.setattr(os, fault, failing(getattr(os, fault)))
    with contextlib.suppress(KeyboardInterrupt):
        save_model(model, target, source=source)
    monkeypatch.undo()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    if target.exists():
        for ours, theirs in zip(run(str(target), feeds), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_new_file_has_the_usual_permissions(saved):
    plain = saved.parent / "plain"
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


class TestFingerprint:
    def test_notes_do_not_count(self, model):
        before = fingerprint(model)
        write_manifest(model, Manifest(producer="test"))
        model.doc_string = "notes"
        model.graph.doc_string = "more"
        model.graph.node[0].metadata_props.add(key="k", value="v")
        model.graph.node[0].doc_string = "even more"
        model.producer_version = "9"
        assert fingerprint(model) == before

    def test_every_part_that_computes_counts(self):
        model, _ = residual_cnn()
        prints = {fingerprint(model)}

        def changed(edit):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            edit(copy)
            prints.add(fingerprint(copy))

        changed(lambda m: setattr(m.graph.node[0], "op_type", "Other"))
        changed(lambda m: m.graph.node[0].input.append("x"))
        changed(lambda m: m.graph.node[0].output.append("x"))
        changed(lambda m: m.graph.node[0].attribute[0].ints.append(1))
        changed(lambda m: m.graph.initializer[0].dims.append(1))
        changed(
            lambda m: setattr(m.graph.initializer[0], "raw_data", m.graph.initializer[0].raw_data[:-1] + b"x")
        )
        changed(lambda m: setattr(m.opset_import[0], "version", 18))
        changed(lambda m: setattr(m.graph.input[0], "name", "other"))
        changed(lambda m: m.graph.node.pop())
        changed(lambda m: m.graph.initializer[0].float_data.append(1.5))
        changed(lambda m: m.graph.initializer[0].float_data.append(2.5))
        assert len(prints) == 12

    def test_the_name_of_the_data_file_does_not_count(self, tmp_path):
        prints = set()
        for name in ("a", "b"):
            model, _ = residual_cnn()
            onnx.save(
                model, tmp_path / name, save_as_external_data=True, location=f"{name}.bin", size_threshold=0
            )
            prints.add(fingerprint(load_model(tmp_path / name)))
        assert len(prints) == 1
