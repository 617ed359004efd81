"""The worker process: what a child imported late the next one finds imported, and what lacked memory is asked again."""

import pytest

from properties.calls import Broke, Kernel, NotRun, Refused
from properties.case import Case
from properties.process import Worker
from properties.worker import LATE, PAUSES

KERNEL = '''
import sys
from implementations.torch_chunked import torch_chunked
FOUND = [name for name in {late} if name in sys.modules]

def kernel(q, k, v, g, beta, **keywords):
    """Refuses everything with the names of the late modules that were there before its file was loaded."""
    if FOUND:
        raise NotImplementedError(" ".join(FOUND))
    return torch_chunked(q, k, v, g, beta, **keywords)
'''


@pytest.mark.parametrize(("how", "found"), [({}, None), ({"grad": "both"}, LATE[0]), ({"poison": True}, LATE[1])])
def test_what_a_child_imported_late_is_there_for_the_next_one(how, found, tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "late.py"
    path.write_text(KERNEL.format(late=LATE))
    with Worker(f"{path}:kernel") as worker:
        worker.start()
        kernel = Kernel(worker)
        kernel(Case(T=2), **how)
        worker.renew()
        worker.start()
        said = ""
        try:
            kernel(Case(T=2))
        except Refused as refused:
            said = str(refused)
    assert worker.restarts == 1 and (found in said if found else not said), said


FULL = '''
import torch
from implementations.torch_chunked import torch_chunked
LEFT = [{times}]

def kernel(q, k, v, g, beta, **keywords):
    """Finds no memory so often."""
    if LEFT[0]:
        LEFT[0] -= 1
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return torch_chunked(q, k, v, g, beta, **keywords)
'''


@pytest.mark.parametrize(
    ("tiled", "error"), [({}, Broke), ({"tile": 2, "checked": False}, NotRun)], ids=["a call", "a vast one"]
)
@pytest.mark.parametrize("times", [len(PAUSES), len(PAUSES) + 1])
def test_a_call_that_found_no_memory_is_made_again_but_not_for_ever(times, tiled, error, tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "full.py"
    path.write_text(FULL.format(times=times))
    with Worker(f"{path}:kernel") as worker:
        if times > len(PAUSES):
            with pytest.raises(error, match="out of memory"):
                Kernel(worker)(Case(T=2), **tiled)
        else:
            assert Kernel(worker)(Case(T=2), **tiled).o.shape[1] == 2
