"""A file alone names its kernel where it can be told which one is meant."""

import subprocess
import sys

import pytest

from properties.targets import Target

TENSORS = "q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None"


def write(path, *names: str) -> str:
    path.write_text("".join(f"def {name}({TENSORS}):\n    return v, None\n\n\n" for name in names))
    return str(path)


@pytest.mark.parametrize(
    ("names", "function", "shown"),
    [
        (("mine",), "mine", "mine"),
        (("_inner", "mine"), "mine", "mine"),
        (("other", "file"), "file", "file"),
        (("other", "kernel"), "kernel", "file"),
    ],
)
def test_the_kernel_of_a_file_is_found(tmp_path, names, function, shown):
    path = write(tmp_path / "file.py", *names)
    target = Target.parse(path)
    assert (target.function, target.name) == (function, shown)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("names", "words"), [((), "it has none"), (("a", "b"), "it has a, b: name one"), (("kernel", "file"), "name one")]
)
def test_which_kernel_is_meant_is_asked(tmp_path, names, words):
    path = write(tmp_path / "file.py", *names)
    with pytest.raises(ValueError, match=words):
        Target.parse(path)


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "file.py").write_text("def kernel(")
    with pytest.raises(ValueError, match="is not a Python file"):
        Target.parse(str(tmp_path / "file.py"))
    with pytest.raises(ValueError, match="does not exist"):
        Target.parse(str(tmp_path / "none.py"))


def test_a_file_is_checked(tmp_path):
    write(tmp_path / "lazy.py", "lazy")
    command = [sys.executable, "-m", "kda", "check", "lazy.py", "--law", "output_equals*", "--jobs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "lazy breaks: output_equals_the_recurrence" in done.stdout, done.stderr
    assert "--kernel lazy.py" in done.stdout
