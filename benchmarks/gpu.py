"""One entry for a run on a rented GPU: check, time and save in one go, within a wall-clock limit.

    python -m benchmarks.gpu --out DIR [--quick] [--minutes 9]

Each stage is a command of its own (`kda check`, `kda bench`) with its own share of the time; a stage that fails or
takes too long is told and the next one starts. The time left is shared out before each stage, and results are on disk
after every line. Written to DIR: check.jsonl, bench.jsonl, session.log.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = ("implementations.peers.fla:chunk_kda_bounded", "implementations.peers.fla:chunk_kda")
DECODE_PEERS = ("implementations.peers.fla:fused_recurrent_kda",)
LAWS = ("output_equals_*", "final_state_equals_*", "finite_*", "the_future_*", "the_same_call_*", "packed_sequences_*")


@dataclass(frozen=True)
class Stage:
    """A Python module with arguments, and the most seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    seconds: float


TESTS = ("tests/suite/test_bench.py", "tests/suite/test_bench_cheats.py")
ON_DEVICE = "device_builder or chunked_oracle or hash or another_stream or bits_that_vary"
SELF_TEST = Stage("self-test", ("pytest", "-q", "-p", "no:cacheprovider", *TESTS, "-k", ON_DEVICE), 90)


def stages(quick: bool, kernels: tuple[str, ...], peers: bool) -> list[Stage]:
    """What is done, most wanted first; races against peers come late, for they tune at their first calls."""
    decode = [kernel for kernel in kernels if "recurrent" in kernel or "decode" in kernel] or list(kernels)
    chunk = [kernel for kernel in kernels if kernel not in decode] or list(kernels)
    own = [*chunk, *(PEERS if peers else ())]
    small = [*decode, *(DECODE_PEERS if peers else ())]
    check = ("kda", "check", *kernels, "--device=cuda", "--profile=gpu", "--jobs=6")
    if quick:
        shapes = ("fixed-8192-h96", "packed-8192-h32")
        return [
            SELF_TEST,
            _bench("time-forward", chunk, shapes, "forward", 100),
            _bench("time-decode", small, ("decode-n1", "decode-n256"), "decode", 90),
            Stage("check", (*check, *(f"--law={law}" for law in LAWS)), 150),
            _bench("race", own[: len(chunk) + 1], shapes[:1], "forward", 250),
        ]
    return [
        SELF_TEST,
        _bench("time-forward", chunk, ("fixed-8192-*", "packed-8192-*"), "forward", 180),
        _bench("time-decode", small, ("decode-*",), "decode", 180),
        Stage("check", check, 500),
        _bench("time-backward", chunk, ("fixed-8192-h32",), "forward+backward", 150),
        _bench("race", own, ("fixed-8192-h96", "fixed-8192-h32", "packed-8192-h32", "fixed-8192-h8"), "forward", 590),
        _bench("race-backward", own[: len(chunk) + 1], ("fixed-8192-h32",), "forward+backward", 400),
        _bench("time-long", chunk, ("long-*",), "forward", 300),
        _bench("time-grid", chunk, ("grid-*",), "forward", 400),
    ]


def _bench(name: str, kernels: Sequence[str], workloads: Sequence[str], mode: str, seconds: float) -> Stage:
    named = [f"--workload={workload}" for workload in workloads]
    return Stage(name, ("kda", "bench", *kernels, "--device=cuda", "--seconds=6", *named, f"--mode={mode}"), seconds)


def run(stage: Stage, seconds: float, folder: Path, log: Any) -> str:
    """Run one stage in a process group of its own; says how it ended."""
    out = ("--out", str(folder)) if stage.arguments[0] == "kda" else ()
    command = [sys.executable, "-m", *stage.arguments, *out]
    environment = dict(os.environ, TRITON_CACHE_AUTOTUNING="1", TERM="dumb", PYTHONUNBUFFERED="1")
    print(f"== {stage.name} (at most {seconds:.0f} s): {' '.join(stage.arguments)}", file=log, flush=True)
    start = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    ) as process:
        try:
            end = f"exit status {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            end = _interrupt(process, seconds)
    return f"{end} after {time.monotonic() - start:.0f} s"


def _interrupt(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """Ctrl-C first, which ends the workers; then force."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"stopped at its limit of {seconds:.0f} s"


def main(arguments: list[str] | None = None) -> int:
    """Run all stages; returns 0 where anything was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="two shapes, decode, the laws that matter most")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--kernel", action="append", default=[], metavar="TARGET")
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="only these stages")
    parser.add_argument("--no-peers", action="store_true")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    kernels = tuple(chosen.kernel) or ("triton_chunked", "triton_recurrent")
    peers = not chosen.no_peers and importlib.util.find_spec("fla") is not None
    todo = [s for s in stages(chosen.quick, kernels, peers) if not chosen.stage or s.name in chosen.stage]
    ends, deadline = {}, time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory() as scratch, (chosen.out / "session.log").open("a") as log:
        for stage in todo:
            seconds = min(stage.seconds, deadline - time.monotonic() - 15)
            folder = Path(scratch) / stage.name
            try:
                ends[stage.name] = run(stage, seconds, folder, log) if seconds > 20 else "not run: no time left"
            except Exception as error:
                ends[stage.name] = f"failed: {type(error).__name__}: {error}"
            with contextlib.suppress(OSError):
                _keep(folder, chosen.out)
            print(f"{stage.name}: {ends[stage.name]}", flush=True)
    return summary(chosen.out, ends)


def _keep(folder: Path, out: Path) -> None:
    """Add a stage's lines to one of the two result files, and its evidence of falsified laws."""
    target = out / ("check.jsonl" if folder.name == "check" else "bench.jsonl")
    if (folder / "results.jsonl").is_file():
        with target.open("a") as file:
            file.write((folder / "results.jsonl").read_text())
    if (folder / "falsified").is_dir():
        shutil.make_archive(str(out / "falsified"), "zip", folder / "falsified")


def summary(out: Path, ends: dict[str, str]) -> int:
    """Print the short table that the run is for."""
    rows = [*_read(out / "bench.jsonl"), *_read(out / "check.jsonl")]
    print()
    for row in rows:
        if row["kind"] == "bench":
            time_ = f"{row['median_ms']:.4f} ms" if row["status"] == "ok" else f"{row['status']}: {row['reason']}"[:90]
            more = "" if row["ratio"] is None else f"  x{row['ratio']:.3f}"
            floor = "" if row["of_floor"] is None else f"  {100 * row['of_floor']:.0f} % of floor"
            print(f"{row['workload']:<24} {row['mode']:<17} {row['kernel']:<34} {time_}{floor}{more}")
    laws = [row for row in rows if row["kind"] == "law"]
    for kernel in dict.fromkeys(row["kernel"] for row in laws):
        mine = [row for row in laws if row["kernel"] == kernel]
        count = {s: sum(row["status"] == s for row in mine) for s in dict.fromkeys(row["status"] for row in mine)}
        print(f"{kernel}: " + ", ".join(f"{number} {status}" for status, number in count.items()))
        for row in mine:
            if row["status"] not in ("pass", "unsupported", "not-run"):
                print(f"  {row['law']}: {row['status']}: {row['case']}: {str(row['message'])[:160]}")
    for name, end in ends.items():
        print(f"{name}: {end}")
    return 0 if rows else 1


def _read(path: Path) -> list[dict[str, Any]]:
    found = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(text))
    return found


if __name__ == "__main__":
    sys.exit(main())
