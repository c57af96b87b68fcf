"""Export of trained networks: fused, written, reloaded by their runtime and compared before they get their name."""

from mobilemamba.export.comparison import Comparison
from mobilemamba.export.export import NotComparedWarning, export_network, report_path
from mobilemamba.export.formats import check_installed, load, read_metadata
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import ParityReport

__all__ = [
    "Comparison",
    "ExportOptions",
    "NotComparedWarning",
    "ParityReport",
    "check_installed",
    "export_network",
    "load",
    "read_metadata",
    "report_path",
]
