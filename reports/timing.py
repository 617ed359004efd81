"""Tables and plots of the benchmark rows; a row whose status is not "ok" has no time."""

from typing import Any

import pandas as pd

from reports.plots import Dot, Point, curves, dots
from reports.results import records
from reports.tables import ABSENT, listed, three, units

PANEL = 6  # rows of one panel of the speed-up
TIMES = ("median_ms", "q25_ms", "q75_ms", "min_ms", "host_ms", "of_floor", "ratio", "ratio_low", "ratio_high")
# A result line has this kernel's time over the baseline's; the report tells how many times as fast it is.
SPEEDUP = {"speedup": "ratio", "speedup_low": "ratio_high", "speedup_high": "ratio_low"}


def rows(bench: pd.DataFrame) -> list[dict[str, Any]]:
    """All benchmark rows with their speed-up; in void ones every time and every ratio is None."""
    lines = records(bench)
    for line in lines:
        if line["status"] != "ok":
            line |= dict.fromkeys(TIMES)
        line |= {name: 1 / line[ratio] if line[ratio] else None for name, ratio in SPEEDUP.items()}
    return lines


def series(lines: list[dict[str, Any]]) -> dict[str, int]:
    """A number for each kernel, the same in all plots."""
    return {label: i for i, label in enumerate(sorted({line["label"] for line in lines}))}


def setting(line: dict[str, Any]) -> str:
    """What a curve holds fixed, in words: mode, heads, widths, dtype, device."""
    heads = "" if line["HV"] is None else f"HV={line['HV']}, K={line['K']}, V={line['V']}, "
    packed = ", packed" if _packed(line) else f", B={line['B']}" if line["mode"] != "decode" and line["B"] else ""
    graph = ", CUDA graph" if line["workload"].endswith("/graph") else ""
    return f"{line['mode']}{graph}{packed}: {heads}{line['dtype'] or 'any dtype'}, {_device(line)}"


def _packed(line: dict[str, Any]) -> bool:
    return line["mode"] != "decode" and (line["sequences"] or 0) > (line["B"] or 1)


def _at(line: dict[str, Any]) -> int | None:
    """Where a row stands on the horizontal axis: T, or for decoding the number of sequences."""
    return (line["sequences"] or line["B"]) if line["mode"] == "decode" else line["T"]


def _groups(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["status"] == "ok" and line["median_ms"] and _at(line):
            groups.setdefault(setting(line), []).append(line)
    return groups


def _title(line: dict[str, Any]) -> str:
    spread = (
        f", quartiles {three(line['q25_ms'])} to {three(line['q75_ms'])}" if line["q25_ms"] and line["q75_ms"] else ""
    )
    return f"{line['label']}, {line['workload']}: {three(line['median_ms'])} ms{spread}"


def time_plots(lines: list[dict[str, Any]], number: dict[str, int]) -> list[tuple[str, str]]:
    """Time against T (or sequences) with the floor: (caption, SVG) for each setting."""
    plots, single = [], []
    for name, group in _groups(lines).items():
        if len({_at(line) for line in group}) < 2:
            single += group
            continue
        floor = sorted({(float(_at(line)), line["floor_ms"]) for line in group if line["floor_ms"]})
        points = [
            Point(number[o["label"]], float(_at(o)), o["median_ms"], _title(o), o["q25_ms"], o["q75_ms"]) for o in group
        ]
        axis = "sequences" if group[0]["mode"] == "decode" else "T (tokens)"
        plots.append((name, curves(f"Time: {name}", points, axis, "median, ms", floor=floor)))
    return plots + _single(single, number)


def _device(line: dict[str, Any]) -> str:
    return line["device_name"] or line["device"]


def _single(lines: list[dict[str, Any]], number: dict[str, int]) -> list[tuple[str, str]]:
    """A row for each workload that was timed at one size only."""
    plots = []
    for device in sorted({_device(line) for line in lines}):
        by: dict[str, list[dict[str, Any]]] = {}
        for line in lines:
            if _device(line) == device:
                by.setdefault(f"{line['workload']}, {line['mode']}, {line['dtype'] or 'any dtype'}", []).append(line)
        marks = [
            (name, [Dot(number[o["label"]], o["median_ms"], _title(o), o["q25_ms"], o["q75_ms"]) for o in part])
            for name, part in by.items()
        ]
        floors = [next((o["floor_ms"] for o in part if o["floor_ms"]), None) for part in by.values()]
        plots += _panels(f"Single workloads, {device}", marks, "median, ms", floors=floors, budget=None)
    return plots


def ratio_plots(lines: list[dict[str, Any]], number: dict[str, int]) -> list[tuple[str, str]]:
    """Speed-up over the baseline with its spread: (caption, SVG) for each device."""
    plots = []
    good = [line for line in lines if line["speedup"] and line["baseline"] and line["status"] == "ok"]
    for device in sorted({_device(line) for line in good}):
        by: dict[str, list[Dot]] = {}
        for o in good:
            if _device(o) != device:
                continue
            low, high = o["speedup_low"], o["speedup_high"]
            spread = f" ({low:.2f} to {high:.2f})" if low and high else ""
            text = f"{o['label']}: {o['speedup']:.2f} times as fast as {o['baseline']}{spread}"
            row = by.setdefault(f"{o['workload']}, {o['mode']}, against {o['baseline']}", [])
            row.append(Dot(number[o["label"]], o["speedup"], text, low, high))
        plots += _panels(f"Speed-up on {device}", list(by.items()), "times as fast as the baseline")
    return plots


def _panels(
    name: str, rows: list[tuple[str, list[Dot]]], axis: str, *, floors: list[Any] = (), budget: float | None = 1.0
) -> list[tuple[str, str]]:
    """Dot plots of a few rows each, on one scale."""
    scale = [x for _, part in rows for dot in part for x in (dot.value, dot.low, dot.high) if x]
    scale += [floor for floor in floors if floor]
    panels = []
    for i in range(0, len(rows), PANEL):
        part, own = rows[i : i + PANEL], floors[i : i + PANEL]
        title = name + (", continued" if i else "")
        panels.append((title, dots(title, part, axis, budget=budget, floors=own, over=scale)))
    return panels


def accuracy_plots(lines: list[dict[str, Any]], number: dict[str, int]) -> list[tuple[str, str]]:
    """Accuracy against time: worst checked error in budget units over the median, for each mode and device."""
    plots = []
    good = [o for o in lines if o["status"] == "ok" and o["median_ms"] and o["units"] is not None]
    for mode, device in sorted({(o["mode"], _device(o)) for o in good}):
        own = [o for o in good if (o["mode"], _device(o)) == (mode, device)]
        points = [
            Point(number[o["label"]], o["median_ms"], max(o["units"], 1e-4), f"{_title(o)}, {units(o['units'])} units")
            for o in own
        ]
        plot = curves(
            f"Accuracy against time, {mode}, {device}", points, "median, ms", "error, units", joined=False, budget=1.0
        )
        plots.append((f"{mode}, {device}", plot))
    return plots


def sentence(lines: list[dict[str, Any]]) -> str:
    """What was timed, in one sentence: rows with a time, void ones by name, those that did not run."""
    void = [f"{o['label']} on {o['workload']} ({o['status']})" for o in lines if o["status"] not in ("ok", *ABSENT)]
    text = f"{sum(o['status'] == 'ok' for o in lines)} of {len(lines)} rows have a time"
    for status in ABSENT:
        if count := sum(o["status"] == status for o in lines):
            text += f", {count} {status}"
    return text + (f"; void: {listed(void)}." if void else ".")
