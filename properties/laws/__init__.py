"""The laws of a kernel, in the order in which they find faults fastest. To add one, see CONTRIBUTING."""

from properties.law import LAWS

from properties.laws import (  # isort: skip  # noqa: F401
    oracle, gradients, bitwise, sequences, memory, arguments, refusal, channels, serving, raw, scale, quality
)  # fmt: skip

# These find most faults (each alone what the others cannot see); the rest follow as their files have them.
FIRST = (
    "output_equals_the_recurrence",
    "final_state_equals_the_recurrence",
    "gradients_of_both_equal_the_adjoint",
    "the_future_does_not_change_the_past",
    "the_same_call_gives_the_same_bits",
    "calls_in_between_change_nothing",
    "malformed_input_is_refused",
    "inputs_are_unchanged",
    "strides_do_not_matter",
    "outputs_are_written_completely",
    "hundreds_of_copies_agree",
)
for name in [*FIRST, *(name for name in LAWS if name not in FIRST)]:
    LAWS[name] = LAWS.pop(name)

__all__ = ["LAWS"]
