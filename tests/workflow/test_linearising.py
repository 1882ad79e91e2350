"""`collapse` with activations: files in, files out, one plan and one history for blocks and activations."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, run
from lacoot_deploy_cli.main import run as command

from lacoot_deploy import DataOptions, Limit, LineariseOptions, collapse
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.graph.linear import MergeRecord
from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.manifest import read_manifest
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.workflow.activations import inspect_activations


def classifier(seed: int = 0) -> onnx.ModelProto:
    """A small VGG: two convolutions, then three fully connected layers with batch norm."""
    g = GraphBuilder(seed=seed)
    value = g.input("image", ["N", 3, 8, 8])
    value = g.op("Relu", g.op("Conv", value, g.normal(8, 3, 3, 3), g.normal(8), pads=[1] * 4))
    value = g.op("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = g.op("Flatten", value)
    value = g.op("Relu", g.op("Gemm", value, g.normal(128, 64), g.normal(64)), output="hidden1")
    value = g.op("Relu", g.op("Gemm", value, g.normal(64, 64), g.normal(64)), output="hidden2")
    g.op("Gemm", value, g.normal(64, 5), g.normal(5), output="logits")
    return g.model({"logits": ["N", 5]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("linear")
    for name, model in (("vgg", classifier()), ("resnet", residual_cnn(3, channels=4)[0])):
        save_model(model, path / f"{name}.onnx")
        feeds = random_feeds(model, batch=160, seed=3)
        labels = run(model, feeds)[0].argmax(axis=1)
        np.savez(path / f"{name}.npz", **feeds, labels=labels)
    return path


def data(folder, name: str = "vgg") -> DataOptions:
    return DataOptions(spec=f"npz:{folder / name}.npz")


def test_chosen_activations_go_and_the_layers_around_them_are_one(folder, tmp_path) -> None:
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    options = LineariseOptions("auto", Limit(count=2), criterion="entropy")
    result = collapse(
        folder / "vgg.onnx", out, linearise=options, data=data(folder), runtime=Runtime("cpu"), plan_out=plan
    )
    assert [record.output for record in result.plan.linearised] in (
        ["hidden1", "hidden2"],
        ["hidden2", "hidden1"],
    )
    written = onnx.load(out)
    assert [node.op_type for node in written.graph.node] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert result.after.parameters == 3 * 8 * 9 + 8 + 128 * 5 + 5
    assert all(merge.error == 0 for merge in result.merges)
    assert result.plan.evidence.confirming.drop_points is not None
    (entry,) = read_manifest(written).history
    assert entry.linearised == [record.activation for record in result.plan.linearised]
    assert len(entry.merged) == len([merge for merge in result.merges if merge.second])
    again = tmp_path / "again.onnx"
    collapse(folder / "vgg.onnx", again, plan_file=plan, runtime=Runtime("cpu"))
    assert again.read_bytes() == out.read_bytes()


def test_auto_takes_only_what_merges_for_a_gain(folder, tmp_path) -> None:
    options = LineariseOptions("auto", Limit(count=3))
    with pytest.raises(NothingToCollapseError, match="--count 3"):
        collapse(
            folder / "vgg.onnx",
            tmp_path / "o.onnx",
            linearise=options,
            data=data(folder),
            runtime=Runtime("cpu"),
        )
    options = LineariseOptions("auto", Limit(count=1))
    with pytest.raises(NothingToCollapseError, match="inspect --activations"):
        collapse(
            folder / "resnet.onnx",
            tmp_path / "o.onnx",
            linearise=options,
            data=data(folder, "resnet"),
            runtime=Runtime("cpu"),
        )


def test_blocks_and_activations_go_by_one_plan(folder, tmp_path) -> None:
    out, again, plan = tmp_path / "out.onnx", tmp_path / "again.onnx", tmp_path / "plan.json"
    names = [entry.name for entry in inspect_activations(folder / "resnet.onnx").activations]
    result = collapse(
        folder / "resnet.onnx",
        out,
        limit=Limit(blocks=(block_names(folder)[1],)),
        linearise=LineariseOptions((names[-1],), merge="always", inexact=True),
        data=data(folder, "resnet"),
        runtime=Runtime("cpu"),
        plan_out=plan,
    )
    assert len(result.plan.steps) == len(result.plan.linearised) == 1
    assert result.plan.evidence.blocks.measured
    (entry,) = read_manifest(onnx.load(out)).history
    assert entry.blocks == [block_names(folder)[1]]
    assert entry.linearised == [names[-1]]
    collapse(folder / "resnet.onnx", again, plan_file=plan, runtime=Runtime("cpu"))
    assert again.read_bytes() == out.read_bytes()


def block_names(folder) -> list[str]:
    from lacoot_deploy import inspect

    return [block.name for block in inspect(folder / "resnet.onnx").blocks if block.collapsible]


def test_one_after_the_other_leaves_two_entries_in_the_history(folder, tmp_path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    collapse(folder / "resnet.onnx", first, limit=Limit(blocks=(block_names(folder)[0],)))
    last = inspect_activations(first).activations[-1].name
    collapse(first, second, linearise=LineariseOptions((last,), merge="never"))
    blocks, activations = read_manifest(onnx.load(second)).history
    assert blocks.blocks
    assert not blocks.linearised
    assert activations.linearised == [last]
    assert not activations.blocks


def test_measuring_decides_once_and_the_plan_remembers(folder, tmp_path, monkeypatch) -> None:
    from lacoot_deploy.bench import merging

    seen: list[tuple[int, int]] = []

    class Measured:
        ci95 = (1.2, 1.4)

    class Slower:
        ci95 = (0.8, 1.1)

    def bench(a, b, *given, **options):
        seen.append((len(a.graph.node), len(b.graph.node)))
        return Measured() if len(seen) == 1 else Slower()

    monkeypatch.setattr(merging, "bench", bench)
    names = tuple(entry.name for entry in inspect_activations(folder / "vgg.onnx").activations[1:])
    out, again, plan = tmp_path / "out.onnx", tmp_path / "again.onnx", tmp_path / "plan.json"
    result = collapse(
        folder / "vgg.onnx", out, linearise=LineariseOptions(names, merge="measured"), plan_out=plan
    )
    assert seen
    assert all(pair == (2, 1) for pair in seen)
    assert len(result.plan.faster) == 1
    assert [refusal.reason.code for refusal in result.refused] == ["not-faster"]
    count = len(seen)
    collapse(folder / "vgg.onnx", again, plan_file=plan)
    assert len(seen) == count
    assert again.read_bytes() == out.read_bytes()


def test_a_real_measurement_gives_a_verdict(tmp_path) -> None:
    from lacoot_deploy.bench.merging import MergeMeasurer
    from lacoot_deploy.graph.linear import merge_linear

    g = GraphBuilder()
    value = g.op("Gemm", g.input("x", ["N", 512]), g.normal(512, 2048))
    g.op("Gemm", value, g.normal(2048, 16), output="y")
    measurer = MergeMeasurer(Runtime("cpu", threads=1))
    seen: list[MergeRecord] = []

    def pays(record, pair):
        seen.append(record)
        return measurer(record, pair)

    result = merge_linear(g.model({"y": ["N", 16]}), "cheaper", pays=pays)
    assert len(seen) == 1
    assert (len(result.model.graph.node) == 1) == bool(measurer.faster)
    assert measurer.faster, "128 times fewer multiply-adds"


def test_merging_alone_folds_what_is_linear_already(folder, tmp_path) -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 3, 8, 8]), g.normal(4, 3, 3, 3))
    positive = g.weight(np.ones(4))
    g.op("BatchNormalization", value, positive, g.normal(4), g.normal(4), positive, output="y")
    save_model(g.model({"y": ["N", 4, 6, 6]}), tmp_path / "m.onnx")
    result = collapse(tmp_path / "m.onnx", tmp_path / "o.onnx", linearise=LineariseOptions(None))
    assert result.after.nodes == 1
    with pytest.raises(NothingToCollapseError, match="merged for a gain"):
        collapse(tmp_path / "o.onnx", tmp_path / "p.onnx", linearise=LineariseOptions(None))


def test_external_weights_are_read_and_written(tmp_path) -> None:
    model = classifier()
    feeds = random_feeds(model)
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64
    )
    names = tuple(entry.name for entry in inspect_activations(tmp_path / "m.onnx").activations[1:])
    collapse(tmp_path / "m.onnx", tmp_path / "o.onnx", linearise=LineariseOptions(names))
    inner = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    assert len(inner.graph.node) == 5
    assert run(str(tmp_path / "o.onnx"), feeds)[0].shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "with_data", "match"),
    [
        (lambda: LineariseOptions("auto"), True, "Say how far"),
        (lambda: LineariseOptions("all", Limit(count=1)), False, "give --data"),
        (lambda: LineariseOptions("all", Limit(lossless=True)), True, "about blocks"),
        (lambda: LineariseOptions(("a",), Limit(count=1)), True, "not both"),
        (lambda: LineariseOptions(()), True, "names no activation"),
        (lambda: LineariseOptions(("a",), fit="affine"), False, "--fit affine"),
        (lambda: LineariseOptions("all", Limit(count=1), criterion="mswd"), True, "no criterion"),
        (lambda: LineariseOptions(("nothing",)), False, "no activation 'nothing'"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, tmp_path, options, with_data, match) -> None:
    given = data(folder) if with_data else None
    with pytest.raises(UsageError, match=match):
        collapse(folder / "vgg.onnx", tmp_path / "o.onnx", linearise=options(), data=given)
    assert not (tmp_path / "o.onnx").exists()


def test_the_command_line_prints_80_columns_and_json(folder, tmp_path, capsys) -> None:
    def fits(text: str) -> bool:
        # A path is never broken, however long the folder's is.
        return all(len(line) <= 80 or len(line.split()) == 1 for line in text.splitlines())

    def shown(*arguments) -> str:
        code = command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    listed = shown("inspect", folder / "vgg.onnx", "--activations")
    assert fits(listed)
    assert "Gemm: pays" in listed
    found = json.loads(shown("inspect", folder / "vgg.onnx", "--activations", "--json"))
    assert [entry["merges"] for entry in found["activations"]] == [False, True, True]
    arguments = [
        "collapse",
        folder / "vgg.onnx",
        "--linearise",
        "auto",
        "--max-drift",
        "10",
        "--provider",
        "cpu",
    ]
    arguments += ["--data", f"npz:{folder}/vgg.npz", "-o", tmp_path / "o.onnx"]
    text = shown(*arguments)
    assert fits(text)
    assert "of linear operators (--merge cheaper)" in text
    document = json.loads(shown(*arguments, "--dry-run", "--json"))
    assert document["plan"]["merge"] == "cheaper"
    assert len(document["merges"]) >= 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--linearise", "auto"], "--count"),
        (["--fit", "affine", "--count", "1"], "--linearise"),
        (["--inexact"], "--linearise"),
        (["--criterion", "entropy", "--count", "1"], "--linearise"),
        (["--linearise", "all", "--count", "1", "--criterion", "mswd"], "entropy"),
        (["--linearise", "hiden1"], "Did you mean"),
    ],
)
def test_wrong_use_ends_with_two_and_says_what_to_do(folder, capsys, arguments, expected) -> None:
    assert command(["collapse", str(folder / "vgg.onnx"), *arguments]) == 2
    assert expected in capsys.readouterr().err
