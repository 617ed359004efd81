"""The worker process: loads candidates, times them on one workload after another, sends what comes out.

It says before every step which candidate it is about to run and how long that may take, so that the process that
started it knows whom to blame for a crash or a hang.
"""

import ctypes
import gc
import signal
import subprocess
import sys
from typing import Any

import torch

from benchmarks.calling import Candidate
from benchmarks.clock import cache_bytes
from benchmarks.measure import Bench
from benchmarks.roofline import ceilings
from benchmarks.rows import Entry, Lost, blank, fill, one_line, relate
from properties import wire
from properties.case import parse

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"


def main(requests: int, replies: int) -> None:
    """Serve jobs until the pipe is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the process that started this one
    candidates: dict[tuple[str, str], Candidate] = {}
    while (request := wire.receive(requests)) is not None:
        if request["kind"] == "device":
            wire.send(replies, {"kind": "device", **device_facts(request["device"])})
            continue
        try:
            rows = Job(request, candidates, replies).rows()
        except Lost as lost:
            wire.send(replies, {"kind": "lost", "label": lost.label, "reason": lost.reason})
            return
        for row in rows:
            wire.send(replies, {"kind": "row", "row": row})
        wire.send(replies, {"kind": "done"})


def device_facts(device: str) -> dict[str, Any]:
    """What the device is and reaches: name, driver, clocks as found, cache, measured ceilings."""
    facts: dict[str, Any] = {"ceilings": ceilings(device), "cache_bytes": cache_bytes(device), "driver": None}
    facts |= {"clocks": None, "threads": torch.get_num_threads(), "torch_cuda": torch.version.cuda}
    if device == "cuda":
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
        try:
            text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            found = dict(zip(QUERY.split(","), (part.strip() for part in text.split(",")), strict=True))
            facts |= {"driver": found["driver_version"], "clocks": found}
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            facts["clocks"] = {"error": one_line(error)}
    return facts


class Job:
    """One workload in one mode for some candidates."""

    def __init__(self, request: dict[str, Any], candidates: dict[tuple[str, str], Candidate], replies: int) -> None:
        self.request, self.loaded, self.replies = request, candidates, replies
        self.case = parse(request["case"])

    def say(self, entry: Entry | None, phase: str) -> None:
        """Tell what happens next and how long it may take."""
        label = None if entry is None else entry.candidate.label
        limits = self.request["limits"]
        limit = limits["suite"] if entry is None else limits["first" if phase in ("first call", "load") else "call"]
        wire.send(self.replies, {"kind": "at", "label": label, "phase": phase, "limit": limit})

    def rows(self) -> list[dict[str, Any]]:
        """Measure; one row for each candidate."""
        request, device = self.request, self.request["device"]
        rows = {
            label: blank(label, request["workload"], request["mode"], device, self.case)
            for label, _ in request["targets"]
        }
        found = [one for label, text in request["targets"] if (one := self._load(label, text, rows[label]))]
        if found:
            self._measure(found, rows)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        relate(list(rows.values()), request["baseline"])
        return list(rows.values())

    def _measure(self, found: list[Candidate], rows: dict[str, dict[str, Any]]) -> None:
        request = self.request
        self.say(None, "building inputs")
        try:
            bench = Bench(
                self.case,
                request["mode"],
                request["device"],
                rates=request["rates"],
                graph=request["graph"],
                say=self.say,
            )
        except Exception as error:
            for candidate in found:
                rows[candidate.label] |= {"reason": f"the inputs could not be built: {one_line(error)}"}
            return
        entries = [bench.start(candidate) for candidate in found]
        bench.run(entries, request["rounds"], request["seconds"])
        for entry in entries:
            bench.conclude(entry)
            fill(rows[entry.candidate.label], entry, bench.floor_ms, bench.floor_by)

    def _load(self, label: str, text: str, row: dict[str, Any]) -> Candidate | None:
        # The same target under two labels is loaded once: they are then the same kernel, caches included.
        key = (text, self.request["array"])
        try:
            if key not in self.loaded:
                self.say(Entry(Candidate(label, None)), "load")
                self.loaded[key] = Candidate.load(label, text, self.request["array"])
        except BaseException as error:
            row["reason"] = f"unloadable: {one_line(error)}"
            return None
        one = self.loaded[key]
        return Candidate(label, one.kernel, one.array, one.pool)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
