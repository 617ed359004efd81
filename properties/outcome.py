"""What the trial of the suite says: survivors, laws that found nothing, honest kernels that were accused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from properties.describe import FALSIFIED
from properties.laws import LAWS

# Qualities accuse nobody, so they cannot be asked to find anything.
VERDICTS = {name: law for name, law in LAWS.items() if not law.quality}


@dataclass
class Outcome:
    """What the matrix says; `whole`: every law had its chance on all faulty kernels, so that it may be called idle.

    A law that can run nowhere here (it needs a GPU) is unable, not idle.
    """

    survivors: list[str]
    idle_laws: list[str]
    accused: list[str]
    not_run: list[str]
    unable_laws: list[str] = field(default_factory=list)
    whole: bool = False

    @property
    def good(self) -> bool:
        """Whether the suite stands the trial."""
        return not (self.survivors or self.idle_laws or self.accused or self.not_run)


def outcome(lines: list[dict[str, Any]], *, whole: bool) -> Outcome:
    """Judge the suite by its kill lines; `whole`: every law had its chance on all faulty kernels."""
    faulty_lines = [line for line in lines if not line["honest"]]
    killed = {line["kernel"] for line in faulty_lines if line["status"] in FALSIFIED}
    accused = {f"{x['kernel']} by {x['law']} (seed {x['seed']})" for x in lines if x["honest"] and _accuses(x)}
    not_run = {f"{line['kernel']}: {line['message']}" for line in lines if line["order"] < 0}
    missing = {line["kernel"] for line in lines if line["order"] < 0}
    unable, idle = unable_laws(lines), idle_laws(lines)
    return Outcome(
        sorted({line["kernel"] for line in faulty_lines} - killed - missing),
        idle if whole else [],
        sorted(accused),
        sorted(not_run),
        unable if whole else [],
        whole,
    )


def unable_laws(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Laws that need a GPU, or could be asked of no kernel at all, honest ones included."""
    ran = {line["law"] for line in lines if line["status"] != "not-run"}
    stopped = {line["law"] for line in lines} | {name for name, law in VERDICTS.items() if law.large}
    return [name for name in VERDICTS if name in stopped - ran]


def idle_laws(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Laws that could be asked and have falsified no faulty kernel."""
    killing = {line["law"] for line in lines if not line["honest"] and line["status"] in FALSIFIED}
    unable = unable_laws(lines)
    return [name for name in VERDICTS if name not in killing and name not in unable]


def _accuses(line: dict[str, Any]) -> bool:
    return line["status"] in FALSIFIED
