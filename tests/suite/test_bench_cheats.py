"""The benchmark is not fooled: every trick is named, and its time is void."""

import pytest

pytest.importorskip("torch")

import cheats
import torch

from benchmarks.calling import Candidate
from benchmarks.clock import Clock
from benchmarks.measure import Bench
from benchmarks.process import How, Job, Timer
from properties.case import Case

torch.set_num_threads(1)  # shared cores: two threads that wait for each other are slower by far
CASE = Case(T=128, H=2, K=32, V=32, gate="production", beta="random", state="random")
RATES = {"bytes_per_s": 1e13, "flops_per_s": 1e15}


def timed(*names, case=CASE, mode="forward", rounds=9, rates=RATES, device="cpu", **options):
    """The entries of some kernels of cheats.py timed in turns."""
    cheats._kept.clear()
    cheats._calls.clear()
    bench = Bench(case, mode, device, rates=rates, **options)
    entries = [bench.start(Candidate(name, getattr(cheats, name), "torch")) for name in names]
    bench.run(entries, rounds, 30.0)
    for entry in entries:
        bench.conclude(entry)
    return entries


WRONG = {
    "returns_the_first_output": "o is ",
    "returns_copies_of_the_first_output": "times the budget (before the timed rounds)",
    "works_every_second_call": "times the budget (before the timed rounds)",
    "recognises_pointers": "times the budget",
    "is_right_only_at_first": "times the budget (round 2, input set 0)",
    "is_right_only_for_small_calls": "times the budget",
    "finishes_later": "",
    "writes_all_but_one_row": "token 127",
    "changes_an_input": "the call changed its inputs",
    "forgets_the_state": "times the budget",
    "returns_a_float64_output": "o is torch.float64 [1, 128, 2, 32], expected torch.float32",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_trick_is_called_wrong_and_why(name):
    entry, honest = timed(name, "honest")
    assert entry.status == "wrong" and WRONG[name] in entry.reason, (entry.status, entry.reason)
    assert honest.status == "ok" and len(honest.times) == 9


def test_a_trick_that_starts_later_is_found_in_the_timed_round(monkeypatch):
    monkeypatch.setattr(cheats, "_count", lambda name: 1 if cheats._kept.get("calm", 0) < 6 else 2)

    def late(*arguments, **keywords):
        cheats._kept["calm"] = cheats._kept.get("calm", 0) + 1
        return cheats.works_every_second_call(*arguments, **keywords)

    monkeypatch.setattr(cheats, "late", late, raising=False)
    (entry,) = timed("late")
    assert entry.status == "wrong" and "(round 2, input set" in entry.reason, entry.reason


def test_work_left_to_a_thread_is_seen_even_where_the_thread_is_quick():
    (entry,) = timed("finishes_later")
    assert entry.status == "wrong"


def test_right_answers_faster_than_the_device_are_implausible():
    case = CASE.but(T=256, H=4, K=128, V=128)
    rates = {"bytes_per_s": 2e10, "flops_per_s": 1e11}
    entry, honest = timed("recognises_contents", "honest", case=case, rates=rates, rounds=12)
    assert entry.status == "implausible" and "below the floor" in entry.reason, (entry.status, entry.reason)
    assert honest.status == "ok"


def test_remembered_gradients_are_wrong():
    (entry,) = timed("gives_the_gradients_of_the_first_call", mode="forward+backward")
    assert entry.status == "wrong" and "the gradient of q" in entry.reason, entry.reason


def test_bits_that_vary_within_the_budget_are_told_and_no_fault():
    (entry,) = timed("varies_in_the_last_bits", rounds=12)
    assert entry.status == "ok" and any("nondeterministic" in flag for flag in entry.flags)


def test_a_refusal_is_unsupported():
    (entry,) = timed("refuses")
    assert (entry.status, entry.reason) == ("unsupported", "NotImplementedError: not today")


class Script(Clock):
    """A clock that tells prepared times."""

    def __init__(self, step: float, stray: float) -> None:
        self.step, self.stray, self.time = step, stray, 0.0

    def now(self):
        self.time += self.step
        return self.time

    def drain(self):
        return self.stray


def test_work_that_goes_on_after_the_call_is_implausible():
    (entry,) = timed("honest", clock=Script(0.001, 0.002))
    assert entry.status == "implausible" and "busy for 2 ms after" in entry.reason, entry.reason
    (entry,) = timed("honest", clock=Script(0.001, 0.00005))
    assert entry.status == "ok" and entry.times == pytest.approx([1.0] * 9)


def test_a_time_below_the_floor_is_implausible():
    (entry,) = timed("honest", clock=Script(1e-9, 0.0), rates={"bytes_per_s": 1e10, "flops_per_s": 1e11})
    assert entry.status == "implausible" and "below the floor" in entry.reason


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_work_on_another_stream_is_caught():
    (entry,) = timed("leaves_work_on_another_stream", device="cuda")
    assert entry.status in ("implausible", "wrong"), (entry.status, entry.reason)


def test_a_crash_and_a_hang_cost_only_the_candidate_that_caused_them():
    names = ("honest", "dies_in_the_sixth_call", "hangs_in_the_sixth_call", "raises_in_the_sixth_call")
    targets = tuple((name, f"{cheats.__file__}:{name}") for name in names)
    with Timer(How("cpu", rounds=4, seconds=5.0, call=8.0, first=30.0)) as timer:
        timer.device()
        rows = {row["kernel"]: row for row in timer.run(Job("case", CASE, "forward", targets, "honest"))}
    found = {name: row["status"] for name, row in rows.items()}
    assert found == dict(zip(names, ("ok", "crash", "timeout", "crash"), strict=True)), rows
    assert "SIGSEGV" in rows[names[1]]["reason"] and "no answer within 8 s" in rows[names[2]]["reason"]
    assert "out of luck" in rows[names[3]]["reason"]
    assert rows["honest"]["rounds"] == 4
