"""The program that takes the GPU's figures, as far as a machine without one can tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "samples" / "benchmarks"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "cuda_figures.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_every_step_is_a_script_that_knows_its_options():
    listed = run("--list", "--data", "cifar10:x.zip")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()
    assert len(lines) >= 9
    for line in lines:
        script = re.search(r"python samples/benchmarks/(\w+\.py)", line)
        source = (BENCHMARKS / script[1]).read_text()
        for option in re.findall(r"--[a-z]+", line):
            assert f'"{option}"' in source, f"{script[1]} has no {option}"


def test_an_unknown_step_is_refused():
    refused = run("--only", "nothing")
    assert refused.returncode == 2
    assert "latency-vit_b_16" in refused.stderr


def test_without_a_gpu_nothing_is_measured():
    import lacoot_deploy as ld

    if any(provider.name == "cuda" and provider.works for provider in ld.doctor().providers):
        pytest.skip("CUDA works here; this is about machines where it does not")
    refused = run("--only", "step")
    assert refused.returncode == 7
    assert "CUDA does not work here" in refused.stderr
