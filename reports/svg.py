"""Small parts of SVG plots: scales, ticks, marks, text; colours are classes, so that they follow the page's theme."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
COLOURS = 6  # classes s0 to s5 in templates/style.css


def n(x: float) -> str:
    """A coordinate, with one decimal at most."""
    text = f"{x:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def tag(name: str, content: str = "", **attributes: Any) -> str:
    """An element; `class_` and `stroke_width` become class and stroke-width, numbers are rounded."""
    text = "".join(
        f" {key.rstrip('_').replace('_', '-') if key != 'viewBox' else key}="
        + quoteattr(n(value) if isinstance(value, float) else str(value))
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{text}>{content}</{name}>" if content else f"<{name}{text}/>"


def words(x: float, y: float, text: str, anchor: str = "start", class_: str | None = None) -> str:
    """Text at a point; `anchor` is start, middle or end."""
    return tag("text", escape(text), x=n(x), y=n(y), text_anchor=None if anchor == "start" else anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return tag("path", d=f"M{n(x1)} {n(y1)}L{n(x2)} {n(y2)}", class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str) -> str:
    """A line through points."""
    return tag("path", d="M" + "L".join(f"{n(x)} {n(y)}" for x, y in points), class_=class_)


def tone(series: int) -> str:
    """The colour class of a series; past six the colours start again one step on, so that no two of 36 look alike."""
    return f"s{(series + series // COLOURS) % COLOURS}"


def mark(series: int, x: float, y: float, title: str, r: float = 4.0) -> str:
    """The mark of a series: a shape and a colour of its own, and its words as a tooltip."""
    paths = {
        "square": f"M{n(x - r)} {n(y - r)}h{n(2 * r)}v{n(2 * r)}h{n(-2 * r)}z",
        "triangle": f"M{n(x)} {n(y - 1.2 * r)}l{n(1.2 * r)} {n(2.1 * r)}h{n(-2.4 * r)}z",
        "diamond": f"M{n(x)} {n(y - 1.3 * r)}l{n(1.3 * r)} {n(1.3 * r)}l{n(-1.3 * r)} {n(1.3 * r)}"
        f"l{n(-1.3 * r)} {n(-1.3 * r)}z",
        "cross": f"M{n(x - r)} {n(y - r)}l{n(2 * r)} {n(2 * r)}m0 {n(-2 * r)}l{n(-2 * r)} {n(2 * r)}",
    }
    shape = SHAPES[series % len(SHAPES)]
    class_ = f"m {tone(series)}" + (" open" if shape in ("ring", "cross") else "")
    about = tag("title", escape(title)) if title else ""
    if shape in paths:
        return tag("path", about, d=paths[shape], class_=class_)
    return tag("circle", about, cx=n(x), cy=n(y), r=n(r), class_=class_)


@dataclass(frozen=True)
class Log:
    """A logarithmic axis from `low` to `high` (both positive) on the pixels `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, x: float) -> float:
        """The pixel of a value; values outside stand at the end of the axis."""
        share = (math.log10(min(max(x, self.low), self.high)) - math.log10(self.low)) / self._decades
        return self.start + share * (self.stop - self.start)

    @property
    def _decades(self) -> float:
        return math.log10(self.high) - math.log10(self.low)

    def ticks(self) -> list[float]:
        """Powers of ten, with 2 and 5 between them where there is room, thinned where there is none."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        parts = (1, 2, 5) if self._decades < 2.2 else (1,)
        inside = [part * 10.0**e for e in exponents for part in parts]
        inside = [x for x in inside if self.low * 0.999 <= x <= self.high * 1.001]
        return inside[:: math.ceil(len(inside) / 7)] or [self.low, self.high]


def log_over(values: Iterable[float], start: float, stop: float, always: tuple[float, ...] = ()) -> Log:
    """A logarithmic axis that holds all positive values with some room at both ends."""
    good = [x for x in (*values, *always) if x > 0 and math.isfinite(x)] or [1.0]
    low, high = min(good), max(good)
    room = max((high / low) ** 0.06, 1.15)
    return Log(low / room, high * room, start, stop)


def figure(title: str, width: float, height: float, parts: Iterable[str], class_: str = "plot") -> str:
    """A whole picture with its name."""
    return tag(
        "svg", "".join(parts), viewBox=f"0 0 {n(width)} {n(height)}", role="img", aria_label=title, class_=class_
    )


def plain(x: float) -> str:
    """A tick's number: 0.001, 0.5, 20, 16k, 1M."""
    if x >= 1e9 or x < 1e-4:
        return f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if x >= limit:
            return f"{x / (1e6 if unit == 'M' else 1e3):g}{unit}"
    return f"{x:g}" if x >= 1000 else f"{x:.3g}"


def frame(x: Log, y: Log, x_name: str, y_name: str, places: list[float]) -> list[str]:
    """Grid lines with their numbers, and the names of both axes; `places` are the ticks of x."""
    parts = [line(x.start, y(t), x.stop, y(t), "grid") for t in y.ticks()]
    parts += [words(x.start - 5, y(t) + 4, plain(t), "end", "tick") for t in y.ticks()]
    parts += [line(x(t), y.start, x(t), y.start + 4, "axis") for t in places]
    parts += [words(x(t), y.start + 16, f"{t:g}" if t < 1e6 else plain(t), "middle", "tick") for t in places]
    parts.append(line(x.start, y.start, x.stop, y.start, "axis"))
    parts.append(words(x.stop, y.start + 31, x_name, "end", "name"))
    parts.append(words(2, y.stop - 8, y_name, "start", "name"))
    return parts
