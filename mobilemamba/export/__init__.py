"""Export of trained networks: fused, written, reloaded by their runtime and compared before they get their name."""

from mobilemamba.export.artifact import export_network, read_metadata, report_path
from mobilemamba.export.errors import ExportError, NotComparedWarning, ParityError
from mobilemamba.export.file_format import check_installed
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import Comparison, ParityReport

__all__ = [
    "Comparison",
    "ExportError",
    "ExportOptions",
    "NotComparedWarning",
    "ParityError",
    "ParityReport",
    "check_installed",
    "export_network",
    "read_metadata",
    "report_path",
]
