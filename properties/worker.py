"""The worker process: loads one kernel, calls it as asked, returns what came out. It never judges.

A parent process (this module's `main`) imports the array library once and forks a child that loads the kernel's file
and serves calls. When the child dies, the parent says how and forks the next one at once, so that crashes and hangs
can be shrunk like any other failure.
"""

import ctypes
import importlib
import inspect
import mmap
import os
import select
import signal
import sys
import time
from typing import Any

from properties import interpreter, wire
from properties.adapters import adapter
from properties.answer import answer, one_line
from properties.takes import fitting
from properties.targets import Target, load

# Packages whose functions a kernel may call without being written in Triton itself.
APART = {*sys.stdlib_module_names, "numpy", "torch", "triton", ""}
UNLOADABLE = 90  # exit status of a child that could not load its kernel
# What torch imports at its first gradient, and when it is first asked to fill fresh memory: a second or two.
LATE = ("torch.fx.experimental.symbolic_shapes", "torch._inductor.config")
# Many workers share a GPU: bytes that torch may keep of it between calls, and seconds after which a call that found no
# memory is made again.
KEPT = 2**30
PAUSES = (1, 4)


def main(target: str, array: str, device: str, requests: int, replies: int) -> None:
    """Fork a serving child; whenever it dies, report it and fork another."""
    _die_with_parent()
    _import_early(array)
    late = mmap.mmap(-1, len(LATE))  # shared with the children: what they imported, which the next one finds imported
    while True:
        child = os.fork()
        if child == 0:
            _die_with_parent()
            os._exit(_serve(Target.parse(target), array, device, requests, replies, late))
        _, status = os.waitpid(child, 0)
        if _hung_up(requests) or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == UNLOADABLE):
            return
        how = (
            f"signal {signal.Signals(os.WTERMSIG(status)).name}"
            if os.WIFSIGNALED(status)
            else (f"exit status {os.WEXITSTATUS(status)}")
        )
        wire.send(replies, {"status": "died", "error": how})
        for name, used in zip(LATE, late[:], strict=True):
            if used:
                importlib.import_module(name)


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


def _serve(target: Target, array: str, device: str, requests: int, replies: int, late: mmap.mmap) -> int:
    try:
        kernel, hints = load(target)
        _check_signature(kernel, target)
        fitting(hints.get("takes"))  # says what is wrong with it
        functions = {"kernel": kernel, "pool": _pool(target, hints)}
        library = adapter(hints.get("array", array), hints.get("device", device))
        interpreter.hasten()
    except BaseException as error:
        wire.send(replies, {"status": "unloadable", "error": one_line(error), "pid": os.getpid()})
        return UNLOADABLE
    hello = {"status": "ready", "pid": os.getpid(), "engine": library.engine(), "hints": _told(hints, kernel)}
    wire.send(replies, hello)
    while (request := wire.receive(requests)) is not None:
        reply = _answer(functions, library, request)
        late[:] = bytes(name in sys.modules for name in LATE)
        wire.send(replies, reply | {"spent": reply["status"] in ("crash", "harness") and library.lost()})
    return 0


def _answer(functions: dict[str, Any], library: Any, request: dict[str, Any]) -> dict[str, Any]:
    reply = answer(functions, library, request)
    for pause in PAUSES:
        if not reply.get("error", "").startswith("OutOfMemoryError"):
            break
        library.release(0)
        time.sleep(pause)
        reply = answer(functions, library, request)
    library.release(KEPT)
    return reply


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


def _pool(target: Target, hints: dict[str, Any]) -> Any:
    """The function that works on a pool of states, where the kernel's file names one."""
    if hints.get("pool") is None:
        return None
    return load(Target(target.name, target.where, str(hints["pool"])))[0]


def _told(hints: dict[str, Any], kernel: Any) -> dict[str, Any]:
    """What the judge must know of a kernel: its HINTS, and whether an interpreter is at work."""
    sets = [dict(keywords) for keywords in hints.get("configurations", ())]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and _uses_triton(getattr(kernel, "__module__", ""), set())
    return {
        "configurations": sets,
        "pool": "pool" in hints,
        "raw": bool(hints.get("raw")),
        "takes": {name: list(values) for name, values in dict(hints.get("takes") or {}).items()},
        "interpreted": interpreted,
    }


def _uses_triton(name: str, seen: set[str]) -> bool:
    """Whether a module holds Triton code, or one that it takes functions from, of its own package or another."""
    seen.add(name)
    values = list(vars(sys.modules[name]).values()) if name in sys.modules else []
    if any(type(x).__module__.split(".")[0] == "triton" for x in values):
        return True
    others = {str(getattr(x, "__module__", "")) for x in values}
    return any(_uses_triton(x, seen) for x in others if x.split(".")[0] not in APART and x not in seen)


def _die_with_parent() -> None:
    """Ask Linux to end this process with the one that started it; elsewhere the closed pipe does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
