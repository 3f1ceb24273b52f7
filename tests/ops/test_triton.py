"""The kernels for GPUs without one: compiled for several, and run by Triton's interpreter.

The interpreter must be chosen before Triton is imported, and holds for a whole process. So the
laws are in files of their own, which run in another process.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="needs Triton (pip install triton, on Linux)")

LAWS = "test_triton_laws.py", "test_triton_observing.py"
INTERPRETS = (3, 7)
"""First version whose interpreter works with the numpy of today."""


def test_the_laws_hold_in_the_interpreter() -> None:
    found = tuple(int(part) for part in version("triton").split(".")[:2])
    if found < INTERPRETS:
        pytest.skip(f"the interpreter of triton {version('triton')} does not take a new numpy")
    laws = [str(Path(__file__).with_name(name)) for name in LAWS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *laws],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


POINTERS = {
    "points_ptr": "*fp64",
    "nodes_ptr": "*fp64",
    "scale_ptr": "*fp64",
    "shift_ptr": "*fp64",
    "bin_scale_ptr": "*fp64",
    "bin_shift_ptr": "*fp64",
    "grad_z_ptr": "*fp64",
    "first_ptr": "*i32",
    "last_ptr": "*i32",
    "offsets_ptr": "*i32",
    "bins_ptr": "*i32",
    "valid_ptr": "*u8",
}
SPECTRA = {"x_ptr", "y_ptr", "g_ptr", "taps_ptr", "scratch_ptr", "grad_x_ptr", "grad_ptr"}
GRIDS = [
    {"UNIFORM": True, "LOG": False, "STEPS": 0},
    {"UNIFORM": False, "LOG": True, "STEPS": 0},
    {"UNIFORM": False, "LOG": False, "STEPS": 14},
]


def compiled(kernel: Any, flags: dict[str, Any], arch: int, element: str) -> Any:
    """Compile a kernel for an architecture that need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = POINTERS | {"bend": "fp32"} | dict.fromkeys(SPECTRA, f"*{element}")
    names = kernel.arg_names
    constants = {name: flags[name] for name in names if name in flags}
    kinds = {name: types.get(name, "i32") for name in names if name not in constants}
    if "constexprs" in inspect.signature(ASTSource).parameters:
        every = {name: kinds.get(name, "constexpr") for name in names}
        source = ASTSource(kernel, every, constexprs=constants)
    else:
        source = ASTSource(kernel, kinds, constants=constants)
    options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


@pytest.mark.parametrize("grid", GRIDS, ids=["linear", "log", "irregular"])
@pytest.mark.parametrize(("arch", "element"), [(80, "fp32"), (90, "fp32"), (90, "fp64")])
def test_the_kernels_compile_without_a_gpu(
    grid: dict[str, Any], arch: int, element: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "TRITON_INTERPRET" in os.environ:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled in this process")
    import triton.language as tl

    from spender_core.ops import triton_adjoints, triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    grid = grid | {"REAL": tl.float64 if element == "fp64" else tl.float32, "BLOCK": 256}
    both = {"GRAD_X": True, "GRAD_Z": True}
    jobs: list[tuple[Any, dict[str, Any]]] = [(triton_kernels.forward_kernel, {})]
    jobs += [(triton_adjoints.backward_kernel, {"LSF": 0} | both)]
    for lsf in (1, 2):
        jobs += [(triton_kernels.forward_lsf_kernel, {"LSF": lsf})]
        jobs += [(triton_adjoints.backward_kernel, {"LSF": lsf} | both)]
        jobs += [(triton_adjoints.taps_kernel, {"LSF": lsf})]
    for kernel, flags in jobs:
        made = compiled(kernel, grid | flags, arch, element)
        assert len(made.asm["cubin"]) > 0
        assert ".nc" not in made.asm["ptx"], "a load bypasses what the same kernel has written"


def test_the_host_transforms_without_triton() -> None:
    code = """if True:
        import sys
        import torch
        from spender_core.nn.layers import ConstantLSF
        from spender_core.ops.resampler import Resampler
        resampler = Resampler(torch.arange(100.0, 200.0), torch.arange(120.0, 180.0))
        x = torch.rand(2, 100, requires_grad=True)
        y, _ = resampler(x, torch.zeros(2), lsfs=[ConstantLSF(3)])
        y.sum().backward()
        print("triton" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
