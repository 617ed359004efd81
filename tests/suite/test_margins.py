"""Margins: lost precision is graded, the table says what was measured, refusals are counted."""

import json

import numpy as np
import pytest

from properties import fit
from properties.case import Case

torch = pytest.importorskip("torch")
from properties import margins  # noqa: E402


def test_cutting_keeps_the_first_bits():
    x = torch.tensor([1 + 2.0**-3 + 2.0**-9, -(1 + 2.0**-9)])
    assert margins.cut(4, x).tolist() == [1 + 2.0**-3, -1.0]
    assert torch.equal(margins.cut(23, x), x)


def test_fewer_bits_are_more_wrong_and_a_state_in_half_precision_is_caught():
    case = Case(T=65, K=8, V=8, gate="typical", beta="random")
    kernels = {n: k for n, k in margins.faults("float32").items() if n.startswith(("read of", "state in bf"))}
    rows = [
        row | {"units": row["condition"] / margins.constant(row["quantity"], "float32")}
        for row in fit.fit(margins.torch_runs(kernels, "float32").items(), "float32", [case], 1e9)
    ]
    found = margins.worst_by_kernel(rows, quantity="o")
    assert found["read of 10 bits"] > found["read of 14 bits"] > found["read of 21 bits"]
    assert found["read of 10 bits"] > 1 and found["state in bfloat16"] > 1


def test_the_table_names_the_weakest_fault_above_the_budget():
    row = {"dtype": "float32", "quantity": "o", "case": "Case()", "regime": "same, beta <= 1"}
    units = {"good": 0.5, "small": 0.9, "weak": 1.5, "strong": 40.0}
    rows = [row | {"kernel": name, "honest": name == "good", "units": x} for name, x in units.items()]
    (line,) = margins.margins(rows)
    assert (line["weakest"], line["weakest_units"], line["margin"], line["missed"]) == (
        "weak",
        1.5,
        3.0,
        {"small": 0.9},
    )
    assert line["honest"] == 8.0 and "weak, 1.5 budgets" in margins.markdown([line])


def test_cases_are_drawn_from_the_widths_asked_for():
    rng = np.random.default_rng(0)
    cases = [fit.draw(rng, "float32", 200, (64, 128)) for _ in range(20)]
    assert {width for case in cases for width in (case.K, case.V)} == {64, 128}


def test_what_a_kernel_refuses_is_counted_and_ends_nothing(tmp_path):
    def refuses(case, problem):
        raise fit.Refused("too wide")

    case, missed = Case(T=2, K=2, V=2), {}
    runs = {"refuses": refuses} | fit.honest_runs("float32")
    rows = fit.fit(list(runs.items())[:2], "float32", [case], 1e9, missed)
    fit.write(tmp_path, rows, missed, 0)
    assert {row["kernel"] for row in rows} == {"recurrent"}
    assert "refuses, float32: no numbers for 1 cases (1 refused)" in (tmp_path / "fit.md").read_text()
    assert json.loads((tmp_path / "fit.json").read_text())["missed"]["refuses, float32"][0].startswith("refused: ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_inverse_may_add_up_what_a_large_first_state_left(dtype):
    case = Case(T=63, V=1, dtype=dtype, gate="mixed", key="alternating", beta="to-two", state="huge", seed=54441)
    held = {n: run for n, run in fit.honest_runs(dtype).items() if not n.endswith(fit.NOT_HELD[dtype] or ("\n",))}
    rows = fit.fit(held.items(), dtype, [case], 1e9)
    assert max(row["condition"] / margins.constant(row["quantity"], dtype) for row in rows) < 0.7
