"""The lines of a result file: what a command measures again takes the place of what was there, all else stays."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

Line = dict[str, Any]


def read(path: Path) -> Iterator[Line]:
    """All lines of a file but what an interruption has cut off."""
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            yield line


def write(file: TextIO, *lines: Line) -> None:
    """Add lines, at once."""
    file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    file.flush()


def renewed(path: Path, again: Callable[[Line], bool]) -> TextIO:
    """A file opened to add lines behind those that are kept: all but the ones that `again` names.

    A run of which nothing is left loses its first line too. The file is replaced as a whole, so that an interruption
    costs nothing that is kept.
    """
    if path.is_file():
        kept, head = list[Line](), list[Line]()
        for line in read(path):
            if line.get("kind") == "run":
                head = [line]
            elif not again(line):
                kept += [*head, line]
                head = []
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            write(file, *kept)
        fresh.replace(path)
    return path.open("a")
