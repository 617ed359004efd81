"""Laws of the raw form: kernels that normalise q and k, and map gate and strength, inside.

A file says that its kernel has the raw form by `HINTS = {"raw": True}`; keywords are those of fla's `chunk_kda`. The
oracle applies `kda_spec.maps` to the raw values as the kernel gets them, rounded.
"""

from functools import partial

import numpy as np

from kda_spec import Problem, bounded_gate, l2norm, sigmoid_beta, softplus_gate
from properties.calls import Kernel, Refused, problem_of
from properties.case import Case
from properties.compare import BOTH, against_truth
from properties.edits import with_
from properties.law import Judgement, law, worst_of
from properties.numbers import draw_normal, draw_uniform, round_to

FLAGS = ("use_qk_l2norm_in_kernel", "use_beta_sigmoid_in_kernel", "use_gate_in_kernel")
LOGITS = {"zero": -100.0, "tiny": -7.0, "two": 100.0}
LOWER_BOUNDS = (-5.0, -1.0, -20.0)  # production's first


@law(
    "raw",
    "With all maps inside, the output is the recurrence of the mapped tensors.",
    "f(q, k, v, g, beta raw) = f(q/|q|, k/|k|, v, -exp(A_log) softplus(g + dt_bias), sigmoid(beta))",
    share=0.5,
)
def raw_tensors_are_mapped(kernel: Kernel, case: Case) -> Judgement:
    return _equals_the_mapped_recurrence(kernel, case, FLAGS)


@law(
    "raw",
    "Each map inside is right by itself, the others left to the caller.",
    "one of use_qk_l2norm, use_beta_sigmoid, use_gate in the kernel  =>  that map applied to its raw tensor alone",
    share=0.5,
)
def each_map_stands_alone(kernel: Kernel, case: Case) -> Judgement:
    judgements = []
    for flag in FLAGS:
        try:
            judgements.append(_equals_the_mapped_recurrence(kernel, case, (flag,)))
        except Refused:
            continue
        if judgements[-1].broken:
            judgements[-1].message = f"with {flag} alone: {judgements[-1].message}"
    if not judgements:
        raise Refused("no map is taken by itself")
    return worst_of(judgements)


def _equals_the_mapped_recurrence(kernel: Kernel, case: Case, flags: tuple[str, ...]) -> Judgement:
    if not kernel.worker.hints.get("raw"):
        raise Refused("the kernel's file names no raw form (HINTS = {'raw': True})")
    negative, bounded = bool(case.at & 1), bool(case.at & 2)
    problem = problem_of(case)
    mapped, arrays = _map(case, problem, flags, negative, bounded)
    extra: dict[str, object] = dict.fromkeys(flags, True)
    if "use_beta_sigmoid_in_kernel" in flags and negative:
        extra["allow_neg_eigval"] = True
    if "use_gate_in_kernel" in flags and bounded:
        extra |= {"safe_gate": True, "lower_bound": _bound(case)}
    output = kernel(case, mapped, arrays=arrays, extra=extra)
    # The maps round as well: what they give is an input of the recurrence that may be a last place off.
    return against_truth(output, mapped, case, "the recurrence of the mapped tensors", room=BOTH)


def _map(
    case: Case, problem: Problem, flags: tuple[str, ...], negative: bool, bounded: bool
) -> tuple[Problem, dict[str, np.ndarray]]:
    """The problem the oracle solves, and the raw tensors the kernel gets."""
    gates = case.dtype if case.gate_dtype == "same" else case.gate_dtype
    raw = partial(_raw, case, problem)
    mapped: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    if "use_qk_l2norm_in_kernel" in flags:
        arrays |= {name: raw(name, case.dtype) for name in ("q", "k")}
        mapped |= {name: l2norm(arrays[name]) for name in ("q", "k")}
    if "use_beta_sigmoid_in_kernel" in flags:
        arrays["beta"] = raw("beta", gates)
        mapped["beta"] = sigmoid_beta(arrays["beta"], negative)
    if "use_gate_in_kernel" in flags:
        arrays["g"] = raw("g", gates)
        slowest = -8.0 if case.gate == "slow" else -1.0
        A_log = round_to(slowest + 2 * draw_uniform(case.seed, "A_log", problem.HV), "float32")
        dt_bias = round_to(draw_normal(case.seed, "dt_bias", problem.HV, problem.K), "float32")
        arrays |= {"A_log": A_log, "dt_bias": dt_bias}
        if case.at & 4:  # the bias is optional
            dt_bias = 0 * arrays.pop("dt_bias")
        bound = (_bound(case),) if bounded else ()
        gate = (bounded_gate if bounded else softplus_gate)(arrays["g"], A_log, dt_bias, *bound)
        mapped["g"] = np.minimum(gate, 0.0)
    return with_(problem, **mapped), {name: np.float32(x) for name, x in arrays.items()}


def _bound(case: Case) -> float:
    return LOWER_BOUNDS[(case.power - 1) % len(LOWER_BOUNDS)]


def _raw(case: Case, problem: Problem, name: str, dtype: str) -> np.ndarray:
    """A raw tensor in the regime that the case's key, gate or beta names: where a map's own arithmetic is at its end.

    Rows of zeros, rows shorter than the epsilon of the norm, and rows whose squares float16 cannot hold; gates of
    +-100, with slow rates and with usual ones, where exp(x) overflows and exp(-x) vanishes; logits that saturate.
    """
    x = 2 * draw_normal(case.seed, f"raw/{name}", *getattr(problem, name).shape)
    if name in ("q", "k") and case.key == "zero":
        x[:, 1::2] = 0.0
    elif name in ("q", "k") and case.key == "tiny":
        x *= 2.0**-12
    elif name in ("q", "k") and case.key in ("same", "alternating"):
        x *= 2.0**10
    elif name == "g" and case.gate in ("slow", "strong"):
        x *= 20.0
    elif name == "beta":
        x += LOGITS.get(case.beta, 0.0)
    return round_to(x, dtype)
