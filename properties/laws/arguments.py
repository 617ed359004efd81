"""Laws of arguments: optional ones are honoured alone and together; other dtypes and configurations are right."""

from typing import Any

import numpy as np

from kda_spec import trace
from properties.budgets import informative, output_errors
from properties.calls import Kernel, Output, Refused, problem_of
from properties.case import Case
from properties.compare import Pair, agree, result
from properties.edits import with_
from properties.law import Judgement, judge, law, worst_of
from properties.numbers import round_to


@law(
    "refuse",
    "scale is honoured, and K ** -0.5 where it is not given.",
    "f(.., scale=s) = f(.., scale=1) s",
    adjust=lambda case: case.but(scale=(None, 1.0, 0.3, -0.5, -1.0, 0.0)[case.at % 6]),
    share=0.5,
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
    share=0.5,
)
def the_initial_state_is_honoured(kernel: Kernel, case: Case) -> Judgement:
    problem = with_(problem_of(case), v=np.zeros_like(problem_of(case).v))
    output, truth = kernel(case, problem), trace(problem)
    errors = output_errors(output.o, problem, truth, case.dtype)
    return judge("o", errors, problem, informative(problem, truth, case.dtype), "the recurrence from that state")


@law(
    "refuse",
    "Leaving an optional argument out is giving its default, each on its own and all of them together.",
    "f(x) = f(x, scale = K^-1/2) = f(x, initial_state = 0) = f(x, cu_seqlens = (0, T)), with or without S_T",
    adjust=lambda case: case.but(packed=(), B=1, state="none", scale=None),
    share=0.5,
)
def a_default_may_be_left_out(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    given: dict[str, Any] = {
        "scale": problem.K**-0.5,
        "initial_state": np.zeros((1, problem.HV, problem.K, problem.V)),
        "cu_seqlens": np.array([0, problem.T]),
        "output_final_state": True,
    }
    left_out = with_(problem, output_final_state=False)
    bare, judgements = kernel(case, left_out), []
    chosen = [[name] for name in given] + [list(given)]
    some = [name for n, name in enumerate(given) if case.at >> n & 1]
    for names in chosen + ([some] if 1 < len(some) < 4 else []):
        try:
            output = kernel(case, with_(left_out, **{name: given[name] for name in names}))
        except Refused:
            continue  # a kernel may support fewer arguments; what it takes must change nothing
        pair = Pair(result(output.o), result(bare.o), problem, "the call without optional arguments")
        judgements.append(agree(pair, case))
        if judgements[-1].broken:
            judgements[-1].message = f"with {', '.join(names)} given: {judgements[-1].message}"
    if not judgements:
        raise Refused("every optional argument was refused")
    return worst_of(judgements)


# Tensors and the dtypes they are given in; the call may be refused, or must be right in the coarsest of them.
MIXED: dict[str, dict[str, str]] = {
    "k float16 with q float32": {"k": "float16"},
    "v float32 with q and k bfloat16": {"q": "bfloat16", "k": "bfloat16"},
    "q bfloat16 with k and v float32": {"q": "bfloat16"},
    "beta bfloat16 alone": {"beta": "bfloat16"},
    "g float16 alone": {"g": "float16"},
    "an initial state in bfloat16": {"initial_state": "bfloat16"},
    "an initial state in float64": {"initial_state": "float64"},
    "cu_seqlens in int32": {"cu_seqlens": "int32"},
    "q of integers": {"q": "int64"},
    "everything in float64": dict.fromkeys(("q", "k", "v", "g", "beta", "initial_state"), "float64"),
}


@law(
    "refuse",
    "Other dtypes, alone or mixed, are refused or computed right.",
    "f(q as dtype 1, k as dtype 2, ..) = f(q, k, ..) within the coarsest dtype's budget, or an error",
    adjust=lambda case: case.but(
        dtype="float32", gate_dtype="same", T=max(case.T, 2), B=1, packed=(), state="random", v_log2=0, edits=()
    ),
    share=0.3,
)
def mixed_dtypes_are_refused_or_right(kernel: Kernel, case: Case) -> Judgement:
    problem = with_(problem_of(case), cu_seqlens=np.array([0, problem_of(case).T]))
    kernel(case)  # a kernel that refuses the well-formed case as well tells nothing
    judgements = [Judgement(0.0, True)]
    for what, dtypes in MIXED.items():
        values = {name: _as(getattr(problem, name), dtype) for name, dtype in dtypes.items()}
        coarsest = next((d for d in ("bfloat16", "float16") if d in dtypes.values()), "float32")
        changed = with_(problem, **values)
        try:
            output = kernel(case, changed, dtypes=dtypes, checked=False)
        except Refused:
            continue
        judgement = _right(output, case, changed, coarsest)
        judgement.message = judgement.message and f"{what}: {judgement.message}"
        judgements.append(judgement)
    return worst_of(judgements)


def _as(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype.startswith("int"):
        return x if x.dtype.kind == "i" else np.round(2 * x)
    return round_to(x, dtype)


def _right(output: Output, case: Case, problem: Any, dtype: str) -> Judgement:
    if output.o.shape != problem.v.shape:
        return Judgement(np.inf, True, f"o has shape {list(output.o.shape)}, expected {list(problem.v.shape)}")
    truth = trace(problem)
    errors = output_errors(output.o, problem, truth, dtype)
    return judge("o", errors, problem, informative(problem, truth, dtype), "the recurrence")


def _across_chunks(case: Case) -> Case:
    """Every other dense case longer than two chunks, with gates that leave something of them: what is carried shows."""
    if case.packed or case.at % 2:
        return case
    T = case.T if case.T > 128 else 129 + case.T % 16
    return case.but(T=T, B=1, H=1, group=1, gate="slow", beta="random")


@law(
    "structure",
    "Every configuration that the kernel offers (chunk, block, warps, stages) gives the same result.",
    "f(x, configuration) = f(x)",
    adjust=_across_chunks,
    share=0.5,
)
def configurations_agree(kernel: Kernel, case: Case) -> Judgement:
    offered = kernel.worker.hints.get("configurations", [])
    if not offered:
        raise Refused("the kernel's file names no configurations (HINTS = {'configurations': ({'chunk': 16}, ..)})")
    problem, plain, judgements = problem_of(case), kernel(case), []
    for n in range(min(8, len(offered))):
        keywords = offered[(case.at + n) % len(offered)]
        relation = f"the call without {', '.join(f'{name}={value}' for name, value in keywords.items())}"
        try:
            judgements.append(agree(Pair(kernel(case, extra=keywords), plain, problem, relation), case))
        except Refused as refusal:  # one that does not fit this input; the others may
            refused = refusal
    if not judgements:
        raise refused
    return worst_of(judgements)
