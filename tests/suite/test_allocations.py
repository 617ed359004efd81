"""Guarded allocations: bands around them show stray writes, and nothing else of torch behaves otherwise."""

import pytest

pytest.importorskip("torch")

import torch

from properties.allocations import GuardedAllocations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slices_written_under_autograd_stray_nowhere(dtype):
    stray = []
    with GuardedAllocations(stray) as mode:
        x = torch.ones(3, 4, dtype=dtype, requires_grad=True)
        whole = torch.zeros(2, 3, 4, dtype=dtype)
        whole[1] += x
        whole[0, :, 1:3] = 2 * x[:, 1:3]
        whole.sum().backward()
    mode.examine()
    assert x.grad.tolist() == [[1.0, 3.0, 3.0, 1.0]] * 3 and not stray


def test_memory_begins_unwritten_at_offset_zero_and_may_grow():
    stray = []
    with GuardedAllocations(stray) as mode:
        x = torch.empty(4, 5)
        assert x.isnan().all() and x.storage_offset() == 0
        assert torch.ones(3).resize_(90).shape == (90,)
    mode.examine()
    assert not stray


def test_a_write_behind_an_allocation_shows():
    stray = []
    with GuardedAllocations(stray) as mode:
        torch.empty(2, 3).as_strided((1,), (1,), 6).zero_()
    mode.examine()
    assert stray == ["behind a tensor of shape [2, 3] that the kernel allocated"]
