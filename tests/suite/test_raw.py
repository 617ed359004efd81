"""The raw form of `triton_chunked`: what it lacks is said, and a wrong map is falsified."""

import subprocess
import sys
from pathlib import Path

import pytest
from warm import kda

pytest.importorskip("triton")

SCRIPT = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from implementations.triton_chunked import triton_chunked
x = torch.ones(1, 3, 2, 4)
two, safe = {"A_log": torch.zeros(2)}, {"A_log": torch.zeros(2), "safe_gate": True}
for wrong in ({}, {"A_log": torch.zeros(3)}, two | {"dt_bias": torch.zeros(2, 3)}, safe, safe | {"lower_bound": 1.0}):
    try:
        triton_chunked(x, x, x, -x, x[..., 0], use_gate_in_kernel=True, **wrong)
    except ValueError as error:
        print(error)
"""
BROKEN = """
from implementations.triton_chunked import HINTS, triton_chunked


def doubled(*arguments, allow_neg_eigval=False, **options):
    return triton_chunked(*arguments, **options)


def unbiased(*arguments, dt_bias=None, **options):
    return triton_chunked(*arguments, **options)
"""


def test_a_missing_or_wrong_parameter_is_named():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    starts = [
        "A_log: use_gate_in_kernel expects 2 numbers",
        "A_log: ",
        "dt_bias: expected 2 x 4",
        "lower_bound: ",
        "lower_bound: ",
    ]
    assert len(lines) == 5 and all(a.startswith(b) for a, b in zip(lines, starts, strict=True)), (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize("function", ["doubled", "unbiased"])
def test_a_parameter_that_is_swallowed_is_falsified(function, tmp_path):
    file = Path(tmp_path, "broken_raw.py")
    file.write_text(BROKEN)
    done = kda("check", f"{file}:{function}", "--law", "raw_tensors*", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 1 and "raw_tensors_are_mapped" in done.stdout, done.stdout + done.stderr
