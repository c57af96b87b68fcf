"""The one place that decides which form of the scan runs, and whether compiled kernels do.

============================  =======================================================================
where                         what runs
============================  =======================================================================
CPU, eager or compiled, not   Numba kernels (:mod:`mobilemamba.kernels`) where Numba is installed;
float64                       graphs of torch.compile hold them as operators. In training one for the
                              whole inside of a BiMamba, in eager mode, which saves less
CPU, eager, otherwise         plain operators, the scan in rows
CUDA, eager or compiled       plain operators, the scan as a Triton kernel (not in float64)
other graphs of a CPU,        plain operators, the scan in the parallel form, which graphs of any kind
exported or traced graphs,    can hold and which compilers merge with what is around it; wavelets as
other devices                 sums where Inductor compiles for CPUs
============================  =======================================================================

The network calls these functions and asks nothing itself. Derivatives of kernels that have no kernel of their own are
taken by plain operators (:mod:`mobilemamba.derivatives`).
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook  # hooks have no public names

from mobilemamba import plain, wavelet
from mobilemamba.errors import UserError
from mobilemamba.scan import parallel, projected, reference, rows

ScanForm = Literal["parallel", "rows", "sequential", "triton"]


class _Choice(threading.local):  # torch.compile of torch 2.10 cannot trace a ContextVar
    def __init__(self) -> None:  # called in each thread that reads the choice
        self.is_plain = False


_CHOICE = _Choice()


@contextmanager
def plain_operators() -> Iterator[None]:
    """Use no compiled kernel of CPUs for what is called inside, in this thread; to compare, mostly."""
    before = _CHOICE.is_plain
    _CHOICE.is_plain = True
    try:
        yield
    finally:
        _CHOICE.is_plain = before


def depthwise_silu(u: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve each channel of u, (B, D, H, W), by its own kernel of weight, (D, 1, k, k), and take SiLU."""
    kernels = _kernels_for(u) if bias is not None else None
    return (kernels or plain).depthwise_silu(u, weight, bias)


def projected_scan(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """Make step sizes and scan, as :func:`mobilemamba.scan.projected.split` says of the arguments.

    Returns:
        (B, D, H, W); float32 at least where plain operators run.
    """
    kernels = _kernels_for(u)
    if kernels is not None:
        return kernels.projected_scan(u, x_dbl, dt_proj_weight, dt_proj_bias, A_log, D)
    if scan_form(u) == "rows":
        return rows.projected_rows_scan(u, x_dbl, dt_proj_weight, dt_proj_bias, A_log, D)
    return selective_scan(u, *projected.split(x_dbl, dt_proj_weight, dt_proj_bias, A_log, D))


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(y) * SiLU(z) over the channels of (B, D, H, W), in the dtype of z."""
    return (_kernels_for(z) or plain).gated_norm(y, z, weight, bias, eps)


def haar_conv(x: Tensor, weights: Sequence[Tensor], analysis: Tensor, synthesis: Tensor) -> Tensor:
    """Convolve x in the wavelet domain; arguments and result as of :func:`mobilemamba.wavelet.haar_conv`."""
    kernels = _kernels_for(x)
    if kernels is not None and len(weights) == 1:
        return kernels.haar_conv(x, weights[0])
    is_fixed = isinstance(x.shape[2], int) and isinstance(x.shape[3], int)
    if torch.compiler.is_compiling() and x.device.type == "cpu" and is_fixed:
        return wavelet.merged_haar_conv(x, weights, synthesis)
    return wavelet.haar_conv(x, weights, analysis, synthesis)


def channels_last(x: Tensor) -> Tensor:
    """Return a map, (B, C, H, W), laid out as it is fastest on CPUs; the mixers' kernels take it as it is.

    Compilers choose layouts themselves.
    """
    if x.device.type != "cpu" or _is_in_graph():
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # torch.vmap knows no memory formats


def recomputing_kernels(x: Tensor, modules: Mapping[nn.Module, type[nn.Module]]) -> ModuleType | None:
    """Return the kernels if modules may run as one kernel, which saves less for the gradient than one by one.

    Args:
        x: Input of the first.
        modules: Modules that would not be called, and the class that the kernel computes. Those that were replaced or
            pruned, or have hooks, must be called.
    """
    if _is_in_graph() or not torch.is_grad_enabled() or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    return _kernels_for(x) if all(_is_plain(*pair) for pair in modules.items()) else None


def selective_scan(
    u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, form: ScanForm | Literal["auto"] = "auto"
) -> Tensor:
    """Scan a feature map in K directions and add the results; every form gives the same numbers.

    Args:
        u: Input, (B, D, H, W).
        dt: Step sizes before softplus, (B, K, D, H, W).
        A_log: Logarithm of the negative state matrix, (K, D, N).
        B: Input projection, (B, K, N, H, W).
        C: Output projection, (B, K, N, H, W).
        D: Skip weight, (K, D).
        form: "auto" picks by device and dtype, see the table above.

    Returns:
        (B, D, H, W) in float32, or float64 for float64 input. "sequential" alone gives, and computes in, the dtype that
        the arguments promote to.

    Raises:
        UserError: When the form is unknown, or "triton" without Triton, in float64 or not on a CUDA device.
    """
    match scan_form(u) if form == "auto" else form:
        case "parallel":
            return parallel.parallel_scan(u, dt, A_log, B, C, D)
        case "rows":
            return rows.rows_scan(u, dt, A_log, B, C, D)
        case "sequential":
            return reference.sequential_scan(u, dt, A_log, B, C, D)
        case "triton":
            if not _triton_is_installed():
                raise UserError("Scan form 'triton' needs Triton: install it, or take form 'parallel'.")
            from mobilemamba.scan.triton import triton_scan  # imports Triton

            return triton_scan(u, dt, A_log, B, C, D)
        case unknown:
            raise UserError(f"Scan form {unknown!r} must be one of {', '.join(get_args(ScanForm))}, auto.")


def scan_form(u: Tensor) -> ScanForm:
    """Return the form in which plain operators scan this input, here and now."""
    if u.is_cuda and u.dtype != torch.float64 and not _is_exporting() and _triton_runs_on(u.device):
        return "triton"
    # Loops over rows and columns are fastest in eager mode on CPUs, but make large graphs.
    if u.device.type == "cpu" and not _is_in_graph():
        return "rows"
    return "parallel"


def _kernels_for(x: Tensor) -> ModuleType | None:
    """Return the compiled kernels if they can take this input here and now; they compute in float32."""
    if _is_exporting() or _CHOICE.is_plain or x.device.type != "cpu" or x.dtype == torch.float64:
        return None
    if not _numba_runs():
        return None
    from mobilemamba import kernels  # as a name that torch.compile can follow

    return kernels


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    is_changed = type(module) is not kind or "forward" in vars(module)
    return not (is_changed or any(hooks) or _has_any_global_hook())


def _is_in_graph() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


@torch.compiler.assume_constant_result  # what torch.compile of torch 2.10 traces is always true
def _is_exporting() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


@torch.compiler.assume_constant_result  # torch.compile cannot trace find_spec
def _numba_runs() -> bool:
    return _numba_runs_or_warns()


@functools.cache  # to warn once
def _numba_runs_or_warns() -> bool:
    if find_spec("numba") is None:
        return False
    try:
        from mobilemamba import kernels  # noqa: F401
    except Exception as error:  # Numba refuses newer versions of NumPy; LLVM's library may be missing; and so on
        warnings.warn(f"Plain operators run in place of the Numba kernels for CPUs: {error!r}", stacklevel=1)
        return False
    return True


@torch.compiler.assume_constant_result  # torch.compile cannot trace find_spec
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None


@torch.compiler.assume_constant_result  # torch.compile cannot trace a warning
def _triton_runs_on(device: torch.device) -> bool:
    return _triton_runs_or_warns(device)


@functools.cache  # to warn once
def _triton_runs_or_warns(device: torch.device) -> bool:
    if not _triton_is_installed():
        lack = "Triton is not installed"
    elif torch.cuda.get_device_capability(device) < (7, 0):
        lack = "Triton needs compute capability 7.0"
    else:
        return True
    warnings.warn(f"Selective scans on {device} run in plain operators, not as CUDA kernels: {lack}.", stacklevel=1)
    return False
