"""What the machine gives this process: processors, quota, affinity, memory, load."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
from pydantic import BaseModel


class Machine(BaseModel):
    """Processors and memory that this process may use.

    Attributes:
        cpu: Name of the processor.
        cpus: Logical processors of the machine.
        affinity: Those that this process may run on.
        quota: Processors' worth of time that the container allows; None for no limit.
        memory_bytes: Physical memory.
        memory_limit_bytes: What the container allows; None for no limit.
        memory_available_bytes: What could be taken now without swapping.
        load: Load averages over 1, 5 and 15 minutes.
        system: Operating system and architecture.
    """

    cpu: str
    cpus: int
    affinity: int
    quota: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    memory_available_bytes: int | None
    load: tuple[float, float, float] | None
    system: str


def describe_machine() -> Machine:
    """Look at the machine as it is now."""
    memory = psutil.virtual_memory()
    return Machine(
        cpu=_cpu_name(),
        cpus=psutil.cpu_count() or 1,
        affinity=usable_cpus(),
        quota=cpu_quota(),
        memory_bytes=memory.total,
        memory_limit_bytes=memory_limit(memory.total),
        memory_available_bytes=memory.available,
        load=load_average(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def usable_cpus() -> int:
    """Logical processors that this process may run on."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def load_average() -> tuple[float, float, float] | None:
    """Load averages over 1, 5 and 15 minutes; None where the system has none."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that the control group allows (version 2 or 1); None for no limit."""
    for folder in _group_folders(root, "cpu"):
        limit = _words(folder / "cpu.max")
        if len(limit) == 2 and limit[0] != "max":
            return int(limit[0]) / int(limit[1])
        quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            return int(quota[0]) / int(period[0])
    return None


def throttled_periods(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How often the control group's quota has stopped this process so far; None where that is not counted."""
    for folder in _group_folders(root, "cpu"):
        words = _words(folder / "cpu.stat")
        if "nr_throttled" in words:
            return int(words[words.index("nr_throttled") + 1])
    return None


def _group_folders(root: Path, controller: str) -> list[Path]:
    folders = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            base = root if number == "0" else root / controller
            folders.append(base / path.lstrip("/"))
    return [*folders, root / "unified", root, root / controller]


def memory_limit(total: int | None = None) -> int | None:
    """Bytes that the control group allows; None where that is no less than the machine has.

    Args:
        total: What the machine has; looked up where it is not given.
    """
    total = psutil.virtual_memory().total if total is None else total
    for folder in _group_folders(Path("/sys/fs/cgroup"), "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            # Version 1 writes a huge number for "no limit".
            if words and words[0] != "max" and int(words[0]) < total:
                return int(words[0])
    return None


def usable_memory() -> int:
    """Bytes of memory that this process could ever have: the machine's, or what its container allows."""
    total = int(psutil.virtual_memory().total)
    return min(total, memory_limit(total) or total)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
