"""A layer around `triton_training`, run in a process of its own: prints what compiling it changes, as JSON."""

import gc
import importlib.util
import json
import sys
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import logsigmoid, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from implementations import _triton
from implementations import triton_training as module
from implementations.triton_training import triton_training

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Layer(torch.nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = torch.nn.Linear(width, 4 * width)
        self.strength = torch.nn.Linear(width, heads)

    def forward(self, x):
        q, k, v, g = (t.unflatten(2, (self.heads, -1)) for t in self.project(x).chunk(4, dim=-1))
        beta = self.strength(x).sigmoid()
        o, state = triton_training(q, normalize(k, dim=-1), v, logsigmoid(g), beta, output_final_state=True)
        return o.flatten(2), state


def trained(layer: Layer, call, x):
    """Gradients of all parameters, from both outputs, through cotangents that are expanded scalars and transposes."""
    layer.zero_grad()
    o, state = call(x)
    (o.transpose(1, 2).square().sum() + state.sum()).backward()
    return [p.grad.clone() for p in layer.parameters()]


def foretold(dtype, state: bool) -> tuple[list[str], bool]:
    """The kernels a backward pass launches, and whether the forward pass foretold them and their compiled forms."""
    q = torch.rand(1, 70, 2, 16, device=DEVICE, dtype=dtype, requires_grad=True)
    before, beta = torch.rand(1, 2, 16, 16, device=DEVICE), torch.rand(1, 70, 2, device=DEVICE)
    told, launched = [], []

    def collected(found, call):
        def launch(kernel, grid, *tensors, **constants):
            found.append((kernel.fn.__name__, str(constants), *map(_triton._form, tensors)))

        with ExitStack() as stack:
            for name, m in list(sys.modules.items()):
                if name.startswith("implementations") and hasattr(m, "launch"):
                    stack.enter_context(patch.object(m, "launch", launch))
            call()

    def together(device, call, later=lambda: None):
        collected(told, later)
        return call()

    with patch.object(module, "together", together):
        o, final = triton_training(q, q, q, -q, beta, initial_state=before, output_final_state=state)
    loss = o.float().sum() + (final.sum() if state else 0)
    collected(launched, loss.backward)
    return sorted({name for name, *_ in launched}), set(told) == set(launched)


class Seen(TorchDispatchMode):
    """Keeps the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def watched() -> tuple[list[str], bool, list[int]]:
    """The operators that a mode sees, whether both ways give the same bits, and the shape where nothing is computed."""

    def trained(q):
        o, _ = triton_training(q, q, q, -q, beta)
        o.square().sum().backward()
        return q.grad

    beta, x = torch.rand(1, 19, 2, device=DEVICE), torch.rand(1, 19, 2, 16, device=DEVICE)
    plain = trained(x.clone().requires_grad_())
    with Seen() as seen:
        found = trained(x.clone().requires_grad_())
    with FakeTensorMode() as mode:
        beta = mode.from_tensor(beta)
        shape = trained(mode.from_tensor(x).requires_grad_()).shape
    return [name for name in seen.names if "kda" in name], torch.equal(plain, found), list(shape)


def loaded_again() -> None:
    """Loads the file by its path, and once more in its place."""
    specification = importlib.util.spec_from_file_location("a_copy", module.__file__)
    specification.loader.exec_module(importlib.util.module_from_spec(specification))
    importlib.reload(module)
    gc.collect()


def main() -> None:
    loaded_again()
    torch.manual_seed(0)
    layer, x = Layer(16, 2).to(DEVICE), torch.randn(2, 19, 16, device=DEVICE)
    plain = trained(layer, layer, x)
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    whole = trained(layer, torch.compile(layer, fullgraph=True, backend=backend), x)
    q = torch.randn(1, 3, 1, 4, device=DEVICE, requires_grad=True)
    g, beta = -torch.ones_like(q).detach(), torch.ones(1, 3, 1, device=DEVICE)
    o, state = triton_training(q, q, q, g, beta)
    (first,) = torch.autograd.grad(o.square().sum(), q, create_graph=True)
    try:
        first.sum().backward()
        second = "computed"
    except RuntimeError as error:
        second = str(error)
    leaves = [x.detach().requires_grad_() for x in (q, q, q, g, beta)]
    checked = {
        f"{name} {test}": verdict
        for name, arguments in {
            "chunked": (*leaves, 0.5, None, True, None),
            "chunked_backward": (o.detach(), None, *[x.detach() for x in leaves], 0.5, None, None),
        }.items()
        for test, verdict in torch.library.opcheck(getattr(torch.ops.kda, name).default, arguments).items()
    }
    print(
        json.dumps(
            {
                "largest": max(float(p.abs().max()) for p in plain),
                "difference": max(float((a - b).abs().max()) for a, b in zip(plain, whole, strict=True)),
                "state": state,
                "second": second,
                "checked": checked,
                "watched": watched(),
                "foretold": [foretold(d, s) for d in (torch.float32, torch.bfloat16) for s in (True, False)],
            }
        )
    )


if __name__ == "__main__":
    main()
