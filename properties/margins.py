"""How far honest kernels stay below the budgets and faulty ones above: `python -m properties.margins --out DIR`.

Honest algorithms (`properties/honest.py`) and kernels that lose precision, one step after another, run on the same
random cases. DIR/margins.md and DIR/margins.json hold, of every dtype and quantity, the honest maximum, the constant,
and the weakest fault that the budget still finds; DIR/margins.svg shows both by regime. The seed decides everything
but the cases that a limit of time cuts off.
"""

import argparse
import importlib
import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from properties import honest
from properties.budgets import OUTPUT, STATE
from properties.fit import GRADIENTS, NOT_HELD, draw, fit, torch_runs
from properties.gradient_budgets import GRADIENT

QUANTITIES = ("o", "final_state", *GRADIENTS)
DTYPES = ("float32", "bfloat16", "float16")
# Mantissa bits that are left of the operands of one product. Float32 has 23, bfloat16 7 and float16 10 of them.
GRADES = {
    "float32": (21, 20, 19, 18, 17, 16, 15, 14, 12, 10),
    "bfloat16": (7, 6, 5, 4, 3, 2),
    "float16": (10, 9, 8, 7, 6, 5),
}
# Re-created bugs of precision, by the file that holds them.
RECREATED = {
    "exponents": ("half_precision_factors",),
    "conditioning": (
        "dg_as_total_minus_prefix",
        "coarse_running_sum",
        "exp_in_half_precision",
        "half_precision_state",
        "ten_bits_of_the_query",
    ),
}


class _Through(torch.autograd.Function):
    """A rounding that rounds the gradient alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rounding = rounding
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rounding(grad), None


def kept_in(rounding: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The rounding with a derivative."""
    return lambda x: _Through.apply(x, rounding)


def cut(bits: int, x: Tensor) -> Tensor:
    """The first `bits` explicit bits of the mantissa of float32 numbers; the others become 0."""
    return (x.contiguous().view(torch.int32) & -(1 << (23 - bits))).view(torch.float32)


def faults(dtype: str) -> dict[str, Callable[..., Any]]:
    """Kernels that lose precision somewhere, by name; nothing else is wrong with them."""
    chunk = partial(honest.chunked, chunk=16)
    found: dict[str, Callable[..., Any]] = {}
    for bits in GRADES[dtype]:
        found[f"read of {bits} bits"] = partial(chunk, reading=partial(cut, bits))
        found[f"write of {bits} bits"] = partial(chunk, writing=partial(cut, bits))
    for name, rounding in (("bfloat16", honest.bf16), ("float16", honest.fp16)):
        found[f"state in {name}"] = partial(chunk, storing=kept_in(rounding))
        found[f"decay in {name}"] = partial(chunk, decaying=kept_in(rounding))
    if dtype != "bfloat16":
        found["products in bfloat16"] = partial(chunk, solve="inverse", rounding=honest.bf16)
    if dtype == "float32":
        found["products in TF32"] = partial(chunk, solve="inverse", rounding=honest.tf32)
        found |= {name: kernel for name, kernel in honest.NOT_FLOAT32.items()}
    for family, names in RECREATED.items():
        module = importlib.import_module(f"implementations.faulty.{family}")
        found |= {f"{family}.{name}": getattr(module, name) for name in names}
    return found


def constant(quantity: str, dtype: str) -> float:
    """The constant of the quantity's budget."""
    return {"o": OUTPUT, "final_state": STATE}.get(quantity, GRADIENT)[dtype]


def collect(dtype: str, seed: int, count: int, longest: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of `fit`, with the error in budget units and whether the kernel is honest, case by case for all kernels."""
    rng, stop, rows = np.random.default_rng(seed), time.monotonic() + seconds, []
    held = {name: k for name, k in honest.VARIANTS[dtype].items() if not name.endswith(NOT_HELD[dtype] or ("\n",))}
    kernels = torch_runs(held | faults(dtype), dtype)
    for case in [draw(rng, dtype, longest) for _ in range(count)]:
        if time.monotonic() > stop:
            break
        for row in fit(kernels.items(), dtype, [case], 1e9):
            units = row["condition"] / constant(row["quantity"], dtype)
            rows.append(row | {"honest": row["kernel"] in held, "units": units})
    return rows


def worst_by_kernel(rows: list[dict[str, Any]], **only: Any) -> dict[str, float]:
    """Worst error of every kernel in budget units, among the rows whose fields are as asked."""
    found: dict[str, float] = defaultdict(float)
    for row in rows:
        if all(row[name] == value for name, value in only.items()):
            found[row["kernel"]] = max(found[row["kernel"]], row["units"])
    return dict(found)


def margins(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every dtype and quantity: honest maximum, constant, the weakest fault above 1 and all below it.

    `margin` is the weakest caught fault over the honest maximum: the room in which the constant had to be put.
    """
    table = []
    for dtype in DTYPES:
        for quantity in QUANTITIES:
            some = [row for row in rows if row["dtype"] == dtype and row["quantity"] == quantity]
            if not some:
                continue
            good, bad = (worst_by_kernel(some, honest=kind) for kind in (True, False))
            top = max(good, key=lambda name: good[name])
            caught = {name: units for name, units in bad.items() if units > 1}
            weakest = min(caught, key=lambda name: caught[name], default=None)
            limit = constant(quantity, dtype)
            table.append(
                {
                    "dtype": dtype,
                    "quantity": quantity,
                    "cases": len({row["case"] for row in some}),
                    "honest": good[top] * limit,
                    "honest_kernel": top,
                    "constant": limit,
                    "fraction": good[top],
                    "weakest": weakest,
                    "weakest_units": caught.get(weakest, None),
                    "margin": None if weakest is None else caught[weakest] / good[top],
                    "missed": {name: units for name, units in sorted(bad.items()) if units <= 1},
                }
            )
    return table


def markdown(table: list[dict[str, Any]]) -> str:
    """The table for docs/budgets.md; a fault's error stands in multiples of its budget."""
    lines = [
        "| budget | honest maximum | constant | of it | weakest caught fault | margin |",
        "|---|---|---|---|---|---|",
    ]
    for row in table:
        fault = "none" if row["weakest"] is None else f"{row['weakest']}, {row['weakest_units']:.3g} budgets"
        margin = "" if row["margin"] is None else f"{row['margin']:.3g}"
        lines.append(
            f"| {row['quantity']}, {row['dtype']} | {row['honest']:.3g} ({row['honest_kernel']}) "
            f"| {row['constant']:g} | {row['fraction']:.0%} | {fault} | {margin} |"
        )
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]], table: list[dict[str, Any]], path: Path) -> None:
    """Error in budget units by regime: worst honest, and the weakest fault each budget catches anywhere."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kda"
    from matplotlib import pyplot, ticker

    weakest = {(row["dtype"], row["quantity"]): row["weakest"] for row in table}
    regimes = sorted({row["regime"] for row in rows}, key=lambda name: (name.split("beta ")[1], name))
    figure, axes = pyplot.subplots(1, len(DTYPES), figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, dtype in zip(axes, DTYPES, strict=True):
        some = [row for row in rows if row["dtype"] == dtype]
        shown = (
            ("honest", [row for row in some if row["honest"]], "#0b5fa5", "s"),
            ("weakest caught", [r for r in some if r["kernel"] == weakest[dtype, r["quantity"]]], "#b3261e", "x"),
        )
        for label, chosen, colour, marker in shown:
            worst = [max((r["units"] for r in chosen if r["regime"] == x), default=np.nan) for x in regimes]
            axis.plot(worst, range(len(regimes)), marker, color=colour, label=label, markersize=5)
        axis.axvline(1.0, color="#444444", linewidth=1, label="the budget")
        axis.set(xscale="log", title=dtype, xlabel="worst error, budgets")
        axis.set_yticks(range(len(regimes)), regimes)
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure and write; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m properties.margins", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=100, help="random cases of each dtype")
    parser.add_argument("--longest", type=int, default=200)
    parser.add_argument("--limit", type=float, default=1e9, help="seconds for everything, a third for each dtype")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    share, rows = options.limit / len(DTYPES), list[dict[str, Any]]()
    for dtype in DTYPES:
        rows += collect(dtype, options.seed, options.cases, options.longest, share)
    table = margins(rows)
    (options.out / "margins.json").write_text(json.dumps({"seed": options.seed, "table": table}, indent=1) + "\n")
    (options.out / "margins.md").write_text(f"Seed {options.seed}.\n\n{markdown(table)}")
    print(markdown(table))
    try:
        picture(rows, table, options.out / "margins.svg")
    except ImportError:
        print("no picture: matplotlib is not installed")


if __name__ == "__main__":
    main()
