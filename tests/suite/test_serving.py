"""Serving: an honest pool call and its configurations pass, broken ones fall with few steps that can be replayed."""

import json
import shlex
from pathlib import Path

import pytest
from warm import kda

from properties.case import Case, parse
from properties.serving import Server

HERE = Path(__file__).parent
LAWS = (
    "a_server_can_keep_the_states",
    "a_pool_call_serves_its_slots",
    "configurations_agree",
    "raw_tensors_are_mapped",
    "each_map_stands_alone",
)


def check(file: str, tmp_path, *laws: str, function: str = "served"):
    options = [part for law in laws for part in ("--law", law)]
    target = f"{HERE / file}:{function}"
    kda("check", target, "--jobs", "1", *options, cwd=tmp_path)
    lines = (tmp_path / "kda-results" / "results.jsonl").read_text().splitlines()[1:]
    return {line["law"]: line for line in map(json.loads, lines)}


def test_an_honest_pool_call_passes(tmp_path):
    assert {line["status"] for line in check("served.py", tmp_path, *LAWS).values()} == {"pass"}


def test_broken_ones_are_falsified_with_few_steps(tmp_path):
    lines = check("served_broken.py", tmp_path, *LAWS[1:])
    assert {line["status"] for line in lines.values()} == {"falsified"}
    pool = lines["a_pool_call_serves_its_slots"]
    assert len(parse(pool["case"]).steps) <= 2 and "-1" in pool["case"]  # a slot in use, and the padding
    assert kda(*shlex.split(pool["replay"])[1:], cwd=tmp_path).returncode == 1


def test_a_padding_slot_whose_output_is_not_zero_is_seen(tmp_path):
    line = check("served_broken.py", tmp_path, LAWS[1], function="padded")[LAWS[1]]
    assert line["status"] == "falsified" and parse(line["case"]).steps == (("decode", -1),)
    assert "o of a padding slot (-1) holds 1 where 0 is promised" in line["message"]


def test_qualities_are_reported_and_accuse_nobody(tmp_path):
    arguments = ("check", f"{HERE / 'broken.py'}:batch_dependent", "--profile", "smoke", "--law")
    kda(*arguments, "*bits", cwd=tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "kda-results/results.jsonl").read_text().splitlines()[1:]]
    qualities = {line["law"]: line["status"] for line in lines if line["quality"]}
    assert qualities.pop("strides_keep_the_bits") == "pass"
    assert set(qualities.values()) == {"falsified"} and len(qualities) == 5
    assert kda(*arguments, "a_head_keeps*", cwd=tmp_path).returncode == 2


def test_all_steps_are_legal_in_any_order():
    pytest.importorskip("torch")
    from implementations.torch_recurrent import torch_recurrent  # noqa: F401

    steps = (("rollback", 0, 3), ("fork", 1, 2), ("evict", 3), ("prefill", 0, 2), ("fork", 0, 0), ("rollback", 0, 9))
    calls = []

    def advance(server, slots, places):
        calls.append((slots, places))
        raise StopIteration

    server = Server(Case(steps=steps), advance)
    with pytest.raises(StopIteration):
        server.run()
    assert calls == [([0], [[(0, 0), (0, 1)]])]


@pytest.mark.parametrize("steps", ["(('sleep', 1),)", "(('fork', 'a'),)", "((),)"])
def test_unknown_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"Case\.steps: expected"):
        parse(f"Case(steps={steps})")
