"""Run directories in; figures, tables and one HTML page out."""

from grokscope.report.comparison import comparison_data
from grokscope.report.figure_files import write_figures
from grokscope.report.page import write_report
from grokscope.report.terminal import print_comparison, print_summary, print_sweep

__all__ = [
    "comparison_data",
    "print_comparison",
    "print_summary",
    "print_sweep",
    "write_figures",
    "write_report",
]
