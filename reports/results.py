"""One loader for the result files of all runs: JSON lines into tidy pandas tables."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

SCHEMA = 1
FALSIFIED = ("falsified", "crash", "timeout", "non-finite", "mutated-input", "nondeterministic")


class ReportError(Exception):
    """Nothing could be read; the message says what was expected and what came."""


@dataclass
class Results:
    """Everything that was read.

    `laws` has one row per (run, kernel, law): kernel, law, family, sentence, equation, status, tried, refused,
    informative (counts), worst (budget units), case, replay, message, where, coverage, units_by_regime, seconds,
    device, profile and the run's id. `runs` has one row per run: command, started, device_name, versions. `warnings`
    says what could not be read.
    """

    runs: pd.DataFrame
    laws: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


def load(paths: Iterable[Path]) -> Results:
    """Read result files, and `results.jsonl` in folders.

    Raises:
        ReportError: where not one law's result could be read.
    """
    runs: list[dict[str, Any]] = []
    laws: list[dict[str, Any]] = []
    warnings: list[str] = []
    for path in paths:
        for file in _files(Path(path), warnings):
            run = ""
            for line in _lines(file, warnings):
                if line.get("kind") == "run":
                    run = str(line["run"])
                    runs.append(line)
                elif line.get("kind") == "law":
                    laws.append({**line, "run": run, "file": file.as_posix()})
                else:
                    warnings.append(f"{file}: a line of unknown kind {line.get('kind')!r} was left out")
    if not laws:
        raise ReportError(
            "RESULTS: expected folders or files written by `kda check`; " + ("; ".join(warnings) or "none given")
        )
    return Results(pd.DataFrame(runs), _last_of_each(pd.DataFrame(laws)), warnings)


def _files(path: Path, warnings: list[str]) -> list[Path]:
    if path.is_dir():
        found = sorted(path.rglob("results.jsonl"))
        if not found:
            warnings.append(f"{path}: the folder holds no results.jsonl")
        return found
    if not path.is_file():
        warnings.append(f"{path}: no such file or folder")
        return []
    return [path]


def _lines(file: Path, warnings: list[str]) -> list[dict[str, Any]]:
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            warnings.append(f"{file}: line {number} is cut off or is no JSON and was left out")
            continue
        if not isinstance(line, dict) or line.get("schema") != SCHEMA:
            schema = line.get("schema") if isinstance(line, dict) else None
            warnings.append(f"{file}: line {number} has schema {schema!r}, expected {SCHEMA}, and was left out")
            continue
        lines.append(line)
    return lines


def _last_of_each(laws: pd.DataFrame) -> pd.DataFrame:
    """The newest result of each kernel, law and device."""
    return laws.drop_duplicates(["kernel", "law", "device"], keep="last").reset_index(drop=True)
