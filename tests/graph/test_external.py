"""External weights: contained in the model's folder, streamed, deduplicated, aligned."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, make_block, random_feeds, residual_cnn, residual_mlp, run
from onnx import TensorProto, helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model import external
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.model.external import external_tensors
from lacoot_deploy.graph.model.io import load_model, save_model
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut


def save_external(model: onnx.ModelProto, path, location: str = "weights.bin") -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location=location, size_threshold=0)


def entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.fixture
def source(tmp_path):
    model, blocks = residual_cnn(4, channels=16)
    (tmp_path / "in").mkdir()
    save_external(model, tmp_path / "in" / "model.onnx")
    return model, blocks, tmp_path / "in" / "model.onnx"


def test_a_cut_model_in_another_folder_runs_and_holds_no_dead_bytes(tmp_path, source):
    model, blocks, path = source
    loaded = load_model(path)
    assert not any(tensor.raw_data for tensor in loaded.graph.initializer)
    cuts = [Cut(block, Form.BYPASS) for block in blocks[1:3]]
    small = collapse_blocks(loaded, cuts)
    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    save_model(small, tmp_path / "small.onnx", source=path)
    assert {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)} == before
    assert sorted(os.listdir(tmp_path)) == ["in", "small.onnx", "small.onnx.data"]

    feeds = random_feeds(model)
    wanted = run(collapse_blocks(model, cuts), feeds)
    np.testing.assert_array_equal(run(str(tmp_path / "small.onnx"), feeds)[0], wanted[0])
    saved = load_model(tmp_path / "small.onnx")
    survivors = sum(int(entries(tensor)["length"]) for tensor in external_tensors(saved))
    padding = 64 * len(saved.graph.initializer)
    assert survivors <= (tmp_path / "small.onnx.data").stat().st_size <= survivors + padding
    assert (tmp_path / "small.onnx.data").stat().st_size < (path.parent / "weights.bin").stat().st_size * 0.6


def test_saving_the_model_again_changes_only_where_the_bytes_lie(tmp_path, source):
    model, _, path = source
    loaded = load_model(path)
    save_model(loaded, tmp_path / "copy.onnx", source=path)
    copy = onnx.load(tmp_path / "copy.onnx")
    for ours, theirs in zip(copy.graph.initializer, model.graph.initializer, strict=True):
        assert ours.raw_data == theirs.raw_data
    assert load_model(path) == loaded


def test_overwriting_an_older_result_leaves_nothing_of_it(tmp_path, source):
    model, blocks, path = source
    target = tmp_path / "out.onnx"
    save_model(load_model(path), target, source=path)
    whole = target.with_name("out.onnx.data").stat().st_size
    save_model(collapse_blocks(load_model(path), [Cut(blocks[0], Form.BYPASS)]), target, source=path)
    assert target.with_name("out.onnx.data").stat().st_size < whole
    run(str(target), random_feeds(model))


def test_the_inputs_data_file_is_never_overwritten(tmp_path):
    model, _ = residual_mlp()
    save_external(model, tmp_path / "in.onnx", location="out.onnx.data")
    with pytest.raises(InputError, match=r"out\.onnx\.data holds the input's weights"):
        save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", source=tmp_path / "in.onnx")
    with pytest.raises(InputError, match=r"out\.onnx\.data holds the input's weights"):
        save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx.data", source=tmp_path / "in.onnx")


def test_external_weights_without_their_source_cannot_be_saved(tmp_path, source):
    _, _, path = source
    with pytest.raises(InputError, match="name the file it was loaded from"):
        save_model(load_model(path), tmp_path / "out.onnx")


def test_shared_bytes_are_written_once(tmp_path, source):
    _, _, path = source
    model = load_model(path)
    first, second = (
        t for t in model.graph.initializer if t.name in ("layer0.conv1.weight", "layer1.conv1.weight")
    )
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    onnx.save(model, path)
    save_model(model, tmp_path / "out.onnx", source=path)
    saved = {t.name: entries(t) for t in external_tensors(load_model(tmp_path / "out.onnx"))}
    assert saved["layer0.conv1.weight"] == saved["layer1.conv1.weight"]


@pytest.mark.parametrize("page", [64, 4096, 65536])
def test_alignment_is_kept(tmp_path, page):
    model, _ = residual_mlp(2)
    data = b""
    for tensor in model.graph.initializer:
        data += bytes(-len(data) % page)
        helper_entries = {"location": "w.bin", "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {**helper_entries, "checksum": "of the whole old file"}.items():
            tensor.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(data)
    onnx.save(model, tmp_path / "m.onnx")
    save_model(load_model(tmp_path / "m.onnx"), tmp_path / "out.onnx", source=tmp_path / "m.onnx")
    for tensor in external_tensors(load_model(tmp_path / "out.onnx")):
        assert int(entries(tensor)["offset"]) % page == 0
        assert "checksum" not in entries(tensor)
    feeds = random_feeds(model)
    np.testing.assert_array_equal(
        run(str(tmp_path / "out.onnx"), feeds)[0], run(str(tmp_path / "m.onnx"), feeds)[0]
    )


def externalise(tensor: TensorProto, folder, name: str) -> None:
    (folder / name).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)


def everywhere_model() -> onnx.ModelProto:
    """External-to-be weights in the main graph, a Constant node, a nested graph, a sparse weight and a function."""
    inner = GraphBuilder()
    inner.op("Add", "stem", inner.normal(4, name="nested.w"), output="then.out")
    other = GraphBuilder()
    other.op("Neg", "stem", output="else.out")
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", ["N", 4]), g.normal(4, 4, name="main.w"), output="stem")
    chosen = g.op(
        "If", g.input("flag", [], TensorProto.BOOL), output="chosen",
        then_branch=inner.graph({"then.out": ["N", 4]}), else_branch=other.graph({"else.out": ["N", 4]}),
    )  # fmt: skip
    constant = g.op("Constant", value=onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "constant.w"))
    g.op("Add", g.op("MatMul", x, constant), x, output="sum")
    g.op("Add", g.op("Custom", "sum", domain="local"), chosen, output="y")
    model = g.model({"y": ["N", 4]}, infer=False)
    weight = onnx.numpy_helper.from_array(np.full(4, 2, np.float32), "function.w")
    body = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Mul", ["a", "w"], ["b"])]
    model.functions.append(
        helper.make_function("local", "Custom", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    return model


def test_external_weights_are_found_wherever_they_hide(tmp_path):
    model = everywhere_model()
    folder = tmp_path / "in"
    folder.mkdir()
    tensors = [
        model.graph.initializer[0],
        next(n for n in model.graph.node if n.op_type == "Constant").attribute[0].t,
        next(n for n in model.graph.node if n.op_type == "If").attribute[1].g.initializer[0],
        model.functions[0].node[0].attribute[0].t,
    ]
    contents = {tensor.name: tensor.raw_data for tensor in tensors}
    for tensor in tensors:
        externalise(tensor, folder, f"{tensor.name}.bin")
    (folder / "in.onnx").write_bytes(model.SerializeToString())
    loaded = load_model(folder / "in.onnx")
    assert {tensor.name for tensor in external_tensors(loaded)} == set(contents)
    small = collapse_blocks(loaded, [Cut(make_block("b", "stem", "sum"), Form.BYPASS)])
    save_model(small, tmp_path / "out.onnx", source=folder / "in.onnx")
    data = (tmp_path / "out.onnx.data").read_bytes()
    found = {}
    for tensor in external_tensors(load_model(tmp_path / "out.onnx")):
        place = entries(tensor)
        assert place["location"] == "out.onnx.data"
        found[tensor.name] = data[int(place["offset"]) : int(place["offset"]) + int(place["length"])]
    del contents["constant.w"]
    assert found == contents


class TestReferencesThatLeadAstray:
    def model_at(self, folder, **changes: str):
        model, _ = residual_mlp(1)
        tensor = model.graph.initializer[0]
        externalise(tensor, folder, "w.bin")
        del tensor.external_data[:]
        for key, value in {"location": "w.bin", "offset": "0", "length": "256", **changes}.items():
            tensor.external_data.add(key=key, value=value)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    @pytest.mark.parametrize(
        "location",
        [
            "../w.bin",
            "sub/../../w.bin",
            "/etc/passwd",
            "C:\\w.bin",
            "..\\w.bin",
            "\\w.bin",
            "link.bin",
            "linked/w.bin",
        ],
    )
    def test_outside_the_folder(self, tmp_path, location):
        folder = tmp_path / "model"
        (folder / "sub").mkdir(parents=True)
        (tmp_path / "w.bin").write_bytes(bytes(256))
        (folder / "link.bin").symlink_to(tmp_path / "w.bin")
        (folder / "linked").symlink_to(tmp_path)
        with pytest.raises(InputError, match="outside the model's folder; move it beside the model"):
            load_model(self.model_at(folder, location=location))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"location": "gone.bin"}, "there is no such file beside the model"),
            ({"location": ""}, "names no file"),
            ({"location": "."}, "no regular file"),
            ({"location": "nul\0.bin"}, "there is no such file beside the model"),
            ({"offset": "64"}, "has only 256; the data file is cut short"),
            ({"offset": "-1"}, "impossible offset or length"),
            ({"length": "-256"}, "impossible offset or length"),
            ({"length": "128"}, "impossible offset or length"),
            ({"offset": "many"}, "is no number"),
            ({"offset": "99999999999999999999999"}, "the data file is cut short"),
        ],
        ids=str,
    )
    def test_damaged(self, tmp_path, changes, message):
        with pytest.raises(InputError, match=message):
            load_model(self.model_at(tmp_path, **changes))

    def test_a_subfolder_and_a_link_within_are_fine(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "link.bin").symlink_to("w.bin")
        load_model(self.model_at(tmp_path, location="link.bin"))
        (tmp_path / "sub" / "w.bin").write_bytes(bytes(256))
        load_model(self.model_at(tmp_path, location="sub/w.bin"))


def test_copying_holds_a_chunk_and_no_more(tmp_path, monkeypatch):
    """Also where the system cannot copy between files by itself."""
    size = 64 * 1024 * 1024
    model, _ = residual_mlp(1)
    big = model.graph.initializer.add(name="unused.big", data_type=TensorProto.UINT8, dims=[size])
    big.data_location = TensorProto.EXTERNAL
    big.external_data.add(key="location", value="big.bin")
    block = bytes(range(256)) * 4096
    with (tmp_path / "big.bin").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())

    def unsupported(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "copy_file_range", unsupported, raising=False)
    loaded = load_model(tmp_path / "in.onnx")
    tracemalloc.start()
    save_model(loaded, tmp_path / "out.onnx", source=tmp_path / "in.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * external.CHUNK_BYTES
    with (tmp_path / "out.onnx.data").open("rb") as file:
        for _ in range(size // len(block)):
            assert file.read(len(block)) == block
