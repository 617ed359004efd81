"""The Triton kernel with gradients: its backward against the adjoint, and as part of a compiled module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from properties.calls import Kernel
from properties.case import Case, build, cotangents
from properties.gradient_budgets import gradient_errors
from properties.process import Worker

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]

CASES = {
    "one token": Case(),
    "a ragged tail": Case(T=70, K=16, V=8, gate="typical", beta="to-two", state="random"),
    "wider than a block, odd": Case(T=17, K=35, V=67, gate="production", beta="random", state="random"),
    "one channel at -1000": Case(T=70, K=8, V=8, gate="channel", beta="random", state="random"),
    "everything at -1000": Case(T=18, K=8, V=8, gate="forget", state="random"),
    "a spike now and then": Case(T=130, K=8, V=8, gate="spike", key="cone", beta="near-one", state="random"),
    "packed, with lengths 0 and 1": Case(
        packed=(1, 0, 65, 17, 0), K=8, V=8, gate="mixed", beta="to-two", state="random"
    ),
    "grouped value heads": Case(T=20, H=2, group=3, K=8, V=4, gate="typical", beta="random"),
    "identical keys, beta = 2": Case(T=130, K=8, V=8, key="same", beta="two", state="random"),
    "strided inputs": Case(T=18, H=2, K=8, V=8, gate="typical", layout="transposed", state="random"),
}


@pytest.fixture(scope="module")
def kernel():
    with Worker("implementations.triton_training:triton_training", timeout=120) as worker:
        yield Kernel(worker)


def units(gradients, case, grad):
    """The largest error of every gradient in budget units."""
    problem = build(case)
    do, dstate = cotangents(case, problem)
    do, dstate = (do if grad in ("o", "both") else None), (dstate if grad in ("state", "both") else None)
    return {name: e.units for name, e in gradient_errors(gradients, problem, do, dstate, case.dtype).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_adjoint(kernel, name, dtype):
    case = CASES[name].but(dtype=dtype)
    found = kernel(case, grad="both")
    assert found.has_gradients
    errors = units(found.gradients, case, "both")
    assert max(errors.values()) < 1, errors
    nothing = {key: np.zeros_like(x) for key, x in found.gradients.items()}
    assert max(units(nothing, case, "both").values()) > 8


@pytest.mark.parametrize("grad", ["o", "state"])
def test_one_cotangent_may_be_missing(kernel, grad):
    case = Case(T=18, K=4, V=8, dtype="float16", gate="typical", state="random")
    assert max(units(kernel(case, grad=grad).gradients, case, grad).values()) < 1


def test_equal_calls_give_equal_gradients_whatever_else_is_in_the_batch(kernel):
    alone, among = (Case(T=20, B=B, K=8, V=8, dtype="bfloat16", gate="typical", state="random") for B in (1, 3))
    one, again, many = (kernel(case, grad="both").gradients for case in (alone, alone, among))
    for name, x in one.items():
        np.testing.assert_array_equal(x, again[name])
        np.testing.assert_array_equal(x, many[name][:1])


def test_a_compiled_module_trains_as_the_plain_one():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    script = Path(__file__).with_name("trained.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["largest"] > 0.1 and said["difference"] <= 1e-4 * said["largest"]
    assert said["state"] is None
    assert said["second"].startswith("gradients of gradients")
    assert said["checked"] == dict.fromkeys(said["checked"], "SUCCESS")
    assert len(said["checked"]) == 8
    assert said["watched"] == [["kda.chunked.default", "kda.chunked_backward.default"], True, [1, 19, 2, 16]]
    assert [alike for _, alike in said["foretold"]] == [True] * 4
    assert all(len(kernels) >= 4 for kernels, _ in said["foretold"])
