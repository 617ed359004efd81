"""A counterexample in words."""

from typing import Any

FALSIFIED = ("falsified", "crash", "timeout", "non-finite", "mutated-input", "nondeterministic")


def accuses(line: dict[str, Any]) -> bool:
    """Whether a result line says that the kernel is wrong; a quality that it lacks does not."""
    return line["status"] in FALSIFIED and not line.get("quality")


def describe(line: dict[str, Any]) -> str:
    """A counterexample in words: the law, the case, the place, the error."""
    text = [f"  law      {line['sentence']}", f"           {line['equation']}"]
    text += [f"  before   {case}" for case in line.get("before") or ()]
    text.append(f"  case     {line['case']}")
    if line.get("irrelevant"):
        text.append(f"           does not matter: {', '.join(line['irrelevant'])}")
    if line.get("set_by_law"):
        text.append(f"           set by the law: {', '.join(line['set_by_law'])}")
    if line.get("where"):
        text.append("  place    " + ", ".join(f"{name} {value}" for name, value in line["where"].items()))
    text.append("  found    " + str(line["message"]).replace("\n", "\n           "))
    if line.get("nature"):
        words = {"rounding": "rounding: less precision inside than the budget allows", "structural": "structural"}
        text.append(f"  nature   {words[line['nature']]}")
    if line.get("blame"):
        text.append(f"  looks like the spec with {line['blame']}")
    if line.get("replay"):
        text.append(f"  again    {line['replay']}")
    if line.get("script"):
        text.append(f"  script   {line['script']}")
    return "\n".join(text)
