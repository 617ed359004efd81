"""Faults that need a call before: the cases before are found, made small, said, stored and replayed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from warm import kda

from properties.before import Asking, find
from properties.case import Case, parse, parse_run
from properties.process import HISTORY

BROKEN = Path(__file__).with_name("broken.py")
FAULTY = "implementations.faulty"
ORACLE = "output_equals_the_recurrence"
# target, law, what the answer still holds of the call before, cases before.
PLANTED = [
    (f"{BROKEN}:workspace_not_cleared", ORACLE, "the result of the call before added to its own", 1),
    (f"{BROKEN}:scale_remembered", ORACLE, "the scale of the call before", 1),
    (f"{BROKEN}:scale_remembered", "gradients_of_the_output_equal_the_adjoint", "the scale of the call before", 1),
    (f"{BROKEN}:crashes_when_wide_came_first", ORACLE, None, 1),
    (f"{FAULTY}.config:keys_of_the_call_before", ORACLE, None, 1),
    (f"{FAULTY}.config:compiled_for_another_gate", ORACLE, None, 1),
    (f"{FAULTY}.cheats:previous_output", ORACLE, "the result of the call before in place of its own", 1),
    (f"{FAULTY}.cheats:right_at_first", ORACLE, None, 2),
]


def check(target: str, law: str, tmp_path: Path):
    """Text and result line of one law on one kernel."""
    done = kda("check", target, "--law", law, "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout, json.loads((tmp_path / "kda-results" / "results.jsonl").read_text().splitlines()[1])


@pytest.mark.parametrize(("target", "law", "blame", "count"), PLANTED)
def test_the_case_before_is_found_small_and_replayed(target, law, blame, count, tmp_path):
    text, line = check(target, law, tmp_path)
    before, case = [parse(one) for one in line["before"]], parse(line["case"])
    assert line["status"] == "nondeterministic" and len(before) == count, line["message"]
    assert all(len(set(one.changed) - set(line["set_by_law"])) <= 3 for one in (*before, case)), line["message"]
    cases = " and ".join(line["before"])
    assert f"right alone, wrong after a call with {cases} in the same process: " in line["message"]
    assert text.count("\n  before   Case(") == count and line["message"] in text
    assert blame is None or blame in line["blame"], line["blame"]
    options = ("--kernel", target, "--law", law)
    again = kda(*shlex.split(line["replay"])[1:], cwd=tmp_path)
    assert again.returncode == 1 and "nondeterministic" in again.stdout, again.stdout + again.stderr
    (path,) = (tmp_path / "kda-results" / "falsified").glob("*.case")
    assert parse_run(path.read_text()) == (*before, case)
    assert kda("replay", path, *options, cwd=tmp_path).stdout == again.stdout
    alone = kda("replay", repr(case), *options, cwd=tmp_path)
    assert alone.returncode == 0 and alone.stdout.startswith("pass"), alone.stdout


def test_the_script_makes_the_calls_in_order(tmp_path):
    _, line = check(f"{BROKEN}:workspace_not_cleared", ORACLE, tmp_path)
    script = tmp_path / "kda-results" / line["script"]
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    errors = [float(x) for x in re.findall(r"recurrence\| (\S+), largest", done.stdout)]
    assert len(errors) == 2 and errors[0] < 1e-6 < 1e-3 < errors[1], done.stdout


def test_a_case_that_no_case_before_explains_is_reported_as_such(tmp_path):
    laws = ("--law", ORACLE, "--law", "final_state_equals_the_recurrence")
    kda("check", f"{BROKEN}:worn_out", *laws, "--jobs", "1", cwd=tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "kda-results" / "results.jsonl").read_text().splitlines()[1:]]
    assert sum(line["tried"] for line in lines) > HISTORY and lines[0]["status"] == "pass"
    line = lines[1]
    assert line["status"] == "nondeterministic" and line["before"] == [] and line["blame"] is None
    assert "depends on the calls before" in line["message"] and ";" not in line["replay"]


class Told(Asking):
    """A kernel that breaks where all the `culprits` came before, in this order; counts what is asked."""

    def __init__(self, culprits: list[Case], evaluations: int = 100) -> None:
        super().__init__(None, lambda case: case, evaluations)
        self.culprits = culprits

    def broken(self, before, case):
        rest = iter(before)
        return all(one in rest for one in self.culprits)


ASKED = [Case(T=n) for n in range(2, 2 + HISTORY)]


@pytest.mark.parametrize("places", [[63], [0], [31], [0, 63], [5, 6, 40], [62, 63], []])
def test_the_fewest_cases_are_found(places):
    culprits = [ASKED[n] for n in places] or [Case(seed=7)]
    asking = Told(culprits)
    assert find(Case(), ASKED, asking) == (tuple(culprits) if places else ())
    assert asking.left > 0


def test_what_is_found_holds_where_the_search_ends_early():
    asking = Told([ASKED[20], ASKED[50]], evaluations=30)
    found = find(Case(), ASKED, asking)
    assert asking.left == 0 and asking.broken(found, Case()) and 2 < len(found) < HISTORY


def test_a_call_that_a_later_one_mends_is_found():
    class Mended(Told):
        def broken(self, before, case):
            return before[0] in self.culprits

    assert find(Case(), ASKED, Mended([ASKED[21]])) == (ASKED[21],)


def test_the_case_itself_and_other_numbers_come_first():
    assert find(Case(), ASKED, Told([Case()])) == (Case(),)
    assert find(Case(), ASKED, Told([Case(seed=1)])) == (Case(seed=1),)
    assert find(Case(T=3), ASKED, Told([Case(T=3, K=5)])) == (Case(T=3, K=5),)
    assert find(Case(), [], Told([Case(T=2)])) == ()


def test_several_cases_are_no_case():
    assert parse_run("Case(T=3); Case(gate='zero')\nCase()") == (Case(T=3), Case(), Case())
    with pytest.raises(ValueError, match="CASE: expected one case; got 2"):
        parse("Case(T=3); Case()")
    with pytest.raises(ValueError, match="CASE: expected one line such as"):
        parse_run("Case(T=3) then Case()")
