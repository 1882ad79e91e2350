"""Is the limit kept? `--max-drop` on many splits of the data, each judged on images that took no part.

Of every split the tool gets some images with their labels and does what `collapse --max-drop` does with them: a part
fits repairs, a part chooses, a part confirms. The drop that it then reports, and the drop on all the other images, are
held against the limit.

    python samples/benchmarks/confirmed_drop.py model.onnx --data cifar10:PATH --splits 20 \
        -o samples/benchmarks/results/confirmed_drop_cpu.json
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import NothingToCollapseError
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.runtime.evaluate import predict
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.matching import resolve_plan, resolve_refits
from lacoot_deploy.selection.planning import Evidence, Limit, make_plan
from lacoot_deploy.selection.trials import Trials
from lacoot_deploy.workflow.data import samples_for
from lacoot_deploy.workflow.inspecting import open_model


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--samples", type=int, default=2000, help="images that the tool gets")
    parser.add_argument("--others", type=int, default=4000, help="images that took no part")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    opened = open_model(arguments.model)
    everything = samples_for(opened.model, opened.manifest, DataOptions(arguments.data, split="test"))
    output = opened.model.graph.output[0].name
    assert everything.labels is not None
    dense = predict(open_session(opened.model, runtime=Runtime("cpu")), everything)[output].argmax(1)
    right = dense == everything.labels
    rows = []
    for seed in range(arguments.splits):
        order = np.random.default_rng(1000 + seed).permutation(len(everything))
        given = everything.take(np.sort(order[: arguments.samples]))
        rest = np.sort(order[arguments.samples :][: arguments.others])
        try:
            plan = make_plan(
                opened.model,
                opened.blocks,
                Limit(max_drop=arguments.max_drop),
                evidence=Evidence.split(given, seed=seed),
                trials=Trials(source=opened.path, runtime=Runtime("cpu")),
            )
        except NothingToCollapseError:
            rows.append({"split": seed, "removed": 0, "confirmed": 0.0, "others": 0.0})
            print(f"split {seed}: nothing can go", flush=True)
            continue
        cuts, _ = resolve_plan(plan, opened.blocks)
        short = collapse_blocks(opened.model, cuts, resolve_refits(plan, opened.blocks))
        others = everything.take(rest)
        assert others.labels is not None
        after = (
            predict(open_session(short, runtime=Runtime("cpu")), others)[output].argmax(1) == others.labels
        )
        confirming = plan.evidence.confirming
        rows.append(
            {
                "split": seed,
                "removed": len(plan.steps),
                "confirmed": confirming.drop_points,
                "ci95": confirming.ci95,
                "others": 100 * float(np.mean(right[rest]) - np.mean(after)),
            }
        )
        print(
            f"split {seed}: {rows[-1]['removed']} removed, confirmed drop {rows[-1]['confirmed']:.2f} "
            f"({confirming['ci95'][0]:.2f} to {confirming['ci95'][1]:.2f}), on others {rows[-1]['others']:.2f}",
            flush=True,
        )
    kept = {key: sum(row[key] <= arguments.max_drop for row in rows) for key in ("confirmed", "others")}
    covered = sum(row["ci95"][0] <= row["others"] <= row["ci95"][1] for row in rows if "ci95" in row)
    print(
        f"limit {arguments.max_drop} points: kept by the confirmed drop in {kept['confirmed']} of {len(rows)}, "
        f"on images that took no part in {kept['others']}; the interval held the drop there in {covered}"
    )
    if arguments.output is not None:
        result = {
            "machine": common.machine(),
            "max_drop": arguments.max_drop,
            "samples": arguments.samples,
            "others": arguments.others,
            "kept": kept,
            "interval_holds": covered,
            "rows": rows,
        }
        common.write(arguments.output, result)


if __name__ == "__main__":
    main()
