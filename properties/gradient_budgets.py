"""Error budgets of gradients: the terms that cancel in them, not what is left after cancelling.

With W_t the written mass of the state and A_t that of the adjoint state (what the cotangents put into it, root of the
sum of squares, so that nothing cancels), both as their largest column norm, and R_t = |v_t| + sqrt(V) |k_t| W_t the
size of a residual, the terms of each gradient have the size

    dq ~ scale |do| W      dv ~ beta |k| A      dbeta ~ |k| A R      dk ~ beta A R      dS0 ~ A
    dg_t ~ the largest W_s A_s + |q_s| dq_s + |k_s| dk_s over s >= t: kernels sum q dq - k dk from the end.
"""

import numpy as np

from kda_spec import Problem, Trace, adjoint, trace
from properties.budgets import ROUNDING, SMALLEST, Errors, worst
from properties.gradient_condition import gradient_condition

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
    do = np.zeros((problem.B, problem.T, problem.HV, problem.V)) if do is None else do
    truth = adjoint(problem, do, dstate)
    scales = gradient_scales(problem, trace(problem), do, dstate)
    sizes, unit, floor = scales, GRADIENT[dtype] * ROUNDING[dtype], SMALLEST[dtype]
    if conditioned:
        condition = gradient_condition(problem, do, dstate, ROUNDING[dtype])
        sizes = {name: np.maximum(scales[name], condition[name]) for name in got}
    budget = {name: unit * (np.abs(truth[name]) + sizes[name]) + floor * (1 + scales[name]) for name in got}
    return {name: worst(x, truth[name], budget[name]) for name, x in got.items()}


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
