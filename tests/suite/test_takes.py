"""A kernel that says what it takes is asked for that."""

import json
from pathlib import Path

import pytest
from warm import kda

from properties.case import Case
from properties.takes import fitting

NARROW = Path(__file__).with_name("narrow.py")


def test_a_case_becomes_one_that_the_kernel_takes():
    fit = fitting({"K": [64, 128], "dtype": ["bfloat16", "float16"]})
    assert fit(Case(K=1)).K == 64 and fit(Case(K=100)).K == 128 and fit(Case(K=256)).K == 128
    assert fit(Case()).dtype == "bfloat16" and fit(Case(dtype="float16")).dtype == "float16"
    assert fit(Case(V=3)).V == 3
    assert fitting({"gate": ["pinned", "slow"]})(Case(gate="forget")).gate == "pinned"
    assert fitting(None)(Case(K=5)) == Case(K=5)


@pytest.mark.parametrize("takes", [{"T": [1]}, {"K": []}])
def test_what_cannot_be_taken_is_said(takes):
    with pytest.raises(ValueError, match="takes"):
        fitting(takes)


def test_a_law_that_needs_more_than_the_kernel_takes_is_unsupported_and_says_so(tmp_path):
    arguments = ("check", f"{NARROW}:narrow", "--profile", "smoke", "--jobs", "1", "--out", tmp_path)
    laws = ("grouped_heads_are_repeated_heads", "values_and_states_superpose", "final_states_are_written_completely")
    done = kda(*arguments, *(part for law in laws for part in ("--law", law)), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()[1:]]
    found = {line["law"]: (line["status"], line["reason"]) for line in lines}
    heads, channels, states = (found[law] for law in laws)
    assert heads[0] == "unsupported" and 'needs group=2; HINTS["takes"] names 1' in heads[1]
    assert channels[0] == "unsupported" and "dtype='float32'" in channels[1]
    assert states == ("pass", None)  # odd widths are only a convenience there


def test_a_narrow_kernel_is_verified_where_it_works_and_says_where(tmp_path):
    arguments = ("check", f"{NARROW}:narrow", "--profile", "smoke", "--jobs", "1", "--law", "*recurrence")
    done = kda(*arguments, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[1])
    assert line["status"] == "pass" and line["refused"] == 0 and line["informative"] > 5
    assert {"asked only for K in [4, 8]", "asked only for gate in ['slow', 'zero']"} <= set(line["engine"])
    assert set(line["coverage"]["gate"]) == {"slow", "zero"}
    assert all(f"K={K}" not in line["worst_case"] for K in (1, 2, 3, 16))


@pytest.mark.parametrize("takes", ['{"dtypes": ("float32",)}', '{"gate": ("soft",)}'])
def test_what_no_kernel_takes_ends_with_one_sentence_and_status_2(takes, tmp_path):
    (tmp_path / "mine.py").write_text(f"HINTS = {{'takes': {takes}}}\n\n\ndef mine(q, k, v, g, beta, **options): ...\n")
    done = kda("check", "mine.py", "--profile", "smoke", cwd=tmp_path)
    assert done.returncode == 2 and 'HINTS["takes"]' in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_a_kernel_that_refuses_most_of_it_is_told_of_takes(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from implementations.torch_recurrent import torch_recurrent\n\n\n"
        "def mine(q, k, v, g, beta, **options):\n"
        "    if q.shape[-1] != 8:\n        raise ValueError('K = 8 only')\n"
        "    return torch_recurrent(q, k, v, g, beta, **options)\n"
    )
    done = kda("check", "mine.py", "--profile", "smoke", "--law", "output*", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "most often with: ValueError: K = 8 only" in done.stdout and 'HINTS = {"takes"' in done.stdout
