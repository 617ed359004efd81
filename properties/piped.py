"""A process at the other end of two pipes: started, ended with all that it started, and what it last printed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

from properties import wire


def start(
    module: str, *arguments: str, log: IO[bytes], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int, int]:
    """Run `python -m MODULE ARGUMENTS.. REQUESTS REPLIES`; returns it, the end to write to and the end to read from."""
    (requests, to), (from_, replies) = wire.pipe(), wire.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments, str(requests), str(replies)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        pass_fds=(requests, replies),
        start_new_session=True,
    )
    os.close(requests)
    os.close(replies)
    return process, to, from_


def end(process: Any, *pipes: int) -> None:
    """End a process and its group, and close the pipes to it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in pipes:
        os.close(pipe)


def tail(log: IO[bytes]) -> str:
    """The end of a log, on one line."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 1500))
    text = " ".join(log.read().decode(errors="replace").split())[-500:]
    log.seek(0, os.SEEK_END)
    return text
