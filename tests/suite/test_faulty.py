"""The kill matrix: its registry is complete, it finds what is planted, and it says so when it does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from implementations.faulty._registry import FAMILIES, FAULTS, Fault, fault
from properties.laws import LAWS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def faults() -> dict[str, Fault]:
    """All that can be loaded here: Triton's may be missing."""
    from implementations.faulty import load

    try:
        return load()
    except ImportError as error:
        assert "triton" in str(error)
        return FAULTS


def matrix(tmp_path: Path, *options: str):
    """Exit status, text and kill lines of one `kda faulty`."""
    command = [sys.executable, "-m", "kda", "faulty", "--jobs", "1", "--out", str(tmp_path), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    path = tmp_path / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][1:] if path.exists() else []
    assert "Traceback" not in done.stdout + done.stderr
    return done, lines


def test_there_are_enough_of_every_family_and_library(faults):
    families = {fault.family for fault in faults.values()}
    assert len(faults) >= 70 and families == set(FAMILIES)
    if any(fault.array == "triton" for fault in faults.values()):
        assert sum(fault.array == "triton" for fault in faults.values()) >= 10
    assert sum(" and " in fault.trigger for fault in faults.values()) >= 35


def test_every_fault_says_what_where_and_when(faults):
    assert len({fault.id for fault in faults.values()}) == len(faults)
    for name, one in faults.items():
        assert name == one.name and one.array in ("numpy", "torch", "triton")
        assert one.summary.endswith(".") and one.trigger and one.source, name


def test_an_id_cannot_be_given_twice(faults):
    taken = next(iter(faults.values())).id
    with pytest.raises(ValueError, match="fault id: expected a new one"):
        fault(taken, "Again.", trigger="always", source="here")(lambda q, k, v, g, beta: None)


@pytest.mark.parametrize(
    ("kernel", "law"),
    [
        ("cheats.zeros", "output_equals_the_recurrence"),
        ("gates.gate_clamped", "output_equals_the_recurrence"),
        ("gradients.dg_of_one_block", "gradients_of_both_equal_the_adjoint"),
    ],
)
def test_a_planted_fault_is_found_and_its_law_named(kernel, law, tmp_path):
    done, lines = matrix(tmp_path, "--only", kernel, "--seeds", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    (first,) = [line for line in lines if line["first"]]
    assert (first["kernel"], first["law"], first["honest"]) == (kernel, law, False)
    assert first["fault"]["summary"] and first["case"].startswith("Case(") and first["examples"] > 0
    assert all(line["order"] < first["order"] for line in lines if line is not first)


SCRIPT = """
import sys
import properties.kill as kill
from implementations.faulty import FAULTS, Fault
from kda import faulty
from properties.profiles import Profile

tiny = Profile(examples=2, seconds=5, evaluations=2, shrink=1, longest=20, widest=8)
kill.ROUNDS, kill.CONTROL, kill.PINNED = (tiny,), tiny, ()
kill.controls = lambda seeds: []
faulty.controls = lambda seeds: [kill.Suspect("control", TARGET, "torch", None, 1)][:seeds]
base = "implementations.faulty._base:honest"
faulty.load = lambda: FAULTS.update({"planted": Fault("X99", "Nothing.", "never", "here", "torch", base)})
status = faulty.run(only="planted", every=True, seed=0, seeds=SEEDS, jobs=1, out=sys.argv[1], command="test")
sys.exit(status)
"""


def trial(tmp_path: Path, target: str, seeds: int) -> subprocess.CompletedProcess[str]:
    text = (
        SCRIPT.replace("TARGET", repr(target)).replace("SEEDS", str(seeds)).replace("sys.argv[1]", "Path(sys.argv[1])")
    )
    command = [sys.executable, "-c", "from pathlib import Path\n" + text, str(tmp_path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_survivor_fails_the_trial(tmp_path):
    done = trial(tmp_path, "implementations.faulty._base:honest", seeds=0)
    assert done.returncode == 1 and "survivors: planted" in done.stdout, done.stdout + done.stderr


def test_an_accused_honest_kernel_fails_the_trial(tmp_path):
    done = trial(tmp_path, "implementations.faulty.gates:strength_clamped", seeds=1)
    text = " ".join(done.stdout.split())
    assert done.returncode == 1 and "accused, of 1 runs: control by" in text, done.stdout + done.stderr


def test_a_law_that_finds_nothing_fails_the_trial():
    from properties.kill import outcome

    line = {"kernel": "a", "honest": False, "status": "falsified", "order": 0, "seed": 0, "message": ""}
    names = [name for name, law in LAWS.items() if not law.quality][:2]
    lines = [line | {"law": names[0]}, line | {"law": names[1], "status": "pass"}]
    result = outcome(lines, whole=True)
    assert result.idle_laws == [names[1]] and not result.good and not result.survivors
    assert outcome(lines, whole=False).good


def test_no_kernel_matching_is_an_error(tmp_path):
    done, _ = matrix(tmp_path, "--only", "nothing.*")
    assert done.returncode == 2 and "no faulty kernel matches" in done.stderr
