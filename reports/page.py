"""The self-contained page: what the templates show, prepared from the tables."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports import kill, tables, timing
from reports.evidence import evidence
from reports.plots import Dot, by_token, dots, key
from reports.results import FALSIFIED, Results, records
from reports.tables import units, words
from reports.update import picture

LIMIT = 980_000  # bytes
# Counterexamples shown whole and whether cells that pass open evidence: the first of these that keeps the limit.
FITS = ((60, True), (20, True), (20, False), (0, False))
LEAST = 1e-3  # budget units; errors below are drawn there
# Cells of the kill matrix in which no law falsified: a mark and a word.
SILENT = {"pass": "○ held", "unsupported": "– unsupported", "not-run": "– not run", "not asked": "· not asked"}
FIELDS = ("gate", "key", "beta", "state", "dtype")


def page(results: Results) -> str:
    """The page as one HTML file under LIMIT that asks for nothing; what does not fit is left to the tables."""
    template = _environment().get_template("page.html")
    lines = records(results.laws)
    fixed = {
        "verdicts": tables.verdicts(results.laws),
        "absent": tables.absent(results),
        "missing": tables.missing_kinds(results),
        "warnings": results.warnings,
        "runs": records(results.runs),
        "update": picture(),
        **_matrix(lines),
        **_kill(results),
        **_errors(results),
        **_bench(results),
    }
    for cards, passing in FITS:
        facts = evidence(results, lines, fixed["labels"], passing)
        text = template.render(**fixed, **_counterexamples(lines, cards), evidence=facts, passing=passing)
        if len(text.encode()) < LIMIT:
            break
    return text


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    own = (words, units, tables.listed, tables.three, kill.short)
    environment.filters |= {one.__name__: one for one in own} | {"breaks": _breaks}
    return environment


def _breaks(name: str) -> Markup:
    """A name that may go on in the next line after an underscore."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def _matrix(lines: list[dict[str, Any]]) -> dict[str, Any]:
    labels = sorted({line["label"] for line in lines})
    by = {(line["law"], line["label"]): line for line in lines}
    laws = {line["law"]: line for line in reversed(lines)}
    order = list(dict.fromkeys(line["law"] for line in lines))
    return {
        "labels": labels,
        "law_rows": [
            {
                "line": laws[law],
                "cells": [(by.get((law, label)), tables.cell(by.get((law, label)))) for label in labels],
                "statuses": "|".join(sorted({by[law, x]["status"] if (law, x) in by else "not-run" for x in labels})),
            }
            for law in order
        ],
        "families": sorted({line["family"] for line in lines if line["family"]}),
        "statuses": sorted({line["status"] for line in lines}),
    }


def _counterexamples(lines: list[dict[str, Any]], cards: int) -> dict[str, Any]:
    """Whole cards, shared out evenly among the kernels, and by kernel what is left over."""
    broken: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["status"] in FALSIFIED and not line["quality"]:
            broken.setdefault(line["label"], []).append(line)
    each = max(1, cards // max(len(broken), 1))
    return {
        "broken": {
            label: {
                "whole": [{**o, "plot": by_token(o["units_by_token"] or [])} for o in own[:each]],
                "rest": own[each:],
            }
            for label, own in sorted(broken.items())
        }
    }


def _kill(results: Results) -> dict[str, Any]:
    found = kill.killed(results.kills)
    for fault in found.faults:
        fault["row"] = [_kill_cell(fault, law["law"]) for law in found.laws]
    fault_families = sorted({fault["family"] for fault in found.faults if fault["family"]})
    return {"killed": found, "kill_summary": found.summary(), "fault_families": fault_families}


def _kill_cell(fault: dict[str, Any], law: str) -> dict[str, Any]:
    line = fault["cells"].get(law)
    if line is None or line["status"] not in FALSIFIED:
        return {"class": "", "text": SILENT["not asked" if line is None else line["status"]], "more": "", "sort": ""}
    first = fault["first"] is line
    return {
        "class": kill.heat(line["seconds"]) + (" first" if first else ""),
        "text": ("★ " if first else "✗ ") + kill.short(line["seconds"]),
        "more": f"{line['examples']} ex" if line["examples"] is not None else "",
        "sort": f"{line['seconds'] or 0.0:.3g}",
    }


def _errors(results: Results) -> dict[str, Any]:
    """Error by regime as plots and a table, and coverage as a heat table."""
    worst, examples = tables.oracle_units(results), tables.grid(results.regimes, "examples")
    number = {label: i for i, label in enumerate(sorted({label for by in worst.values() for label in by}))}
    fields = sorted({field for field, _ in worst}, key=_rank)
    # One scale for all fields; what is below a thousandth of the budget is shown there.
    scale = [min(max(x, LEAST), 1e9) for by in worst.values() for x in by.values()]
    return {
        "regime_plots": [(field, _regime_plot(field, worst, number, scale)) for field in fields],
        "regime_key": [(label, key(i)) for label, i in number.items()],
        "worst": worst,
        "worst_labels": list(number),
        "coverage": examples,
        "coverage_labels": sorted({label for by in examples.values() for label in by}),
        "coverage_heat": _coverage_heat,
    }


def _regime_plot(field: str, worst: dict[tuple[str, str], Any], number: dict[str, int], scale: list[float]) -> str:
    rows = [
        (value, [Dot(number[k], max(x, LEAST), f"{k}, {value}: {units(x)} units") for k, x in sorted(by.items())])
        for (other, value), by in worst.items()
        if other == field
    ]
    return dots(f"Worst error by {field}", rows, "worst error, budget units", over=scale)


def _rank(field: str) -> tuple[int, str]:
    return (FIELDS.index(field) if field in FIELDS else len(FIELDS), field)


def _coverage_heat(examples: int) -> str:
    return next((name for name, least in (("h1", 100), ("h2", 30), ("h3", 10), ("h4", 1)) if examples >= least), "none")


def _bench(results: Results) -> dict[str, Any]:
    lines = timing.rows(results.bench)
    number = timing.series(lines)
    return {
        "bench": lines,
        "bench_sentence": timing.sentence(lines),
        "bench_key": [(label, key(i)) for label, i in number.items()],
        "time_plots": timing.time_plots(lines, number),
        "ratio_plots": timing.ratio_plots(lines, number),
        "accuracy_plots": timing.accuracy_plots(lines, number),
    }
