"""Documents for tests of the page: one that says everything, made up, and one that knows next to nothing."""

from __future__ import annotations

from lacoot_deploy.reports import ReportResult

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def blocks(count: int, gone: int, prefix: str = "layer") -> list[dict]:
    return [
        {
            "name": f"{prefix}{1 + i // 4}.{i % 4}",
            "shape": f"batch x {16 * 2 ** (i // 4)} x 8 x 8",
            "macs": 1_000_000,
            "parameters": 4_000,
            "distances": {"mswd": 0.03 * (i + 1), "paired": 0.1 * (i + 1), "cosine": 0.01},
            "floors": {"mswd": 0.05},
            "samples": 512,
            "share": 0.1,
            "ms": 0.01,
            "form": "bypass" if i < gone else None,
            "repair": "affine" if i == 1 else "linear" if i == 2 else None,
            "refitted": i == gone,
            "reason": "Its shape changes." if i == count - 1 else None,
        }
        for i in range(count)
    ]


def full(**changes: object) -> ReportResult:
    removed = [{"block": f"layer1.{i}", "form": "bypass", "repair": None} for i in range(3)]
    document = {
        "title": "resnet20 on cifar10",
        "networks": [
            {"name": "run/model.onnx", "role": "dense", "blocks": 8, "nodes": 51, "parameters": 271690,
             "macs": 40813184, "file_bytes": 1135000, "sha256": "ab" * 32, "fingerprint": "cd" * 32},
            {"name": "short.onnx", "role": "collapsed", "blocks": 5, "nodes": 33, "parameters": 226000,
             "macs": 21900000, "file_bytes": 930000, "sha256": "ef" * 32, "fingerprint": "01" * 32},
        ],
        "answer": {
            "removed": removed,
            "refits": ["layer1.3"],
            "cost": {"metric": "top-1 accuracy", "before": 82.0, "after": 80.5, "drop": 1.5, "ci95": [0.5, 2.5],
                     "samples": 10000, "judged_on": "cifar10 [test]"},
            "gain": {"speedup": 1.86, "ci95": [1.84, 1.88], "verdict": "faster", "before_ms": 0.8, "after_ms": 0.43,
                     "device": "a processor", "setting": "cpu, batch 1, 1 thread"},
            "scratch": {"name": "scratch", "blocks": 5, "same": True, "score": 81.0, "ahead": 0.5, "speedup": 1.9,
                        "judged_on": "cifar10 [test]"},
        },
        "curves": [
            {"name": "the search, step by step", "kind": "search", "judged_on": "samples that chose",
             "points": [{"removed": i, "score": 82.0 - i / 2, "latency": 1 - 0.15 * i} for i in range(4)]},
            {"name": "paper's way", "kind": "paper",
             "points": [{"removed": i, "score": 82.0 - 12 * i, "latency": 1 - 0.15 * i} for i in range(6)]},
            {"name": "random, mean", "kind": "random",
             "points": [{"removed": i, "score": 82.0 - 14 * i} for i in range(6)]},
            {"name": "dense", "kind": "dense", "points": [{"removed": 0, "score": 82.0, "latency": 1.0}]},
            {"name": "chosen", "kind": "chosen", "points": [{"removed": 3, "score": 80.5, "latency": 0.54}]},
            {"name": "trained from scratch", "kind": "scratch",
             "points": [{"removed": 3, "score": 81.0, "latency": 0.53, "label": "from scratch"}]},
        ],
        "blocks": blocks(8, 3),
        "distance": "mswd",
        "training": [
            {"name": "run", "recipe": {"seed": 0, "lr": 0.1, "augment": ["flip", "crop"]},
             "epochs": [{"epoch": i, "loss": 2 / i, "penalty": 0.3 / i, "train_accuracy": 90 - 40 / i,
                         "val_loss": 2.1 / i, "val_accuracy": 85 - 40 / i} for i in range(1, 13)]}
        ],
        "latency": {
            "edges": [0.1 * 1.1**i for i in range(25)],
            "histograms": [
                {"name": "dense", "counts": [0] * 10 + [400, 50, 9] + [1] * 11, "samples": 470, "median": 0.27,
                 "p90": 0.33},
                {"name": "collapsed", "counts": [0] * 4 + [400, 50, 9] + [1] * 17, "samples": 476, "median": 0.15,
                 "p90": 0.2},
            ],
            "noise_floor": 0.006,
            "warnings": ["Other processes kept 1.0 of 2 processors busy meanwhile."],
        },
        "drift": [{"output": "logits", "max_abs": 5.8, "rel_rms": 0.246, "cosine": 0.96564, "unequal": 1.0}],
        "worst": [{"output": "logits", "index": 7 * i, "difference": 0.9 - i / 10, "label": "3", "before": "3",
                   "after": "5", "image": PIXEL} for i in range(5)],
        "samples": 10000,
        "reproduction": {
            "commands": ["lacoot-deploy collapse run/model.onnx --count 3 --data cifar10:cifar10.zip -o short.onnx"],
            "versions": [{"name": "onnx", "value": "1.23"}],
            "hashes": [{"name": "plan", "value": "ab" * 32}],
            "seeds": [{"name": "training", "value": "0"}],
            "machine": [{"name": "processor", "value": "a processor"}],
        },
        "missing": {},
        "notes": [],
    }  # fmt: skip
    return ReportResult.model_validate(document | changes)


def empty() -> ReportResult:
    network = {"name": "any.onnx", "role": "dense", "blocks": 1, "nodes": 9, "parameters": 100, "macs": None,
               "fingerprint": "00" * 32}  # fmt: skip
    sections = ("answer", "depth", "latency-curve", "distances", "training", "latency", "drift")
    return ReportResult.model_validate(
        {
            "title": "any.onnx",
            "networks": [network],
            "blocks": blocks(1, 0),
            "missing": {name: f"Run the command for {name}." for name in sections},
        }
    )


HOSTILE = "</bdi></td><script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.\x1b[31m\"'&lt;"


def hostile() -> ReportResult:
    """The full document with every text in it replaced by one that would do harm where it was not escaped."""

    def spoil(value: object, key: str = "") -> object:
        if key in ("role", "kind", "unit", "form", "image", "distance", "metric", "repair"):
            return value
        if isinstance(value, str):
            return HOSTILE
        if isinstance(value, dict):
            return {k: spoil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(v) for v in value]
        return value

    return ReportResult.model_validate(spoil(full().model_dump()))
