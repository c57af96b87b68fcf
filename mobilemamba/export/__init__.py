"""Export of trained networks: fused, written, reloaded by their runtime and compared before they get their name."""

from mobilemamba.export.artifact import check_writable, export_network, read_metadata, report_path
from mobilemamba.export.errors import ExportError, ParityError
from mobilemamba.export.file_format import check_installed
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import Comparison, ParityReport

__all__ = [
    "Comparison",
    "ExportError",
    "ExportOptions",
    "ParityError",
    "ParityReport",
    "check_installed",
    "check_writable",
    "export_network",
    "read_metadata",
    "report_path",
]
