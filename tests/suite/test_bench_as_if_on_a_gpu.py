"""The GPU's path of the benchmark, walked on a CPU: tensors stay there, and torch.cuda's calls are played."""

import contextlib
import os
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from torch.overrides import TorchFunctionMode

from benchmarks import worker
from benchmarks.calling import Candidate, GraphCall
from benchmarks.clock import DeviceClock
from benchmarks.inputs import make
from benchmarks.measure import Bench
from implementations.torch_chunked import torch_chunked
from properties import wire
from properties.case import Case

torch.set_num_threads(1)
CASE = Case(T=40, H=2, K=16, V=16, gate="production", beta="random", state="random", dtype="bfloat16")
RATES = {"bytes_per_s": 1e13, "flops_per_s": 1e15}


class Elsewhere(TorchFunctionMode):
    """Everything that asks for device "cuda" gets the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return func(*("cpu" if isinstance(x, str) and x == "cuda" else x for x in args), **kwargs)


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self): ...

    def elapsed_time(self, end):
        return 1e3 * (end.time - self.time)


class Stream:
    wait_stream = synchronize = lambda *_: None


class Graph:
    """Remembers what ran while it was captured; a replay runs it again into the same tensors."""

    capturing = None
    captured = tuple, ()

    def replay(self):
        call, static = self.captured
        for old, new in zip(static, call(), strict=True):
            old.copy_(new)


@contextlib.contextmanager
def capture(graph):
    Graph.capturing = graph
    yield
    Graph.capturing = None


def capturable(*arguments, **keywords):
    return captured(lambda: torch_chunked(*arguments, **keywords))


def captured(call):
    result = call()
    if Graph.capturing:
        Graph.capturing.captured = (call, result)
    return result


def not_capturable(*arguments, **keywords):
    if Graph.capturing:
        raise RuntimeError("operation not permitted when stream is capturing")
    return torch_chunked(*arguments, **keywords)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """torch.cuda as the benchmark uses it."""
    played = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": capture,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda: None,
        "mem_get_info": lambda: (60 << 30, 80 << 30),
        "get_device_properties": lambda _: SimpleNamespace(L2_cache_size=1 << 20),
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 1000,
        "max_memory_allocated": lambda: 5000,
        "empty_cache": lambda: None,
    }
    for name, value in played.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("benchmarks.measure.kernel_names", lambda call, device: [device])
    with Elsewhere():
        yield


def timed(kernel, mode="forward", case=CASE, pool=None, **options):
    bench = Bench(case, mode, "cuda", rates=RATES, **options)
    entry = bench.start(Candidate("a", kernel, "torch", pool))
    bench.run([entry], 8, 10.0)
    bench.conclude(entry)
    return bench, entry


@pytest.mark.parametrize("mode", ["forward", "forward+backward", "decode"])
def test_every_mode_is_timed_by_events(mode):
    bench, entry = timed(torch_chunked, mode)
    assert isinstance(bench.clock, DeviceClock) and entry.status == "ok", entry.reason
    assert len(entry.times) == 8 and min(entry.times) > 0 and entry.peak == 4000 and entry.names == ["cuda"]
    assert entry.units is not None and 0 < entry.units < 1
    assert bench.copy_ms > 0
    assert any(flag.startswith("a copy of as many bytes took") for flag in entry.flags)


def test_a_copy_is_timed_where_the_floor_is_low_alone():
    assert Bench(CASE, "forward", "cuda", rates=RATES | {"bytes_per_s": 1e5}).copy_ms is None


def test_gradients_are_captured_too():
    def train(*arguments, **keywords):
        return torch_chunked(*arguments, **keywords)

    bench = Bench(CASE, "forward+backward", "cuda", rates=RATES)
    call = Candidate("a", train, "torch").call(bench.buffers[0], "forward+backward")
    call.x.copy_from(bench.sets[0])
    graph = GraphCall(call)
    before = [x.clone() for x in (graph.raw[0], *graph.raw[2])]
    graph.restore()
    assert all(x.isnan().all() for x in (graph.raw[0], *graph.raw[2]))
    assert all(x.isfinite().all() for x in before)


def test_a_graph_is_captured_and_its_replays_are_checked():
    bench, entry = timed(capturable, "decode", graph=True)
    assert entry.status == "ok" and "cuda graph" in entry.flags and len(entry.times) == 8, entry.reason
    assert len(bench.buffers) == 1 and len(bench.sets) >= 4


def test_what_cannot_be_captured_is_unsupported():
    _, entry = timed(not_capturable, "decode", graph=True)
    assert entry.status == "unsupported" and "not capturable: RuntimeError: operation not" in str(entry.reason)


@pytest.mark.parametrize("graph", [False, True])
def test_a_pool_step_is_timed_by_events_and_replayed(graph):
    def step(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
        def advance():
            o, pool[slots] = torch_chunked(q, k, v, g, beta, initial_state=pool[slots], output_final_state=True)
            return (o,)

        return captured(advance)[0]

    _, entry = timed(torch_chunked, "decode", CASE.but(B=3, T=1), pool=step, graph=graph)
    assert entry.status == "ok" and "pool" in entry.flags, entry.reason
    assert ("cuda graph" in entry.flags) == graph


def test_memory_that_is_short_makes_a_smaller_pool(monkeypatch):
    nbytes = make(CASE, "cuda").nbytes()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * nbytes, 12 * nbytes))
    bench, entry = timed(torch_chunked)
    assert len(bench.sets) == 2 and "pool of 2 input sets" in entry.flags and entry.status == "ok"


def test_a_device_that_is_lost_ends_the_process_with_the_name(monkeypatch):
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def kernel(*arguments, **keywords):
        monkeypatch.setattr(torch.cuda, "synchronize", broken)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    from benchmarks.rows import Lost

    with pytest.raises(Lost) as lost:
        timed(kernel)
    assert lost.value.label == "a" and "illegal memory access" in lost.value.reason


def test_the_worker_answers_a_whole_job_and_tells_the_device(monkeypatch):
    requests, to = os.pipe()
    answers, replies = os.pipe()
    monkeypatch.setattr(worker.ctypes, "CDLL", lambda _: SimpleNamespace(prctl=lambda *_: 0))
    monkeypatch.setattr(worker, "ceilings", lambda device: RATES)
    monkeypatch.setattr(
        worker.subprocess,
        "run",
        lambda *_, **__: SimpleNamespace(
            stdout="NVIDIA H100, 570.1, 1980 MHz, 2619 MHz, 1980 MHz, 2619 MHz, 700 W, 30\n"
        ),
    )
    job = {"kind": "job", "workload": "w", "case": repr(CASE), "mode": "decode", "graph": False, "baseline": "a"}
    job |= {"targets": [["a", "torch_chunked"], ["b", "torch_recurrent"]], "device": "cuda", "array": "torch"}
    job |= {"rounds": 3, "seconds": 5.0, "rates": RATES, "limits": {"call": 9, "first": 9, "suite": 9}}
    wire.send(to, {"kind": "device", "device": "cuda"})
    wire.send(to, job)
    os.close(to)
    worker.main(requests, replies)
    os.close(replies)
    found = []
    while (reply := wire.receive(answers)) is not None:
        found.append(reply)
    assert found[0]["driver"] == "570.1" and found[0]["clocks"]["clocks.sm"] == "1980 MHz"
    rows = [reply["row"] for reply in found if reply["kind"] == "row"]
    assert [(row["kernel"], row["status"], row["device"]) for row in rows] == [("a", "ok", "cuda"), ("b", "ok", "cuda")]
    assert rows[1]["baseline"] == "a" and rows[1]["clock"] == "cuda events" and found[-1]["kind"] == "done"
    for pipe in (requests, answers):
        os.close(pipe)
