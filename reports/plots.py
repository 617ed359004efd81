"""The plots of the page: error by token, error by regime, time, speed-up, accuracy against time."""

import math
from dataclasses import dataclass
from typing import Any

from reports import svg
from reports.tables import units

WIDTH = 360.0  # every plot fits a phone's width and is scaled by the page
LANE, NARROW = 7.0, 4.5  # between the series of one row of a dot plot; from seven series on
BINS = 90  # columns of the token plot; more tokens are drawn as the worst of each bin


def by_token(errors: list[float]) -> str:
    """The error of every token, "" for none, on a logarithmic scale, 1e-4 to 1e9 at most, with the budget as a line."""
    if not errors:
        return ""
    known = [x if isinstance(x, int | float) and x == x else 1e9 for x in errors]
    size = math.ceil(len(known) / BINS)
    bins = [max(known[i : i + size]) for i in range(0, len(known), size)]
    top = max(10.0, min(max(bins), 1e9) * 2)
    y, left, right = svg.Log(1e-3, top, 108.0, 12.0), 44.0, WIDTH - 6
    step = (right - left) / len(bins)
    stroke = max(1.0, min(step - 1, 14.0))
    parts = [svg.line(left, y(t), right, y(t), "grid") for t in y.ticks()]
    parts += [svg.words(left - 5, y(t) + 4, svg.plain(t), "end", "tick") for t in y.ticks()]
    for over, class_ in ((False, "bar good"), (True, "bar bad")):
        bars = [(left + (i + 0.5) * step, min(y(x), 107.0)) for i, x in enumerate(bins) if (x > 1) == over]
        path = "".join(f"M{svg.n(middle)} 108V{end:.0f}" for middle, end in bars)
        parts.append(svg.tag("path", d=path, class_=class_, stroke_width=svg.n(stroke)) if path else "")
    parts.append(svg.line(left, y(1), right, y(1), "budget"))
    parts.append(svg.words(left, 124, "token 0", class_="tick"))
    if len(errors) > 1:
        parts.append(svg.words(right, 124, f"token {len(errors) - 1}", "end", "tick"))
    worst = max(range(len(known)), key=known.__getitem__)
    label = f"Error of {len(known)} tokens in budget units; the worst is token {worst} with {units(known[worst])}"
    return svg.figure(label, WIDTH, 130, parts)


@dataclass(frozen=True)
class Dot:
    """One mark of a dot plot: its series, value, spread and tooltip."""

    series: int
    value: float
    title: str
    low: float | None = None
    high: float | None = None


def dots(
    title: str,
    rows: list[tuple[str, list[Dot]]],
    name: str,
    *,
    budget: float | None = 1.0,
    floors: list[Any] = (),
    over: list[float] = (),
) -> str:
    """Rows of marks on one logarithmic axis; `budget` draws the line, `floors` a tick on each row.

    Each series has a lane of its own in every row, so that equal values do not hide each other. `over` are values that
    the axis has to hold, for several plots of one scale.
    """
    ends = [x for _, part in rows for dot in part for x in (dot.value, dot.low, dot.high) if x]
    x = svg.log_over([*ends, *over, *(f for f in floors if f)], 8.0, WIDTH - 10, (budget,) if budget else ())
    lanes = sorted({dot.series for _, part in rows for dot in part})
    step = LANE if len(lanes) < 7 else NARROW
    depth = step * max(len(lanes) - 1, 0)
    pitch, top = 34.0 + depth, 8.0
    bottom = top + pitch * len(rows)
    parts = [svg.line(x(t), top, x(t), bottom, "grid") for t in x.ticks()]
    parts += [svg.words(x(t), bottom + 15, svg.plain(t), "middle", "tick") for t in x.ticks()]
    if budget:
        parts.append(svg.line(x(budget), top - 4, x(budget), bottom, "budget"))
    for i, (row, marks) in enumerate(rows):
        y = top + pitch * i + 24
        parts.append(svg.words(x.start, y - 10, row, class_="row"))
        parts.append(svg.line(x.start, y - 20, x.stop, y - 20, "axis") if i else "")
        if i < len(floors) and floors[i]:
            parts.append(svg.line(x(floors[i]), y - 6, x(floors[i]), y + depth + 6, "floor"))
        for dot in marks:
            lane = y + step * lanes.index(dot.series)
            if dot.low and dot.high:
                parts.append(svg.line(x(dot.low), lane, x(dot.high), lane, f"spread {svg.tone(dot.series)}"))
            parts.append(svg.mark(dot.series, x(dot.value or x.low), lane, dot.title, r=3.5))
    parts.append(svg.words(x.stop, bottom + 31, name, "end", "name"))
    return svg.figure(title, WIDTH, bottom + 38, parts)


@dataclass(frozen=True)
class Point:
    """One point of a line or scatter plot: series, place, spread of y and tooltip."""

    series: int
    x: float
    y: float
    title: str
    low: float | None = None
    high: float | None = None


def curves(
    title: str,
    points: list[Point],
    x_name: str,
    y_name: str,
    *,
    floor: list[tuple[float, float]] = (),
    joined: bool = True,
    budget: float | None = None,
) -> str:
    """Points of several series on two logarithmic axes, joined by lines, with the floor under them."""
    left, right, top, bottom = 44.0, WIDTH - 12, 26.0, 200.0
    x = svg.log_over([p.x for p in points], left, right)
    ends = [e for p in points for e in (p.y, p.low, p.high) if e]
    y = svg.log_over([*ends, *(b for _, b in floor)], bottom, top, (budget,) if budget else ())
    places = sorted({p.x for p in points})
    parts = svg.frame(x, y, x_name, y_name, places if joined and len(places) <= 7 else x.ticks())
    if len(floor) > 1:
        parts.append(svg.polyline([(x(a), y(b)) for a, b in floor], "floor"))
    parts += [svg.line(x(a) - 7, y(b), x(a) + 7, y(b), "floor") for a, b in floor]
    if budget:
        parts.append(svg.line(left, y(budget), right, y(budget), "budget"))
    for series in sorted({p.series for p in points}):
        own = sorted((p for p in points if p.series == series), key=lambda p: p.x)
        class_ = svg.tone(series)
        if joined and len(own) > 1:
            parts.append(svg.polyline([(x(p.x), y(p.y)) for p in own], f"curve {class_}"))
        parts += [svg.line(x(p.x), y(p.low), x(p.x), y(p.high), f"spread {class_}") for p in own if p.low and p.high]
        parts += [svg.mark(series, x(p.x), y(p.y or y.low), p.title) for p in own]
    return svg.figure(title, WIDTH, 236, parts)


def key(series: int) -> str:
    """The mark of a series for a legend."""
    return svg.tag("svg", svg.mark(series, 8.0, 8.0, ""), viewBox="0 0 16 16", class_="key", aria_hidden="true")
