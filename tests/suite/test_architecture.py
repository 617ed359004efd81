"""The arrows of the architecture: who may import whom."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"kda_spec", "implementations", "properties", "benchmarks", "reports", "kda", "tests"}
MAY_IMPORT = {
    "kda_spec": set(),
    "implementations": set(),
    "properties": {"kda_spec", "implementations"},
    "benchmarks": {"implementations", "properties", "kda_spec"},
    "reports": {"kda_spec"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder):
    for path in (ROOT / folder).rglob("*.py"):
        extra = (imported(path) & OURS) - MAY_IMPORT[folder] - {folder}
        assert not extra, f"{path.relative_to(ROOT)} imports {extra}"


def test_the_specification_imports_numpy_and_the_standard_library_only():
    for path in (ROOT / "kda_spec").rglob("*.py"):
        foreign = imported(path) - {"numpy", "kda_spec"} - set(sys.stdlib_module_names)
        assert not foreign, f"{path.name} imports {foreign}"


@pytest.mark.parametrize("folder", sorted(OURS - {"tests"}))
def test_files_stay_short(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 320, f"{path.relative_to(ROOT)} is too long for one subject"
