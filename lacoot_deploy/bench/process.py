"""Starts the measuring process, follows its progress and turns its end into an answer or an error."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from lacoot_deploy import errors
from lacoot_deploy.bench.protocol import REQUEST, RESPONSE, Request, Response
from lacoot_deploy.errors import InputError, LacootError
from lacoot_deploy.processes import python_command, python_environment
from lacoot_deploy.progress import Count as Progress


def ask(request: Request, progress: Progress | None = None) -> Response:
    """Have a fresh process answer a request.

    Raises:
        LacootError: Whatever the process met, as the same error; InputError where it was killed, as happens when the
            memory is exhausted.
    """
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as name:
        folder = Path(name)
        (folder / REQUEST).write_text(request.model_dump_json())
        log = folder / "log"
        code = _run(folder, log, progress)
        answer = folder / RESPONSE
        if not answer.is_file():
            raise _died(code, log, request)
        response = Response.model_validate_json(answer.read_text())
    if response.error is not None:
        kind, message = response.error
        error = getattr(errors, kind, LacootError)
        raise error(message)
    return response


def _run(folder: Path, log: Path, progress: Progress | None) -> int:
    command = python_command("lacoot_deploy.bench.worker", str(folder))
    with log.open("wb") as errors_file:
        process = subprocess.Popen(
            command,
            # Never written to: it closes when this process ends, however it does, and the measuring process with it.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors_file,
            env=python_environment(),
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                words = line.split()
                if progress is not None and len(words) == 2 and all(word.isdigit() for word in words):
                    progress(int(words[0]), int(words[1]))
            return process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise


def _died(code: int, log: Path, request: Request) -> LacootError:
    names = ", ".join(dict.fromkeys(model.label for model in request.models.values()))
    if code < 0 or code == 137:
        return InputError(
            f"The process that measured {names} was ended by the system (signal {abs(code) if code < 0 else 9}), as "
            f"happens when the memory runs out; use a smaller batch or input."
        )
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = lines[-1] if lines else "it left no message"
    # What the system refuses, a full disk mostly, is no fault of the program.
    kind = InputError if "[Errno" in said else LacootError
    return kind(f"The process that measured {names} ended with code {code}: {said}")
