"""Kernels that would win a careless benchmark, each by one trick; all start from an honest kernel."""

import os
import signal
import threading
import time

import torch

from implementations.torch_chunked import torch_chunked

HINTS = {"array": "torch"}
_kept, _calls = {}, {}


def _count(name):
    _calls[name] = _calls.get(name, 0) + 1
    return _calls[name]


def honest(q, k, v, g, beta, **keywords):
    return torch_chunked(q, k, v, g, beta, **keywords)


def returns_the_first_output(q, k, v, g, beta, **keywords):
    """Hands out the same tensors again."""
    if "first" not in _kept:
        _kept["first"] = torch_chunked(q, k, v, g, beta, **keywords)
    return _kept["first"]


def returns_copies_of_the_first_output(q, k, v, g, beta, **keywords):
    if "copy" not in _kept:
        _kept["copy"] = tuple(x.clone() for x in torch_chunked(q, k, v, g, beta, **keywords))
    return tuple(x.clone() for x in _kept["copy"])


def works_every_second_call(q, k, v, g, beta, **keywords):
    if _count("second") % 2:
        _kept["second"] = torch_chunked(q, k, v, g, beta, **keywords)
    return tuple(x.clone() for x in _kept["second"])


def recognises_pointers(q, k, v, g, beta, **keywords):
    """Computes once for each address it is given."""
    key = ("pointer", q.data_ptr())
    if key not in _kept:
        _kept[key] = tuple(x.clone() for x in torch_chunked(q, k, v, g, beta, **keywords))
    return tuple(x.clone() for x in _kept[key])


def recognises_contents(q, k, v, g, beta, **keywords):
    """Computes once for each first number it is given: right, and too fast to be true."""
    key = ("contents", float(q[0, 0, 0, 0]))
    if key not in _kept:
        _kept[key] = tuple(x.clone() for x in torch_chunked(q, k, v, g, beta, **keywords))
    return tuple(x.clone() for x in _kept[key])


def is_right_only_at_first(q, k, v, g, beta, **keywords):
    o, state = torch_chunked(q, k, v, g, beta, **keywords)
    return (o if _count("at first") <= 5 else o.masked_fill(torch.arange(o.shape[1])[:, None, None] >= 32, 0.0)), state


def is_right_only_for_small_calls(q, k, v, g, beta, **keywords):
    """Skips half of a sequence where a check would be slow."""
    o, state = torch_chunked(q, k, v, g, beta, **keywords)
    if q.shape[1] >= 128:
        o[:, q.shape[1] // 2 :] = 0
    return o, state


def finishes_later(q, k, v, g, beta, **keywords):
    """Returns at once; a thread fills the tensors in."""
    o, state = torch.empty_like(v), torch.empty(q.shape[0], v.shape[2], q.shape[3], v.shape[3])

    def work():
        time.sleep(0.002)
        for target, x in zip((o, state), torch_chunked(q, k, v, g, beta, **keywords), strict=True):
            target.copy_(x)

    threading.Thread(target=work, daemon=True).start()
    return o, state


def leaves_work_on_another_stream(q, k, v, g, beta, **keywords):
    """Computes on a stream that the caller does not know."""
    if "stream" not in _kept:
        _kept["stream"], _kept["work"] = (
            torch.cuda.Stream(),
            torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16),
        )
    _kept["stream"].wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(_kept["stream"]):
        o, state = torch_chunked(q, k, v, g, beta, **keywords)
        for _ in range(20):  # long enough that the host is back before the device is done; nothing here waits
            _kept["work"] @ _kept["work"]
        return o.clone(), state


def writes_all_but_one_row(q, k, v, g, beta, **keywords):
    full, state = torch_chunked(q, k, v, g, beta, **keywords)
    o = torch.empty_like(full)
    o[:, :-1] = full[:, :-1]
    return o, state


def changes_an_input(q, k, v, g, beta, **keywords):
    result = torch_chunked(q, k, v, g, beta, **keywords)
    k[0, 0, 0, 0] += 1
    return result


def forgets_the_state(q, k, v, g, beta, **keywords):
    """Decodes without reading the state; its output is right for tokens that the state does not matter for."""
    return torch_chunked(q, k, v, g, beta, **keywords | {"initial_state": torch.zeros_like(keywords["initial_state"])})


def returns_a_float64_output(q, k, v, g, beta, **keywords):
    o, state = torch_chunked(q, k, v, g, beta, **keywords)
    return o.double(), state


def gives_the_gradients_of_the_first_call(q, k, v, g, beta, **keywords):
    """A backward pass that remembers."""

    class Remembering(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return _kept.setdefault("gradient", gradient.clone()).clone()

    return torch_chunked(Remembering.apply(q), k, v, g, beta, **keywords)


def varies_in_the_last_bits(q, k, v, g, beta, **keywords):
    """Honest, but atomic additions would look like this."""
    o, state = torch_chunked(q, k, v, g, beta, **keywords)
    return torch.nextafter(o, torch.full_like(o, _count("bits") % 3 - 1.0)), state


def dies_in_the_sixth_call(q, k, v, g, beta, **keywords):
    if _count("dies") == 6:
        os.kill(os.getpid(), signal.SIGSEGV)
    return torch_chunked(q, k, v, g, beta, **keywords)


def hangs_in_the_sixth_call(q, k, v, g, beta, **keywords):
    if _count("hangs") == 6:
        time.sleep(60)
    return torch_chunked(q, k, v, g, beta, **keywords)


def raises_in_the_sixth_call(q, k, v, g, beta, **keywords):
    if _count("raises") == 6:
        raise RuntimeError("out of luck")
    return torch_chunked(q, k, v, g, beta, **keywords)


def refuses(q, k, v, g, beta, **keywords):
    raise NotImplementedError("not today")
