"""The pytest face: `pytest benchmarks --bench-kernel TARGET --workload NAME`, timed by pytest-benchmark."""

import pytest
import torch

from benchmarks.workloads import choose

KERNELS = {"cpu": ["torch_chunked"], "cuda": ["triton_chunked"]}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that name what is timed."""
    group = parser.getgroup("kda")
    add = group.addoption
    add("--bench-kernel", action="append", default=[], metavar="TARGET", help="kernel to time; may be repeated")
    add("--bench-device", default="cpu", choices=["cpu", "cuda"])
    add("--bench-rounds", type=int, default=10, help="timed rounds of each benchmark")
    add("--workload", action="append", default=[], metavar="NAME", help="a name, a glob or a set of workloads")


def pytest_configure(config: pytest.Config) -> None:
    """One thread, as in `kda bench`: what is compared is kernels, not schedulers."""
    torch.set_num_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One benchmark for every workload, mode and kernel."""
    if "target" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    device = option("--bench-device")
    names = tuple(option("--workload")) or (("quick",) if device == "cuda" else ("cpu",))
    runs = [
        pytest.param(workload, mode, target, id=f"{workload.name}-{mode}-{target.rsplit(':', 1)[-1]}")
        for workload in choose(names)
        for mode in workload.modes
        for target in option("--bench-kernel") or KERNELS[device]
    ]
    metafunc.parametrize(("workload", "mode", "target"), runs)
