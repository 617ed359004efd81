"""Laws against the oracle: every token of o and every final state within its budget, and finite."""

import numpy as np

from kda_spec import trace
from properties.budgets import informative, output_errors, state_errors
from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.law import Judgement, judge, law, need_state, with_fields


@law(
    "oracle",
    "Every token of the output equals the recurrence, within its budget.",
    "o_t = scale S_t^T q_t,  S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T",
)
def output_equals_the_recurrence(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    output = kernel(case)
    truth = trace(problem)
    errors = output_errors(output.o, problem, truth, case.dtype)
    return judge("o", errors, problem, informative(problem, truth, case.dtype), "the recurrence")


@law(
    "oracle",
    "The final state of every sequence equals the recurrence's, within its budget.",
    "S_T = (I - beta_T k_T k_T^T) Diag(exp g_T) S_(T-1) + beta_T k_T v_T^T",
    adjust=with_fields(final_state=True),
)
def final_state_equals_the_recurrence(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    state = need_state(kernel(case))
    truth = trace(problem)
    errors = state_errors(state, problem, truth, case.dtype)
    return judge("final_state", errors, problem, bool(np.any(truth.final_state != 0)), "the recurrence")


def _harsh(case: Case) -> Case:
    """Keep the drawn gate where it is a hard one, else take the hardest mixture."""
    gate = case.gate if case.gate in ("forget", "channel", "token", "spike", "strong", "pinned") else "mixed"
    return case.but(gate=gate, final_state=True)


@law(
    "finite",
    "Finite legal input gives finite outputs and a finite final state, at any gate.",
    "q, k, v, beta finite, g in [-1000, 0]  =>  o, S finite",
    adjust=_harsh,
)
def finite_input_gives_finite_output(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    for name, x in kernel(case).parts.items():
        bad = np.argwhere(~np.isfinite(x))
        if bad.size:
            where = dict(zip(("row", "token", "head", "column"), map(int, bad[0]), strict=False))
            return Judgement(np.inf, True, f"{name} has {len(bad)} values that are not finite", where)
    return Judgement(0.0, problem.T > 0)
