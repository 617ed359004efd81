"""The worker process: loads one kernel, calls it as asked, returns what came out. It never judges.

A parent process (this module's `main`) imports the array library once and forks a child that loads the kernel's file
and serves calls. When the child dies, the parent says how and forks the next one at once, so that crashes and hangs
can be shrunk like any other failure.
"""

import ctypes
import inspect
import os
import select
import signal
import sys
import time
import traceback
from typing import Any

import numpy as np

from properties import wire
from properties.adapters import TypeErrorInResult, adapter
from properties.targets import Target, load

REFUSALS = (ValueError, TypeError, NotImplementedError, AssertionError)
UNLOADABLE = 90  # exit status of a child that could not load its kernel
TENSORS = ("q", "k", "v", "g", "beta", "initial_state")


def main(target: str, array: str, device: str, requests: int, replies: int) -> None:
    """Fork a serving child; whenever it dies, report it and fork another."""
    _die_with_parent()
    _import_early(array)
    while True:
        child = os.fork()
        if child == 0:
            _die_with_parent()
            os._exit(_serve(Target.parse(target), array, device, requests, replies))
        _, status = os.waitpid(child, 0)
        if _hung_up(requests) or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == UNLOADABLE):
            return
        how = (
            f"signal {signal.Signals(os.WTERMSIG(status)).name}"
            if os.WIFSIGNALED(status)
            else (f"exit status {os.WEXITSTATUS(status)}")
        )
        wire.send(replies, {"status": "died", "error": how})


def _hung_up(requests: int) -> bool:
    """Whether the judge closed its end; a kernel's own `exit(0)` leaves it open."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _import_early(array: str) -> None:
    """Import the array library before forking, so that a new child costs milliseconds."""
    if array == "torch":
        try:
            import torch
        except ImportError:
            return  # a NumPy kernel needs none, and any other says so itself when it is loaded
        torch.set_num_threads(1)


def _serve(target: Target, array: str, device: str, requests: int, replies: int) -> int:
    try:
        kernel, hints = load(target)
        _check_signature(kernel, target)
        library = adapter(hints.get("array", array), hints.get("device", device))
    except BaseException as error:
        wire.send(replies, {"status": "unloadable", "error": _one_line(error), "pid": os.getpid()})
        return UNLOADABLE
    wire.send(replies, {"status": "ready", "pid": os.getpid(), "engine": library.engine()})
    while (request := wire.receive(requests)) is not None:
        wire.send(replies, _answer(kernel, library, request))
    return 0


def _check_signature(kernel: Any, target: Target) -> None:
    try:
        inspect.signature(kernel).bind(*range(5))
    except ValueError:
        return  # a builtin without a signature: the first call will tell
    except TypeError as error:
        raise TypeError(
            f"{target} does not have the contract's signature kernel(q, k, v, g, beta, *, scale=None, "
            f"initial_state=None, output_final_state=False, cu_seqlens=None): {error}"
        ) from None


def _answer(kernel: Any, library: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Call once; refusals, crashes and results are all answers."""
    try:
        return _call(kernel, library, request)
    except REFUSALS as error:
        return {"status": "refused", "error": _one_line(error)}
    except TypeErrorInResult as error:
        return {"status": "falsified", "error": str(error)}
    except BaseException as error:
        return {"status": "crash", "error": _one_line(error), "traceback": traceback.format_exc(limit=-6)}


def _call(kernel: Any, library: Any, request: dict[str, Any]) -> dict[str, Any]:
    arrays, how = request["arrays"], request["how"]
    dtypes = dict.fromkeys(("q", "k", "v"), how["dtype"]) | dict.fromkeys(("g", "beta"), how["gate_dtype"])
    dtypes |= {"initial_state": "float32", "cu_seqlens": "int64", "do": how["dtype"], "dstate": "float32"}
    dtypes |= how.get("dtypes", {})
    layout, filler = how.get("layout", "contiguous"), how.get("guard")
    try:
        placed = {name: library.make(x, dtypes[name], layout, filler) for name, x in arrays.items()}
    except NotImplementedError:
        raise
    except Exception as error:
        return {"status": "harness", "error": _one_line(error), "traceback": traceback.format_exc(limit=-6)}
    inputs = {name: placed[name].view for name in TENSORS if name in placed}
    if how.get("grad"):
        library.track(list(inputs.values()))
    keywords = dict(request["keywords"])
    keywords |= {name: placed[name].view for name in ("initial_state", "cu_seqlens") if name in placed}
    library.before(bool(how.get("poison")))
    start = time.perf_counter()
    result = kernel(*(inputs[name] for name in ("q", "k", "v", "g", "beta")), **keywords)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeErrorInResult(f"the kernel returned {type(result).__name__}, expected the pair (o, final_state)")
    reply: dict[str, Any] = {"status": "ok", "arrays": {}, "dtypes": {}, "engine": library.engine()}
    o, state = result
    if how.get("grad"):
        _add_gradients(reply, library, o, state, placed, inputs)
    library.finish()
    reply["seconds"] = time.perf_counter() - start
    library.before(False)
    for name, x in (("o", o), ("final_state", state)):
        if x is not None:
            reply["arrays"][name], reply["dtypes"][name] = library.values(x, name)
    after = {name: x.changed() for name, x in placed.items()}
    reply["mutated"] = [name for name, (inside, _) in after.items() if inside]
    reply["outside"] = [name for name, (_, outside) in after.items() if outside]
    reply["aliased"] = [
        f"{out} and {name}"
        for out, y in (("o", o), ("final_state", state))
        for name, x in inputs.items()
        if y is not None and library.overlap(y, x)
    ]
    return reply


def _add_gradients(reply: dict[str, Any], library: Any, o: Any, state: Any, placed: Any, inputs: Any) -> None:
    cotangents = [placed[name].view if name in placed else None for name in ("do", "dstate")]
    pairs = [(x, d) for x, d in zip((o, state), cotangents, strict=True) if x is not None and d is not None]
    grads = library.gradients([x for x, _ in pairs], [d for _, d in pairs], inputs) if pairs else {}
    reply["has_gradients"] = bool(grads)
    for name, x in grads.items():
        if x is None:
            reply["arrays"]["d" + name], reply["dtypes"]["d" + name] = np.zeros(tuple(inputs[name].shape)), "none"
        else:
            reply["arrays"]["d" + name], reply["dtypes"]["d" + name] = library.values(x, "d" + name)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def _die_with_parent() -> None:
    """Ask Linux to end this process with the one that started it; elsewhere the closed pipe does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
