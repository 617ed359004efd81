"""`kda bench`: make the plan, have each workload timed, write each result as it comes, say what was found."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.process import How, Job, Timer
from benchmarks.workloads import MODES, WORKLOADS, Workload, choose
from kda.check import header, no_gpu
from kda.lines import read, write
from kda.say_bench import Talker
from properties.case import parse
from properties.targets import Target

CPU_KERNELS = ("numpy_loop", "torch_recurrent", "torch_chunked")
GPU_KERNELS = ("triton_chunked", "triton_recurrent")


@dataclass(frozen=True)
class Plan:
    """What is to be timed and how."""

    jobs: tuple[Job, ...]
    how: How
    out: Path
    resume: bool
    command: str
    seed: int
    profile: str = "bench"

    @property
    def device(self) -> str:
        """The device, as the result file's header wants it."""
        return self.how.device

    @staticmethod
    def make(
        targets: tuple[str, ...],
        *,
        workloads: tuple[str, ...],
        modes: tuple[str, ...],
        case: str | None,
        baseline: str | None,
        seed: int,
        out: Path,
        resume: bool,
        command: str,
        how: How,
    ) -> "Plan":
        """Check the arguments; nothing of the targets is imported."""
        labelled = label(targets or (GPU_KERNELS if how.device == "cuda" else CPU_KERNELS))
        first = labelled[0][0] if baseline is None else _baseline(baseline, labelled)
        jobs: list[Job] = []
        for workload in _workloads(workloads, case, how.device):
            for mode in modes or (("forward",) if case is not None else workload.modes):
                if mode not in workload.modes:
                    continue
                job = Job(workload.name, workload.case.but(seed=seed), mode, labelled, first)
                jobs.append(job)
                if mode in workload.graph and how.device == "cuda":
                    jobs.append(Job(f"{workload.name}/graph", job.case, mode, labelled, first, graph=True))
        if not jobs:
            raise ValueError("--mode: no chosen workload has this mode; `kda bench --list` shows them")
        return Plan(tuple(jobs), how, out, resume, command, seed)


def how_of(*, device: str, array: str, rounds: int | None, seconds: float, timeout: float) -> How:
    """The settings that all jobs share; a first call may take ten times as long as another, for compilation."""
    rounds = rounds or (50 if device == "cuda" else 20)
    return How(device, array, rounds, seconds, call=timeout, first=10 * timeout)


def label(targets: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(label, TARGET) of each target; one that is named twice is numbered, so that a kernel can race itself."""
    names = [Target.parse(text).name for text in targets]
    if len(set(names)) == len(names):
        return tuple(zip(names, targets, strict=True))
    seen: dict[str, int] = {}
    found = []
    for name, text in zip(names, targets, strict=True):
        seen[name] = seen.get(name, 0) + 1
        found.append((f"{name} #{seen[name]}" if names.count(name) > 1 else name, text))
    return tuple(found)


def _baseline(text: str, labelled: tuple[tuple[str, str], ...]) -> str:
    for name, target in labelled:
        if text in (name, target):
            return name
    raise ValueError(f"--baseline: expected one of {', '.join(name for name, _ in labelled)}; got {text!r}")


def _workloads(names: tuple[str, ...], case: str | None, device: str) -> list[Workload]:
    if case is not None:
        return [Workload("case", "the case given", parse(case), MODES)]
    return choose(names or (("quick",) if device == "cuda" else ("cpu",)))


def run(plan: Plan, compare_with: Path | None = None) -> int:
    """Carry the plan out; returns the exit status."""
    if plan.how.device == "cuda" and (reason := no_gpu()):
        print(f"kda: --device cuda needs a GPU, and {reason}", file=sys.stderr)
        return 2
    base = None if compare_with is None else load_bench(compare_with)
    plan.out.mkdir(parents=True, exist_ok=True)
    path = plan.out / "results.jsonl"
    done = _measured(path) if plan.resume else set()
    jobs = [job for job in plan.jobs if not {(name, job.workload, job.mode) for name, _ in job.targets} <= done]
    talker = Talker(len(jobs))
    with Timer(plan.how) as timer, path.open("a") as file:
        try:
            talker.say("measuring the device")
            facts = timer.device()
            head = header(plan) | facts
            write(file, head)
            talker.device(plan.how.device, facts)
            for row in _timed(jobs, timer, talker):
                write(file, row)
                talker.hear(row)
        except KeyboardInterrupt:
            talker.interrupted(path)
            return 130
        except RuntimeError as error:
            talker.stop()
            print(f"kda: {error}", file=sys.stderr)
            return 2
    status = talker.conclude(path)
    if base is None or status == 2:
        return status
    return max(status, _compared(talker, [row | origin(head) for row in talker.rows], base))


def _timed(jobs: list[Job], timer: Timer, talker: Talker) -> Iterator[dict[str, Any]]:
    for job in jobs:
        talker.begin(job)
        yield from timer.run(job, talker.hear_phase)
        talker.end()


def _compared(talker: Talker, rows: list[dict[str, Any]], base: Any) -> int:
    import pandas as pd

    from reports.compare import compare

    table = compare(pd.DataFrame(rows), base)
    talker.compared(table)
    return 1 if table["verdict"].isin(["regression", "broken"]).any() else 0


def load_bench(path: Path) -> Any:
    """The timed rows of a folder or a result file as a table.

    Raises:
        ValueError: where there are none.
    """
    from reports.results import ReportError, load

    results = None
    with contextlib.suppress(ReportError):
        results = load([path])
    if results is None or results.bench.empty:
        raise ValueError(f"--compare: expected a folder or file with results of `kda bench`; found none in {path}")
    return results.bench.merge(results.runs[["run", "file", "ceilings"]], on=["run", "file"], how="left")


def origin(head: dict[str, Any]) -> dict[str, Any]:
    """What a comparison needs to know of the run that a row comes from."""
    return {name: head.get(name) for name in ("device_name", "ceilings")}


def _measured(path: Path) -> set[tuple[str, str, str]]:
    """(label, workload, mode) of what a file already tells."""
    if not path.is_file():
        return set()
    rows = [line for line in read(path) if line.get("kind") == "bench" and line["status"] != "not-run"]
    return {(row["kernel"], row["workload"], row["mode"]) for row in rows}


def show() -> None:
    """List workloads, one line each."""
    for workload in WORKLOADS.values():
        click.echo(f"{workload.name:<26} {'|'.join(workload.modes):<26} {workload.summary}: {workload.case!r}")
