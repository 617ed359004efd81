"""Launches remember compiled kernels, and by all that a kernel is compiled for."""

import threading
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from implementations import _triton

SIGNATURE = ("x", "y", "n", "HV", "BLOCK")


class Jitted:
    """As a jitted function: a launch returns its compiled form, which takes a grid of three and all parameters."""

    arg_names = SIGNATURE
    function, packed_metadata = "function", "metadata"

    def __init__(self):
        self.fn, self.compiled, self.calls, self.observed, self.warmed = object(), [], [], [], 0

    def __getitem__(self, grid):
        def run(*args, **named):
            self.compiled.append(dict(zip(SIGNATURE, args, strict=False)) | named)
            return self

        return run if len(grid) < 3 else lambda *args: self.observed.append((grid, args))

    def run(self, *given):
        assert given[3:9] == ("stream", "function", "metadata", None, None, None)
        self.calls.append((given[:3], given[9:]))

    def warmup(self, *args, grid, **named):
        self.warmed += 1


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(_triton, "_remembered", lambda device: True)
    monkeypatch.setattr(_triton, "_COMPILED", {})
    monkeypatch.setattr(_triton, "_enter", lambda: None)
    monkeypatch.setattr(
        _triton, "driver", SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda _: "stream"))
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    return Jitted()


def test_the_second_launch_takes_the_compiled_form_and_its_own_arguments(kernel):
    first, second = torch.zeros(64), torch.zeros(64)
    _triton.launch(kernel, (2,), first, None, 7, BLOCK=16, HV=3, num_warps=4)
    _triton.launch(kernel, (5, 6), second, None, 9, BLOCK=16, HV=3, num_warps=4)
    assert len(kernel.compiled) == 1
    ((grid, arguments),) = kernel.calls
    assert grid == (5, 6, 1)
    assert arguments[0] is second
    assert arguments[1:] == (None, 9, 3, 16)


def test_who_observes_launches_sees_the_remembered_ones_too(kernel, monkeypatch):
    x = torch.zeros(64)
    for _ in range(2):
        _triton.launch(kernel, (2,), x, None, 7, BLOCK=16, HV=3)
    chain = _triton.knobs.runtime.launch_exit_hook
    assert not kernel.observed
    monkeypatch.setattr(chain, "calls", [print])
    _triton.launch(kernel, (2,), x, None, 7, BLOCK=16, HV=3)
    assert [(grid, args[1:]) for grid, args in kernel.observed] == [((2, 1, 1), (None, 7, 3, 16))]
    assert len(kernel.calls) == 1


def test_blocks_are_checked_before_they_are_compiled_for(kernel):
    for x in (torch.zeros(8, 64), torch.zeros(8, 64)):
        _triton.launch(kernel, (1,), torch.zeros(64), _triton.blocks(x, 8, 64), 7, HV=3, BLOCK=16)
    assert [type(given["y"]) for given in kernel.compiled] == [TensorDescriptor]
    ((_, (_, kept, *_)),) = kernel.calls
    assert (kept.base is x, kept.shape, kept.strides, kept.block_shape) == (True, x.shape, x.stride(), [8, 64])
    with pytest.raises(AssertionError, match="aligned"):
        _triton.launch(kernel, (1,), x, _triton.blocks(torch.zeros(577)[1:].view(9, 64), 8, 64), 7, HV=3, BLOCK=16)


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(64, dtype=torch.bfloat16)},
        {"x": torch.zeros(65)[1:]},
        {"y": torch.zeros(64)},
        {"n": 1},
        {"n": 16},
        {"n": 2**31},
        {"n": 7.0},
        {"HV": 4},
        {"BLOCK": 32},
        {"num_warps": 8},
    ],
    ids=lambda change: "-".join(change),
)
def test_what_a_kernel_is_compiled_for_is_never_mistaken(kernel, change):
    given = {"x": torch.zeros(64), "y": None, "n": 7, "HV": 3, "BLOCK": 16, "num_warps": 4}
    for now in (given, given | change):
        _triton.launch(kernel, (1,), now.pop("x"), now.pop("y"), now.pop("n"), **now)
    assert len(kernel.compiled) == 2
    assert not kernel.calls


@pytest.mark.parametrize(
    ("other", "block"), [(torch.zeros(8, 64), [4, 64]), (torch.zeros(8, 64, dtype=torch.bfloat16), [8, 64])]
)
def test_descriptors_are_told_apart_by_what_they_are_compiled_for(kernel, other, block):
    def described(x, block):
        return TensorDescriptor.from_tensor(x, block)

    for x, size in ((torch.zeros(8, 64), [8, 64]), (torch.zeros(16, 64), [8, 64]), (other, block)):
        _triton.launch(kernel, (1,), torch.zeros(64), described(x, size), 7, HV=3, BLOCK=16)
    assert len(kernel.compiled) == 2
    assert len(kernel.calls) == 1


def test_the_device_of_the_tensors_is_current_while_the_kernel_is_launched(kernel, monkeypatch):
    current = [0]
    seen = []

    class Device:
        def __init__(self, device):
            self.index = device.index

        def __enter__(self):
            current.append(self.index)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(Jitted, "__getitem__", lambda self, grid: lambda *_, **__: seen.append(current[-1]) or self)
    monkeypatch.setattr(Jitted, "run", lambda *_: seen.append(current[-1]))
    elsewhere = SimpleNamespace(device=torch.device("cuda", 1))
    for _ in range(2):
        _triton.launch(kernel, (1, 1, 1), elsewhere, None, 7, HV=3, BLOCK=16)
    assert seen == [1, 1]
    assert current == [0]


def test_what_is_not_compiled_yet_is_compiled_side_by_side(kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    kernels, calls, x = [kernel, Jitted(), Jitted()], [], torch.zeros(64)

    def step():
        calls.append("call")
        for one in kernels:
            _triton.launch(one, (1,), x, None, 7, HV=3, BLOCK=16)
        return len(calls)

    _triton.launch(kernel, (1,), x, None, 7, HV=3, BLOCK=16)
    assert _triton.together(x.device, step) == 3  # as far as it goes, without launches, and whole
    assert [(one.warmed, len(one.compiled)) for one in kernels] == [(1, 1)] * 3
    assert [len(one.calls) for one in kernels] == [2, 0, 0]
    assert _triton.together(x.device, step) == 4
    assert [(one.warmed, len(one.compiled), len(one.calls)) for one in kernels] == [(1, 1, 3), (1, 1, 1), (1, 1, 1)]


def test_what_comes_later_is_compiled_with_the_rest_and_not_launched(kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    next_one, x, calls = Jitted(), torch.zeros(64), []

    def step(one):
        calls.append(one)
        _triton.launch(one, (1,), x, None, 7, HV=3, BLOCK=16)

    def nested(one):
        _triton.together(x.device, lambda: step(one))

    def later():
        nested(next_one)
        raise RuntimeError("no memory for what comes later")

    _triton.together(x.device, lambda: nested(kernel), later)
    assert calls == [kernel, kernel, next_one, kernel]
    assert [(one.warmed, len(one.compiled)) for one in (kernel, next_one)] == [(1, 1), (1, 0)]
    _triton.together(x.device, lambda: nested(kernel), later)
    assert calls[4:] == [kernel]


def test_what_was_collected_is_let_go_before_the_call_and_may_find_no_memory(kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    held, x, calls = [], torch.zeros(64), []

    def step():
        calls.append([scratch() is not None for scratch in held])
        scratch = torch.zeros(64)
        held.append(weakref.ref(scratch))
        _triton.launch(kernel, (1,), x, scratch, 7, HV=3, BLOCK=16)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    _triton.together(x.device, step)
    assert calls == [[], [False], [False, False]]
    assert (kernel.warmed, len(kernel.compiled)) == (1, 1)


def test_an_error_leaves_no_launch_uncalled(kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    x, calls = torch.zeros(64), []

    def step():
        calls.append("call")
        if len(calls) == 2:
            raise ValueError("no")
        _triton.launch(kernel, (1,), x, None, 7, HV=3, BLOCK=16)

    with pytest.raises(ValueError, match="no"):
        _triton.together(x.device, step)
    _triton.launch(kernel, (1,), x, None, 7, HV=3, BLOCK=16)
    assert len(kernel.compiled) == 1


def test_every_thread_gets_a_context_once(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: asked.append(threading.get_ident()))
    monkeypatch.setattr(_triton, "_THREAD", _triton._Thread())

    def twice():
        _triton._enter()
        _triton._enter()

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    twice()
    assert asked == [thread.ident, threading.get_ident()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_thread_that_has_asked_cuda_for_nothing_can_launch():
    from implementations.triton_chunked import triton_chunked

    q, k, v, g = (torch.rand(1, 64, 1, 64, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    inputs = q, k, v, -g, q[..., 0]
    expected = triton_chunked(*inputs)[0]  # what follows finds all memory in torch's cache and asks for none
    found = []
    thread = threading.Thread(target=lambda: found.append(triton_chunked(*inputs)[0]))
    thread.start()
    thread.join()
    assert torch.equal(*found, expected)
