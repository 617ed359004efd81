"""A layer around `triton_training`, run in a process of its own: prints what compiling it changes, as JSON."""

import json

import torch
from torch.nn.functional import logsigmoid, normalize

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


def main() -> None:
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
            }
        )
    )


if __name__ == "__main__":
    main()
