"""Triton's interpreter without repeated work: fewer names put in place, the same bits, also behind a failed launch."""

import os
import subprocess
import sys

import pytest

from properties.calls import Kernel
from properties.case import Case
from properties.laws import LAWS
from properties.process import Worker

pytest.importorskip("triton")

PROGRAM = """
import torch
import triton
import triton.language as tl
import triton.runtime.interpreter as interpreter
from implementations.triton_training import triton_training
from properties.interpreter import CHANGES, hasten


@triton.jit
def _double(x):
    return 2 * x


@triton.jit
def refuses(out_ptr):
    tl.store(out_ptr, _double(tl.load(out_ptr)))
    tl.static_assert(False)


@triton.jit
def numbers(x_ptr, out_ptr, n):
    place = tl.arange(0, 8)
    x = tl.load(x_ptr + place, mask=place < n, other=-0.0)
    whole = (place + True) * 2 - n // 2
    square = tl.where(place[:, None] == place[None, :], x[:, None] * 2, x[None, :] - 1)
    tl.store(out_ptr + place, x * 0.0)
    tl.store(out_ptr + 8 + place, x * -0.0)
    tl.store(out_ptr + 16 + place, whole * 0.5 / (1 + place))
    tl.store(out_ptr + 24 + place, (place > 1) * whole + square.sum(0))
    tl.store(out_ptr + 32 + place, x.to(tl.bfloat16).to(tl.float32))


def call(dtype=torch.float32):
    source = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(shape, generator=source).to(dtype).requires_grad_()
    q, k, v, g, beta = draw(1, 20, 1, 4), draw(1, 20, 1, 4), draw(1, 20, 2, 3), draw(1, 20, 2, 4), draw(1, 20, 2)
    o, state = triton_training(q, k, v, -g, beta, output_final_state=True)
    (o.sum() + state.square().sum()).backward()
    return [x.float().numpy(force=True).tobytes() for x in (o, state, *(x.grad for x in (q, k, v, g, beta)))]


def counted():
    found = []
    for size in (1.0, 1e-38, float("inf")):
        out = torch.empty(40)
        numbers[(1,)](size * torch.linspace(-3, 2, 8), out, 7)
        found.append(out.numpy().tobytes())
    return found


looked = []
place = interpreter._patch_builtin
interpreter._patch_builtin = lambda *args: (looked.append(1), place(*args))[1]
first, half, brain = call(), call(torch.float16), call(torch.bfloat16)
count = counted()
looked.clear()
assert call() == first
before = len(looked)
done = hasten()
assert len(done) >= len(CHANGES) - 1, done  # Triton 3.6 sums without looking for overflow
assert not hasten()
looked.clear()
assert call() == first
assert 0 < len(looked) < before / 10, (len(looked), before)
try:
    refuses[(1,)](torch.ones(1))
except Exception as error:
    print("refused:", type(error).__name__)
assert not hasattr(tl.tensor, "__index__") and tl.core.is_builtin(tl.load)
for _ in range(2):  # what the first call finds out, the second one uses
    assert call() == first and call(torch.float16) == half and call(torch.bfloat16) == brain
    assert counted() == count
interpreter.__dict__.pop("_patch_lang")
interpreter.hastened = False
assert "_names" not in hasten()
"""


def test_names_are_put_in_place_once_for_a_launch_and_bits_stay():
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "refused" in done.stdout, done.stdout + done.stderr


def test_what_fades_below_the_smallest_normal_number_is_nearly_nothing():
    # The interpreter casts 1e-40 to bfloat16 numbers of 1e-38, and the state is as large as 3e4.
    case = Case(
        T=16, group=2, K=16, V=12, dtype="bfloat16", gate_dtype="float32", gate="token", key="tiny", beta="random",
        state="huge", scale=0.125,
    )  # fmt: skip
    with Worker("triton_chunked", device="cpu", timeout=120.0) as worker:
        worker.start()
        judgement = LAWS["the_initial_state_is_honoured"].check(Kernel(worker), case)
    assert judgement.units < 1 and judgement.informative
