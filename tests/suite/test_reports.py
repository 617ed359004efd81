"""The report: the same bytes twice, nothing fetched, nothing green that did not run, clear words for bad files."""

import json
import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("pandas")
pytest.importorskip("jinja2")

from reports import ReportError, build, load

RUN = {
    "schema": 1,
    "kind": "run",
    "run": "r",
    "command": "kda check a",
    "started": "2026-01-01T00:00:00Z",
    "profile": "dev",
    "seed": 0,
    "device": "cpu",
    "device_name": "a CPU",
    "versions": {"python": "3.11"},
}


def law(kernel: str, name: str, status: str, **more):
    return {
        "schema": 1,
        "kind": "law",
        "kernel": kernel,
        "law": name,
        "family": "oracle",
        "sentence": f"Sentence of {name}.",
        "equation": "a < b & c",
        "status": status,
        "tried": 9,
        "refused": 1,
        "informative": 8,
        "worst": 0.25,
        "worst_case": "Case(T=2)",
        "case": None,
        "irrelevant": [],
        "message": None,
        "where": {},
        "units_by_token": None,
        "replay": None,
        "reason": None,
        "seconds": 0.5,
        "engine": [],
        "coverage": {"gate": {"zero": 8}},
        "seed": 0,
        "units_by_regime": {"gate=zero": 0.25},
        "device": "cpu",
        "profile": "dev",
        **more,
    }


LINES = [
    RUN,
    law("honest", "first", "pass"),
    law("honest", "second", "unsupported", reason="packed sequences", worst=0.0),
    law("honest", "third", "not-run", reason="no GPU", worst=None),
    law(
        "broken",
        "first",
        "falsified",
        case="Case(gate='spike')",
        message="o is <b>5</b>",
        worst=7.0,
        where={"token": 1},
        units_by_token=[0.1, 7.0],
        replay="kda replay x --kernel broken",
    ),
    law("broken", "second", "crash", case="Case()", message="RuntimeError: no", worst=None, replay="kda replay y"),
]


@pytest.fixture
def folder(tmp_path):
    results = tmp_path / "kda-results"
    results.mkdir()
    (results / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return results


def test_the_same_results_give_the_same_bytes(folder, tmp_path):
    first = {path.name: path.read_bytes() for path in build([folder], tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in build([folder], tmp_path / "b")}
    assert first == second
    assert set(first) == {"index.html", "report.md", "report.csv", "junit.xml"}


def test_the_page_is_small_and_asks_for_nothing(folder, tmp_path):
    text = build([folder], tmp_path / "a")[0].read_text()
    assert len(text.encode()) < 1_000_000
    assert not re.search(r"""(src|href)\s*=|url\(|@import|fetch\(|XMLHttpRequest""", text)


def test_the_page_escapes_what_kernels_say(folder, tmp_path):
    text = build([folder], tmp_path / "a")[0].read_text()
    assert "o is &lt;b&gt;5&lt;/b&gt;" in text and "<b>5</b>" not in text


def test_only_a_pass_is_green(folder, tmp_path):
    text = build([folder], tmp_path / "a")[0].read_text()
    marks = re.findall(r'<summary class="(\w+)">([^<]*)</summary>', text)
    assert ("good", "✓ pass 0.25") in marks
    assert {mark for mark, words in marks if "pass" not in words} == {"bad", "none"}
    assert "· not-run" in text and "✗ falsified 7" in text


def test_junit_skips_what_did_not_run(folder, tmp_path):
    root = ElementTree.fromstring(build([folder], tmp_path / "a")[2].read_text())
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("5", "2", "2")


def test_the_markdown_names_every_counterexample(folder, tmp_path):
    text = build([folder], tmp_path / "a")[1].read_text()
    assert "Case(gate='spike')" in text and "kda replay y" in text and "FALSIFIED" in text


def test_a_truncated_file_shows_what_can_be_read(folder):
    path = folder / "results.jsonl"
    path.write_text(path.read_text()[:-40])
    results = load([folder])
    assert len(results.laws) == 4
    assert "line 6 is cut off" in results.warnings[0]


def test_another_schema_is_left_out_with_a_word(folder):
    path = folder / "results.jsonl"
    path.write_text(path.read_text() + json.dumps({**LINES[1], "schema": 99}) + "\n")
    assert "schema 99, expected 1" in load([folder]).warnings[0]


@pytest.mark.parametrize("content", [None, "", "no json\n"])
def test_nothing_readable_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(ReportError, match="RESULTS: expected folders or files written by `kda check`"):
        build([tmp_path], tmp_path / "out")
