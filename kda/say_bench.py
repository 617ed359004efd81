"""What `kda bench` says: what runs now, each result as it comes, then tables."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

VOID = ("wrong", "implausible", "nondeterministic", "crash", "timeout")


class Talker:
    """Hears every result line and speaks to the terminal, or in plain lines where there is none."""

    def __init__(self, total: int) -> None:
        plain = Console(highlight=False)
        self.console = plain if plain.is_terminal else Console(highlight=False, width=170)
        self.total, self.done, self.start = total, 0, time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.status = self.console.status("") if self.console.is_terminal else None
        if self.status:
            self.status.start()
        self.job = ""

    def say(self, text: str) -> None:
        """What runs now; shown on a terminal only."""
        if self.status:
            self.status.update(escape(text))

    def stop(self) -> None:
        """Stop the moving line."""
        if self.status:
            self.status.stop()

    def device(self, device: str, facts: dict[str, Any]) -> None:
        """The device's measured ceilings."""
        top = facts["ceilings"]
        self.console.print(
            f"{device}: a copy reaches {top['bytes_per_s'] / 1e9:.0f} GB/s, a matrix product "
            f"({top['matmul']}) {top['flops_per_s'] / 1e12:.3g} TFLOP/s"
        )

    def begin(self, job: Any) -> None:
        """A workload begins."""
        left = ""
        if self.done:
            left = f", about {(time.monotonic() - self.start) / self.done * (self.total - self.done):.0f} s left"
        self.job = f"{self.done + 1}/{self.total} {job.workload} {job.mode}{left}"
        self.say(self.job)

    def end(self) -> None:
        """A workload is done."""
        self.done += 1

    def hear_phase(self, label: str | None, phase: str) -> None:
        """The worker is about to do something."""
        self.say(f"{self.job}: {label or ''} {phase}")

    def hear(self, row: dict[str, Any]) -> None:
        """One candidate is done with one workload."""
        self.rows.append(row)
        self.console.print(escape(f"{row['workload']:<24} {row['mode']:<17} {row['kernel']:<28} {_told(row)}"))

    def interrupted(self, path: Path) -> None:
        """The run was stopped by hand."""
        self.stop()
        self.console.print(
            f"interrupted after {self.done} of {self.total}; the results so far are in {path}. "
            "The same command with --resume times what is missing."
        )

    def conclude(self, path: Path) -> int:
        """Print the table; returns the exit status."""
        self.stop()
        table = _table(
            "workload", "mode", "kernel", "ms", "quartiles", "rounds", "of floor", "units", "ratio", "status"
        )
        groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows:
            groups[row["workload"], row["mode"]].append(row)
        for rows in groups.values():
            for row in rows:
                table.add_row(*(escape(text) for text in _cells(row)))
        self.console.print(table)
        for row in self.rows:
            notes = [flag for flag in row["flags"] if not flag.startswith(("gradients checked", "cuda graph", "pool"))]
            if row["status"] != "ok" or notes:
                words = "; ".join([*([row["reason"]] if row["reason"] else []), *notes])
                self.console.print(escape(f"{row['kernel']} on {row['workload']}: {words}"), soft_wrap=True)
        self.console.print(f"results in {path}; `kda report {path.parent}` makes the page")
        return self._status()

    def _status(self) -> int:
        if any(row["status"] in VOID for row in self.rows):
            return 1
        if any(str(row["reason"]).startswith("unloadable") for row in self.rows):
            return 2
        if self.rows and not any(row["status"] == "ok" for row in self.rows):
            self.console.print("nothing was timed: every call was refused or could not be made", style="bold red")
            return 2
        return 0

    def compared(self, table: Any) -> None:
        """Print the comparison with another run."""
        shown = _table("workload", "mode", "kernel", "ms", "base ms", "ratio", "95 % interval", "verdict")
        for row in table.to_dict("records"):
            known = row["ratio"] == row["ratio"] and row["ratio"] is not None
            numbers = (
                [f"{row['median_ms']:.4g}", f"{row['base_ms']:.4g}", f"{row['ratio']:.3f}"] if known else ["", "", ""]
            )
            interval = f"{row['low']:.3f} .. {row['high']:.3f}" if known else ""
            verdict = row["verdict"] + (
                f": {row['reason']}" if row["reason"] == row["reason"] and row["reason"] else ""
            )
            cells = (row["workload"], row["mode"], row["kernel"], *numbers, interval, verdict)
            shown.add_row(*(escape(str(cell)) for cell in cells))
        self.console.print(shown)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        left = column in ("workload", "mode", "kernel", "status", "verdict")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def _told(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    ratio = "" if row["ratio"] is None else f", {row['ratio']:.3g} x {row['baseline']}"
    return f"{row['median_ms']:.4g} ms ({row['rounds']} rounds, {row['units']:.2g} units{ratio})"


def _cells(row: dict[str, Any]) -> list[str]:
    name = [row["workload"], row["mode"], row["kernel"]]
    if row["status"] != "ok":
        return [*name, *[""] * 6, row["status"]]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f} ({row['ratio_low']:.3f} .. {row['ratio_high']:.3f})"
    return [
        *name,
        f"{row['median_ms']:.4g}",
        f"{row['q25_ms']:.4g} .. {row['q75_ms']:.4g}",
        str(row["rounds"]),
        "" if row["of_floor"] is None else f"{100 * row['of_floor']:.1f} %",
        f"{row['units']:.2g}",
        ratio,
        "ok",
    ]
