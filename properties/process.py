"""The judge's handle on a worker process: start it, ask it, lose it, start it again."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections import deque
from typing import Any

from properties import piped, wire

HISTORY = 64  # cases that are remembered of what a process was asked


class Unloadable(Exception):
    """The target cannot be loaded, or is no kernel; the message says why."""


class Worker:
    """One worker process for one target. `call` never raises for what the kernel does: it returns a status.

    Args:
        target: a TARGET as on the command line.
        array: the array library to assume where the kernel's file gives no hint ("torch" or "numpy").
        device: "cpu" or "cuda".
        timeout: seconds a call may take before the worker is killed and the call counts as a timeout.
    """

    def __init__(self, target: str, *, array: str = "torch", device: str = "cpu", timeout: float = 30.0) -> None:
        self.target, self.array, self.device, self.timeout = target, array, device, timeout
        self.engine: list[str] = []
        self.hints: dict[str, Any] = {}
        self.calls = self.restarts = 0
        self.asked: deque[Any] = deque(maxlen=HISTORY)  # the last cases of this child, kept by those who ask
        self._process: subprocess.Popen[bytes] | None = None
        self._child = 0
        self._log = tempfile.TemporaryFile()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._log.close()

    def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply, or a status of its own: "timeout" or "crash"."""
        self.calls += 1
        try:
            if not self._child:
                self.start()
            wire.send(self._to, message)
            reply = wire.receive(self._from, self.timeout)
        except TimeoutError:
            return self._lost_by_timeout()
        except (OSError, ValueError) as error:
            self.close()
            return {"status": "crash", "error": f"the worker process broke off ({error})", "arrays": {}}
        if reply is None:
            self.close()
            return {"status": "crash", "error": "the worker process vanished", "arrays": {}}
        if reply["status"] == "died":
            self._child = 0
            return {
                "status": "crash",
                "error": f"the process died: {reply['error']}",
                "arrays": {},
                "log": piped.tail(self._log),
            }
        if reply.get("spent"):  # a fault on a GPU stays with its process
            self.renew()
            if reply["status"] == "harness":  # an earlier call left the device so; this one is asked again
                return self.call(message)
        return reply

    def start(self) -> None:
        """Start the process if need be, and wait until its child has loaded the kernel."""
        if self._process is None:
            self._spawn()
        else:
            self.restarts += 1
        while True:
            try:
                hello = wire.receive(self._from, max(self.timeout, 120.0))
            except TimeoutError:
                self.close()
                raise Unloadable(f"loading {self.target} took more than two minutes") from None
            if hello is None:
                tail = piped.tail(self._log)
                self.close()
                raise Unloadable(f"the worker process for {self.target} ended before it was ready: {tail}")
            if hello["status"] == "unloadable":
                self.close()
                raise Unloadable(f"{self.target} cannot be loaded: {hello['error']}")
            if hello["status"] == "died":
                self.close()
                raise Unloadable(f"{self.target} cannot be loaded: importing it ended the process ({hello['error']})")
            if hello["status"] == "ready":
                self._child, self.engine, self.hints = hello["pid"], hello["engine"], hello["hints"]
                self.asked.clear()
                return

    def renew(self) -> None:
        """Go on in a new child, as if no call had been made; the parent process and its imports stay."""
        if not self._child:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        self._child = 0
        try:
            while (reply := wire.receive(self._from, 5.0)) is not None and reply["status"] != "died":
                pass
        except (TimeoutError, ValueError):
            self.close()

    def close(self) -> None:
        """End the process and everything it started."""
        process, self._process, self._child = self._process, None, 0
        if process is None:
            return
        piped.end(process, self._to, self._from)

    def _spawn(self) -> None:
        environment = dict(
            os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONUNBUFFERED="1"
        )
        if self.device == "cpu":
            environment.setdefault("TRITON_INTERPRET", "1")
        arguments = ("properties.worker", self.target, self.array, self.device)
        self._process, self._to, self._from = piped.start(*arguments, log=self._log, environment=environment)

    def _lost_by_timeout(self) -> dict[str, Any]:
        self.renew()
        return {"status": "timeout", "error": f"no answer within {self.timeout:g} s", "arrays": {}}
