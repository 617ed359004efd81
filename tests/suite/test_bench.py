"""The benchmark's own parts: inputs, oracle, hash, floor, ratios, and what `kda bench` writes and says."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pandas")

import pandas as pd
import torch
from click.testing import CliRunner
from torch.profiler import ProfilerActivity, profile

from benchmarks import gpu
from benchmarks.around import busiest
from benchmarks.calling import Candidate
from benchmarks.clock import Digest
from benchmarks.gradients import Sample
from benchmarks.inputs import Inputs, drawable, make
from benchmarks.measure import Bench
from benchmarks.oracle import judge, solve
from benchmarks.ratios import paired, say
from benchmarks.roofline import floor
from benchmarks.workloads import FLASHKDA_PACKED, MODES, SETS, WORKLOADS, choose
from implementations.torch_chunked import torch_chunked
from kda.bench import Plan, how_of
from kda.cli import cli
from kda_spec import adjoint, trace
from properties.budgets import output_budget, state_budget
from properties.case import Case, build, cotangents, parse
from reports.compare import compare

torch.set_num_threads(1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROOT = Path(__file__).parents[2]
FIELDS = """schema kind kernel workload mode device case B T tokens sequences H HV K V dtype clock rounds times_ms
median_ms q25_ms q75_ms min_ms host_ms first_call_s peak_bytes floor_ms floor_by of_floor units status reason flags
kernel_names baseline ratio ratio_low ratio_high seed seconds""".split()
CASES = [
    Case(T=37, B=2, H=2, group=2, K=8, V=5, gate="production", beta="random", state="random", seed=3, v_log2=2),
    Case(packed=(20, 0, 1, 33), H=2, K=16, V=16, gate="typical", beta="to-two", state="random", dtype="bfloat16"),
    Case(T=70, H=1, K=4, V=16, gate="strong", beta="two", dtype="bfloat16", gate_dtype="float32"),
    Case(T=17, H=3, K=16, V=3, gate="spike", beta="two", state="asymmetric", dtype="float16", scale=0.5),
    Case(T=1, B=40, H=2, K=16, V=16, gate="forget", beta="near-one", state="huge"),
]


def kda(*arguments: str, cwd: Path, status: int | None = None):
    command = [sys.executable, "-m", "kda", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, env=None)
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done


def lines(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_device_builder_draws_what_the_case_means(case, device):
    problem, x = build(case), make(case, device, gradients=True)
    expected = {name: getattr(problem, name) for name in ("q", "k", "v", "g", "beta", "initial_state")}
    expected["do"], expected["dstate"] = cotangents(case, problem)
    for name, y in expected.items():
        if y is None:
            assert getattr(x, name) is None
            continue
        got = getattr(x, name).double().cpu().numpy()
        assert got.shape == y.shape and np.mean(got != y) <= 1e-3, name
        np.testing.assert_allclose(got, y, rtol=2**-7, atol=0)
    assert drawable(case) == (case.gate != "spike")
    assert (None if problem.cu_seqlens is None else problem.cu_seqlens.tolist()) == (
        None if x.cu_seqlens is None else x.cu_seqlens.tolist()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_chunked_oracle_is_the_specification_budgets_included(case, device):
    problem, x = build(case), make(case, "cpu")
    for name in ("q", "k", "v", "g", "beta", "initial_state", "cu_seqlens"):
        if getattr(x, name) is not None:
            setattr(x, name, getattr(x, name).to(device))
    truth, found = trace(problem), solve(x)
    pairs = [(found.o, truth.o), (found.final_state, truth.final_state)]
    pairs.append((found.o_budget, output_budget(problem, truth, case.dtype)))
    expected = state_budget(problem, truth, case.dtype).reshape(found.state_budget.shape)
    pairs.append((found.state_budget, expected))
    for got, expected in pairs:
        np.testing.assert_allclose(got.cpu().numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_the_judge_counts_in_budget_units_and_names_the_place():
    x = make(CASES[0], "cpu")
    truth = solve(x)
    o = truth.o.clone()
    assert judge(truth, o, truth.final_state).units == 0
    o[1, 30, 2, 4] += 3 * truth.o_budget[1, 30, 2]
    verdict = judge(truth, o, truth.final_state)
    assert verdict.units == pytest.approx(3) and "row 1, token 30, head 2, column 4" in verdict.words
    o[0, 0, 0, 0] = float("nan")
    assert judge(truth, o, None).units == float("inf")


@pytest.mark.parametrize("packed", [(), (20, 3, 33)])
def test_the_gradients_of_the_sample_are_the_adjoints(packed):
    case = Case(T=20, B=2, packed=packed, H=2, group=2, K=8, V=8, gate="production", beta="random", state="random")
    case = case.but(B=1) if packed else case
    problem, x = build(case), make(case, "cpu", gradients=True)
    truth = {name: torch.from_numpy(y) for name, y in adjoint(problem, *cotangents(case, problem)).items()}
    sample = Sample(x, 1)
    assert sample.judge(truth).units < 1e-3
    truth["k"][:, -1, 1] += 1e-3
    row, token = (0, -1) if packed else (1, -1)
    assert sample.n == (2 if packed else 0)
    truth["k"][row if packed else 0, token, 1] += 1e-3
    assert sample.judge(truth).units > 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (4096,), (40, 1031)])
def test_a_hash_tells_any_single_bit(dtype, shape, device):
    digest = Digest(device)
    x = torch.randn(shape).mul(100).to(device, dtype)
    first = digest([x])
    assert Digest("cpu")([x.cpu()]) == first
    assert digest([x.clone()]) == first
    for place in (0, x.numel() // 2, x.numel() - 1):
        y = x.clone()
        y.view(torch.uint8).flatten()[place * x.element_size()] ^= 1
        assert digest([y]) != first
    if x.numel() > 1:
        assert digest([x.flatten().flip(0)]) != first
    assert digest([x, x[:0]]) != digest([x[:0]]) and digest([x[1:].clone(), x[:1]]) == digest([x[1:], x[:1]])
    assert digest([0 * x]) != digest([x[:0]])


def _shapes(case: Case) -> Inputs:
    H, HV, tokens = case.H, case.H * case.group, sum(case.lengths)
    B, T = (1, tokens) if case.packed else (case.B, case.T)
    half = lambda *shape: torch.empty(*shape, dtype=torch.bfloat16, device="meta")  # noqa: E731
    wide = half(B, T, H, case.K)
    state = torch.empty(len(case.lengths), HV, case.K, case.V, device="meta")
    return Inputs(wide, wide, half(B, T, HV, case.V), wide, half(B, T, HV), state, None, None, case.lengths, case.dtype)


@pytest.mark.parametrize(
    ("name", "expected"), [("fixed-8192-h96", 0.34), ("decode-n512", 0.716), ("decode-n1", 0.0014)]
)
def test_the_floor_is_the_bytes_that_must_move(name, expected):
    rates = {"bytes_per_s": 3.02e12, "flops_per_s": 750e12}
    found, by = floor(_shapes(WORKLOADS[name].case), "forward", rates)
    assert found == pytest.approx(expected, rel=0.04) and by == "bytes"
    both, _ = floor(_shapes(WORKLOADS[name].case), "forward+backward", rates)
    assert both == pytest.approx(2 * found, rel=1e-3)  # every input also has a gradient, every output a cotangent


def test_graphs_are_timed_beside_calls():
    how = how_of(device="cuda", array="torch", rounds=None, seconds=1, timeout=1)
    plan = Plan.make(
        (),
        workloads=("fixed-8192-h96", "fixed-8192-h8", "packed-8192-h8", "decode-n1"),
        modes=(),
        case=None,
        baseline=None,
        seed=0,
        out=Path("r"),
        resume=False,
        command="kda bench",
        how=how,
    )
    assert [(job.workload, job.mode) for job in plan.jobs if job.graph] == [
        ("fixed-8192-h96/graph", "forward"),
        ("fixed-8192-h96/graph", "forward+backward"),
        ("fixed-8192-h8/graph", "forward"),
        ("fixed-8192-h8/graph", "forward+backward"),
        ("packed-8192-h8/graph", "forward"),
        ("decode-n1/graph", "decode"),
    ]


def test_every_workload_says_exactly_what_it_is():
    for name, workload in WORKLOADS.items():
        assert workload.name == name and parse(repr(workload.case)) == workload.case
        assert drawable(workload.case) and set(workload.modes) <= set(MODES)
    assert sum(FLASHKDA_PACKED) == 8192
    assert {sum(w.case.lengths) for n, w in WORKLOADS.items() if n.startswith("grid-skewed-8192")} == {8192}
    for name in SETS:
        assert choose((name,))


def test_the_ratio_of_paired_rounds_ignores_what_disturbed_both():
    noise = np.random.default_rng(0).uniform(1, 3, 40)
    ratio, low, high = paired(list(1.5 * noise), list(noise))
    assert ratio == pytest.approx(1.5) and low > 1.2 and high < 1.9
    assert paired(list(noise), list(noise)) == (1.0, 1.0, 1.0)
    assert say(1.06, 1.02, 1.1) == "slower" and say(0.85, 0.8, 0.88) == "faster"
    assert say(1.0, 0.99, 1.01) == "no difference" and say(3.0, 2.5, 5.5) == "slower"
    assert say(1.0, 0.8, 1.3) == "cannot tell: spread 50 %" and say(1.1, 1.02, 1.2) == "cannot tell: spread 18 %"


def _row(times, **more):
    row = {"kernel": "a", "workload": "w", "mode": "forward", "device": "cuda", "case": "Case()", "status": "ok"}
    return row | {"reason": None, "times_ms": list(times)} | more


FAST, SLOW = {"bytes_per_s": 2.0, "flops_per_s": 2.0}, {"bytes_per_s": 2.0, "flops_per_s": 1.0}


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        (_row([1.2, 1.21, 1.19]), _row([1.0, 1.01, 0.99]), "regression"),
        (_row([1.0, 1.01, 0.99]), _row([1.2, 1.21, 1.19]), "improvement"),
        (_row([1.0, 1.01, 0.99]), _row([1.0, 1.01, 1.02]), "no change"),
        (_row([1.0, 2.0, 0.5]), _row([1.0, 1.01, 1.02]), "cannot tell"),
        (_row([50.0, 60.0, 200.0]), _row([1.0, 1.01, 1.02]), "regression"),
        (_row([1.2, 1.5, 2.1, 1.2, 1.3, 2.3]), _row([1.0, 1.01, 1.02]), "cannot tell"),
        (_row([], status="wrong", reason="o is 0"), _row([1.0]), "broken"),
        (_row([], status="unsupported", reason="no"), _row([1.0]), "not comparable"),
        (_row([1.0]), _row([1.0], case="Case(T=2)"), "not comparable"),
        (_row([1.0]), _row([1.0], kernel="b"), "not comparable"),
        (_row([1.0], device_name="H100"), _row([1.0], device_name="H200"), "not comparable"),
        (_row([1.2], ceilings=SLOW), _row([1.0], ceilings=FAST), "cannot tell"),
        (_row([3.0], ceilings=SLOW), _row([1.0], ceilings=FAST), "regression"),
        (_row([1.0], ceilings=FAST), _row([1.2], ceilings=SLOW), "cannot tell"),
    ],
)
def test_two_runs_are_compared_beyond_their_noise(new, old, verdict):
    (row,) = compare(pd.DataFrame([new]), pd.DataFrame([old])).to_dict("records")
    assert row["verdict"] == verdict, row


def test_a_pool_step_is_timed_and_checked_on_its_slots():
    def step(q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None):
        keywords = {"initial_state": pool[slots], "output_final_state": True}
        o, pool[slots] = torch_chunked(q, k, v, g, beta, scale=scale, cu_seqlens=cu_seqlens, **keywords)
        return o

    def greedy(*arguments, pool, **keywords):
        o = step(*arguments, pool=pool, **keywords)
        pool[0] = 0
        return o

    bench = Bench(Case(B=5, T=1, K=16, V=16, state="random", gate="production"), "decode", "cpu")
    good, bad = (bench.start(Candidate("pooled", torch_chunked, "torch", pool)) for pool in (step, greedy))
    bench.run([good], 3, 5.0)
    assert good.status == "ok" and "pool" in good.flags and len(good.times) == 3
    assert bad.status == "wrong" and "free slot" in str(bad.reason)


def test_the_busiest_operators_are_those_of_the_profilers_own_sums():
    x, own = torch.rand(1, 40, 2, 8, requires_grad=True), dict[str, float]()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        torch_chunked(x, x, x, -x, x[..., 0])[0].sum().backward()
    for event in found.key_averages():
        own[event.key] = own.get(event.key, 0.0) + event.self_cpu_time_total
    names = busiest(found.profiler.kineto_results.events())
    assert names[:12] == sorted(own, key=lambda name: -own[name])[:12] and set(names) == set(own)


def test_inputs_move_between_buffers():
    bench = Bench(Case(T=4, K=4, V=4), "forward", "cpu")
    entry = bench.start(Candidate("a", torch_chunked))
    seen = {(r.set, r.buffer) for r in (bench.set_up(entry) for _ in range(20))}
    assert len({b for s, b in seen if s == 0}) > 1 and len(bench.sets) >= 4
    assert replace(bench.sets[0]).nbytes() == bench.buffers[0].nbytes()


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """One run of the CPU set with few rounds: (folder, what it printed, seconds)."""
    folder, start = tmp_path_factory.mktemp("bench"), time.monotonic()
    done = kda("bench", "--workload", "cpu", "--rounds", "3", "--out", "r", cwd=folder, status=0)
    return folder, done.stdout, time.monotonic() - start


def test_the_cpu_set_times_three_kernels_within_its_time(timed):
    folder, text, _ = timed
    found = lines(folder / "r" / "results.jsonl")
    assert [line["kind"] for line in found] == ["run"] + ["bench"] * 27
    assert found[0]["ceilings"]["bytes_per_s"] > 1e8 and found[0]["ceilings"]["flops_per_s"] > 1e8
    for line in found[1:]:
        assert list(line) == FIELDS
        plain = line["kernel"] == "numpy_loop" and line["mode"] == "forward+backward"
        assert line["status"] == ("unsupported" if plain else "ok"), line
        assert plain or (line["rounds"] == len(line["times_ms"]) == 3 and 0 < line["units"] < 1)
    # What the three kernels did took a small part of two minutes even where other work slows it several times.
    assert sum(line["seconds"] for line in found[1:]) < 120
    assert "numpy_loop" in text and "results in" in text


def test_a_run_equals_itself_and_a_slowed_one_is_a_regression(timed):
    folder, _, _ = timed
    slow = folder / "slow.jsonl"
    base = lines(folder / "r" / "results.jsonl")
    base[0]["ceilings"] = {"bytes_per_s": 1.0, "flops_per_s": 1.0}  # slower than any machine: no excuse for the new run
    for line in base[1:]:
        line["times_ms"] = [x / 50 for x in line["times_ms"]]
    slow.write_text("".join(json.dumps(line) + "\n" for line in base))
    arguments = ("bench", "numpy_loop", "--workload", "cpu-256", "--mode", "forward", "--rounds", "3", "--out", "c")
    done = kda(*arguments, "--compare", "slow.jsonl", cwd=folder, status=1)
    assert "regression" in done.stdout
    base[0]["ceilings"] = {"bytes_per_s": 1e30, "flops_per_s": 1e30}
    for line in base[1:]:
        line["times_ms"] = [x * 5000 for x in line["times_ms"]]
    slow.write_text("".join(json.dumps(line) + "\n" for line in base))
    assert "improvement" in kda(*arguments, "--compare", "slow.jsonl", cwd=folder, status=0).stdout


def test_a_kernel_against_itself_is_equal_or_the_tool_cannot_tell(tmp_path):
    arguments = ("bench", "torch_chunked", "torch_chunked", "--workload", "cpu-batch", "--mode", "forward")
    kda(*arguments, "--rounds", "20", "--out", "r", cwd=tmp_path, status=0)
    first, second = lines(tmp_path / "r" / "results.jsonl")[1:]
    assert (first["kernel"], second["kernel"]) == ("torch_chunked #1", "torch_chunked #2")
    assert second["baseline"] == first["kernel"]
    doubt = any(flag.startswith("cannot tell: spread") for flag in second["flags"])
    assert doubt or 0.9 < second["ratio"] < 1.1, second


def test_ctrl_c_keeps_what_was_measured_and_resume_goes_on(tmp_path):
    arguments = ["bench", "numpy_loop", "--workload", "cpu-*", "--mode", "forward", "--rounds", "3", "--out", "r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kda", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    path = tmp_path / "r" / "results.jsonl"
    deadline = time.monotonic() + 120
    while not (path.is_file() and path.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    before = len(lines(path))
    assert process.returncode == 130 and "--resume" in text and 2 <= before < 5, text
    kda(*arguments, "--resume", cwd=tmp_path, status=0)
    names = [line["workload"] for line in lines(path) if line["kind"] == "bench"]
    assert sorted(names) == ["cpu-256", "cpu-batch", "cpu-grouped", "cpu-packed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_kernel"], "TARGET: expected a shipped name"),
        (["--workload", "nothing"], "nothing is called 'nothing'"),
        (["--baseline", "torch_chunked", "numpy_loop"], "--baseline: expected one of numpy_loop"),
        (["--case", "Case(speed=1)"], "Case has no field speed"),
        (["--workload", "cpu-256", "--mode", "decode"], "no chosen workload has this mode"),
        (["--compare", "."], "found none in"),
        (["--mode", "sideways"], "is not one of"),
    ],
)
def test_wrong_arguments_end_with_status_two(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["bench", *arguments])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.output
    assert words in " ".join(done.output.split())


def test_what_cannot_be_loaded_is_not_run_and_status_two(tmp_path):
    (tmp_path / "mine.py").write_text("import nothing_of_this_name\n")
    done = kda("bench", "mine.py:kernel", "--case", "Case(T=3)", "--mode", "forward", cwd=tmp_path, status=2)
    assert "unloadable: ModuleNotFoundError" in done.stdout


def test_the_list_names_every_workload(tmp_path):
    text = CliRunner().invoke(cli, ["bench", "--list"]).output
    assert all(name in text for name in WORKLOADS)
    assert "\n  kda bench\n" in kda("bench", "--help", cwd=tmp_path, status=0).stdout  # examples keep their lines


def test_a_run_that_timed_nothing_says_so(tmp_path):
    arguments = ("bench", "numpy_loop", "--workload", "cpu-256", "--mode", "forward+backward")
    assert "nothing was timed" in kda(*arguments, "--out", "r", cwd=tmp_path, status=2).stdout
    assert lines(tmp_path / "r" / "results.jsonl")[1]["status"] == "unsupported"


def test_pytest_benchmark_times_the_same_with_the_same_checks(tmp_path):
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "times.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "benchmarks"]
    command += ["--workload", "cpu-256", "--bench-rounds", "3", f"--benchmark-json={file}"]
    # pytest-benchmark steps aside where it sees a worker of xdist, which this may be.
    outside = {name: x for name, x in os.environ.items() if not name.startswith("PYTEST_")}
    how = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 280, "env": outside}
    honest = subprocess.run([*command, "-k", "not backward"], **how)
    assert honest.returncode == 0, honest.stdout
    (found,) = json.loads(file.read_text())["benchmarks"]
    assert found["stats"]["rounds"] == 3 and found["extra_info"]["clock"] == "perf_counter"
    assert 0 < found["extra_info"]["units"] < 1
    cheat = f"{ROOT}/tests/suite/cheats.py:is_right_only_at_first"
    caught = subprocess.run([*command, "--bench-kernel", cheat], **how)
    assert caught.returncode == 1 and "times the budget (round" in caught.stdout, caught.stdout


def test_a_gpu_session_says_what_became_of_every_stage(tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(gpu, "LAWS", ("output_equals_*",))
    assert gpu.main(["--out", str(tmp_path), "--quick", "--minutes", "5"]) == 0
    text = capsys.readouterr().out
    assert "self-test: exit status 0" in text
    for stage in gpu.stages(True, ("triton_chunked",), True)[1:]:
        assert f"{stage.name}: exit status 2" in text
    assert "triton_chunked: 1 not-run" in text
    assert {path.name for path in tmp_path.iterdir()} == {"check.jsonl", "session.log"}
