"""`kda check`: make the plan, hand (kernel, laws) to judges, write each result as it comes, say what was found."""

import contextlib
import fnmatch
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from implementations import SHIPPED
from kda.lines import renewed, write
from kda.say import Talker
from properties.case import DTYPES
from properties.laws import LAWS
from properties.runner import Record
from properties.targets import Target

PACKAGES = ("numpy", "hypothesis", "torch", "triton")


@dataclass(frozen=True)
class Plan:
    """What is to be checked and how."""

    targets: tuple[str, ...]
    laws: tuple[str, ...]
    dtypes: tuple[str, ...]
    profile: str
    seed: int
    jobs: int
    out: Path
    device: str
    array: str
    timeout: float
    command: str
    if_available: bool = False

    @staticmethod
    def make(
        targets: tuple[str, ...],
        *,
        laws: tuple[str, ...],
        dtypes: tuple[str, ...],
        profile: str,
        seed: int,
        jobs: int | None,
        out: Path,
        device: str,
        array: str,
        timeout: float | None,
        command: str,
        if_available: bool = False,
    ) -> "Plan":
        """Check the arguments; nothing of the targets is imported."""
        names = targets or tuple(SHIPPED)
        for name in names:
            Target.parse(name)
        chosen = tuple(name for name in LAWS if any(fnmatch.fnmatch(name, glob) for glob in laws))
        if not chosen:
            raise ValueError(f"--law: no law matches {', '.join(laws)}; `kda list` names them all")
        slow = profile in ("gpu", "nightly")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if device == "cuda" and jobs is None:
            jobs = 1
        return Plan(
            names,
            chosen,
            dtypes or DTYPES,
            profile,
            seed,
            jobs or cores,
            out,
            device,
            array,
            timeout or (300.0 if slow or device == "cuda" else 20.0),
            command,
            if_available,
        )

    def file(self) -> TextIO:
        """The result file, without earlier lines about what this plan asks, on the same kind of device."""
        asked = {(Target.parse(target).name, law, self.device) for target in self.targets for law in self.laws}
        return renewed(
            self.out / "results.jsonl",
            lambda line: line.get("kind") == "law" and tuple(map(line.get, ("kernel", "law", "device"))) in asked,
        )


def run(plan: Plan) -> int:
    """Carry the plan out; returns the exit status."""
    plan.out.mkdir(parents=True, exist_ok=True)
    path = plan.out / "results.jsonl"
    if plan.device == "cuda" and (reason := no_gpu()):
        return _without_gpu(plan, path, reason)
    talker = Talker(plan)
    with plan.file() as file:
        write(file, header(plan))
        try:
            for lines in _judged(plan):
                for line in lines:
                    write(file, line)
                    talker.hear(line)
        except KeyboardInterrupt:
            talker.interrupted(path)
            return 130
    return talker.conclude(path)


def no_gpu() -> str:
    """Why no GPU can be used, or ""."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return "" if torch.cuda.is_available() else "torch finds no GPU"


def _without_gpu(plan: Plan, path: Path, reason: str) -> int:
    """Write every law as not run; an error unless the caller said that it is none."""
    with plan.file() as file:
        write(file, header(plan))
        for target in plan.targets:
            for law in (LAWS[name] for name in plan.laws):
                record = Record(
                    Target.parse(target).name,
                    law.name,
                    law.family,
                    law.sentence,
                    law.equation,
                    reason=f"no GPU: {reason}",
                    quality=law.quality,
                    device="cuda",
                    profile=plan.profile,
                    seed=plan.seed,
                )
                write(file, record.line())
    print(f"kda: not run: --device cuda needs a GPU, and {reason}; {path} says so", file=sys.stderr)
    return 0 if plan.if_available else 2


def header(plan: Plan) -> dict[str, Any]:
    """The result file's first line: what ran where."""
    return {
        "schema": 1,
        "kind": "run",
        "run": f"{int(time.time())}-{os.getpid()}",
        "command": re.sub(r" --out[ =]\S+", "", plan.command),  # where results lie is no part of them
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "profile": plan.profile,
        "seed": plan.seed,
        "device": plan.device,
        "device_name": device_name(plan.device),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
    }


def installed(name: str) -> str:
    """Version of a package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def device_name(device: str) -> str:
    """Name of the CPU or of the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU found"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _judged(plan: Plan) -> Iterator[list[dict[str, Any]]]:
    """Result lines in the order in which they are ready; (kernel, law) pairs are shared out among the judges."""
    from properties.judge import close, judge_law, prepare

    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(plan.jobs, mp_context=context, initializer=prepare, initargs=(plan,))
    try:
        waiting: set[Future[list[dict[str, Any]]]] = set()
        for target in plan.targets:
            waiting |= {pool.submit(judge_law, target, name) for name in plan.laws}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BaseException:  # an interruption that only this process heard: a law at work may take minutes more
        for judge in multiprocessing.active_children():
            judge.terminate()
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # no judge is left to close
            for _ in range(plan.jobs):
                pool.submit(close)
        pool.shutdown(wait=True, cancel_futures=True)
