"""Run directories in; figures, tables and one HTML page out."""

from grokscope.report.comparison import comparison_data
from grokscope.report.figure_files import write_figures
from grokscope.report.page import write_report
from grokscope.report.subject import open_subject
from grokscope.report.summary import run_summary
from grokscope.report.terminal import print_comparison, print_summary, print_sweep

__all__ = [
    "comparison_data",
    "open_subject",
    "print_comparison",
    "print_summary",
    "print_sweep",
    "run_summary",
    "write_figures",
    "write_report",
]
