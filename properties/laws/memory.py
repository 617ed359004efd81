"""Memory laws: inputs stay as they were, outputs are their own and complete, nothing outside a tensor is touched."""

import numpy as np

from kda_spec import Problem
from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import Pair, agree, parts
from properties.edits import change_from, with_
from properties.law import Judgement, law, need_state, same_bits, with_fields
from properties.pairs import expanded_and_copied, strided_and_contiguous


@law("memory", "The inputs, the state among them, are the same after the call as before.", "x after f(x) = x before")
def inputs_are_unchanged(kernel: Kernel, case: Case) -> Judgement:
    output = kernel(case)
    if output.mutated:
        return Judgement(np.inf, True, f"the call changed its input {', '.join(output.mutated)}")
    return Judgement(0.0, problem_of(case).T > 0)


@law(
    "memory",
    "No output shares memory with an input.",
    "storage(o), storage(S_T) differ from the storage of every input",
)
def outputs_alias_no_input(kernel: Kernel, case: Case) -> Judgement:
    output = kernel(case)
    if output.aliased:
        return Judgement(np.inf, True, f"{' and '.join(output.aliased)} share memory")
    return Judgement(0.0, output.o.size > 0)


def _uneven(case: Case) -> Case:
    """Packed sequences whose lengths give other boundaries in another order."""
    return case.but(packed=(*case.packed, case.packed[0] + 1)) if len(set(case.packed)) == 1 else case


def _other(problem: Problem) -> Problem:
    """Other numbers in the same shapes, the packed boundaries among them."""
    other = change_from(problem, 0)
    if problem.initial_state is not None:
        other = with_(other, initial_state=-problem.initial_state)
    if problem.cu_seqlens is None:
        return other
    lengths = np.diff(problem.cu_seqlens)
    return with_(other, cu_seqlens=np.concatenate([[0], np.cumsum(np.roll(lengths, 1))]))


@law(
    "memory",
    "A buffer that is filled anew is read anew: numbers, state and boundaries of packed sequences.",
    "x <- y; f(x); x <- z; f(x) = f(z)",
    adjust=_uneven,
)
def a_buffer_may_hold_new_numbers(kernel: Kernel, case: Case) -> Judgement:
    problem, plain = problem_of(case), kernel(case)
    got = kernel(case, earlier=_other(problem))
    relation = "the result in a buffer of its own (this one held other numbers in a call before)"
    return same_bits(parts(got), parts(plain), problem, case, relation)


@law(
    "memory",
    "What a call returned stays as it is when the kernel is called again.",
    "y = f(x); f(z); y = f(x) still",
    adjust=with_fields(final_state=True),
)
def a_later_call_leaves_results_alone(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    output = kernel(case, earlier=_other(problem))
    if output.overwritten:
        return Judgement(np.inf, True, f"the call changed {' and '.join(output.overwritten)} of the call before")
    return Judgement(0.0, output.o.size > 0)


@law(
    "memory",
    "A thread that has called nothing before gets the same result, bit for bit.",
    "f(x) in a new thread = f(x)",
)
def a_new_thread_gets_the_same(kernel: Kernel, case: Case) -> Judgement:
    # Autograd's is such a thread, a data loader's and a server's too.
    plain, got = kernel(case), kernel(case, thread=True)
    relation = "the result in the thread that loaded the kernel"
    return same_bits(parts(got), parts(plain), problem_of(case), case, relation)


@law(
    "memory",
    "What lies around the inputs is neither read nor written.",
    "f(x between NaN) = f(x between huge values) = f(x), and the surroundings keep their bits",
)
def nothing_outside_the_tensors_is_touched(kernel: Kernel, case: Case) -> Judgement:
    problem, plain = problem_of(case), kernel(case)
    for guard in ("nan", "huge"):
        output = kernel(case, guard=guard)
        if output.outside:
            return Judgement(np.inf, True, f"the call wrote outside its input {', '.join(output.outside)}")
        relation = f"the result without {guard} values around the inputs"
        judgement = same_bits(parts(output), parts(plain), problem, case, relation)
        if judgement.broken:
            return judgement
    return judgement


@law(
    "memory",
    "The gaps of a strided input are neither read nor written.",
    "f(every other element of a buffer whose rest is NaN, or huge) = f(x), and the rest keeps its bits",
    share=0.5,
)
def gaps_of_strided_inputs_are_not_read(kernel: Kernel, case: Case) -> Judgement:
    problem, plain = problem_of(case), kernel(case, layout="contiguous")
    nan, huge = (kernel(case, layout="strided", guard=guard) for guard in ("nan", "huge"))
    for output in (nan, huge):
        if output.outside:
            return Judgement(np.inf, True, f"the call wrote into the gaps of its input {', '.join(output.outside)}")
    judgement = agree(Pair(nan, plain, problem, "the result for contiguous inputs (the gaps hold NaN)"), case)
    if judgement.broken:
        return judgement
    return same_bits(parts(huge), parts(nan), problem, case, "the result with NaN in the gaps (these hold huge values)")


@law(
    "memory",
    "Strided, transposed and sliced inputs give the result of contiguous ones.",
    "f(view of x) = f(copy of x)",
)
def strides_do_not_matter(kernel: Kernel, case: Case) -> Judgement:
    return agree(strided_and_contiguous(kernel, case), case)


@law(
    "memory",
    "An expanded input, stored once with stride 0, gives the result of its written-out copy.",
    "f(g.expand(..)) = f(copy of it); the same for beta, q, v and the state",
    adjust=lambda case: case.but(layout="contiguous", edits=()),
    share=0.5,
)
def expanded_inputs_are_inputs(kernel: Kernel, case: Case) -> Judgement:
    return agree(expanded_and_copied(kernel, case), case)


@law(
    "memory",
    "Nothing is written outside the memory the kernel itself allocated, nor read from there.",
    "f(x) with bands of NaN around every allocation = f(x), and the bands keep their bits",
    share=0.5,
)
def nothing_outside_its_allocations_is_touched(kernel: Kernel, case: Case) -> Judgement:
    output = kernel(case, allocations=True)
    if output.stray:
        return Judgement(np.inf, True, f"the call wrote {output.stray[0]}")
    # Other addresses may round differently, so this compares budgets; what was read from a band is NaN.
    return agree(Pair(output, kernel(case), problem_of(case), "the result with ordinary memory"), case)


@law(
    "memory",
    "Every element of the output and of the final state is written.",
    "f(x) with fresh memory full of NaN = f(x)",
)
def outputs_are_written_completely(kernel: Kernel, case: Case) -> Judgement:
    # Torch fills memory in its deterministic mode, which may choose other algorithms: NaN is what would tell.
    return agree(
        Pair(kernel(case, poison=True), kernel(case), problem_of(case), "the result with ordinary memory"), case
    )


def _awkward(case: Case) -> Case:
    """Widths that no block divides, an empty sequence, a state asked for."""
    widths = {
        name: size if (size := getattr(case, name)) & (size - 1) else size + 1 + (size == 1) for name in ("K", "V")
    }
    return case.but(packed=case.packed if 0 in case.packed else (*case.packed, 0), B=1, final_state=True, **widths)


@law(
    "memory",
    "The final state is written completely: every row, for odd widths and for sequences without tokens.",
    "f(x)_S with fresh memory full of NaN = f(x)_S",
    adjust=_awkward,
    share=0.5,
)
def final_states_are_written_completely(kernel: Kernel, case: Case) -> Judgement:
    got, expected = kernel(case, poison=True), kernel(case)
    states = [{"final_state": need_state(output)} for output in (got, expected)]
    judgement = same_bits(*states, problem_of(case), case, "the result with ordinary memory")
    judgement.informative = True
    return judgement
