"""Scale laws: many sequences, many copies, long sequences. Small on a CPU; the large ones need a GPU and `nightly`."""

import numpy as np

from kda_spec import Problem
from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import Pair, against_truth, agree, parts, result
from properties.edits import TOKENS, change_from, with_
from properties.law import Judgement, law, same_bits
from properties.laws.gradients import against_the_adjoint
from properties.laws.sequences import an_untouched_state_is_kept_in_float32
from properties.numbers import draw_uniform

MILLION = 1_000_000


def _tiny(case: Case, T: int = 5) -> Case:
    widths = {name: min(getattr(case, name), 4) for name in ("K", "V")}
    return case.but(
        T=min(case.T, T), B=1, packed=(), H=1, group=min(case.group, 2), edits=(), final_state=True, **widths
    )


def _plain(case: Case) -> Case:
    """A thousand tokens, with nothing but dtypes and groups left, so that few cases differ: they take their time."""
    plain = {"v_log2": 0, "T": 1100, "gate": "zero", "key": "unit", "scale": None, "state": "random"}
    return _tiny(case).but(K=4, V=4, at=0, layout="contiguous", **plain)


def _long(kernel: Kernel, case: Case) -> Judgement:
    """Bit-exact laws on a long sequence: scaled values, and a future changed far behind the start."""
    problem, first = problem_of(case), kernel(case)
    scaled = with_(problem, v=2 * problem.v, initial_state=None)
    plain = first if problem.initial_state is None else kernel(case, with_(problem, initial_state=None))
    judgement = same_bits(parts(kernel(case, scaled)), parts(plain, 2.0, 2.0), problem, case, "twice the unscaled call")
    if judgement.broken:
        return judgement
    at = case.T - 1 - case.at
    after = kernel(case, change_from(problem, at)).o
    relation = f"the output before tokens >= {at} were changed"
    return same_bits({"o": after[:, :at]}, {"o": first.o[:, :at]}, problem, case, relation)


@law(
    "scale",
    "Two thousand tokens keep the laws that hold bit for bit.",
    "f(.., 2 v, ..) = 2 f(.., v, ..);  x_s = y_s for s < t  =>  f(x)_s = f(y)_s for s < t;  T = 2,000",
    adjust=lambda case: _tiny(case).but(v_log2=0, T=2000),
    share=0.1,
)
def two_thousand_tokens_keep_their_bits(kernel: Kernel, case: Case) -> Judgement:
    return _long(kernel, case)


@law(
    "scale",
    "What was written long ago, and nothing has erased since, is still read.",
    "o_t = scale S_t^T q_t for t up to 700, S_0 and the first tokens still making most of S_t",
    adjust=lambda case: _tiny(case).but(v_log2=0, T=700, K=4, gate="zero", key="unit", beta="tiny", scale=None),
    share=0.1,
)
def what_was_written_long_ago_is_still_read(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    strong = np.arange(case.T) < 4 + case.at % 4
    problem = with_(problem, beta=np.where(strong[None, :, None], 1.0, problem.beta))
    return against_truth(kernel(case, problem), problem, case)


@law(
    "scale",
    "A state that no token touches is handed on in float32 behind a thousand tokens too, whatever their dtype.",
    "g = 0, beta = 0, T = 1,100  =>  S_T = S_0, within the float32 budget",
    adjust=lambda case: _plain(case).but(beta="zero"),
    share=0.1,
)
def an_untouched_state_is_kept_a_thousand_tokens_long(kernel: Kernel, case: Case) -> Judgement:
    return an_untouched_state_is_kept_in_float32(kernel, case)


@law(
    "scale",
    "What was written a thousand tokens ago, and nothing has erased since, gets its gradient.",
    "d(<do, o> + <dS, S_T>) / d(q, k, v, g, beta, S_0), T = 1,100, nothing fading",
    adjust=lambda case: _plain(case).but(beta="tiny"),
    share=0.1,
)
def gradients_reach_back_a_thousand_tokens(kernel: Kernel, case: Case) -> Judgement:
    return against_the_adjoint(kernel, case, "both")


@law(
    "scale",
    "Gates summed long ago cost no accuracy: behind 1,920 tokens that forgot everything, small ones count in full.",
    "g_s = -90 for s < 1920, small from there on  =>  o_t, S_T of the recurrence",
    adjust=lambda case: _tiny(case).but(v_log2=0, T=2000, dtype="float32", gate="slow", key="unit", scale=None),
    share=0.1,
)
def gates_summed_long_ago_cost_nothing(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    # 1,920 is a multiple of every usual chunk size: a kernel that sums the gates of a chunk starts anew there.
    far = np.arange(case.T)[None, :, None, None] < 1920
    problem = with_(problem, g=np.where(far, -90.0, problem.g))
    return against_truth(kernel(case, problem), problem, case)


@law(
    "scale",
    "Thousands of short packed sequences, empty ones among them, give what each gives in a smaller call.",
    "f(packed x_1 .. x_N) = f(packed x_1 .. x_n), f(packed x_(n+1) .. x_N)",
    adjust=lambda case: _tiny(case).but(layout="contiguous", T=1, state="random" if case.state != "none" else "none"),
    share=0.1,
)
def thousands_of_sequences_are_independent(kernel: Kernel, case: Case) -> Judgement:
    problem = _many(case, 2000)
    cut = 1 + case.at
    whole = kernel(case, problem)
    first, second = (kernel(case, part) for part in _cut(problem, cut))
    states = [output.final_state for output in (first, second) if output.final_state is not None]
    joined = result(np.concatenate([first.o, second.o], axis=1), np.concatenate(states) if len(states) == 2 else None)
    return agree(Pair(whole, joined, problem, f"the result in two calls, cut behind sequence {cut}"), case)


def _many(case: Case, count: int) -> Problem:
    """`count` sequences of none to three tokens each."""
    lengths = np.floor(4 * draw_uniform(case.seed, "lengths", count)).astype(int)
    dense = problem_of(case.but(T=int(lengths.sum())))
    state = None
    if case.state != "none":
        state = np.float32(draw_uniform(case.seed, "states", count, dense.HV, dense.K, dense.V) - 0.5)
    return with_(dense, cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]), initial_state=state)


def _cut(problem: Problem, n: int) -> tuple[Problem, Problem]:
    assert problem.cu_seqlens is not None
    at, cu, state = int(problem.cu_seqlens[n]), problem.cu_seqlens, problem.initial_state
    halves = []
    parts_ = (slice(None, at), cu[: n + 1], slice(None, n)), (slice(at, None), cu[n:] - at, slice(n, None))
    for tokens, bounds, some in parts_:
        cut = {name: getattr(problem, name)[:, tokens] for name in TOKENS}
        halves.append(with_(problem, **cut, cu_seqlens=bounds, initial_state=None if state is None else state[some]))
    return halves[0], halves[1]


def _copies(kernel: Kernel, case: Case, times: int) -> Judgement:
    """The first, middle and last of many copies equal the sequence alone; the kernel's machine makes the copies."""
    problem = problem_of(case)
    one = kernel(case, problem)
    several = kernel(case, problem, tile=times, checked=False)
    if several.o.shape != (3 * problem.B, *one.o.shape[1:]):
        return Judgement(np.inf, True, f"o of {times} copies has shape {list(several.o.shape)}")
    judgements = []
    for place, o in zip(("first", "middle", "last"), np.split(several.o, 3), strict=True):
        relation = f"the call without copies (this is the {place} of {times})"
        judgements.append(agree(Pair(result(o), result(one.o), problem, relation), case))
        if judgements[-1].broken:
            break
    return judgements[-1]


@law(
    "scale",
    "Hundreds of copies of a batch row, or of a packed sequence, give what it gives alone.",
    "f(x, x, .., x) = (f(x), f(x), .., f(x))",
    adjust=lambda case: _tiny(case).but(packed=(2, 1) if case.packed or case.at % 2 else (), layout="contiguous"),
    share=0.15,
)
def hundreds_of_copies_agree(kernel: Kernel, case: Case) -> Judgement:
    return _copies(kernel, case, 257)


@law(
    "scale",
    "More than 65,535 rows or sequences give what each gives alone.",
    "f(x, x, .., x) = (f(x), f(x), .., f(x)), 70,000 copies",
    adjust=lambda case: _tiny(case).but(packed=(2, 1) if case.packed or case.at % 2 else (), layout="contiguous"),
    share=0.01,
    large=True,
)
def a_grid_axis_may_exceed_65535(kernel: Kernel, case: Case) -> Judgement:
    return _copies(kernel, case, 70_000)


def _beyond(case: Case) -> Case:
    """Rows of 1024 tokens, 8 heads and 128 channels in bfloat16: 2^20 elements each."""
    return Case(
        T=1024, H=8, K=128, V=128, dtype="bfloat16", gate="typical", packed=(1024,) if case.at % 2 else (),
        seed=case.seed, at=case.at % 2, final_state=False,
    )  # fmt: skip


@law(
    "scale",
    "Tensors of more than 2^31 elements are addressed in full.",
    "f(x, x, .., x) = (f(x), f(x), .., f(x)), 2^31 + 2^21 elements in q",
    adjust=_beyond,
    share=0.005,
    large=True,
)
def offsets_may_exceed_2_to_the_31(kernel: Kernel, case: Case) -> Judgement:
    return _copies(kernel, case, 2**11 + 2)


@law(
    "scale",
    "A million tokens keep the laws that hold bit for bit.",
    "f(.., 2 v, ..) = 2 f(.., v, ..);  x_s = y_s for s < t  =>  f(x)_s = f(y)_s for s < t;  T = 1,000,000",
    adjust=lambda case: _tiny(case).but(v_log2=0, T=MILLION, K=16, V=16),
    share=0.01,
    large=True,
)
def a_million_tokens_keep_their_bits(kernel: Kernel, case: Case) -> Judgement:
    return _long(kernel, case)
