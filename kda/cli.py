"""The console script `kda`: options and exit statuses; the work is done elsewhere and imported when needed."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
PROFILE_NAMES = ("smoke", "dev", "interpreter", "ci", "gpu", "nightly")
DTYPE_NAMES = ("float32", "bfloat16", "float16")
COMPARE_HELP = "Folder or file of an earlier run: show ratios, and end with status 1 on a regression."
MODE_NAMES = ("forward", "forward+backward", "decode")


def main() -> None:
    """Run the command line; ends the process with status 0, 1 or 2."""
    # click's mark for a paragraph that keeps its lines is one character; in a raw docstring it stands as two.
    for command in (cli, *cli.commands.values()):
        command.help = (command.help or "").replace("\\b\n", "\b\n")
    cli(prog_name="kda")


def fail(message: str) -> None:
    """Say in one paragraph what is wrong with the arguments or the target, and end with status 2."""
    click.echo(f"kda: {message}", err=True)
    sys.exit(2)


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="kda-verify", message="%(version)s")
def cli() -> None:
    r"""Verify and time Kimi Delta Attention (KDA) kernels.

    \b
    kda check                              every shipped kernel
    kda check my_kernel.py:my_kernel       your own
    kda new my_kernel                      a starter file that already passes
    """


def _judging_options(command: Any) -> Any:
    for option in (
        click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
        click.option(
            "--array",
            type=click.Choice(["torch", "numpy"]),
            default="torch",
            show_default=True,
            help="Array library of the kernel, where its file has no HINTS.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0.1),
            default=None,
            metavar="S",
            help="Seconds one call may take.  [default: 20; 300 for the profiles gpu and nightly]",
        ),
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option(
    "--dtype", "dtypes", type=click.Choice(DTYPE_NAMES), multiple=True, help="Only this dtype; may be repeated."
)
@click.option("--profile", type=click.Choice(PROFILE_NAMES), default="dev", show_default=True)
@click.option("--law", "laws", default=("*",), multiple=True, metavar="NAME", help="Only laws matching this glob.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Judges at work side by side.  [default: cores]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("kda-results"), show_default=True)
@click.option("--if-available", is_flag=True, help='Where there is no GPU, write "not-run" and end with status 0.')
@_judging_options
def check(targets: tuple[str, ...], **options: Any) -> None:
    r"""Verify kernels against the specification.

    TARGET is a shipped name, path/to/file.py[:function] or package.module:function; none means all shipped kernels.
    Results take the place of what an earlier check in --out says of the same kernels and laws; all else in it stays.
    Exit status: 0 every law that applied holds, 1 falsified, 2 the target cannot be loaded, refuses everything, or the
    arguments are wrong.

    \b
    kda check torch_chunked
    kda check my_kernel.py
    kda check my_kernels.py:my_kernel --profile smoke --dtype bfloat16
    kda check triton_chunked --device cuda --profile gpu
    """
    from kda.check import Plan, run

    try:
        plan = Plan.make(targets, command="kda " + shlex.join(sys.argv[1:]), **options)
    except ValueError as error:
        fail(str(error))
    sys.exit(run(plan))


@cli.command()
@click.argument("case")
@click.option("--kernel", "target", required=True, metavar="TARGET")
@click.option("--law", "law_name", default=None, metavar="NAME", help="Only this law.  [default: all]")
@_judging_options
def replay(case: str, target: str, law_name: str | None, **options: Any) -> None:
    r"""Run one failing case again, from its one-line text or from its file.

    Of several cases the last is judged, in a new process that is called with the others first.

    \b
    kda replay "Case(T=17, gate='strong')" --kernel my_kernel.py:my_kernel
    kda replay "Case(K=3); Case()" --kernel my_kernel.py:my_kernel
    kda replay kda-results/falsified/my_kernel-output.case --kernel my_kernel.py:my_kernel
    """
    from kda.replay import run

    try:
        status = run(case, target, law_name, **options)
    except ValueError as error:
        fail(str(error))
    sys.exit(status)


@cli.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="NAME",
    help="A name, a glob or a set.  [default: cpu; cuda quick]",
)
@click.option("--mode", "modes", type=click.Choice(MODE_NAMES), multiple=True, help="[default: the workload's]")
@click.option("--case", default=None, metavar="CASE", help="One case in place of workloads; mode forward.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--array", type=click.Choice(["torch", "numpy"]), default="torch", show_default=True)
@click.option("--baseline", default=None, metavar="TARGET", help="[default: the first target]")
@click.option("--rounds", type=click.IntRange(min=1), default=None, help="At most this many.  [default: 20; cuda 50]")
@click.option("--seconds", type=click.FloatRange(min=0), default=10.0, show_default=True, help="For one workload.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds of one call.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("kda-results"), show_default=True)
@click.option(
    "--compare", type=click.Path(exists=True, path_type=Path), default=None, metavar="BASE", help=COMPARE_HELP
)
@click.option("--resume", is_flag=True, help="Time only what the results in --out do not have.")
@click.option("--list", "listing", is_flag=True, help="Show all workloads and time nothing.")
def bench(targets: tuple[str, ...], **options: Any) -> None:
    r"""Time kernels on named workloads; every timed output is checked.

    Several targets are timed in turns in one process and compared with the first. Name one twice to see the noise.
    Results are added to results.jsonl in --out. Exit status: 0 every time counts, 1 a wrong or implausible output, a
    crash, a timeout, or (with --compare) a regression beyond the noise, 2 wrong arguments, a target that cannot be
    loaded, or nothing timed.

    \b
    kda bench
    kda bench my_kernel.py:my_kernel torch_chunked --workload "cpu-*" --mode forward
    kda bench triton_chunked implementations.peers.fla:chunk_kda --device cuda --workload gpu
    kda bench triton_chunked --device cuda --workload fixed-8192-h96 --compare reports/published/h100-times
    """
    try:
        from kda.bench import Plan, how_of, run, show
    except ImportError as error:
        fail(f"timing needs torch and pandas (pip install 'kda-verify[bench]'): {error}")
    if options.pop("listing"):
        return show()
    base = options.pop("compare")
    settings = {name: options.pop(name) for name in ("device", "array", "rounds", "seconds", "timeout")}
    try:
        plan = Plan.make(targets, how=how_of(**settings), command="kda " + shlex.join(sys.argv[1:]), **options)
        status = run(plan, base)
    except ValueError as error:
        fail(str(error))
    sys.exit(status)


@cli.command()
@click.option("--only", default="*", show_default=True, metavar="GLOB", help="Only faulty kernels matching this.")
@click.option(
    "--all", "every", is_flag=True, help="Every law on every faulty kernel (twenty minutes), not only until one dies."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Seeds for honest kernels; a fifth of them under Triton's interpreter.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Judges at work side by side.  [default: cores]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("kda-results"), show_default=True)
def faulty(**options: Any) -> None:
    r"""Put the suite on trial: known bugs re-created, and honest kernels by every law.

    Each faulty kernel meets the laws up to the first that falsifies it; then each law that has falsified none is asked
    about the other faulty kernels until it does. Exit status: 0 every faulty kernel is falsified, every law falsifies
    one and no honest kernel is accused; 1 not so; 2 nothing matches or a kernel cannot be loaded. With --only, laws
    need not falsify any.

    \b
    kda faulty --out kda-results/faulty
    kda faulty --only "gradients.*" --all --seeds 0
    """
    from kda.faulty import run

    try:
        status = run(command="kda " + shlex.join(sys.argv[1:]), **options)
    except (ValueError, ImportError) as error:
        fail(str(error))
    sys.exit(status)


@cli.command("list")
def list_() -> None:
    r"""List shipped kernels, laws and workloads, one line each.

    \b
    kda list
    """
    from kda.listing import show

    show()


@cli.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder.  [default: here]"
)
def new(name: str, out: Path) -> None:
    r"""Write a starter kernel file that already passes.

    \b
    kda new my_kernel && kda check my_kernel.py:my_kernel
    """
    from kda.starter import write

    try:
        path = write(name, out)
    except ValueError as error:
        fail(str(error))
    click.echo(f"wrote {path}; check it with: kda check {path}:{name}")


@cli.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("report"), show_default=True)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="Write only one small SVG of verdicts and times there, for a README.",
)
def report(results: tuple[Path, ...], out: Path, picture: Path | None) -> None:
    r"""Write the report from saved results: a page, Markdown, CSV, Parquet and JUnit XML; measures nothing.

    RESULTS are folders or files written by `kda check` and `kda bench`; what cannot be read is named, the rest is
    shown. Exit status: 0, or 2 where nothing could be read.

    \b
    kda report
    kda report kda-results reports/published/* --out report
    kda report reports/published/* --picture docs/pictures/results.svg
    """
    try:
        from reports import ReportError, load, overview, write
    except ImportError as error:
        fail(f"the report needs pandas and jinja2 (pip install 'kda-verify[report]'): {error}")
    try:
        found = load(list(results) or [Path("kda-results")])
    except ReportError as error:
        fail(str(error))
    for warning in found.warnings:
        click.echo(f"kda: {warning}", err=True)
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(overview(found), encoding="utf-8")
    for path in [picture] if picture else write(found, out):
        click.echo(path)
