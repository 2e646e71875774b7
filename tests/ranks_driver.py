"""What every rank does for test_ranks.py: torchrun --nproc_per_node N THIS SCENE SCENE_WITH_A_BLANK_VIEW"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401, I001  before torch

import numpy as np
import torch

import train
from arguments import make_settings
from scene import Camera, load_scene, views
from subfunction import phase
from training.density_control import balance, collect
from training.interrupts import Interrupts
from training.run import Training, start
from training.viewers import Viewers
from utils.commands import run_command
from utils.ranks import ALONE, Ranks
from viewer.browser import ViewRequest
from viewer.inspect import MODES

CPU = torch.device("cpu")
torch.set_num_threads(1)


def talk(ranks: Ranks) -> None:
    """Every kind of exchange, with shares of different length, none among them."""
    rank, count = ranks.rank, ranks.count
    assert ranks.sum(torch.tensor([rank, 1.0])).tolist() == [sum(range(count)), count]
    assert ranks.any(rank == 1, CPU) and not ranks.any(False, CPU)
    assert ranks.counts(rank, CPU) == list(range(count)) and ranks.total(torch.tensor(2)) == 2 * count
    rows = torch.full((rank, 2), rank)
    expected = torch.cat([torch.full((other, 2), other) for other in range(count)])
    assert torch.equal(ranks.together(rows), expected) and torch.equal(ranks.own(expected, rank), rows)
    assert torch.equal(ranks.together(rows[:, 0] > 0), expected[:, 0] > 0)
    at_first = list(ranks.to_first(rows, list(range(count))))
    assert torch.equal(torch.cat(at_first), expected) if rank == 0 else at_first == []
    assert ranks.of_first(torch.tensor([3 + rank])).item() == 3
    assert ranks.message(b"to all" if rank == 0 else b"") == b"to all" and ranks.message() == b""

    parts = [torch.full((other, 3), 10.0 * rank + other, requires_grad=True) for other in range(count)]
    arrived, counts = ranks.exchange(parts)
    assert counts == [rank] * count and arrived.shape == (rank * count, 3)
    assert all((part == 10 * other + rank).all() for other, part in enumerate(arrived.split(counts)))
    assert torch.equal(ranks.exchange(parts, counts)[0], arrived)
    ((1 + rank) * arrived.sum()).backward()
    assert all((part.grad == 1 + other).all() for other, part in enumerate(parts))


def fail(ranks: Ranks) -> None:
    """All end where one fails, and that one says why."""
    said = ""
    try:
        with ranks.all_or_none("do it"):
            if ranks.rank == 1:
                raise ValueError("no file")
    except (OSError, ValueError) as problem:
        said = str(problem)
    assert said == ("no file" if ranks.rank == 1 else "another process of the run could not do it")
    with ranks.all_or_none("do it"):
        pass


def photos(ranks: Ranks, scene_folder: str, blank: str, **flags: float) -> None:
    """Every rank reads the photos that it renders, once, and knows of the others what their cameras are."""
    whole = load_scene(scene_folder, eval=True, quiet=True)
    read = reads()
    ours = load_scene(scene_folder, eval=True, quiet=True, ranks=ranks, places=ranks.count, **flags)
    own = []
    for split, everything in ((ours.train, whole.train), (ours.test, whole.test)):
        own += [camera.image_name for camera in everything][ranks.rank :: ranks.count]
        for camera, other in zip(split.without_images, everything.without_images, strict=True):
            assert (camera.image is not None) == (camera.image_name in own and not flags)
            for name in ("image_name", "width", "height", "fx", "fy", "cx", "cy", "near"):
                assert getattr(camera, name) == getattr(other, name), name
    if blank:
        own_read = [name for name in read if name != blank]
        assert blank not in own and set(own) <= set(own_read) and len(own_read) < 2 * len(whole.train)
    else:
        assert sorted(read) == sorted(own)
    for split, everything in ((ours.train, whole.train), (ours.test, whole.test)):
        assert all(torch.equal(camera.image, other.image) for camera, other in zip(split, everything))


def photos_of_training(ranks: Ranks, scene_folder: str) -> None:
    """Later no rank reads photos, but of views that parts of unequal length leave over in a round."""
    scene = load_scene(scene_folder, quiet=True, ranks=ranks, places=ranks.count)
    flags = {"views_per_step": ranks.count, "variant": "3dgs", "resolution_schedule": 0}
    run, count, rounds, read = start(make_settings(flags), scene, Path("nowhere"), ranks), 9, 4, reads()
    assert len(scene.train) == count
    seen = []
    for first in range(1, rounds * count + 1, ranks.count):
        step = range(first, first + ranks.count)
        seen += [view.name for view in train.forward_backward_together(run, step)]
    assert all(len(set(seen[n * count :][:count])) == count for n in range(rounds))
    assert ranks.total(torch.tensor(len(read))) <= rounds * (count % ranks.count)


def reads() -> list[str]:
    """Return a list that the names of all photos read from now on are added to."""
    names, read_image = [], views.read_image
    views.read_image = lambda path: names.append(path.name) or read_image(path)
    return names


def step(ranks: Ranks, scene_folder: str) -> None:
    """The views of a step, and their statistics, as one process has them."""
    scene = load_scene(scene_folder, quiet=True)
    flags = {"variant": "tag_gradprune_decomp", "densify_from_iter": 0, "importance_from_iter": 1}
    flags |= {"views_per_step": ranks.count + 1, "resolution_schedule": 0, "random_background": True}
    flags |= {"importance_gate": "soft"}  # the others draw random numbers
    shared, alone = (start(make_settings(flags), scene, Path("nowhere"), who) for who in (ranks, ALONE))
    order = torch.arange(len(alone.model))
    order = torch.cat([order[rank :: ranks.count] for rank in range(ranks.count)])
    assert len(shared.whole) == len(alone.model)
    assert torch.equal(shared.whole.means.detach(), alone.model.means.detach()[order])

    iterations = range(1, ranks.count + 2)
    views = train.forward_backward_together(shared, iterations)
    single = [train.forward_backward(alone, iteration) for iteration in iterations]
    due = phase(1, alone.settings)
    for ours, theirs in zip(views, single, strict=True):
        assert (ours.name, ours.pixels, ours.ends_round) == (theirs.name, theirs.pixels, theirs.ends_round)
        for name in ("loss", "typical_error", "squared_error"):
            assert_close(getattr(ours, name), getattr(theirs, name).double(), name)
        for name in ("radii", "screen_gradients", "errors", "contributions"):
            assert_close(ranks.together(getattr(ours, name)), getattr(theirs, name)[order], name)
        collect(shared, due, ours)
        collect(alone, due, theirs)
    for name in ("means", "sh_dc", "opacities", "scales", "quats"):
        values = alone.model.raw[name].grad[order]
        assert_close(ranks.together(shared.model.raw[name].grad), values, name)
    for name, values in alone.model.statistics.items():
        assert_close(shared.whole.statistics[name], values[order], name)
    held = alone.model.hold_importance().grad[order]
    assert held.any(), "importance learns"
    assert_close(ranks.together(shared.model.hold_importance().grad), held, "importance")
    for run in (shared, alone):
        run.model.learn_importance(run.ranks)
    for ours, theirs in zip(shared.model.network.parameters(), alone.model.network.parameters()):
        assert_close(ours, theirs, "network")
    latents = alone.model.raw["latents"].grad[order]
    assert_close(ranks.together(shared.model.raw["latents"].grad), latents, "latents")
    watch(shared, alone)


class Page:
    """A viewer's page with requests of every kind."""

    is_watched = True

    def __init__(self, camera: Camera) -> None:
        pose, size = camera.world_to_camera, (camera.width, camera.height, camera.FoVx, camera.FoVy)
        about = [(mode, "opacity", 0.0, False, -1, camera.image_name) for mode in MODES]
        untied = ("importance", "error")  # scores of Gaussians that were born together
        about += [("color", name, 0.5, marks, -1, "") for name in untied for marks in (False, True)]
        self.requests = [ViewRequest(*size, pose, *rest) for rest in about]

    def serve(self, show, splats, status, meanwhile) -> None:
        meanwhile()
        self.status, self.shown = status, [show(request) for request in self.requests]
        self.splats = [splats(request) for request in self.requests[-2:]]


def watch(shared: Training, alone: Training) -> None:
    """A page in the browser shows of Gaussians that ranks share what it shows of those of one process."""
    pages = [Page(alone.scene.train[2]) for _ in range(2)]
    Viewers(page=pages[0]).show(alone, Interrupts())
    if not shared.ranks.is_first:
        Viewers(follows=True).show(shared, Interrupts(shared.ranks))
        return
    Viewers(page=pages[1]).show(shared, Interrupts(shared.ranks))
    assert pages[1].status == pages[0].status
    for request, one, other in zip(pages[0].requests, pages[0].shown, pages[1].shown, strict=True):
        assert one.image.std() > 10 and np.abs(other.image.astype(int) - one.image).max() <= 1, request
        assert other.notes == one.notes, (one.notes, other.notes)
    for one, other in zip(pages[0].splats, pages[1].splats, strict=True):
        for name, rows in vars(one).items():
            sides = (np.sort(side.reshape(len(side), -1), 0) for side in (rows, vars(other)[name]))
            assert_close(*map(torch.from_numpy, sides), name)


def uneven(ranks: Ranks, scene_folder: str) -> None:
    """Gaussians move to ranks that own few, with all that belongs to them."""
    scene = load_scene(scene_folder, quiet=True)
    run = start(make_settings({"views_per_step": ranks.count}), scene, Path("nowhere"), ranks)
    train.update(run, 1, *train.forward_backward_together(run, range(1, ranks.count + 1)))
    run.model.tags["birth"] += torch.arange(len(run.model), dtype=torch.int32)
    if ranks.rank > 0:
        run.model.keep(torch.arange(len(run.model)) < ranks.rank)
    before = {name: ranks.together(values) for name, values in everything(run.model).items()}
    balance(run)
    counts = ranks.counts(len(run.model), CPU)
    assert max(counts) - min(counts) <= 1 and sum(counts) == len(before["raw means"])
    after = {name: ranks.together(values) for name, values in everything(run.model).items()}
    new, old = (table["raw means"][:, 0].sort().indices for table in (after, before))
    for name in before:
        assert torch.equal(after[name][new], before[name][old]), name


def everything(model) -> dict[str, torch.Tensor]:
    tables = {"raw": model.raw, "statistics": model.statistics, "tags": model.tags}
    rows = {f"{kind} {name}": values for kind, table in tables.items() for name, values in table.items()}
    for name, values in model.raw.items():
        state = model.optimizer.state[values]
        rows |= {f"{entry} {name}": state[entry] for entry in ("exp_avg", "exp_avg_sq")}
    return rows


def assert_close(got: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    assert got.shape == expected.shape, name
    if expected.numel():
        error = (got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(
            1e-30
        )
        assert error < 1e-5, f"{name}: {error}"


def main() -> None:
    ranks = Ranks.connect(CPU)
    talk(ranks)
    fail(ranks)
    photos(ranks, sys.argv[1], "")
    photos(ranks, sys.argv[1], "", max_memory_gb=1e-6)
    photos(ranks, sys.argv[2], "view_3.png")
    photos_of_training(ranks, sys.argv[1])
    step(ranks, sys.argv[1])
    uneven(ranks, sys.argv[1])
    ranks.wait()
    print(f"rank {ranks.rank} is content", flush=True)
    ranks.disconnect()


if __name__ == "__main__":
    run_command(main)
