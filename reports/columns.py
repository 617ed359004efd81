"""The columns of every table and what stands in them where an older result file lacks them (docs/results.md)."""

import math
from dataclasses import dataclass
from typing import Any

TEXT, NUMBER, COUNT, FLAG, LIST, MAP = "text", "number", "count", "flag", "list", "map"


@dataclass(frozen=True)
class Table:
    """One kind of result line as a table.

    Args:
        kind: the word in the line's field "kind".
        required: columns without which a line cannot be read.
        columns: name -> TEXT, NUMBER, COUNT, FLAG, LIST or MAP, in the order of the exported files.
        key: columns that say what was measured; of lines that agree in them the newest counts.
        since: columns added after schema 1 was first written; files without them are older, not broken.
    """

    kind: str
    required: tuple[str, ...]
    columns: dict[str, str]
    key: tuple[str, ...]
    since: tuple[str, ...] = ()


RUN_COLUMNS = {
    **{name: TEXT for name in ("run", "command", "started", "profile")},
    "seed": COUNT,
    "device": TEXT,
    "device_name": TEXT,
    "versions": MAP,
    "ceilings": MAP,
    "driver": TEXT,
    "clocks": MAP,
    "threads": COUNT,
    "cache_bytes": COUNT,
    "file": TEXT,
}

# Where a line was read, added by the loader: the run it belongs to, that run's device and the file.
ORIGIN = {"run": TEXT, "device_name": TEXT, "file": TEXT}

LAW_COLUMNS = {
    **{name: TEXT for name in ("label", "kernel", "device", "law", "family", "status")},
    **{name: COUNT for name in ("tried", "refused", "informative")},
    "worst": NUMBER,
    **{name: TEXT for name in ("case", "worst_case", "reason", "message", "blame", "nature", "replay", "script")},
    "quality": FLAG,
    "seconds": NUMBER,
    "seconds_to_failure": NUMBER,
    "seed": COUNT,
    "profile": TEXT,
    "sentence": TEXT,
    "equation": TEXT,
    "before": LIST,
    "irrelevant": LIST,
    "set_by_law": LIST,
    "where": MAP,
    "units_by_token": LIST,
    "engine": LIST,
    "coverage": MAP,
    "units_by_regime": MAP,
    **ORIGIN,
}

KILL_COLUMNS = {
    "kernel": TEXT,
    "honest": FLAG,
    "quality": FLAG,
    **{f"fault_{name}": TEXT for name in ("id", "family", "summary", "trigger", "source", "array")},
    **{name: TEXT for name in ("law", "family", "status")},
    "examples": COUNT,
    "drawn": FLAG,
    "seconds": NUMBER,
    "order": COUNT,
    "first": FLAG,
    "until": NUMBER,
    **{name: TEXT for name in ("case", "message")},
    "seed": COUNT,
    **ORIGIN,
}

BENCH_COLUMNS = {
    **{name: TEXT for name in ("label", "kernel", "workload", "mode", "device", "case")},
    **{name: COUNT for name in ("B", "T", "tokens", "sequences", "H", "HV", "K", "V")},
    **{name: TEXT for name in ("dtype", "status", "reason", "clock")},
    "rounds": COUNT,
    **{name: NUMBER for name in ("median_ms", "q25_ms", "q75_ms", "min_ms", "host_ms", "first_call_s")},
    "peak_bytes": COUNT,
    "floor_ms": NUMBER,
    "floor_by": TEXT,
    "of_floor": NUMBER,
    "units": NUMBER,
    "baseline": TEXT,
    **{name: NUMBER for name in ("ratio", "ratio_low", "ratio_high")},
    **{name: LIST for name in ("flags", "kernel_names", "times_ms")},
    "seed": COUNT,
    "seconds": NUMBER,
    **ORIGIN,
}

REGIME_COLUMNS = {
    **{name: TEXT for name in ("label", "kernel", "device", "law", "family", "field", "value")},
    "examples": COUNT,
    "units": NUMBER,
}

TABLES: dict[str, Table] = {
    "run": Table("run", ("run",), RUN_COLUMNS, ("run", "file")),
    "law": Table(
        "law",
        ("kernel", "law", "status"),
        LAW_COLUMNS,
        ("kernel", "device", "device_name", "law"),
        since=("quality", "blame", "nature"),
    ),
    "kill": Table("kill", ("kernel", "law", "status"), KILL_COLUMNS, ("kernel", "law", "honest", "seed")),
    "bench": Table(
        "bench",
        ("kernel", "workload", "mode", "status"),
        BENCH_COLUMNS,
        ("kernel", "workload", "mode", "device", "device_name", "case"),
    ),
}


def fits(value: Any, kind: str) -> bool:
    """Whether a value read from JSON may stand in a column of this kind; absent ones may."""
    if value is None:
        return True
    if kind in (NUMBER, COUNT):
        whole = kind == NUMBER or (isinstance(value, int | float) and math.isfinite(value))
        return whole and isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, {TEXT: str, FLAG: bool, LIST: list, MAP: dict}[kind])
