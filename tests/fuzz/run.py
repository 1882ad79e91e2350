"""Fuzzes one target with coverage of lacoot_deploy as the guide (atheris, libFuzzer's engine).

    python tests/fuzz/run.py model_graph --runs 50000 --seed 1
    python tests/fuzz/run.py all

Inputs that end in anything but success or one of our errors, take over five seconds or 2 GB are kept in
`tests/fuzz/corpus/TARGET/`, one of each kind of failure, where the tests run them from then on. Ends with exit code 1
where there are any. Prints the executions of every target.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
SECONDS = 5
MEGABYTES = 2048


def main() -> int:
    """Fuzz."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=CORPUS, help="Where failing inputs are kept.")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    if options.inside:
        fuzz(options.target, options.runs, options.seed, options.found)
    from targets import TARGETS

    names = list(TARGETS) if options.target == "all" else [options.target]
    failed = 0
    for name in names:
        wanted = options.runs or TARGETS[name].runs
        began, done, stops = time.perf_counter(), 0, 0
        with tempfile.TemporaryDirectory() as folder:
            while done < wanted and stops < 20:
                # A crash of the whole process, a hang or too much memory ends libFuzzer: it is started again.
                code, ran = once(name, wanted - done, options.seed + stops, options.found, Path(folder))
                done += ran
                stops += code != 0
        kept = len(list((options.found / name).glob("found-*"))) if (options.found / name).is_dir() else 0
        failed += kept + stops
        seconds = time.perf_counter() - began
        print(
            f"{name}: {done} executions in {seconds:.0f} s, {stops} stops, {kept} failures kept", flush=True
        )
    return 1 if failed else 0


def once(name: str, runs: int, seed: int, found: Path, folder: Path) -> tuple[int, int]:
    """One process of libFuzzer; its exit code and how many executions it did."""
    counter = folder / "count"
    counter.write_text("0")
    arguments = [name, "--inside", "--runs", str(runs), "--seed", str(seed), "--found", str(found)]
    from targets import scratch

    with (
        (folder / "log").open("wb") as log,
        tempfile.TemporaryDirectory(prefix="lacoot-fuzz-", dir=scratch()) as work,
    ):
        own = {"FUZZ_FOLDER": str(folder), "FUZZ_WORK": work, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, *arguments]
        code = subprocess.run(
            command, env={**os.environ, **own}, stdout=log, stderr=log, check=False
        ).returncode
    ran = int(counter.read_text() or 0)
    if code:
        tail = (folder / "log").read_text(errors="replace")[-3000:]
        print(f"{name} stopped with {code} after {ran}:\n{tail}", flush=True)
        for artifact in [*folder.glob("crash-*"), *folder.glob("timeout-*"), *folder.glob("oom-*")]:
            keep(found / name, artifact.read_bytes(), artifact.name.split("-")[0])
            artifact.unlink()
        if ran == 0:
            raise SystemExit(f"{name} does not start.")
    return code, ran


def keep(folder: Path, data: bytes, kind: str) -> None:
    """Keep an input, one for every kind of failure, the shortest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"found-{kind}"
    if not path.exists() or path.stat().st_size > len(data):
        path.write_bytes(data)


def fuzz(name: str, runs: int, seed: int, found: Path) -> None:
    """Run libFuzzer in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["lacoot_deploy"], enable_loader_override=False):
        import targets
    from lacoot_deploy.errors import LacootError

    random.seed(seed)
    target = targets.TARGETS[name]
    folder = Path(os.environ["FUZZ_FOLDER"])
    seeds, kept = folder / "seeds", folder / "kept"
    for place in (seeds, kept):
        place.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (seeds / f"{number:03d}").write_bytes(data)
    for path in (CORPUS / name).glob("*") if (CORPUS / name).is_dir() else ():
        (seeds / path.name).write_bytes(path.read_bytes())
    work = Path(os.environ["FUZZ_WORK"])
    count = 0
    counter = os.open(folder / "count", os.O_RDWR)

    def one(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % 100 == 0 or count == runs:
            os.pwrite(counter, str(count).encode(), 0)
        try:
            target.run(data, work)
        except LacootError:
            return
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}-{Path(frame.filename).name}-{frame.lineno}"
            keep(found / name, data, hashlib.sha256(place.encode()).hexdigest()[:12])
            print(place, "".join(traceback.format_exception_only(error)), file=sys.stderr)
            print("".join(traceback.format_tb(error.__traceback__)[-6:]), file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    atheris.Setup(
        [
            *("fuzz", str(kept), str(seeds), f"-runs={runs}", f"-seed={seed}", f"-timeout={SECONDS}"),
            *(
                f"-rss_limit_mb={MEGABYTES}",
                "-max_len=16384",
                f"-artifact_prefix={folder}/",
                "-print_final_stats=1",
            ),
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
