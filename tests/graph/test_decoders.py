"""Whole layers of decoders go with their caches; what is left gives, token by token, what the shorter network gives."""

import numpy as np
import onnx
import pytest
from builders import GraphBuilder
from decoders import KINDS, decoder, generate

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.graph.surgery.private_io import layer_numbers, renumber_io

PROMPT = [3, 7, 1, 40, 22]


def without(model: onnx.ModelProto, numbers: list[int]) -> onnx.ModelProto:
    """The model without some layers, its caches numbered anew."""
    blocks = [block for block in find_blocks(model, private_io=True) if block.private_outputs]
    cuts = [Cut(blocks[number], blocks[number].forms[0]) for number in numbers]
    result = collapse_blocks(model, cuts)
    removed = [name for cut in cuts for name in (*cut.block.private_inputs, *cut.block.private_outputs)]
    assert layer_numbers(removed, model.graph) == tuple(numbers)
    renumber_io(result, removed)
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", [[0], [1], [2], [0, 2]])
def test_the_cut_decoder_is_the_one_built_without_the_layers(kind, gone):
    cut = without(decoder(kind, range(3)), gone)
    built = decoder(kind, [number for number in range(3) if number not in gone])
    if kind != "group query":  # ONNX does not know ONNX Runtime's own norm
        onnx.checker.check_model(cut, full_check=True)
    for ours, theirs in ((cut.graph.input, built.graph.input), (cut.graph.output, built.graph.output)):
        assert [value.name for value in ours] == [value.name for value in theirs]
    tokens = generate(built, PROMPT, 8)
    assert generate(cut, PROMPT, 8) == tokens
    assert tokens != generate(decoder(kind, range(3)), PROMPT, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_without_leave_the_refusal_names_the_option(kind):
    refused = [block for block in find_blocks(decoder(kind, range(2))) if not block.collapsible]
    assert [block.reason.code for block in refused] == ["interior_read"] * 2
    assert all("--drop-private-io" in block.reason.text for block in refused)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_keep_their_number_in_the_name(kind):
    names = [block.name for block in find_blocks(decoder(kind, range(3)), private_io=True)]
    assert names == [f"model.layers.{number}" for number in range(3)]


def test_an_output_that_others_lead_to_is_not_private():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]))
    inner = g.op("Relu", g.op("MatMul", x, g.normal(8, 8)), output="inner")
    y = g.op("Add", x, g.op("MatMul", inner, g.normal(8, 8)), output="y")
    g.op("Mul", g.op("Softmax", inner), y, output="z")
    (block,) = find_blocks(g.model({"z": ["N", 8]}), private_io=True)
    assert block.reason.code == "interior_read"


def test_a_size_that_others_ask_of_a_cache_is_asked_of_another_one():
    model = decoder("concat", range(2))
    size = onnx.helper.make_node("Shape", ["past_key_values.0.key"], ["asked"])
    model.graph.node.insert(0, size)
    model.graph.output.append(onnx.helper.make_tensor_value_info("asked", onnx.TensorProto.INT64, [4]))
    cut = without(model, [0])
    assert [node.input[0] for node in cut.graph.node if node.op_type == "Shape"] == ["past_key_values.0.key"]
    assert len([value for value in cut.graph.input if value.name.startswith("past")]) == 2
    lonely = decoder("concat", range(1))
    lonely.graph.node.insert(0, size)
    lonely.graph.output.append(onnx.helper.make_tensor_value_info("asked", onnx.TensorProto.INT64, [4]))
    with pytest.raises(InputError, match="no other value is known to have it"):
        without(lonely, [0])


def test_numbers_are_told_from_others_in_a_name():
    g = GraphBuilder()
    for number in (0, 2, 10):
        g.op("Neg", g.input(f"k8_past_{number}_of_3", ["N"]), output=f"out_{number}")
    model = g.model({f"out_{number}": ["N"] for number in (0, 2, 10)})
    renamed = renumber_io(model, ["k8_past_1_of_3", "out_1"])
    assert renamed == {
        "k8_past_2_of_3": "k8_past_1_of_3",
        "k8_past_10_of_3": "k8_past_2_of_3",
        "out_2": "out_1",
        "out_10": "out_2",
    }
    assert [node.input[0] for node in model.graph.node] == [value.name for value in model.graph.input]


FAMILIES = ("llama", "gpt2", "qwen3", "neox", "gemma2", "phi")


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_decoders_give_the_tokens_of_the_network_without_the_layer(family, exporter, tmp_path):
    """PyTorch with the layer deleted is the oracle; the files come from PyTorch's own exporters, with caches."""
    exported_decoders = pytest.importorskip("exported_decoders")
    network = exported_decoders.build(family)
    onnx.save(exported_decoders.export(network, exporter), tmp_path / "m.onnx")
    from lacoot_deploy.workflow.inspecting import open_model

    opened = open_model(tmp_path / "m.onnx", private_io=True)
    layers = [block for block in opened.blocks if block.private_outputs]
    assert len(layers) == network.config.num_hidden_layers
    for number, block in enumerate(layers):
        assert block.collapsible, block.reason
        cut = collapse_blocks(opened.model, [Cut(block, block.forms[0])])
        renumber_io(cut, [*block.private_inputs, *block.private_outputs])
        shorter = exported_decoders.without(network, number)
        assert generate(cut, PROMPT[:3], 6) == exported_decoders.generate(shorter, PROMPT[:3], 6)


def test_configurations_beside_the_model_are_copied_with_the_layers_that_are_left(tmp_path):
    import json

    from lacoot_deploy.selection.limits import Limit
    from lacoot_deploy.selection.options import SearchOptions
    from lacoot_deploy.workflow.collapsing import CollapseRequest, run_collapse

    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    onnx.save(decoder("concat", range(3)), source / "model.onnx")
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "hidden_size": 32}
    genai = {"model": {"decoder": {"filename": "model.onnx", "num_hidden_layers": 3}, "vocab_size": 48}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "genai_config.json").write_text(json.dumps(genai))
    request = CollapseRequest(
        source / "model.onnx",
        target / "short.onnx",
        Limit(blocks=("model.layers.1",)),
        search=SearchOptions(private_io="renumber"),
    )
    result = run_collapse(request)
    assert result.plan.options.search.private_io == "renumber"
    assert json.loads((target / "config.json").read_text()) == config | {
        "num_hidden_layers": 2,
        "layer_types": ["a", "c"],
    }
    found = json.loads((target / "genai_config.json").read_text())["model"]["decoder"]
    assert found == {"filename": "short.onnx", "num_hidden_layers": 2}
    assert json.loads((source / "config.json").read_text()) == config
    assert any("went with their blocks" in note for note in result.notes)
    short = onnx.load(target / "short.onnx")
    assert generate(short, PROMPT, 4) == generate(decoder("concat", [0, 2]), PROMPT, 4)
    np.testing.assert_array_equal(
        [value.name for value in short.graph.input][2:4],
        [
            "past_key_values.0.key",
            "past_key_values.0.value",
        ],
    )


def test_layers_of_a_fused_decoder_are_chosen_on_data_and_go_with_their_caches(tmp_path):
    """Sum and norm come out of one node: trials feed both on, and the file that is written lacks the layer's cache."""
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.selection.limits import Limit
    from lacoot_deploy.selection.options import SearchOptions
    from lacoot_deploy.workflow.collapsing import CollapseRequest, run_collapse

    model = decoder("group query", range(2))
    onnx.save(model, tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    feeds = {"input_ids": random.integers(0, 48, (16, 3)), "attention_mask": np.ones((16, 5), np.int64)}
    for value in model.graph.input[2:]:
        feeds[value.name] = random.standard_normal((16, 2, 2, 16)).astype(np.float32)
    np.savez(tmp_path / "d.npz", **feeds)
    request = CollapseRequest(
        tmp_path / "m.onnx",
        tmp_path / "o.onnx",
        Limit(count=1),
        data=DataOptions(f"npz:{tmp_path / 'd.npz'}"),
        search=SearchOptions(repair="none", private_io="renumber"),
    )
    result = run_collapse(request)
    gone = int(result.plan.steps[0].block.rpartition(".")[2])
    short = onnx.load(tmp_path / "o.onnx")
    assert generate(short, PROMPT, 6) == generate(decoder("group query", [1 - gone]), PROMPT, 6)
