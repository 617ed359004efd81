"""What became of a candidate on a workload, and the result line that tells it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.calling import Candidate
from benchmarks.oracle import Verdict
from benchmarks.ratios import paired, say
from properties.case import Case


class Wrong(Exception):
    """A timed result is wrong; the message says how."""


class Unchecked(Exception):
    """The suite could not check a result: neither right nor wrong."""


class Lost(Exception):
    """The device can no longer be used in this process; `label` names the candidate that was running."""

    def __init__(self, label: str, reason: str) -> None:
        super().__init__(reason)
        self.label, self.reason = label, reason


@dataclass
class Entry:
    """What is known about one candidate on one workload.

    `known` has a verdict for every (input set, hash of the results), `timed` those of timed rounds, `gradients` the
    input set of every hash of gradients. `times`, `host` are milliseconds, `stray` and `first_call` seconds.
    """

    candidate: Candidate
    calls: list[Any] = field(default_factory=list)
    status: str = "ok"
    reason: str | None = None
    turn: int = 0
    times: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    stray: list[float] = field(default_factory=list)
    first_call: float | None = None
    peak: int | None = None
    units: float | None = None
    known: dict[tuple[int, int], Verdict] = field(default_factory=dict)
    timed: set[tuple[int, int]] = field(default_factory=set)
    gradients: dict[int, int] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fail(self, status: str, reason: str) -> None:
        """End this candidate's run; its times are void."""
        self.status, self.reason = status, reason
        self.calls = []


def one_line(error: BaseException) -> str:
    """The kind of an error and its message in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


def blank(label: str, workload: str, mode: str, device: str, case: Case) -> dict[str, Any]:
    """A result line of which only the question is known; its status is "not-run"."""
    tokens = sum(case.lengths)
    return {
        "schema": 1,
        "kind": "bench",
        "kernel": label,
        "workload": workload,
        "mode": mode,
        "device": device,
        "case": repr(case),
        "B": 1 if case.packed else case.B,
        "T": tokens if case.packed else case.T,
        "tokens": tokens,
        "sequences": len(case.lengths),
        "H": case.H,
        "HV": case.H * case.group,
        "K": case.K,
        "V": case.V,
        "dtype": case.dtype,
        "clock": "cuda events" if device == "cuda" else "perf_counter",
        "rounds": 0,
        "times_ms": [],
        **dict.fromkeys(("median_ms", "q25_ms", "q75_ms", "min_ms", "host_ms", "first_call_s", "peak_bytes")),
        **dict.fromkeys(("floor_ms", "floor_by", "of_floor", "units")),
        "status": "not-run",
        "reason": None,
        "flags": [],
        "kernel_names": [],
        **dict.fromkeys(("baseline", "ratio", "ratio_low", "ratio_high")),
        "seed": case.seed,
        "seconds": 0.0,
    }


def fill(row: dict[str, Any], entry: Entry, floor_ms: float | None, floor_by: str | None) -> dict[str, Any]:
    """Add what was measured."""
    row |= {"status": entry.status, "reason": entry.reason, "flags": entry.flags, "kernel_names": entry.names}
    row |= {"rounds": len(entry.times), "times_ms": [round(x, 6) for x in entry.times], "peak_bytes": entry.peak}
    row |= {"first_call_s": entry.first_call, "floor_ms": floor_ms, "floor_by": floor_by}
    row |= {"units": None if entry.units is None else min(entry.units, 1e30), "seconds": round(entry.seconds, 3)}
    if entry.times:
        low, middle, high = (float(x) for x in np.quantile(entry.times, [0.25, 0.5, 0.75]))
        row |= {"median_ms": middle, "q25_ms": low, "q75_ms": high, "min_ms": min(entry.times)}
        row |= {"host_ms": float(np.median(entry.host)), "of_floor": floor_ms and floor_ms / middle}
    return row


def relate(rows: list[dict[str, Any]], baseline: str) -> None:
    """Add to every row its ratio to the baseline, or where that has no time to the first that has one."""
    timed = [row for row in rows if row["status"] == "ok"]
    base = next((row for row in timed if row["kernel"] == baseline), timed[0] if timed else None)
    for row in timed:
        if base is None or row is base:
            continue
        ratio, low, high = paired(row["times_ms"], base["times_ms"])
        row |= {"baseline": base["kernel"], "ratio": ratio, "ratio_low": low, "ratio_high": high}
        if (words := say(ratio, low, high)).startswith("cannot"):
            row["flags"] = [*row["flags"], words]
