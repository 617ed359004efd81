"""Tables about the laws: the verdict on each kernel, the matrix, qualities, regimes, what was not run."""

from typing import Any

import pandas as pd

from reports.results import FALSIFIED, Results, records

ABSENT = ("unsupported", "not-run")
SHOWN = 5  # names listed before "and n more"


def words(law: str) -> str:
    """A law's name as words."""
    return law.replace("_", " ")


def listed(names: list[str], shown: int = SHOWN) -> str:
    """A few names and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def verdict(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the laws say of one kernel: FALSIFIED, holds, unusable or not run, and why in words; qualities apart."""
    laws = [line for line in lines if not line["quality"]]
    broken = [line for line in laws if line["status"] in FALSIFIED]
    passed = [line for line in laws if line["status"] == "pass"]
    absent = {status: [line for line in laws if line["status"] == status] for status in ABSENT}
    away = ", ".join(f"{len(found)} {status}" for status, found in absent.items() if found)
    if broken:
        name, text = "FALSIFIED", f"breaks {len(broken)} of {len(laws)} laws"
    elif passed:
        name = "holds"
        text = f"holds all {len(laws)} laws" if not away else f"holds the {len(passed)} laws of {len(laws)} that ran"
    else:
        name = "unusable" if absent["unsupported"] else "not run"
        text = "refused every call" if name == "unusable" else "no law was run"
    known = [line["worst"] for line in passed if line["worst"] is not None]
    return {
        "kernel": lines[0]["label"],
        "verdict": name,
        "words": text + (f"; {away}" if away else ""),
        "broken": [words(line["law"]) for line in broken],
        "pass": len(passed),
        "falsified": len(broken),
        "unsupported": len(absent["unsupported"]),
        "not run": len(absent["not-run"]),
        "informative": sum(line["informative"] or 0 for line in lines),
        "worst (units)": max(known, default=None),
        "seconds": sum(line["seconds"] or 0.0 for line in lines),
        "qualities": sorted((words(line["law"]), answer(line)) for line in lines if line["quality"]),
    }


def answer(line: dict[str, Any]) -> str:
    """A quality's status as yes or no."""
    if line["status"] in ABSENT:
        return line["status"]
    return "yes" if line["status"] == "pass" else "no" if line["status"] == "falsified" else f"no ({line['status']})"


def verdicts(laws: pd.DataFrame) -> list[dict[str, Any]]:
    """One verdict for each kernel: falsified ones first, else in alphabetical order."""
    found = [verdict(records(part)) for _, part in laws.groupby("label", sort=True)]
    return sorted(found, key=lambda one: one["verdict"] != "FALSIFIED")


def units(x: float | None) -> str:
    """An error in budget units, short."""
    if x is None or x != x:
        return ""
    return "> 1e9" if x > 1e9 else f"{x:.2g}" if x < 99.5 else f"{x:.0f}" if x < 1e5 else f"{x:.0e}"


def three(x: float | None) -> str:
    """A number with three digits, or all before the point; nothing for an unknown one."""
    return "" if x is None else f"{x:.3g}" if abs(x) < 999.5 else f"{x:.0f}"


def cell(line: dict[str, Any] | None) -> dict[str, str]:
    """One cell of the matrix: what class it has, its glyph and its words."""
    if line is None:
        return {"tone": "none", "glyph": "·", "text": "not-run", "sort": "3"}
    status, worst = line["status"], line["worst"]
    if status in ABSENT:
        glyph = "–" if status == "unsupported" else "·"
        return {"tone": "none", "glyph": glyph, "text": status, "sort": "2" if status == "unsupported" else "3"}
    if line["quality"]:
        glyph, tone = ("✓", "good") if status == "pass" else ("○", "plain")
        return {"tone": tone, "glyph": glyph, "text": answer(line), "sort": "1"}
    more = f" {units(worst)}" if worst else ""
    if status == "pass":
        return {"tone": "good", "glyph": "✓", "text": f"pass{more}", "sort": f"4 {1 - min(worst or 0.0, 1.0):.4f}"}
    return {"tone": "bad", "glyph": "✗", "text": f"{status}{more}", "sort": f"0{status}"}


def matrix(laws: pd.DataFrame) -> pd.DataFrame:
    """Law by kernel: glyph, status and worst error in units."""
    if laws.empty:
        return pd.DataFrame(columns=["law"])
    cells = [cell(line) for line in records(laws)]
    table = laws.assign(cell=[f"{one['glyph']} {one['text']}" for one in cells])
    order = list(dict.fromkeys(table["law"]))
    return table.pivot(index="law", columns="label", values="cell").reindex(order).fillna("· not-run").reset_index()


def grid(frame: pd.DataFrame, value: str) -> dict[tuple[str, str], dict[str, float]]:
    """The largest (units) or the sum (examples) of `value` by (field, regime) and kernel."""
    known = frame.dropna(subset=[value])
    parts = known.groupby(["field", "value", "label"], sort=True)[value]
    table: dict[tuple[str, str], dict[str, float]] = {}
    for (field, regime, label), x in (parts.max() if value == "units" else parts.sum()).items():
        table.setdefault((field, regime), {})[label] = float(x)
    return table


def oracle_units(results: Results) -> dict[tuple[str, str], dict[str, float]]:
    """Worst error of each regime and kernel in budget units, over the laws against the oracle."""
    part = results.regimes[results.regimes["family"].isin(["oracle", "gradient"])]
    return grid(part, "units")


def absent(results: Results) -> list[dict[str, Any]]:
    """What was not run or not supported: kernel, status, reason and the names it concerns."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in records(results.laws):
        if line["status"] in ABSENT:
            key = (line["label"], line["status"], line["reason"] or "no reason was given")
            found.setdefault(key, []).append(words(line["law"]))
    for line in records(results.bench):
        if line["status"] in ABSENT:
            key = (line["label"], line["status"], line["reason"] or "no reason was given")
            found.setdefault(key, []).append(f"timing of {line['workload']}, {line['mode']}")
    return [
        {"kernel": kernel, "status": status, "reason": reason, "what": what}
        for (kernel, status, reason), what in found.items()
    ]


def missing_kinds(results: Results) -> list[str]:
    """Sentences about kinds of results that none of the files holds."""
    kinds = (
        (results.laws, "No kernel was verified here: no result of `kda check` was given."),
        (results.kills, "The suite was not tried on faulty kernels here: no kill matrix was given."),
        (results.bench, "Nothing was timed here: no result of `kda bench` was given."),
    )
    sentences = [sentence for frame, sentence in kinds if frame.empty]
    devices = {*results.laws["device"], *results.bench["device"]}
    ran = results.laws[results.laws["status"] != "not-run"]
    if devices and "cuda" not in {*ran["device"], *results.bench.loc[results.bench["status"] == "ok", "device"]}:
        sentences.append("Nothing ran on a GPU.")
    return sentences
