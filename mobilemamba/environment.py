"""The machine that a measurement was made on: device, threads and versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mobilemamba.errors import UserError

PACKAGES = ("timm", "onnx", "onnxruntime", "openvino", "executorch", "ai-edge-litert", "numba")


def find_device(name: str) -> torch.device:
    """Return a PyTorch device that works.

    Raises:
        UserError: When it does not exist here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # torch's own errors differ between devices and builds.
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device = {name} must be a device that works here: {str(error).splitlines()[0]}") from error
    return device


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
        "versions": {"torch": str(torch.__version__)}
        | {package: version(package) for package in PACKAGES if _is_installed(package)},
    }


def threads_in_words(threads: int) -> str:
    """Return "1 thread", "2 threads" and so on."""
    return f"{threads} thread{'' if threads == 1 else 's'}"


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


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
