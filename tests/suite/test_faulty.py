"""The kill matrix: its registry is complete, it finds what is planted, and it says so when it does not."""

import json
from pathlib import Path

import pytest
from warm import kda, python

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
    done = kda("faulty", "--jobs", "1", "--out", tmp_path, *options, cwd=ROOT)
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
    others = [line for line in lines if line is not first]
    assert all(line["order"] < first["order"] and line["until"] is None for line in others)
    assert first["until"] == pytest.approx(sum(line["seconds"] for line in lines), abs=0.002)


SCRIPT = """
import sys
from pathlib import Path
import properties.kill as kill
from implementations.faulty import FAULTS, Fault, load
from kda import faulty
from properties.profiles import Profile

tiny = Profile(examples=2, seconds=5, evaluations=2, shrink=1, longest=20, widest=8)
kill.ROUNDS, kill.CONTROL, kill.PINNED = (tiny,), tiny, ()
faulty.controls = lambda seeds: [kill.Suspect("control", TARGET, "torch", None, 1)][:seeds]
planted = {"planted": Fault("X99", "Nothing.", "never", "here", "torch", "implementations.faulty._base:honest")}
known = load() | planted
chosen = {name: known[name] for name in FAULTY}
faulty.load = lambda: (FAULTS.clear(), FAULTS.update(chosen))
for name in list(kill.VERDICTS):
    if LAWS and name not in LAWS:
        del kill.VERDICTS[name]
run = {"seed": 0, "seeds": SEEDS, "jobs": 1, "out": Path(sys.argv[1]), "command": "test"}
sys.exit(faulty.run(only=ONLY, every=EVERY, **run))
"""
HONEST = "implementations.faulty._base:honest"
ORACLE, UNWRITTEN = "output_equals_the_recurrence", "nothing_written_nothing_read"


def trial(tmp_path: Path, **given):
    """Exit status, text and kill lines of a trial of few faulty kernels, laws and cases."""
    text, default = SCRIPT, {"target": HONEST, "faulty": ["planted"], "laws": [], "seeds": 0, "only": "*"}
    for name, value in (default | {"every": False} | given).items():
        text = text.replace(name.upper(), repr(value))
    done = python(text, tmp_path, cwd=ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()][1:]
    return done.returncode, " ".join(done.stdout.split()), lines


@pytest.mark.parametrize("every", [False, True])
def test_a_survivor_fails_the_trial(every, tmp_path):
    status, text, lines = trial(tmp_path, laws=[ORACLE, "outputs_alias_no_input"], only="planted", every=every)
    assert status == 1 and "survivors: planted" in text, text
    assert {line["status"] for line in lines} == {"pass"}


def test_an_accused_honest_kernel_fails_the_trial(tmp_path):
    target = "implementations.faulty.gates:strength_clamped"
    status, text, _ = trial(tmp_path, target=target, seeds=1, only="planted", every=True)
    assert status == 1 and "accused, of 1 runs: control by" in text, text


def test_a_law_without_a_kill_is_asked_about_kernels_that_are_dead_already(tmp_path):
    status, text, lines = trial(tmp_path, faulty=["cheats.constant"], laws=[ORACLE, UNWRITTEN], seeds=1)
    assert status == 0 and f"law {UNWRITTEN}: falsifies cheats.constant, 1 asked" in text, text
    assert "seeds of the honest kernels: 1 with 1 each" in text
    said = [(line["law"], line["first"], line["status"] == "pass") for line in lines if not line["honest"]]
    assert said == [(ORACLE, True, False), (UNWRITTEN, False, False)]


def test_a_law_that_was_asked_of_all_and_killed_none_fails_the_trial(tmp_path):
    idle = "outputs_alias_no_input"
    status, text, lines = trial(tmp_path, faulty=["cheats.constant", "cheats.zeros"], laws=[ORACLE, idle])
    assert status == 1 and f"2 that could be asked; idle laws: {idle}" in text, text
    assert sorted(line["kernel"] for line in lines if line["law"] == idle) == ["cheats.constant", "cheats.zeros"]


def test_pinned_cases_of_all_laws_come_before_drawn_ones_and_nothing_is_asked_twice():
    from properties.kill import ROUNDS, Suspect, _steps
    from properties.pinned import PINNED

    suspect = Suspect("a", "a", "torch", Fault("A1", "A", "", "", "torch", "a"), 0)
    ordered, every = _steps(suspect, first=True), _steps(suspect, first=False)
    plain = [step for step in ordered if step.law.family not in ("oracle", "scale")]
    half = len(plain) // 3
    assert {step.pinned for step in plain[:half]} == {len(PINNED)} and not any(x.profile.examples for x in plain[:half])
    assert {(step.pinned, step.profile, step.ahead) for step in plain[half : 2 * half]} == {(0, ROUNDS[0], 0)}
    assert [(x.law, x.profile, x.pinned) for x in ordered if x.law.family == "oracle" and not x.ahead] == [
        (x.law, x.profile, x.pinned) for x in every if x.law.family == "oracle" and not x.ahead
    ]
    assert [x for x in ordered if x.ahead] == [x for x in every if x.ahead]


def test_likely_kernels_come_first_and_those_that_hang_last():
    from properties.kill import Suspect, candidates
    from properties.outcome import VERDICTS

    def suspect(name, family, array="torch"):
        return Suspect(name, name, array, Fault(f"{family}1", "", "", "", array, name), 0)

    suspects = [suspect("hangs", "H"), suspect("slow", "H", "triton"), suspect("other", "A"), suspect("likely", "H")]
    suspects += [suspect("asked", "H"), suspect("random", "H")]
    law = VERDICTS["calls_in_between_change_nothing"]
    line = {"kernel": "hangs", "law": ORACLE, "family": "oracle", "status": "timeout", "first": True, "order": 0}
    line["drawn"] = True
    passed = {"law": law.name, "first": False, "status": "pass"}
    lines = [line, line | passed | {"kernel": "asked"}, line | passed | {"kernel": "likely", "drawn": False}]
    lines.append(line | {"kernel": "random", "status": "nondeterministic"})
    assert [one.name for one in candidates(law, lines, suspects)] == ["likely", "other", "slow", "random", "hangs"]


def test_a_law_that_finds_nothing_fails_the_trial():
    from properties.outcome import outcome

    line = {"kernel": "a", "honest": False, "status": "falsified", "order": 0, "seed": 0, "message": ""}
    verdicts = [law for law in LAWS.values() if not law.quality]
    large = [law.name for law in verdicts if law.large]
    names = [law.name for law in verdicts if not law.large]
    lines = [line | {"law": name} for name in names[2:]]
    lines.append(line | {"law": names[1], "status": "pass"})
    result = outcome(lines, whole=True)
    assert result.idle_laws == names[:2], "one that was asked in vain and one that was not asked"
    assert result.unable_laws == large and not result.good and not result.survivors
    assert outcome(lines, whole=False).good
    done = [*lines, line | {"law": names[0]}, line | {"law": names[1]}]
    assert outcome(done, whole=True).good


def test_no_kernel_matching_is_an_error(tmp_path):
    done, _ = matrix(tmp_path, "--only", "nothing.*")
    assert done.returncode == 2 and "no faulty kernel matches" in done.stderr
