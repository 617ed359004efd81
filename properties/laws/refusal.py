"""Refuse or be right: malformed inputs raise a clear error, optional arguments are honoured or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kda_spec import Problem
from properties.calls import Broke, Kernel, Refused, problem_of
from properties.case import Case
from properties.law import Judgement, law

Change = Callable[[Problem], dict[str, np.ndarray]]

MALFORMED: dict[str, Change] = {
    "k one channel short": lambda p: {"k": np.float32(p.k[..., :-1])},
    "v one token short": lambda p: {"v": np.float32(p.v[:, :-1])},
    "g of another head count": lambda p: {"g": np.float32(np.concatenate([p.g, p.g[:, :, :1]], axis=2))},
    "g with one number for all channels": lambda p: {"g": np.float32(p.g[..., :1])},
    "beta with a channel axis": lambda p: {"beta": np.float32(p.beta[..., None])},
    "a number of value heads that is no multiple of H": lambda p: {
        name: np.float32(np.concatenate([getattr(p, name), getattr(p, name)[:, :, :1]], axis=2))
        for name in ("v", "g", "beta")
    },
    "an initial state of the wrong width": lambda p: {"initial_state": np.zeros((p.N, p.HV, p.V + 1, p.K), np.float32)},
    "an initial state for one sequence too many": lambda p: {
        "initial_state": np.zeros((p.N + 1, p.HV, p.K, p.V), np.float32)
    },
    "cu_seqlens that decrease": lambda p: {"cu_seqlens": np.array([0, p.T, p.T - 1, p.T], np.int64)},
    "cu_seqlens that do not start at 0": lambda p: {"cu_seqlens": np.array([1, p.T], np.int64)},
    "cu_seqlens that do not end at T": lambda p: {"cu_seqlens": np.array([0, p.T - 1], np.int64)},
    "cu_seqlens beyond T": lambda p: {"cu_seqlens": np.array([0, p.T + 1], np.int64)},
    "an initial state for another number of packed sequences": lambda p: {
        "cu_seqlens": np.array([0, 1, p.T], np.int64),
        "initial_state": np.zeros((1, p.HV, p.K, p.V), np.float32),
    },
}


def _well_formed(case: Case) -> Case:
    return case.but(T=max(case.T, 2), B=1, packed=(), H=max(case.H, 2), K=max(case.K, 2), state="none", edits=())


@law(
    "refuse",
    "Malformed input is refused with an error, never computed with.",
    "shape, state or cu_seqlens that the contract excludes  =>  ValueError, TypeError, ..",
    adjust=_well_formed,
    share=0.3,
)
def malformed_input_is_refused(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    kernel(case)  # a kernel that refuses the well-formed case as well tells nothing
    for name, change in MALFORMED.items():
        judgement = _refuses(kernel, case, problem, name, arrays=change(problem))
        if judgement.broken:
            break
    return judgement


def _all_at_hand(case: Case) -> Case:
    """No tensor that a kernel might not need: a strength of zero makes keys and values idle."""
    return _well_formed(case).but(
        state="random", beta="random", dtype="float32", gate_dtype="same", layout="contiguous"
    )


@law(
    "refuse",
    "Values of integers and tensors on different devices are refused, never computed with.",
    "v an integer tensor; k, v, beta or the state on another device than q  =>  ValueError, .. or torch's own",
    adjust=_all_at_hand,
    share=0.3,
)
def foreign_tensors_are_refused(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    kernel(case)
    judgement = _refuses(kernel, case, problem, "v of integers", ("type",), dtypes={"v": "int64"})
    elsewhere = "meta" if kernel.worker.device == "cpu" else "cpu"
    for name in ("k", "v", "beta", "initial_state"):
        if judgement.broken:
            break
        what = f"{name} on device {elsewhere}"
        judgement = _refuses(kernel, case, problem, what, (elsewhere,), devices={name: elsewhere})
    return judgement


@law(
    "refuse",
    "cu_seqlens together with a batch of more than one row is refused.",
    "cu_seqlens given  =>  B = 1",
    adjust=lambda case: case.but(T=max(case.T, 2), B=2, packed=(), state="none"),
    share=0.3,
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
    share=0.3,
)
def an_unknown_keyword_is_refused(kernel: Kernel, case: Case) -> Judgement:
    kernel(case)
    extra = {"use_beta_sigmoid_in_the_kernel_of_tomorrow": True}
    return _refuses(kernel, case, problem_of(case), "an unknown keyword", extra=extra)


def _refuses(
    kernel: Kernel, case: Case, problem: Problem, what: str, says: tuple[str, ...] = (), **call: Any
) -> Judgement:
    """Whether a call is refused; `says`: what torch's own RuntimeError has in it where that refuses it as clearly."""
    try:
        kernel(case, problem, checked=False, **call)
    except Refused:
        return Judgement(0.0, True)
    except Broke as broke:
        if broke.status == "timeout":
            raise
        if says and broke.message.startswith("RuntimeError") and all(word in broke.message for word in says):
            return Judgement(0.0, True)
        return Judgement(np.inf, True, f"{what} ended in a crash, expected a clear refusal: {broke.message}")
    return Judgement(
        np.inf, True, f"{what} was accepted; expected ValueError, TypeError, NotImplementedError or AssertionError"
    )
