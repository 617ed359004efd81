"""From saved results to tables and pages: reads files only, runs no kernel."""

from reports.build import build, write
from reports.overview import overview
from reports.results import ReportError, Results, load

__all__ = ["ReportError", "Results", "build", "load", "overview", "write"]
