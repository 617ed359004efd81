"""Write the report: page, Markdown, JUnit XML, and tables as CSV and Parquet; the same bytes each time."""

import io
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from reports.columns import BENCH_COLUMNS, KILL_COLUMNS, LAW_COLUMNS, LIST, MAP, REGIME_COLUMNS, RUN_COLUMNS
from reports.page import page
from reports.results import Results, load
from reports.text import junit, markdown

EXPORTED = {
    "laws": ("laws", LAW_COLUMNS),
    "kill": ("kills", KILL_COLUMNS),
    "bench": ("bench", BENCH_COLUMNS),
    "regimes": ("regimes", REGIME_COLUMNS),
    "runs": ("runs", RUN_COLUMNS),
}


def build(paths: Iterable[Path], out: Path) -> list[Path]:
    """Read results and write the report into a folder; returns the files written, the page first."""
    return write(load(paths), out)


def write(results: Results, out: Path) -> list[Path]:
    """Write the report of loaded results into a folder; returns the files written, the page first."""
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {
        "index.html": page(results).encode(),
        "report.md": markdown(results).encode(),
        "junit.xml": junit(results).encode(),
    }
    for name, (attribute, columns) in EXPORTED.items():
        flat = flattened(getattr(results, attribute), columns)
        if flat.empty:
            continue
        files[f"{name}.csv"] = flat.to_csv(index=False, lineterminator="\n").encode()
        if find_spec("pyarrow"):
            buffer = io.BytesIO()
            flat.to_parquet(buffer, index=False)
            files[f"{name}.parquet"] = buffer.getvalue()
    for name, data in files.items():
        (out / name).write_bytes(data)
    return [out / name for name in files]


def flattened(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """The table with lists and maps as JSON text, so that CSV and Parquet hold the same."""
    nested = {name: frame[name].map(_json).astype(object) for name, kind in columns.items() if kind in (LIST, MAP)}
    text = {name: frame[name].astype("string") for name, kind in columns.items() if kind == "text"}
    return frame.assign(**text, **{name: column.astype("string") for name, column in nested.items()})[list(columns)]


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)
