"""`kda faulty`: the kill matrix - which law falsifies which re-created bug, and whether an honest kernel is accused."""

import fnmatch
import importlib
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from implementations.faulty import load
from kda.check import header
from kda.lines import renewed, write
from kda.say_faulty import progress, say
from properties.forked import die_with_parent
from properties.kill import Suspect, candidates, controls, faulty, try_kernels, try_laws
from properties.outcome import VERDICTS, idle_laws, outcome
from properties.worker import LATE

SEEDS_AT_ONCE = 4  # seeds of one honest kernel that share a worker
SHARED = ("properties.allocations", *LATE)  # imported once for all workers, which are forked later


def run(*, only: str, every: bool, seed: int, seeds: int, jobs: int | None, out: Path, command: str) -> int:
    """Try the laws on all suspects, write a line for each, print what came of it; returns the exit status.

    Each faulty kernel meets the laws up to the first that falsifies it; then each law that has falsified none is asked
    about the other kernels until it does. With `every`, every kernel meets every law before that.
    """
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
    load()
    for module in SHARED:
        importlib.import_module(module)
    chosen = [suspect for suspect in faulty(seed) if fnmatch.fnmatch(suspect.name, only)]
    if not chosen:
        raise ValueError(f"--only: no faulty kernel matches {only}; they are named family.kernel")
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    out.mkdir(parents=True, exist_ok=True)
    path, start, lines = out / "results.jsonl", time.monotonic(), list[dict[str, Any]]()
    context = multiprocessing.get_context("fork")
    named = {suspect.name for suspect in chosen}

    def again(line: dict[str, Any]) -> bool:
        return line.get("kind") == "kill" and (only == "*" or bool(line.get("honest")) or line.get("kernel") in named)

    with renewed(path, again) as file, ProcessPoolExecutor(jobs, context, die_with_parent) as pool:
        write(file, header(_Plan(command, seed)))
        for found in _results(pool, chosen, seeds, every, complete=only == "*"):
            write(file, *found)
            lines += found
            if not console.is_terminal and found:
                console.print(escape(progress(found)), soft_wrap=True)
    result = outcome(lines, whole=only == "*")
    say(console, lines, result)
    console.print(f"{time.monotonic() - start:.0f} s in all; results in {path}")
    if result.not_run:
        return 2
    return 0 if result.good else 1


def _results(
    pool: ProcessPoolExecutor, chosen: list[Suspect], seeds: int, every: bool, *, complete: bool
) -> Iterator[list[dict[str, Any]]]:
    """Kill lines as they come; `complete`: laws that falsified nothing are asked on until they do."""
    # What is slow first, so that no core waits at the end.
    groups = sorted([[suspect] for suspect in chosen], key=lambda group: group[0].array != "triton")
    hunts = {pool.submit(try_laws, group, not every) for group in groups}
    honest = sorted(_honest(seeds), key=lambda group: group[0].array != "triton")
    rest = {pool.submit(try_laws, group, False) for group in honest}
    lines: list[dict[str, Any]] = []
    for future in as_completed(hunts):
        lines += future.result()
        yield future.result()
    if complete:
        for name in idle_laws(lines):
            rest.add(pool.submit(try_kernels, name, candidates(VERDICTS[name], lines, chosen)))
    for future in as_completed(rest):
        yield future.result()


def _honest(seeds: int) -> list[list[Suspect]]:
    """Honest kernels, some seeds of one together: they share a worker."""
    groups: dict[tuple[str, int], list[Suspect]] = defaultdict(list)
    for suspect in controls(seeds):
        groups[suspect.name, suspect.seed // SEEDS_AT_ONCE].append(suspect)
    return list(groups.values())


class _Plan:
    """What `header` wants to know."""

    def __init__(self, command: str, seed: int) -> None:
        self.command, self.seed, self.profile, self.device = command, seed, "faulty", "cpu"
