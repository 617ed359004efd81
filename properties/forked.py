"""A worker forked from the judge instead of started anew: for many kernels of one package, whose imports are shared.

The judge must have imported what the kernels need, and must never have called any of them.
"""

import os
import sys
from dataclasses import dataclass

from properties import wire
from properties.process import Worker
from properties.worker import _die_with_parent as die_with_parent
from properties.worker import main

__all__ = ["ForkedWorker", "die_with_parent"]


@dataclass
class Child:
    """As much of `subprocess.Popen` as a Worker uses."""

    pid: int

    def wait(self) -> None:
        """Wait until the process is gone."""
        os.waitpid(self.pid, 0)


class ForkedWorker(Worker):
    """A worker that costs milliseconds to start."""

    def _spawn(self) -> None:
        (requests, self._to), (self._from, replies) = wire.pipe(), wire.pipe()
        pid = os.fork()
        if pid == 0:
            self._become_worker(requests, replies)
        os.close(requests)
        os.close(replies)
        self._process = Child(pid)  # type: ignore[assignment]

    def _become_worker(self, requests: int, replies: int) -> None:
        try:
            os.setsid()
            os.close(self._to)
            os.close(self._from)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(self._log.fileno(), stream.fileno())
            main(self.target, self.array, self.device, requests, replies)
        finally:
            os._exit(0)
