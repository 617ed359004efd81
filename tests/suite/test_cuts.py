"""How `triton_chunked` cuts sequences for its launches."""

import itertools
import os
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest

from implementations import triton_chunked
from implementations._triton_plan import CHUNK, _dense, _pieces


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 128, 129, 8192, 8191])
@pytest.mark.parametrize("apart", [0, 2, 96])
def test_pieces_follow_one_another_on_chunk_borders(tokens, apart):
    start = 7
    pieces = _pieces(((start, start + tokens),), apart, 0.75)
    assert pieces[0][0][0] == start
    assert pieces[-1][-1][1] == start + tokens
    for ((_, stop),), ((first, last),) in itertools.pairwise(pieces):
        assert stop == first < last
        assert (first - start) % CHUNK == 0
    assert len(pieces) == (2 if apart and tokens > CHUNK * (apart - 1) else 1)


def test_several_sequences_stay_in_one_piece():
    cuts = ((0, 9000), (9000, 18000))
    assert _pieces(cuts, 2, 0.75) == [cuts]


@pytest.mark.parametrize("segment", [0, 2, 16])
def test_segments_cover_every_chunk_once_and_say_which_is_last(segment):
    plan = _dense(((0, 130), (130, 130), (130, 1400)), segment, "cpu")
    rows = plan.segments.tolist()
    assert [c for first, count, *_ in rows for c in range(first, first + count)] == list(range(len(plan.chunks)))
    last = {n: is_last for _, _, n, _, _, is_last, _ in rows}
    assert last == {0: 1, 1: 1, 2: 1}
    assert sum(is_last for *_, is_last, _ in rows) == 3


PIECES = """
    import torch
    from implementations.triton_chunked import triton_chunked
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 300, 2, 64).bfloat16() / 8 for _ in range(3))
    g, beta = -torch.rand(1, 300, 2, 64).bfloat16(), torch.rand(1, 300, 2).bfloat16()
    state = torch.randn(1, 2, 64, 64)
    run = lambda name: triton_chunked(
        q, k, v, g, beta, initial_state=state, output_final_state=True, configuration=name)
    for one, other in zip(run("whole"), run("short-pieces")):
        assert torch.equal(one, other)
"""


def test_two_pieces_give_the_bits_of_one():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", textwrap.dedent(PIECES)], env=environment, cwd=root, check=True, timeout=120)


def test_walks_wait_for_the_chunks_before_them_and_the_caller_for_all_walks(monkeypatch):
    said = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    monkeypatch.setattr(triton_chunked.torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(triton_chunked, "_stream", lambda device: Stream("second"))
    monkeypatch.setattr(triton_chunked.torch.cuda, "set_stream", lambda stream: said.append(f"on {stream.name}"))
    monkeypatch.setattr(triton_chunked.torch.cuda, "device", nullcontext)
    with pytest.raises(RuntimeError), triton_chunked.beside("cuda") as walking:
        with walking():
            said.append("walk")
        with walking():
            raise RuntimeError
    assert said == [
        *("second waits for main", "on second", "walk", "on main"),
        *("second waits for main", "on second", "on main"),
        "main waits for second",
    ]
