"""Write the report: index.html, report.md, report.csv and junit.xml, the same bytes for the same results."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import pandas as pd

from reports import tables
from reports.results import FALSIFIED, Results, load
from reports.update import picture

CSV_COLUMNS = [
    "kernel",
    "device",
    "law",
    "family",
    "status",
    "tried",
    "refused",
    "informative",
    "worst",
    "case",
    "reason",
    "replay",
    "profile",
    "seed",
    "seconds",
]


def build(paths: Iterable[Path], out: Path) -> list[Path]:
    """Read results and write the report into a folder; returns the files written."""
    results = load(paths)
    out.mkdir(parents=True, exist_ok=True)
    texts = {"index.html": page(results), "report.md": markdown(results), "junit.xml": junit(results)}
    texts["report.csv"] = results.laws.reindex(columns=CSV_COLUMNS).to_csv(index=False, lineterminator="\n")
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def page(results: Results) -> str:
    """The self-contained page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    laws = results.laws
    names = tables.name_of(laws)
    evidence = {(name, row["law"]): row for name, row in zip(names, laws.to_dict("records"), strict=True)}
    order = list(dict.fromkeys(laws["law"]))
    return environment.get_template("page.html").render(
        summary=tables.summary(laws),
        kernels=sorted(set(names)),
        laws=order,
        evidence=evidence,
        cell=tables.cell,
        sentences=dict(zip(laws["law"], laws["sentence"], strict=True)),
        falsified=FALSIFIED,
        broken=[(name, row) for (name, _), row in evidence.items() if row["status"] in FALSIFIED],
        absent=[(name, row) for (name, _), row in evidence.items() if row["status"] in ("unsupported", "not-run")],
        regimes=tables.regimes(laws),
        coverage=tables.coverage(laws),
        runs=results.runs.to_dict("records"),
        warnings=results.warnings,
        bars=bars,
        update=picture(),
    )


def bars(units: list[float]) -> str:
    """The error of every token as a row of bars on a logarithmic scale; the line is the budget."""
    import math

    width = max(2.0, min(12.0, 700 / max(len(units), 1)))
    parts = []
    for n, x in enumerate(units):
        height = 8 * min(max(math.log10(max(x, 1e-4)) + 4, 0.1), 13)
        tone = "bad" if x > 1 else "good"
        parts.append(
            f'<rect class="{tone}" x="{n * width:.1f}" y="{110 - height:.1f}" width="{width - 0.5:.1f}" '
            f'height="{height:.1f}"><title>token {n}: {x:.3g} units</title></rect>'
        )
    total = len(units) * width
    line = f'<line x1="0" x2="{total:.0f}" y1="78" y2="78" stroke="currentColor" stroke-dasharray="4 3"/>'
    box = f'viewBox="0 0 {max(total, 60):.0f} 112" height="112"'
    return f'<svg role="img" aria-label="error by token" {box}>{"".join(parts)}{line}</svg>'


def markdown(results: Results) -> str:
    """A summary that fits a pull request."""
    parts = ["# KDA verification", "", _table(tables.summary(results.laws)), ""]
    for name, row in zip(tables.name_of(results.laws), results.laws.to_dict("records"), strict=True):
        if row["status"] in FALSIFIED:
            parts += [
                f"**{name}** breaks *{row['law']}* ({row['status']}): `{row['case']}`",
                "",
                f"    {row['replay']}",
                "",
            ]
    parts += [
        "<details><summary>Every law</summary>",
        "",
        _table(tables.matrix(results.laws).reset_index()),
        "",
        "</details>",
        "",
    ]
    parts += [f"- {warning}" for warning in results.warnings]
    return "\n".join(parts) + "\n"


def junit(results: Results) -> str:
    """JUnit XML: one case per kernel and law; what did not run is skipped, never passed."""
    laws = results.laws
    broken, absent = laws["status"].isin(FALSIFIED).sum(), laws["status"].isin(["unsupported", "not-run"]).sum()
    suite = ElementTree.Element(
        "testsuite", name="kda", tests=str(len(laws)), failures=str(broken), skipped=str(absent)
    )
    for name, row in zip(tables.name_of(laws), laws.to_dict("records"), strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=row["law"], time=str(row["seconds"]))
        if row["status"] in FALSIFIED:
            failure = ElementTree.SubElement(case, "failure", message=f"{row['status']}: {row['case']}")
            failure.text = str(row["message"])
        elif row["status"] != "pass":
            ElementTree.SubElement(case, "skipped", message=f"{row['status']}: {row['reason']}")
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def _table(frame: pd.DataFrame) -> str:
    def row(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(x).replace("|", "\\|") for x in cells) + " |"

    return "\n".join(
        [row(frame.columns), row(["---"] * len(frame.columns)), *(row(x) for x in frame.itertuples(index=False))]
    )
