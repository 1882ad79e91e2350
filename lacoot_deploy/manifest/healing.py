"""What stays of a healing in the manifest of the file that it made."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lacoot_deploy.manifest.records import Record


class HealQuality(Record):
    """How a network did on samples that trained nothing, beside the dense network.

    Attributes:
        score: The task's score: against labels where there were any, else with the dense network's answers for labels.
        agreement: The score with the dense network's answers for labels.
        drift: Relative RMS difference of the outputs from the dense network's.
        divergence: What a sample costs against the dense network's answers, on average.
    """

    score: float
    agreement: float
    drift: float
    divergence: float


class CandidateRecord(Record):
    """One of several plans that were healed for a short time before one went on.

    Attributes:
        name: `search`, `every second`, `in a row` or `slowest`.
        blocks: The blocks that went.
        before: The cut network on the samples held back.
        after: The healed one.
        measure: Name of the score.
        samples: How many samples were held back.
        seconds: What its healing took.
        chosen: Whether it went on.
    """

    name: str
    blocks: list[str]
    before: HealQuality
    after: HealQuality
    measure: str
    samples: int
    seconds: float
    chosen: bool = False


class HealRecord(Record):
    """One healing: what was trained, on what, for how long, and what it was worth.

    Attributes:
        dense_sha256: Fingerprint of the dense network's graph.
        model_sha256_before: Fingerprint of the cut network's graph before.
        weights: Number of tensors that were trained.
        parameters: Number of their entries.
        matched: Values of the cut network that were matched.
        data: Where the samples came from.
        samples: How many trained.
        held_back: How many judged.
        task: What the network is for.
        measure: Name of the score.
        before: The cut network on the held-back samples.
        after: The healed one.
        gain: How much better the score became.
        gain_ci95: Its 95 % interval, from the same samples in pairs.
        steps: Steps taken.
        seconds: What they took.
        options: How it was done.
        producer: The program that did it.
    """

    dense_sha256: str
    model_sha256_before: str
    weights: int
    parameters: int
    matched: list[str] = Field(default_factory=list)
    data: str = ""
    samples: int
    held_back: int
    task: str
    measure: str
    before: HealQuality
    after: HealQuality
    gain: float
    gain_ci95: tuple[float, float]
    steps: int
    seconds: float
    options: dict[str, Any] = Field(default_factory=dict)
    producer: str | None = None
