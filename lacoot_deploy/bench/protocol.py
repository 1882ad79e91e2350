"""What the measuring process is asked and what it answers, as JSON files in a temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from lacoot_deploy.bench.environment import Activity
from lacoot_deploy.bench.options import DEFAULTS, BenchOptions
from lacoot_deploy.runtime.options import AUTO, Runtime

REQUEST, RESPONSE = "request.json", "response.json"
"""Names of the two files."""


class ModelFile(BaseModel):
    """A model on disk.

    Attributes:
        path: The file to load.
        source: Folder of its external data where that is not the file's.
        label: What messages call it.
    """

    path: Path
    source: Path | None = None
    label: str


class NodePlacement(BaseModel):
    """Where one node runs: its name as ONNX Runtime knows it, its operator, and the provider's short name."""

    node: str
    op: str
    provider: str


class BlockNodes(BaseModel):
    """A block: its name, the names of its nodes (unnamed ones as `OpType:output`), its input and output values."""

    name: str
    nodes: list[str]
    input: str
    output: str


class Request(BaseModel):
    """What the measuring process is asked.

    Attributes:
        kind: `latency`: time all models against each other; `memory`: load and run the first one; `blocks`: tell where
            the time of the first one goes.
        models: By contestant name; two contestants may share a file.
        runtime: Where they run.
        options: How they are measured.
        feeds: An npz file with one array per input; None to generate them as the options say.
        blocks: For `blocks`: the blocks of the first model.
        method: For `blocks`: `profile` or `prefix`; None for the one that suits the provider.
    """

    kind: Literal["latency", "memory", "blocks"]
    models: dict[str, ModelFile]
    runtime: Runtime = AUTO
    options: BenchOptions = DEFAULTS
    feeds: Path | None = None
    blocks: list[BlockNodes] = Field(default_factory=list)
    method: Literal["profile", "prefix"] | None = None


class ContestantReport(BaseModel):
    """One contestant: where it ran, and its times in seconds by round."""

    provider: str
    nodes: list[NodePlacement]
    cpu_nodes: list[str]
    creation: list[float] = Field(default_factory=list)
    first: list[float] = Field(default_factory=list)
    warm_runs: list[int] = Field(default_factory=list)
    stable: bool = True
    interrupted: int = 0
    samples: list[list[float]] = Field(default_factory=list)
    cycles: list[list[float]] = Field(default_factory=list)


class Response(BaseModel):
    """What the measuring process answers.

    Attributes:
        error: Name of the error class and its message, where it failed.
        contestants: By name.
        shapes: Shape of each input.
        batch: Size of the first axis.
        provider: Short name of the provider used.
        why: Why that one.
        io_binding: Whether inputs and outputs stayed on the device.
        thread_pool: `shared` or `own`.
        onnxruntime: Its version.
        activity: What went on in the machine meanwhile.
        peak_bytes: What loading and running added to the peak resident memory.
        gpu_bytes: What loading and running added to the memory in use on the GPU; None off NVIDIA GPUs.
        total_seconds: For `blocks`: the latency of the whole model.
        block_seconds: For `blocks`: each block's part of it.
        method: For `blocks`: how that was measured.
    """

    error: tuple[str, str] | None = None
    contestants: dict[str, ContestantReport] = Field(default_factory=dict)
    shapes: dict[str, list[int]] = Field(default_factory=dict)
    batch: int = 1
    provider: str = ""
    why: str = ""
    io_binding: bool = False
    thread_pool: str = "own"
    onnxruntime: str = ""
    activity: Activity = Field(default_factory=Activity)
    peak_bytes: int | None = None
    gpu_bytes: int | None = None
    total_seconds: float = 0.0
    block_seconds: dict[str, float] = Field(default_factory=dict)
    method: str = ""
