"""The suite on trial: faulty kernels by the laws, and honest kernels by every law with many seeds.

A faulty kernel must be falsified by some law, every law must falsify some faulty kernel, and no law an honest kernel.
`try_laws` asks the laws of one kernel, `try_kernels` asks kernels for one law.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from implementations import SHIPPED
from implementations.faulty import FAULTS, HONEST, Fault
from properties.calls import Kernel
from properties.case import DTYPES, Case
from properties.describe import FALSIFIED
from properties.forked import ForkedWorker
from properties.law import Law
from properties.outcome import VERDICTS
from properties.pinned import PINNED, pinned_for
from properties.process import Unloadable
from properties.profiles import Profile
from properties.runner import Record, examine

# A few cases of every law; only kernels that survive those are looked at longer, at the first law that finds them.
# Cases are counted, so that a busy machine comes to the same matrix; the seconds only end what hangs.
_SHORT = Profile(examples=8, seconds=20, evaluations=6, shrink=2, longest=130, widest=128, explain=False)
ROUNDS = (
    replace(_SHORT, volume=30_000),
    replace(_SHORT, examples=60, seconds=30, longest=200, volume=60_000),
)
# Hypothesis draws the simplest case first: only the first seed is asked about it.
CONTROL = Profile(examples=3, seconds=20, evaluations=30, shrink=10, longest=70, widest=64, volume=10_000)
# Triton's interpreter takes milliseconds for a token and head.
INTERPRETED = {"longest": 17, "widest": 32, "volume": 100, "seconds": 5.0}
# Tokens times heads of the pinned cases that are tried there: laws against the oracle make only one call of each.
PINNED_TOKENS, PINNED_TOKENS_ORACLE = 22, 70
TIMEOUT = 20.0
HANGS = 1  # after so many a kernel is not asked again
AFTERWARDS = 3  # cases of each law once a kernel is falsified
FEW = 1  # pinned cases that laws of scale try before the other laws draw
# The laws of scale cost more than all others together: faults of scale, what nothing else finds, and few controls.
OF_SCALE, SCALE_SEEDS = "EFG", 2
INTERPRETED_SEEDS = 0.2  # share of the seeds that honest kernels get under the interpreter
# Families of faults in which a family of laws is likeliest to find one; the others are asked after them.
LIKELY = {
    "gradient": "JD",
    "bitwise": "HXBC",
    "finite": "A",
    "memory": "MDH",
    "refuse": "RCXI",
    "structure": "DEHK",
    "serving": "LD",
    "raw": "CH",
    "scale": "GFK",
}
ORDER = {name: n for n, name in enumerate(VERDICTS)}


@dataclass(frozen=True)
class Suspect:
    """A kernel of the matrix: a faulty one with its fault, or an honest control with a seed."""

    name: str
    target: str
    array: str
    fault: Fault | None
    seed: int


def faulty(seed: int) -> list[Suspect]:
    """Every registered faulty kernel."""
    return [Suspect(name, fault.target, fault.array, fault, seed) for name, fault in FAULTS.items()]


def controls(seeds: int) -> list[Suspect]:
    """Shipped kernels and the bases of the faulty ones with every seed; with a fifth of them under the interpreter."""
    suspects = []
    for name, target in ({name: name for name in SHIPPED} | HONEST).items():
        array = "triton" if interpreted(name) else "numpy" if "numpy" in name else "torch"
        count = ceil(seeds * INTERPRETED_SEEDS) if array == "triton" else seeds
        suspects += [Suspect(name, target, array, None, seed) for seed in range(1, count + 1)]
    return suspects


def interpreted(name: str) -> bool:
    """Whether an honest kernel runs under Triton's interpreter."""
    return "triton" in name


def try_laws(suspects: list[Suspect], first: bool) -> list[dict[str, Any]]:
    """The kill lines of suspects that share one kernel: every law, or up to the `first` that falsifies."""
    one = suspects[0]
    with ForkedWorker(one.target, array=_library(one), timeout=TIMEOUT) as worker:
        try:
            worker.start()
        except Unloadable as error:
            return [_not_run(suspect, str(error)) for suspect in suspects]
        # What a broken kernel returns may overflow in the judge's float64, which is no news.
        with np.errstate(all="ignore"):
            return [line for suspect in suspects for line in _try(suspect, Kernel(worker), first)]


def candidates(law: Law, lines: Sequence[dict[str, Any]], suspects: Sequence[Suspect]) -> list[Suspect]:
    """The faulty kernels that a law was not asked about with drawn cases, those likeliest to break it first.

    Last come those that are slow, hang, or answer differently every time, which breaks any law and shows little.
    """
    asked = {line["kernel"] for line in lines if line["law"] == law.name and line["drawn"]}
    asked |= {line["kernel"] for line in lines if line["order"] < 0}
    first = {line["kernel"]: line for line in lines if line["first"]}
    likely = LIKELY.get(law.family, "")

    def place(suspect: Suspect) -> tuple[int, int, bool]:
        before = first.get(suspect.name, {"family": "", "status": ""})
        last = ["nondeterministic", "timeout"]
        slow = 2 + last.index(before["status"]) if before["status"] in last else suspect.array == "triton"
        family = suspect.fault.family if suspect.fault else ""
        rank = likely.find(family) if family in likely else len(likely)
        return slow, rank, before["family"] != law.family

    return sorted((suspect for suspect in suspects if suspect.name not in asked), key=place)


def try_kernels(name: str, suspects: Sequence[Suspect]) -> list[dict[str, Any]]:
    """The kill lines of the law of that name, which is asked about one suspect after the other until it falsifies."""
    lines: list[dict[str, Any]] = []
    law = VERDICTS[name]
    for suspect in suspects:
        if _why_not(suspect, law, {}, False):
            continue
        with (
            ForkedWorker(suspect.target, array=_library(suspect), timeout=TIMEOUT) as worker,
            np.errstate(all="ignore"),
        ):
            worker.start()
            spent = _spend(suspect, ROUNDS[0], False)
            given = {"dtypes": DTYPES, "seed_": suspect.seed, "name": suspect.name, "pinned": _pinned(suspect, law)}
            record = examine(Kernel(worker), law, spent, **given)
        lines.append(_line(suspect, record))
        if record.status in FALSIFIED:
            break
    return lines


def _library(suspect: Suspect) -> str:
    return "numpy" if suspect.array == "numpy" else "torch"


@dataclass(frozen=True)
class Step:
    """One law, asked with drawn cases, seeds of their own, and the first few or all of the pinned ones."""

    law: Law
    profile: Profile
    pinned: int = 0
    ahead: int = 0


def _try(suspect: Suspect, kernel: Kernel, first: bool) -> list[dict[str, Any]]:
    lines, spent, found = dict[str, dict[str, Any]](), 0.0, False
    for step in _steps(suspect, first):
        if found and (first or step.ahead):
            break
        law = step.law
        record = Record(suspect.name, law.name, law.family, law.sentence, law.equation)
        record.reason = _why_not(suspect, law, lines, found)
        if not record.reason:
            pinned = () if found else _pinned(suspect, law)[: step.pinned]
            given = {"dtypes": DTYPES, "seed_": suspect.seed + step.ahead, "name": suspect.name, "pinned": pinned}
            record = examine(kernel, law, _spend(suspect, step.profile, found), **given)
            spent += _seconds(record)
        until = None if suspect.fault is None or found else spent
        _add(lines, _line(suspect, record, until, drawn=step.profile.examples > 0))
        found = found or (suspect.fault is not None and record.status in FALSIFIED)
    return list(lines.values())


def _steps(suspect: Suspect, first: bool) -> list[Step]:
    """What an honest kernel is asked, or a faulty one: few cases of every law, then more.

    Where the first find ends it, pinned cases come before drawn ones, which cost more and find less; the laws against
    the oracle draw at once, since they find most and call the kernel once.
    """
    laws = list(VERDICTS.values())
    if suspect.fault is None:
        return [Step(law, CONTROL) for law in laws]
    (few, *more), all_pinned = ROUNDS, len(PINNED)
    steps = [Step(law, few, all_pinned) for law in laws]
    if first:
        ahead = [law for law in laws if law.family == "oracle"]
        known, scale = replace(few, examples=0), [law for law in laws if law.family == "scale"]
        steps = [
            *(Step(law, few if law in ahead else known, FEW if law in scale else all_pinned) for law in laws),
            *(Step(law, few, all_pinned if law in scale else 0) for law in laws if law not in ahead),
        ]
    return steps + [Step(law, profile, ahead=1000 * n) for n, profile in enumerate(more, 1) for law in laws]


def _spend(suspect: Suspect, profile: Profile, found: bool) -> Profile:
    """What to spend on a law: less once the kernel is falsified, less and smaller under the interpreter."""
    if found:
        profile = replace(profile, examples=AFTERWARDS)
    if suspect.fault is None and suspect.seed > 1:
        profile = replace(profile, simplest=False)  # the first seed had it
    if suspect.array == "triton":
        profile = replace(profile, examples=(profile.examples + 1) // 2, **INTERPRETED)
    return profile


def _why_not(suspect: Suspect, law: Law, lines: dict[str, dict[str, Any]], found: bool) -> str | None:
    """Why a law is not asked, or None."""
    if law.family == "scale" and suspect.array == "triton":
        return "thousands of tokens take minutes under Triton's interpreter"
    if law.family == "scale" and found and suspect.fault and suspect.fault.family not in OF_SCALE:
        return "falsified before, and not by a fault of scale"
    if law.family == "scale" and suspect.fault is None and suspect.seed > SCALE_SEEDS:
        return f"laws of scale try {SCALE_SEEDS} seeds"
    if sum(line["status"] == "timeout" for line in lines.values()) >= HANGS:
        return "the kernel hung before: every further law would only wait"
    return None


def _pinned(suspect: Suspect, law: Law) -> tuple[Case, ...]:
    """The pinned cases; under the interpreter the small ones."""
    if suspect.array != "triton":
        return PINNED
    most = PINNED_TOKENS_ORACLE if law.family == "oracle" else PINNED_TOKENS
    small = pinned_for(law.family, interpreted=True)
    return tuple(case for case in small if case.B * sum(case.lengths) * case.H * case.group <= most)


def _add(lines: dict[str, dict[str, Any]], line: dict[str, Any]) -> None:
    """The later round takes the place of the earlier one, whose cost it carries on."""
    before = lines.get(line["law"])
    if before is not None and line["status"] != "not-run":
        line["examples"] += before["examples"]
        line["seconds"] = round(line["seconds"] + before["seconds"], 3)
    if before is None or line["status"] != "not-run":
        lines[line["law"]] = line


def _seconds(record: Record) -> float:
    """Seconds to the counterexample, or all."""
    return record.seconds if record.seconds_to_failure is None else record.seconds_to_failure


def _line(suspect: Suspect, record: Record, until: float | None = None, *, drawn: bool = True) -> dict[str, Any]:
    """A kill line; `until`: seconds spent on a faulty kernel up to here, where no other law falsified it before."""
    killed = record.status in FALSIFIED
    return {
        "schema": 1,
        "kind": "kill",
        "kernel": suspect.name,
        "honest": suspect.fault is None,
        "fault": describe_fault(suspect.fault),
        "law": record.law,
        "family": record.family,
        "status": record.status,
        "examples": record.tried,
        "drawn": drawn and record.status != "not-run",
        "seconds": _seconds(record),
        "order": ORDER.get(record.law, -1),  # -1: no law was asked
        "first": killed and until is not None,
        "until": round(until, 3) if killed and until is not None else None,
        "case": record.case,
        "message": record.message if killed else record.reason,
        "seed": suspect.seed,
    }


def describe_fault(fault: Fault | None) -> dict[str, str] | None:
    """What the result file says of a fault."""
    if fault is None:
        return None
    names = ("id", "family", "summary", "trigger", "source", "array")
    return {name: getattr(fault, name) for name in names}


def _not_run(suspect: Suspect, reason: str) -> dict[str, Any]:
    record = Record(suspect.name, "", "", "", "", reason=reason)
    return _line(suspect, record)
