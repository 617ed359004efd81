"""Timing candidates on one workload: inputs that move, outputs that are checked, rounds in turns.

Before a round the inputs of one set are copied into one of fewer buffers, so that a pointer says nothing about what it
points to; freed memory of the results' sizes is filled with NaN and the cache is evicted. After it the bits of every
result are hashed on the device: a hash that was not seen for these inputs is checked against the oracle, whole.
"""

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.around import copied, fill_fresh_memory, kernel_names, memory_in_use
from benchmarks.calling import REFUSALS, Call, Candidate, GraphCall, WrongForm
from benchmarks.clock import Clock, Digest, Flush, cache_bytes, clock_of, median, poison
from benchmarks.gradients import LONGEST, Sample
from benchmarks.inputs import Inputs, make
from benchmarks.oracle import Truth, Verdict, judge, solve
from benchmarks.roofline import MARGIN, copy_ms, floor
from benchmarks.rows import Entry, Lost, Unchecked, Wrong, one_line
from properties.case import Case

WARM_UP = 3
INTERPRETED = "Triton's interpreter: no performance figure"
DEGENERATE = "degenerate case: an output of zeros would be within the budget"
MOST_SETS = {"cuda": 12, "cpu": 5}
# The stray time a device may stay busy after a call: a fraction of the call, and what an empty wait costs.
STRAY, WAIT = 0.1, 5e-5


@dataclass
class Round:
    """One call about to be made: input set, buffer and the call itself; `raw` is what it returned."""

    set: int
    buffer: int
    call: Any
    raw: Any = None

    def __call__(self) -> None:
        """Make the call, nothing else."""
        self.raw = self.call()


class Bench:
    """One workload in one mode on one device; its input sets are the case with seeds counted up from its own."""

    def __init__(
        self,
        case: Case,
        mode: str,
        device: str,
        *,
        rates: dict[str, Any] | None = None,
        graph: bool = False,
        clock: Clock | None = None,
        say: Callable[..., None] = lambda *_: None,
    ) -> None:
        self.case, self.mode, self.device, self.graph, self.say = case, mode, device, graph, say
        self.clock, self.flush, self.digest = clock or clock_of(device), Flush(device), Digest(device)
        gradients = mode == "forward+backward"
        first = make(case, device, gradients=gradients)
        count = self._pool_size(first.nbytes(), gradients)
        self.sets = [first, *(make(case.but(seed=case.seed + i), device, gradients=gradients) for i in range(1, count))]
        self.buffers = [first.like() for _ in range(1 if graph else max(1, count - 1))]
        self.prints = [self._print(x) for x in self.sets]
        self.floor_ms, self.floor_by = floor(first, mode, rates) if rates else (None, None)
        self.copy_ms = copy_ms(first, mode, self.floor_ms, self.flush, graph) if device == "cuda" else None
        self.truths: dict[int, Truth] = {}
        self.samples: dict[int, Sample] = {}

    def _pool_size(self, nbytes: int, gradients: bool) -> int:
        """Input sets: 4 or three caches' worth, at most 12 (4 with gradients, 5 on a CPU), fewer for want of memory."""
        count = min(
            max(4, 3 * cache_bytes(self.device) // max(nbytes, 1) + 1), 4 if gradients else MOST_SETS[self.device]
        )
        if self.device == "cuda":
            free = torch.cuda.mem_get_info()[0]
            while count > 2 and (2 * count - 1) * nbytes > 0.35 * free:
                count -= 1
        return count

    def start(self, candidate: Candidate) -> Entry:
        """First call, a call in poisoned memory, warm-up; every result checked. Never raises for what a kernel does."""
        entry, began = Entry(candidate), time.monotonic()
        entry.flags += ["cuda graph"] if self.graph else []
        entry.flags += [INTERPRETED] if self.device == "cpu" and candidate.triton else []
        entry.flags += [f"pool of {len(self.sets)} input sets"] if len(self.sets) < 4 else []
        try:
            entry.calls = [candidate.call(x, self.mode) for x in self.buffers]
            self._first(entry)
        except REFUSALS as error:
            entry.fail("unsupported", one_line(error))
        else:
            self._guarded(entry, self._warm_up, entry)
        entry.flags += ["pool"] if entry.calls and "pool" in entry.calls[0].keywords else []
        entry.seconds += time.monotonic() - began
        return entry

    def _first(self, entry: Entry) -> None:
        """The first call, compilation included; refusals pass through, the rest becomes a status."""
        try:
            self.say(entry, "first call")
            if self.graph:
                self.buffers[0].copy_from(self.sets[0])
                entry.calls = [_captured(call) for call in entry.calls]
            round = self.set_up(entry)
            start = time.perf_counter()
            round()
            self.clock.wait()
            entry.first_call = time.perf_counter() - start
        except REFUSALS:
            raise
        except Exception as error:
            self._survive(entry, error)
            entry.fail("crash", one_line(error))
            return
        self._guarded(entry, self.check, entry, round)

    def _warm_up(self, entry: Entry) -> None:
        for n in range(WARM_UP if entry.calls else 0):
            self.say(entry, "warm-up")
            round = self.set_up(entry)
            fill_fresh_memory(n == 0 and not self.graph)
            base = memory_in_use(self.device)
            try:
                round()
                self.clock.wait()
            finally:
                fill_fresh_memory(False)
            if base is not None:
                entry.peak = torch.cuda.max_memory_allocated() - base
            self.check(entry, round)

    def time(self, entry: Entry) -> None:
        """One timed round of one candidate; a failure ends its run."""
        began = time.monotonic()
        self._guarded(entry, self._time, entry)
        entry.seconds += time.monotonic() - began

    def _time(self, entry: Entry) -> None:
        self.say(entry, f"round {len(entry.times) + 1}")
        round = self.set_up(entry)
        start = self.clock.now()
        host = time.perf_counter()
        round()
        host = time.perf_counter() - host
        end = self.clock.now()
        snapshot = copied(round.raw) if self.device == "cpu" else None
        entry.stray.append(self.clock.drain())
        entry.times.append(1e3 * (end - start))
        entry.host.append(1e3 * host)
        self.check(entry, round, snapshot=snapshot, timed=True)

    def set_up(self, entry: Entry) -> Round:
        """The next round of a candidate: contents moved, memory poisoned, cache evicted. Not timed."""
        s, b = entry.turn % len(self.sets), entry.turn % len(self.buffers)
        entry.turn += 1
        self.buffers[b].copy_from(self.sets[s])
        call = entry.calls[b]
        call.restore()
        poison(list(call.expected().values()), self.device)
        self.clock.wait()
        self.flush()
        return Round(s, b, call)

    def check(self, entry: Entry, round: Round, *, snapshot: Any = None, timed: bool = False) -> None:
        """Check a round's results and inputs, then leave NaN in the results.

        Raises:
            Wrong: with the reason.
        """
        place = f"round {len(entry.times)}, input set {round.set}" if timed else "before the timed rounds"
        results = round.call.results(round.raw)
        key = (round.set, self.digest(list(results.values())))
        if snapshot is not None:
            early = round.call.results(snapshot)
            if self.digest(list(early.values())) != key[1]:
                raise Wrong(f"the output still changed after the call had returned ({place})")
        if key not in entry.known:
            entry.known[key] = self._checked(entry, round.set, results)
        verdict = entry.known[key]
        entry.units = max(entry.units or 0.0, verdict.units)
        if not verdict.units <= 1:
            raise Wrong(f"{verdict.words}: {verdict.units:.3g} times the budget ({place})")
        if timed:
            entry.timed.add(key)
        if self._print(self.buffers[round.buffer]) != self.prints[round.set]:
            raise Wrong(f"the call changed its inputs ({place})")
        for x in results.values():
            with contextlib.suppress(RuntimeError):  # an expanded tensor cannot be filled
                x.detach().fill_(float("nan"))

    def _checked(self, entry: Entry, s: int, results: dict[str, Tensor]) -> Verdict:
        try:
            return self._judge(entry, s, results)
        except Exception as error:  # the kernel's own errors have shown before: its work is done and waited for
            raise Unchecked(f"the output could not be checked: {one_line(error)}") from error

    def _judge(self, entry: Entry, s: int, results: dict[str, Tensor]) -> Verdict:
        self.say(None, "checking against the oracle")
        truth = self._truth(s)
        if not truth.informative and DEGENERATE not in entry.flags:
            entry.flags.append(DEGENERATE)
        verdict = judge(truth, results["o"], results["final_state"])
        gradients = {name[1:]: x for name, x in results.items() if name.startswith("d")}
        if not gradients:
            return verdict
        for name, x in gradients.items():
            if not bool(torch.isfinite(x).all()):
                return Verdict(float("inf"), f"the gradient of {name} is not finite")
        if (other := entry.gradients.setdefault(self.digest(list(gradients.values())), s)) != s:
            return Verdict(float("inf"), f"the gradients of input set {s} are those of input set {other}")
        if (sample := self._sample(s)) is not None:
            found = sample.judge(gradients)
            return max(verdict, found, key=lambda v: v.units)
        return verdict

    def _truth(self, s: int) -> Truth:
        """The oracle's answer to an input set, kept while a fifth of the memory holds them all."""
        if s not in self.truths:
            truth = solve(self.sets[s])
            limit = 0.2 * torch.cuda.mem_get_info()[1] if self.device == "cuda" else 1 << 30
            if (len(self.truths) + 1) * truth.nbytes() > limit:
                self.truths.clear()
            self.truths[s] = truth
        return self.truths[s]

    def _sample(self, s: int) -> Sample | None:
        """The gradients' sample of an input set: of every set where it is short, else of the first."""
        heads, shortest = self.sets[s].q.shape[2], min(self.sets[s].lengths)
        if s not in self.samples and (s == 0 or shortest <= LONGEST):
            self.samples[s] = Sample(self.sets[s], s % heads)
        return self.samples.get(s)

    def _print(self, x: Inputs) -> int:
        return self.digest([y for _, y in x.tensors()])

    def _guarded(self, entry: Entry, step: Callable[..., None], *arguments: Any) -> None:
        """Run a step; what a kernel does wrong in it becomes the entry's status."""
        try:
            step(*arguments)
        except (Wrong, WrongForm) as error:
            entry.fail("wrong", str(error))
        except Unchecked as error:
            entry.fail("not-run", str(error))
        except Exception as error:
            self._survive(entry, error)
            entry.fail("crash", f"{one_line(error)} (call {entry.turn} of this workload)")

    def _survive(self, entry: Entry, error: Exception) -> None:
        """Give up this process where the error has left the device unusable, so that others are timed in a new one."""
        if self.device != "cuda":
            return
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device="cuda").item()
        except Exception:
            raise Lost(entry.candidate.label, one_line(error)) from error

    def run(self, entries: list[Entry], rounds: int, seconds: float) -> None:
        """Time the candidates in turns, the order reversed every other round, until rounds or seconds are spent."""
        least, start = min(rounds, len(self.sets) + 2), time.monotonic()
        gc.collect()
        gc.disable()
        try:
            for n in range(rounds):
                live = [entry for entry in entries if entry.calls]
                if not live or (n >= least and time.monotonic() - start > seconds):
                    break
                for entry in live if n % 2 == 0 else reversed(live):
                    self.time(entry)
        finally:
            gc.enable()

    def conclude(self, entry: Entry) -> None:
        """Give the last verdict: below the floor, stray work, bits that vary; then name the kernels."""
        if entry.status != "ok":
            return
        middle, stray = median(entry.times), 1e3 * median(entry.stray)
        if self.floor_ms is not None and middle < MARGIN * self.floor_ms:
            entry.status = "implausible"
            entry.reason = f"{middle:.4g} ms is below the floor of {self.floor_ms:.4g} ms set by {self.floor_by}"
        if stray > STRAY * middle + 1e3 * WAIT:
            entry.status = "implausible"
            entry.reason = (
                f"the device is busy for {stray:.3g} ms after the call's {middle:.3g} ms: work left elsewhere"
            )
        if self.device == "cuda" and median(entry.host) > middle:
            entry.flags.append("host-bound: the host takes longer to ask than the device to do")
        if self.copy_ms is not None:
            entry.flags.append(f"a copy of as many bytes took {self.copy_ms:.4g} ms")
        if len(entry.timed) > len({s for s, _ in entry.timed}):
            entry.flags.append("nondeterministic: equal inputs gave different bits, all within the budget")
        if self.samples:
            checked = "; ".join(f"set {s} {sample.words}" for s, sample in sorted(self.samples.items()))
            entry.flags.append(f"gradients checked on {checked}")
        if entry.status == "ok" and not self.graph:
            self.say(entry, "profiling")
            try:
                round = self.set_up(entry)
                entry.names = kernel_names(round, self.device) if entry.candidate.array == "torch" else []
            except Exception as error:  # profilers fail for reasons of their own; the times stand
                self._survive(entry, error)
                entry.flags.append(f"no kernel names: {one_line(error)[:120]}")


def _captured(call: Call) -> GraphCall:
    """The call as a graph; what cannot be captured is refused."""
    try:
        return GraphCall(call)
    except Exception as error:
        raise NotImplementedError(f"not capturable: {one_line(error)}") from None
