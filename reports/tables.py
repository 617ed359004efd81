"""Tables of the report: the matrix, the summary of each kernel, regimes and coverage."""

import pandas as pd

from reports.results import FALSIFIED

GLYPHS = {"pass": "✓", "unsupported": "–", "not-run": "·"}
REGIMES = ("gate", "key", "beta", "state", "dtype")


def name_of(laws: pd.DataFrame) -> pd.Series:
    """Kernel and, off the CPU, its device."""
    return laws["kernel"] + laws["device"].map(lambda device: "" if device == "cpu" else f" ({device})")


def summary(laws: pd.DataFrame) -> pd.DataFrame:
    """One row per kernel: verdict, counts by status, informative examples, worst error in units."""
    rows = []
    for kernel, part in laws.groupby(name_of(laws), sort=True):
        broken = part["status"].isin(FALSIFIED)
        passed = part["status"] == "pass"
        verdict = "FALSIFIED" if broken.any() else "holds" if passed.any() else "not verified"
        rows.append(
            {
                "kernel": kernel,
                "verdict": verdict,
                "pass": int(passed.sum()),
                "falsified": int(broken.sum()),
                "unsupported": int((part["status"] == "unsupported").sum()),
                "not run": int((part["status"] == "not-run").sum()),
                "informative": int(part["informative"].sum()),
                "worst (units)": round(float(part.loc[passed, "worst"].max()), 3) if passed.any() else None,
                "seconds": round(float(part["seconds"].sum()), 1),
            }
        )
    return pd.DataFrame(rows)


def cell(status: str, worst: float | None) -> str:
    """Glyph and words of one cell; the worst error where there is one."""
    units = f" {worst:.2g}" if worst is not None and worst == worst and worst > 0 and status != "unsupported" else ""
    return f"{GLYPHS.get(status, '✗')} {status}{units}"


def matrix(laws: pd.DataFrame) -> pd.DataFrame:
    """Law by kernel: status and worst error in units."""
    table = laws.assign(
        name=name_of(laws), cell=[cell(s, w) for s, w in zip(laws["status"], laws["worst"], strict=True)]
    )
    order = list(dict.fromkeys(table["law"]))
    return table.pivot(index="law", columns="name", values="cell").reindex(order).fillna("· not-run")


def regimes(laws: pd.DataFrame) -> pd.DataFrame:
    """Worst error in units of each regime, over the laws against the oracle."""
    part = laws[laws["family"].isin(["oracle", "gradient"])]
    rows = [
        {"kernel": name, "regime": regime, "units": units}
        for name, by in zip(name_of(part), part["units_by_regime"], strict=True)
        for regime, units in by.items()
    ]
    if not rows:
        return pd.DataFrame(columns=["regime"])
    table = pd.DataFrame(rows).groupby(["regime", "kernel"])["units"].max().unstack()
    return table.round(3).reset_index()


def coverage(laws: pd.DataFrame) -> pd.DataFrame:
    """Informative examples of each regime and kernel, over all laws."""
    rows = [
        {"kernel": name, "regime": f"{field}={value}", "examples": count}
        for name, by in zip(name_of(laws), laws["coverage"], strict=True)
        for field in REGIMES
        for value, count in by.get(field, {}).items()
    ]
    if not rows:
        return pd.DataFrame(columns=["regime"])
    table = pd.DataFrame(rows).groupby(["regime", "kernel"])["examples"].sum().unstack(fill_value=0)
    return table.reset_index()
