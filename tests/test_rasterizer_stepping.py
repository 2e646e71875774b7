"""Adam in the backward pass: the same bits as a backward pass and a step after it."""

from __future__ import annotations

import pytest
import torch

import raster_scenes as scenes
import train
from arguments import VARIANTS
from raster_scenes import Backend
from subfunction import phase
from training_runs import new_run

on_backends = scenes.on_every_backend

NAMES = ("means3D", "scales", "rotations", "dc", "shs", "opacities")
RATES = dict(zip(NAMES, (1e-3, 5e-3, 1e-3, 2e-3, 1e-4, 5e-2)))


def parameters(scene: scenes.Scene, backend: Backend) -> dict[str, torch.Tensor]:
    """What is trained: logarithms of scales, logits of opacities."""
    raw = scene.inputs | {
        "scales": scene.inputs["scales"].log(),
        "opacities": scene.inputs["opacities"].logit(),
    }
    return {name: raw[name].float().to(backend.device, copy=True).requires_grad_() for name in NAMES}


def trained(
    backend: Backend, scene: scenes.Scene, kind: str, at_once: bool, iterations: int = 3
) -> dict[str, torch.Tensor]:
    """Parameters and moments after some iterations, and what the last backward pass gave besides."""
    raw = parameters(scene, backend)
    groups = [{"params": [raw[name]], "lr": RATES[name]} for name in NAMES]
    optimizer = getattr(backend.package, kind)(groups, eps=1e-15)
    stepping = backend.package.StepInBackward(optimizer, raw) if at_once else None
    settings = scenes.settings(backend, scene.view, statistics=True)
    weights = scenes.cotangents(scene.view.height, scene.view.width)
    for _ in range(iterations):
        extra = {
            name: scene.inputs[name].float().to(backend.device) for name in ("importance", "error_carrier")
        }
        extra = {name: value.requires_grad_() for name, value in extra.items()}
        extra["means2D"] = torch.zeros(len(scene), 3, device=backend.device, requires_grad=True)
        shown = raw | {"scales": raw["scales"].exp(), "opacities": raw["opacities"].sigmoid()}
        rasterizer = backend.package.GaussianRasterizer(settings, stepping)
        color, radii, invdepth, carried = rasterizer(**shown, **extra)
        images = {"color": color, "invdepth": invdepth, "carried": carried}
        sums = [(weights[name].to(image) * image).sum() for name, image in images.items()]
        torch.stack(sums).sum().backward()
        if at_once:
            assert all(param.grad is None for param in raw.values())
        elif kind == "GaussianAdam":
            optimizer.step()
        else:
            optimizer.step(radii > 0, len(scene))
        optimizer.zero_grad()
    found = {name: param.detach() for name, param in raw.items()}
    for name, param in raw.items():
        found |= {
            f"{moment} of {name}": optimizer.state[param][moment] for moment in ("exp_avg", "exp_avg_sq")
        }
    found |= {f"gradient of {name}": value.grad for name, value in extra.items()}
    return found | vars(rasterizer.statistics) | {"steps": optimizer.state[raw["scales"]]["step"]}


@on_backends
@pytest.mark.parametrize("kind", ["GaussianAdam", "SparseGaussianAdam"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_same_bits_as_two_passes(backend: Backend, kind: str, degree: int):
    scene = scenes.random_scene(3, color="dc", degree=degree, bases=16)
    plain, at_once = (trained(backend, scene, kind, at_once) for at_once in (False, True))
    start = parameters(scene, backend)
    assert all((plain[name] != start[name]).any() for name in NAMES if name != "shs" or degree)
    for name, values in plain.items():
        assert torch.equal(values, at_once[name]), name


@on_backends
@pytest.mark.parametrize("count", [0, 1, 16, 33])
def test_any_number_of_gaussians(backend: Backend, count: int):
    scene = scenes.random_scene(4, color="dc", margin=None)
    scene = scene.rows(torch.arange(count))
    plain, at_once = (trained(backend, scene, "GaussianAdam", at_once) for at_once in (False, True))
    for name, values in plain.items():
        assert torch.equal(values, at_once[name]), name


@on_backends
def test_what_becomes_unsound_is_told(backend: Backend):
    scene = scenes.random_scene(3, color="dc")
    raw = parameters(scene, backend)
    groups = [{"params": [raw[name]], "lr": float("inf") if name == "rotations" else 0.1} for name in NAMES]
    optimizer = backend.package.GaussianAdam(groups, eps=1e-15)
    shown = raw | {"scales": raw["scales"].exp(), "opacities": raw["opacities"].sigmoid()}
    means2d = torch.zeros(len(scene), 3, device=backend.device, requires_grad=True)
    stepping = backend.package.StepInBackward(optimizer, raw)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view), stepping)
    rasterizer(**shown, means2D=means2d)[0].sum().backward()
    assert optimizer.unsound.tolist() == [int(name == "rotations") for name in NAMES]


@on_backends
def test_what_cannot_be_stepped_is_refused(backend: Backend):
    scene = scenes.random_scene(3, color="dc")
    raw = parameters(scene, backend)
    optimizer = backend.package.GaussianAdam([raw[name] for name in NAMES if name != "shs"])
    settings = scenes.settings(backend, scene.view)
    given = {name: value.detach() for name, value in raw.items()} | {
        "means2D": torch.zeros_like(raw["means3D"])
    }
    given["means2D"].requires_grad_()

    def render(known: dict, **changes):
        stepping = backend.package.StepInBackward(optimizer, known)
        arguments = {name: value for name, value in (given | changes).items() if value is not None}
        return backend.package.GaussianRasterizer(settings, stepping)(**arguments)

    with pytest.raises(ValueError, match="shs: expected a parameter of the optimizer"):
        render(raw)[0].sum().backward()
    with pytest.raises(
        ValueError, match="stepping: expected arguments and parameters means3D, .* got .* and"
    ):
        render({name: raw[name] for name in NAMES[1:]})
    with pytest.raises(ValueError, match="stepping: expected arguments .*, got arguments means3D, opac"):
        render(raw, dc=None, shs=None, colors_precomp=torch.rand(len(scene), 3, device=backend.device))
    with pytest.raises(ValueError, match="stepping: expected scales as float32 of shape"):
        render(raw | {"scales": raw["scales"][1:]})


# In training


FEATURES = {
    **{variant: {"variant": variant} for variant in VARIANTS},
    "sparse_adam": {"optimizer_type": "sparse_adam"},
    "importance": {
        "variant": "tag_gradprune_decomp",
        "importance_from_iter": 30,
        "importance_until_iter": 90,
    },
    "decay": {"opacity_control": "decay", "random_background": True},
}


@pytest.mark.parametrize("name", FEATURES)
def test_training_has_the_same_bits_with_and_without(loaded_scene, tmp_path, monkeypatch, name):
    """With growth, pruning, resets and importance: the step is taken where nothing of it is due."""
    flags = {"iterations": 120, "densification_interval": 10, "prune_interval": 10, "densify_until_iter": 80}
    flags |= {"opacity_reset_interval": 75, "densify_grad_threshold": 1e-5, "error_floor": 1e-5}
    decide, taken, results = train.can_step, [], []
    monkeypatch.setattr(train, "can_step", lambda *given: taken.append(decide(*given)) or taken[-1])
    for may_step in (True, False):
        run = new_run(loaded_scene, tmp_path, **FEATURES[name] | {"scale_schedule": False} | flags)
        before = len(run.model)
        for iteration in range(1, 121):
            train.update(run, iteration, train.forward_backward(run, iteration, may_step))
        assert len(run.model) != before
        results.append(run.model.state_tensors())
    assert 60 < sum(taken) < len(taken) == 120
    assert results[0].keys() == results[1].keys()
    for key, values in results[0].items():
        assert torch.equal(values, results[1][key]), key


def test_the_step_waits_where_the_gaussians_are_looked_at_or_changed(loaded_scene, tmp_path):
    run = new_run(loaded_scene, tmp_path, densification_interval=100, opacity_reset_interval=210)
    run.settings.run.save_iterations, run.settings.run.test_iterations = [130], [140]
    steps = {i: train.can_step(run, phase(i, run.settings)) for i in (120, 130, 140, 200, 210, 30_000)}
    assert steps == {120: True, 130: False, 140: False, 200: False, 210: False, 30_000: False}
    for name in ("convert_SHs_python", "compute_cov3D_python", "debug"):
        setattr(run.settings.pipeline, name, True)
        assert not train.can_step(run, phase(120, run.settings))
        setattr(run.settings.pipeline, name, False)
