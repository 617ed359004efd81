"""The pytest face: `pytest properties --kernel TARGET`."""

from collections.abc import Iterator

import pytest

from properties.process import Worker


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that name what is under test."""
    group = parser.getgroup("kda")
    group.addoption(
        "--kernel", action="append", default=[], metavar="TARGET", help="kernel under test; may be repeated"
    )
    group.addoption("--kda-device", default="cpu", choices=["cpu", "cuda"])
    group.addoption("--kda-profile", default="smoke")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for every kernel and law."""
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", metafunc.config.getoption("--kernel") or ["numpy_loop"], scope="session")


def pytest_report_header(config: pytest.Config) -> str:
    """What is under test."""
    return f"kernels under test: {', '.join(config.getoption('--kernel') or ['numpy_loop'])}"


@pytest.fixture(scope="session")
def worker(target: str, request: pytest.FixtureRequest) -> Iterator[Worker]:
    """The worker process of a kernel, shared by its laws."""
    with Worker(target, device=request.config.getoption("--kda-device")) as worker:
        worker.start()
        yield worker
