"""One small stand-alone SVG for the README: the verdict on each kernel, faulty kernels caught, and times."""

from typing import Any
from xml.sax.saxutils import escape

from reports import kill, svg, tables, timing
from reports.plots import Dot, dots
from reports.results import Results

ROWS = 7  # workloads shown; the page has all
WIDTH = 840.0
LINE = 50  # characters of a name and a verdict that fit side by side
STYLE = """
:root{--back:#fff;--text:#18212b;--quiet:#55616e;--line:#d3dae1;--strong:#8a96a3;--good:#17663a;--bad:#a3152b}
:root{--s0:#1c5fa8;--s1:#b45309;--s2:#0f766e;--s3:#7c3aed;--s4:#be185d;--s5:#4d7c0f}
@media (prefers-color-scheme:dark){
:root{--back:#11161c;--text:#e5eaf0;--quiet:#a5b0bc;--line:#333e4a;--strong:#74818f;--good:#76d69b;--bad:#ff929e}
:root{--s0:#84bbf2;--s1:#f0a860;--s2:#5ccfc1;--s3:#bda2fa;--s4:#f58bbb;--s5:#a8cf6a}}
text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:var(--text)}text.head{font-size:15px;font-weight:650}
text.tick,text.name,text.quiet{fill:var(--quiet)}text.tick,text.name{font-size:11px}
text.good{fill:var(--good);font-weight:650}text.bad{fill:var(--bad);font-weight:650}
rect.good{fill:var(--good)}rect.bad{fill:var(--bad)}rect.none{fill:var(--line)}
.grid{stroke:var(--line)}.axis{stroke:var(--strong);fill:none}.floor{stroke:var(--quiet);stroke-width:2.5}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.m{fill:var(--c);stroke:var(--back);stroke-width:.75}.m.open{fill:none;stroke:var(--c);stroke-width:2}
.spread{stroke:var(--c);stroke-width:3;opacity:.55}
"""


def overview(results: Results) -> str:
    """The picture; the same bytes for the same results."""
    left, height = _laws(results)
    right, other = _speed(results)
    height = max(height, other) + 14
    parts = [
        f"<style>{escape(STYLE.strip())}</style>",
        svg.tag("rect", width="100%", height="100%", fill="var(--back)"),
        *left,
        *right,
    ]
    picture = svg.tag(
        "svg",
        "\n".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {svg.n(WIDTH)} {svg.n(height)}",
        width=svg.n(WIDTH),
        role="img",
        aria_label=_said(results),
    )
    return picture + "\n"


def _said(results: Results) -> str:
    """The picture in words, for those who do not see it."""
    parts = [f"{one['kernel']} {one['words']}" for one in tables.verdicts(results.laws)]
    faulty = kill.killed(results.kills).summary()
    if faulty["of"]:
        parts.append(f"{faulty['killed']} of {faulty['of']} faulty kernels falsified")
    if not results.bench.empty:
        parts.append(timing.sentence(timing.rows(results.bench)).rstrip("."))
    return ". ".join(parts) + "."


def _laws(results: Results) -> tuple[list[str], float]:
    """A bar for each kernel: laws that hold, are broken, did not run."""
    parts, y = [svg.words(16, 28, "Laws", class_="head")], 36.0
    for one in tables.verdicts(results.laws):
        counts = [("good", one["pass"]), ("bad", one["falsified"]), ("none", one["unsupported"] + one["not run"])]
        total, x = sum(count for _, count in counts) or 1, 16.0
        tone = {"FALSIFIED": "bad", "holds": "good"}.get(one["verdict"], "quiet")
        glyph = {"FALSIFIED": "✗ ", "holds": "✓ "}.get(one["verdict"], "– ")
        words = glyph + one["words"].split(";")[0]
        parts.append(svg.words(16, y + 16, one["kernel"]))
        if len(one["kernel"]) + len(words) > LINE:
            y += 16
        parts.append(svg.words(400, y + 16, words, "end", tone))
        for class_, count in counts:
            width = 384.0 * count / total
            if count:
                parts.append(svg.tag("rect", x=x, y=y + 22, width=width, height=7, class_=class_))
            x += width
        y += 38
    found = kill.killed(results.kills)
    faulty = found.summary()
    if found.faults:
        tone = "bad" if found.survivors else "good"
        parts.append(svg.words(16, y + 16, "re-created bugs that the suite falsifies"))
        parts.append(svg.words(400, y + 16, f"{faulty['killed']} of {faulty['of']}", "end", tone))
        y += 22
    if found.honest:
        parts.append(svg.words(16, y + 16, f"accusations in {faulty['runs']} runs of honest kernels"))
        tone = "bad" if faulty["accusations"] else "good"
        parts.append(svg.words(400, y + 16, str(faulty["accusations"]), "end", tone))
        y += 22
    return parts, y


def _speed(results: Results) -> tuple[list[str], float]:
    """Medians of the first workloads on one device, a GPU if one was used, with floor and quartiles."""
    lines = [line for line in timing.rows(results.bench) if line["status"] == "ok" and line["median_ms"]]
    lines = [line for line in lines if line["device"] == "cuda"] or lines
    if not lines:
        return [svg.words(440, 28, "Speed", class_="head"), svg.words(440, 52, "not run", class_="quiet")], 52.0
    device = lines[0]["device_name"] or lines[0]["device"]
    by: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if (line["device_name"] or line["device"]) == device:
            by.setdefault(f"{line['workload']}, {line['mode']}", []).append(line)
    by = dict(list(by.items())[:ROWS])
    number = timing.series([line for part in by.values() for line in part])
    rows = [
        (name, [Dot(number[o["label"]], o["median_ms"], "", o["q25_ms"], o["q75_ms"]) for o in part])
        for name, part in by.items()
    ]
    floors = [next((o["floor_ms"] for o in part if o["floor_ms"]), None) for part in by.values()]
    title = f"Speed on {device}"
    plot = dots(title, rows, "median, ms; bar: quartiles; tick: floor", budget=None, floors=floors)
    parts = [svg.words(440, 28, title, class_="head")]
    y = 46.0
    for label, i in number.items():
        parts += [svg.mark(i, 446, y - 4, ""), svg.words(458, y, label.removesuffix(f" ({device})"))]
        y += 18
    height = _height(plot) * 384 / 360
    box = plot.replace(
        "<svg ", f'<svg x="440" y="{svg.n(y - 8)}" width="384" height="{svg.n(height)}" overflow="visible" ', 1
    )
    return [*parts, box], y + height


def _height(plot: str) -> float:
    return float(plot.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1])
