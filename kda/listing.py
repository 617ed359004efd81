"""`kda list`: shipped kernels, laws and workloads, one line each."""

import click

from implementations import SHIPPED
from properties.laws import LAWS


def show() -> None:
    """Print the three lists."""
    click.echo("kernels")
    for name, kernel in SHIPPED.items():
        click.echo(f"  {name:<18} {kernel.summary}")
    click.echo("laws")
    for law in LAWS.values():
        click.echo(f"  {law.name:<48} {law.family:<10} {law.sentence}")
    click.echo("workloads")
    try:
        from benchmarks.workloads import WORKLOADS
    except ImportError:
        click.echo("  none: this version times nothing yet")
        return
    for workload in WORKLOADS.values():
        click.echo(f"  {workload.name:<24} {workload.summary}")
