"""The worker process: what a child imported late, the next one finds imported."""

import pytest

from properties.calls import Kernel, Refused
from properties.case import Case
from properties.process import Worker
from properties.worker import LATE

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
