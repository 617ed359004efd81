"""`kda replay`: one case again, law by law, after the calls that a process must be given before it."""

from pathlib import Path

import click

from properties.calls import Kernel
from properties.case import parse_run
from properties.describe import describe
from properties.laws import LAWS
from properties.process import Unloadable, Worker
from properties.targets import Target
from properties.trial import Trial, breaks


def run(text: str, target: str, law_name: str | None, *, device: str, array: str, timeout: float | None) -> int:
    """Judge the case, the last of a run, by one law or by all; returns the exit status."""
    if law_name is not None and law_name not in LAWS:
        raise ValueError(f"--law: no law is called {law_name!r}; `kda list` names them all")
    path = Path(text)
    cases = parse_run(path.read_text() if len(text) < 200 and "(" not in text and path.is_file() else text)
    Target.parse(target)
    broken = 0
    with Worker(target, array=array, device=device, timeout=timeout or 20.0) as worker:
        try:
            worker.start()
        except Unloadable as error:
            raise ValueError(str(error)) from None
        for law in [LAWS[law_name]] if law_name else LAWS.values():
            *before, adjusted = map(law.adjust, cases)
            trial = Trial(Kernel(worker), law)
            status, judgement, message = trial.verdict(adjusted, tuple(before))
            if before and breaks(status) and not trial.fails_afresh(adjusted):
                status, message = "nondeterministic", f"right alone, wrong after the calls before: {message}"
            units = "" if judgement is None else f" ({judgement.units:.3g} units)"
            click.echo(f"{status:<14} {law.name}{units}")
            if status not in ("pass", "refused"):
                broken += not law.quality
                click.echo(
                    describe(
                        {
                            "sentence": law.sentence,
                            "equation": law.equation,
                            "message": message,
                            "before": list(map(repr, before)),
                            "case": repr(adjusted),
                            "where": {} if judgement is None else judgement.where,
                        }
                    )
                )
    return 1 if broken else 0
