"""Memory laws: inputs stay as they were, outputs are their own and complete, nothing outside a tensor is touched."""

import numpy as np

from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import Pair, agree, parts
from properties.law import Judgement, law, need_state, same_bits


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
    for guard in ("nan", "huge"):
        output = kernel(case, layout="strided", guard=guard)
        if output.outside:
            return Judgement(np.inf, True, f"the call wrote into the gaps of its input {', '.join(output.outside)}")
        relation = f"the result for contiguous inputs (the gaps hold {guard} values)"
        judgement = same_bits(parts(output), parts(plain), problem, case, relation)
        if judgement.broken:
            break
    return judgement


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
