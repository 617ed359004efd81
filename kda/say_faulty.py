"""What `kda faulty` prints: a line for each group of trials, then the table and the sums."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from properties.describe import FALSIFIED
from properties.kill import interpreted
from properties.laws import LAWS
from properties.outcome import VERDICTS, Outcome

SLOWEST = 3


def progress(lines: Sequence[dict[str, Any]]) -> str:
    """One line on a group of trials: of one kernel, or of one law on several."""
    one, broken = lines[0], [line for line in lines if line["status"] in FALSIFIED]
    seconds = sum(line["seconds"] for line in lines)
    if not one["honest"] and one["law"] and not any(line["first"] for line in lines) and _one_law(lines):
        found = f"falsifies {broken[-1]['kernel']}" if broken else "falsifies none"
        return f"law {one['law']}: {found}, {len(lines)} asked ({seconds:.1f} s)"
    first = next((line for line in broken if line["first"]), broken[0] if broken else None)
    seeds = sorted({line["seed"] for line in lines})
    word = f"honest (seeds {seeds[0]} to {seeds[-1]})" if one["honest"] else "faulty"
    found = "no law" if first is None else f"{len(broken)} laws, first {first['law']}: {first['case']}"
    return f"{word} {one['kernel']}: {found} ({seconds:.1f} s)"


def _one_law(lines: Sequence[dict[str, Any]]) -> bool:
    return len({line["law"] for line in lines}) == 1


def first_kills(lines: Sequence[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], float]]:
    """For each falsified faulty kernel the first law that falsified it, and the seconds spent on it up to then."""
    return {line["kernel"]: (line, line["until"]) for line in lines if line["first"]}


def say(console: Console, lines: Sequence[dict[str, Any]], result: Outcome) -> None:
    """The table of faulty kernels and what the whole says."""
    kills = first_kills(lines)
    console.print(_table(lines, kills))
    if kills:
        median = statistics.median(spent for _, spent in kills.values())
        slowest = sorted(kills, key=lambda name: -kills[name][1])[:SLOWEST]
        console.print(f"falsified: {len(kills)}, after {median:.2f} s in the median; slowest:")
        for name in slowest:
            first, spent = kills[name]
            console.print(f"  {name} {spent:.2f} s, {first['examples']} cases of {first['law']}")
    runs = len({(line["kernel"], line["seed"]) for line in lines if line["honest"]})
    laws = [
        (_laws(lines, result), result.idle_laws),
        ("laws that need a GPU or could not be asked here", result.unable_laws),
    ]
    for title, names in (
        ("survivors", result.survivors),
        *(laws if result.whole else []),
        (f"honest kernels accused, of {runs} runs", result.accused),
        ("seeds of the honest kernels", seeds_of_the_honest(lines)),
        ("not run", result.not_run),
        ("laws that are qualities and accuse nobody", [name for name in LAWS if name not in VERDICTS]),
    ):
        console.print(escape(f"{title}: {', '.join(names) or 'none'}"), soft_wrap=True)


def _laws(lines: Sequence[dict[str, Any]], result: Outcome) -> str:
    killing = {line["law"] for line in lines if not line["honest"] and line["status"] in FALSIFIED}
    able = len(VERDICTS) - len(result.unable_laws)
    return f"laws that falsify a faulty kernel: {len(killing)} of {able} that could be asked; idle laws"


def seeds_of_the_honest(lines: Sequence[dict[str, Any]]) -> list[str]:
    """How many seeds each honest kernel ran, those under Triton's interpreter apart."""
    seeds: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        if line["honest"]:
            seeds[line["kernel"]].add(line["seed"])
    counts: dict[tuple[bool, int], int] = defaultdict(int)
    for name, own in seeds.items():
        counts[interpreted(name), len(own)] += 1
    return [
        f"{count} {'under the interpreter ' if slow else ''}with {n} each"
        for (slow, n), count in sorted(counts.items())
    ]


def _table(lines: Sequence[dict[str, Any]], kills: dict[str, tuple[dict[str, Any], float]]) -> Table:
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("id", "kernel", "first law", "s", "laws", "case"):
        table.add_column(column, justify="right" if column in ("s", "laws") else "left", overflow="fold")
    names = {line["kernel"]: line["fault"]["id"] for line in lines if not line["honest"]}
    for name in sorted(names, key=lambda name: (names[name][0], int("0" + "".join(filter(str.isdigit, names[name]))))):
        own = [line for line in lines if line["kernel"] == name and line["status"] != "not-run"]
        count = sum(line["status"] in FALSIFIED for line in own)
        first, spent = kills.get(name, (None, 0.0))
        cells = ("SURVIVES", "", "") if first is None else (first["law"], f"{spent:.2f}", first["case"])
        table.add_row(names[name], name, cells[0], cells[1], f"{count} of {len(own)}", escape(str(cells[2])[:60]))
    return table
