"""What the cells of the page open: facts as terms and texts, in compact JSON that the page's script reads."""

import json
from typing import Any

from markupsafe import Markup

from reports import kill, tables
from reports.results import Results
from reports.tables import units, words

# Terms of the evidence; the page shows those of CODE as code and those of COPY with a button that copies them.
CODE, COPY = ("Counterexample", "Worst case", "Case", "Calls before"), ("Replay",)
LONGEST = 600  # characters of a message; the counterexample's card has all of it


def evidence(results: Results, lines: list[dict[str, Any]], labels: list[str], passing: bool) -> Markup:
    """The JSON of the page: for each law its sentence, equation and the facts of each kernel, and the faults.

    Args:
        results: for the faults.
        lines: records of the laws.
        labels: kernels in the order of the matrix' columns.
        passing: whether cells that pass have facts, too.
    """
    terms: dict[str, int] = {}
    laws: dict[str, Any] = {}
    for line in lines:
        law = laws.setdefault(line["law"], [line["sentence"] or "", line["equation"] or "", [0] * len(labels)])
        if passing or line["status"] != "pass":
            law[2][labels.index(line["label"])] = _coded(_facts(line), terms)
    faults = {fault["kernel"]: _coded(_fault(fault), terms) for fault in kill.killed(results.kills).faults}
    data = {"laws": laws, "faults": faults, "terms": list(terms), "code": CODE, "copy": COPY}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # In a script element only "<" could end it or open another one.
    return Markup(text.replace("<", "\\u003c"))


def _coded(facts: list[tuple[str, str | None]], terms: dict[str, int]) -> list[Any]:
    """Number of the term and text, by turns."""
    return [x for term, text in facts if text for x in (terms.setdefault(term, len(terms)), text)]


def _facts(line: dict[str, Any]) -> list[tuple[str, str | None]]:
    counts = f"{line['tried'] or 0} tried, {line['refused'] or 0} refused, {line['informative'] or 0} informative"
    refusals = (line["coverage"] or {}).get("refusals")
    return [
        ("Status", tables.answer(line) if line["quality"] else line["status"]),
        ("Reason", line["reason"]),
        ("Examples", counts),
        ("Refused", "; ".join(sorted(refusals)[:3]) if isinstance(refusals, dict) else None),
        ("Worst error", f"{units(line['worst'])} budget units" if line["worst"] is not None else None),
        ("Calls before", "; ".join(map(str, line["before"] or []))),
        ("Counterexample" if line["case"] else "Worst case", line["case"] or line["worst_case"]),
        ("Found", (line["message"] or "")[:LONGEST]),
        ("Looks like", line["blame"]),
        ("Nature", line["nature"]),
        ("Place", ", ".join(f"{name} {x}" for name, x in (line["where"] or {}).items())),
        ("Does not matter", ", ".join(map(str, line["irrelevant"] or []))),
        ("Set by the law", ", ".join(map(str, line["set_by_law"] or []))),
        ("Replay", line["replay"]),
        ("Ran on", ", ".join(map(str, line["engine"] or []))),
        ("Time", f"{line['seconds'] or 0:.1f} s, profile {line['profile'] or 'unknown'}, seed {line['seed']}"),
    ]


def _fault(fault: dict[str, Any]) -> list[tuple[str, str | None]]:
    first = fault["first"]
    return [
        ("Fault", f"{fault['id']} {fault['family']}".strip()),
        ("What is wrong", fault["summary"]),
        ("Shows when", fault["trigger"]),
        ("Source", fault["source"]),
        ("Array library", fault["array"]),
        ("First falsified by", words(first["law"]) if first else fault["outcome"]),
        ("Until then", f"{kill.short(fault['until'])} over all laws tried" if first else None),
        ("Case", first["case"] if first else None),
        ("Found", (first["message"] or "")[:LONGEST] if first else None),
        ("Falsified by", f"{fault['kills']} of {fault['asked']} laws that were asked"),
    ]
