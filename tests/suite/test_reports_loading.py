"""Damaged, old and foreign result files: what can be read is shown, the rest is named."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("jinja2")

import sample_results as sample

from reports import ReportError, build, load, overview
from reports.columns import TABLES
from reports.results import STATUSES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return sample.write(tmp_path / "kda-results", [sample.run(), *(sample.law("a", f"law_{i}") for i in range(4))])


def add(folder, *lines):
    path = folder / "results.jsonl"
    path.write_text(path.read_text() + "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))


def test_a_truncated_file_shows_what_can_be_read(folder):
    path = folder / "results.jsonl"
    path.write_text(path.read_text()[:-40])
    results = load([folder])
    assert len(results.laws) == 3
    assert results.warnings == ["kda-results/results.jsonl: line 5 cut off or no JSON, left out"]


def test_lines_of_another_schema_are_left_out_with_one_word_for_all(folder):
    add(folder, *[{**sample.law("b", f"law_{i}"), "schema": 99} for i in range(7)])
    (warning,) = load([folder]).warnings
    assert warning.endswith("lines 6, 7, 8, 9, 10 and 2 more of schema 99 where this version reads 1, left out")


def test_two_files_of_different_schema_give_the_readable_one(folder, tmp_path):
    other = sample.write(tmp_path / "other", [{**line, "schema": 2} for line in (sample.run(), sample.law("b", "l"))])
    results = load([folder, other])
    assert set(results.laws["kernel"]) == {"a"} and "other/results.jsonl: lines 1, 2 of schema 2" in results.warnings[0]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("[1, 2]\n", "of schema None"),
        ('{"schema": 1, "kind": "poem"}\n', "of unknown kind 'poem'"),
        ({**sample.law("b", "l"), "status": "fine"}, "with the unknown status 'fine'"),
        ({"schema": 1, "kind": "law", "kernel": "b"}, "of kind 'law' without law, status"),
        ({**sample.law("b", "l"), "seconds": "long"}, "of kind 'law' whose seconds is no number"),
        ({**sample.law("b", "l"), "tried": float("inf")}, "of kind 'law' whose tried is no count"),
        ({**sample.law("b", "l"), "coverage": [1]}, "of kind 'law' whose coverage is no map"),
        ({**sample.bench("b", "w", 1.0), "times_ms": 3.0}, "of kind 'bench' whose times_ms is no list"),
    ],
)
def test_a_line_that_cannot_be_shown_is_named_and_the_rest_is_shown(folder, tmp_path, line, word):
    add(folder, line)
    (warning,) = load([folder]).warnings
    assert word in warning and "line 6" in warning
    assert warning.replace("'", "&#39;") in build([folder], tmp_path / "out")[0].read_text(encoding="utf-8")


def test_an_older_file_is_read_and_said_to_be_older(tmp_path):
    line = sample.law("a", "l")
    for name in ("quality", "blame", "nature"):
        del line[name]
    results = load([sample.write(tmp_path / "old", [line])])
    assert results.warnings == [
        "old/results.jsonl: written by an older version, without blame, nature, quality; shown as unknown"
    ]
    assert not results.laws["quality"].any() and results.laws["blame"].isna().all()


def test_a_missing_folder_and_an_empty_one_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "results.jsonl").write_text("")
    warnings = load([folder, tmp_path / "none", tmp_path / "empty", tmp_path / "blank"]).warnings
    assert [warning.split(": ", 1)[1] for warning in warnings] == [
        "no such file or folder",
        "the folder holds no results.jsonl",
        "the file is empty",
    ]


@pytest.mark.parametrize("content", [None, "", "no json\n", json.dumps(sample.run()) + "\n"])
def test_nothing_readable_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(ReportError, match="RESULTS: expected folders or files written by `kda check`"):
        build([tmp_path], tmp_path / "out")


def test_of_two_runs_the_newer_counts_in_either_order(tmp_path):
    old = sample.write(tmp_path / "old", [sample.run(), sample.law("a", "l", "falsified")])
    new = sample.write(tmp_path / "new", [sample.run(started="2026-02-01T00:00:00Z"), sample.law("a", "l")])
    for order in ([old, new], [new, old]):
        assert list(load(order).laws["status"]) == ["pass"]


def test_a_file_given_twice_counts_once(folder):
    assert len(load([folder, folder / "results.jsonl"]).laws) == 4


def test_one_kernel_on_two_gpus_keeps_both_rows_under_their_names(tmp_path):
    folders = [
        sample.write(tmp_path / name, [sample.run(device_name=name), sample.law("a", "l", device="cuda")])
        for name in ("H100", "H200")
    ]
    assert sorted(load(folders).laws["label"]) == ["a (H100)", "a (H200)"]


def test_deep_damage_inside_maps_does_not_stop_the_report(folder, tmp_path):
    odd = sample.law("b", "l", coverage={"gate": 5}, units_by_regime={"nonsense": 1.0}, units_by_token=[None, 3.0])
    add(folder, {**odd, "status": "falsified", "case": "Case()", "worst": float("inf"), "where": None})
    assert "b" in build([folder], tmp_path / "out")[0].read_text(encoding="utf-8")


def kda(*arguments, cwd):
    command = [sys.executable, "-m", "kda", "report", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def test_the_command_names_a_missing_folder_and_goes_on(folder, tmp_path):
    done = kda(folder, "kda-results/gpu", "--out", "page", cwd=tmp_path)
    assert done.returncode == 0 and "kda-results/gpu: no such file or folder" in done.stderr
    assert "page/index.html" in done.stdout and (tmp_path / "page" / "laws.csv").exists()


def test_the_command_fails_clearly_without_results(tmp_path):
    done = kda(cwd=tmp_path)
    assert done.returncode == 2 and "kda: RESULTS: expected folders or files" in done.stderr
    assert "kda-results: no such file or folder" in done.stderr


def test_the_picture_is_written_alone(folder, tmp_path):
    done = kda(folder, "--picture", "pictures/small.svg", cwd=tmp_path)
    assert done.returncode == 0 and not (tmp_path / "report").exists()
    assert (tmp_path / "pictures" / "small.svg").read_text(encoding="utf-8") == overview(load([folder]))


def test_every_column_and_status_word_is_documented():
    document = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (\w+)[^\n]*\n(.*?)(?=^## |\Z)", document, re.S | re.M))
    for kind, section in {"law": "laws", "kill": "kill", "bench": "bench", "run": "runs"}.items():
        told = [name for row in re.findall(r"^\| ([\w, ]+?) \|", parts[section], re.M) for name in row.split(", ")]
        assert sorted(told) == sorted([*TABLES[kind].columns, "column"]), section
    words = set(re.findall(r"^\| ([\w-]+) \|", parts["Status"], re.M)) - {"word"}
    assert words == {word for known in STATUSES.values() for word in known}
