"""The faults that the suite once missed are found, each by the law added for it, and not in the honest base."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from properties.runner import Record

ROOT = Path(__file__).parents[2]
BLIND, HONEST = "implementations.faulty.blind", "implementations.faulty._base:honest"
MISSED = {
    "carried_state_in_half": "an_untouched_state_is_kept_in_float32",
    "gates_summed_over_the_sequence": "gates_summed_long_ago_cost_nothing",
    "updates_in_half": "large_values_with_a_small_scale_give_the_same",
    "window": "what_was_written_long_ago_is_still_read",
    "boundaries_by_address": "a_buffer_may_hold_new_numbers",
    "state_in_a_kept_buffer": "a_later_call_leaves_results_alone",
}


def statuses(tmp_path: Path, target: str, *laws: str) -> dict[str, str]:
    """Status by law of one `kda check`."""
    named = [x for law in laws for x in ("--law", law)]
    command = [sys.executable, "-m", "kda", "check", target, *named, "--jobs", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    return {line["law"]: line["status"] for line in lines if line["kind"] == "law"}


@pytest.mark.parametrize(("fault", "law"), MISSED.items())
def test_what_was_missed_is_found_by_its_law(fault, law, tmp_path):
    assert statuses(tmp_path, f"{BLIND}:{fault}", law) == {law: "falsified"}


def test_the_base_without_a_fault_keeps_these_laws(tmp_path):
    assert statuses(tmp_path, HONEST, *MISSED.values()) == dict.fromkeys(MISSED.values(), "pass")


def test_columns_that_fill_no_block_are_looked_at_forwards(tmp_path):
    law = "output_equals_the_recurrence"
    assert statuses(tmp_path, f"{BLIND}:value_tail_with_another_strength", law) == {law: "falsified"}


def test_errors_without_a_size_can_be_written():
    record = Record(
        "kernel", "law", "family", "Sentence.", "equation", worst=float("nan"), units_by_token=[1.0, np.inf]
    )
    line = json.loads(json.dumps(record.line(), allow_nan=False))
    assert line["worst"] == 1e30 and line["units_by_token"] == [1.0, 1e30]
