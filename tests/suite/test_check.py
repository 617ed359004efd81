"""`kda check` as its users meet it: planted faults, refusals, crashes, hangs, wrong arguments."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

from properties.case import parse

BROKEN = Path(__file__).with_name("broken.py")


def kda(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kda", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def check(function: str, tmp_path: Path, *options: str, command=warm.kda):
    """Exit status, text and result lines of one check."""
    done = command("check", f"{BROKEN}:{function}", "--jobs", "1", *options, cwd=tmp_path)
    path = tmp_path / "kda-results" / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][1:] if path.exists() else []
    assert "Traceback" not in done.stdout + done.stderr
    return done, lines


FAULTS = {
    "order_swapped": "output_equals_the_recurrence",
    "state_ignored_when_short": "output_equals_the_recurrence",
    "keyword_swallowed": "an_unknown_keyword_is_refused",
    "nan_when_forgetting": "output_equals_the_recurrence",
    "value_changed_in_place": "inputs_are_unchanged",
    "last_token_off": "output_equals_the_recurrence",
    "zeros": "output_equals_the_recurrence",
    "segfaults": "output_equals_the_recurrence",
    "exits": "output_equals_the_recurrence",
    "raises_system_exit": "output_equals_the_recurrence",
    "first_sequence_favoured": "the_order_of_sequences_does_not_matter",
    "first_channels_off": "value_channels_are_independent key_channels_are_alike",
    "default_scale_wrong": "a_default_may_be_left_out",
    "double_state_dropped": "mixed_dtypes_are_refused_or_right",
    "integers_accepted": "foreign_tensors_are_refused",
    "foreign_device_kills": "foreign_tensors_are_refused",
    "one_gate_broadcast": "malformed_input_is_refused",
    "scale_remembered": "calls_in_between_change_nothing",
    "scale_kept_by_thread": "a_new_thread_gets_the_same",
    "stride_zero_is_zero": "expanded_inputs_are_inputs",
    "reads_gaps": "gaps_of_strided_inputs_are_not_read",
    "writes_behind_its_output": "nothing_outside_its_allocations_is_touched",
    "empty_states_unwritten": "final_states_are_written_completely",
    "all_or_no_gradients": "any_input_may_ask_alone",
    "state_gradient_lost": "split_gradients_carry_over",
    "upstream_taken_for_contiguous": "upstream_strides_do_not_matter",
    "gradient_spent": "gradients_may_be_asked_for_twice",
    "state_gradient_in_half": "the_gradient_of_an_untouched_state_is_kept_in_float32",
    "rows_taken_for_dense": "strides_do_not_matter",
    "upstream_changed_in_place": "the_backward_pass_keeps_to_its_memory",
    "state_ignored_when_short ": "a_server_can_keep_the_states",
    "last_of_many_lost": "thousands_of_sequences_are_independent hundreds_of_copies_agree "
    "two_thousand_tokens_keep_their_bits",
}
PAIRS = [(function.strip(), law) for function, laws in FAULTS.items() for law in laws.split()]
END_THEIR_PROCESS = ("segfaults", "exits", "raises_system_exit")


@pytest.mark.parametrize(("function", "law"), PAIRS)
def test_a_planted_fault_is_falsified_small_and_replayed(function, law, tmp_path):
    command = kda if function in END_THEIR_PROCESS else warm.kda
    done, lines = check(function, tmp_path, "--law", law, command=command)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = lines
    case = parse(line["case"])
    assert len(set(case.changed) - set(line["set_by_law"])) <= 3, line["case"]
    assert line["seconds_to_failure"] < 10
    again = command(*shlex.split(line["replay"])[1:], cwd=tmp_path)
    assert again.returncode == 1 and line["status"] in again.stdout, again.stdout + again.stderr
    path = tmp_path / "kda-results/falsified" / f"{function}-{law}.case"
    from_file = command("replay", path, "--kernel", f"{BROKEN}:{function}", "--law", law, cwd=tmp_path)
    assert from_file.returncode == 1


def test_a_quality_that_lacks_is_told_and_accuses_nobody(tmp_path):
    done, (line,) = check("strength_in_half", tmp_path, "--law", "a_float32_strength_counts_in_full")
    assert line["status"] == "falsified" and line["quality"] and "beta counts as if" in line["message"]
    assert done.returncode == 2 and "no verdict" in done.stdout and "FALSIFIED" not in done.stdout, done.stdout


def test_the_stand_alone_script_shows_the_fault_without_the_suite(tmp_path):
    _, (line,) = check("last_token_off", tmp_path, "--law", "output_equals_the_recurrence")
    script = tmp_path / "kda-results" / line["script"]
    assert "properties" not in script.read_text() and "kda_spec" not in script.read_text()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    size, largest = map(float, re.search(r"recurrence\| (\S+), largest \|recurrence\| ([^,]+),", done.stdout).groups())
    assert size > 0.05 * largest > 0


@pytest.mark.parametrize("function", ["rows_taken_for_dense", "reads_gaps"])
def test_the_stand_alone_script_lays_the_inputs_out(function, tmp_path):
    law = {"reads_gaps": "gaps_of_strided_inputs_are_not_read"}.get(function, "strides_do_not_matter")
    _, (line,) = check(function, tmp_path, "--law", law)
    script = tmp_path / "kda-results" / line["script"]
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert re.search(r"recurrence\| nan|differ from the call before: [1-9]", done.stdout), done.stdout


def test_a_hang_is_a_verdict_and_leaves_nothing_running(tmp_path):
    start = time.monotonic()
    done, (line,) = check(
        "hangs",
        tmp_path,
        "--law",
        "output_equals_the_recurrence",
        "--timeout",
        "0.5",
        "--profile",
        "smoke",
        command=kda,
    )
    assert done.returncode == 1 and line["status"] == "timeout"
    assert time.monotonic() - start < 60
    time.sleep(0.5)
    alive = subprocess.run(["pgrep", "-f", f"{BROKEN}:hangs"], capture_output=True, text=True)
    assert alive.stdout == ""


def test_a_crash_under_one_law_leaves_the_others_standing(tmp_path):
    done, lines = check(
        "exits",
        tmp_path,
        "--law",
        "packed_sequences*",
        "--law",
        "a_batch_row_is*",
        "--law",
        "a_neutral*",
        "--profile",
        "smoke",
        command=kda,
    )
    statuses = {line["law"]: line["status"] for line in lines}
    assert done.returncode == 1 and statuses == {
        "packed_sequences_are_independent": "crash",
        "a_batch_row_is_independent": "pass",
        "a_neutral_token_changes_nothing": "pass",
    }


def test_a_kernel_that_refuses_everything_is_unusable_not_verified(tmp_path):
    done, lines = check("refuses_everything", tmp_path, "--profile", "smoke", command=kda)
    assert done.returncode == 2 and "unusable" in done.stdout
    assert {line["status"] for line in lines} == {"unsupported", "not-run"}
    assert all("GPU" in line["reason"] for line in lines if line["status"] == "not-run")


def test_what_a_kernel_refuses_is_unsupported_and_counted(tmp_path):
    _, lines = check("order_swapped", tmp_path, "--law", "packed_sequences_are_independent", "--profile", "smoke")
    assert lines[0]["status"] == "unsupported" and lines[0]["refused"] == lines[0]["tried"] > 0
    assert "packed sequences" in lines[0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "no_such_kernel"], "TARGET: expected a shipped name"),
        (["check", "missing.py:kernel"], "the file missing.py does not exist"),
        (["check", f"{BROKEN}:nothing"], "has no function 'nothing'"),
        (["check", f"{BROKEN}:NOT_A_FUNCTION"], "is not callable"),
        (["check", f"{BROKEN}:wrong_signature"], "does not have the contract's signature"),
        (["check", "no.such.module:kernel"], "No module named"),
        (["check", "numpy_loop", "--law", "no_such_law*"], "no law matches no_such_law*"),
        (["check", "numpy_loop", "--proflie", "dev"], "No such option"),
        (["check", "numpy_loop", "--profile", "fast"], "is not one of"),
        (["check", "numpy_loop", "--device", "cuda"], "not run: --device cuda needs a GPU"),
        (["replay", "Case(T=3, speed=2)", "--kernel", "numpy_loop"], "Case has no field speed"),
        (["replay", "Case(gate='soft')", "--kernel", "numpy_loop"], "Case.gate: expected one of"),
        (["replay", "import os", "--kernel", "numpy_loop"], "CASE: expected one line such as"),
        (["new", "two words"], "NAME: expected a Python identifier"),
    ],
)
def test_wrong_arguments_end_with_status_two_and_one_paragraph(arguments, words, tmp_path):
    if "cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    done = kda(*arguments, cwd=tmp_path)
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2 and words in text, text
    assert "Traceback" not in text


def test_the_starter_file_already_passes(tmp_path):
    assert kda("new", "mine", cwd=tmp_path).returncode == 0
    done = kda("check", "mine.py:mine", "--profile", "smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "holds" in done.stdout
    assert kda("new", "mine", cwd=tmp_path).returncode == 2


def test_the_list_names_kernels_and_laws(tmp_path):
    done = kda("list", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("torch_chunked", "the_future_does_not_change_the_past", "bitwise"):
        assert word in done.stdout


def test_the_same_seed_gives_the_same_results(tmp_path):
    def run(folder: str):
        warm.kda(
            "check",
            "numpy_loop",
            "--profile",
            "smoke",
            "--law",
            "output*",
            "--jobs",
            "1",
            "--out",
            folder,
            cwd=tmp_path,
        )
        line = json.loads((tmp_path / folder / "results.jsonl").read_text().splitlines()[1])
        return {name: line[name] for name in ("tried", "informative", "worst", "worst_case", "coverage")}

    assert run("a") == run("b")


def test_pytest_shows_the_same_laws(tmp_path):
    arguments = ["-q", "-p", "no:cacheprovider", "properties/test_kernels.py", "-k", "inputs_are_unchanged"]
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", *arguments, "--kernel", f"{BROKEN}:value_changed_in_place"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "the call changed its input v" in done.stdout, done.stdout


def test_an_interruption_of_one_process_ends_all_at_once(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nHINTS = {'array': 'numpy'}\n\n\ndef slow(q, k, v, g, beta, **options):\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "kda", "check", f"{slow}:slow", "--jobs", "2", "--out", str(tmp_path / "out")]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  (a shell's background jobs ignore it)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard
    ) as process:
        time.sleep(5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=50)[0]
    assert process.returncode == 130 and "interrupted after 0" in said, said
    assert time.monotonic() - start < 10
