"""The report as Markdown for a pull request, and as JUnit XML."""

from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from reports import kill, tables, timing
from reports.results import FALSIFIED, Results, records
from reports.tables import three, units, words

LIMIT = 58_000  # a comment on a pull request takes 65,536 characters
WHOLE = 5  # counterexamples of a kernel with their replay command; the others are named


def markdown(results: Results) -> str:
    """A summary, the verdict first; sections that would go past the limit are named instead."""
    sections = [
        ("verdict", _verdict(results)),
        ("counterexamples", _counterexamples(results)),
        ("faulty kernels", _kills(results)),
        ("speed", _speed(results)),
        ("not run", _absent(results)),
        ("every law", _matrix(results)),
        ("environment", _environment(results)),
    ]
    text, left_out = "", []
    for name, section in sections:
        if len(text) + len(section) < LIMIT:
            text += section
        else:
            left_out.append(name)
    return text + (f"\nToo long for this summary, see the page: {', '.join(left_out)}.\n" if left_out else "")


def _verdict(results: Results) -> str:
    found = tables.verdicts(results.laws)
    broken = sum(one["verdict"] == "FALSIFIED" for one in found)
    head = f"{broken} of {len(found)} kernels falsified" if found else "no kernel was verified"
    parts = [f"# KDA verification: {head}", ""]
    if found:
        columns = ["kernel", "verdict", "what the laws say", "informative", "worst (units)", "seconds"]
        rows = [[o["kernel"], o["verdict"], o["words"], o["informative"], *_numbers(o)] for o in found]
        parts += [_table(columns, rows), ""]
        parts += [f"- {o['kernel']}: {name}: {answer}" for o in found for name, answer in o["qualities"]]
    parts += [f"- {sentence}" for sentence in tables.missing_kinds(results)]
    parts += [f"- Reading the results: {warning}" for warning in results.warnings]
    return "\n".join(parts) + "\n"


def _numbers(one: dict[str, Any]) -> list[str]:
    return [units(one["worst (units)"]), f"{one['seconds']:.1f}"]


def _counterexamples(results: Results) -> str:
    parts: list[str] = []
    for label, part in results.laws.groupby("label", sort=True):
        broken = [line for line in records(part) if line["status"] in FALSIFIED and not line["quality"]]
        for line in broken[:WHOLE]:
            blame = f" Looks like: {line['blame']}." if line["blame"] else ""
            law = f"*{words(line['law'])}* ({line['status']})"
            after = f" after {_code('; '.join(line['before']))}" if line["before"] else ""
            parts += ["", f"**{label}** breaks {law}: {_code(line['case'])}{after}.{blame}"]
            parts += ["", f"    {line['replay']}"] if line["replay"] else []
        if broken[WHOLE:]:
            names = [words(line["law"]) for line in broken[WHOLE:]]
            parts += ["", f"**{label}** also breaks: {tables.listed(names, 30)}."]
    return "\n## Counterexamples\n" + "\n".join(parts) + "\n" if parts else ""


def _kills(results: Results) -> str:
    found = kill.killed(results.kills)
    if not (found.faults or found.honest):
        return ""
    s = found.summary()
    parts = ["", "## Faulty kernels", ""]
    if found.faults:
        parts.append(f"- {s['killed']} of {s['of']} falsified")
        if s["median"] is not None:
            slowest = ", ".join(f"{name} {kill.short(until)}" for name, until in s["slowest"])
            parts.append(f"- until the first falsification: median {kill.short(s['median'])}; slowest: {slowest}")
        parts.append(f"- survived: {', '.join(s['survivors']) or 'none'}")
        parts += [f"- not run: {', '.join(s['not_run'])}"] if s["not_run"] else []
        parts.append(f"- laws that were asked and falsified none: {', '.join(map(words, s['idle'])) or 'none'}")
        parts += [f"- laws not run here: {', '.join(map(words, s['unable']))}"] if s["unable"] else []
    if found.honest:
        parts.append(f"- honest kernels: {s['honest']}, {s['runs']} runs, {s['accusations']} accusations")
        parts.append(f"- {s['seeds']}")
    if found.laws:
        columns = ["law", "asked about", "falsified", "came first"]
        rows = [[words(x["law"]), *(str(x[key]) for key in ("asked", "kills", "firsts"))] for x in found.laws]
        parts += ["", _table(columns, rows)]
    return "\n".join(parts) + "\n"


def _speed(results: Results) -> str:
    lines = timing.rows(results.bench)
    if not lines:
        return ""
    rows = [_timed(line) for line in lines[:120]]
    columns = ["workload", "kernel", "mode", "status", "median (quartiles), ms", "of floor", "speed-up", "error, units"]
    more = "" if len(lines) <= 120 else f"\n{len(lines) - 120} more rows are in bench.csv.\n"
    return f"\n## Speed\n\n{timing.sentence(lines)}\n\n{_table(columns, rows)}\n{more}"


def _timed(o: dict[str, Any]) -> list[str]:
    median = "" if o["median_ms"] is None else f"{three(o['median_ms'])} ({_span(o['q25_ms'], o['q75_ms'])})"
    floor = "" if o["of_floor"] is None else f"{three(100 * o['of_floor'])} %"
    spread = _span(o["speedup_low"], o["speedup_high"])
    ratio = "" if o["speedup"] is None else f"{three(o['speedup'])} ({spread}) × {o['baseline']}"
    return [o["workload"], o["label"], o["mode"], o["status"], median, floor, ratio, units(o["units"])]


def _absent(results: Results) -> str:
    found = [
        f"- {one['kernel']}, {one['status']}: {one['reason']} ({tables.listed(one['what'], 3)})"
        for one in tables.absent(results)
    ]
    return "\n## Not run, not supported\n\n" + "\n".join(found) + "\n" if found else ""


def _matrix(results: Results) -> str:
    if results.laws.empty:
        return ""
    table = tables.matrix(results.laws)
    body = _table(list(table.columns), table.itertuples(index=False))
    return f"\n<details><summary>Every law</summary>\n\n{body}\n\n</details>\n"


def _environment(results: Results) -> str:
    runs = [
        f"- `{run['command']}`, {run['started']}, {run['device_name'] or run['device']}, "
        + ", ".join(f"{name} {x}" for name, x in (run["versions"] or {}).items())
        for run in records(results.runs)
    ]
    return "\n## Environment\n\n" + "\n".join(runs) + "\n" if runs else ""


def _span(low: float | None, high: float | None) -> str:
    return "spread unknown" if low is None or high is None else f"{three(low)}–{three(high)}"


def _code(text: Any) -> str:
    return f"`{str(text).replace('`', chr(39))}`"


def _table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    def row(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(x).replace("|", "\\|").replace("\n", " ") for x in cells) + " |"

    columns = list(columns)
    return "\n".join([row(columns), row(["---"] * len(columns)), *map(row, rows)])


def junit(results: Results) -> str:
    """JUnit XML: a case per law, faulty or honest kernel and timed row; what did not run is skipped, not passed."""
    suite = ElementTree.Element("testsuite", name="kda")
    for line in records(results.laws):
        broken = line["status"] in FALSIFIED and not line["quality"]
        skipped = line["status"] in tables.ABSENT or (line["status"] in FALSIFIED and line["quality"])
        why = f"{line['status']}: {line['case'] if broken else line['reason'] or tables.answer(line)}"
        _case(suite, line["label"], line["law"], line["seconds"], broken and why, skipped and why, line["message"])
    found = kill.killed(results.kills)
    for fault in found.faults:
        wrong = fault["outcome"] == "survived" and "survived: no law falsified it"
        skipped = fault["outcome"] == "not run" and f"not run: {fault['reason']}"
        _case(suite, "faulty kernels", fault["kernel"], fault["until"], wrong, skipped, fault["summary"])
    for one in found.honest:
        wrong = bool(one["accusations"]) and f"accused by {', '.join(x['law'] for x in one['accusations'])}"
        _case(suite, "honest kernels", one["kernel"], 0.0, wrong, False, None)
    for line in records(results.bench):
        absent = line["status"] in tables.ABSENT
        wrong, why = line["status"] != "ok" and not absent, f"{line['status']}: {line['reason']}"
        name = f"{line['workload']} {line['mode']}"
        _case(suite, f"timing of {line['label']}", name, line["seconds"], wrong and why, absent and why, line["reason"])
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def _case(suite: Any, group: str, name: str, seconds: Any, failed: Any, skipped: Any, text: Any) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time=f"{seconds or 0:.3f}")
    if failed:
        ElementTree.SubElement(case, "failure", message=_clean(failed)).text = _clean(text or failed)
    elif skipped:
        ElementTree.SubElement(case, "skipped", message=_clean(skipped))


def _clean(text: Any) -> str:
    """Without the control characters that XML forbids."""
    return "".join(x for x in str(text) if x >= " " or x in "\n\t")
