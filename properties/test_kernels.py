"""Every law on every kernel named on the command line: `pytest properties --kernel my_kernel.py:my_kernel`."""

import pytest

from properties.calls import Kernel
from properties.case import DTYPES
from properties.describe import accuses, describe
from properties.laws import LAWS
from properties.pinned import pinned_for
from properties.process import Worker
from properties.profiles import PROFILES, within_reach
from properties.runner import examine


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_law(law, target: str, worker: Worker, request: pytest.FixtureRequest):
    asked = PROFILES[request.config.getoption("--kda-profile")]
    interpreted = bool(worker.hints.get("interpreted"))
    profile, pinned = within_reach(asked, interpreted), pinned_for(law.family, interpreted)
    record = examine(Kernel(worker), law, profile, dtypes=DTYPES, seed_=0, name=target, pinned=pinned)
    if accuses(record.line()):
        pytest.fail(f"{target} breaks {law.name}\n{describe(record.line())}", pytrace=False)
    if record.status != "pass":
        pytest.skip(f"{record.status}: {record.reason}")
