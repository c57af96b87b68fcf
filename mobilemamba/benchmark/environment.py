"""What a figure depends on besides the network: device, threads and versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("timm", "onnx", "onnxruntime")


def environment(device: torch.device) -> dict[str, Any]:
    """Describe the machine, in plain JSON types.

    Args:
        device: Where the networks run.
    """
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average_1_min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"torch": str(torch.__version__)} | {package: version(package) for package in PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """Return the model of a GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
