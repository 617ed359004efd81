"""The laws of a kernel, in the order in which they find faults fastest. To add one, see CONTRIBUTING."""

from properties.law import LAWS

from properties.laws import (  # isort: skip  # noqa: F401
    oracle, gradients, bitwise, sequences, memory, arguments, refusal, channels, serving, raw, scale, quality
)  # fmt: skip

# These find most faults, each alone what the others cannot see. Those behind them are over at once on a kernel that
# does not offer what they ask for, or refuses as it should; the rest follow as their files have them.
FIRST = (
    "output_equals_the_recurrence",
    "final_state_equals_the_recurrence",
    "gradients_of_both_equal_the_adjoint",
    "the_future_does_not_change_the_past",
    "a_pool_call_serves_its_slots",
    "raw_tensors_are_mapped",
    "each_map_stands_alone",
    "configurations_agree",
    "malformed_input_is_refused",
    "foreign_tensors_are_refused",
    "packing_needs_one_row",
    "an_unknown_keyword_is_refused",
    "the_scale_is_honoured",
    "the_same_call_gives_the_same_bits",
    "inputs_are_unchanged",
    "strides_do_not_matter",
)
for name in [*FIRST, *(name for name in LAWS if name not in FIRST)]:
    LAWS[name] = LAWS.pop(name)

__all__ = ["LAWS"]
