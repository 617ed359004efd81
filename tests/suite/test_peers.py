"""Adapters of other packages' kernels: the call is passed on as it came, and what they cannot do is refused."""

import warnings

import pytest

pytest.importorskip("torch")

import torch

from benchmarks.inputs import make
from implementations.torch_chunked import torch_chunked
from properties.case import Case

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fla says on import that there is no GPU
    pytest.importorskip("fla.ops.kda")
    from implementations.peers import fla


class OnGpu(torch.Tensor):
    """A CPU tensor that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def call(monkeypatch):
    """The five tensors, and what fla was asked."""
    asked = []

    def kernel(*arguments, safe_gate=False, **keywords):
        asked.append(safe_gate)
        return torch_chunked(*arguments, **keywords)

    monkeypatch.setattr(fla, "_chunk", kernel)
    monkeypatch.setattr(fla, "_recurrent", kernel)
    x = make(Case(packed=(5, 0, 9), H=2, group=2, K=8, V=4, gate="production", state="random"), "cpu")
    tensors = [y.as_subclass(OnGpu) for y in (x.q, x.k, x.v, x.g, x.beta)]
    keywords = {"initial_state": x.initial_state, "output_final_state": True, "cu_seqlens": x.cu_seqlens, "scale": 0.3}
    return tensors, keywords, asked


@pytest.mark.parametrize("name", ["chunk_kda", "chunk_kda_safe_gate", "chunk_kda_bounded", "fused_recurrent_kda"])
def test_the_call_is_passed_on_as_it_came(name, call):
    tensors, keywords, asked = call
    found = getattr(fla, name)(*tensors, **keywords)
    expected = torch_chunked(*(y.as_subclass(torch.Tensor) for y in tensors), **keywords)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.as_subclass(torch.Tensor), b)
    assert asked == [name in ("chunk_kda_safe_gate", "chunk_kda_bounded")]
    with pytest.raises(NotImplementedError, match="GPU"):
        getattr(fla, name)(*(y.as_subclass(torch.Tensor) for y in tensors), **keywords)


def test_a_gate_below_the_bound_is_refused_by_the_safe_gate_only(call):
    (q, k, v, g, beta), keywords, _ = call
    g = (g * 10).as_subclass(OnGpu)
    with pytest.raises(ValueError, match="safe_gate expects at least -5"):
        fla.chunk_kda_safe_gate(q, k, v, g, beta, **keywords)
    fla.chunk_kda(q, k, v, g, beta, **keywords)


def test_the_contract_is_checked_before_fla_is_asked(call):
    (q, k, v, g, beta), keywords, asked = call
    with pytest.raises(ValueError, match="beta"):
        fla.chunk_kda(q, k, v, g, beta[:, :-1], **keywords)
    assert asked == []
