"""A fault on a GPU stays with its process: the suite goes on in a new one, and no verdict is lost or misplaced."""

import pytest

from properties import adapters
from properties.calls import Broke, Kernel
from properties.case import Case
from properties.process import Worker

KERNEL = '''
import torch
from implementations.torch_recurrent import torch_recurrent
lost = False

def kernel(q, k, v, g, beta, **keywords):
    """Loses its device for three tokens; every later call in the process fails, as after an illegal access."""
    global lost
    import properties.adapters
    if q.shape[1] == 3:
        lost = True
        properties.adapters.Torch.finish = fail
    if lost:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return torch_recurrent(q, k, v, g, beta, **keywords)

def fail(self):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
'''


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "fragile.py"
    path.write_text(KERNEL)
    with Worker(f"{path}:kernel") as worker:
        worker.start()
        yield Kernel(worker)


def test_a_lost_device_is_the_crash_of_one_call_and_the_next_ones_are_answered(kernel):
    kernel(Case(T=2))
    with pytest.raises(Broke, match="illegal memory access") as broke:
        kernel(Case(T=3))
    assert broke.value.status == "crash"
    assert kernel(Case(T=4)).o.shape == (1, 4, 1, 2)
    kernel(Case(T=2))


def test_a_device_that_answers_is_not_lost():
    pytest.importorskip("torch")
    assert not adapters.Torch("cpu").lost() and not adapters.Numpy().lost()
