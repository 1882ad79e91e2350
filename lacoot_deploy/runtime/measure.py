"""How far each block's output is from its input, measured on data with ONNX Runtime in bounded memory.

Two passes. The first runs over all samples and keeps nothing of their size: sums for the paired measures and
statistics, and the projections onto a fixed set of directions per feature space, from which the sampled
distance follows. The second runs over a small fixed choice of samples, some blocks at a time, for the ascent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.manifest import DistanceRecord
from lacoot_deploy.progress import Count as Progress
from lacoot_deploy.runtime.batching import Batch, Batching, check_finite, find_batching
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.options import AUTO, DistanceOptions, Runtime
from lacoot_deploy.runtime.streams import ActivationStatistics, PairStream, ValueStream

if TYPE_CHECKING:
    import onnx
    import torch

    from lacoot_deploy.transport import Directions

DISTRIBUTION_SAMPLES = 8192
"""Samples that the sampled distance is taken on at most."""

ASCENT_SAMPLES = 256
"""Samples that the ascent is run on at most."""

FLOOR_DRAWS = 9
ASCENT_FLOOR_DRAWS = 3
MAX_BATCH = 64
DEFAULTS = DistanceOptions()


@dataclass(frozen=True)
class BlockMeasurement:
    """What was measured of one block.

    Attributes:
        distances: By name: `mswd`, `mswd-ascent`, `paired`, `cosine`.
        source: Statistics of the value that the distances start from.
        target: Statistics of the value that they go to.
    """

    distances: dict[str, DistanceRecord]
    source: ActivationStatistics
    target: ActivationStatistics


def measure_blocks(
    model: onnx.ModelProto,
    blocks: Sequence[Block],
    samples: Samples,
    options: DistanceOptions = DEFAULTS,
    *,
    runtime: Runtime = AUTO,
    source: Path | None = None,
) -> dict[str, dict[str, DistanceRecord]]:
    """The distances of each block by name; arguments as for `measure`."""
    measured = measure(model, blocks, samples, options, runtime=runtime, source=source)
    return {name: measurement.distances for name, measurement in measured.items()}


def measure(
    model: onnx.ModelProto,
    blocks: Sequence[Block],
    samples: Samples,
    options: DistanceOptions = DEFAULTS,
    *,
    runtime: Runtime = AUTO,
    source: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, BlockMeasurement]:
    """Measure every block whose two ends can be compared.

    A block that goes by `bypass` is measured from its input to its output; one that can only go by `shortcut`, from
    the skip operand to the merge, which is what the removal equates. Blocks inside If, Loop or Scan bodies, blocks with
    ends of unequal shapes and blocks of integers are left out.

    The results do not depend on the batch size but for rounding.

    Args:
        model: The model.
        blocks: Its blocks.
        samples: Calibration data; at least two samples.
        options: Which distances, and how.
        runtime: Where the model runs.
        source: Where a model with external data was read from.
        progress: Called after every batch.

    Raises:
        InputError: The samples do not fit, or activations are not finite.
        ProviderError: As for `open_session`.
        UsageError: Fewer than two samples.
    """
    if len(samples) < 2:
        raise UsageError(f"Distances need at least two samples, got {len(samples)}.")
    names = {block.name: pair for block in blocks if (pair := compared_values(block)) is not None}
    if not names:
        return {}
    session = ExposedSession(
        model, [value for pair in names.values() for value in pair], runtime=runtime, source=source
    )
    run = _Run.of(session, names, samples, options)
    if run is None:
        return {}
    rng = np.random.default_rng(options.seed)
    chosen = _choose(rng, len(samples), DISTRIBUTION_SAMPLES)
    subset = rng.permutation(len(samples))[:ASCENT_SAMPLES]
    groups = list(_groups(run.ends, run.features, subset, options.memory_bytes)) if options.ascent else []
    total = len(samples) + sum(len(indices) for _, indices in groups)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    streams, pairs = run.streams(samples, chosen, options, report)
    records: dict[str, dict[str, DistanceRecord]] = {}
    for name, (first, second) in run.ends.items():
        found = _sampled(streams[first].projected(), streams[second].projected(), options.p, options.seed)
        records[name] = {
            "mswd": _record(options, len(chosen), *found, estimator="sampled"),
            "paired": _record(options, len(samples), pairs[name].paired()),
            "cosine": _record(options, len(samples), pairs[name].cosine()),
        }
    for group, indices in groups:
        collected = _collect(session, samples.take(indices), group, run.ends, run.batching, report)
        for name in group:
            x, y = (collected[value] for value in run.ends[name])
            found = _ascended(x, y, options.p, options.projections, options.seed)
            records[name]["mswd-ascent"] = _record(options, len(indices), *found, estimator="ascent")
    return {
        name: BlockMeasurement(records[name], streams[first].statistics(), streams[second].statistics())
        for name, (first, second) in run.ends.items()
    }


def _record(
    options: DistanceOptions,
    samples: int,
    value: float,
    floor: float | None = None,
    estimator: str | None = None,
) -> DistanceRecord:
    made = DistanceRecord(value=value, samples=samples, seed=options.seed, split=options.split)
    if estimator is None:
        return made
    further = {"floor": floor, "estimator": estimator, "p": options.p, "projections": options.projections}
    return made.model_copy(update=further)


@dataclass(frozen=True)
class _Run:
    """A network that gives the ends of its blocks, batch by batch.

    Attributes:
        session: The network.
        ends: The two values of each block that can be compared.
        features: Entries of each value, for one sample.
        batching: How it is run.
        start: What the first batch gives.
    """

    session: ExposedSession
    ends: dict[str, tuple[str, str]]
    features: dict[str, int]
    batching: Batching
    start: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        session: ExposedSession,
        ends: dict[str, tuple[str, str]],
        samples: Samples,
        options: DistanceOptions,
    ) -> _Run | None:
        """Tried with one sample, then with as many as fit; None where no block can be compared."""
        batching, probe = find_batching(session.run, session.inputs, samples, 1)
        one = size = batching.size
        ends = {name: pair for name, pair in ends.items() if _comparable(probe[pair[0]], probe[pair[1]], one)}
        if not ends:
            return None
        needed = tuple(dict.fromkeys(value for pair in ends.values() for value in pair))
        features = {name: probe[name].size // one for name in needed}
        if not batching.exact:
            held = 8 * sum(features.values())
            size = options.batch_size or max(1, min(MAX_BATCH, options.memory_bytes // held))
        batching, start = find_batching(
            lambda feeds: session.run(feeds, needed), session.inputs, samples, size
        )
        return cls(session, ends, features, batching, start)

    def streams(
        self,
        samples: Samples,
        chosen: NDArray[np.int64],
        options: DistanceOptions,
        report: Callable[[int], None],
    ) -> tuple[dict[str, ValueStream], dict[str, PairStream]]:
        """Every value over all samples, and every pair of ends."""
        counts = set(self.features.values())
        banks = {count: _directions(count, options.projections, options.seed) for count in counts}
        streams = {name: ValueStream(banks[count], chosen) for name, count in self.features.items()}
        pairs = {name: PairStream() for name in self.ends}
        for batch in self.batching.batches(samples):
            values = self.session.run(batch.feeds, tuple(self.features)) if batch.start else self.start
            rows = {name: _rows(name, values[name], batch, samples) for name in self.features}
            for name, stream in streams.items():
                stream.add(rows[name], batch.start)
            for name, (first, second) in self.ends.items():
                pairs[name].add(rows[first], rows[second])
            report(batch.real)
        return streams, pairs


def compared_values(block: Block) -> tuple[str, str] | None:
    """The two values whose distance tells what removing the block changes; None where there are none to compare."""
    if block.scope:
        return None
    if Form.BYPASS in block.forms or (block.shape is not None and block.shape == block.output_shape):
        return block.input, block.output
    if len(block.units) == 1:
        return block.units[0].skip, block.units[0].merge
    return block.input, block.output


def _comparable(x: NDArray[Any], y: NDArray[Any], samples: int) -> bool:
    arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    if not arrays or x.shape != y.shape or not x.ndim or x.size == 0:
        return False
    return len(x) % samples == 0 and x.dtype.kind == y.dtype.kind == "f"


def _choose(rng: np.random.Generator, count: int, limit: int) -> NDArray[np.int64]:
    return np.sort(rng.permutation(count)[:limit]).astype(np.int64)


def _rows(name: str, values: NDArray[Any], batch: Batch, samples: Samples) -> NDArray[np.float32]:
    """A value as one row per sample; those that only fill up a batch are left out."""
    rows = np.ascontiguousarray(values.reshape(batch.size, -1)[: batch.real], dtype=np.float32)
    check_finite(name, rows, samples, batch.start, what="value")
    return rows


def _generator(*key: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def _directions(features: int, projections: int, seed: int) -> Directions:
    from lacoot_deploy.transport import random_directions

    return random_directions(features, projections, generator=_generator(seed, features))


def _sampled(x: torch.Tensor, y: torch.Tensor, p: float, seed: int) -> tuple[float, float]:
    """The distance along the best of the fixed directions, and its floor by the bootstrap; x and y are [K, N]."""
    import torch

    from lacoot_deploy.transport.sliced import best_matching

    value = float(best_matching(torch.stack((x, y)), p)[0].value)
    generator, count = _generator(seed, 1), x.shape[1]
    floors = []
    for _ in range(FLOOR_DRAWS):
        first, second = torch.randint(0, count, (2, count), generator=generator)
        floors.append(float(best_matching(torch.stack((x[:, first], x[:, second])), p)[0].value))
    return value, float(np.median(floors))


def _ascended(
    x: NDArray[np.float32], y: NDArray[np.float32], p: float, projections: int, seed: int
) -> tuple[float, float]:
    import torch

    from lacoot_deploy.transport import SlicedOptions, floor, max_sliced_wasserstein

    a, b = torch.from_numpy(x), torch.from_numpy(y)
    directions = _directions(x.shape[1], projections, seed)
    options = SlicedOptions(p=p, estimator="ascent", projections=projections)
    value = float(max_sliced_wasserstein(a, b, options, directions=directions))
    low = floor(
        a,
        options,
        draws=ASCENT_FLOOR_DRAWS,
        generator=_generator(seed, x.shape[1], 2),
    )
    return value, low


def _groups(
    ends: dict[str, tuple[str, str]], features: dict[str, int], order: NDArray[np.int64], memory_bytes: int
) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """Blocks in groups whose activations fit the memory, each with its samples: fewer where one block is too big.

    `order` is a random order of samples, so that any beginning of it is a fair choice.
    """
    group: list[str] = []
    held: set[str] = set()
    room = memory_bytes // 4
    for name, pair in ends.items():
        if group and sum(features[v] for v in held | set(pair)) * len(order) > room:
            yield group, np.sort(order)
            group, held = [], set()
        alone = sum(features[v] for v in set(pair))
        if alone * len(order) > room:
            yield [name], np.sort(order[: max(2, room // alone)])
            continue
        group.append(name)
        held |= set(pair)
    if group:
        yield group, np.sort(order)


def _collect(
    session: ExposedSession,
    samples: Samples,
    group: Sequence[str],
    ends: dict[str, tuple[str, str]],
    batching: Batching,
    report: Callable[[int], None],
) -> dict[str, NDArray[np.float32]]:
    """The values at the ends of a group of blocks, [N, D] each."""
    needed = tuple(dict.fromkeys(value for name in group for value in ends[name]))
    found: dict[str, NDArray[np.float32]] = {}
    for batch in batching.batches(samples):
        for name, values in session.run(batch.feeds, needed).items():
            rows = _rows(name, values, batch, samples)
            if name not in found:
                found[name] = np.empty((len(samples), rows.shape[1]), dtype=np.float32)
            found[name][batch.start : batch.start + batch.real] = rows
        report(batch.real)
    return found
