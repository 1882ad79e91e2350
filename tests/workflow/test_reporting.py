"""From files to a report: what belongs together is found, what is given is used, what is missing is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from builders import own_answers, residual_cnn
from lacoot_deploy_cli.main import run as command

import lacoot_deploy as ld
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.manifest import parse_plan
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.workflow.comparing import compare
from lacoot_deploy.workflow.report_samples import picture, worst_samples


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dense network, one cut from it by a search, its plan, and data."""
    folder = tmp_path_factory.mktemp("files")
    model = residual_cnn(5, size=8)[0]
    save_model(model, folder / "dense.onnx")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((200, 3, 8, 8)).astype(np.float32)
    labels = own_answers(model, image=images)
    np.savez(folder / "data.npz", image=images, labels=labels)
    data = ld.DataOptions(f"npz:{folder / 'data.npz'}")
    ld.collapse(
        folder / "dense.onnx",
        folder / "short.onnx",
        limit=ld.Limit(count=2),
        data=data,
        plan_out=folder / "plan.json",
    )
    return folder


@pytest.fixture
def data(files):
    return ld.DataOptions(f"npz:{files / 'data.npz'}")


def test_dense_and_collapsed_are_matched_in_any_order(files):
    for order in (("dense", "short"), ("short", "dense")):
        document = ld.report([files / f"{name}.onnx" for name in order])
        assert [(n.name, n.role) for n in document.networks] == [
            ("dense.onnx", "dense"),
            ("short.onnx", "collapsed"),
        ]
        assert len(document.answer.removed) == 2
        assert document.answer.cost is not None, "the history holds the accuracies"
        assert document.answer.cost.ci95 is None
        assert {"gain", "scratch", "latency", "drift", "training"} <= set(document.missing)


def test_the_plan_adds_the_search_and_the_interval(files):
    document = ld.report([files / "dense.onnx", files / "short.onnx", files / "plan.json"])
    confirming = parse_plan((files / "plan.json").read_text()).evidence.confirming
    assert document.answer.cost.ci95 == pytest.approx(confirming.ci95)
    (search,) = [curve for curve in document.curves if curve.kind == "search"]
    assert [point.removed for point in search.points] == [0, 1, 2]
    assert "--count 2" in " ".join(document.reproduction.commands)


def test_results_given_are_those_measured(files, data, tmp_path):
    dense, short = files / "dense.onnx", files / "short.onnx"
    comparison = compare(dense, short, data)
    bench = ld.benchmark(dense, short, options=BenchOptions(min_time=0.3, rounds=3))
    (tmp_path / "c.json").write_text(comparison.model_dump_json())
    (tmp_path / "b.json").write_text(bench.model_dump_json())
    # By another name it is the same file.
    renamed = tmp_path / "renamed.onnx"
    shutil.copy(short, renamed)
    document = ld.report([dense, renamed, tmp_path / "c.json", tmp_path / "b.json"], tmp_path / "r.html")
    answer = document.answer
    assert (answer.cost.before, answer.cost.after) == (comparison.accuracy.a, comparison.accuracy.b)
    assert answer.cost.drop == comparison.accuracy.drop_points
    assert answer.cost.ci95 == comparison.accuracy.ci95
    assert (answer.gain.speedup, answer.gain.ci95) == (bench.speedup, bench.ci95)
    assert [h.samples for h in document.latency.histograms] == [bench.a.samples, bench.b.samples]
    assert document.drift[0].rel_rms == comparison.outputs[document.drift[0].output].rel_rms
    assert document.worst[0].index == comparison.outputs[document.drift[0].output].worst[0].index
    assert "short.onnx" not in (tmp_path / "r.html").read_text()


def test_results_of_other_files_are_left_out_and_named(files, data, tmp_path):
    save_model(residual_cnn(5, size=8, seed=3)[0], tmp_path / "other.onnx")
    comparison = compare(files / "dense.onnx", tmp_path / "other.onnx", data)
    (tmp_path / "c.json").write_text(comparison.model_dump_json())
    document = ld.report([files / "dense.onnx", files / "short.onnx", tmp_path / "c.json"])
    assert document.drift == []
    assert any("c.json" in note for note in document.notes)


def test_one_command_measures_the_whole_page(files, data, tmp_path):
    page = tmp_path / "report.html"
    document = ld.report(
        [files / "dense.onnx", files / "short.onnx", files / "plan.json"],
        page,
        scratch=files / "short.onnx",
        data=data,
        bench=BenchOptions(min_time=0.3),
        runtime=ld.Runtime(threads=1),
    )
    # A control that is the collapsed network itself: no better, no worse.
    assert document.answer.scratch.ahead == 0
    assert document.answer.cost.samples == 200
    assert all(sample.image.startswith("data:image/png") for sample in document.worst)
    assert all(sample.label is not None for sample in document.worst)
    (search,) = [curve for curve in document.curves if curve.kind == "search"]
    assert all(point.latency is not None for point in search.points)
    shares = [block.share for block in document.blocks]
    assert all(share is not None and 0 < share < 1 for share in shares)
    assert set(document.missing) <= {"distances", "training"}
    assert str(files) not in page.read_text(), "no folder of this machine is in the page"
    assert str(files) not in document.model_dump_json()


def test_worst_samples_carry_the_names_of_their_classes(files, data):
    dense, short = files / "dense.onnx", files / "short.onnx"
    comparison = compare(dense, short, data)
    (output,) = comparison.outputs
    with np.load(files / "data.npz") as arrays:
        feeds, labels = {"image": arrays["image"]}, arrays["labels"]
    sessions = open_session(dense), open_session(short)
    answers = [session.run(feeds)[output].argmax(1) for session in sessions]
    names = ("cat", "dog", "frog")
    named = worst_samples(comparison, samples=Samples(feeds, labels, classes=names), sessions=sessions)
    assert named
    for one in named:
        assert one.label == names[labels[one.index]]
        assert (one.before, one.after) == tuple(names[answer[one.index]] for answer in answers)
    # Data of other classes than the network's: its answers keep their numbers.
    other = worst_samples(comparison, samples=Samples(feeds, labels, classes=names[:2]), sessions=sessions)
    assert {one.before for one in other} <= {"0", "1", "2"}


def test_a_recommended_plan_is_shown_without_a_collapsed_file(files, tmp_path):
    from lacoot_deploy.graph.model.io import load_model
    from lacoot_deploy.manifest import Manifest, write_manifest

    model = load_model(files / "dense.onnx")
    write_manifest(model, Manifest(plan=parse_plan((files / "plan.json").read_text())))
    save_model(model, tmp_path / "trained.onnx")
    document = ld.report([tmp_path / "trained.onnx"])
    assert not document.answer.written
    assert len(document.answer.removed) == 2
    assert document.answer.cost.ci95 is not None
    measured = ld.report([tmp_path / "trained.onnx"], data=ld.DataOptions(f"npz:{files / 'data.npz'}"))
    assert not measured.answer.written
    assert measured.drift


def test_files_without_a_link_are_taken_in_their_order(files, tmp_path):
    save_model(residual_cnn(3, size=8)[0], tmp_path / "b.onnx")
    document = ld.report([files / "dense.onnx", tmp_path / "b.onnx"])
    assert [n.role for n in document.networks] == ["dense", "collapsed"]
    assert any("No history links" in note for note in document.notes)


def test_a_collapsed_file_alone_says_that_the_other_is_missing(files):
    document = ld.report([files / "short.onnx"])
    assert document.network("dense") is None
    assert len(document.answer.removed) == 2
    assert any("give it as well" in note for note in document.notes)


def test_a_run_folder_without_a_model_and_one_with_a_cut_line(files, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "loss": 2.0, "val_accuracy": 10.0}) + "\n")
    (run / "recipe.json").write_text(json.dumps({"seed": 7, "data": "cifar10:/home/me/cifar10.zip"}))
    document = ld.report([run, files / "dense.onnx"])
    assert document.training[0].epochs[0].loss == 2.0
    assert document.training[0].recipe["data"] == "cifar10:cifar10.zip"
    assert {"training of run": "7"}.items() <= {f.name: f.value for f in document.reproduction.seeds}.items()
    (run / "metrics.jsonl").write_text('{"epoch": 1, "lo')
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
        ld.report([run, files / "dense.onnx"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "no JSON object"),
        ('{"x": 1}', "nothing that a report is made of"),
        ('{"rows": 3, "dense_accuracy": 1}', "cannot be used"),
        ('{"steps": 1, "limit": {}}', "cannot be used"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_json_that_is_no_result_is_refused_by_name(files, tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as failure:
        ld.report([files / "dense.onnx", path])
    assert "x.json" in str(failure.value)


def test_what_is_no_network_and_no_run_is_refused(files, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        ld.report([tmp_path])
    with pytest.raises(InputError, match="needs a network"):
        ld.report([files / "plan.json"])
    with pytest.raises(InputError, match="does not exist"):
        ld.report([files / "dense.onnx"], tmp_path / "missing" / "r.html")


def test_no_input_is_written_over(files, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    for target in (files / "plan.json", files / "dense.onnx", files / "data.npz", run / "metrics.jsonl"):
        before = target.read_bytes()
        with pytest.raises(InputError, match="input"):
            ld.report(
                [files / "dense.onnx", files / "plan.json", run],
                target,
                data=ld.DataOptions(f"npz:{files / 'data.npz'}"),
            )
        assert target.read_bytes() == before


def test_results_tables_are_drawn_with_their_controls(files, tmp_path):
    rows = [
        {
            "way": way,
            "removed": n,
            "test_accuracy": 80 - n * cost,
            "macs": 100 - n,
            "latency": {"speedup": 1 + n},
        }
        for way, cost in (("paper", 10), ("default", 2))
        for n in range(4)
    ]
    table = {
        "machine": {},
        "runs": [{"name": "plain", "recipe": {}, "rows": rows}],
        "scratch": [{"name": "2 blocks", "without": ["a", "b"], "test_accuracy": 78.0}],
    }
    (tmp_path / "t.json").write_text(json.dumps(table))
    document = ld.report([files / "dense.onnx", files / "short.onnx", tmp_path / "t.json"])
    kinds = {curve.kind: curve for curve in document.curves}
    assert [point.score for point in kinds["paper"].points] == [80, 70, 60, 50]
    assert [point.latency for point in kinds["default"].points] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert kinds["scratch"].points[0].removed == 2
    assert document.answer.scratch.score == 78.0
    assert document.answer.scratch.ahead is None, "other samples: no difference is claimed"


def test_the_command(files, tmp_path, capsys):
    page = tmp_path / "r.html"
    arguments = [str(files / "dense.onnx"), str(files / "short.onnx"), "-o", str(page)]
    assert command(["report", *arguments, "--title", "For <Monday>"]) == 0
    said = capsys.readouterr()
    assert "2 of 5 blocks are gone" in said.out.replace("\N{NO-BREAK SPACE}", " ")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "For &lt;Monday&gt;" in page.read_text()
    assert command(["report", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert len(document["answer"]["removed"]) == 2


def test_the_same_inputs_give_the_same_page(files, tmp_path):
    for name in ("a.html", "b.html"):
        ld.report([files / "dense.onnx", files / "short.onnx", files / "plan.json"], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_pictures():
    from lacoot_deploy.manifest import PreprocessingRecord

    grey = PreprocessingRecord(mean=[0.5], std=[0.25], size=(2, 2), channels=1)
    assert picture(np.zeros((1, 8, 8), np.float32), grey).startswith("data:image/png;base64,")
    assert picture(np.full((3, 300, 400), np.nan, np.float32), None) is not None
    assert picture(np.zeros((5, 8, 8), np.float32), grey) is None
    assert picture(np.zeros((7,), np.float32), grey) is None
