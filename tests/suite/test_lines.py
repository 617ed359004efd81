"""Result files: what is measured again is replaced, everything else stays."""

import json

from click.testing import CliRunner

from kda.cli import cli
from kda.lines import read, renewed, write
from reports import load


def kept(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with renewed(path, lambda line: line.get("law") == "again") as file:
        write(file, {"kind": "run", "run": "new"})
    return list(read(path))


def test_lines_that_come_again_go_and_a_run_without_lines_with_them(tmp_path):
    first, second, third = ({"kind": "run", "run": n} for n in "abc")
    stays, again, time = {"kind": "law", "law": "stays"}, {"kind": "law", "law": "again"}, {"kind": "bench"}
    found = kept(tmp_path / "results.jsonl", first, again, stays, second, again, third, time, time)
    assert found == [first, stays, third, time, time, {"kind": "run", "run": "new"}]
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": "run", "run": "a"}\n{"kind": "bench"}\n{"kind": "be')
    with renewed(path, lambda line: False) as file:
        write(file, {"kind": "run", "run": "b"})
    assert [line["kind"] for line in read(path)] == ["run", "bench", "run"]


def test_checks_of_other_kernels_other_laws_and_times_stay(tmp_path):
    def run(*words):
        done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output

    check = ("check", "--profile", "smoke", "--jobs", "1", "--law")
    run("bench", "numpy_loop", "--case", "Case(T=2)", "--rounds", "1", "--array", "numpy")
    run(*check, "the_scale_*", "numpy_loop")
    run(*check, "the_same_call_*", "numpy_loop")
    run(*check, "the_scale_*", "torch_recurrent")
    run(*check, "the_scale_*", "numpy_loop")
    lines = [(line["kernel"], line["law"]) for line in read(tmp_path / "results.jsonl") if line["kind"] == "law"]
    assert lines == [
        ("numpy_loop", "the_same_call_gives_the_same_bits"),
        ("torch_recurrent", "the_scale_is_honoured"),
        ("numpy_loop", "the_scale_is_honoured"),
    ]
    results = load([tmp_path])
    assert len(results.bench) == 1 and len(results.laws) == 3 and not results.warnings
