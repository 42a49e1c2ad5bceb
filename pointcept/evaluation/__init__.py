"""Confusion-matrix metrics and the tables made of them."""

from pointcept.evaluation.metrics import ConfusionMatrix, MajorityBaseline, Metrics, majority_baseline
from pointcept.evaluation.report import Kind, format_table, report_dict, report_file, write_report

__all__ = [
    "ConfusionMatrix",
    "Kind",
    "MajorityBaseline",
    "Metrics",
    "format_table",
    "majority_baseline",
    "report_dict",
    "report_file",
    "write_report",
]
