"""The report: the same bytes twice, nothing fetched, nothing green that did not run, every kind of line alone."""

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("pandas")
pytest.importorskip("jinja2")

import sample_results as sample

from reports import build, load, overview
from reports.results import FALSIFIED

ROOT = Path(__file__).parents[2]
PAGES = {"index.html", "report.md", "junit.xml"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return sample.write(tmp_path_factory.mktemp("results") / "small", sample.small())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return sample.write(tmp_path_factory.mktemp("results") / "large", sample.large())


@pytest.fixture(scope="module")
def report(small, tmp_path_factory):
    return {path.name: path for path in build([small], tmp_path_factory.mktemp("report"))}


def text(report, name):
    return report[name].read_text(encoding="utf-8")


def rows_of(report, name):
    return list(csv.DictReader(io.StringIO(text(report, name))))


def test_the_same_results_give_the_same_bytes_wherever_they_lie(small, report, tmp_path):
    moved = sample.write(tmp_path / "elsewhere" / "small", sample.small())
    second = {path.name: path.read_bytes() for path in build([moved], tmp_path / "b")}
    assert {name: path.read_bytes() for name, path in report.items()} == second
    assert PAGES | {"laws.csv", "kill.csv", "bench.csv", "regimes.csv", "runs.csv"} <= set(second)
    assert overview(load([small])) == overview(load([moved]))


def test_the_page_asks_for_nothing(report):
    page = text(report, "index.html")
    links = set(re.findall(r"""(?:src|href|action|srcset|poster)\s*=\s*["']?([^"'\s>]+)""", page))
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|https?://", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_link_and_every_evidence_leads_somewhere(report, name):
    page = text(report, "index.html")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))
    for law, row in re.findall(r'<tr data-law="([^"]+)"(.*?)</tr>', page, re.S):
        sentence, equation, facts = data["laws"][law]
        assert sentence and equation and sum(map(bool, facts)) == row.count("<button")
    assert set(re.findall(r'data-fault="([^"]+)"', page)) == set(data["faults"])
    assert text(report, name).endswith("\n")


def test_a_whole_run_stays_under_the_limits(large, tmp_path):
    files = {path.name: path for path in build([large], tmp_path)}
    assert files["index.html"].stat().st_size < 1_000_000
    assert len(text(files, "report.md")) < 60_000
    assert text(files, "report.md").startswith("# KDA verification: 2 of 12 kernels falsified\n")


def test_results_of_any_size_keep_the_limit_and_say_what_was_left_out(tmp_path):
    lines = sample.large(kernels=25, laws=90, faults=60)
    page = build([sample.write(tmp_path / "vast", lines)], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert len(page.encode()) < 1_000_000
    assert "it is in laws.csv" in page and "more of kernel_number_4, a line each" in page


def test_every_region_that_scrolls_takes_the_focus_and_has_a_name_of_its_own(report):
    regions = re.findall(r'<div class="wide[^>]*>', text(report, "index.html"))
    names = re.findall(r'tabindex="0" role="region" aria-label="([^"]+)"', "".join(regions))
    assert len(regions) == len(set(names)) >= 8


def test_the_page_escapes_what_kernels_say(report):
    page = text(report, "index.html")
    assert "o is &lt;b&gt;5&lt;/b&gt;" in page and "<b>5</b>" not in page
    assert "\\u003cb>5\\u003c/b>" in page


def test_only_a_pass_is_green(report):
    cells = re.findall(r'class="cell (\w+)">(.) ([^<]*)<', text(report, "index.html"))
    assert ("good", "✓", "pass 0.25") in cells
    assert {tone for tone, _, words in cells if not words.startswith("pass")} == {"bad", "none", "plain"}
    assert ("bad", "✗", "falsified 7") in cells and ("bad", "✗", "crash") in cells
    assert ("none", "–", "unsupported") in cells and ("none", "·", "not-run") in cells
    assert text(report, "index.html").count('<td class="none" data-k="3">· not-run</td>') == 5


def test_a_quality_is_answered_and_falsifies_nobody(report):
    assert "**wrong**" in text(report, "report.md") and "**sound**" not in text(report, "report.md")
    assert "- sound: a batch row alone has the same bits: no" in text(report, "report.md")
    page = text(report, "index.html")
    assert re.search(r'class="cell plain">○ no<', page)
    verdicts = dict(re.findall(r'<h2>(\w+)</h2>\n<p class="word">. (\w+)</p>', page))
    assert verdicts == {"sound": "holds", "wrong": "FALSIFIED"}


def test_a_void_row_has_no_time(report):
    (row,) = re.findall(r"<td>cheat</td>.*?</tr>", text(report, "index.html"), re.S)
    assert "implausible" in row and "faster than the floor" in row and "below floor" in row
    assert "0.001" not in row and "1080" not in row
    plots = "".join(re.findall(r"<figure>.*?</figure>", text(report, "index.html"), re.S))
    assert "cheat" not in plots and "fast (cuda), prefill-8k: 0.6 ms" in plots
    assert "| prefill-8k | cheat (cuda) | forward | implausible |  |  |  | 0.3 |" in text(report, "report.md")


def test_a_ratio_of_times_is_told_as_how_many_times_as_fast(report):
    assert "1.8 (1.67–2) × fla_chunk" in text(report, "report.md")
    assert "fast (cuda): 1.80 times as fast as fla_chunk (1.67 to 2.00)" in text(report, "index.html")


def test_the_kill_matrix_names_the_first_kill_and_the_survivors(report):
    page = text(report, "index.html")
    assert re.search(r'<td class="h1 first" data-k="0.2">★ 0.20 s<br>3 ex</td>', page)
    assert "✗ Survived: sneaky." in page and "<strong>1 of 2</strong>" in page
    assert "median <strong>0.70 s</strong>" in page, "the law tried before counts into the time to the first kill"
    assert "Not run: gpu_only." in page and "· gpu_only not run" in page and "not run: no GPU" in page
    markdown = text(report, "report.md")
    assert "- not run: gpu_only" in markdown
    assert "- survived: sneaky" in markdown and "- honest kernels: 1, 2 runs, 0 accusations" in markdown


def test_a_law_that_was_not_asked_is_told_from_one_that_held(report):
    page = text(report, "index.html")
    rows = {name: page.split(f'data-fault="{name}"')[1].split("</tr>")[0] for name in ("early_mask", "sneaky")}
    assert "○ held" in rows["early_mask"] and "not asked" not in rows["early_mask"]
    assert "○ held" in rows["sneaky"] and "· not asked" in rows["sneaky"]
    first, third = (sample.LAWS[n][0].replace("_", " ") for n in (0, 2))
    heads = re.findall(r'<th scope="col" class="up">.*?</th>', page.replace("<wbr>", ""))
    assert [f"({count})" in head for count, head in zip(("0 of 2", "1 of 1"), heads, strict=True)] == [True, True]
    markdown = text(report, "report.md")
    assert f"| {first} | 2 | 0 | 0 |" in markdown and f"| {third} | 1 | 1 | 1 |" in markdown
    assert f"✗ Laws that were asked and falsified none: {first}." in page.replace("<wbr>", "")


def test_the_slowest_first_kills_and_the_seeds_are_named(tmp_path):
    law = sample.LAWS[0][0]
    lines = [
        sample.kill(f"fault_{n}", law, "falsified", 0, first=True, seconds=float(n), case="Case()") for n in range(1, 6)
    ]
    honest = {"honest": True, "fault": None, "status": "pass", "order": 0}
    lines += [sample.kill("sound", law, seed=seed, **honest) for seed in range(1, 21)]
    lines += [sample.kill("triton_slow", law, seed=seed, **honest) for seed in (1, 2)]
    files = {path.name: path for path in build([sample.write(tmp_path, lines)], tmp_path / "out")}
    markdown, page = text(files, "report.md"), text(files, "index.html")
    assert "median 3.0 s; slowest: fault_5 5.0 s, fault_4 4.0 s, fault_3 3.0 s\n" in markdown
    assert (
        "<strong>5.0 s</strong> (fault_5), <strong>4.0 s</strong> (fault_4), <strong>3.0 s</strong> (fault_3)." in page
    )
    seeds = "20 seeds each: sound; 2 seeds each: triton_slow"
    assert seeds in markdown and seeds in page
    assert "Each of the 1 laws that were asked falsified at least one." in page


def test_an_accused_honest_kernel_is_named(tmp_path):
    lines = [sample.kill("sound", "some_law", "falsified", 0, honest=True, fault=None, case="Case(T=5)")]
    files = {path.name: path for path in build([sample.write(tmp_path, lines)], tmp_path / "out")}
    assert "✗ Accused: sound." in text(files, "index.html") and "Case(T=5)" in text(files, "index.html")
    assert "1 runs, 1 accusations" in text(files, "report.md")
    assert ElementTree.fromstring(text(files, "junit.xml")).get("failures") == "1"


def test_junit_skips_what_did_not_run_and_fails_what_is_wrong(report):
    root = ElementTree.fromstring(text(report, "junit.xml"))
    failed = {case.get("name") for case in root if case.find("failure") is not None}
    skipped = {case.get("name") for case in root if case.find("skipped") is not None}
    assert failed == {sample.LAWS[0][0], sample.LAWS[1][0], "sneaky", "prefill-8k forward"}
    assert skipped == {sample.LAWS[5][0], sample.LAWS[6][0], sample.QUALITY, "decode-32 decode", "gpu_only"}
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == (str(len(root)), "4", "5")


def test_the_markdown_names_every_counterexample(report):
    markdown = text(report, "report.md")
    assert "Case(T=3, gate='spike')" in markdown and "    kda replay y" in markdown
    assert "Looks like: the output matches the specification with the decay applied after the write." in markdown
    assert markdown.index("FALSIFIED") < markdown.index("## Counterexamples") < markdown.index("## Not run")


def test_csv_and_parquet_hold_the_same(report):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    for name in ("laws", "kill", "bench", "regimes", "runs"):
        rows = rows_of(report, f"{name}.csv")
        table = pyarrow.read_table(report[f"{name}.parquet"])
        assert table.column_names == list(rows[0]) and table.num_rows == len(rows)
    assert rows_of(report, "bench.csv")[0]["times_ms"] == "[0.588, 0.6, 0.6, 0.618]"
    assert rows_of(report, "kill.csv")[0]["fault_source"] == "fla #99"


KINDS = {"law": ("laws",), "kill": ("kills",), "bench": ("bench",)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", [True, False])
def test_one_kind_of_lines_is_enough(kind, header, tmp_path):
    lines = [line for line in sample.small() if line["kind"] == kind or (header and line["kind"] == "run")]
    folder = sample.write(tmp_path, lines)
    files = {path.name: path for path in build([folder], tmp_path / "out")}
    page, results = text(files, "index.html"), load([folder])
    assert [name for name in ("laws", "kills", "bench") if len(getattr(results, name))] == list(KINDS[kind])
    missing = {
        "law": "No kernel was verified here",
        "kill": "The suite was not tried on faulty kernels here",
        "bench": "Nothing was timed here",
    }
    assert all((sentence in page) == (other != kind) for other, sentence in missing.items())
    assert ElementTree.fromstring(overview(results)).tag.endswith("svg")


def test_missing_gpu_results_are_said(report, tmp_path):
    assert "Nothing ran on a GPU." not in text(report, "index.html")
    lines = [sample.run(device="cuda"), sample.law("a", "b", "not-run", device="cuda", reason="no GPU", worst=None)]
    files = {path.name: path for path in build([sample.write(tmp_path, lines)], tmp_path / "out")}
    assert "Nothing ran on a GPU." in text(files, "index.html")
    assert "0 of 1 kernel falsified" in text(files, "index.html") and "– not run" in text(files, "index.html")


def test_tables_have_one_row_per_measurement(large):
    results = load([large])
    assert (len(results.laws), len(results.kills), len(results.bench)) == (12 * 55, 70 * 55, 60)
    assert set(results.laws["status"]) == {"pass", "falsified"} and FALSIFIED[0] == "falsified"
    assert results.regimes["units"].max() < 1


def test_the_picture_for_the_readme_comes_from_the_published_results():
    published = sorted((ROOT / "reports" / "published").glob("*/results.jsonl"))
    picture = ROOT / "docs" / "pictures" / "results.svg"
    assert picture.exists() == bool(published), "kda report reports/published/* --picture docs/pictures/results.svg"
    if published:
        assert picture.read_text(encoding="utf-8") == overview(load([path.parent for path in published]))


def test_the_picture_shows_falsified_kernels_and_no_void_time(small):
    picture = overview(load([small]))
    assert "✗ breaks 2 of 3 laws" in picture and "✓ holds the 5 laws of 7 that ran" in picture
    assert "1 of 2" in picture and "prefill-8k" in picture and "cheat (cuda) on prefill-8k (implausible)" in picture
    assert len(picture) < 30_000 and ElementTree.fromstring(picture).get("aria-label")
