"""What went on in the machine while measuring: load of others, throttling, stolen time."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from lacoot_deploy.machine import load_average, throttled_periods

BUSY_CPUS = 0.25
"""Processors kept busy by others from which on a warning is due."""

NOISY_FLOOR = 0.03


@dataclass(frozen=True)
class Activity:
    """What happened in the machine between two moments.

    Attributes:
        load_before: One-minute load average before; None where the system has none.
        load_after: And after.
        other_cpu: Processors that other processes kept busy on average; None where that is not known.
        throttled: How often the container's quota stopped a process.
        stolen_share: Share of all processors' time that the hypervisor gave to others.
        overheated: How often a processor slowed down because of its temperature; None where that is not counted.
        gpu_slowed: Seconds that the GPU slowed down because of temperature or power supply; None likewise.
    """

    load_before: float | None = None
    load_after: float | None = None
    other_cpu: float | None = None
    throttled: int | None = None
    stolen_share: float | None = None
    overheated: int | None = None
    gpu_slowed: float | None = None


class Watch:
    """Looks at the machine when made and again at `stop`.

    Args:
        gpu: Whether to look at the GPU as well.
    """

    def __init__(self, *, gpu: bool = False) -> None:
        self._gpu = gpu
        self._slowed = gpu_slowed_seconds() if gpu else None
        self._hot = overheated_times()
        self._time = time.monotonic()
        self._load = _one_minute()
        self._busy = busy_seconds()
        self._own = _own_seconds()
        self._throttled = throttled_periods()
        self._stolen = stolen_seconds()

    def stop(self) -> Activity:
        """What happened since."""
        elapsed = max(time.monotonic() - self._time, 1e-9)
        busy, throttled, stolen = busy_seconds(), throttled_periods(), stolen_seconds()
        own = _own_seconds() - self._own
        other = max(0.0, (busy - self._busy - own) / elapsed)
        share = None
        if stolen is not None and self._stolen is not None:
            share = (stolen - self._stolen) / elapsed / (os.cpu_count() or 1)
        hot = overheated_times()
        slowed = gpu_slowed_seconds() if self._gpu else None
        return Activity(
            load_before=self._load,
            load_after=_one_minute(),
            other_cpu=other,
            throttled=None if throttled is None or self._throttled is None else throttled - self._throttled,
            stolen_share=share,
            overheated=None if hot is None or self._hot is None else hot - self._hot,
            gpu_slowed=None if slowed is None or self._slowed is None else slowed - self._slowed,
        )


def busy_seconds() -> float:
    """Processor seconds that all processes have used so far."""
    times = psutil.cpu_times()
    parts = ("user", "nice", "system", "irq", "softirq")
    return float(sum(getattr(times, part, 0.0) for part in parts))


def stolen_seconds() -> float | None:
    """Processor seconds that the hypervisor gave to other machines so far; None where that is not counted."""
    return getattr(psutil.cpu_times(), "steal", None)


def noise_warnings(
    activity: Activity,
    *,
    cpus: int,
    quota: float | None,
    threads: int | None,
    floor: float | None,
    unstable: Sequence[str] = (),
) -> list[str]:
    """One sentence for each thing that made the measurement less than quiet.

    Args:
        activity: What happened meanwhile.
        cpus: Processors that the process may use.
        quota: Processors' worth of time that the container allows.
        threads: Threads inside one operator; None for ONNX Runtime's choice.
        floor: The noise floor as a share.
        unstable: Models whose warm-up did not settle.
    """
    warnings = []
    if activity.other_cpu is not None and activity.other_cpu > BUSY_CPUS:
        warnings.append(f"Other processes kept {activity.other_cpu:.1f} of {cpus} processors busy meanwhile.")
    elif activity.other_cpu is None and activity.load_before is not None and activity.load_before > cpus / 2:
        warnings.append(
            f"The machine was loaded already: load average {activity.load_before:.1f} on {cpus} processors."
        )
    if activity.throttled:
        warnings.append(
            f"The container's processor quota stopped the measurement {activity.throttled} times."
        )
    if activity.stolen_share is not None and activity.stolen_share > 0.01:
        warnings.append(
            f"The hypervisor gave {activity.stolen_share:.0%} of the processor time to other machines."
        )
    if activity.overheated:
        warnings.append(f"A processor slowed down {activity.overheated} times because of its temperature.")
    if activity.gpu_slowed:
        warnings.append(
            f"The GPU slowed down for {activity.gpu_slowed:.2g} s because of temperature or power supply."
        )
    wanted = threads if threads is not None else cpus
    if quota is not None and quota < wanted:
        warnings.append(
            f"{wanted} threads share a quota of {quota:g} processors; use --threads {max(1, int(quota))}."
        )
    if threads is not None and threads > cpus:
        warnings.append(f"{threads} threads share {cpus} processors.")
    if floor is not None and floor > NOISY_FLOOR:
        warnings.append(
            f"A against itself could show a difference of {floor:.1%}: too noisy for small differences; "
            f"measure longer (--min-time) or on a quieter machine."
        )
    warnings += [f"The warm-up of {name} did not settle." for name in unstable]
    return warnings


def overheated_times(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """How often the processors have slowed down because of their temperature so far; None where it is not counted."""
    counts = []
    for file in root.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        with contextlib.suppress(OSError, ValueError):
            counts.append(int(file.read_text()))
    return sum(counts) if counts else None


def gpu_name() -> str | None:
    """Name and driver of the first NVIDIA GPU as nvidia-smi tells them; None without it."""
    lines = _nvidia_smi("name,driver_version")
    return lines[0] if lines else None


def gpu_slowed_seconds() -> float | None:
    """Seconds that the first NVIDIA GPU has slowed down so far for temperature or power supply; None where unknown."""
    reasons = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")
    lines = _nvidia_smi(",".join(f"clocks_event_reasons_counters.{reason}" for reason in reasons))
    if not lines:
        return None
    micros = [int(digits) for digits in re.findall(r"(\d+) us", lines[0])]
    return sum(micros) / 1e6 if micros else None


def gpu_memory_used() -> int | None:
    """Bytes in use on the first NVIDIA GPU, by all processes; None without one."""
    lines = _nvidia_smi("memory.used")
    number = re.match(r"(\d+) MiB", lines[0]) if lines else None
    return int(number.group(1)) * 2**20 if number else None


def _nvidia_smi(query: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _one_minute() -> float | None:
    load = load_average()
    return None if load is None else load[0]
