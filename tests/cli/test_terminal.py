"""How the command line looks: 80 columns, colours on terminals alone, progress with the time left, completion."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from builders import own_answers, residual_cnn
from lacoot_deploy_cli import live, network
from lacoot_deploy_cli.main import COMMANDS, run
from terminal import on_terminal, screen

from lacoot_deploy.graph.model.io import save_model

ESCAPE = "\x1b["
MODULE = ["-m", "lacoot_deploy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    model = residual_cnn(4, size=8)[0]
    save_model(model, folder / "model.onnx")
    images = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "d.npz", image=images, labels=own_answers(model, image=images))
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def commands() -> list[list[str]]:
    data = ["--data", "npz:d.npz"]
    return [
        ["inspect", "model.onnx"],
        ["inspect", "model.onnx", "--units"],
        ["measure", "model.onnx", *data, "-o", "m.onnx", "--no-latency"],
        ["collapse", "model.onnx", "--count", "2", *data, "-o", "s.onnx", "--plan-out", "p.json"],
        ["compare", "model.onnx", "s.onnx", *data],
        ["bench", "model.onnx", "s.onnx", "--min-time", "0.2", "--rounds", "2", "-v"],
        ["report", "model.onnx", "s.onnx", "p.json", "-o", "r.html"],
        ["doctor"],
    ]


def test_everything_fits_80_columns(there, capsys):
    for arguments in commands():
        assert run(arguments) == 0, arguments
        said = capsys.readouterr()
        wide = [line for line in (said.out + said.err).splitlines() if len(line) > 80]
        assert not wide, arguments
        assert ESCAPE not in said.out + said.err


def test_a_network_is_a_list_of_stages_and_blocks_with_bars(there, capsys):
    run(["measure", "model.onnx", "--data", "npz:d.npz", "-o", "m.onnx", "-q", "--no-latency"])
    capsys.readouterr()
    assert run(["inspect", "m.onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "4 blocks, 4 can go:"
    assert lines[2].split() == ["block", "MACs", "share", "mswd", "goes", "as"]
    assert lines[3] == "N x 4 x 8 x 8"
    blocks = [line for line in lines if line.startswith("  layer")]
    assert len(blocks) == 4
    assert all("█" in line and "%" in line and line.endswith("either") for line in blocks)


def test_names_that_are_long_stay_whole_and_reasons_stand_below():
    from lacoot_deploy.workflow.inspecting import BlockEntry, InspectResult, ModelEntry, ReasonEntry

    name = "model.encoder.layers." + "x" * 70
    reason = ReasonEntry(code="shape", text="Its shape changes " * 9, values=[])
    entry = BlockEntry(
        name=name, input="a", output="b", units=[], forms=[], shape=[None, "s"], dtype=None, nodes=[], parameters=0,
        macs=None, collapsible=False, reason=reason, distance=None,
    )  # fmt: skip
    model = ModelEntry(path="m", nodes=1, parameters=1, macs=None, opset=17)
    lines = network.network_lines(InspectResult(model=model, blocks=[entry]))
    assert f"  {name}" in lines
    assert max(len(line) for line in lines if name not in line) <= 80
    assert "? x s" in map(click.unstyle, lines)
    assert lines[-1].endswith("[shape]")


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, ""), (1e-9, "▏"), (0.5, "█" * 4), (1, "█" * 8), (7, "█" * 8)]
)
def test_bars(share, drawn):
    assert network.bar(share) == drawn


def test_bars_without_block_signs(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert network.bar(0.5) == "####"


def test_colour_on_a_terminal_unless_no_color_is_set():
    arguments = [*MODULE, "inspect", "missing.onnx", "-q"]
    code, text = on_terminal(arguments)
    assert code == 3
    assert ESCAPE in text
    code, text = on_terminal(arguments, environment={"NO_COLOR": "1"})
    assert code == 3
    assert ESCAPE not in text
    assert "error:" in text


def test_tables_on_a_terminal_fit_it(folder):
    plain = {"NO_COLOR": "1"}
    for arguments in (["inspect", "model.onnx"], ["doctor"]):
        path = [str(folder / a) if a.endswith(".onnx") else a for a in arguments]
        code, text = on_terminal([*MODULE, *path], environment=plain)
        assert code == 0
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()
        assert max(len(line) for line in lines if str(folder) not in line) <= 80


WORK = """
import time
from lacoot_deploy_cli.live import progress
with progress(quiet={quiet}, what="getting ready") as told:
    time.sleep({before})
    for i in range({steps}):
        told(i, {steps}, "doing it")
        time.sleep(0.1)
    told({steps}, {steps}, "doing it")
"""


def work(*, quiet=False, before=1.2, steps=30):
    return on_terminal(["-c", WORK.format(quiet=quiet, before=before, steps=steps)])[1]


def test_progress_shows_the_time_gone_and_then_the_time_left():
    text = work()
    assert "getting ready" in text
    assert "doing it" in text
    assert re.search(r"\d+/30 +0:0\d left", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


def test_what_is_done_at_once_or_asked_to_be_quiet_shows_nothing():
    assert work(before=0, steps=1) == ""
    assert work(quiet=True, steps=5) == ""


def test_no_progress_where_there_is_no_terminal(capsys):
    with live.progress(quiet=False) as told:
        time.sleep(0.05)
        told(1, 2, "x")
    assert capsys.readouterr() == ("", "")


SPEAKING = """
import time
from lacoot_deploy_cli.live import progress
from lacoot_deploy_cli.render import note, print_json, say, table
from lacoot_deploy_cli.train import epoch_line
from types import SimpleNamespace as Report
with progress(quiet=False, what="getting ready") as told:
    time.sleep(1.2)
    note("Training on the CPU (1 threads) in fp32.")
    for i in (1, 2):
        told(5, 18, f"epoch {i}")
        time.sleep(0.3)
        note(epoch_line(Report(epoch=i, epochs=1600, loss=23.025, penalty=12.345, train_accuracy=100.0,
                               val_accuracy=100.0, seconds=1234.5, remaining=86399.0)))
    say("a sentence on stdout")
    table([("name", "left"), ("macs", "right")], [("layer1", "12 M")])
    print_json([1])
    told(1, 9, "the last thing")
    time.sleep(0.3)
"""


def test_what_is_printed_while_a_bar_stands_stands_above_it_in_80_columns():
    """As the screen shows it: a line that begins behind the bar's remains, or wraps, would be another."""
    said = ["Training on the CPU (1 threads) in fp32."]
    said += [f"epoch    {i}/1600  loss 23.025  mswd 12.345  val 100.00%  1234s  left 23h59m" for i in (1, 2)]
    said += ["a sentence on stdout", "name     macs", "─" * 13, "layer1   12 M", "[", "  1", "]"]
    _, text = on_terminal(["-c", SPEAKING])
    assert [line.strip() if "macs" in line or "12 M" in line else line for line in screen(text)] == said
    # And the bar below it, as long as it stands.
    _, text = on_terminal(["-c", SPEAKING + "    import os\n    os._exit(0)\n"])
    lines = screen(text)
    assert lines[len(said)].startswith("the last thing ━")
    assert lines[len(said) + 1 :] == []


def test_everything_is_printed_through_the_one_place_that_knows_of_the_bar():
    for path in Path(live.__file__).parent.glob("*.py"):
        found = re.findall(r"\b(?:click\.s?echo|print|sys\.std\w+\.write)\(", path.read_text())
        assert path.name == "render.py" or not found, path.name


@pytest.mark.parametrize(
    ("seconds", "text"), [(7, "0:07"), (None, "0:00"), (750, "12:30"), (3723.4, "1:02:03")]
)
def test_clock(seconds, text):
    assert live.clock(seconds) == text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell):
    def answer(**environment):
        return subprocess.run(
            [sys.executable, "-c", "from lacoot_deploy_cli.main import main; main()"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    assert "lacoot" in answer(_LACOOT_DEPLOY_COMPLETE=f"{shell}_source")
    words = answer(
        _LACOOT_DEPLOY_COMPLETE=f"{shell}_complete",
        COMP_WORDS="lacoot-deploy co",
        COMP_CWORD="1" if shell != "fish" else "co",
    )
    assert "collapse" in words
    assert "compare" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_that_the_command_understands(command, capsys):
    """The options of the examples exist, so that an example cannot outlive what it shows."""
    import shlex

    from lacoot_deploy_cli.main import cli

    run([command, "--help"])
    text = capsys.readouterr().out
    examples = text.split("Example", 1)[1].split(":", 1)[1].split("\n\n")[0].replace("\\\n", " ")
    known = {
        o for p in cli.get_command(click.Context(cli), command).params for o in p.opts + p.secondary_opts
    }
    lines = [line.strip() for line in examples.splitlines() if "lacoot-deploy" in line]
    assert any(shlex.split(line)[1] == command for line in lines)
    for line in lines:
        words = shlex.split(line)
        if words[1] == command:
            assert {w for w in words if w.startswith("-")} <= known


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["insect", "m.onnx"], "Did you mean 'inspect'"),
        (["collapse", "model.onnx"], "--count"),
        (["collapse", "model.onnx", "--max-drop", "1"], "give --data"),
        (
            ["collapse", "model.onnx", "--count", "99", "--criterion", "random"],
            "4 blocks of this model can go",
        ),
        (["collapse", "model.onnx", "--blocks", "layer9"], "Did you mean"),
        (["compare", "model.onnx", "model.onnx", "--data", "digit"], "npz:PATH"),
        (["bench", "model.onnx", "--require-speedup", "2"], "give B"),
        (["measure", "model.onnx", "--data", "npz:none.npz", "-o", "x.onnx"], "none.npz"),
        (["train", "none.toml", "-o", "run"], "none.toml"),
        (["report", "d.npz", "-o", "r.html"], "d.npz"),
        (["bench", "model.onnx", "--provider", "warp"], "warp"),
    ],
)
def test_errors_say_what_to_do(there, arguments, advice, capsys):
    assert run(arguments) in (2, 3, 5, 7)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert advice in last
    assert last.endswith((".", "?"))
