"""Every law judges every kind of case, edges among them, and accuses no honest kernel."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from properties.calls import Kernel
from properties.case import Case
from properties.laws import LAWS
from properties.process import Worker
from properties.trial import Trial

EDGES = (
    Case(packed=(0,)),
    Case(packed=(0, 0, 3), H=2, group=3, state="huge", layout="transposed", final_state=False, at=7),
    Case(packed=(1, 65), K=1, V=1, gate="mixed", dtype="bfloat16", scale=0.3, at=63, edits=(("v", 130, 300, 0.0),)),
    Case(T=130, B=3, K=3, V=5, key="nearly-same", beta="two", state="asymmetric", v_log2=-20, at=129, power=3),
    Case(T=17, dtype="float16", gate_dtype="float32", gate="forget", key="zero", state="spike", v_log2=-4, at=16),
    Case(K=60, V=24, key="tiny", beta="tiny", state="zero", layout="strided", seed=65536),
    Case(packed=(2, 17), group=2, gate="medium", key="zero", state="huge", layout="sliced", at=4, power=2),
    Case(steps=(("decode", 0, -1), ("fork", 0, 1), ("rollback", 1, 2), ("batch", 0, 17, 1, 2), ("evict", 0))),
)


@pytest.fixture(scope="module")
def kernel():
    with Worker("torch_recurrent") as worker:
        worker.start()
        yield Kernel(worker)


@pytest.mark.parametrize("law", [law for law in LAWS.values() if not law.large], ids=lambda law: law.name)
def test_edges_are_judged_and_an_honest_kernel_is_not_accused(law, kernel):
    trial = Trial(kernel, law)
    for case in EDGES:
        adjusted = law.adjust(case)
        assert law.adjust(adjusted) == adjusted, "adjusting twice is adjusting once"
        status, _, message = trial.verdict(adjusted)
        assert status in ("pass", "refused"), f"{adjusted}: {message}"


def test_laws_have_sentences_and_names_that_read():
    for law in LAWS.values():
        assert law.sentence.endswith(".") and law.equation and "_" in law.name, law.name
        assert law.quality == (law.family == "quality")


@pytest.mark.parametrize(
    ("law", "right", "wrong"),
    [
        ("a_grid_axis_may_exceed_65535", "side_by_side", "grid_axis_wraps"),
        ("a_million_tokens_keep_their_bits", "first_token_alone", "token_index_wraps"),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_laws_that_need_a_gpu_can_fail(law, right, wrong, at, monkeypatch):
    monkeypatch.setattr("properties.laws.scale.MILLION", 150_000)
    case = LAWS[law].adjust(Case(K=4, V=3, gate="typical", beta="random", state="random", at=at))
    for name, status in ((right, "pass"), (wrong, "falsified")):
        with Worker(f"{Path(__file__).with_name('vast.py')}:{name}") as worker:
            worker.start()
            got, _, message = Trial(Kernel(worker), LAWS[law]).verdict(case)
            assert got == status, f"{name}: {message}"
