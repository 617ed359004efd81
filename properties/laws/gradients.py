"""Gradient laws, for kernels whose output carries gradients: against the adjoint, and structural ones."""

import numpy as np

from kda_spec import adjoint
from properties.calls import Broke, Kernel, Output, Refused, problem_of
from properties.case import Case, cotangents
from properties.compare import BOTH
from properties.edits import TOKENS, alone, window, with_state
from properties.gradient_budgets import beyond, gradient_errors
from properties.law import Judgement, judge, law, need_state, with_fields, worst_of


def _with_gradients(kernel: Kernel, case: Case, grad: str, **more: object) -> Output:
    output = kernel(case, grad=grad, **more)  # type: ignore[arg-type]
    if not output.has_gradients:
        raise Refused("the output carries no gradients")
    return output


def against_the_adjoint(kernel: Kernel, case: Case, grad: str) -> Judgement:
    """Gradients of "o", of the "state" or of "both" within the adjoint's budgets."""
    do, dstate = cotangents(case, problem_of(case))
    output = _with_gradients(kernel, case, grad)
    return _equal_the_adjoint(output.gradients, case, do if grad != "state" else None, dstate if grad != "o" else None)


def _equal_the_adjoint(
    gradients: dict[str, np.ndarray], case: Case, do: np.ndarray | None, dstate: np.ndarray | None, room: float = 1.0
) -> Judgement:
    """Gradients within `room` budgets of the adjoint's."""
    problem = problem_of(case)
    for name, x in gradients.items():  # their dtypes are their inputs': torch's engine sees to that
        if x.shape != np.shape(getattr(problem, name)):
            raise Broke("falsified", f"the gradient of {name} has shape {list(x.shape)}")
    errors = gradient_errors(gradients, problem, do, dstate, case.dtype)
    judgements = []
    for name, error in errors.items():
        error.units /= room
        judgements.append(judge(f"d{name}", error, problem, problem.T > 0, "the adjoint"))
    return worst_of(judgements)


@law(
    "gradient",
    "The gradients of the output equal the adjoint's, within their budgets.",
    "d<do, o> / d(q, k, v, g, beta, S_0)",
)
def gradients_of_the_output_equal_the_adjoint(kernel: Kernel, case: Case) -> Judgement:
    return against_the_adjoint(kernel, case, "o")


@law(
    "gradient",
    "The gradients of the final state equal the adjoint's, within their budgets.",
    "d<dS, S_T> / d(q, k, v, g, beta, S_0)",
    adjust=with_fields(final_state=True),
)
def gradients_of_the_state_equal_the_adjoint(kernel: Kernel, case: Case) -> Judgement:
    return against_the_adjoint(kernel, case, "state")


@law(
    "gradient",
    "The gradients of output and final state together equal the adjoint's, within their budgets.",
    "d(<do, o> + <dS, S_T>) / d(q, k, v, g, beta, S_0)",
    adjust=with_fields(final_state=True),
)
def gradients_of_both_equal_the_adjoint(kernel: Kernel, case: Case) -> Judgement:
    return against_the_adjoint(kernel, case, "both")


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
    output, problem = _with_gradients(kernel, case, "both"), problem_of(case)
    truth = adjoint(problem, *cotangents(case, problem)) if case.dtype == "float16" else output.gradients
    for name, gradient in output.gradients.items():
        x = beyond(gradient, truth[name], case.dtype)
        if not np.all(np.isfinite(x)):
            where = dict(
                zip(("row", "token", "head", "channel"), map(int, np.argwhere(~np.isfinite(x))[0]), strict=False)
            )
            return Judgement(np.inf, True, f"the gradient of {name} is not finite", where)
    return Judgement(0.0, problem.T > 0)


@law(
    "gradient",
    "Gradients of some inputs alone are what they are among all.",
    "only x requires gradients  =>  the same dx",
    adjust=with_fields(final_state=True),
    share=0.5,
)
def any_input_may_ask_alone(kernel: Kernel, case: Case) -> Judgement:
    do, dstate = cotangents(case, problem_of(case))
    whole = _with_gradients(kernel, case, "both")
    names = sorted(whole.gradients)
    some = [name for n, name in enumerate(names) if case.at >> n & 1] or [names[case.at % len(names)]]
    alone_ = kernel(case, grad="both", track=some)
    if not alone_.has_gradients:
        if problem_of(case).T == 0:
            return Judgement(0.0, False)  # no token, so nothing that the output could depend on
        return Judgement(np.inf, True, f"no gradients where only {', '.join(some)} asks for them")
    return _equal_the_adjoint(alone_.gradients, case, do, dstate)


@law(
    "gradient",
    "The gradients of packed sequences are those of each alone.",
    "d f(packed x_1 .. x_N) / dx_n = d f(x_n) / dx_n",
    adjust=lambda case: case.but(packed=case.packed or (case.T, 1, case.T // 2), B=1, final_state=True),
    share=0.5,
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
    return worst_of([_equal_the_adjoint(each, case, do, dstate) for each in (whole, together)])


@law(
    "gradient",
    "Splitting a sequence and handing state and state gradient over gives the gradients of one call.",
    "(o1, S1) = f(x[:t], S), (o2, S2) = f(x[t:], S1), dS1 from the second call's backward pass  =>  the same dx, dS",
    adjust=lambda case: case.but(final_state=True, packed=(), T=max(case.T, 2)),
    share=0.5,
)
def split_gradients_carry_over(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    do, dstate = cotangents(case, problem)
    at = 1 + case.at % (problem.T - 1)
    first, second = window(problem, 0, at), window(problem, at)
    carried = need_state(kernel(case, first))
    late = _with_gradients(kernel, case, "both", problem=with_state(second, carried), do=do[:, at:], dstate=dstate)
    handed = late.gradients["initial_state"]
    early = _with_gradients(kernel, case, "both", problem=first, do=do[:, :at], dstate=handed)
    joined = {name: np.concatenate([early.gradients[name], late.gradients[name]], axis=1) for name in TOKENS}
    if "initial_state" in early.gradients:
        joined["initial_state"] = early.gradients["initial_state"]
    # The second call starts from a state that may itself be a budget off.
    return _equal_the_adjoint(joined, case, do, dstate, room=BOTH)


@law(
    "gradient",
    "Strided, transposed, sliced and expanded upstream gradients give the gradients of contiguous ones.",
    "vjp(view of (do, dS)) = vjp(copy of (do, dS)), within the budget",
    adjust=lambda case: case.but(final_state=True, layout="contiguous"),
    share=0.5,
)
def upstream_strides_do_not_matter(kernel: Kernel, case: Case) -> Judgement:
    problem, layout = problem_of(case), ("expanded", "strided", "transposed", "sliced")[case.at % 4]
    do, dstate = cotangents(case, problem)
    if layout == "expanded":  # what o.sum().backward() hands down
        do, dstate = np.ones_like(do), np.ones_like(dstate)
    output = _with_gradients(kernel, case, "both", do=do, dstate=dstate, cotangents=layout)
    if output.mutated:
        return Judgement(np.inf, True, f"the call or its backward pass changed {', '.join(output.mutated)}")
    return _equal_the_adjoint(output.gradients, case, do, dstate)


@law(
    "gradient",
    "The backward pass writes its gradients completely, reads nothing it did not write, and leaves its inputs alone.",
    "vjp with fresh memory full of NaN = vjp; with NaN around the inputs = vjp",
    adjust=lambda case: case.but(final_state=True),
    share=0.5,
)
def the_backward_pass_keeps_to_its_memory(kernel: Kernel, case: Case) -> Judgement:
    do, dstate = cotangents(case, problem_of(case))
    judgements = []
    for how in ({"poison": True}, {"guard": "nan"}, {"allocations": True}):
        output = _with_gradients(kernel, case, "both", **how)
        touched = [f"changed its input {x}" for x in output.mutated]
        touched += [f"wrote around its input {x}" for x in output.outside] + [f"wrote {x}" for x in output.stray]
        if touched:
            return Judgement(np.inf, True, f"the call or its backward pass {touched[0]}")
        judgements.append(_equal_the_adjoint(output.gradients, case, do, dstate))
    return worst_of(judgements)


@law(
    "gradient",
    "A second backward pass through one call gives the gradients of the first.",
    "y = f(x); vjp_y(dy); vjp_y(dy) = dx",
    adjust=with_fields(final_state=True),
    share=0.25,
)
def gradients_may_be_asked_for_twice(kernel: Kernel, case: Case) -> Judgement:
    do, dstate = cotangents(case, problem_of(case))
    second = _with_gradients(kernel, case, "both", twice=True)
    return _equal_the_adjoint(second.gradients, case, do, dstate)


def _plain_sum(case: Case) -> Case:
    state = "random" if case.state == "none" else case.state
    return case.but(
        T=max(case.T, 65 if case.at % 2 else 1), packed=(), gate="zero", beta="zero", edits=(), scale=1.0,
        final_state=True, state=state,
    )  # fmt: skip


@law(
    "gradient",
    "Where nothing fades and nothing is written, the state's gradient is a sum kept in float32, whatever the dtype.",
    "g = 0, beta = 0, scale = 1  =>  dS_0 = dS + sum_t q_t do_t^T, within the float32 budget",
    adjust=_plain_sum,
    share=0.25,
)
def the_gradient_of_an_untouched_state_is_kept_in_float32(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    do, dstate = cotangents(case, problem)
    output = _with_gradients(kernel, case, "both")
    # q and do are exact in their own dtype, so that a product rounds nothing by taking its operands in it.
    got = {"initial_state": output.gradients["initial_state"]}
    errors = gradient_errors(got, problem, do, dstate, "float32")["initial_state"]
    return judge("dinitial_state", errors, problem, problem.T > 0, "the adjoint")
