"""What `kda check` says: progress while it works, then each counterexample and a table."""

from collections import Counter, defaultdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from properties.describe import FALSIFIED, accuses, describe

SHOWN_WHOLE = 3  # counterexamples of one kernel that are printed whole; the others get a line each


def _console() -> Console:
    """The terminal; plain output elsewhere, wide enough that no line is broken."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


class Talker:
    """Hears every result line and speaks to the terminal, or in plain lines where there is none."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.console, self.lines = plan, _console(), list[dict[str, Any]]()
        self.total = len(plan.targets) * len(plan.laws)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task("checking", total=self.total)
        if self.console.is_terminal:
            self.progress.start()

    def hear(self, line: dict[str, Any]) -> None:
        """One (kernel, law) is done."""
        self.lines.append(line)
        broken = accuses(line)
        found = sum(accuses(one) for one in self.lines)
        self.progress.update(self.task, advance=1, description=f"{line['kernel']}: {line['law']} ({found} falsified)")
        if broken or not self.console.is_terminal:
            worst = "" if line["worst"] is None else f", worst {line['worst']:.3g} units"
            status = {"pass": "yes", "falsified": "no"}.get(line["status"], "") if line.get("quality") else ""
            self.console.print(
                escape(
                    f"{status or line['status']:<14} {line['kernel']}: {line['law']} "
                    f"({line['informative']} informative of {line['tried']}{worst}, {line['seconds']:.1f} s)"
                )
            )

    def interrupted(self, path: Any) -> None:
        """The run was stopped by hand."""
        self.progress.stop()
        self.console.print(
            f"interrupted after {len(self.lines)} of {self.total}; the results so far are in {path}. "
            "Run the same command with --law for what is missing."
        )

    def conclude(self, path: Any) -> int:
        """Print counterexamples and the table; returns the exit status."""
        self.progress.stop()
        by_kernel: dict[str, list[dict[str, Any]]] = defaultdict(list)
        order = {name: i for i, name in enumerate(self.plan.laws)}
        for line in sorted(self.lines, key=lambda line: order[line["law"]]):
            by_kernel[line["kernel"]].append(line)
        statuses = [self._kernel(name, lines) for name, lines in by_kernel.items()]
        self.console.print(_table(by_kernel))
        self.console.print(f"results in {path}; `kda report {path.parent}` makes the page")
        return 2 if 2 in statuses else max(statuses, default=0)

    def _kernel(self, name: str, lines: list[dict[str, Any]]) -> int:
        unloadable = [line["reason"] for line in lines if str(line["reason"]).startswith("unloadable: ")]
        if unloadable:
            self.console.print(escape(f"\n{name}: {unloadable[0].removeprefix('unloadable: ')}"), style="bold red")
            return 2
        broken = [line for line in lines if accuses(line)]
        for n, line in enumerate(broken):
            title = f"\n{name} breaks: {line['law']} ({line['status']})"
            self.console.print(escape(title), style="bold red") if n < SHOWN_WHOLE else None
            self.console.print(escape(describe(line)), soft_wrap=True) if n < SHOWN_WHOLE else None
        for line in broken[SHOWN_WHOLE:]:
            self.console.print(escape(f"  also {line['law']}: {line['case']}"), soft_wrap=True)
        verdicts = [line for line in lines if not line.get("quality")]
        if not verdicts:
            self.console.print(f"\n{name}: qualities alone were asked, which are no verdict", style="yellow")
            return 2
        if not broken and not any(line["status"] == "pass" for line in lines):
            reasons = sorted({str(line["reason"]) for line in verdicts})
            self.console.print(escape(f"\n{name} is unusable: it refused everything ({reasons[0]})"), style="bold red")
            return 2
        if reason := _mostly_refused(lines):
            self.console.print(escape(f"\n{name} {reason}"), style="yellow", soft_wrap=True)
        return 1 if broken else 0


def _mostly_refused(lines: list[dict[str, Any]]) -> str:
    """How much a kernel refused, where that is more than half of it, and what to do; or ""."""
    tried, refused = (sum(line[name] for line in lines) for name in ("tried", "refused"))
    if 2 * refused <= tried:
        return ""
    reasons: Counter[str] = Counter()
    for line in lines:
        reasons.update(line["coverage"].get("refusals", {}))
    return (
        f"refused {refused} of {tried} cases, most often with: {reasons.most_common(1)[0][0]}\n"
        '  HINTS = {"takes": {"K": (128,), ..}} in its file asks for what it takes only: more of it is verified'
    )


def _table(by_kernel: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(title=None, box=None, pad_edge=False)
    for column in (
        "kernel",
        "verdict",
        "pass",
        "falsified",
        "unsupported",
        "not run",
        "informative",
        "worst (units)",
        "qualities",
        "seconds",
    ):
        table.add_column(column, justify="left" if column in ("kernel", "verdict") else "right")
    for name, lines in by_kernel.items():
        qualities, lines = [x for x in lines if x.get("quality")], [x for x in lines if not x.get("quality")]
        asked = [x["status"] for x in qualities if x["status"] not in ("unsupported", "not-run")]
        count = lambda *status: str(sum(line["status"] in status for line in lines))  # noqa: B023, E731
        passed = [line["worst"] for line in lines if line["status"] == "pass" and line["worst"] is not None]
        nothing = "unusable" if lines else "not asked"
        verdict = "FALSIFIED" if count(*FALSIFIED) != "0" else "holds" if passed else nothing
        table.add_row(
            name,
            verdict,
            count("pass"),
            count(*FALSIFIED),
            count("unsupported"),
            count("not-run"),
            str(sum(line["informative"] for line in lines)),
            f"{max(passed, default=0):.2f}",
            f"{asked.count('pass')} of {len(asked)}",
            f"{sum(x['seconds'] for x in lines + qualities):.1f}",
        )
    return table
