"""Evidence of a falsification: the lines of its cases, the inputs of every call, and a stand-alone script."""

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from properties.calls import Broke, Kernel, Refused
from properties.case import parse
from properties.law import Law
from properties.laws import LAWS
from properties.runner import Record
from properties.targets import Target
from properties.trial import call_first


def write_evidence(record: Record, target: str, kernel: Kernel, out: Path, device: str, array: str) -> None:
    """Write `NAME.case`, `NAME.npz` and `NAME.py` under out/falsified, and put the commands into the record."""
    folder = out / "falsified"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{record.kernel.replace('.', '-')}-{record.law}"
    options = f" --law {record.law}" + (f" --device {device}" if device != "cpu" else "")
    run = [*record.before, str(record.case)]
    record.replay = f"kda replay {shlex.quote('; '.join(run))} --kernel {shlex.quote(target)}{options}"
    record.script = f"falsified/{stem}.py"
    (folder / f"{stem}.case").write_text("\n".join(run) + "\n")
    calls = _calls(kernel, LAWS[record.law], run)
    np.savez_compressed(
        folder / f"{stem}.npz",
        **{f"{n}/{name}": x for n, call in enumerate(calls) for name, x in call["arrays"].items()},
    )
    settings = [{"keywords": call["keywords"], **call["how"]} for call in calls]
    parsed = Target.parse(target)
    where = str(Path(parsed.where).resolve()) if parsed.where.endswith(".py") else parsed.where
    facts = {
        "stem": stem,
        "law": record.sentence,
        "equation": record.equation,
        "case": "; ".join(run),
        "message": record.message or "",
        "where": where,
        "function": parsed.function,
        "device": device,
        "array": array,
        "calls": json.dumps(settings),
    }
    text = SCRIPT
    for name, value in facts.items():
        text = text.replace(f"@{name}@", str(value) if name in ("stem", "calls") else repr(str(value)))
    (folder / f"{stem}.py").write_text(text)


def _calls(kernel: Kernel, law: Law, run: list[str]) -> list[dict[str, Any]]:
    """The messages of every call: with the cases before, then those the law makes on the last one."""
    kernel.recorded = []
    *before, case = map(parse, run)
    if before:
        kernel.worker.renew()
    for one in before:
        call_first(kernel, law, one)
    with contextlib.suppress(Refused, Broke):
        law.check(kernel, case)
    calls, kernel.recorded = kernel.recorded, None
    return calls


SCRIPT = '''"""Stand-alone reproducer: needs NumPy, the kernel and its array library."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

LAW = @law@
EQUATION = @equation@
CASE = @case@
FOUND = @message@
KERNEL, FUNCTION, DEVICE, ARRAY = @where@, @function@, @device@, @array@
CALLS = json.loads(r"""@calls@""")


def load():
    if not KERNEL.endswith(".py"):
        return importlib.import_module(KERNEL)
    sys.path.insert(0, str(Path(KERNEL).parent))
    spec = importlib.util.spec_from_file_location("kernel_under_test", KERNEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recurrence(q, k, v, g, beta, scale=None, initial_state=None, cu_seqlens=None, **_):
    """S <- (I - beta k k^T) Diag(exp g) S + beta k v^T, then o = scale S^T q; float64."""
    q, k, v, g, beta = (np.asarray(x, np.float64) for x in (q, k, v, g, beta))
    (B, T, HV, V), H, K = v.shape, q.shape[2], q.shape[3]
    cuts = [(b, 0, T) for b in range(B)] if cu_seqlens is None else [
        (0, int(a), int(b)) for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:])]
    o = np.zeros((B, T, HV, V))
    for n, (b, start, stop) in enumerate(cuts):
        for hv in range(HV):
            S = np.zeros((K, V)) if initial_state is None else np.array(initial_state[n, hv], np.float64)
            for t in range(start, stop):
                S = np.exp(g[b, t, hv])[:, None] * S
                key = k[b, t, hv * H // HV]
                S = S + beta[b, t, hv] * np.outer(key, v[b, t, hv] - S.T @ key)
                o[b, t, hv] = (K**-0.5 if scale is None else scale) * S.T @ q[b, t, hv * H // HV]
    return o


def tensor(name, x, call):
    dtype = dict.fromkeys(("initial_state", "pool", "A_log", "dt_bias"), "float32") | dict.fromkeys(
        ("cu_seqlens", "slots"), "int64") | dict.fromkeys(("g", "beta"), call["gate_dtype"]) | call.get("dtypes", {})
    dtype = dtype.get(name, call["dtype"])
    layout = call.get("layouts", {}).get(name, call.get("layout"))
    if ARRAY == "numpy":
        return laid_out(np, x.astype(dtype), layout)
    import torch

    x = laid_out(torch, torch.from_numpy(x.copy()).to(DEVICE, getattr(torch, dtype)), layout)
    return x.requires_grad_() if call.get("grad") and dtype != "int64" else x


def laid_out(library, x, layout):
    """The same numbers strided, transposed or sliced in memory, NaN in the gaps."""
    if x.ndim < 3:
        return x
    if layout == "strided":
        return library.stack((x, float("nan") * x), -1).reshape(*x.shape[:-1], -1)[..., ::2]
    if layout == "sliced":
        x = library.concatenate((x, float("nan") * x[:, :1]), 1)
        return library.concatenate((float("nan") * x, x), 2)[:, :-1, x.shape[2]:]
    if layout == "transposed":
        return x.swapaxes(1, 2).reshape(-1).reshape(x.swapaxes(1, 2).shape).swapaxes(1, 2)
    return x


def in_the_same_buffers(function, inputs, keywords, earlier, arrays):
    """A call with other numbers in the same tensors, which then get their own again; its results and a copy of them."""
    def fill(numbers):
        for name, x in (inputs | keywords).items():
            if name in earlier:
                x[...] = numbers[name] if ARRAY == "numpy" else tensor(name, numbers[name], CALLS[-1]).detach()
    fill(earlier)
    results = function(*(inputs[x] for x in ("q", "k", "v", "g", "beta")), **keywords)
    fill(arrays)
    return [(x, numbers(x)) for x in results if x is not None]


def numbers(x):
    return x.copy() if isinstance(x, np.ndarray) else x.detach().float().cpu().numpy().copy()


def main():
    print(LAW, "|", EQUATION)
    print(CASE)
    print("found:", FOUND)
    module = load()
    kernel = getattr(module, FUNCTION)
    global ARRAY
    ARRAY = getattr(module, "HINTS", {}).get("array", ARRAY)
    data = np.load(Path(__file__).with_suffix(".npz"))
    before = None
    for n, call in enumerate(CALLS):
        arrays = {name.split("/")[1]: data[name] for name in data.files if name.split("/")[0] == str(n)}
        earlier = {name[8:]: arrays.pop(name) for name in list(arrays) if name.startswith("earlier ")}
        inputs = {name: tensor(name, x, call) for name, x in arrays.items() if name not in ("do", "dstate")}
        others = [x for x in inputs if x not in ("q", "k", "v", "g", "beta")]
        keywords = dict(call["keywords"], **{x: inputs.pop(x) for x in others})
        function = getattr(module, module.HINTS["pool"]) if call.get("function") == "pool" else kernel
        try:
            kept = in_the_same_buffers(function, inputs, keywords, earlier, arrays) if earlier else []
            o = function(*(inputs[x] for x in ("q", "k", "v", "g", "beta")), **keywords)
            o = o[0] if isinstance(o, tuple) else o
        except Exception as error:
            print(f"call {n}: {type(error).__name__}: {error}")
            continue
        o = o if isinstance(o, np.ndarray) else o.detach().float().cpu().numpy()
        for x, was in kept:
            print(f"        elements of an earlier result that this call changed: {np.sum(numbers(x) != was)}")
        plain = ("q", "k", "v", "g", "beta", "initial_state", "cu_seqlens")
        want = recurrence(**{x: y for x, y in arrays.items() if x in plain}, scale=keywords.get("scale"))
        far, size = np.max(np.abs(o - want), initial=0), np.max(np.abs(want), initial=0)
        print(f"call {n}: largest |o - recurrence| {far:.6g}, largest |recurrence| {size:.6g}, "
              f"not finite {np.sum(~np.isfinite(o))}")
        if before is not None and before.shape == o.shape:
            print(f"        elements that differ from the call before: {np.sum(before != o)} of {o.size}")
        before = o


if __name__ == "__main__":
    main()
'''
