"""One loader for the result files of all runs: JSON lines into tidy pandas tables (docs/results.md)."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports.columns import COUNT, FLAG, NUMBER, REGIME_COLUMNS, TABLES, fits

SCHEMA = 1
FALSIFIED = ("falsified", "crash", "timeout", "non-finite", "mutated-input", "nondeterministic")
VOID = ("wrong", "implausible", "nondeterministic", "unsupported", "crash", "timeout", "not-run")
STATUSES = {"law": ("pass", *FALSIFIED, "unsupported", "not-run"), "bench": ("ok", *VOID)}
STATUSES["kill"] = STATUSES["law"]


class ReportError(Exception):
    """Nothing could be read; the message says what was expected and what came."""


@dataclass
class Results:
    """Everything that was read, one row per result line; docs/results.md tells every column and unit.

    `runs` has one row per run, `laws` one per (kernel, device, law), `kills` one per (faulty or honest kernel, law,
    seed), `bench` one per timed row, `regimes` one per (kernel, law, regime). `warnings` says what could not be read.
    """

    runs: pd.DataFrame
    laws: pd.DataFrame
    kills: pd.DataFrame
    bench: pd.DataFrame
    regimes: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


def load(paths: Iterable[Path]) -> Results:
    """Read result files, and every `results.jsonl` below folders.

    Raises:
        ReportError: where not one law, kill or bench line could be read.
    """
    warnings: list[str] = []
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    files = {file.resolve(): (file, shown) for path in paths for file, shown in _files(Path(path), warnings)}
    for file, shown in files.values():
        for kind, found in _read(file, shown, warnings).items():
            lines[kind] += found
    if not (lines["law"] or lines["kill"] or lines["bench"]):
        raise ReportError(
            "RESULTS: expected folders or files written by `kda check` or `kda bench`; "
            + ("; ".join(warnings) or "none given")
        )
    frames = {kind: _frame(kind, lines[kind]) for kind in TABLES}
    _label(frames["law"], frames["bench"])
    laws = frames["law"]
    return Results(frames["run"], laws, frames["kill"], frames["bench"], _regimes(laws), warnings)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, None where nothing is known."""
    whole = [name for name in frame.columns if str(frame[name].dtype) == "Int64"]
    rows = frame.astype({name: object for name in frame.columns}).to_dict("records")
    for row in rows:
        for name, value in row.items():
            if value is pd.NA or (isinstance(value, float) and value != value):
                row[name] = None
            elif name in whole and value is not None:
                row[name] = int(value)
    return rows


def _files(path: Path, warnings: list[str]) -> list[tuple[Path, str]]:
    """Each file with the name it is shown by, which does not depend on where the folder lies."""
    if path.is_dir():
        found = sorted(path.rglob("results.jsonl"))
        if not found:
            warnings.append(f"{path}: the folder holds no results.jsonl")
        return [(file, (Path(path.resolve().name) / file.relative_to(path)).as_posix()) for file in found]
    if not path.is_file():
        warnings.append(f"{path}: no such file or folder")
        return []
    return [(path, path.name)]


def _read(file: Path, shown: str, warnings: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The lines of one file by kind, each with the run it belongs to; what is wrong with it goes to the warnings."""
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    wrong: dict[str, list[int]] = defaultdict(list)
    older: set[str] = set()
    run: dict[str, Any] = {}
    for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not text.strip():
            continue
        line, fault = _parse(text)
        if line is None:
            wrong[fault].append(number)
            continue
        if line["kind"] == "run":
            run = line
        table = TABLES[line["kind"]]
        older |= {name for name in table.since if name not in line}
        origin = {"run": run.get("run", ""), "device_name": run.get("device_name"), "file": shown}
        lines[line["kind"]].append({**line, **origin, "started": run.get("started", "")})
    if older:
        warnings.append(f"{shown}: written by an older version, without {', '.join(sorted(older))}; shown as unknown")
    warnings += [f"{shown}: {_numbers(at)} {fault} left out" for fault, at in wrong.items()]
    if not lines and not wrong:
        warnings.append(f"{shown}: the file is empty")
    return lines


def _parse(text: str) -> tuple[dict[str, Any] | None, str]:
    """A line that can be shown, or None and what is wrong with it."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return None, "cut off or no JSON,"
    schema = line.get("schema") if isinstance(line, dict) else None
    if schema != SCHEMA:
        return None, f"of schema {schema!r} where this version reads {SCHEMA},"
    kind = line.get("kind")
    if kind not in TABLES:
        return None, f"of unknown kind {kind!r},"
    table = TABLES[kind]
    if kind == "kill":
        fault = line.get("fault")
        line |= {f"fault_{name}": value for name, value in (fault if isinstance(fault, dict) else {}).items()}
    if missing := [name for name in table.required if not isinstance(line.get(name), str)]:
        return None, f"of kind {kind!r} without {', '.join(missing)},"
    if odd := [name for name, what in table.columns.items() if not fits(line.get(name), what)]:
        return None, f"of kind {kind!r} whose {odd[0]} is no {table.columns[odd[0]]},"
    if kind in STATUSES and line["status"] not in STATUSES[kind]:
        return None, f"of kind {kind!r} with the unknown status {line['status']!r},"
    return line, ""


def _numbers(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"line {shown}" if len(numbers) == 1 else f"lines {shown}"


def _frame(kind: str, lines: list[dict[str, Any]]) -> pd.DataFrame:
    """A table with all its columns, the newest line of each key."""
    table = TABLES[kind]
    newest = sorted(lines, key=lambda line: str(line.get("started") or ""))
    found = {tuple(str(line.get(name)) for name in table.key): line for line in newest}
    order = {tuple(str(line.get(name)) for name in table.key): None for line in lines}
    rows = [found[key] for key in order]
    return pd.DataFrame(
        {name: _column([row.get(name) for row in rows], what) for name, what in table.columns.items()},
        columns=list(table.columns),
    )


def _column(values: list[Any], what: str) -> pd.Series:
    if what == NUMBER:
        return pd.Series([float("nan") if x is None else float(x) for x in values], dtype="float64")
    if what == COUNT:
        return pd.Series([None if x is None else round(x) for x in values], dtype="Int64")
    if what == FLAG:
        return pd.Series([bool(x) for x in values], dtype="bool")
    return pd.Series(values, dtype=object)


def _label(*frames: pd.DataFrame) -> None:
    """Name each kernel in `label`: with its device off the CPU, with the device's name where it ran on several."""
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    for frame in frames:
        frame["device"] = frame["device"].fillna("cpu").astype(object)
        for kernel, device, name in zip(frame["kernel"], frame["device"], frame["device_name"], strict=True):
            places[kernel, device].add(name or device)

    def label(kernel: str, device: str, name: str | None) -> str:
        if len(places[kernel, device]) > 1:
            return f"{kernel} ({name or device})"
        return kernel if device == "cpu" else f"{kernel} ({device})"

    for frame in frames:
        rows = zip(frame["kernel"], frame["device"], frame["device_name"], strict=True)
        frame["label"] = pd.Series([label(*row) for row in rows], dtype=object)


def _regimes(laws: pd.DataFrame) -> pd.DataFrame:
    """Informative examples and worst error of each kernel, law and regime."""
    rows = []
    for line in records(laws):
        units = {tuple(name.split("=", 1)): x for name, x in (line["units_by_regime"] or {}).items() if "=" in name}
        examples = {
            (name, value): count
            for name, by in (line["coverage"] or {}).items()
            if name != "refusals" and isinstance(by, dict)
            for value, count in by.items()
        }
        about = {name: line[name] for name in ("label", "kernel", "device", "law", "family")}
        for name, value in sorted({*units, *examples}):
            found = {"examples": examples.get((name, value)), "units": units.get((name, value))}
            rows.append({**about, "field": name, "value": value, **found})
    return pd.DataFrame(
        {name: _column([row[name] for row in rows], what) for name, what in REGIME_COLUMNS.items()},
        columns=list(REGIME_COLUMNS),
    )
