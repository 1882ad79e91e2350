"""What `inspect --activations` and `collapse --linearise` share: how results look."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lacoot_deploy.numerals import counted, metric, significant

from .render import PLAIN_WIDTH, say, table

if TYPE_CHECKING:
    from lacoot_deploy.workflow.activations import ActivationEntry, ActivationsResult
    from lacoot_deploy.workflow.collapsing import CollapseResult


def show_activations(inspection: ActivationsResult) -> None:
    """Print the activations of a model for reading."""
    model, found = inspection.model, inspection.activations
    say(
        f"{model.path}: {model.nodes} nodes, {metric(model.parameters)} parameters, "
        f"{metric(model.macs)} MACs per sample, opset {model.opset}"
    )
    if not found:
        say("No activations found.")
        return
    exact = [entry for entry in found if entry.merges]
    gain = sum(entry.pays is True for entry in exact)
    fewer = "none of them with" if not gain else "all with" if gain == len(exact) else f"{gain} of them with"
    layers = (
        f"{len(exact)} could go and leave one layer in place of two, exactly; {fewer} fewer multiply-adds and "
        "parameters:"
        if exact
        else "None could go and leave exactly one layer in place of two:"
    )
    say(f"{counted(len(found), 'activation')}. {layers}")
    columns = [
        ("activation", "left"),
        ("kind", "left"),
        ("MACs", "right"),
        ("as one", "right"),
        ("would be", "left"),
    ]
    rows = _shortened([heading for heading, _ in columns], [_row(entry) for entry in found])
    table(columns, rows)
    if any(row[0] != entry.name for row, entry in zip(rows, found, strict=True)):
        say("Names that were cut stand in full in --json.")
    texts: dict[str, list[str]] = {}
    for entry in found:
        if entry.reason is not None:
            texts.setdefault(entry.reason.code, []).append(_general(entry))
    for code, sentences in texts.items():
        say(f"{code}: {sentences[0]}")


def _row(entry: ActivationEntry) -> list[str]:
    return [
        entry.name,
        entry.kind,
        metric(None if entry.before is None else entry.before.macs),
        metric(None if entry.after is None else entry.after.macs),
        _verdict(entry),
    ]


def _verdict(entry: ActivationEntry) -> str:
    """What the layers around it would be as one, and whether that is exact and pays, or the code of the reason."""
    if entry.reason is not None:
        verdict = entry.reason.code
    else:
        verdict = {True: "pays", False: "no gain", None: "exact"}[entry.pays]
    return verdict if entry.merged is None else f"{entry.merged}: {verdict}"


def _shortened(headings: list[str], rows: list[list[str]]) -> list[list[str]]:
    """The rows with names cut from the left so far that the table fits its 80 columns."""
    others = list(zip(headings, *rows, strict=True))[1:]
    room = PLAIN_WIDTH - sum(max(map(len, column)) + 3 for column in others)
    return [[name if len(name) <= room else "..." + name[3 - room :], *rest] for name, *rest in rows]


_MEANINGS = {
    "other-readers": "another node reads the value before or behind it as well, so it must stay.",
    "residual-add": "a sum of two values stands beside it, which is no layer.",
    "border-window": "the second layer pads with zeros where the merged one would read sums; exact once the padding "
    "is moved to the first layer.",
    "border-bias": "the first layer's bias does not reach the zeros that the second is padded with.",
    "not-linear": "beside it stands no layer that could be merged, such as pooling or a product of two values.",
    "activation": "beside it stands another activation.",
    "normalisation": "beside it stands a norm that depends on its input.",
    "graph-output": "a value beside it is an output of the model.",
    "no-neighbour": "a value beside it is an input of the model.",
    "not-constant": "a layer beside it has weights that are no constants.",
}


def _general(entry: ActivationEntry) -> str:
    """What a reason's code means; its own sentence where there is no more general one."""
    assert entry.reason is not None, "asked only where there is one"
    return _MEANINGS.get(entry.reason.code, entry.reason.text)


def score_heading(judged: str | None) -> str:
    """The heading of the scores after every step."""
    shares = ("accuracy", "agreement")
    return "" if judged in (None, "drift") else f"{judged} after{' %' if judged in shares else ''}"


def show_linearised(result: CollapseResult) -> None:
    """Print which activations became linear, and what was merged and what not."""
    plan = result.plan
    if plan.linearised:
        rows = []
        for record in plan.linearised:
            after = record.evidence.after_this_step
            score = None if after is None else after.shown
            rows.append(
                [
                    record.activation,
                    "identity" if record.slope is None else str(plan.fit),
                    significant(record.evidence.score),
                    "-" if score is None else f"{score:.2f}",
                ]
            )
        columns = [
            ("linear activation", "left"),
            ("now", "left"),
            (plan.criterion or "score", "right"),
            (score_heading(plan.evidence.judged_by), "right"),
        ]
        # Without data there is nothing to say but which.
        width = len(columns) if plan.evidence.measured else 2
        table(columns[:width], [row[:width] for row in rows])
    if plan.merge is not None:
        _show_merges(result)


def _show_merges(result: CollapseResult) -> None:
    pairs = [merge for merge in result.merges if merge.second]
    weighty = [merge for merge in pairs if merge.macs is not None and merge.parameters is not None]
    folded = len(pairs) - len(weighty)
    free = f", {folded} of them a map per channel folded into its neighbour" if folded else ""
    say(
        f"Merged {counted(len(pairs), 'pair')} of linear operators (--merge {result.plan.merge}){free}"
        + ":."[not weighty]
    )
    if weighty:
        table(
            [
                ("merged", "left"),
                ("MACs: two", "right"),
                ("one", "right"),
                ("parameters: two", "right"),
                ("one", "right"),
            ],
            [
                [
                    f"{merge.first} + {merge.second}"[-34:],
                    *(metric(value) for value in (*(merge.macs or ()), *(merge.parameters or ()))),
                ]
                for merge in weighty
            ],
        )
    for merge in result.merges:
        if merge.reason is not None:
            what = f"{merge.first} + {merge.second}" if merge.second else merge.first
            say(
                f"Not exact: {what} changes by {100 * merge.error:.2g} % of the largest entry. {merge.reason.text}"
            )
    if result.refused:
        codes = Counter(refusal.reason.code for refusal in result.refused)
        listed = ", ".join(f"{number} {code}" for code, number in codes.items())
        first = result.refused[0]
        say(
            f"Stay two: {counted(len(result.refused), 'pair')} ({listed}). "
            f"{first.first} + {first.second}: {first.reason.text}"
        )
