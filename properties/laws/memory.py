"""Memory laws: inputs stay as they were, outputs are their own and complete, nothing outside a tensor is touched."""

import numpy as np

from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.law import Judgement, law, same_bits
from properties.laws.bitwise import _parts


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
        judgement = same_bits(_parts(output), _parts(plain), problem, case, relation)
        if judgement.broken:
            return judgement
    return judgement


@law(
    "memory",
    "Every element of the output and of the final state is written.",
    "f(x) with fresh memory full of NaN = f(x)",
)
def outputs_are_written_completely(kernel: Kernel, case: Case) -> Judgement:
    problem = problem_of(case)
    got, expected = kernel(case, poison=True), kernel(case)
    return same_bits(_parts(got), _parts(expected), problem, case, "the result with ordinary memory")
