"""Named workloads under pytest-benchmark, with the clock, the moving inputs and the checks of `kda bench`.

pytest-benchmark keeps the times (`--benchmark-json`, `--benchmark-save`, `--benchmark-compare`) and this module hands
it the device clock, whose instants it subtracts. Kernels run in this process here; `kda bench` runs them in another.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.calling import Candidate
from benchmarks.clock import Clock, clock_of
from benchmarks.measure import Bench, Round
from benchmarks.workloads import Workload

CLOCK: list[Clock] = [Clock()]


def now() -> Any:
    """The timer handed to pytest-benchmark: an instant of the device under test."""
    return CLOCK[0].now()


@pytest.fixture
def bench(workload: Workload, mode: str, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The workload's inputs and checks."""
    device = request.config.getoption("--bench-device")
    CLOCK[0] = clock_of(device)
    yield Bench(workload.case, mode, device)


@pytest.mark.benchmark(timer=now)
def test_workload(bench: Bench, workload: Workload, mode: str, target: str, benchmark: Any, request: Any) -> None:
    """Every round's output is checked in the teardown of the round, outside of the time."""
    entry = bench.start(Candidate.load(target, target, "torch"))
    if entry.status == "unsupported":
        pytest.skip(str(entry.reason))
    assert entry.status == "ok", entry.reason
    benchmark.group = f"{workload.name} {mode}"
    benchmark.extra_info |= {"case": repr(workload.case), "mode": mode, "device": bench.device, "clock": CLOCK[0].name}

    def call(round: Round) -> None:
        round()

    benchmark.pedantic(
        call,
        setup=lambda: ((bench.set_up(entry),), {}),
        teardown=lambda round: bench.check(entry, round, timed=True),
        rounds=request.config.getoption("--bench-rounds"),
    )
    benchmark.extra_info |= {"units": entry.units, "first_call_s": entry.first_call}
