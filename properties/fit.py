"""How many roundings honest kernels need: `python -m properties.fit --out DIR` fits the constants of the budgets.

Without --kernel it measures the algorithms of `properties/honest.py`, with --kernel TARGET (repeated) the kernels
named, on the CPU or, with --device cuda, on a GPU. It writes DIR/fit.json with the worst cases, DIR/fit.md with the
tables and, where matplotlib is installed, a picture for each dtype. It changes no constant. Every kernel sees the same
cases of a seed; a limit of time ends the series early, and the tables say how many cases were measured and refused.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from kda_spec import Problem, trace
from properties import budgets, gradient_budgets
from properties.calls import Broke, Kernel, NotRun, Refused, problem_of
from properties.case import Case, cotangents
from properties.process import Worker
from properties.regimes import BETAS, GATES, KEYS, STATES

LENGTHS = (1, 2, 5, 15, 16, 17, 40, 63, 64, 65, 100, 128, 130, 190)
WIDTHS = (1, 2, 3, 4, 8, 16, 24, 32, 64)
GRADIENTS = ("dq", "dk", "dv", "dg", "dbeta", "dinitial_state")
WORST = 5  # cases of each kernel, dtype and quantity that fit.json tells
Results = dict[str, np.ndarray]
Run = Callable[[Case, Problem], Results]


def draw(rng: np.random.Generator, dtype: str, longest: int, widths: tuple[int, ...] = ()) -> Case:
    """A random dense case: every regime, lengths around the chunk, K and V of `widths` (up to 64, at times 128)."""
    pick = lambda names: str(rng.choice(list(names)))  # noqa: E731
    widths = widths or (WIDTHS if longest <= 200 else (*WIDTHS, 128))
    huge = dtype == "float16"
    return Case(
        T=int(rng.choice([T for T in LENGTHS if T <= longest])),
        group=int(rng.choice([1, 2])),
        K=int(rng.choice(widths)),
        V=int(rng.choice(widths)),
        dtype=dtype,
        gate=pick(GATES),
        key=pick(KEYS),
        beta=pick(BETAS),
        state=pick([name for name in STATES if not (huge and name in ("huge", "spike"))]),
        v_log2=int(rng.integers(-3, 3)),
        seed=int(rng.integers(2**16)),
    )


@lru_cache(maxsize=4)
def expected(case: Case, problem: Problem) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of every quantity the truth and its sizes (budgets over constants): by the written mass, with the condition."""
    truth, dtype = trace(problem), case.dtype
    found = {}
    for name, want, budget, constant in (
        ("o", truth.o, budgets.output_budget, budgets.OUTPUT),
        ("final_state", truth.final_state, budgets.state_budget, budgets.STATE),
    ):
        mass, grown = (budget(problem, truth, dtype, conditioned) / constant[dtype] for conditioned in (False, True))
        found[name] = (want, mass[..., None], grown[..., None]) if name == "o" else (want, mass, grown)
    mass, grown = (
        gradient_budgets.gradient_truth(problem, *cotangents(case, problem), dtype, conditioned)
        for conditioned in (False, True)
    )
    constant = gradient_budgets.GRADIENT[dtype]
    return found | {"d" + x: (mass[x][0], mass[x][1] / constant, grown[x][1] / constant) for x in mass}


def measure(results: Results, case: Case, problem: Problem) -> dict[str, tuple[float, float]]:
    """Worst error of every result in multiples of u times the size: by the written mass, with the condition."""
    found = {}
    for name, got in results.items():
        want, *sizes = expected(case, problem)[name]
        got = gradient_budgets.beyond(got, want, case.dtype) if name in GRADIENTS else got
        mass, grown = (float(min(budgets.worst(got, want, size).units, 1e9)) for size in sizes)
        found[name] = mass, grown
    return found


def honest_runs(dtype: str, device: str = "cpu") -> dict[str, Run]:
    """The algorithms of `properties/honest.py`."""
    from properties import honest

    return torch_runs(honest.VARIANTS[dtype], dtype, device)


def torch_runs(kernels: dict[str, Callable[..., Any]], dtype: str, device: str = "cpu") -> dict[str, Run]:
    """Functions of torch tensors, called in this process, with their gradients."""
    import torch

    torch.set_num_threads(1)

    def run(kernel: Callable[..., Any], case: Case, problem: Problem) -> Results:
        make = lambda x, kind: torch.tensor(x, device=device).to(getattr(torch, kind)).requires_grad_()  # noqa: E731
        inputs = {name: make(getattr(problem, name), dtype) for name in ("q", "k", "v", "g", "beta")}
        state = None if problem.initial_state is None else make(problem.initial_state, "float32")
        with torch.device(device):
            o, S = kernel(**inputs, initial_state=state, output_final_state=True)
        inputs |= {} if state is None else {"initial_state": state}
        upstream = [torch.tensor(x).to(y) for x, y in zip(cotangents(case, problem), (o, S), strict=True)]
        grads = torch.autograd.grad([o, S], list(inputs.values()), upstream, allow_unused=True)
        named = {"d" + name: x for name, x in zip(inputs, grads, strict=True) if x is not None}
        return {name: x.detach().double().cpu().numpy() for name, x in ({"o": o, "final_state": S} | named).items()}

    return {name: partial(run, kernel) for name, kernel in kernels.items()}


def target_runs(targets: list[str], device: str) -> Iterator[tuple[str, Run]]:
    """Kernels named on the command line, each in a worker of its own; gradients where the output carries them."""

    def run(kernel: Kernel, case: Case, problem: Problem) -> Results:
        try:
            output = kernel(case, problem, grad="both")
        except Refused:
            output = kernel(case, problem)
        return {"o": output.o, "final_state": output.final_state} | {"d" + n: x for n, x in output.gradients.items()}

    for target in targets:
        with Worker(target, device=device, timeout=120.0) as worker:
            worker.start()
            yield target, partial(run, Kernel(worker))


def fit(
    runs: Any, dtype: str, cases: list[Case], seconds: float, missed: dict[str, list[str]] | None = None
) -> list[dict[str, Any]]:
    """One row for every kernel, case and quantity; `missed` collects, by kernel, why a case has no numbers."""
    rows, missed = [], {} if missed is None else missed
    for name, run in runs:
        start = time.monotonic()
        for case in cases:
            if time.monotonic() - start > seconds:
                break
            problem = problem_of(case)
            try:
                results = run(case, problem)
            except (Refused, NotRun, Broke) as error:
                how = (
                    error.status if isinstance(error, Broke) else "refused" if isinstance(error, Refused) else "not run"
                )
                missed.setdefault(f"{name}, {dtype}", []).append(f"{how}: {case!r}: {str(error).splitlines()[0][:200]}")
                continue
            for quantity, (mass, condition) in measure(results, case, problem).items():
                rows.append(
                    {
                        "kernel": name,
                        "dtype": dtype,
                        "quantity": quantity,
                        "mass": mass,
                        "condition": condition,
                        "case": repr(case),
                        "regime": f"{case.key}, beta {'> 1' if case.beta in ('two', 'to-two') else '<= 1'}",
                    }
                )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for every kernel and quantity the worst multiple of u, with the condition and (by the mass alone)."""
    lines = []
    for dtype in sorted({row["dtype"] for row in rows}):
        some = [row for row in rows if row["dtype"] == dtype]
        quantities = [q for q in ("o", "final_state", *GRADIENTS) if any(row["quantity"] == q for row in some)]
        lines += [f"\n| {dtype} | cases | {' | '.join(quantities)} |", "|---|---|" + "---|" * len(quantities)]
        by_kernel: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for row in some:
            by_kernel[row["kernel"]][row["quantity"]].append(row)
        for kernel, found in by_kernel.items():
            cells = [
                f"{max(row['condition'] for row in found[q]):.3g} ({max(row['mass'] for row in found[q]):.3g})"
                if q in found
                else ""
                for q in quantities
            ]
            lines.append(f"| {kernel} | {len(found['o'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]], dtype: str, path: Path) -> None:
    """Worst error by regime, by the written mass alone and with the condition, against the constant."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kda"
    from matplotlib import pyplot

    honest = [row for row in rows if row["dtype"] == dtype and not row["kernel"].endswith(NOT_HELD[dtype])]
    regimes = sorted({row["regime"] for row in honest}, key=lambda name: (name.split("beta ")[1], name))
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 4.2), sharey=True, layout="constrained")
    constants = budgets.OUTPUT[dtype], budgets.STATE[dtype], gradient_budgets.GRADIENT[dtype]
    for axis, title, quantities, constant in zip(
        axes, ("output", "final state", "gradients"), (("o",), ("final_state",), GRADIENTS), constants, strict=True
    ):
        for measure_, colour, marker in (("mass", "#999999", "o"), ("condition", "#0b5fa5", "s")):
            worst = [
                max((r[measure_] for r in honest if r["regime"] == x and r["quantity"] in quantities), default=np.nan)
                for x in regimes
            ]
            label = "by the written mass" if measure_ == "mass" else "with the condition"
            axis.plot(worst, range(len(regimes)), marker, color=colour, label=label, markersize=5)
        axis.axvline(constant, color="#b3261e", linewidth=1, label=f"constant {constant:g}")
        axis.set(xscale="log", title=f"{title}, {dtype}", xlabel="worst honest error, multiples of u")
        axis.set_yticks(range(len(regimes)), regimes)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(out: Path, rows: list[dict[str, Any]], missed: dict[str, list[str]], seed: int) -> None:
    """fit.json: the worst cases of every kernel, dtype and quantity, and what was missed; fit.md: the maxima."""
    by_cell: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_cell[row["dtype"], row["kernel"], row["quantity"]].append(row)
    worst = [row for cell in by_cell.values() for row in sorted(cell, key=lambda row: -row["condition"])[:WORST]]
    found = {"seed": seed, "worst": worst, "missed": missed}
    (out / "fit.json").write_text(json.dumps(found, indent=0) + "\n")
    lines = [table(rows)]
    for name, reasons in missed.items():
        kinds = sorted({reason.split(":")[0] for reason in reasons})
        counts = ", ".join(f"{sum(r.startswith(kind + ':') for r in reasons)} {kind}" for kind in kinds)
        lines.append(f"* {name}: no numbers for {len(reasons)} cases ({counts}), the first {reasons[0]}")
    (out / "fit.md").write_text(f"Seed {seed}.\n" + "\n".join(lines) + "\n")


# Kernels that are measured but not held to the budget: they compute with less than the dtype they say.
NOT_HELD: dict[str, tuple[str, ...]] = {"float32": ("TF32",), "bfloat16": (), "float16": ("bfloat16",)}


def main() -> None:
    """Measure and write; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m properties.fit", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=400, help="random cases of each dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--kernel", action="append", default=[], metavar="TARGET")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--longest", type=int, default=200)
    parser.add_argument("--widths", type=int, nargs="+", default=[], help="K and V are drawn from these")
    parser.add_argument("--seconds", type=float, default=1e9, help="for each kernel and dtype")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds for everything, shared out evenly")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dtypes = options.dtype or ["float32", "bfloat16", "float16"]
    rows: list[dict[str, Any]] = []
    missed: dict[str, list[str]] = {}
    stop = time.monotonic() + options.limit
    for n, dtype in enumerate(dtypes):
        rng = np.random.default_rng(options.seed)
        cases = [draw(rng, dtype, options.longest, tuple(options.widths)) for _ in range(options.cases)]
        runs = (
            target_runs(options.kernel, options.device)
            if options.kernel
            else honest_runs(dtype, options.device).items()
        )
        count = len(options.kernel) or len(runs)
        for m, run in enumerate(runs):
            share = (stop - time.monotonic()) / ((len(dtypes) - n) * count - m)
            rows += fit([run], dtype, cases, min(options.seconds, share), missed)
            write(options.out, rows, missed, options.seed)
        try:
            picture(rows, dtype, options.out / f"budget-{dtype}.svg")
        except ImportError:
            print("no picture: matplotlib is not installed")
    print((options.out / "fit.md").read_text())


if __name__ == "__main__":
    main()
