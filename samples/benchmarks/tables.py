"""The tables of the README and of docs/, made from the figures in samples/benchmarks/results/.

    python samples/benchmarks/tables.py           # writes them into the pages
    python samples/benchmarks/tables.py --check   # says which page is out of date (exit code 4)

A page holds a table between `<!-- table: NAME -->` and `<!-- end of table -->`. A new table is one function with
`@table("NAME")` here and the two marks in a page; the tests hold the pages to the figures.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import common

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "samples" / "benchmarks" / "results"
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Row = dict[str, Any]
TABLES: dict[str, Callable[[], str]] = {}


def table(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register a function that gives a table's Markdown under this name."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        TABLES[name] = function
        return function

    return register


def figures(name: str) -> Any:
    """The document of one study."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """A Markdown table; the first `left` columns to the left, the rest to the right."""
    ruler = ["---" if i < left else "---:" for i in range(len(head))]
    lines = [head, ruler, *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines).replace(
        "| | ", "|  | "
    )


def only(rows: Iterable[Row], **wanted: object) -> Row:
    """The one row with these values."""
    (found,) = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return found


def percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def speed(row: Row, digits: int = 2) -> str:
    """A speed-up with its interval."""
    low, high = row["ci95"]
    return f"{row['speedup']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def mega(macs: float, digits: int = 1) -> str:
    return f"{macs / 1e6:.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """Decimal notation with that many significant digits."""
    return f"{value:#.{digits}g}".rstrip(".")


@table("summary")
def summary() -> str:
    """The README's: removal, healing and the control, on CIFAR-10."""
    deep, small, healing = (
        figures("removal_resnet56_plain_cpu"),
        figures("resnet20_depth_cpu"),
        figures("healing_cpu"),
    )
    wide = {run["name"]: run["rows"] for run in figures("paper_resnet18_full_width_cpu")["runs"]}
    scratch18 = wide["scratch-4"][0]["test_accuracy"]
    rows: list[list[str]] = []
    for gone, control in ((9, None), (13, only(deep["scratch"], removed=13)["test_accuracy"])):
        paper = only(deep["rows"], way="ranked", criterion="mswd", repair="none", removed=gone)
        cut = only(deep["rows"], way="default", removed=gone)
        rows.append(
            _summary("ResNet-56, plain", f"{gone} of 27", deep["dense_accuracy"], paper, cut, None, control)
        )
    plain = small["runs"][0]["rows"]
    healed = only(healing["resnet20"], network="healed without the repairs, the full learning rate")
    for gone, after, control in (
        (3, None, None),
        (7, healed["test_accuracy"], small["scratch"][0]["test_accuracy"]),
    ):
        paper, cut = (only(plain, way=way, removed=gone) for way in ("paper", "default"))
        dense = plain[0]["test_accuracy"]
        rows.append(_summary("ResNet-20, plain", f"{gone} of 9", dense, paper, cut, after, control))
    best = wide["healed-lambda-1-6-epochs"][0]
    for name, run, after in (("plain", "dense", None), ("penalty", "lambda-1", best["test_accuracy"])):
        paper, cut = (only(wide[run], way=way, removed=4) for way in ("paper", "default"))
        dense = wide["dense"][0]["test_accuracy"]
        cut = cut | {"latency": healing["resnet18"]["latency"] if after else None}
        rows.append(_summary(f"ResNet-18, {name}", "4 of 8", dense, paper, cut, after, scratch18))
    head = ("CIFAR-10 network", "blocks gone", "dense", "the paper's way", "cut and repaired", "healed",
            "shallow from scratch", "times as fast")  # fmt: skip
    return markdown(head, rows)


def _summary(
    name: str, gone: str, dense: float, paper: Row, cut: Row, healed: float | None, control: float | None
) -> list[str]:
    fast = cut.get("latency")
    return [
        name, gone, percent(dense), percent(paper["test_accuracy"]), percent(cut["test_accuracy"]),
        "" if healed is None else percent(healed), "" if control is None else percent(control),
        "" if fast is None else f"{fast['speedup']:.2f}",
    ]  # fmt: skip


@table("resnet20-depth")
def resnet20_depth() -> str:
    head = ["blocks removed"]
    columns = []
    for run in figures("resnet20_depth_cpu")["runs"]:
        head += [f"{run['name']}: the paper's way", f"{run['name']}: default", "MMACs", "speed-up"]
        columns.append({(row["way"], row["removed"]): row for row in run["rows"]})
    rows = []
    for removed in range(10):
        cells: list[str] = [str(removed)]
        for rows_of in columns:
            paper, row = rows_of.get(("paper", removed)), rows_of["default", removed]
            cells += [
                percent(paper["test_accuracy"], 2) if paper else "-", percent(row["test_accuracy"], 2),
                mega(row["macs"]), f"{row['latency']['speedup']:.2f}" if removed else "1",
            ]  # fmt: skip
        rows.append(cells)
    return markdown(head, rows)


@table("resnet56-removal")
def resnet56_removal() -> str:
    rows = figures("removal_resnet56_plain_cpu")["rows"]
    kinds = (
        (
            "rising MSWD (the paper's way)",
            "nothing",
            {"way": "ranked", "criterion": "mswd", "repair": "none"},
        ),
        (
            "rising loss of each removal alone",
            "nothing",
            {"way": "ranked", "criterion": "loss", "repair": "none"},
        ),
        ("random, mean of 5", "nothing", {"way": "random", "repair": "none"}),
        ("random, mean of 5", "linear maps", {"way": "random", "repair": "linear"}),
        ("rising MSWD", "linear maps", {"way": "ranked", "criterion": "mswd", "repair": "linear"}),
        ("**default: greedy by loss**", "**`auto`, blocks that stay refitted**", {"way": "default"}),
    )
    lines = []
    for order, instead, wanted in kinds:
        found = [
            mean(r["test_accuracy"] for r in rows if r["removed"] == gone and wanted.items() <= r.items())
            for gone in (9, 13)
        ]
        cells = [f"**{x:.1f}**" if order.startswith("**") else f"{x:.1f}" for x in found]
        lines.append([order, instead, *cells])
    return markdown(("order", "in place of a block", "9 of 27 gone", "13 of 27 gone"), lines, left=2)


@table("removal-criteria")
def removal_criteria() -> str:
    """Every criterion with every repair, on the plain ResNet-56."""
    rows = figures("removal_resnet56_plain_cpu")["rows"]
    lines = []
    for criterion in ("mswd", "mswd-ascent", "paired", "cosine", "output", "loss", "random"):
        cells = [criterion]
        for gone in (9, 13):
            for repair in ("none", "affine", "linear"):
                wanted = {"criterion": criterion, "repair": repair, "removed": gone}
                cells.append(percent(mean(r["test_accuracy"] for r in rows if wanted.items() <= r.items())))
        lines.append(cells)
    repairs = ("nothing", "affine", "linear")
    return markdown(
        ("ranked by", *(f"{gone} gone: {repair}" for gone in (9, 13) for repair in repairs)), lines
    )


@table("encoders")
def encoders() -> str:
    document = figures("encoders_cpu")
    kinds = (("nothing", "none"), ("linear", "linear"), ("default", "auto"))
    head = ["units gone", *(f"{norm}: {name}" for norm in ("pre-norm", "post-norm") for name, _ in kinds)]
    lines = []
    for gone in (0, 2, 4, 6, 7, 8, 9, 10, 12):
        cells = [str(gone)]
        for norm in ("pre-norm", "post-norm"):
            part = document[norm]["unit"]
            for _, repair in kinds:
                row = (
                    {"score": part["dense"]} if not gone else only(part["rows"], repair=repair, removed=gone)
                )
                cells.append(percent(row["score"]))
        lines.append(cells)
    return markdown(head, lines)


def _paper(study: str, names: dict[str, str], bold: Sequence[str] = (), macs: bool = False) -> str:
    runs = {run["name"]: run["rows"] for run in figures(study)["runs"]}
    last = "4 gone (MMACs)" if macs else "4 gone"
    head = ("trained with", "0 gone", "the paper's way: 2 gone", "4 gone", "default: 2 gone", "3 gone", last)
    lines = []
    for name, title in names.items():
        rows = runs[name]
        picked = [rows[0], *(only(rows, way="paper", removed=k) for k in (2, 4))]
        picked += [only(rows, way="default", removed=k) for k in (2, 3, 4)]
        cells = [percent(row["test_accuracy"], 2) for row in picked]
        if macs:
            cells[-1] += f" ({mega(picked[-1]['macs'])})"
        if name in bold:
            cells[-1] = f"**{cells[-1]}**"
        lines.append([title, *cells])
    return markdown(head, lines)


FOUR = "-blocks-layer1.0-layer1.1-layer3.1-layer4.1"


@table("paper-12-epochs")
def paper_12_epochs() -> str:
    names = {
        "dense": "no penalty", "lambda-1": "**lambda 1**", "lambda-1-linear": "lambda 1, rising linearly from 0",
        "lambda-1-cosine": "lambda 1, rising as a cosine", "lambda-1-ascent": "lambda 1, direction ascended",
        "lambda-2": "lambda 2", "lambda-2-schedule-linear": "lambda 2, rising linearly from 0",
        "lambda-0.5-initial-2-schedule-linear": "lambda 2, falling linearly to 0.5",
        f"lambda-2{FOUR}": "lambda 2, on four of the five blocks", "lambda-5": "lambda 5 (the paper's)",
    }  # fmt: skip
    return _paper("paper_resnet18_cpu", names, bold=["lambda-1"])


@table("paper-50-epochs")
def paper_50_epochs() -> str:
    last = f"lambda-2-schedule-linear-end-0.5{FOUR}"
    names = {
        "dense": "no penalty", "lambda-1": "lambda 1",
        "lambda-2-schedule-linear": "lambda 2, rising linearly from 0",
        last: "lambda 2 on four blocks, rising over the first half",
    }  # fmt: skip
    return _paper("paper_resnet18_50_epochs_cpu", names, bold=[last])


@table("paper-full-width")
def paper_full_width() -> str:
    return _paper("paper_resnet18_full_width_cpu", {"dense": "no penalty", "lambda-1": "lambda 1"}, macs=True)


@table("healing-resnet20")
def healing_resnet20() -> str:
    rows = figures("healing_cpu")["resnet20"]
    lines = [
        (r["network"], percent(r["test_accuracy"], 2), percent(r["mmacs"], 2), r["epochs"]) for r in rows
    ]
    return markdown(("network", "test %", "MMACs", "epochs"), lines)


METHODS = {"easier": "EASIER", "nepenthe": "NEPENTHE", "tlc": "TLC", "layercollapse": "LayerCollapse"}


@table("methods")
def methods() -> str:
    rows = figures("methods_cpu")["rows"]
    head = (
        "network",
        "method",
        "gone",
        "accuracy, %",
        "from scratch, %",
        "parameters",
        "MMACs",
        "speed-up (95 %)",
    )
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        dense = only(rows, network=network, method="dense")
        size = dense["before"]
        parameters = f"{size['parameters'] / 1e3:.1f} k"
        shown = percent(dense["accuracy"])
        lines.append((f"**{network}**", "dense", "", shown, "", parameters, mega(size["macs"], 3), "1"))
        for row in rows:
            if (
                row["network"] == network
                and row["method"] != "dense"
                and not row["method"].startswith("scratch")
            ):
                lines.append(_method(row, rows))
    return markdown(head, lines, left=2)


def _method(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    gone = set(row["removed"])
    controls = [
        r["accuracy"] for r in rows
        if r["network"] == row["network"] and r["method"].startswith("scratch") and set(r["removed"]) == gone
    ]  # fmt: skip
    size, timed = row["after"], row.get("latency")
    shown = timed["dense"] if timed and gone else None
    what = f"{len(gone)} blocks" if row["method"] == "lacoot" else str(len(gone))
    changed = bool(gone)
    return (
        "", METHODS.get(row["method"], "LaCoOT"), what, percent(row["accuracy"]),
        percent(controls[0]) if controls and changed else "",
        f"{size['parameters'] / 1e3:.1f} k" if changed else "", mega(size["macs"], 3) if changed else "",
        speed(shown) if shown else "",
    )  # fmt: skip


DEMO = {
    "plain": "dense, without penalty", "penalty": "dense, with penalty", "cut": "collapsed", "healed": "**healed**",
    "scratch": "shallow, from scratch", "taught": "shallow, from scratch with the teacher",
}  # fmt: skip


@table("demo-seeds")
def demo_seeds() -> str:
    """The demo's networks, seed by seed."""
    rows = figures("demo_seeds_cpu")["rows"]
    head = [
        "accuracy, %",
        *(f"seed {row['seed']}" for row in rows),
        "mean",
        "mean against dense without penalty",
    ]
    lines = []
    for key, title in DEMO.items():
        values = [row[key]["accuracy"] for row in rows]
        against = mean(values) - mean(row["plain"]["accuracy"] for row in rows)
        shown = "" if key == "plain" else f"{against:+.2f}"
        lines.append([title, *(percent(value, 2) for value in values), percent(mean(values), 2), shown])
    return markdown(head, lines)


@table("demo-file")
def demo_file() -> str:
    """The demo's second half: somebody else's file."""
    lines = []
    for row in figures("demo_file_cpu")["rows"]:
        change, fast = (row[key] for key in ("change", "times_as_fast"))
        lines.append((
            row["network"], percent(row["accuracy"]),
            "" if change is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*change),
            row["blocks"], row["mmacs"], row["kib"], "1" if fast is None else "{:.2f} ({:.2f} to {:.2f})".format(*fast),
        ))  # fmt: skip
    head = ("network", "test %", "against dense (95 %)", "blocks", "MMACs", "KiB", "times as fast (95 %)")
    return markdown(head, lines)


@table("latency-cpu")
def latency_cpu() -> str:
    lines = [
        (
            row["network"], f"{len(row['removed'])} of {row['collapsible']}", significant(row["dense_ms"]),
            speed(row), f"{row['expected_speedup']:.2f}", f"{row['realised']:.0%}".replace("%", " %"),
        )
        for row in figures("latency_table_cpu")["rows"]
    ]  # fmt: skip
    head = ("network", "blocks gone", "dense, ms", "speed-up (95 %)", "expected from the time per block",
            "realised saving")  # fmt: skip
    return markdown(head, lines)


SHIPPED = {
    "model": "dense",
    "short": "cut",
    "healed": "cut and healed",
}


@table("shipping")
def shipping() -> str:
    lines = []
    for study in figures("shipping_cpu")["studies"]:
        for line in study["account"]["files"]:
            network, _, conversion = line["name"].partition(" ")
            score, timed = line["score"], line["latency"]
            first = line is study["account"]["files"][0]
            lines.append(
                [
                    f"**{study['name']}**" if first else "",
                    f"{SHIPPED[network]}, {conversion}",
                    "" if score is None else percent(score["value"]),
                    "" if score is None or first else _drop(score),
                    line["verdict"] if timed is None else "1" if first else _times(timed),
                    "" if line["bytes"] is None else f"{line['bytes'] / 1000:.0f}",
                ]
            )
    head = ("network", "file", "accuracy, %", "drop, points (95 %)", "speed-up (95 %)", "KB")
    return markdown(head, lines, left=2)


def _drop(score: Row) -> str:
    return f"{score['drop']:.1f} ({score['drop_low']:.1f} to {score['drop_high']:.1f})"


def _times(timed: Row) -> str:
    return f"{timed['speedup']:.2f} ({timed['low']:.2f} to {timed['high']:.2f})"


@table("shipping-together")
def shipping_together() -> str:
    lines = []
    for study in figures("shipping_cpu")["studies"]:
        files = {line["name"]: line for line in study["account"]["files"]}
        for gain in study["account"]["gains"]:
            if not gain["conversion"].startswith("int8"):
                continue
            parts = [gain["over_cut"], gain["over_converted"]]
            network = SHIPPED[gain["both"].partition(" ")[0]]
            lines.append(
                [
                    study["name"],
                    f"{network}, {gain['conversion']}",
                    f"{gain['drop']:.1f}",
                    f"{gain['speedup']:.2f}",
                    f"{files[gain['cut']]['latency']['speedup']:.2f}",
                    f"{files[gain['converted']]['latency']['speedup']:.2f}",
                    *(f"{value:.2f} ({low:.2f} to {high:.2f})" for value, low, high in parts),
                ]
            )
    head = ("network", "both", "drop, points", "both", "cut alone", "int8 alone", "both over the cut",
            "both over int8")  # fmt: skip
    return markdown(head, lines, left=2)


@table("bench-honesty")
def bench_honesty() -> str:
    parts = figures("bench_honesty_cpu")["peers"]["summary"]
    ways = [name for name in parts["machine as it is"] if name != "runs"]
    lines = []
    for way in ways:
        cells = [
            f"{part[way]['within_3_percent']} of {part['runs']}, {significant(100 * part[way]['rms_error'], 2)} %"
            for part in parts.values()
        ]
        lines.append([f"`{way}`" if way.startswith("lacoot") else way, *cells])
    return markdown(("", *parts), lines)


@table("distance-speed")
def distance_speed() -> str:
    lines = []
    for row in figures("distance_speed_cpu")["speed"]["shapes"]:
        wall = row["wall"]
        lines.append((
            " x ".join(map(str, row["shape"])), significant(wall["ms"]), significant(wall["other_ms"]),
            f"{wall['ratio']:.1f}", f"{row['kept_bytes'] / 2**20:.2f}", f"{row['pot_kept_bytes'] / 2**20:.2f}",
        ))  # fmt: skip
    head = ("samples x features", "ms", "POT, ms", "times as fast", "autograd keeps, MiB", "POT, MiB")
    return markdown(head, lines)


@table("healing-files")
def healing_files() -> str:
    """What healing a bare file gives back."""
    rows = [
        (
            row["network"], len(row["gone"]), row["samples"], row["steps"], row["augment"] or "-",
            percent(row["dense"]), percent(row["cut"]), percent(row["healed"]), percent(row["kept_cut"]),
            percent(row["kept_healed"]), f"{row['processor_seconds']:.0f}",
        )
        for row in figures("healing_files_cpu")["healed"]
    ]  # fmt: skip
    head = (
        "network", "blocks gone", "samples", "steps", "varied", "dense", "cut", "healed", "kept, cut", "kept, healed",
        "processor seconds",
    )  # fmt: skip
    return markdown(head, rows)


@table("trady-steps")
def trady_steps() -> str:
    """What a step under a tenth of the slots keeps and takes."""
    rows = [
        (
            row["network"],
            row["batch"],
            f"{row['kept']} of {row['layers']}",
            f"{row['slots']:,} of {row['all']:,}",
            f"{row['bytes']:,} of {row['plain_bytes']:,} ({percent(100 * row['bytes'] / row['plain_bytes'], 0)} %)",
            f"{row['ms']:.0f} of {row['plain_ms']:.0f} ({row['ms'] / row['plain_ms']:.2f})",
        )
        for row in figures("trady_cpu")["steps"]
    ]
    return markdown(["network", "images", "layers kept", "slots", "bytes kept for the backward", "ms"], rows)


@table("trady")
def trady() -> str:
    """Accuracy against slots and bytes, by sampler."""
    found, rows = figures("trady_cpu"), []
    for data, sampler, share in dict.fromkeys((r["data"], r["sampler"], r["share"]) for r in found["rows"]):
        same = [r for r in found["rows"] if (r["data"], r["sampler"], r["share"]) == (data, sampler, share)]
        slots = mean(r["slots"] for r in same)
        score = mean(r["accuracy"] for r in same)
        kept = mean(r["bytes"] for r in same)
        part = percent(100 * slots / found["slots"], 0)
        rows.append(
            (data, sampler, len(same), f"{slots:,.0f} ({part} %)", f"{percent(score)} %", f"{kept:,.0f}")
        )
    return markdown(["data", "sampler", "seeds", "slots", "accuracy", "bytes kept"], rows, left=2)


def filled(text: str) -> str:
    """A page with its tables made anew."""
    return PLACE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def pages() -> list[Path]:
    """The README and every page of docs/."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 4 if a page is out of date"
    )
    check = parser.parse_args().check
    old = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            old.append(page.relative_to(REPOSITORY).as_posix())
            if not check:
                page.write_text(filled(text), encoding="utf-8")
    for name in old:
        print(f"{name}: {'out of date' if check else 'written'}")
    return 4 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
