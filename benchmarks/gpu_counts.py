"""What nvcc makes of each GPU kernel: registers, memory, occupancy, instructions. Needs no GPU.

    python benchmarks/gpu_counts.py
    python benchmarks/gpu_counts.py --checkouts before=../before now=. --kernels blend

Each source is compiled for one architecture, and cuobjdump (of the CUDA toolkit) tells what came out. `warps`
are those that one multiprocessor holds at once, of 64, as registers, shared memory and threads allow. `loops`
are the instructions of the innermost loops, the longest first: what is inside is all that counts when a loop
runs thousands of times. cub's kernels, and ours in double precision, which are for tests, need --all.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.commands import run_command
from utils.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("diff-gaussian-rasterization", "fused-ssim", "simple-knn")
COMMON_FLAGS = ("-std=c++17", "--expt-relaxed-constexpr")
COLUMNS = ("kernel", "threads", "registers", "shared", "local", "warps", "instructions", "loops", "global",
           "shuffles")  # fmt: skip
LOOPS_SHOWN = 3
USUAL_THREADS = 256  # of a block, where a kernel does not say

# A multiprocessor of compute capability 9.0 (CUDA C++ programming guide, technical specifications).
WARP = 32
WARPS = 64
REGISTERS = 65536
REGISTERS_AT_A_TIME = 256  # for a warp
SHARED_BYTES = 228 * 1024
BLOCKS = 32


@dataclass
class Kernel:
    """One kernel as it was compiled."""

    name: str
    registers: int = 0  # of a thread
    shared: int = 0  # bytes of a block, with those that the system takes
    local: int = 0  # bytes of a thread, in memory: a stack, or registers that were spilled
    threads: int = USUAL_THREADS  # of a block at most
    opcodes: list[str] = field(default_factory=list)
    loops: list[int] = field(default_factory=list)  # instructions of the innermost ones, the longest first

    @property
    def warps(self) -> int:
        """How many warps of this kernel a multiprocessor holds at once."""
        of_block = -(-self.threads // WARP)
        of_warp = -(-self.registers * WARP // REGISTERS_AT_A_TIME) * REGISTERS_AT_A_TIME
        by_registers = REGISTERS // of_warp // of_block if of_warp else BLOCKS
        by_shared = SHARED_BYTES // self.shared if self.shared else BLOCKS
        return of_block * min(BLOCKS, WARPS // of_block, by_registers, by_shared)

    def count(self, *prefixes: str) -> int:
        """Return the number of instructions whose opcodes begin with one of these."""
        return sum(opcode.startswith(prefixes) for opcode in self.opcodes)


def sources(checkout: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every CUDA source of a checkout, with the flags that its package compiles it with."""
    for package in PACKAGES:
        folder = checkout / "submodules" / package
        cmake = (folder / "CMakeLists.txt").read_text()
        for source in sorted((folder / "csrc" / "cuda").glob("*.cu")):
            own = re.search(rf"{source.name}[^()]*COMPILE_OPTIONS ([^()]*)\)", cmake)
            includes = (folder / "csrc", checkout / "submodules" / "common")
            flags = [f"-I{path}" for path in includes] + (own[1].split() if own else [])
            yield source, [*COMMON_FLAGS, *flags]


def tool(name: str, given: str) -> str:
    """Return the path of a program of the CUDA toolkit. Raise ValueError if it is not there."""
    found = shutil.which(given or name)
    if not found:
        raise ValueError(f"{given or name} was not found; it comes with the CUDA toolkit: give --{name} PATH")
    return found


def output(*command: str | Path) -> str:
    """Return what a program prints. Raise ValueError, with its message, if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def compiled_kernels(checkout: Path, args: argparse.Namespace) -> dict[str, Kernel]:
    """Return the kernels of a checkout by their short names."""
    nvcc, cuobjdump = tool("nvcc", args.nvcc), tool("cuobjdump", args.cuobjdump)
    kernels: dict[str, Kernel] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source, flags in sources(checkout):
            cubin = Path(folder) / f"{source.stem}.cubin"
            output(nvcc, "-cubin", f"-arch={args.arch}", *flags, source, "-o", cubin)
            texts = (output(cuobjdump, flag, cubin) for flag in ("-res-usage", "-sass", "-elf"))
            kernels |= {short_name(kernel.name): kernel for kernel in read_kernels(*texts).values()}
    return kernels


def read_kernels(usage: str, sass: str, elf: str) -> dict[str, Kernel]:
    """Return kernels by their mangled names, from what cuobjdump prints of a file."""
    kernels = {}
    for name, numbers in re.findall(r"Function (\w+):\s*\n\s*(REG:.*)", usage):
        value = {key: int(number) for key, number in re.findall(r"(\w+):(\d+)", numbers)}
        local = value["STACK"] + value["LOCAL"]
        kernels[name] = Kernel(name, value["REG"], value["SHARED"], local)
    for name, body in re.findall(r"Function : (\w+)\n(.*?)(?=\n\s*Function : |\Z)", sass, re.S):
        if name in kernels:
            kernels[name].opcodes, kernels[name].loops = read_instructions(body)
    for name, section in re.findall(r"\.nv\.info\.(\w+)\n(.*?)(?=\n\.nv\.|\n\.text|\Z)", elf, re.S):
        threads = re.search(r"EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(0x[0-9a-f]+)", section)
        if threads and name in kernels:
            kernels[name].threads = int(threads[1], 16)
    return kernels


def read_instructions(body: str) -> tuple[list[str], list[int]]:
    """Return the opcodes of a function, and the lengths of its innermost loops."""
    pattern = r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+ )?([A-Z0-9_.]+)([^;]*);"
    lines = [(int(at, 16), opcode, rest) for at, opcode, rest in re.findall(pattern, body)]
    step = lines[1][0] - lines[0][0] if len(lines) > 1 else 1
    loops = []
    for at, opcode, rest in lines:
        target = re.search(r"(0x[0-9a-f]+)", rest)
        if opcode == "BRA" and target and int(target[1], 16) < at:
            loops.append((int(target[1], 16), at))
    innermost = [
        (end - start) // step + 1
        for start, end in loops
        if not any((start, end) != other and start <= other[0] and other[1] <= end for other in loops)
    ]
    return [opcode for _, opcode, _ in lines], sorted(innermost, reverse=True)


def short_name(mangled: str) -> str:
    """Return a kernel's name with its template arguments, without namespaces and parameters."""
    name = output("c++filt", mangled).strip()
    for prefix in ("void ", "gs::cuda::", "gs::", "(anonymous namespace)::"):
        name = name.replace(prefix, "")
    return re.sub(r"\((?!anonymous).*", "", name)


def table(kernels: dict[str, Kernel]) -> list[str]:
    """Return the rows of a Markdown table."""
    rows = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, kernel in sorted(kernels.items()):
        loops = ", ".join(map(str, kernel.loops[:LOOPS_SHOWN])) or "-"
        numbers = (kernel.threads, kernel.registers, kernel.shared, kernel.local, kernel.warps)
        accesses = kernel.count("LDG", "STG", "RED", "ATOM")
        counts = (len(kernel.opcodes), loops, accesses, kernel.count("SHFL"))
        rows.append(f"| `{name}` | " + " | ".join(map(str, numbers + counts)) + " |")
    return rows


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkouts", nargs="+", default=[f"now={ROOT}"], help="NAME=FOLDER each")
    parser.add_argument("--kernels", default="", help="regular expression that their names contain")
    parser.add_argument("--all", action="store_true", help="with cub's kernels and those in double precision")
    parser.add_argument("--arch", default="sm_90", help="architecture (default: %(default)s)")
    parser.add_argument("--nvcc", default="", help="the compiler, where it is not in PATH")
    parser.add_argument("--cuobjdump", default="", help="likewise")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    record = {}
    for checkout in args.checkouts:
        name, _, folder = checkout.partition("=")
        if not (Path(folder) / "submodules").is_dir():
            raise ValueError(f"--checkouts {checkout}: expected NAME=FOLDER with submodules/ in the folder")
        kernels = {
            kernel: compiled
            for kernel, compiled in compiled_kernels(Path(folder), args).items()
            if re.search(args.kernels, kernel) and (args.all or not re.search("double|cub::", kernel))
        }
        print(f"{name} ({args.arch}):\n", *table(kernels), "", sep="\n")
        record[name] = {
            kernel: {"warps": compiled.warps, "instructions": len(compiled.opcodes)} | vars(compiled)
            for kernel, compiled in kernels.items()
        }
    if args.json:
        write_json(args.json, record)


if __name__ == "__main__":
    run_command(main)
