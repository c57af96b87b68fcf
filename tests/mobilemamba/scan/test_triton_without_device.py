"""The Triton form without a GPU: its numbers in the interpreter, its kernels compiled, its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mobilemamba import dispatch
from mobilemamba.bimamba import BiMamba
from mobilemamba.dispatch import scan_form, selective_scan
from mobilemamba.errors import UserError
from tests.mobilemamba.scan.test_scan import scan_arguments

ROOT = Path(__file__).parents[3]


def run(*command: str, **environment: str) -> str:
    """Run Python in a process of its own and return what it printed."""
    arguments = [sys.executable, *command]
    completed = subprocess.run(arguments, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    kernels = Path(__file__).with_name("test_triton.py")
    assert " passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(kernels), TRITON_INTERPRET="1")


def test_importing_the_package_neither_imports_the_kernels_nor_turns_the_interpreter_on() -> None:
    code = (
        "import os, sys, mobilemamba; print(*(n for n in sys.modules if n.startswith('mobilemamba.scan')), *os.environ)"
    )
    names = run("-c", code).split()
    assert "mobilemamba.scan" in names
    assert not {"mobilemamba.scan.triton", "mobilemamba.scan.triton_kernels", "TRITON_INTERPRET"} & {*names}


@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
@pytest.mark.parametrize(("capability", "length", "state_size"), [(75, 196, 1), (90, 1500, 2)])
def test_kernels_compile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, capability: int, length: int, state_size: int
) -> None:
    triton = pytest.importorskip("triton")
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton compiles for other devices")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mobilemamba.scan import triton_kernels
    from mobilemamba.scan.triton import launches

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, name)
    options = launches(320, length, state_size, 2)[-1]
    warps = options.pop("num_warps")
    types = {"images": "i32"} | dict.fromkeys(("u_ptr", "logits_ptr", "B_ptr", "C_ptr", "dlogits_ptr"), "*fp16")
    signature = {p.name: "constexpr" if p.name in options else types.get(p.name, "*fp32") for p in kernel.params}
    source = ASTSource(fn=kernel, signature=signature, constexprs=options)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert compiled.asm["cubin"]


def test_only_cuda_tensors_are_taken() -> None:
    pytest.importorskip("triton")
    with pytest.raises(UserError, match="'triton' needs a CUDA device, u is on cpu: move it there, or take form"):
        selective_scan(*scan_arguments((2, 3), dtype=torch.float32), form="triton")


def test_float64_is_refused() -> None:
    pytest.importorskip("triton")
    with FakeTensorMode():
        u = torch.empty(1, 1, 2, 2, dtype=torch.float64, device="cuda")
        with pytest.raises(UserError, match="for float64 take form 'parallel'"):
            selective_scan(u, u[:, None], u[0, 0, :1], u[:, None], u[:, None], u[0, 0, :1], form="triton")


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_triton_is_installed", lambda: False)
    with pytest.raises(UserError, match="'triton' needs Triton: install it, or take form 'parallel'"):
        selective_scan(*scan_arguments((2, 3), dtype=torch.float32), form="triton")


@pytest.fixture
def cuda_maps(monkeypatch: pytest.MonkeyPatch) -> dict[torch.dtype, torch.Tensor]:
    """Maps that claim to be on a CUDA device, and a choice of backend that has not been made before."""
    dispatch._triton_runs_or_warns.cache_clear()
    monkeypatch.setattr(dispatch, "_triton_is_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    with FakeTensorMode():
        return {dtype: torch.empty(1, device="cuda", dtype=dtype) for dtype in (torch.bfloat16, torch.float64)}


def test_the_fastest_form_is_triton_on_cuda_but_for_float64_and_exported_graphs(
    cuda_maps: dict[torch.dtype, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scan_form(cuda_maps[torch.bfloat16]) == "triton"
    assert scan_form(cuda_maps[torch.float64]) == "parallel"
    assert scan_form(torch.empty(1, dtype=torch.float64)) == "rows"
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert scan_form(cuda_maps[torch.bfloat16]) == "parallel"


def test_a_compiled_module_on_cuda_holds_the_operator(cuda_maps: dict[torch.dtype, torch.Tensor]) -> None:
    pytest.importorskip("triton")
    targets = []

    def note(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with FakeTensorMode(), torch.device("cuda"):
        compiled = torch.compile(BiMamba(16).eval(), fullgraph=True, backend=note)
        assert compiled(torch.empty(2, 16, 5, 6)).shape == (2, 16, 5, 6)
    assert targets.count("mobilemamba.selective_scan.default") == 1


@pytest.mark.parametrize("lack", ["Triton is not installed", "Triton needs compute capability 7.0"])
def test_the_plain_form_on_cuda_says_why_once(
    cuda_maps: dict[torch.dtype, torch.Tensor], monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    monkeypatch.setattr(dispatch, "_triton_is_installed", lambda: "installed" not in lack)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 1))
    with pytest.warns(UserWarning, match=f"on cuda.* run in plain operators, not as CUDA kernels: {lack}") as warned:
        assert [scan_form(cuda_maps[torch.bfloat16]) for _ in range(3)] == ["parallel"] * 3
    assert len(warned) == 1
    dispatch._triton_runs_or_warns.cache_clear()


def test_the_choice_on_cuda_does_not_break_a_compiled_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch._triton_runs_or_warns.cache_clear()
    monkeypatch.setattr(dispatch, "_triton_is_installed", lambda: False)
    compiled = torch.compile(lambda u: u + dispatch._triton_runs_on(u.device), fullgraph=True, backend="eager")
    with pytest.warns(UserWarning, match="run in plain operators") as warned:
        assert [compiled(torch.zeros(size)).sum() for size in (2, 3)] == [0, 0]
    assert len(warned) == 1
    dispatch._triton_runs_or_warns.cache_clear()
