"""Laws that hold bit for bit on an honest kernel: every operation involved is exact, or the same operation twice."""

import numpy as np

from kda_spec import Problem
from properties.calls import Broke, Kernel, Output, Refused, problem_of
from properties.case import Case
from properties.compare import Pair, agree, parts, result
from properties.edits import change_from, with_, with_state
from properties.law import Judgement, law, same_bits, with_fields


def _scaled(state: np.ndarray | None, factor: float) -> np.ndarray | None:
    return None if state is None else state * factor


def _same(got: Output, expected: dict[str, np.ndarray], problem: Problem, case: Case, relation: str) -> Judgement:
    """The same bits; in float16, where products inside may be subnormal and then do not scale, within both budgets."""
    if case.dtype != "float16":
        return same_bits(parts(got), expected, problem, case, relation)
    return agree(Pair(got, result(**expected), problem, relation), case)


@law(
    "bitwise",
    "Values and state times a power of two give outputs and state times the same power, bit for bit.",
    "f(q, k, 2^n v, g, beta, 2^n S) = 2^n f(q, k, v, g, beta, S)",
)
def scaling_the_values_scales_the_result(kernel: Kernel, case: Case) -> Judgement:
    problem, factor = problem_of(case), 2.0**case.power
    scaled = with_(problem, v=problem.v * factor, initial_state=_scaled(problem.initial_state, factor))
    expected = parts(kernel(case), factor, factor)
    return _same(kernel(case, scaled), expected, scaled, case, f"{factor:g} times the unscaled call")


def _room(case: Case, v: np.ndarray) -> float:
    """The power of two that brings v into the highest binade of float16, or forty binades up where there is room."""
    largest = float(np.max(np.abs(v), initial=0.0))
    return 2.0 ** (15 - np.floor(np.log2(largest)) if case.dtype == "float16" and largest else 40)


@law(
    "bitwise",
    "Values as large as the dtype holds, read with a scale as much smaller, give the same output, bit for bit.",
    "f(q, k, 2^n v, g, beta, 2^n S; 2^-n scale) = (o, 2^n S_T)",
)
def large_values_with_a_small_scale_give_the_same(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    factor = _room(case, problem.v)
    state = _scaled(problem.initial_state, factor)
    large = with_(problem, v=problem.v * factor, initial_state=state, scale=problem.scale_value / factor)
    relation = f"the result for values {factor:g} times smaller, read with a scale as much larger"
    return _same(kernel(case, large), parts(kernel(case), 1.0, factor), large, case, relation)


@law(
    "bitwise",
    "Queries times a power of two give outputs times the same power and the same state, bit for bit.",
    "f(2^n q, k, v, g, beta, S) = (2^n o, S)",
)
def scaling_the_queries_scales_the_output(kernel: Kernel, case: Case) -> Judgement:
    problem, factor = problem_of(case), 2.0**case.power
    expected = parts(kernel(case), factor)
    scaled = with_(problem, q=problem.q * factor)
    return _same(kernel(case, scaled), expected, scaled, case, f"{factor:g} times the unscaled call")


@law(
    "bitwise",
    "Keys and values hundreds of times as large with a strength smaller by the square change nothing, bit for bit.",
    "f(q, 2^n k, 2^n v, g, 4^-n beta, S) = f(q, k, v, g, beta, S), n = 8, 10, 12 (in float16 1, 2, 3)",
    adjust=lambda case: case.but(gate_dtype="float32"),
)
def the_strength_belongs_to_the_key_on_both_sides(kernel: Kernel, case: Case) -> Judgement:
    # A strength times a decay above 2^-100, which is as far as bits are compared, has to stay a normal number: n <= 12.
    problem, factor = problem_of(case), 2.0 ** (case.power if case.dtype == "float16" else 6 + 2 * case.power)
    other = with_(problem, k=problem.k * factor, v=problem.v * factor, beta=problem.beta / factor**2)
    return _same(kernel(case, other), parts(kernel(case)), other, case, "the call before the exchange")


@law(
    "bitwise",
    "Negating values and state negates the result, bit for bit.",
    "f(q, k, -v, g, beta, -S) = -f(q, k, v, g, beta, S)",
)
def negating_the_values_negates_the_result(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    other = with_(problem, v=-problem.v, initial_state=_scaled(problem.initial_state, -1.0))
    return same_bits(parts(kernel(case, other)), parts(kernel(case), -1.0, -1.0), problem, case, "minus the first call")


@law(
    "bitwise",
    "Flipping a key channel's sign in q, k and its row of the state flips that row of the final state only.",
    "D = Diag(1, .., -1, .., 1):  f(Dq, Dk, v, g, beta, DS) = (o, D S_T)",
)
def flipping_a_key_channel_flips_its_row(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    sign = np.ones(problem.K)
    sign[case.at % problem.K] = -1.0
    state = None if problem.initial_state is None else problem.initial_state * sign[:, None]
    expected = kernel(case)
    got = kernel(case, with_(problem, q=problem.q * sign, k=problem.k * sign, initial_state=state))
    if expected.final_state is not None:
        expected.final_state = expected.final_state * sign[:, None]
    return same_bits(parts(got), parts(expected), problem, case, "the flipped first call")


@law(
    "bitwise",
    "Where nothing was ever written, exactly zero is read.",
    "beta = 0, S_0 = 0  =>  o = 0, S_T = 0",
    adjust=with_fields(beta="zero", final_state=True),
)
def nothing_written_nothing_read(kernel: Kernel, case: Case) -> Judgement:
    problem = with_state(problem_of(case), None if case.state == "none" else np.zeros_like(_some_state(case)))
    problem = with_(problem, beta=np.zeros_like(problem.beta))
    got = parts(kernel(case, problem))
    judgement = same_bits(got, {name: np.zeros_like(x) for name, x in got.items()}, problem, case, "exactly zero")
    judgement.informative = problem.T > 0
    return judgement


def _some_state(case: Case) -> np.ndarray:
    state = problem_of(case).initial_state
    assert state is not None
    return state


@law(
    "bitwise",
    "Changing tokens from t on changes no bit of the output before t.",
    "x_s = y_s for s < t  =>  f(x)_s = f(y)_s for s < t",
)
def the_future_does_not_change_the_past(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    at = case.at % max(max(problem.lengths, default=1), 1)
    before, after = kernel(case).o.copy(), kernel(case, change_from(problem, at)).o.copy()
    for row, start, stop in problem.bounds():
        before[row, min(start + at, stop) : stop] = after[row, min(start + at, stop) : stop] = 0.0
    return same_bits({"o": after}, {"o": before}, problem, case, f"the output before tokens >= {at} were changed")


@law(
    "bitwise",
    "The same call gives the same bits; so do two calls that take turns.",
    "f(x), f(y), f(x), f(y):  the first and the third, the second and the fourth are equal",
    share=0.6,
)
def the_same_call_gives_the_same_bits(kernel: Kernel, case: Case) -> Judgement:
    problem, other = problem_of(case), case.but(seed=case.seed + 1)
    first, second = parts(kernel(case)), parts(kernel(other))
    judgement = same_bits(parts(kernel(case)), first, problem, case, "the first of two equal calls")
    if judgement.broken:
        return judgement
    return same_bits(parts(kernel(other)), second, problem, case, "the first of two equal calls")


@law(
    "bitwise",
    "Calls of other shapes and dtypes in between, refused ones among them, change nothing.",
    "f(x), f(y), f(z), .., f(x):  the first and the last are equal",
    share=0.6,
)
def calls_in_between_change_nothing(kernel: Kernel, case: Case) -> Judgement:
    problem, first = problem_of(case), parts(kernel(case))
    others = (
        case.but(T=case.T + 3, packed=(), B=1, gate_dtype="float32", edits=()),
        case.but(dtype="bfloat16" if case.dtype == "float32" else "float32", gate_dtype="same", v_log2=0),
        case.but(K=case.K + 1, V=case.V + 2, state="random", v_log2=0, edits=()),
        case.but(packed=(2, 0, 1), B=1, final_state=not case.final_state, scale=0.7, edits=()),
    )
    for other in others:
        try:
            kernel(other)
        except Refused:
            continue
        except Broke as broke:
            raise Broke(broke.status, f"the call {other!r} in between: {broke.message}") from None
    return same_bits(parts(kernel(case)), first, problem, case, "the first of two equal calls")


@law(
    "bitwise",
    "The dtype of g and beta is only a container: the same numbers in float32 give nearly the same result.",
    "f(.., g as float32, beta as float32) = f(.., g, beta), here up to one rounding of the output",
    adjust=lambda case: case.but(gate_dtype="same", dtype="bfloat16" if case.dtype == "float32" else case.dtype),
)
def the_gate_dtype_is_a_container(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    same, wide = kernel(case), kernel(case.but(gate_dtype="float32"), problem)
    return agree(Pair(same, wide, problem, "the call with the same numbers in float32"), case)
