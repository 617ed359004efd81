"""Error budgets of gradients: the terms that cancel in them, not what is left after cancelling.

With W_t the written mass of the state and A_t that of the adjoint state (what the cotangents put into it, root of the
sum of squares, so that nothing cancels), both as their largest column norm, and R_t = |v_t| + sqrt(V) |k_t| W_t the
size of a residual, the terms of each gradient have the size

    dq ~ scale |do| W      dv ~ beta |k| A      dbeta ~ |k| A R      dk ~ beta A R      dS0 ~ A
    dg_t ~ the largest W_s A_s + |q_s| dq_s + |k_s| dk_s over s >= t: kernels sum q dq - k dk from the end.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kda_spec import Problem, Trace, adjoint, trace
from properties.budgets import ROUNDING, SMALLEST, Errors, largest_size, worst
from properties.condition import CHUNK
from properties.gradient_condition import gradient_condition

LARGEST_FLOAT16 = 65504 * (1 - 2.0**-6)  # a rounding error below it, a kernel may overflow
# Multiples of the unit roundoff; see docs/budgets.md.
GRADIENT = {"float32": 16.0, "bfloat16": 4.0, "float16": 4.0}


def gradient_errors(
    got: dict[str, np.ndarray], problem: Problem, do: np.ndarray | None, dstate: np.ndarray | None, dtype: str
) -> dict[str, Errors]:
    """Errors of every gradient in budget units; a missing cotangent is None."""
    errors = all_errors(got, problem, do, dstate, dtype)
    if any(1.0 < error.units < np.inf for error in errors.values()):
        return all_errors(got, problem, do, dstate, dtype, conditioned=True)
    return errors


def all_errors(
    got: dict[str, np.ndarray],
    problem: Problem,
    do: np.ndarray | None,
    dstate: np.ndarray | None,
    dtype: str,
    conditioned: bool = False,
) -> dict[str, Errors]:
    """The same with the condition always or never in the budget."""
    truth = gradient_truth(problem, do, dstate, dtype, conditioned)
    return {name: worst(beyond(x, truth[name][0], dtype), *truth[name]) for name, x in got.items()}


def gradient_truth(
    problem: Problem, do: np.ndarray | None, dstate: np.ndarray | None, dtype: str, conditioned: bool = False
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The adjoint's gradient and its budget, by input name."""
    do = np.zeros((problem.B, problem.T, problem.HV, problem.V)) if do is None else do
    truth = adjoint(problem, do, dstate)
    state = trace(problem)
    scales = gradient_scales(problem, state, do, dstate)
    # Where rounding is absolute, it is multiplied with what the state was before it decayed.
    faded = largest_size(problem, state) / np.max(state.mass_norm, initial=1e-30)
    sizes, unit, floor = scales, GRADIENT[dtype] * ROUNDING[dtype], SMALLEST[dtype]
    if conditioned:
        condition = gradient_condition(problem, do, dstate, ROUNDING[dtype])
        sizes = {name: np.maximum(scale, condition[name]) for name, scale in scales.items()}
    budgets = {
        name: unit * (np.abs(truth[name]) + sizes[name]) + floor * (1 + faded * np.max(scale, initial=0.0))
        for name, scale in scales.items()
    }
    budgets["k"] = budgets["k"] + GRADIENT["float32"] * ROUNDING["float32"] * _nearby(problem, scales["k"])
    return {name: (truth[name], budget) for name, budget in budgets.items()}


def _nearby(problem: Problem, scale: np.ndarray) -> np.ndarray:
    """The largest size of a sequence's tokens up to a chunk away.

    A kernel that forms the inverse of a chunk's system in floating point leaves roundings of every row in every other,
    also in the row of a token with beta = 0, whose own dk vanishes.
    """
    near = np.zeros_like(scale)
    for row, start, stop in problem.bounds():
        if start < stop:
            x = np.pad(scale[row, start:stop], ((CHUNK, CHUNK), *((0, 0),) * (scale.ndim - 2)))
            near[row, start:stop] = sliding_window_view(x, 2 * CHUNK + 1, axis=0).max(axis=-1)
    return near


def beyond(x: np.ndarray, truth: np.ndarray, dtype: str) -> np.ndarray:
    """The gradient with the truth in place of infinities where float16 holds no number as large as the truth."""
    if dtype != "float16":
        return x
    return np.where(np.isinf(x) & (np.abs(truth) > LARGEST_FLOAT16) & (np.sign(x) == np.sign(truth)), truth, x)


def gradient_scales(problem: Problem, state: Trace, do: np.ndarray, dstate: np.ndarray | None) -> dict[str, np.ndarray]:
    """The sizes above, broadcastable against each gradient."""
    group, scale = problem.HV // problem.H, abs(problem.scale_value)
    q_norm, k_norm = (np.repeat(np.linalg.norm(x, axis=-1), group, axis=-1) for x in (problem.q, problem.k))
    v_norm, do_norm = np.linalg.norm(problem.v, axis=-1), np.linalg.norm(do, axis=-1)
    mass, (adjoint_mass, first) = state.mass_norm, adjoint_masses(problem, do, dstate)
    residual = v_norm + np.sqrt(problem.V) * k_norm * mass
    dq, dk = scale * do_norm * mass, problem.beta * adjoint_mass * residual
    dg = mass * adjoint_mass + q_norm * dq + k_norm * dk
    for row, start, stop in problem.bounds():
        dg[row, start:stop] = np.maximum.accumulate(dg[row, start:stop][::-1])[::-1]
    of_head = lambda x: x.reshape(*x.shape[:-1], problem.H, group).sum(axis=-1)[..., None]  # noqa: E731
    return {
        "q": of_head(dq),
        "k": of_head(dk),
        "v": (problem.beta * k_norm * adjoint_mass)[..., None],
        "g": dg[..., None],
        "beta": k_norm * adjoint_mass * residual,
        "initial_state": first[..., None, None],
    }


def adjoint_masses(problem: Problem, do: np.ndarray, dstate: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Largest column norm of the adjoint mass at every token, [B, T, HV], and before the first one, [N, HV].

    G_(t-1) = Diag(alpha) (I - beta k k^T) G_t with G_t joined by scale q_t do_t^T; its mass adds the squares instead,
    and fades with the slowest channel of each token: a chunk kernel multiplies decays along every path through the
    keys, which may change channel at each token, and what cancels among those paths is of that size.
    """
    group, HV = problem.HV // problem.H, problem.HV
    masses, first = np.zeros((problem.B, problem.T, HV)), np.zeros((problem.N, HV))
    for n, (row, start, stop) in enumerate(problem.bounds()):
        G = np.zeros((HV, problem.K, problem.V)) if dstate is None else np.array(dstate[n], np.float64)
        square = G * G
        q, k = (np.repeat(x[row, start:stop], group, axis=1) for x in (problem.q, problem.k))
        alpha, beta = np.exp(problem.g[row, start:stop]), problem.beta[row, start:stop, :, None]
        for t in range(stop - start - 1, -1, -1):
            put = problem.scale_value * q[t][:, :, None] * do[row, start + t][:, None, :]
            G, square = G + put, square + put * put
            masses[row, start + t] = np.sqrt(square.sum(axis=-2).max(axis=-1, initial=0.0))
            erased = (beta[t] * k[t])[:, :, None] * (k[t][:, None, :] @ G)
            G = alpha[t][:, :, None] * (G - erased)
            square = (alpha[t].max(axis=-1) ** 2)[:, None, None] * (square + erased * erased)
        first[n] = np.sqrt(square.sum(axis=-2).max(axis=-1, initial=0.0))
    return masses, first
