"""Comparing two runs of `kda bench`: ratios of medians with their spread, from tables of result lines."""

from typing import Any

import numpy as np
import pandas as pd

KEY = ["kernel", "workload", "mode", "device"]
COLUMNS = [*KEY, "median_ms", "base_ms", "ratio", "low", "high", "verdict", "reason"]
RESAMPLES = 2000
# What a ratio of two runs may differ from 1 without being called a change: clocks, memory layout and neighbours differ
# from run to run by more than the rounds of one run show.
TOLERANCE = {"cuda": 0.05, "cpu": 0.15}


def compare(new: pd.DataFrame, base: pd.DataFrame, *, tolerance: float | None = None, seed: int = 0) -> pd.DataFrame:
    """Every kernel, workload, mode and device of the new run against the base.

    Args:
        new: rows as `kda bench` writes them (columns kernel, workload, mode, device, case, status, reason,
            times_ms; device_name and ceilings of the run, where both have them).
        base: the rows compared with, likewise; of repeated ones the last counts.
        tolerance: relative change that is no change; by default 0.05 on a GPU and 0.15 on a CPU.
        seed: of the bootstrap.

    Returns:
        One row for each: `median_ms` and `base_ms`, `ratio` (above 1 is slower) with its 95 % interval `low`, `high`
        over resampled rounds, a verdict and its reason. Verdicts: "regression" (the whole interval lies above
        1 + tolerance), "improvement", "no change", "cannot tell" (the interval reaches beyond the tolerance or is
        wider than the change, or the device itself was slower or faster), "broken" (ok in the base, not any
        more), "not comparable".
    """
    rows = []
    before = {tuple(row[name] for name in KEY): row for row in base.to_dict("records")}
    now = {tuple(row[name] for name in KEY): row for row in new.to_dict("records")}
    for key, row in now.items():
        old = before.get(key)
        allowed = TOLERANCE.get(row["device"], 0.05) if tolerance is None else tolerance
        rows.append(dict(zip(KEY, key, strict=True)) | _one(row, old, allowed, seed))
    return pd.DataFrame(rows, columns=COLUMNS)


def _one(row: dict[str, Any], old: dict[str, Any] | None, tolerance: float, seed: int) -> dict[str, Any]:
    if old is None:
        return {"verdict": "not comparable", "reason": "the base did not time it"}
    if old["case"] != row["case"]:
        return {"verdict": "not comparable", "reason": f"the base timed another case: {old['case']}"}
    if old.get("device_name") != row.get("device_name"):
        return {"verdict": "not comparable", "reason": f"the base was timed on another device: {old['device_name']}"}
    if old["status"] != "ok":
        return {"verdict": "not comparable", "reason": f"{old['status']} in the base"}
    if row["status"] != "ok":
        broken = "not comparable" if row["status"] in ("not-run", "unsupported") else "broken"
        return {"verdict": broken, "reason": f"{row['status']}: {row['reason']}"}
    ratio, low, high = ratio_of_medians(row["times_ms"], old["times_ms"], seed)
    medians = {"median_ms": float(np.median(row["times_ms"])), "base_ms": float(np.median(old["times_ms"]))}
    slower, faster = drift(row.get("ceilings"), old.get("ceilings"))
    told = verdict(low / slower, high / faster, tolerance)
    reason = None
    if told == "cannot tell" and verdict(low, high, tolerance) in ("regression", "improvement"):
        reason = f"the device itself was measured {slower if slower > 1 else 1 / faster:.2f} times " + (
            "slower" if slower > 1 else "faster"
        )
    if told in ("regression", "improvement") and np.log(high / low) > abs(np.log(ratio)):
        # Rounds disturbed by other work come in bursts, and the interval is then too narrow.
        told, reason = "cannot tell", f"the interval spans a factor of {high / low:.2f}, more than the change itself"
    return medians | {"ratio": ratio, "low": low, "high": high, "verdict": told, "reason": reason}


def drift(new: Any, base: Any) -> tuple[float, float]:
    """How much longer the device itself took in the new run for a copy or a product: (at least 1, at most 1)."""
    if not isinstance(new, dict) or not isinstance(base, dict):
        return 1.0, 1.0
    ratios = [base[name] / new[name] for name in ("bytes_per_s", "flops_per_s")]
    return max(1.0, *ratios), min(1.0, *ratios)


def ratio_of_medians(new: list[float], base: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of two medians and its 95 % interval; the rounds of either run are resampled on their own."""
    random = np.random.default_rng(seed)
    a, b = np.asarray(new, float), np.asarray(base, float)
    spread = np.median(a[random.integers(0, len(a), (RESAMPLES, len(a)))], axis=1)
    spread = spread / np.median(b[random.integers(0, len(b), (RESAMPLES, len(b)))], axis=1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(np.median(a) / np.median(b)), float(low), float(high)


def verdict(low: float, high: float, tolerance: float) -> str:
    """What an interval of ratios says at a tolerance."""
    if low > 1 + tolerance:
        return "regression"
    if high < 1 / (1 + tolerance):
        return "improvement"
    return "no change" if high <= 1 + tolerance and low >= 1 / (1 + tolerance) else "cannot tell"
