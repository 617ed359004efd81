"""Gradient laws, for kernels whose output carries gradients: against the adjoint, and structural ones."""

import numpy as np

from properties.calls import Broke, Kernel, Output, Refused, problem_of
from properties.case import Case, cotangents
from properties.edits import alone
from properties.gradient_budgets import gradient_errors
from properties.law import Judgement, judge, law, with_fields, worst_of


def _with_gradients(kernel: Kernel, case: Case, grad: str, **more: object) -> Output:
    output = kernel(case, grad=grad, **more)  # type: ignore[arg-type]
    if not output.has_gradients:
        raise Refused("the output carries no gradients")
    return output


def _against_the_adjoint(kernel: Kernel, case: Case, grad: str) -> Judgement:
    problem = problem_of(case)
    do, dstate = cotangents(case, problem)
    output = _with_gradients(kernel, case, grad)
    for name, x in output.gradients.items():
        expected = "float32" if name == "initial_state" else case.dtype
        if name in ("g", "beta") and case.gate_dtype != "same":
            expected = case.gate_dtype
        if output.dtypes["d" + name] not in (expected, "none"):
            raise Broke("falsified", f"the gradient of {name} is {output.dtypes['d' + name]}, its input {expected}")
        if x.shape != np.shape(getattr(problem, name)):
            raise Broke("falsified", f"the gradient of {name} has shape {list(x.shape)}")
    errors = gradient_errors(
        output.gradients, problem, do if grad != "state" else None, dstate if grad != "o" else None, case.dtype
    )
    return worst_of([judge(f"d{name}", e, problem, problem.T > 0, "the adjoint") for name, e in errors.items()])


@law(
    "gradient",
    "The gradients of the output equal the adjoint's, within their budgets.",
    "d<do, o> / d(q, k, v, g, beta, S_0)",
)
def gradients_of_the_output_equal_the_adjoint(kernel: Kernel, case: Case) -> Judgement:
    return _against_the_adjoint(kernel, case, "o")


@law(
    "gradient",
    "The gradients of the final state equal the adjoint's, within their budgets.",
    "d<dS, S_T> / d(q, k, v, g, beta, S_0)",
    adjust=with_fields(final_state=True),
)
def gradients_of_the_state_equal_the_adjoint(kernel: Kernel, case: Case) -> Judgement:
    return _against_the_adjoint(kernel, case, "state")


@law(
    "gradient",
    "The gradients of output and final state together equal the adjoint's, within their budgets.",
    "d(<do, o> + <dS, S_T>) / d(q, k, v, g, beta, S_0)",
    adjust=with_fields(final_state=True),
)
def gradients_of_both_equal_the_adjoint(kernel: Kernel, case: Case) -> Judgement:
    return _against_the_adjoint(kernel, case, "both")


def _harsh(case: Case) -> Case:
    gate = case.gate if case.gate in ("forget", "channel", "token", "spike", "strong") else "mixed"
    return case.but(gate=gate, final_state=True)


@law(
    "gradient",
    "Finite legal input gives finite gradients, at any gate.",
    "g in [-1000, 0]  =>  dq, dk, dv, dg, dbeta, dS_0 finite",
    adjust=_harsh,
)
def gradients_are_finite(kernel: Kernel, case: Case) -> Judgement:
    output = _with_gradients(kernel, case, "both")
    for name, x in output.gradients.items():
        if not np.all(np.isfinite(x)):
            where = dict(
                zip(("row", "token", "head", "channel"), map(int, np.argwhere(~np.isfinite(x))[0]), strict=False)
            )
            return Judgement(np.inf, True, f"the gradient of {name} is not finite", where)
    return Judgement(0.0, problem_of(case).T > 0)


@law(
    "gradient",
    "The gradients of packed sequences are those of each alone.",
    "d f(packed x_1 .. x_N) / dx_n = d f(x_n) / dx_n",
    adjust=lambda case: case.but(packed=case.packed or (case.T, 1, case.T // 2), B=1, final_state=True),
)
def packed_gradients_are_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    do, dstate = cotangents(case, problem)
    whole = _with_gradients(kernel, case, "both").gradients
    together = {name: np.zeros_like(x) for name, x in whole.items()}
    for n, (row, start, stop) in enumerate(problem.bounds()):
        part = kernel(case, alone(problem, n), grad="both", do=do[row : row + 1, start:stop], dstate=dstate[n : n + 1])
        for name, x in part.gradients.items():
            together[name][
                (slice(n, n + 1) if name == "initial_state" else (slice(row, row + 1), slice(start, stop)))
            ] = x
    errors = gradient_errors(together, problem, do, dstate, case.dtype)
    return worst_of([judge(f"d{name}", e, problem, problem.T > 0, "the adjoint") for name, e in errors.items()])
