"""The faults that the suite once missed are found, each by the law added for it, and not in the honest base."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from warm import kda

from properties.runner import Record

ROOT = Path(__file__).parents[2]
FAULTY = "implementations.faulty"
HONEST = (f"{FAULTY}._base:honest", f"{FAULTY}._base_plain:honest_plain")
MISSED = {
    "blind:carried_state_in_half": "an_untouched_state_is_kept_in_float32",
    "blind:gates_summed_over_the_sequence": "gates_summed_long_ago_cost_nothing",
    "blind:updates_in_half": "large_values_with_a_small_scale_give_the_same",
    "blind:window": "what_was_written_long_ago_is_still_read",
    "blind:boundaries_by_address": "a_buffer_may_hold_new_numbers",
    "blind:state_in_a_kept_buffer": "a_later_call_leaves_results_alone",
    "blind_fourth:forgets_by_the_first_block": "final_state_equals_the_recurrence",
    "blind_fourth:state_between_segments_in_half": "an_untouched_state_is_kept_a_thousand_tokens_long",
    "blind_fourth:last_value_tile_added_twice": "final_state_equals_the_recurrence",
    "blind_fourth:split_sums_of_an_odd_width": "output_equals_the_recurrence",
    "blind_fourth:state_gradient_cut_between_segments": "gradients_reach_back_a_thousand_tokens",
}
# Laws that once accused every kernel which leaves devices to torch, multiplies views, or writes slices under autograd.
UNJUST = (
    "foreign_tensors_are_refused",
    "strides_do_not_matter",
    "expanded_inputs_are_inputs",
    "gaps_of_strided_inputs_are_not_read",
    "nothing_outside_its_allocations_is_touched",
    "the_backward_pass_keeps_to_its_memory",
)


def statuses(tmp_path: Path, target: str, *laws: str) -> dict[str, str]:
    """Status by law of one `kda check`."""
    named = [x for law in laws for x in ("--law", law)]
    done = kda("check", target, *named, "--jobs", "1", "--out", tmp_path, cwd=ROOT)
    assert "Traceback" not in done.stdout + done.stderr
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    return {line["law"]: line["status"] for line in lines if line["kind"] == "law"}


@pytest.mark.parametrize(("fault", "law"), MISSED.items())
def test_what_was_missed_is_found_by_its_law(fault, law, tmp_path):
    assert statuses(tmp_path, f"{FAULTY}.{fault}", law) == {law: "falsified"}


@pytest.mark.parametrize("kernel", HONEST)
def test_the_base_without_a_fault_keeps_these_laws(kernel, tmp_path):
    laws = {*MISSED.values(), *UNJUST}
    assert statuses(tmp_path, kernel, *laws) == dict.fromkeys(laws, "pass")


def test_columns_that_fill_no_block_are_looked_at_forwards(tmp_path):
    law = "output_equals_the_recurrence"
    assert statuses(tmp_path, f"{FAULTY}.blind:value_tail_with_another_strength", law) == {law: "falsified"}


def test_errors_without_a_size_can_be_written():
    record = Record(
        "kernel", "law", "family", "Sentence.", "equation", worst=float("nan"), units_by_token=[1.0, np.inf]
    )
    line = json.loads(json.dumps(record.line(), allow_nan=False))
    assert line["worst"] == 1e30 and line["units_by_token"] == [1.0, 1e30]
