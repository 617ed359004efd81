"""Families C and H in the raw form: what a kernel does to unnormalised q and k, raw gates and logits of beta."""

from typing import ClassVar

import torch
from torch.nn.functional import softplus

from implementations.faulty._base import Chunked
from implementations.faulty._registry import fault


class Raw(Chunked):
    """The honest raw form, keywords as in fla's `chunk_kda`; each map is a hook."""

    HINTS: ClassVar = {"raw": True}

    def __call__(self, q, k, v, g, beta, *, use_qk_l2norm_in_kernel=False, use_beta_sigmoid_in_kernel=False,
                 use_gate_in_kernel=False, allow_neg_eigval=False, safe_gate=False, lower_bound=None, A_log=None,
                 dt_bias=None, **keywords):  # fmt: skip
        dtype, group = v.dtype, v.shape[2] // q.shape[2]
        if use_qk_l2norm_in_kernel:
            q, k, v = self.normalised(q.float(), use_gate_in_kernel), self.normalised(k.float(), True), v.float()
        if use_beta_sigmoid_in_kernel:
            beta = self.strength(beta.float(), 2.0 if allow_neg_eigval else 1.0)
        if use_gate_in_kernel:
            g = self.mapped(g.float(), A_log, dt_bias, lower_bound if safe_gate else None, group)
        o, state = super().__call__(q, k, v, g, beta, **keywords)
        return o.to(dtype), state

    def normalised(self, x, gated):
        """Return x / sqrt(|x|^2 + 1e-6)."""
        return x / (x.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()

    def strength(self, x, most):
        """sigmoid(x), up to 2 for negative eigenvalues."""
        return most * x.sigmoid()

    def mapped(self, g, A_log, dt_bias, bound, group):
        """-exp(A_log) softplus(g + dt_bias), or bound sigmoid(exp(A_log) (g + dt_bias))."""
        rate, x = A_log.exp()[:, None], g if dt_bias is None else g + dt_bias
        return -rate * softplus(x) if bound is None else bound * (rate * x).sigmoid()


honest_raw = Raw()


@fault(
    "C2b",
    "With a lower bound the softplus gate is clamped there instead of the bounded map being taken.",
    trigger="the gate in the kernel and a lower bound",
    source="lightseekorg/tokenspeed #847",
)
class softplus_clamped_at_the_bound(Raw):
    def mapped(self, g, A_log, dt_bias, bound, group):
        gate = super().mapped(g, A_log, dt_bias, None, group)
        return gate if bound is None else gate.clamp_min(bound)


@fault(
    "C3b",
    "allow_neg_eigval is swallowed: the strength stays under 1.",
    trigger="the sigmoid in the kernel and negative eigenvalues asked for",
    source="fla #1119, #1122",
)
class negative_eigenvalues_swallowed(Raw):
    def strength(self, x, most):
        return x.sigmoid()


@fault(
    "C15",
    "q is normalised only where the gate is mapped inside too.",
    trigger="the norm in the kernel and the gate outside",
    source="xLLM #2311: a flag that another one decides",
)
class norm_depends_on_the_gate(Raw):
    def normalised(self, x, gated):
        return super().normalised(x, gated) if gated else x


@fault(
    "H1c",
    "A_log and dt_bias are indexed by the key head.",
    trigger="the gate in the kernel and HV > H",
    source="fla a1e135ba",
)
class parameters_of_the_key_head(Raw):
    def mapped(self, g, A_log, dt_bias, bound, group):
        head = torch.arange(g.shape[2]) // group
        return super().mapped(g, A_log[head], None if dt_bias is None else dt_bias[head], bound, group)


@fault(
    "C19",
    "The squares of a row are summed in the tensor's own half precision.",
    trigger="the norm in the kernel, float16, and rows longer than 256",
    source="third blind trial of the laws; unnormalised activations grow with depth",
)
class squares_in_half_precision(Raw):
    def __call__(self, q, k, v, g, beta, **keywords):
        self.dtype = q.dtype
        return super().__call__(q, k, v, g, beta, **keywords)

    def normalised(self, x, gated):
        return x / (x.to(self.dtype).square().sum(dim=-1, keepdim=True).float() + 1e-6).sqrt()
