"""One number of threads for all runtimes, so that their times can be compared."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from mobilemamba.export.quiet import quiet


def set_threads(count: int) -> None:
    """Set the number of CPU threads of PyTorch and of every runtime of an exported file that is opened from now on."""
    torch.set_num_threads(count)  # the others are opened with PyTorch's number, ExecuTorch excepted
    if find_spec("executorch"):
        with quiet("torch.utils._pytree"):
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        _unsafe_reset_threadpool(count)
