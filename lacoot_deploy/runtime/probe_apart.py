"""The probe run in a process of its own: whatever a stranger's model does, it takes no more than this much."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lacoot_deploy.data.bounds import memory_bound
from lacoot_deploy.errors import InputError, LacootError
from lacoot_deploy.graph.model.blocks import Shape
from lacoot_deploy.processes import python_command, python_environment

SECONDS = 30.0


def probe_file(path: Path, names: Sequence[str], *, seconds: float = SECONDS) -> dict[str, Shape]:
    """The shapes that values of a file's main graph take; see `probe_shapes`.

    Args:
        path: The ONNX file.
        names: The values wanted.
        seconds: After that the run is ended.

    Raises:
        InputError: The model does not load or run on generated input within that time and half of the memory.
    """
    request = json.dumps({"path": str(path.absolute()), "names": list(names)})
    try:
        ended = subprocess.run(
            python_command(__name__),
            input=request.encode("ascii"),
            capture_output=True,
            env=python_environment(),
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"It took more than {seconds:g} seconds and was ended.") from None
    if ended.returncode != 0:
        said = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError(f"It ended with code {ended.returncode}{': ' + said[0] if said else ''}.")
    answer = json.loads(ended.stdout.decode().splitlines()[-1])
    if "error" in answer:
        raise InputError(answer["error"])
    return {name: tuple(shape) for name, shape in answer["shapes"].items()}


def main() -> None:
    """Answer the request on stdin."""
    _bound_memory()
    request = json.load(sys.stdin)
    from lacoot_deploy.graph.model.io import load_model
    from lacoot_deploy.runtime.probe import probe_shapes

    path = Path(request["path"])
    try:
        answer: dict[str, object] = {"shapes": probe_shapes(load_model(path), request["names"], source=path)}
    except (LacootError, MemoryError) as error:
        answer = {"error": str(error) or "It ran out of memory."}
    print(json.dumps(answer))


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        bound = memory_bound() + 2**31
        if most == resource.RLIM_INFINITY or bound < most:
            resource.setrlimit(resource.RLIMIT_AS, (bound, most))


if __name__ == "__main__":
    main()
