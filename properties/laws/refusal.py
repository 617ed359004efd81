"""Refuse or be right: malformed inputs raise a clear error, optional arguments are honoured or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kda_spec import Problem, trace
from properties.budgets import informative, output_errors
from properties.calls import Broke, Kernel, Refused, problem_of
from properties.case import Case
from properties.edits import with_
from properties.law import Judgement, judge, law

Change = Callable[[Problem], dict[str, np.ndarray]]

MALFORMED: dict[str, Change] = {
    "k one channel short": lambda p: {"k": np.float32(p.k[..., :-1])},
    "v one token short": lambda p: {"v": np.float32(p.v[:, :-1])},
    "g of another head count": lambda p: {"g": np.float32(np.concatenate([p.g, p.g[:, :, :1]], axis=2))},
    "beta with a channel axis": lambda p: {"beta": np.float32(p.beta[..., None])},
    "an initial state transposed to [.., V, K] with V != K": lambda p: {
        "initial_state": np.zeros((p.N, p.HV, p.V + 1, p.K), np.float32)
    },
    "an initial state for one sequence too many": lambda p: {
        "initial_state": np.zeros((p.N + 1, p.HV, p.K, p.V), np.float32)
    },
    "cu_seqlens that decrease": lambda p: {"cu_seqlens": np.array([0, p.T, p.T - 1, p.T], np.int64)},
    "cu_seqlens that do not start at 0": lambda p: {"cu_seqlens": np.array([1, p.T], np.int64)},
    "cu_seqlens that do not end at T": lambda p: {"cu_seqlens": np.array([0, p.T - 1], np.int64)},
}


@law(
    "refuse",
    "Malformed input is refused with an error, never computed with.",
    "shape, state or cu_seqlens that the contract excludes  =>  ValueError, TypeError, ..",
    adjust=lambda case: case.but(T=max(case.T, 2), B=1, packed=(), K=max(case.K, 2), state="none", edits=()),
)
def malformed_input_is_refused(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    kernel(case)  # a kernel that refuses the well-formed case as well tells nothing
    name, change = list(MALFORMED.items())[case.at % len(MALFORMED)]
    return _refuses(kernel, case, problem, name, arrays=change(problem))


@law(
    "refuse",
    "cu_seqlens together with a batch of more than one row is refused.",
    "cu_seqlens given  =>  B = 1",
    adjust=lambda case: case.but(T=max(case.T, 2), B=2, packed=(), state="none"),
)
def packing_needs_one_row(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    kernel(case)
    arrays = {"cu_seqlens": np.array([0, problem.T], np.int64)}
    return _refuses(kernel, case, problem, "cu_seqlens with B = 2", arrays=arrays)


@law(
    "refuse",
    "A keyword that the kernel does not know is refused, never swallowed.",
    "f(.., use_beta_sigmoid_in_the_kernel_of_tomorrow=True)  =>  TypeError",
)
def an_unknown_keyword_is_refused(kernel: Kernel, case: Case) -> Judgement:
    kernel(case)
    extra = {"use_beta_sigmoid_in_the_kernel_of_tomorrow": True}
    return _refuses(kernel, case, problem_of(case), "an unknown keyword", extra=extra)


def _refuses(kernel: Kernel, case: Case, problem: Problem, what: str, **call: Any) -> Judgement:
    try:
        kernel(case, problem, checked=False, **call)
    except Refused:
        return Judgement(0.0, True)
    except Broke as broke:
        if broke.status == "timeout":
            raise
        return Judgement(np.inf, True, f"{what} ended in a crash, expected a clear refusal: {broke.message}")
    return Judgement(
        np.inf, True, f"{what} was accepted; expected ValueError, TypeError, NotImplementedError or AssertionError"
    )


@law(
    "refuse",
    "scale is honoured, and K ** -0.5 where it is not given.",
    "f(.., scale=s) = f(.., scale=1) s",
    adjust=lambda case: case.but(scale=(None, 1.0, 0.3, -0.5)[case.at % 4]),
)
def the_scale_is_honoured(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    output, truth = kernel(case), trace(problem)
    errors = output_errors(output.o, problem, truth, case.dtype)
    return judge("o", errors, problem, informative(problem, truth, case.dtype), "the recurrence with that scale")


@law(
    "refuse",
    "The initial state is honoured or refused.",
    "f(x, S) - f(x, 0) = f(x with v = 0, S)",
    adjust=lambda case: case.but(state="random" if case.state in ("none", "zero") else case.state),
)
def the_initial_state_is_honoured(kernel: Kernel, case: Case) -> Judgement:
    problem = with_(problem_of(case), v=np.zeros_like(problem_of(case).v))
    output, truth = kernel(case, problem), trace(problem)
    errors = output_errors(output.o, problem, truth, case.dtype)
    return judge("o", errors, problem, informative(problem, truth, case.dtype), "the recurrence from that state")
