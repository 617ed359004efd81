"""The handle on the worker process: hand it a job, and when a candidate takes the worker down, go on without it."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import blank
from properties import piped, wire
from properties.case import Case

# Seconds: of the suite's own steps (inputs, oracle) and for loading and measuring the device.
SUITE, START = 300.0, 180.0


@dataclass(frozen=True)
class Job:
    """One workload in one mode for some (label, TARGET) pairs."""

    workload: str
    case: Case
    mode: str
    targets: tuple[tuple[str, str], ...]
    baseline: str
    graph: bool = False


@dataclass(frozen=True)
class How:
    """What all jobs of a run share. `call` and `first` are the seconds that one call, and a first one, may take."""

    device: str
    array: str = "torch"
    rounds: int = 20
    seconds: float = 10.0
    call: float = 60.0
    first: float = 600.0


class Timer:
    """A worker process that times; started when needed, and again after a candidate took it down."""

    def __init__(self, how: How) -> None:
        self.how = how
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()
        self._rates: dict[str, Any] | None = None

    def __enter__(self) -> "Timer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._log.close()

    def device(self) -> dict[str, Any]:
        """Facts about the device, its measured ceilings among them.

        Raises:
            RuntimeError: where the worker ends before it answers.
        """
        try:
            self._send({"kind": "device", "device": self.how.device})
            facts = wire.receive(self._from, START)
        except (OSError, ValueError, TimeoutError) as error:
            facts = None
            self._note(error)
        if facts is None:
            tail = piped.tail(self._log)
            self.close()
            raise RuntimeError(f"the worker process ended before it told the device: {tail}")
        self._rates = facts["ceilings"]
        return {name: value for name, value in facts.items() if name not in ("kind", "arrays")}

    def run(self, job: Job, hear: Callable[[str | None, str], None] = lambda *_: None) -> Iterator[dict[str, Any]]:
        """Rows of a job, one for each target, whatever becomes of the worker."""
        left = dict(job.targets)
        while left:
            rows, at, failure = self._attempt(job, left, hear)
            yield from rows
            if failure is None:
                return
            lost = [at] if at in left else list(left)
            for label in lost:
                row = blank(label, job.workload, job.mode, self.how.device, job.case)
                status, reason = failure if at in left else ("not-run", f"the suite's own step failed: {failure[1]}")
                yield row | {"status": status, "reason": reason}
                del left[label]

    def _attempt(
        self, job: Job, left: dict[str, str], hear: Callable[[str | None, str], None]
    ) -> tuple[list[dict[str, Any]], str | None, tuple[str, str] | None]:
        """(rows, the candidate that was running, what went wrong); after a failure there are no rows."""
        rows: list[dict[str, Any]] = []
        at, phase, limit = None, "start", START
        try:
            self._send(self._message(job, left))
            while (reply := wire.receive(self._from, limit)) is not None:
                if reply["kind"] == "at":
                    at, phase, limit = reply["label"], reply["phase"], reply["limit"]
                    hear(at, phase)
                elif reply["kind"] == "row":
                    rows.append(reply["row"])
                elif reply["kind"] == "lost":
                    self.close()
                    return [], reply["label"], ("crash", reply["reason"])
                else:
                    return rows, None, None
        except TimeoutError:
            self.close()
            return [], at, ("timeout", f"no answer within {limit:g} s ({phase})")
        except (OSError, ValueError) as error:
            self._note(error)
        how, tail = self.close(), piped.tail(self._log)
        return [], at, ("crash", f"the process died: {how} ({phase})" + (f"; {tail}" if tail else ""))

    def _message(self, job: Job, left: dict[str, str]) -> dict[str, Any]:
        how = self.how
        return {
            "kind": "job",
            "workload": job.workload,
            "case": repr(job.case),
            "mode": job.mode,
            "graph": job.graph,
            "targets": list(left.items()),
            "baseline": job.baseline if job.baseline in left else next(iter(left)),
            "device": how.device,
            "array": how.array,
            "rounds": how.rounds,
            "seconds": how.seconds,
            "rates": self._rates,
            "limits": {"call": how.call, "first": how.first, "suite": SUITE},
        }

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is None:
            self._spawn()
        wire.send(self._to, message)

    def _spawn(self) -> None:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment.setdefault(name, "1")
        if self.how.device == "cpu":
            environment.setdefault("TRITON_INTERPRET", "1")
        started = piped.start("benchmarks.worker", log=self._log, environment=environment)
        self._process, self._to, self._from = started

    def close(self) -> str:
        """End the process and everything it started; says how it had ended."""
        process, self._process = self._process, None
        if process is None:
            return "it was not running"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        ended = process.poll()
        piped.end(process, self._to, self._from)
        if ended is None:
            return "stopped"
        return f"signal {signal.Signals(-ended).name}" if ended < 0 else f"exit status {ended}"

    def _note(self, error: BaseException) -> None:
        self._log.write(f"\n{type(error).__name__}: {error}\n".encode())
