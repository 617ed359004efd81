"""`kda` and its workers forked from a process that has imported torch: two seconds of each of hundreds are spent once.

The fork server has imported what kernels need and never called one, as in `kda faulty`. What depends on how processes
are started (hangs, crashes, interruptions, what cannot be loaded) is tested with `python -m kda` itself.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

from properties.worker import LATE

IMPORTED = ["torch", "properties.allocations", *LATE, "kda.cli", "kda.check", "kda.replay", "properties.forked"]
IMPORTED += ["properties.judge", "implementations.torch_chunked", "implementations.torch_recurrent"]
PATIENCE = 280  # seconds after which a command hangs


def kda(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `python -m kda ARGUMENTS` prints in a folder, and its exit status."""
    return _done(_kda, arguments, cwd)


def python(text: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same of `python -c TEXT ARGUMENTS`."""
    return _done(_python, (text, *arguments), cwd)


def _done(what: Callable[..., None], arguments: tuple[object, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _context().Process(target=_start, args=(what, [*map(str, arguments)], cwd, out, err))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"no end within {PATIENCE} s: {arguments}")
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with patch.dict(os.environ, TRITON_INTERPRET="1"):  # as a worker on a CPU has it; read when Triton is imported
        forkserver.ensure_running()
    return context


def _start(what: Callable[..., None], arguments: list[str], cwd: Path, out: Path, err: Path) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(cwd)
    what(*arguments)


def _kda(*arguments: str) -> None:
    from kda.cli import main
    from properties.forked import ForkedWorker
    from properties.process import Worker

    Worker._spawn, Worker._become_worker = ForkedWorker._spawn, ForkedWorker._become_worker
    sys.argv = ["kda", *arguments]
    main()


def _python(text: str, *arguments: str) -> None:
    sys.argv = ["-c", *arguments]
    exec(text, {"__name__": "__main__"})
