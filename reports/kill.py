"""Tables about the suite itself: which law falsifies which faulty kernel, and whether an honest one is accused."""

import re
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pandas as pd

from reports.results import FALSIFIED, records

SLOWEST = 3  # first kills named in the text


@dataclass
class Killed:
    """The kill matrix.

    `faults` has one dict per faulty kernel (its fault, its cells by law, its first kill), `laws` the laws in the order
    in which they were run with the number of kernels each was asked about, falsified, and falsified first, `honest` one
    dict per honest kernel.
    """

    faults: list[dict[str, Any]] = field(default_factory=list)
    laws: list[dict[str, Any]] = field(default_factory=list)
    honest: list[dict[str, Any]] = field(default_factory=list)

    @property
    def survivors(self) -> list[str]:
        """Names of the faulty kernels that no law falsified."""
        return [fault["kernel"] for fault in self.faults if fault["outcome"] == "survived"]

    @property
    def not_run(self) -> list[str]:
        """Names of the faulty kernels that no law was tried on: neither killed nor survivors."""
        return [fault["kernel"] for fault in self.faults if fault["outcome"] == "not run"]

    @property
    def idle(self) -> list[str]:
        """Names of the laws that were asked about faulty kernels and falsified none."""
        return [law["law"] for law in self.laws if law["asked"] and not law["kills"]]

    @property
    def unable(self) -> list[str]:
        """Names of the laws that could be asked about none of them here: those that need a GPU."""
        return [law["law"] for law in self.laws if not law["asked"]]

    @property
    def accused(self) -> list[str]:
        """Names of the honest kernels that a law accused."""
        return [one["kernel"] for one in self.honest if one["accusations"]]

    def summary(self) -> dict[str, Any]:
        """Counts, and the time until the first kill (all laws tried before it included) in seconds."""
        times = [fault["until"] for fault in self.faults if fault["killed"]]
        slowest = sorted((fault for fault in self.faults if fault["killed"]), key=lambda f: -f["until"])[:SLOWEST]
        return {
            "killed": len(times),
            "of": len(self.faults) - len(self.not_run),
            "not_run": self.not_run,
            "median": median(times) if times else None,
            "slowest": [(fault["kernel"], fault["until"]) for fault in slowest],
            "survivors": self.survivors,
            "idle": self.idle,
            "unable": self.unable,
            "laws": len(self.laws),
            "killing": sum(law["kills"] > 0 for law in self.laws),
            "honest": len(self.honest),
            "runs": sum(one["seeds"] for one in self.honest),
            "seeds": _seeds(self.honest),
            "accusations": sum(len(one["accusations"]) for one in self.honest),
        }


def killed(kills: pd.DataFrame) -> Killed:
    """The kill matrix of the lines of kind "kill"."""
    lines = [line for line in records(kills) if not line["quality"]]
    seeds = {line["kernel"]: line["seed"] for line in lines}  # of several runs of a faulty kernel the last one counts
    faulty = [line for line in lines if not line["honest"] and line["seed"] == seeds[line["kernel"]]]
    laws = _laws(faulty)
    by_kernel: dict[str, list[dict[str, Any]]] = {}
    for line in faulty:
        by_kernel.setdefault(line["kernel"], []).append(line)
    faults = [_fault(kernel, part) for kernel, part in by_kernel.items()]
    faults.sort(key=lambda fault: (fault["family"], _natural(fault["id"]), fault["kernel"]))
    return Killed(faults, laws, _honest([line for line in lines if line["honest"]]))


def _laws(faulty: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The laws in the order in which they were run, and how often each was asked and falsified."""
    laws: dict[str, dict[str, Any]] = {}
    for line in sorted(faulty, key=lambda line: line["order"] or 0):
        if not line["law"]:
            continue  # a kernel that could not be tried at all has one line, of no law
        new = {"law": line["law"], "family": line["family"] or "", "asked": 0, "kills": 0, "firsts": 0, "seconds": 0.0}
        law = laws.setdefault(line["law"], new)
        law["asked"] += ran(line)
        law["kills"] += line["status"] in FALSIFIED
        law["firsts"] += bool(line["first"])
        law["seconds"] += line["seconds"] or 0.0
    return list(laws.values())


def _seeds(honest: list[dict[str, Any]]) -> str:
    """How many seeds the honest kernels had, in words."""
    counts: dict[int, list[str]] = {}
    for one in honest:
        counts.setdefault(one["seeds"], []).append(one["kernel"])
    return "; ".join(
        f"{n} seed{'' if n == 1 else 's'} each: {', '.join(sorted(counts[n]))}" for n in sorted(counts, reverse=True)
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A5 before A11."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _fault(kernel: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """One faulty kernel: its fault, what every law said, the first kill and the seconds until then."""
    lines = sorted(lines, key=lambda line: line["order"] or 0)
    kills = [line for line in lines if line["status"] in FALSIFIED]
    first = next((line for line in kills if line["first"]), kills[0] if kills else None)
    return {
        "kernel": kernel,
        **{name: lines[0][f"fault_{name}"] or "" for name in ("id", "family", "summary", "trigger", "source", "array")},
        "cells": {line["law"]: line for line in lines},
        "first": first,
        "killed": bool(kills),
        "outcome": "falsified" if kills else "survived" if any(ran(line) for line in lines) else "not run",
        "reason": next((line["message"] for line in lines if line["status"] == "not-run" and line["message"]), None),
        "kills": len(kills),
        "asked": sum(ran(line) for line in lines),
        "until": (first["until"] or first["seconds"] or 0.0) if first else 0.0,
    }


def _honest(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_kernel: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_kernel.setdefault(line["kernel"], []).append(line)
    return [
        {
            "kernel": kernel,
            "seeds": len({line["seed"] for line in part}),
            "laws": len({line["law"] for line in part}),
            "examples": sum(line["examples"] or 0 for line in part),
            "accusations": [line for line in part if line["status"] in FALSIFIED],
            "absent": len({line["law"] for line in part if line["status"] in ("unsupported", "not-run")}),
        }
        for kernel, part in sorted(by_kernel.items())
    ]


def ran(line: dict[str, Any]) -> bool:
    """Whether the law was tried at all."""
    return line["status"] != "not-run"


def heat(seconds: float | None) -> str:
    """The class of a kill by its time: h1 under 0.3 s, h2 under 1 s, h3 under 5 s, h4 slower."""
    if seconds is None:
        return "h4"
    return next((name for name, limit in (("h1", 0.3), ("h2", 1.0), ("h3", 5.0)) if seconds < limit), "h4")


def short(seconds: float | None) -> str:
    """Seconds in at most four characters and a unit."""
    if seconds is None:
        return "?"
    return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
