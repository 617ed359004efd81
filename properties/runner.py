"""Judging one kernel by one law: draw cases, count them, shrink what breaks, write a record."""

import contextlib
import time
import warnings
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings, target
from hypothesis.errors import HypothesisWarning

from properties.before import SECONDS, Asking, Run, find, make_small
from properties.calls import Kernel
from properties.case import Case
from properties.law import Law
from properties.looks import looks_like, looks_like_before
from properties.profiles import Profile
from properties.shrink import Attempts, indifferent, set_by_law, simplify
from properties.strategies import cases, legal
from properties.trial import Trial, breaks

HUGE = 10**12  # no limit on the size of a case
PATIENCE = 5  # a kernel so slow that pinned cases alone take so many times a law's seconds is asked fewer of them


class _Enough(Exception):
    """Raised to leave Hypothesis when a case is found or the time of the profile is over."""


@dataclass
class Record:
    """What became of one (kernel, law): one JSON line of the results."""

    kernel: str
    law: str
    family: str
    sentence: str
    equation: str
    status: str = "not-run"
    tried: int = 0
    refused: int = 0
    informative: int = 0
    worst: float | None = None
    worst_case: str | None = None
    case: str | None = None
    before: list[str] = field(default_factory=list)
    irrelevant: list[str] = field(default_factory=list)
    set_by_law: list[str] = field(default_factory=list)
    quality: bool = False
    nature: str | None = None
    blame: str | None = None
    message: str | None = None
    where: dict[str, int] = field(default_factory=dict)
    units_by_token: list[float] | None = None
    replay: str | None = None
    script: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    seconds_to_failure: float | None = None
    engine: list[str] = field(default_factory=list)
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    units_by_regime: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    profile: str = ""

    def line(self) -> dict[str, Any]:
        """The record as the result file holds it."""
        return {"schema": 1, "kind": "law", **_writable(asdict(self))}


def _writable(x: Any) -> Any:
    """Numbers as JSON has them: where a kernel's NaN met a budget, the error has no size and counts as endless."""
    if isinstance(x, dict):
        return {name: _writable(value) for name, value in x.items()}
    if isinstance(x, list):
        return [_writable(value) for value in x]
    return 1e30 if isinstance(x, float) and not np.isfinite(x) else x


def examine(
    kernel: Kernel,
    law: Law,
    profile: Profile,
    *,
    dtypes: tuple[str, ...],
    seed_: int,
    name: str,
    pinned: tuple[Case, ...] = (),
) -> Record:
    """Draw cases until one breaks the law or the profile is spent; shrink and describe what broke."""
    trial, start = Trial(kernel, law), time.monotonic()
    record = Record(name, law.name, law.family, law.sentence, law.equation, seed=seed_, engine=_engine(kernel))
    record.quality = law.quality
    if law.family == "scale" and (reason := _out_of_reach(kernel, law, profile)):
        record.reason = reason
        return record
    pinned = () if law.large else tuple(case for case in pinned if bool(case.steps) == law.serves)
    failing = _pinned_failing(
        trial, pinned, dtypes, start + profile.seconds * (1 if law.family == "scale" else PATIENCE)
    )
    found = time.monotonic() if failing else None
    if failing is None and profile.examples:
        failing, found = _search(trial, profile, dtypes, seed_, start)
    if failing is not None:
        record.seconds_to_failure = round((found or time.monotonic()) - start, 3)
        _describe(record, trial, failing, profile, pinned)
    _conclude(record, trial, broken=failing is not None)
    record.seconds = round(time.monotonic() - start, 3)
    return record


def _pinned_failing(trial: Trial, pinned: tuple[Case, ...], dtypes: tuple[str, ...], end: float) -> Case | None:
    """The first pinned case that breaks the law; none is begun after `end`, and none twice that a law makes equal."""
    for n, case in enumerate(dict.fromkeys(map(trial.adjust, pinned))):
        if n and time.monotonic() > end:
            break
        if case.dtype in dtypes and breaks(trial.count(case)):
            return case
    return None


def _engine(kernel: Kernel) -> list[str]:
    takes = kernel.worker.hints.get("takes") or {}
    return [*kernel.worker.engine, *(f"asked only for {name} in {list(values)}" for name, values in takes.items())]


def _out_of_reach(kernel: Kernel, law: Law, profile: Profile) -> str:
    """Why a law of scale does not run here, or ""."""
    if kernel.worker.hints.get("interpreted"):
        return "takes minutes under Triton's interpreter: run it on a GPU"
    if not law.large:
        return ""
    if kernel.worker.device == "cpu":
        return "needs a GPU: this law fills gigabytes"
    return "" if profile.large else "takes minutes: run it with --profile nightly"


def _search(
    trial: Trial, profile: Profile, dtypes: tuple[str, ...], seed_: int, start: float
) -> tuple[Case | None, float | None]:
    """The first breaking case that is drawn, and when it was met. `properties/shrink.py` makes it small."""
    broken: list[tuple[Case, float]] = []
    skip = [] if profile.simplest else [True]
    examples = max(2, round(profile.examples * trial.law.share))

    # Each law draws its own cases: with one seed for all of them every law would see the same few.
    @seed(seed_ + zlib.crc32(trial.law.name.encode()))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.target) if profile.target else (Phase.generate,),
    )
    @given(cases(profile, dtypes, trial.law.serves))
    def hold(drawn: Case) -> None:
        if broken or time.monotonic() - start > profile.seconds:
            _leave()
        if skip:
            skip.pop()
            return
        case = trial.adjust(drawn)
        if breaks(trial.count(case)):
            broken.append((case, time.monotonic()))
            _leave()
        judgement = trial.verdict(case)[1]
        if profile.target and judgement is not None and np.isfinite(judgement.units):
            target(judgement.units)

    with warnings.catch_warnings(), contextlib.suppress(_Enough):
        warnings.simplefilter("ignore", HypothesisWarning)
        hold()
    return broken[0] if broken else (None, None)


def _leave() -> None:
    raise _Enough  # from one line: Hypothesis tells failures apart by where they were raised


def _describe(record: Record, trial: Trial, failing: Case, profile: Profile, pinned: tuple[Case, ...]) -> None:
    adjust = lambda case: legal(trial.adjust(case), HUGE)  # noqa: E731
    asked, before, said = tuple(trial.kernel.worker.asked)[:-1], Run(), trial.verdict(failing)

    def attempts(count: int) -> Attempts:
        fails = lambda case: breaks(trial.verdict(case)[0])  # noqa: E731
        return Attempts(fails, adjust, count, time.monotonic() + profile.shrink)

    ask, case, first = attempts(profile.evaluations), failing, None
    if trial.fails_afresh(failing):
        case = simplify(failing, ask)
        first = case if trial.fails_afresh(case) else None
    if first is None:  # it needed the calls made before it: every attempt in a new process, then
        ask = attempts(profile.evaluations // 4)
        others = dict.fromkeys((failing, *map(trial.adjust, (_richer(failing), *pinned))))
        end = time.monotonic() + min(SECONDS, profile.shrink / 2)  # where one case takes seconds, for the first few
        first = next((x for x in others if time.monotonic() < end and trial.fails_afresh(x)), None)
        case = failing if first is None else simplify(first, ask)
        if first is None:
            asking = Asking(trial, adjust, profile.evaluations // 2, min(SECONDS, profile.shrink / 2))
            before, case, ask = _after_others(trial, failing, asked, asking) or (before, case, ask)
    record.set_by_law = set_by_law(trial.law.adjust)
    if profile.explain:
        ask.left = max(ask.left, len(fields(Case)))
        record.irrelevant = indifferent(case, ask)
    status, judgement, message = trial.verdict(case, before)
    record.status, record.message, record.case, record.before = status, message, repr(case), list(map(repr, before))
    if before or not breaks(status):
        words = message if before else ": ".join(filter(None, (said[0], said[2])))
        record.status, record.message = "nondeterministic", _depends(before, words, trial.counts["tried"])
        record.blame = looks_like_before(trial, before, case) if profile.explain else None
    elif profile.explain:
        record.blame = looks_like(trial, [case, failing, _richer(case)])
    if judgement is not None:
        if breaks(status):
            record.nature = "structural" if record.blame else trial.nature()
        record.where, record.units_by_token = judgement.where, judgement.by_token
        record.worst, record.worst_case = float(min(judgement.units, 1e30)), repr(case)


def _after_others(trial: Trial, failing: Case, asked: Run, asking: Asking) -> tuple[Run, Case, Attempts] | None:
    """The cases before, the case that breaks after them and not alone, and what asks about both; None if none do."""
    before = find(failing, asked, asking)
    if not before:
        return None
    before, case, ask = make_small(before, failing, asking)
    return (before, case, ask) if trial.fails_afresh(case, before) else None


def _depends(before: Run, message: str, tried: int) -> str:
    """What to say of a case that holds as the first one of a new process."""
    if not before:
        return (
            f"broke the law after {tried} cases ({message}) and held it as the first call of a new process: "
            "what the kernel answers depends on the calls before"
        )
    cases = " and ".join(map(repr, before)) if len(before) < 4 else f"{len(before)} others, {before[0]!r} the first"
    return f"right alone, wrong after a call with {cases} in the same process: {message}"


def _richer(case: Case) -> Case:
    """The case with numbers in which the stages of the equation can be told apart."""
    return case.but(
        T=max(case.T, 5), K=max(case.K, 3), V=max(case.V, case.K + 2), gate="typical", beta="random", state="random"
    )


def _conclude(record: Record, trial: Trial, *, broken: bool) -> None:
    record.tried, record.refused = trial.counts["tried"], trial.counts["refused"]
    record.informative = trial.counts["informative"]
    record.coverage = {name: dict(sorted(counter.items())) for name, counter in trial.coverage.items()}
    record.units_by_regime = dict(sorted(trial.by_regime.items()))
    if broken:
        return
    record.worst = float(trial.worst[0])
    record.worst_case = None if trial.worst[1] is None else repr(trial.worst[1])
    if record.informative:
        record.status = "pass"
    elif record.refused:  # what was not refused told nothing
        record.status = "unsupported"
        record.reason = max(trial.coverage["refusals"].items(), key=lambda item: item[1])[0]
    else:
        record.status = "not-run"
        why = next((message for status, _, message in trial.verdicts.values() if status == "not-run"), "")
        record.reason = why or f"none of {record.tried} examples was informative ({record.refused} were refused)"
