"""Result lines of every kind as the commands write them, made up but for their form; for tests of the report."""

import json
import random
from pathlib import Path
from typing import Any

LAWS = [
    ("output_equals_the_recurrence", "oracle"),
    ("final_state_equals_the_recurrence", "oracle"),
    ("finite_input_gives_finite_output", "finite"),
    ("the_future_does_not_change_the_past", "bitwise"),
    ("scaling_the_values_scales_the_result", "bitwise"),
    ("the_same_call_gives_the_same_bits", "bitwise"),
    ("splitting_the_sequence_does_not_change_the_result", "structure"),
    ("an_unknown_keyword_is_refused", "refuse"),
]
QUALITY = "a_batch_row_alone_has_the_same_bits"
VERSIONS = {"python": "3.11.7", "numpy": "2.4.6", "torch": "2.13.0", "triton": "3.9.0"}


def run(**more: Any) -> dict[str, Any]:
    """The header of a result file."""
    line = {"schema": 1, "kind": "run", "run": "r", "command": "kda check sound", "started": "2026-01-01T00:00:00Z"}
    line |= {"profile": "dev", "seed": 0, "device": "cpu", "device_name": "a CPU", "versions": VERSIONS}
    return line | more


def law(kernel: str, name: str, status: str = "pass", **more: Any) -> dict[str, Any]:
    """One (kernel, law)."""
    line = {"schema": 1, "kind": "law", "kernel": kernel, "law": name, "family": "oracle", "status": status}
    line |= {"sentence": f"Sentence of {name}.", "equation": "a < b & c", "tried": 9, "refused": 1, "informative": 8}
    line |= {"worst": 0.25, "worst_case": "Case(T=2)", "case": None, "irrelevant": [], "message": None, "where": {}}
    line |= {"units_by_token": None, "replay": None, "reason": None, "seconds": 0.5, "seconds_to_failure": None}
    line |= {"engine": ["torch cpu"], "coverage": {"gate": {"zero": 8}}, "seed": 0, "device": "cpu", "profile": "dev"}
    line |= {"units_by_regime": {"gate=zero": 0.25}, "quality": False, "blame": None, "nature": None, "script": None}
    return line | more


def broken(kernel: str, name: str, **more: Any) -> dict[str, Any]:
    """A falsified law with all that is known of it."""
    line = law(kernel, name, "falsified", case="Case(T=3, gate='spike')", worst=7.0, irrelevant=["B", "V"])
    line |= {"message": "o is <b>5</b> where the recurrence is 4: 7 times the budget", "where": {"token": 1}}
    line |= {"units_by_token": [0.1, 7.0, 0.0], "replay": f"kda replay \"Case(T=3, gate='spike')\" --kernel {kernel}"}
    line |= {"blame": "the output matches the specification with the decay applied after the write"}
    return line | {"nature": "structural"} | more


def kill(kernel: str, name: str, status: str, order: int, **more: Any) -> dict[str, Any]:
    """One (faulty kernel, law)."""
    fault = {"id": "A1", "family": "exponents", "summary": "masks after exp", "trigger": "T > 16", "source": "fla #99"}
    line = {"schema": 1, "kind": "kill", "kernel": kernel, "honest": False, "fault": fault | {"array": "torch"}}
    line |= {
        "law": name,
        "family": "oracle",
        "status": status,
        "examples": 3,
        "drawn": True,
        "seconds": 0.5,
        "order": order,
    }
    line |= {"first": False, "until": None, "case": None, "message": None, "seed": 0}
    return line | more


def bench(kernel: str, workload: str, median: float, status: str = "ok", **more: Any) -> dict[str, Any]:
    """One timed row."""
    line = {"schema": 1, "kind": "bench", "kernel": kernel, "workload": workload, "mode": "forward", "device": "cuda"}
    line |= {"case": f"Case({workload})", "B": 1, "T": 8192, "tokens": 8192, "sequences": 1, "H": 32, "HV": 32}
    line |= {"K": 128, "V": 128, "dtype": "bfloat16", "clock": "cuda events", "rounds": 4, "status": status}
    line |= {"times_ms": [median * x for x in (0.98, 1.0, 1.0, 1.03)], "median_ms": median, "q25_ms": 0.98 * median}
    line |= {"q75_ms": 1.03 * median, "min_ms": 0.97 * median, "host_ms": 0.05, "first_call_s": 2.5}
    line |= {"peak_bytes": 300_000_000, "floor_ms": 0.11, "floor_by": "bytes", "of_floor": 0.11 / median}
    line |= {"units": 0.3, "reason": None, "flags": [], "kernel_names": ["chunk_kernel"], "baseline": "fla_chunk"}
    line |= {"ratio": median / 1.08, "ratio_low": median / 1.2, "ratio_high": median / 1.0, "seed": 0, "seconds": 3.0}
    return line | more


def small() -> list[dict[str, Any]]:
    """A few lines of every kind: a sound kernel, a broken one, a fault that survives, a void time."""
    found = {"seconds": 0.2, "until": 0.7, "case": "Case(T=17)", "message": "o is nan"}
    gpu = run(run="g", device="cuda", device_name="NVIDIA H100", command="kda bench", started="2026-01-02T00:00:00Z")
    return [
        run(),
        *(law("sound", name, family=family) for name, family in LAWS[:5]),
        law("sound", LAWS[5][0], "unsupported", reason="packed sequences", worst=0.0, informative=0),
        law("sound", LAWS[6][0], "not-run", reason="no GPU", worst=None, informative=0),
        law("sound", QUALITY, "falsified", quality=True, worst=3.0, case="Case(B=2)"),
        broken("wrong", LAWS[0][0], units_by_regime={"gate=zero": 7.0, "gate=spike": 0.5}),
        law("wrong", LAWS[1][0], "crash", case="Case()", message="RuntimeError: no", worst=None, replay="kda replay y"),
        law("wrong", LAWS[2][0]),
        kill("early_mask", LAWS[0][0], "pass", 0),
        kill("early_mask", LAWS[2][0], "non-finite", 1, first=True, **found),
        kill("sneaky", LAWS[0][0], "pass", 0),
        kill("gpu_only", "", "not-run", 0, message="no GPU"),
        kill("sound", LAWS[0][0], "pass", 0, honest=True, fault=None, seed=1),
        kill("sound", LAWS[0][0], "pass", 0, honest=True, fault=None, seed=2),
        gpu | {"ceilings": {"copy_tb_per_s": 3.02, "matmul_tflop_per_s": 750.0}},
        bench("fast", "prefill-8k", 0.6),
        bench("fast", "prefill-2k", 0.2, T=2048, tokens=2048, floor_ms=0.03, of_floor=0.15),
        bench("fla_chunk", "prefill-8k", 1.08, baseline=None, ratio=None, ratio_low=None, ratio_high=None),
        bench("cheat", "prefill-8k", 0.001, "implausible", reason="faster than the floor", flags=["below floor"]),
        bench("fast", "decode-32", 0.06, "not-run", mode="decode", T=1, sequences=32, reason="no such device"),
    ]


def large(faults: int = 70, laws: int = 55, kernels: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """As many lines as a whole run writes: the kill matrix, a dozen kernels, a hundred timed rows."""
    dice = random.Random(seed)
    names = [f"{LAWS[i % len(LAWS)][0]}_{i}" for i in range(laws)]
    families = [LAWS[i % len(LAWS)][1] for i in range(laws)]
    gates = ("zero", "typical", "tiny", "production", "pinned", "strong", "forget", "channel", "token", "spike", "ramp")
    keys, dtypes = ("unit", "basis", "same", "cone", "tiny"), ("float32", "bfloat16", "float16")
    regimes = [f"gate={x}" for x in gates] + [f"key={x}" for x in keys] + [f"dtype={x}" for x in dtypes]
    lines = [run(ceilings={"copy_tb_per_s": 3.02})]
    for k in range(kernels):
        for name, family in zip(names, families, strict=True):
            make = broken if k % 5 == 4 and dice.random() < 0.4 else law
            line = make(f"kernel_number_{k}", name, family=family)
            line["units_by_regime"] = {x: 10 ** dice.uniform(-2.5, -0.1) for x in regimes}
            line["coverage"] = {"gate": {x: dice.randrange(0, 30) for x in gates}}
            line["units_by_token"] = line["units_by_token"] and [10 ** dice.uniform(-3, 3) for _ in range(200)]
            lines.append(line)
    for f in range(faults):
        first = dice.randrange(laws)
        family = ("exponents", "inverse", "state", "packing", "layout", "cheat")[f % 6]
        fault = {"id": f"A{f}", "family": family, "summary": "what is wrong " * 6, "trigger": "T mod C != 0 " * 4}
        fault |= {"source": "project #123", "array": "torch"}
        for order, name in enumerate(names):
            dead = order == first or (order > first and dice.random() < 0.4)
            line = kill(f"faulty_kernel_{f}", name, "falsified" if dead else "pass", order, fault=fault)
            line |= {"first": order == first, "seconds": round(10 ** dice.uniform(-1.3, 1.1), 3)}
            line |= {"until": (order + 1) * line["seconds"] if order == first else None}
            line |= {"case": "Case(T=17, gate='strong')" if dead else None, "examples": dice.randrange(1, 60)}
            lines.append(line | {"message": "o is 1.5 where the recurrence is 1" if dead else None})
    lines.append(run(run="g", device="cuda", device_name="NVIDIA H100 80GB HBM3", command="kda bench"))
    for k in range(5):
        for heads in (8, 32, 96):
            for T in (1024, 4096, 16384, 65536):
                median = (0.4 + 0.2 * k) * T / 8192 * heads / 32 + 0.05
                more = {"T": T, "tokens": T, "H": heads, "HV": heads, "units": 0.1 + 0.15 * k}
                more |= {"floor_ms": 0.11 * T / 8192 * heads / 32}
                lines.append(bench(f"kernel_number_{k}", f"prefill-{T}-{heads}", median, **more))
    return lines


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """Write lines as a result file into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")
    return folder
