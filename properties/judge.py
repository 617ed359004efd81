"""A judge process: keeps one worker per target, judges laws, writes the evidence of what it falsified."""

import atexit
from typing import Any

from properties.calls import Kernel
from properties.evidence import write_evidence
from properties.laws import LAWS
from properties.pinned import pinned_for
from properties.process import Unloadable, Worker
from properties.profiles import PROFILES, within_reach
from properties.runner import Record, examine
from properties.targets import Target

_plan: Any = None
_workers: dict[str, Worker] = {}
_unloadable: dict[str, str] = {}


def prepare(plan: Any) -> None:
    """Remember the plan in this process."""
    global _plan
    _plan = plan
    atexit.register(close)


def close() -> None:
    """End all workers of this judge."""
    while _workers:
        _workers.popitem()[1].close()


def judge_law(target: str, name: str) -> list[dict[str, Any]]:
    """The result lines of one law on one kernel."""
    law, profile, kernel_name = LAWS[name], PROFILES[_plan.profile], Target.parse(target).name
    try:
        kernel = Kernel(_worker(target))
        interpreted = bool(kernel.worker.hints.get("interpreted"))
        profile, pinned = within_reach(profile, interpreted), pinned_for(law.family, interpreted)
        record = examine(kernel, law, profile, dtypes=_plan.dtypes, seed_=_plan.seed, name=kernel_name, pinned=pinned)
    except Unloadable as error:
        _unloadable[target] = str(error)
        record = Record(
            kernel_name,
            law.name,
            law.family,
            law.sentence,
            law.equation,
            status="not-run",
            quality=law.quality,
            reason=f"unloadable: {error}",
        )
    record.device, record.profile, record.seed = _plan.device, _plan.profile, _plan.seed
    if record.case is not None:
        write_evidence(record, target, kernel, _plan.out, _plan.device, _plan.array)
    return [record.line()]


def _worker(target: str) -> Worker:
    if target in _unloadable:
        raise Unloadable(_unloadable[target])
    if target not in _workers:
        close()  # one at a time: workers of kernels already judged would only hold memory
        worker = Worker(target, array=_plan.array, device=_plan.device, timeout=_plan.timeout)
        worker.start()
        _workers[target] = worker
    return _workers[target]
