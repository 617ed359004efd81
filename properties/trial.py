"""One law on one kernel: every judgement is asked once, counted, and remembered by its case."""

import contextlib
from collections import Counter, defaultdict

from properties.calls import Broke, Kernel, NotRun, Refused
from properties.case import Case
from properties.law import Judgement, Law
from properties.takes import fitting, outside

# Budget units up to which bfloat16 or TF32 arithmetic inside could be all that is wrong.
ROUGH = {"float32": 1000.0, "bfloat16": 16.0, "float16": 16.0}
REGIMES = ("gate", "key", "beta", "state", "dtype")


class Trial:
    """One law on one kernel: every judgement passes through here and is remembered by its case."""

    def __init__(self, kernel: Kernel, law: Law) -> None:
        self.kernel, self.law = kernel, law
        self.takes = kernel.worker.hints.get("takes") or {}
        self.fit = fitting(self.takes)
        self.fit_widths = fitting({name: values for name, values in self.takes.items() if name in ("K", "V")})
        # By the cases of a run: the last one is judged, the others are the calls that its process was given before.
        self.verdicts: dict[tuple[Case, ...], tuple[str, Judgement | None, str]] = {}
        self.fresh = False
        self.counts: Counter[str] = Counter()
        self.coverage: dict[str, Counter[str]] = defaultdict(Counter)
        self.by_regime: dict[str, float] = {}
        self.worst: tuple[float, Case | None] = (0.0, None)

    def adjust(self, case: Case) -> Case:
        """The case as the kernel takes it and the law speaks of it, whose widths are no more than convenient."""
        return self.fit_widths(self.law.adjust(self.fit(case)))

    def verdict(self, case: Case, before: tuple[Case, ...] = ()) -> tuple[str, Judgement | None, str]:
        """(status, judgement, message) of a case, asked once; `before`: calls that a new process is given first."""
        run = (*before, case)
        if run not in self.verdicts:
            if self.fresh or before:
                self.kernel.worker.renew()
            for one in before:
                call_first(self.kernel, self.law, one)
            self.verdicts[run] = self._ask(case)
        return self.verdicts[run]

    def _ask(self, case: Case) -> tuple[str, Judgement | None, str]:
        try:
            if reason := outside(self.takes, case):
                raise Refused(reason)
            judgement = self.law.check(self.kernel, case)
        except Refused as refusal:
            return "refused", None, str(refusal)
        except NotRun as reason:
            return "not-run", None, str(reason)
        except Broke as broke:
            return broke.status, None, broke.message
        finally:
            self.kernel.worker.asked.append(case)
        if not judgement.broken:
            return "pass", judgement, ""
        status = "non-finite" if self.law.name.endswith(("finite", "finite_output")) else "falsified"
        if self.law.name == "inputs_are_unchanged":
            status = "mutated-input"
        if self.law.name == "the_same_call_gives_the_same_bits" or self.law.name == "calls_in_between_change_nothing":
            status = "nondeterministic"
        return status, judgement, judgement.message

    def fails_afresh(self, case: Case, before: tuple[Case, ...] = ()) -> bool:
        """Whether the case breaks the law in a new process; from then on every case is asked in one if it does not."""
        self.kernel.worker.renew()
        self.verdicts.pop((*before, case), None)
        if breaks(self.verdict(case, before)[0]):
            return True
        self.verdicts, self.fresh = {}, True
        return False

    def nature(self) -> str:
        """Whether arithmetic of a lower precision could explain the failures seen, or only another computation."""
        for run, (status, judgement, _) in self.verdicts.items():
            if breaks(status) and (judgement is None or judgement.units > ROUGH.get(run[-1].dtype, 16.0)):
                return "structural"
        return "rounding"

    def count(self, case: Case) -> str:
        """Judge a drawn case and count it; returns the status."""
        status, judgement, message = self.verdict(case)
        self.counts["tried"] += 1
        if status == "refused":
            self.counts["refused"] += 1
            self.coverage["refusals"][message[:160]] += 1
        if judgement is not None and judgement.informative:
            self.counts["informative"] += 1
            for regime in REGIMES:
                name = str(getattr(case, regime))
                self.coverage[regime][name] += 1
                key = f"{regime}={name}"
                self.by_regime[key] = max(self.by_regime.get(key, 0.0), min(judgement.units, 1e9))
            if judgement.units > self.worst[0] or self.worst[1] is None:
                self.worst = (judgement.units, case)
        return status


def call_first(kernel: Kernel, law: Law, case: Case) -> None:
    """One call of the kernel before a law is asked, with gradients where it is a law of gradients."""
    with contextlib.suppress(Refused, Broke, NotRun):
        kernel(case, grad="both" if law.family == "gradient" else "", checked=False)


def breaks(status: str) -> bool:
    """Whether a verdict breaks its law; a refusal and what could not be run do not."""
    return status not in ("pass", "refused", "not-run")
