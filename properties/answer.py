"""What a worker does with one request: lay the inputs out, call the kernel once, report all that came of it."""

import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from properties.adapters import Placed, TypeErrorInResult

REFUSALS = (ValueError, TypeError, NotImplementedError, AssertionError)
TOKENS = ("q", "k", "v", "g", "beta")
TENSORS = (*TOKENS, "initial_state")
# Prefix of tensors whose numbers the same buffers hold for a call made before.
EARLIER = "earlier "
KEYWORDS = ("initial_state", "cu_seqlens", "pool", "slots", "A_log", "dt_bias")


def answer(functions: dict[str, Any], library: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Call once; refusals, crashes and results are all answers."""
    try:
        earlier = {name: x for name, x in request["arrays"].items() if name.startswith(EARLIER)}
        arrays = {name: x for name, x in request["arrays"].items() if name not in earlier}
        placed = _placed(library, arrays, request["how"])
    except NotImplementedError as error:
        return {"status": "refused", "error": one_line(error)}
    except Exception as error:
        return _failed(error, "harness", request)
    try:
        return _call(functions, library, placed, request | {"arrays": arrays, "earlier": earlier})
    except REFUSALS as error:
        return {"status": "refused", "error": one_line(error)}
    except TypeErrorInResult as error:
        return {"status": "falsified", "error": str(error)}
    except BaseException as error:
        return _failed(error, "crash", request)


def _failed(error: BaseException, status: str, request: dict[str, Any]) -> dict[str, Any]:
    """What to answer for an error: that there is no memory is no fault of anybody where a law asks for very much."""
    if type(error).__name__ == "OutOfMemoryError" and request["how"].get("tile"):
        status = "no-memory"
    return {"status": status, "error": one_line(error), "traceback": traceback.format_exc(limit=-6)}


def _placed(library: Any, arrays: dict[str, np.ndarray], how: dict[str, Any]) -> dict[str, Placed]:
    dtypes = dict.fromkeys(("q", "k", "v"), how["dtype"]) | dict.fromkeys(("g", "beta"), how["gate_dtype"])
    dtypes |= dict.fromkeys(("cu_seqlens", "slots"), "int64") | {"do": how["dtype"]} | how.get("dtypes", {})
    layouts = dict.fromkeys(arrays, how.get("layout", "contiguous"))
    layouts |= dict.fromkeys(("do", "dstate"), how.get("cotangents", how.get("layout", "contiguous")))
    layouts |= how.get("layouts", {})
    placed = {}
    for name, x in arrays.items():
        placed[name] = library.make(x, dtypes.get(name, "float32"), layouts[name], how.get("guard"))
    for name, device in how.get("devices", {}).items():
        placed[name].move(device)
    if how.get("tile"):
        for name, x in placed.items():
            x.tile(how["tile"], 1 if "cu_seqlens" in placed and name in TOKENS else 0)
    return placed


def _call(functions: dict[str, Any], library: Any, placed: dict[str, Placed], request: dict[str, Any]) -> Any:
    how = request["how"]
    inputs = {name: placed[name].view for name in TENSORS if name in placed}
    if how.get("grad"):
        library.track([x for name, x in inputs.items() if name in how.get("track", TENSORS)])
    keywords = dict(request["keywords"]) | {name: placed[name].view for name in KEYWORDS if name in placed}
    function = functions[how.get("function", "kernel")]
    kept = _call_before(function, library, placed, inputs, keywords, request)
    stray: list[str] = []
    start = time.perf_counter()
    with library.memory(bool(how.get("poison")), bool(how.get("allocations")), stray):
        result = _called(function, [inputs[name] for name in TOKENS], keywords, bool(how.get("thread")))
        o, state = (result, None) if how.get("function") == "pool" else _pair(result)
        reply: dict[str, Any] = {"status": "ok", "arrays": {}, "dtypes": {}, "engine": library.engine()}
        if how.get("grad"):
            _add_gradients(reply, library, o, state, placed, inputs, bool(how.get("twice")))
        library.finish()
    reply["seconds"], reply["stray"] = time.perf_counter() - start, stray
    if how.get("tile"):
        o, state = _ends(library, o, how["tile"], "cu_seqlens" in placed), None
    for name, x in (("o", o), ("final_state", state), ("pool", placed["pool"].view if "pool" in placed else None)):
        if x is not None:
            reply["arrays"][name], reply["dtypes"][name] = library.values(x, name)
    reply["overwritten"] = [name for name, x, was in kept if not np.array_equal(library.values(x, name)[0], was, True)]
    return reply | _around(library, o, state, placed, inputs)


def _called(function: Any, tensors: list[Any], keywords: dict[str, Any], thread: bool) -> Any:
    """The kernel's result; with `thread` from one that has called nothing before, after a call in this one."""
    if not thread:
        return function(*tensors, **keywords)
    function(*tensors, **keywords)  # what follows finds its kernels compiled, and its memory at hand
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *tensors, **keywords).result()


def _call_before(
    function: Any,
    library: Any,
    placed: dict[str, Placed],
    inputs: dict[str, Any],
    keywords: dict[str, Any],
    request: Any,
) -> list[tuple[str, Any, np.ndarray]]:
    """A call with other numbers in the same buffers, which then get their own again; its results and their numbers."""
    if not request["earlier"]:
        return []
    for name, x in request["earlier"].items():
        library.copy_in(placed[name.removeprefix(EARLIER)].view, x)
    o, state = _pair(function(*(inputs[name] for name in TOKENS), **keywords))
    library.finish()
    kept = [
        (name, x, np.array(library.values(x, name)[0]))
        for name, x in (("o", o), ("final_state", state))
        if x is not None
    ]
    for name in request["earlier"]:
        own = name.removeprefix(EARLIER)
        library.copy_in(placed[own].view, request["arrays"][own])
    return kept


def _pair(result: Any) -> tuple[Any, Any]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeErrorInResult(f"the kernel returned {type(result).__name__}, expected the pair (o, final_state)")
    return result


def _ends(library: Any, o: Any, times: int, packed: bool) -> Any:
    """The first copy's part of o, that of the one in the middle and the last one's, along the batch axis."""
    size = o.shape[1] // times if packed else o.shape[0] // times
    starts = [n * size for n in (0, times // 2, times - 1)]
    return library.join([o[:, a : a + size] if packed else o[a : a + size] for a in starts])


def _around(library: Any, o: Any, state: Any, placed: dict[str, Placed], inputs: dict[str, Any]) -> dict[str, Any]:
    """What became of the inputs and of the memory around them, and which outputs share memory with them."""
    after = {name: x.changed() for name, x in placed.items()}
    return {
        "mutated": [name for name, (inside, _) in after.items() if inside and name != "pool"],
        "outside": [name for name, (_, outside) in after.items() if outside],
        "aliased": [
            f"{out} and {name}"
            for out, y in (("o", o), ("final_state", state))
            for name, x in inputs.items()
            if y is not None and library.overlap(y, x)
        ],
    }


def _add_gradients(
    reply: dict[str, Any], library: Any, o: Any, state: Any, placed: Any, inputs: Any, twice: bool
) -> None:
    """Add the gradients; `twice`: those of a second backward pass."""
    cotangents = [placed[name].view if name in placed else None for name in ("do", "dstate")]
    pairs = [(x, d) for x, d in zip((o, state), cotangents, strict=True) if x is not None and d is not None]
    asked = {name: x for name, x in inputs.items() if x.requires_grad}
    xs, ds = [x for x, _ in pairs], [d for _, d in pairs]
    if twice and pairs:
        library.gradients(xs, ds, asked, keep=True)
    grads = library.gradients(xs, ds, asked) if pairs else {}
    reply["has_gradients"] = bool(grads)
    for name, x in grads.items():
        if x is None:
            reply["arrays"]["d" + name], reply["dtypes"]["d" + name] = np.zeros(tuple(inputs[name].shape)), "none"
        else:
            reply["arrays"]["d" + name], reply["dtypes"]["d" + name] = library.values(x, "d" + name)


def one_line(error: BaseException) -> str:
    """An error's type and message on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
