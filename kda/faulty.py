"""`kda faulty`: the kill matrix - which law falsifies which re-created bug, and whether an honest kernel is accused."""

import fnmatch
import importlib
import json
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from implementations.faulty import load
from kda.check import header
from properties.describe import FALSIFIED
from properties.forked import die_with_parent
from properties.kill import LAWS, VERDICTS, Outcome, Suspect, controls, faulty, outcome, try_laws

SEEDS_AT_ONCE = 4  # seeds of one honest kernel that share a worker
SLOWEST = 3


def run(*, only: str, first: bool, seed: int, seeds: int, jobs: int | None, out: Path, command: str) -> int:
    """Try all laws on all suspects, write a line for each, print what came of it; returns the exit status."""
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
    load()
    importlib.import_module("properties.allocations")  # once, for all workers that are forked later
    groups = _groups(only, seed, seeds)
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    out.mkdir(parents=True, exist_ok=True)
    path, start, lines = out / "results.jsonl", time.monotonic(), list[dict[str, Any]]()
    context = multiprocessing.get_context("fork")
    with path.open("w") as file, ProcessPoolExecutor(jobs, context, die_with_parent) as pool:
        file.write(json.dumps(header(_Plan(command, seed)), allow_nan=False) + "\n")
        waiting = [pool.submit(try_laws, group, first) for group in groups]
        for future in as_completed(waiting):
            found = future.result()
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in found)
            file.flush()
            lines += found
            if not console.is_terminal:
                console.print(escape(_progress(found)), soft_wrap=True)
    result = outcome(lines, whole=only == "*" and not first)
    _say(console, lines, result, time.monotonic() - start, path)
    if result.not_run:
        return 2
    return 0 if result.good else 1


def _groups(only: str, seed: int, seeds: int) -> list[list[Suspect]]:
    chosen = [suspect for suspect in faulty(seed) if fnmatch.fnmatch(suspect.name, only)]
    if not chosen:
        raise ValueError(f"--only: no faulty kernel matches {only}; they are named family.kernel")
    honest: dict[tuple[str, int], list[Suspect]] = defaultdict(list)
    for suspect in controls(seeds):
        honest[suspect.name, suspect.seed // SEEDS_AT_ONCE].append(suspect)
    slow_first = sorted([*([s] for s in chosen), *honest.values()], key=lambda group: group[0].array != "triton")
    return slow_first


class _Plan:
    """What `header` wants to know."""

    def __init__(self, command: str, seed: int) -> None:
        self.command, self.seed, self.profile, self.device = command, seed, "faulty", "cpu"


def _progress(lines: list[dict[str, Any]]) -> str:
    one, broken = lines[0], [line for line in lines if line["status"] in FALSIFIED]
    seconds = sum(line["seconds"] for line in lines)
    first = next((line for line in broken if line["first"]), broken[0] if broken else None)
    word = "honest" if one["honest"] else "faulty"
    found = "no law" if first is None else f"{len(broken)} laws, first {first['law']}: {first['case']}"
    return f"{word} {one['kernel']}: {found} ({seconds:.1f} s)"


def first_kills(lines: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], float]]:
    """For each falsified faulty kernel the first law that falsified it, and the seconds up to then."""
    by_kernel: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if not line["honest"]:
            by_kernel[line["kernel"]].append(line)
    kills = {}
    for name, own in by_kernel.items():
        first = next((line for line in own if line["first"]), None)
        if first is not None:
            kills[name] = (first, sum(line["seconds"] for line in own if line["order"] <= first["order"]))
    return kills


def _say(console: Console, lines: list[dict[str, Any]], result: Outcome, seconds: float, path: Path) -> None:
    kills = first_kills(lines)
    console.print(_table(lines, kills))
    if kills:
        median = statistics.median(spent for _, spent in kills.values())
        slowest = sorted(kills, key=lambda name: -kills[name][1])[:SLOWEST]
        console.print(f"falsified: {len(kills)}, after {median:.2f} s in the median; slowest:")
        for name in slowest:
            console.print(
                f"  {name} {kills[name][1]:.2f} s, {kills[name][0]['examples']} cases of {kills[name][0]['law']}"
            )
    controls = len({(line["kernel"], line["seed"]) for line in lines if line["honest"]})
    for title, names in (
        ("survivors", result.survivors),
        ("laws that falsify no faulty kernel", result.idle_laws),
        (f"honest kernels accused, of {controls} runs", result.accused),
        ("not run", result.not_run),
        ("laws that are qualities and accuse nobody", [name for name in LAWS if name not in VERDICTS]),
    ):
        console.print(escape(f"{title}: {', '.join(names) or 'none'}"), soft_wrap=True)
    console.print(f"{seconds:.0f} s in all; results in {path}")


def _table(lines: list[dict[str, Any]], kills: dict[str, tuple[dict[str, Any], float]]) -> Table:
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("id", "kernel", "first law", "s", "laws", "case"):
        table.add_column(column, justify="right" if column in ("s", "laws") else "left", overflow="fold")
    names = {line["kernel"]: line["fault"]["id"] for line in lines if not line["honest"]}
    for name in sorted(names, key=lambda name: (names[name][0], int("0" + "".join(filter(str.isdigit, names[name]))))):
        count = sum(line["kernel"] == name and line["status"] in FALSIFIED for line in lines)
        first, spent = kills.get(name, (None, 0.0))
        cells = ("SURVIVES", "", "") if first is None else (first["law"], f"{spent:.2f}", first["case"])
        table.add_row(names[name], name, cells[0], cells[1], str(count), escape(str(cells[2])[:60]))
    return table
