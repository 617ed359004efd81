"""The tensors of a Case, drawn on the device by the recipe of `properties.case.build`.

The numbers are the same hashes of (seed, tensor, sequence, token, head, channel). Uniform draws are bit-equal to
NumPy's; logarithm, cosine and norms may differ in the last bit of float64, which a rounding to the kernel's dtype
shows only in rare ties. What this builder does not know is built by NumPy and copied.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from properties.case import Case, build, cotangents

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TENSORS = ("q", "k", "v", "g", "beta", "initial_state")
GATES = {"zero": 0.0, "tiny": -1e-6, "pinned": -5.0, "strong": -20.0, "forget": -1000.0, "typical": None}
# What the builder reads, and what changes nothing in the numbers; a case with any other field is built by NumPy.
FIELDS = {"T", "B", "packed", "H", "group", "K", "V", "dtype", "gate_dtype", "gate", "key", "beta", "state", "scale"}
FIELDS |= {"v_log2", "seed", "final_state", "layout", "at", "power"}
BETAS = {"one": 1.0, "tiny": 2.0**-10, "zero": 0.0, "two": 2.0}


@dataclass
class Inputs:
    """The arguments of one call as device tensors, and the cotangents of its results. Shapes as in the contract."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    initial_state: Tensor | None
    cu_seqlens: Tensor | None
    scale: float | None
    lengths: tuple[int, ...]
    dtype: str
    do: Tensor | None = None
    dstate: Tensor | None = None

    @property
    def scale_value(self) -> float:
        """The scale in force."""
        return float(self.q.shape[-1]) ** -0.5 if self.scale is None else self.scale

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every floating tensor with its name, the cotangents included."""
        for name in (*TENSORS, "do", "dstate"):
            if (x := getattr(self, name)) is not None:
                yield name, x

    def nbytes(self) -> int:
        """Bytes of all floating tensors."""
        return sum(x.numel() * x.element_size() for _, x in self.tensors())

    def like(self) -> "Inputs":
        """New tensors of the same shapes, contents undefined."""
        return replace(self, **{name: torch.empty_like(x) for name, x in self.tensors()})

    def copy_from(self, other: "Inputs") -> None:
        """Take over the contents of another set of the same shapes."""
        mine = dict(self.tensors())
        with torch.no_grad():
            for name, x in other.tensors():
                mine[name].copy_(x)


def make(case: Case, device: str, *, gradients: bool = False) -> Inputs:
    """The inputs of a case on a device, with cotangents where gradients are wanted."""
    return _drawn(case, device, gradients) if drawable(case) else _copied(case, device, gradients)


def drawable(case: Case) -> bool:
    """Whether the device builder knows every regime of the case."""
    return (
        (case.gate in GATES or case.gate == "production")
        and case.key == "unit"
        and (case.beta in BETAS or case.beta in ("random", "near-one", "to-two"))
        and case.state in ("none", "zero", "random", "huge")
        and set(case.changed) <= FIELDS
    )


def _drawn(case: Case, device: str, gradients: bool) -> Inputs:
    H, HV, K, V = case.H, case.H * case.group, case.K, case.V
    dtype, N = DTYPES[case.dtype], len(case.lengths)
    gate_dtype = dtype if case.gate_dtype == "same" else DTYPES[case.gate_dtype]
    parts: dict[str, list[Tensor]] = {name: [] for name in ("q", "k", "v", "g", "beta", "do")}
    # Dense rows are drawn together, packed ones each at its own length.
    runs = [(n, 1, L) for n, L in enumerate(case.packed)] if case.packed else [(0, N, case.T)]
    for first, count, L in runs:
        draw = Draw(case.seed, device, first)
        k = _unit(draw.normal("key", count, L, H, K)).to(dtype)
        q = _unit(draw.normal("q", count, L, H, K))
        q *= (2.0 ** torch.floor(3 * draw.uniform("q/norm", count, L, H) - 1)).float()[..., None]
        parts["q"].append(q.to(dtype))
        parts["k"].append(k)
        parts["v"].append(_round(draw.normal("v", count, L, HV, V) * 2.0**case.v_log2, dtype))
        parts["g"].append(_round(_gate(case.gate, draw, (count, L, HV, K)), gate_dtype))
        beta = _round(_beta(case.beta, draw, (count, L, HV)), gate_dtype)
        parts["beta"].append(_keep_in_domain(beta, k, case.group))
        if gradients:
            parts["do"].append(_round(draw.normal("do", count, L, HV, V), dtype))
    join = (lambda xs: torch.cat([x[0] for x in xs])[None]) if case.packed else (lambda xs: xs[0])
    tensors = {name: join(xs) for name, xs in parts.items() if xs}
    whole = Draw(case.seed, device, 0)
    state = _state(case, whole, (N, HV, K, V))
    dstate = _round(whole.uniform("dstate", N, HV, K, V) - 0.5, torch.float32) if gradients else None
    cu = np.concatenate([[0], np.cumsum(case.packed)]) if case.packed else None
    return Inputs(
        **{name: tensors[name] for name in ("q", "k", "v", "g", "beta")},
        initial_state=state,
        cu_seqlens=None if cu is None else torch.tensor(cu, dtype=torch.int64, device=device),
        scale=case.scale,
        lengths=case.lengths,
        dtype=case.dtype,
        do=tensors.get("do"),
        dstate=dstate,
    )


def _copied(case: Case, device: str, gradients: bool) -> Inputs:
    problem = build(case)
    dtype = DTYPES[case.dtype]
    gate_dtype = dtype if case.gate_dtype == "same" else DTYPES[case.gate_dtype]
    put = lambda x, dtype: None if x is None else torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype)  # noqa: E731
    do, dstate = cotangents(case, problem) if gradients else (None, None)
    return Inputs(
        **{name: put(getattr(problem, name), dtype) for name in ("q", "k", "v")},
        g=put(problem.g, gate_dtype),
        beta=put(problem.beta, gate_dtype),
        initial_state=put(problem.initial_state, torch.float32),
        cu_seqlens=put(problem.cu_seqlens, torch.int64),
        scale=case.scale,
        lengths=case.lengths,
        dtype=case.dtype,
        do=put(do, dtype),
        dstate=put(dstate, torch.float32),
    )


class Draw:
    """`properties.numbers` in torch: uint64 arithmetic in wrapped int64, sequence indices starting at `first`."""

    MULTIPLIERS = tuple(x - (1 << 64) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

    def __init__(self, seed: int, device: str, first: int) -> None:
        self.seed, self.device, self.first = seed, device, first

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform float64 numbers in (0, 1)."""
        key = (self.seed * 0x100000001 + zlib.crc32(name.encode())) & 0xFFFFFFFFFFFFFFFF
        counter = _mix(torch.tensor(key - (1 << 64) if key >> 63 else key, dtype=torch.int64, device=self.device))
        for axis, extent in enumerate(shape):
            start = self.first if axis == 0 else 0
            index = torch.arange(start + 1, start + extent + 1, dtype=torch.int64, device=self.device)
            index = index.reshape((-1,) + (1,) * (len(shape) - 1 - axis))
            counter = _mix(counter + index * self.MULTIPLIERS[0])
        return (_shift(counter, 11).double() + 0.5) * 2.0**-53

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal float64 numbers by Box-Muller."""
        radius = self.uniform(name + "/radius", *shape).log_().mul_(-2.0).sqrt_()
        return radius.mul_(self.uniform(name + "/angle", *shape).mul_(2.0 * np.pi).cos_())


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * Draw.MULTIPLIERS[1]
    x = (x ^ _shift(x, 27)) * Draw.MULTIPLIERS[2]
    return x ^ _shift(x, 31)


def _round(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.float().to(dtype) if dtype == torch.bfloat16 else x.to(dtype)


def _unit(x: Tensor) -> Tensor:
    return x.div_(torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-30)).float()


def _gate(name: str, draw: Draw, shape: tuple[int, ...]) -> Tensor:
    if name == "production":
        return -5.0 * (1.0 / (1.0 + torch.exp(-2.0 * draw.normal("gate", *shape))))
    if name == "typical":
        return torch.log(1.0 / (1.0 + torch.exp(-(draw.normal("gate", *shape) + 2.0))))
    return torch.full(shape, GATES[name] or 0.0, dtype=torch.float64, device=draw.device)


def _beta(name: str, draw: Draw, shape: tuple[int, ...]) -> Tensor:
    if name in BETAS:
        return torch.full(shape, BETAS[name], dtype=torch.float64, device=draw.device)
    x = draw.uniform("beta", *shape)
    return {"random": x, "near-one": 1.0 - 2.0**-5 * x, "to-two": 2.0 * x}[name]


def _keep_in_domain(beta: Tensor, k: Tensor, group: int) -> Tensor:
    """Lower beta where rounding left the domain beta |k|^2 <= 2."""
    square = k.double().square().sum(dim=-1).repeat_interleave(group, dim=-1)
    lowered = _round(torch.minimum(beta.double(), 2.0 / square.clamp_min(1e-30) * (1 - 2.0**-8)), beta.dtype)
    return torch.where(beta.double() * square > 2.0, lowered, beta)


def _state(case: Case, draw: Draw, shape: tuple[int, ...]) -> Any:
    if case.state == "none":
        return None
    if case.state == "zero":
        return torch.zeros(shape, dtype=torch.float32, device=draw.device)
    # A batch of hundreds of states is drawn a few sequences at a time: float64 scratch is several times its size.
    state = torch.empty(shape, dtype=torch.float32, device=draw.device)
    factor = (1e4 if case.state == "huge" else 1.0) * 2.0**case.v_log2
    for n in range(0, shape[0], 16):
        count = min(16, shape[0] - n)
        state[n : n + count] = Draw(case.seed, draw.device, n).normal("state", count, *shape[1:]) * factor
    return state
