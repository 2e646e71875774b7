"""What several processes cost and gain: time, bytes and memory of a step, measured, and a model of up to 64.

    python benchmarks/scaling.py -s $SCENES/fox --width 280 --gaussians 100000 --ranks 1 2

Trains as train.py does, but nothing grows: Gaussians at the points of a COLMAP model, before its cameras;
random pixels stand in for the photos. Every process has one thread. For every number R of `--ranks` it runs
R processes, which render R views a step, and with 1 among them also

- one process with one view a step, which most people run,
- one process with R views a step, which computes the same as R processes and is what they are compared with.

The model takes from one process of R views the seconds of views, of `shared` ones, rendered as several
processes do but for sending, of the update, and of projecting a single Gaussian (`empty`: Python and kernel
launches), and from R processes the number of collective calls. A step of R processes, over links of so many
GB/s on which a call takes `latency` seconds, then takes

    shared + (uneven(R) - 1) blended + (R - 1) empty + update / R + sent / link + calls latency.

shared: a process projects N / R Gaussians for each of R views and blends one view, which is as much as one
    view in one process, but that what a view costs besides comes R times.
blended: mean seconds of blending a view, its loss and their backward passes. uneven(R): the expected longest
    over mean of R of them; the others wait for the longest.
sent: 4 n V (R - 1) / R bytes of splats in both directions. V Gaussians are in view; n is 17 + 16 numbers, and
    one more with removal energies.

On a GPU every clock waits for it, so that nothing overlaps, and the times of kernels are
not split from the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch

import torch
import torch.distributed as dist
from diff_gaussian_rasterization import best_device, cpu_info, take_profile

import train
from arguments import VARIANTS, make_settings
from benchmarks import STEADY
from benchmarks.workload import colmap_views, draw_points, make_run
from gaussian_model import GaussianModel
from scene import PointCloud
from subfunction import phase, step_of
from training import together
from training.run import Training, TrainingView, choose_background
from utils.commands import run_command
from utils.heap import give_back_freed_memory
from utils.ranks import Ranks
from utils.run_folder import machine, peak_memory

Found = dict[str, Any]  # what is measured: means over processes, seconds and bytes a step

WARM_UP = 3
NUMBERS_OF_A_SPLAT, NUMBER_BYTES = 17 + 16, 4  # there and back
MODELLED = (1, 2, 4, 8, 16, 32, 64)
PROBES, PROBE_ROWS = 50, 1 << 20  # repetitions; numbers for each process

# Bytes that a process sends in a call, where rings are used.
BYTES_SENT: dict[str, Callable[..., float]] = {
    "all_to_all_single": lambda ranks, out, rows, received, sent: rows[sent[ranks.rank] :].nbytes,
    "all_gather": lambda ranks, parts, own: (ranks.count - 1) * own.nbytes,
    "all_reduce": lambda ranks, total: 2 * (ranks.count - 1) / ranks.count * total.nbytes,
    "send": lambda ranks, rows, to: rows.nbytes,
    "recv": lambda ranks, rows, of: 0,
    "barrier": lambda ranks: 0,
}


class Call(NamedTuple):
    seconds: float
    sent: float  # bytes


class Watch:
    """The calls of functions, by their names."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.calls = device, defaultdict[str, list[Call]](list)

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def add(self, owner: Any, name: str, sent: Callable[..., float] = lambda *args: 0) -> None:
        """Record every call of a function of a module from now on. sent: the bytes, of its arguments."""
        function = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            began = self.clock()
            result = function(*args, **named)
            self.calls[name].append(Call(self.clock() - began, sent(*args)))
            return result

        setattr(owner, name, watched)

    def add_collective_calls(self, ranks: Ranks) -> None:
        for name, sent in BYTES_SENT.items():
            self.add(dist, name, lambda *args, sent=sent: sent(ranks, *args))

    def collective_calls(self) -> list[Call]:
        return [call for name in BYTES_SENT for call in self.calls[name]]

    def seconds(self, name: str) -> list[float]:
        return [call.seconds for call in self.calls[name]]


# In the processes that are measured


def own_model(args: argparse.Namespace, points: PointCloud, extent: float, ranks: Ranks) -> GaussianModel:
    """Return this rank's share of the Gaussians, as large as they are among all."""
    drawn, device = draw_points(args.gaussians, points, extent), best_device()
    own = slice(ranks.rank, None, ranks.count)
    model = GaussianModel.from_points(drawn.xyz[own], drawn.rgb[own], 3, 0.1, device)
    model.raw["scales"] -= torch.tensor(float(ranks.count)).log() / 3
    return model


def begin(args: argparse.Namespace, ranks: Ranks) -> Training:
    """Return the run before its first step."""
    views, points = colmap_views(Path(args.source_path), args.width, best_device())
    settings = STEADY | {"variant": args.variant, "views_per_step": args.views_per_step}
    run = make_run(own_model(args, points, views.extent, ranks), views, make_settings(settings))
    run.ranks = ranks
    run.model.sort_by_place()
    return run


Render = Callable[[Training, range], list[TrainingView]]


def step(run: Training, number: int, watch: Watch, render: Render = train.render_step) -> Found:
    """Run one step; return its seconds, those of the update in it, and how many Gaussians a view sees."""
    numbers = step_of(number * run.settings.optimization.views_per_step + 1, run.settings)
    began = watch.clock()
    views = render(run, numbers)
    rendered = watch.clock()
    train.update(run, numbers[-1], *views)
    ended = watch.clock()
    visible = sum(int((view.radii > 0).sum()) for view in views) / len(views)
    return {"seconds": ended - began, "update": ended - rendered, "visible": visible}


def measure(args: argparse.Namespace) -> None:
    """Train alone or as one of the ranks; the first prints what was found."""
    torch.set_num_threads(1)
    ranks, watch = Ranks.connect(best_device()), Watch(best_device())
    run = begin(args, ranks)
    watch.add_collective_calls(ranks)
    for name in ("forward_backward", "forward_backward_together", "collect"):
        watch.add(train, name)
    watch.add(together, "measure_turn")
    if args.little_memory:
        train.give_back_if_little_is_left = together.give_back_if_little_is_left = give_back_freed_memory
    for number in range(WARM_UP):
        step(run, number, watch)
    ranks.wait()
    take_profile(), watch.calls.clear()
    faults = page_faults()
    first, last = WARM_UP, WARM_UP + args.steps
    steps = [step(run, number, watch) for number in range(first, last)]
    found = of_all_ranks(run, watch, steps, (page_faults() - faults) / len(steps))
    if ranks.count > 1:
        found |= probe(ranks, watch)
    elif args.views_per_step > 1:
        found |= of_views(run, watch, range(last, last + args.steps))
    if ranks.is_first:
        print(json.dumps(found | {"machine": machine(cpu_info()) | {"device": str(best_device())}}))
    ranks.disconnect()


def of_all_ranks(run: Training, watch: Watch, steps: list[Found], faults: float) -> Found:
    """Return the means over ranks and steps; of what Gaussians are in view, the sum over ranks."""
    ranks, calls = run.ranks, watch.collective_calls()
    own = {name: mean(step[name] for step in steps) for name in steps[0]}
    own |= {"kernels": sum(take_profile()[0].values()) / len(steps), "memory": memory(watch.device)}
    own["faults"] = faults
    own |= {"calls": len(calls) / len(steps), "exchange": sum(call.seconds for call in calls) / len(steps)}
    own |= {"sent": sum(call.sent for call in calls) / len(steps)}
    own |= {"splats": sum(call.sent for call in watch.calls["all_to_all_single"]) / len(steps)}
    blended = torch.tensor([watch.seconds("measure_turn")], dtype=torch.float64)
    means = ranks.together(torch.tensor([list(own.values())], dtype=torch.float64)).mean(0).tolist()
    found = dict(zip(own, means))
    found["visible"] *= ranks.count
    found["numbers"] = NUMBERS_OF_A_SPLAT + phase(1, run.settings).collects_removal_energy
    if ranks.count > 1:
        each = ranks.together(blended)  # (ranks, steps)
        found["longest"] = float((each.max(0).values - each.mean(0)).mean())
    return found


def of_views(run: Training, watch: Watch, steps: range) -> Found:
    """Return the seconds of views in one process, each with its part of the update; run more of them.

    They are rendered as ranks do, but for sending.
    """
    collecting = mean(watch.seconds("collect"))
    view = mean(watch.seconds("forward_backward")) + collecting
    watch.calls.clear()
    for number in steps:
        step(run, number, watch, render_as_ranks)
    shared = mean(watch.seconds("forward_backward_together")[1:]) + collecting
    empty = seconds_of_an_empty_view(run, watch)
    found = {"view": view, "shared": shared, "collecting": collecting, "empty": empty}
    return found | {"blended": watch.seconds("measure_turn")}


def render_as_ranks(run: Training, numbers: range) -> list[TrainingView]:
    return [view for number in numbers for view in train.forward_backward_together(run, [number])]


def seconds_of_an_empty_view(run: Training, watch: Watch) -> float:
    """Return what projecting a view and its backward pass take for a single Gaussian."""
    raw = {name: values[:1].detach().clone().requires_grad_() for name, values in run.model.raw.items()}
    model, background, seconds = GaussianModel(raw), choose_background(run, 1), []
    model.sh_degree = run.model.sh_degree
    for _ in range(PROBES):
        began = watch.clock()
        sight = together.look(run.scene.train[0], model, background)
        sight.rows.sum().backward()
        seconds.append(watch.clock() - began)
    return median(seconds)


def probe(ranks: Ranks, watch: Watch) -> Found:
    """Return seconds of the smallest collective call, and bytes a second that a rank sends in a large one."""

    def seconds(work: Callable[[], Any]) -> float:
        found = []
        for _ in range(PROBES):
            began = watch.clock()
            work()
            found.append(watch.clock() - began)
        return median(found)

    one, rows = torch.zeros(1, device=watch.device), PROBE_ROWS
    many, counts = torch.zeros(ranks.count * rows, device=watch.device), [rows] * ranks.count
    latency = seconds(lambda: ranks.sum(one))
    bytes_sent = (ranks.count - 1) * rows * many.element_size()
    return {"latency": latency, "link": bytes_sent / seconds(lambda: ranks.sent(many, counts, counts))}


def memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes; on a GPU, of the tensors there."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def page_faults() -> int:
    """Return how many pages the system has given this process, and cleared."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


# In the process that starts them


def measured(processes: int, views: int) -> Found:
    """Return what this command finds with so many processes and views a step."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    process = subprocess.run(
        [*launcher, __file__, *sys.argv[1:], "--views_per_step", str(views)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
    )
    if process.returncode:
        raise OSError(f"{processes} processes failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


class Model:
    """Seconds and bytes of a step of any number of ranks. See the top of this file."""

    def __init__(self, alone: Found, calls: float) -> None:
        self.view, self.shared, self.empty = alone["view"], alone["shared"], alone["empty"]
        self.blended, self.calls = alone["blended"], calls
        self.update = alone["update"] - alone["collecting"] * alone["views_per_step"]
        self.splats = NUMBER_BYTES * alone["numbers"] * alone["visible"]

    def uneven(self, ranks: int) -> float:
        """Return the expected longest over mean time of blending so many views, drawn at random."""
        count, ordered = len(self.blended), sorted(self.blended)
        longest = sum(
            seconds * (((place + 1) / count) ** ranks - (place / count) ** ranks)
            for place, seconds in enumerate(ordered)
        )
        return longest / mean(self.blended)

    def sent(self, ranks: int) -> float:
        return self.splats * (ranks - 1) / ranks

    def computing(self, ranks: int) -> float:
        view = self.view if ranks == 1 else self.shared
        return view + (ranks - 1) * self.empty + self.update / ranks

    def waiting(self, ranks: int) -> float:
        """Return the seconds that the mean rank waits for the slowest view."""
        return (self.uneven(ranks) - 1) * mean(self.blended)

    def exchange(self, ranks: int, link: float, latency: float) -> float:
        """Return the seconds of sending and waiting. link: bytes a second."""
        if ranks == 1:
            return 0.0
        return self.waiting(ranks) + self.sent(ranks) / link + self.calls * latency

    def times_as_fast(self, ranks: int, link: float, latency: float) -> float:
        """Return the speed over that of one process with as many views a step."""
        alone = ranks * self.view + self.update
        return alone / (self.computing(ranks) + self.exchange(ranks, link, latency))


def describe(processes: int, views: int, found: Found) -> str:
    kernels = f"kernels {1e3 * found['kernels']:.1f}" if found["kernels"] else "kernels not split on a GPU"
    plural = "es" if processes > 1 else "", "s" if views > 1 else ""
    text = (
        f"{processes} process{plural[0]}, {views} view{plural[1]} a step: {1e3 * found['seconds']:.1f} ms a "
        f"step, {1e3 * found['seconds'] / views:.1f} a view; {kernels}; "
        f"{found['faults']:,.0f} page faults, {found['memory'] / 1e9:.2f} GB each"
    )
    if processes == 1:
        return text
    return text + (
        f"; exchange {1e3 * found['exchange']:.1f} ms, {found['calls']:.1f} calls, "
        f"{found['sent'] / 1e6:.2f} MB sent by each ({found['splats'] / 1e6:.2f} splats); a small call takes "
        f"{1e6 * found['latency']:.0f} us, a large one {found['link'] / 1e9:.2f} GB/s; the slowest view "
        f"{1e3 * found['longest']:.1f} ms over the mean"
    )


def compare(ranks: int, found: Found, alone: Found, one: Found) -> None:
    """Print how fast so many ranks are, and what the model says of them, on this machine's links."""
    model = Model(alone, found["calls"])
    exchange = model.exchange(ranks, found["link"], found["latency"])
    rows = {
        "ms a step": (model.computing(ranks) + exchange, found["seconds"]),
        "computing": (model.computing(ranks), found["seconds"] - found["exchange"]),
        "exchange": (exchange, found["exchange"]),
        "in it waiting for a view": (model.waiting(ranks), found["longest"]),
    }
    text = ", ".join(f"{name} {1e3 * ours:.1f} ({1e3 * real:.1f})" for name, (ours, real) in rows.items())
    print(
        f"{ranks} processes: {alone['seconds'] / found['seconds']:.2f} times as fast as one with as many "
        f"views a step, {one['seconds'] * ranks / found['seconds']:.2f} times the views a second of one with "
        f"one\n  model (measured): {text}; MB of splats {model.sent(ranks) / 1e6:.2f} "
        f"({found['splats'] / 1e6:.2f})"
    )
    if found["kernels"]:
        slower = ranks * found["kernels"] / alone["kernels"]
        print(f"  kernels took {slower:.2f} times as long as in one process")


def predict(model: Model, links: list[float], latency: float) -> None:
    """Print what the model says of up to 64 processes with a machine or a GPU each."""
    print(
        f"model: {1e3 * model.view:.1f} ms a view, {1e3 * model.shared:.1f} of one whose Gaussians "
        f"processes share, {1e3 * model.empty:.2f} of an empty one, "
        f"{1e3 * model.update:.1f} an update; {model.calls:.1f} calls of {1e6 * latency:.0f} us"
    )
    for ranks in MODELLED:
        speeds = [
            f"{model.times_as_fast(ranks, 1e9 * link, latency):.2f} times as fast at {link} GB/s"
            for link in links
        ]
        sent, uneven = model.sent(ranks) / 1e6, model.uneven(ranks)
        print(f"{ranks:3} processes: {', '.join(speeds)}; {sent:.1f} MB by each, uneven by {uneven:.2f}")


def main() -> None:
    args = arguments()
    if args.views_per_step:
        return measure(args)
    several = [ranks for ranks in args.ranks if ranks > 1]
    kinds = [(1, 1), *((1, ranks) for ranks in several)] if 1 in args.ranks else []
    results: dict[tuple[int, int], Found] = {}
    for processes, views in kinds + [(ranks, ranks) for ranks in several]:
        found = measured(processes, views) | {"views_per_step": views}
        if not results:
            print(
                f"{args.gaussians:,} Gaussians, {args.width} pixels wide, {args.variant}, {found['machine']}"
            )
        results[processes, views] = found
        print(describe(processes, views, found), flush=True)
    if kinds and several:
        for ranks in several:
            compare(ranks, results[ranks, ranks], results[1, ranks], results[1, 1])
        most = several[-1]
        predict(Model(results[1, most], results[most, most]["calls"]), args.links, 1e-6 * args.latency)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-s", "--source_path", required=True, help="folder with a COLMAP model")
    parser.add_argument("--width", type=int, default=400, help="of the pictures, pixels")
    parser.add_argument("--gaussians", type=int, default=100_000, help="of all processes together")
    parser.add_argument(
        "--variant", choices=sorted(VARIANTS), default="tag_gradprune_decomp", help="as for train.py"
    )
    parser.add_argument(
        "--ranks",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of processes; with 1, also what one does",
    )
    parser.add_argument("--steps", type=int, default=20, help=f"measured, after {WARM_UP} that are not")
    parser.add_argument(
        "--links", type=float, nargs="+", default=[1.25, 25.0], help="of the model, GB/s that each can send"
    )
    parser.add_argument(
        "--latency", type=float, default=50.0, help="of the model, microseconds of a collective call"
    )
    parser.add_argument(
        "--little_memory", action="store_true", help="give back within a step as where little is left"
    )
    parser.add_argument(
        "--views_per_step", type=int, help="measure in this process, or those of torchrun, and print JSON"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
