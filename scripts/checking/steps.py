"""The steps of a check of a machine with a GPU, the most informative first."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from checking.supervision import PROJECT, Step

SUBMODULES = ("simple-knn", "fused-ssim", "diff-gaussian-rasterization")
INSTALL = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
BUILD = ["--no-build-isolation", "-Ccmake.define.GS_CUDA=REQUIRED", "-Ccmake.define.GS_EMULATED_CUDA=ON"]
MAKE_BELIEVE = "tests/make_believe_gpu.py"
DEMO_VARIANTS = ("3dgs", "tag_gradprune_decomp")
DEMO_ITERATIONS = 7000
DEMO_FLAGS = ["--eval", "--test_iterations", "-1", "--iterations", str(DEMO_ITERATIONS), "--scale_schedule"]
SHORT, SHORTER = 600, 20  # iterations of short trainings, and of all in a rehearsal
TINY = ["-r", "8", "--max_gaussians", "500"]  # a rehearsal's photos and Gaussians
SANITIZERS = {  # by tool, its flags and the seconds it is expected to take
    # torch probes with calls that fail on purpose.
    "memcheck": (["--report-api-errors", "no"], 40),
    "racecheck": ([], 40),
    "synccheck": ([], 30),
}
# torch's cache gives out memory in large pieces, inside which memcheck sees no overrun.
NO_CACHE = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
NCU = ["ncu", "--clock-control", "none", "--set", "full", "--page", "details", "--csv"]
NCU += ["--kernel-name", "regex:blend|project_each|write_pairs|step_tensors", "--launch-count", "20"]


@dataclass(frozen=True)
class Plan:
    """Folders of a check, and whether its steps run in their small form."""

    work: Path  # a temporary folder
    packages: Path | None = None  # built ahead
    wheels: Path | None = None
    gsplat: Path | None = None
    scene: Path | None = None
    rehearses: bool = False

    @property
    def paths(self) -> list[Path]:
        """Return where Python looks for modules, first of all in what is built here."""
        found = [self.built, self.packages, self.installed, PROJECT, self.gsplat]
        return [path for path in found if path is not None]

    @property
    def built(self) -> Path:
        return self.work / "packages"

    @property
    def installed(self) -> Path:
        return self.work / "wheels"

    def python(self, script: str, *arguments: object) -> list[str]:
        """Return the command that runs a script of the project, on the make-believe GPU in a rehearsal."""
        through = [MAKE_BELIEVE] if self.rehearses else []
        return [sys.executable, *through, script, *map(str, arguments)]

    def train(self, source: Path | str, model: str, *flags: object) -> list[str]:
        small = TINY if self.rehearses else []
        return self.python("train.py", "-s", source, "-m", self.work / model, *flags, *small)

    def iterations(self, count: int) -> int:
        return SHORTER if self.rehearses else count


def all_steps(plan: Plan) -> list[Step]:
    """Return every step in the order in which they run. All but the first parts need the packages."""
    asked = [
        smoke(plan),
        *demo(plan),
        *gpu_step(plan),
        *method(plan),
        tests(plan),
        *sanitizers(plan),
        ncu(plan),
    ]
    asked += scene(plan)
    for step in asked:
        step.needs = ("packages", *step.needs)
    return machine() + wheels(plan) + packages(plan) + asked


def machine() -> list[Step]:
    """Return steps whose last line says what all of this ran on."""
    commands = {
        "gpu": ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"],
        "nvcc": ["nvcc", "--version"],
        "torch": [sys.executable, "-c", "import sys, torch; print(torch.__version__, 'Python', sys.version)"],
        "commit": ["git", "rev-parse", "HEAD"],
    }
    return [Step(name, "machine", [command], 5) for name, command in commands.items()]


def wheels(plan: Plan) -> list[Step]:
    """Return the step that installs what the machine lacks. pip says so where there is nothing."""
    if plan.wheels is None:
        return []
    found = sorted(map(str, plan.wheels.glob("*.whl"))) or [str(plan.wheels / "*.whl")]
    command = [sys.executable, *INSTALL, "--target", str(plan.installed), *found]
    return [Step("wheels", "packages", [command], 10)]


def packages(plan: Plan) -> list[Step]:
    """Return the steps that find out whether the given packages load, build them if not, and look again."""
    probe = plan.python("scripts/gpu_smoke.py", "--probe")
    target = ["--target", str(plan.built)]
    builds = [
        [sys.executable, *INSTALL, *BUILD, *target, str(PROJECT / "submodules" / name)] for name in SUBMODULES
    ]
    given = [Step("given packages", "packages", [probe], 10)] if plan.packages else []
    build = Step("build", "packages", builds, 80, unless="given packages")
    return [*given, build, Step("packages", "packages", [probe], 10)]


def smoke(plan: Plan) -> Step:
    flags = ["--json", plan.work / "smoke.json", *(["--small"] if plan.rehearses else [])]
    command = plan.python("scripts/gpu_smoke.py", *flags)
    return Step("smoke", "smoke", [command], 30, environment={"GS_SYNCHRONIZE": "1"})


def demo(plan: Plan) -> list[Step]:
    """Return the trainings of the bundled scene whose figures on the CPU are known."""
    steps = []
    for variant in DEMO_VARIANTS:
        flags = [*DEMO_FLAGS, "--variant", variant, "--seed", "0"]
        flags += ["--iterations", SHORTER] if plan.rehearses else []
        steps += trained_and_measured(plan, f"demo {variant}", "demo", "data/demo", flags, 45)
    return steps


def trained_and_measured(
    plan: Plan, name: str, part: str, source: Path | str, flags: list, expected: float
) -> list[Step]:
    """Return the steps NAME, NAME render and NAME metrics; the model's folder is called NAME."""
    model = plan.work / name
    measure = plan.python("metrics.py", "-m", model, "--skip_lpips")
    return [
        Step(name, part, [plan.train(source, name, *flags)], expected),
        Step(f"{name} render", part, [plan.python("render.py", "-m", model)], 8, (name,)),
        Step(f"{name} metrics", part, [measure], 8, (f"{name} render",)),
    ]


def gpu_step(plan: Plan) -> list[Step]:
    size = ["--gaussians", 500, "--width", 64, "--height", 48, "--runs", 2] if plan.rehearses else []
    command = ["benchmarks/gpu_step.py", "--profile", *size]
    beside = ["--gsplat"] if plan.gsplat else []
    names = {"step": ["--json", plan.work / "step.json", *beside]}
    of_method = ["--variant", DEMO_VARIANTS[1], "--json", plan.work / "step_of_method.json"]
    names["step of method"] = of_method if plan.rehearses else ["--gaussians", 1_000_000, *of_method]
    return [Step(name, "step", [plan.python(*command, *flags)], 40) for name, flags in names.items()]


def method(plan: Plan) -> list[Step]:
    """Return short trainings through the method's other paths."""
    count = plan.iterations(SHORT)
    short = ["--iterations", count, "--scale_schedule", "--test_iterations", count]
    exposures = [*short, "--eval", "--train_test_exp"]
    checkpoint = plan.work / "exposures" / f"chkpnt{count // 2}.safetensors"
    budget = ["--prune_by", "importance", "--importance_control", "budget", "--target_size_mb", 1]
    masked = plan.work / "masked_scene"
    trainings = {
        "exposures": ("data/demo", [*exposures, "--checkpoint_iterations", count // 2], ()),
        "resume": ("data/demo", [*exposures, "--start_checkpoint", checkpoint], ("exposures",)),
        "masks": (masked, [*short, "--random_background"], ("mask the photos",)),
        "importance": ("data/demo", [*short, "--variant", DEMO_VARIANTS[1], *budget], ()),
        "sparse Adam": ("data/demo", [*short, "--optimizer_type", "sparse_adam", "--antialiasing"], ()),
    }
    mask = [sys.executable, "scripts/checking/masked_scene.py", "data/demo", str(masked)]
    return [
        Step("mask the photos", "method", [mask], 5),
        *(
            Step(name, "method", [plan.train(source, name, *flags)], 10, needs)
            for name, (source, flags, needs) in trainings.items()
        ),
    ]


def tests(plan: Plan) -> Step:
    if plan.rehearses:
        command = plan.python("tests/gpu_checks.py", "-k", "two_devices")
    else:
        at_once = ["-n", "8"] if importlib.util.find_spec("xdist") else []
        chosen = ["-q", "-k", "cuda and not emulated", "tests"]
        command = [sys.executable, "-m", "pytest", *at_once, *chosen]
    return Step("tests", "tests", [command], 60, environment={"OMP_NUM_THREADS": "2"})


def sanitizers(plan: Plan) -> list[Step]:
    command = plan.python("scripts/gpu_smoke.py", "--small")
    steps = []
    for tool, (flags, seconds) in SANITIZERS.items():
        watch = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *flags]
        watched = command if plan.rehearses else [*watch, *command]
        environment = NO_CACHE if tool == "memcheck" else {}
        steps.append(Step(tool, "sanitizers", [watched], seconds, environment=environment))
    return steps


def ncu(plan: Plan) -> Step:
    size = ["--gaussians", 500, "--width", 64] if plan.rehearses else ["--gaussians", 1_000_000]
    command = plan.python("benchmarks/gpu_step.py", *size, "--steps", 1)
    return Step("ncu", "ncu", [command if plan.rehearses else [*NCU, *command]], 40)


def scene(plan: Plan) -> list[Step]:
    if plan.scene is None:
        return []
    count = plan.iterations(DEMO_ITERATIONS)
    flags = ["--eval", "--iterations", count, "--scale_schedule"]
    return trained_and_measured(plan, "scene", "scene", plan.scene, flags, 60)
