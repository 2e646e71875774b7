"""benchmarks/gpu_counts.py: what it reads of the compiler, and what it says where tools are missing."""

from __future__ import annotations

import shutil
import sys

import pytest

from benchmarks import gpu_counts
from benchmarks.gpu_counts import Kernel, read_instructions, read_kernels

USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function _Z5outerPf:
  REG:48 STACK:8 SHARED:14368 LOCAL:16 CONSTANT[0]:688 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z5innerPf:
  REG:20 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:688 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
OUTER = """
        /*0000*/                   LDG.E.128 R8, desc[UR8][R58.64] ;     /* 0x0000000000007b82 */
                                                                        /* 0x000fe20000000800 */
        /*0010*/                   FADD R8, R8, R9 ;                    /* 0x0000000000007b82 */
        /*0020*/                   SHFL.BFLY PT, R23, R9, 0x1, 0x1f ;   /* 0x0000000000007b82 */
        /*0030*/              @!P5 BRA 0x20 ;                           /* 0x0000000000007b82 */
        /*0040*/               @P0 BRA 0x10 ;                           /* 0x0000000000007b82 */
        /*0050*/                   STG.E desc[UR8][R58.64], R8 ;        /* 0x0000000000007b82 */
        /*0060*/                   EXIT ;                               /* 0x0000000000007b82 */
        /*0070*/                   BRA 0x70;                            /* 0x0000000000007b82 */
"""
SASS = f"\t\tFunction : _Z5outerPf\n{OUTER}\n\t\tFunction : _Z5innerPf\n{OUTER.replace('BRA 0x20', 'NOP')}"
ELF = """.nv.info._Z5outerPf
\tAttribute:\tEIATTR_REGCOUNT
\tFormat:\tEIFMT_SVAL
\tValue:\t0x2 0x1
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x100 0x1 0x1
.nv.info._Z5innerPf
\tAttribute:\tEIATTR_REGCOUNT
"""


def test_what_is_read_of_a_kernel():
    kernels = read_kernels(USAGE, SASS, ELF)
    outer, inner = kernels["_Z5outerPf"], kernels["_Z5innerPf"]
    assert (outer.registers, outer.shared, outer.local, outer.threads) == (48, 14368, 24, 256)
    assert len(outer.opcodes) == 8 and outer.count("LDG", "STG") == 2 and outer.count("SHFL") == 1
    assert outer.loops == [2], "the outer one is left out, and what stands behind the end is no loop"
    assert inner.loops == [4] and inner.threads == gpu_counts.USUAL_THREADS


@pytest.mark.parametrize(
    ("kernel", "warps"),
    [
        (Kernel("", registers=32, threads=256), 64),
        (Kernel("", registers=47, threads=256), 40),  # 48 registers: 42 warps, in blocks of 8
        (Kernel("", registers=40, threads=256, shared=21504), 48),
        (Kernel("", registers=16, threads=128, shared=60_000), 12),
        (Kernel("", registers=16, threads=32), 32),  # blocks
    ],
)
def test_warps_that_a_multiprocessor_holds(kernel, warps):
    assert kernel.warps == warps


def test_straight_code_has_no_loop():
    assert read_instructions("/*0000*/ FADD R8, R8, R9 ; /*0010*/ @P0 BRA 0x30 ; /*0020*/ EXIT ;")[1] == []


def run(monkeypatch, capsys, *flags: str) -> str:
    monkeypatch.setattr(sys, "argv", ["gpu_counts.py", *flags])
    gpu_counts.main()
    return capsys.readouterr().out


def test_missing_tools_and_folders_are_named(monkeypatch, capsys, tmp_path):
    with pytest.raises(ValueError, match="no-such-program was not found; .* give --cuobjdump PATH"):
        run(monkeypatch, capsys, "--nvcc", sys.executable, "--cuobjdump", "no-such-program")
    with pytest.raises(ValueError, match="--checkouts now=.*expected NAME=FOLDER with submodules/"):
        run(monkeypatch, capsys, "--checkouts", f"now={tmp_path}")


def test_the_kernels_of_this_checkout(monkeypatch, capsys):
    if not (shutil.which("nvcc") and shutil.which("cuobjdump")):
        pytest.skip("needs nvcc and cuobjdump")
    text = run(monkeypatch, capsys, "--kernels", "step_tensors")
    rows = [row.split("|") for row in text.splitlines() if "step_tensors" in row]
    assert len(rows) == 1 and int(rows[0][7]) > 20
