"""Packed calls: their tables are made where cu_seqlens lies, and what it holds is judged behind the launches."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from implementations import _triton_plan
from implementations._triton_plan import judgement

ROOT = Path(__file__).parents[2]

HASTENED = """
from properties.interpreter import hasten
hasten()
"""

TABLES = """
import itertools
import random
import torch
from implementations._triton_plan import CHUNK, FEW, _dense, _packed, packed_chunks


def same(found, wanted):
    assert found[: len(wanted)].equal(wanted) and not found[len(wanted) :].any(), (found, wanted)


def compare(values, T, segment, dtype):
    cu = torch.tensor(values, dtype=dtype)
    risen = list(itertools.accumulate((min(max(x, 0), T) for x in values), max))
    cuts = tuple(itertools.pairwise(risen))
    found, wanted = _packed(cu, len(cuts), T, segment), _dense(cuts, segment, "cpu")
    same(found.chunks, wanted.chunks)
    same(found.sequences, wanted.sequences)
    rows = found.segments[: len(wanted.segments)]
    same(torch.cat([rows[rows[:, 6].argsort()], found.segments[len(rows) :]]), wanted.segments)
    assert found.divided == (segment > 0 and T > segment * CHUNK) and found.divided >= wanted.divided
    if len(cuts) <= FEW:
        lengths = [cuts[n][1] - cuts[n][0] for n in rows[:, 2].tolist()]
        assert [-(-x // CHUNK) for x in lengths] == sorted((-(-x // CHUNK) for x in lengths), reverse=True)
    chunks, bounds, starts = packed_chunks(cu, len(cuts), T, 16)
    each = [[(t, stop) for t in range(start, stop, 16)] for start, stop in cuts]
    same(chunks, torch.tensor([x for part in each for x in part], dtype=torch.int64).reshape(-1, 2))
    assert bounds.tolist() == risen
    assert starts.tolist() == [0, *itertools.accumulate(len(part) for part in each)][:-1]


draw = random.Random(0)
for N, segments in ((1, (0, 2, 16)), (2, (0, 2, 16)), (FEW, (0, 2)), (FEW + 1, (0, 2)), (150, (2,))):
    for segment in segments:
        lengths = [draw.choice([0, 1, 63, 64, 65, 128, 129, 700]) for _ in range(N)]
        ends = [0, *itertools.accumulate(lengths)]
        compare(ends, ends[-1], segment, draw.choice([torch.int32, torch.int64]))
compare([0, 0, 0], 0, 2, torch.int64)
compare([0, 3, 100], 100, 0, torch.uint8)
wrong = [5, 900], [-7, 40, 20, 2**40, 0, 90], [300, 300, 1], [0, 200, 0, 200, 0, 200, 100], [150, *[7] * 80, 170]
for values in wrong:
    compare(values, 200, 2, torch.int64)
"""

IDLE = """
import torch
from implementations.triton_chunked import triton_chunked

allocated, empty = [], torch.empty


def poisoned(*size, **options):
    x = empty(*size, **options)
    allocated.append(x.fill_(float("nan") if x.is_floating_point() else 7_777_777))
    return x


def inputs(lengths, dtype):
    source, T = torch.Generator().manual_seed(0), sum(lengths)
    draw = lambda *size: torch.rand(size, generator=source)
    q, k, v = (draw(1, T, 1, 16).to(dtype) / 4 for _ in range(3))
    return (q, k, v, -draw(1, T, 1, 16).to(dtype), draw(1, T, 1).to(dtype)), draw(len(lengths), 1, 16, 16)


def run(lengths, configuration, dtype=torch.bfloat16):
    x, state = inputs(lengths, dtype)
    cu = torch.tensor([0, *lengths]).cumsum(0)
    options = {"output_final_state": True, "configuration": configuration}
    return triton_chunked(*x, initial_state=state, cu_seqlens=cu, **options)


def alone(lengths, configuration, dtype=torch.bfloat16):
    x, state = inputs(lengths, dtype)
    parts = zip(*(t.split(lengths, 1) for t in x), state.split(1))
    options = {"output_final_state": True, "configuration": configuration}
    found = [triton_chunked(*(t.contiguous() for t in part), initial_state=S, **options) for *part, S in parts]
    return torch.cat([o for o, _ in found], 1), torch.cat([S for _, S in found])


def equal(one, other):
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


short, long = [60, 0, 61, 62, 63], [5, 300, 0, 130]
plain = run(short, "whole")
equal(plain, alone(short, "whole"))
equal(plain, run(short, "short-segments"))  # cut or not, a sequence shorter than a segment has its bits
for configuration, dtype in (("short-segments", torch.bfloat16), ("exact-segments", torch.float32)):
    equal(run(long, configuration, dtype), alone(long, configuration, dtype))
torch.empty = poisoned
for configuration in ("whole", "short-segments"):
    allocated.clear()
    equal(plain, run(short, configuration))
    chunks, _, _, tiles, marks, _, *between = allocated
    used, tiles = 4, tiles.view(len(chunks), -1)
    assert len(chunks) == sum(short) // 64 + len(short) > used
    written = tiles[:, : 4 * 64 * 64]  # kd, qd, kg and A; behind them an idle tile is inverted as well, for nobody
    assert written[used:].isnan().all() and not written[:used].isnan().all(1).any()
    assert (marks[used:] == 7_777_777).all() and (marks[:used] < 2).all()
    assert len(between) == 3 * (configuration == "short-segments")
    assert all(x.isnan().all() for x in between[:2])  # no segment ends before its sequence, and one is idle
"""

WRONG = """
import torch
from implementations.triton_chunked import triton_chunked
from implementations.triton_recurrent import pool_step, triton_recurrent
from implementations.triton_training import triton_training
from implementations import triton_chunked as chunked, triton_recurrent as recurrent

x, pool = torch.rand(1, 4, 1, 4), torch.ones(3, 1, 4, 4)
inputs = x, x, x, -x, x[..., 0]
for cu in (torch.tensor(x) for x in ([0, 10**9, 3], [-1, 4], [0])):
    slots = torch.arange(len(cu) - 1)
    step = lambda *x, **options: pool_step(*x, pool=pool, slots=slots, **options)
    for kernel in (triton_chunked, triton_recurrent, triton_training, step):
        try:
            kernel(*inputs, cu_seqlens=cu)
        except ValueError as error:
            assert str(error) == f"cu_seqlens: expected to rise from 0 to T = 4; got {cu.tolist()}", error
        else:
            raise AssertionError(kernel)
    assert (pool == 1).all()
    for module in chunked, recurrent:
        judgement, module.judgement = module.judgement, lambda *_: lambda: None
        getattr(module, module.__name__.rsplit(".", 1)[-1])(*inputs, cu_seqlens=cu, output_final_state=True)
        module.judgement = judgement
    torch.ops.kda.chunked_backward(x, None, *inputs, 1.0, None, cu)
x, state = torch.zeros(1, 0, 1, 4), torch.ones(2, 1, 4, 4, requires_grad=True)
options = {"output_final_state": True, "cu_seqlens": torch.zeros(3).int()}
_, last = triton_training(x, x, x, x, x[..., 0], initial_state=state, **options)
last.sum().backward()
assert last.equal(state) and (state.grad == 1).all()
"""


@pytest.mark.parametrize("script", [TABLES, IDLE, WRONG], ids=["tables", "idle", "wrong"])
def test_packed_calls_under_the_interpreter(script):
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HASTENED + script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def said(monkeypatch):
    """What a GPU is asked for, in order."""
    said = []

    class Event:
        def record(self, stream):
            said.append(f"recorded on {stream}")

        def synchronize(self):
            said.append("waited")

    monkeypatch.setattr(_triton_plan.torch.cuda, "is_current_stream_capturing", lambda: "capture" in said)
    monkeypatch.setattr(_triton_plan.torch.cuda, "current_stream", lambda device: f"the stream of {device.type}")
    monkeypatch.setattr(_triton_plan.torch.cuda, "Event", Event)
    return said


def on_a_gpu(said, values):
    def to(device, non_blocking):
        said.append(f"copied to {device}, {'at' if non_blocking else 'in no'} leisure")
        return torch.tensor(values)

    return SimpleNamespace(device=torch.device("cuda", 1), to=to)


def test_a_gpu_is_waited_for_behind_the_launches(said):
    judge = judgement(on_a_gpu(said, [0, 5]), 4)
    said.append("launched")
    with pytest.raises(ValueError, match=r"expected to rise from 0 to T = 4; got \[0, 5\]"):
        judge()
    assert said == ["copied to cpu, at leisure", "recorded on the stream of cuda", "launched", "waited"]
    judgement(on_a_gpu(said, [0, 5]), 5)()


def test_while_a_graph_is_captured_nothing_is_read(said):
    said.append("capture")
    judgement(on_a_gpu(said, [0, 5]), 4)()
    assert said == ["capture"]


def test_what_lies_on_the_cpu_is_judged_at_once():
    with pytest.raises(ValueError, match="rise from 0"):
        judgement(torch.tensor([0, 5]), 4)
    assert judgement(None, 4)() is None
