"""Files that are something else are told by name; models in text and in a folder of their own are read."""

import tarfile
import zipfile

import onnx
import onnx.printer
import pytest
from builders import residual_cnn
from google.protobuf import text_format

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import load_model


def written(path, data: bytes):
    path.write_bytes(data)
    return path


def zipped(path, *names: str):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


OTHERS = {
    "m.ort": (b"\x20\0\0\0ORTM" + bytes(100), "own format"),
    "m.tflite": (b"\x20\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
    "m.engine": (b"ftrt" + b"\1" * 100, "TensorRT engine"),
    "lfs.onnx": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "m.xml": (b'<?xml version="1.0"?>\n<net name="m" version="11"></net>', "OpenVINO"),
    "m.gz": (b"\x1f\x8b\x08" + bytes(20), "gzip archive; unpack"),
    "old.pt": (b"\x80\x02\x8a\nl\xfc" + bytes(20), "PyTorch checkpoint"),
    "m.safetensors": ((50).to_bytes(8, "little") + b'{"a":{}}', "safetensors"),
    "page.onnx": (b"<!DOCTYPE html><html></html>", "web page"),
    "m.gguf": (b"GGUF" + bytes(20), "llama.cpp"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_file_is_that_is_no_model(name, tmp_path):
    data, said = OTHERS[name]
    with pytest.raises(InputError, match=said):
        load_model(written(tmp_path / name, data))


def test_archives_and_checkpoints(tmp_path):
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.add(written(tmp_path / "a", b"x"), "a")
    for path, said in (
        (tmp_path / "m.tar", "tar archive"),
        (zipped(tmp_path / "m.zip", "model.onnx"), "zip archive; unpack"),
        (zipped(tmp_path / "m.pt", "archive/data.pkl"), "PyTorch checkpoint"),
        (zipped(tmp_path / "s.pt", "archive/data.pkl", "archive/code/m.py"), "TorchScript"),
        (zipped(tmp_path / "m.keras", "model.weights.h5"), "Keras"),
    ):
        with pytest.raises(InputError, match=said):
            load_model(path)


def test_models_in_text_are_read(tmp_path):
    model, _ = residual_cnn(blocks=1)
    (tmp_path / "m.textproto").write_text(text_format.MessageToString(model))
    assert load_model(tmp_path / "m.textproto") == model
    (tmp_path / "m.onnxtxt").write_text(onnx.printer.to_text(model))
    assert [n.op_type for n in load_model(tmp_path / "m.onnxtxt").graph.node] == [
        node.op_type for node in model.graph.node
    ]
    with pytest.raises(InputError, match="in text, or it is damaged"):
        load_model(written(tmp_path / "bad.pbtxt", b"graph { nonsense }"))


def test_a_folder_stands_for_the_one_model_in_it(tmp_path):
    model, _ = residual_cnn(blocks=1)
    onnx.save(model, tmp_path / "a.onnx")
    (tmp_path / "config.json").write_text("{}")
    assert load_model(tmp_path) == model
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(InputError, match=r"holds a\.onnx, b\.onnx"):
        load_model(tmp_path)
