"""The Gaussians: one table of per-Gaussian parameters, and all that is done by looping over it.

Beside them the importance MLP, which gives each Gaussian its s_k in (0, 1) and never sees its opacity
(docs/method.md, 4).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch
from diff_gaussian_rasterization import FEATURES, LATENTS, UNITS, ImportanceNetwork, evaluate_importance
from diff_gaussian_rasterization import GaussianAdam, SparseGaussianAdam, StepInBackward
from simple_knn._C import distCUDA2
from torch import Tensor, nn

from arguments import ImportanceSettings, OptimizationSettings
from utils.counter_random import uniform
from utils.heap import give_back_freed_memory
from utils.morton import morton_order
from utils.ply import NO_SHIFT, SHIFT_ROOM, channels_first, channels_last, file_size, float_columns
from utils.ply import kind_of_vertices, read_gaussians, write_gaussians
from utils.ranks import ALONE, Ranks
from utils.sh import base_count, degree_of, rgb_to_sh
from utils.soundness import make_sound

ADAM_EPSILON = 1e-15  # Kerbl et al. 2023: gradients of single Gaussians are far below torch's default of 1e-8
# Units^2, of neighbors: coinciding points get a scale that has a logarithm.
SMALLEST_SQUARED_DISTANCE = 1e-7
ADAM_BETAS = (0.9, 0.999)  # where each view is a step
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST_LOG_SCALE = 88.7  # whose exponential is still a float32
SMALLEST_ALPHA = 1 / 255  # what the rasterizer skips
OPEN_FROM = 0.5  # importance from which a Gaussian is in a file, where gates are 0 or 1
INPUT_SIZES = {"features": FEATURES, "latents": LATENTS}
INPUTS = {  # what each kind of network sees
    "full": ("features", "latents"),
    "mlp": ("features",),
    "latent": ("latents",),
    "constant": (),
}


@dataclass(frozen=True)
class Parameter:
    """One trained property of a Gaussian, stored unconstrained."""

    name: str
    shape: Callable[[int], tuple[int, ...]]  # from the number of SH bases K
    columns: Callable[[int], list[str]]  # of a PLY file, from K
    activation: Callable[[Tensor], Tensor]
    learning_rate: Callable[[OptimizationSettings], float]


@dataclass(frozen=True)
class Statistic:
    """One number that rendering yields per Gaussian; zero for new Gaussians."""

    name: str
    dtype: torch.dtype
    since: str = "densification"  # or "round": from one round through all views to the next


@dataclass(frozen=True)
class Tag:
    """One whole number that a Gaussian keeps through its life."""

    name: str


def _same(raw: Tensor) -> Tensor:
    return raw


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{index}" for index in range(count)]


# The order is that of the columns of a 3DGS PLY file. The rate of positions is for an extent of 1.
PARAMETERS = (
    Parameter("means", lambda k: (3,), lambda k: ["x", "y", "z"], _same, lambda o: o.position_lr_init),
    Parameter("sh_dc", lambda k: (1, 3), lambda k: _numbered("f_dc", 3), _same, lambda o: o.feature_lr),
    Parameter(
        "sh_rest",
        lambda k: (k - 1, 3),
        lambda k: _numbered("f_rest", 3 * (k - 1)),
        _same,
        lambda o: o.feature_lr / 20,
    ),
    Parameter("opacities", lambda k: (1,), lambda k: ["opacity"], torch.sigmoid, lambda o: o.opacity_lr),
    Parameter("scales", lambda k: (3,), lambda k: _numbered("scale", 3), torch.exp, lambda o: o.scaling_lr),
    Parameter(
        "quats",
        lambda k: (4,),
        lambda k: _numbered("rot", 4),
        torch.nn.functional.normalize,
        lambda o: o.rotation_lr,
    ),
)
STATISTICS = (
    Statistic("gradient_sum", torch.float32),  # of the norms of the screen gradients, NDC units
    Statistic("gradient_views", torch.int32),  # in which the Gaussian was drawn
    Statistic("max_radius", torch.int32),  # pixels
    Statistic("error", torch.float32),  # E_k, reduced over views
    Statistic("error_spread", torch.float32),  # sum of its squared deviations from the mean over views
    Statistic("error_views", torch.int32),  # in which it had a share of the error
    Statistic("contribution_so_far", torch.float32, "round"),  # removal energy or sensitivity over the round
    Statistic("contribution", torch.float32, "round"),  # the same of the last complete round
)
TAGS = (
    Tag("birth"),  # iteration; 0 for the scene's points
    Tag("generation"),  # 0 for the scene's points, a child's is its parent's + 1
    Tag("low_streak"),  # pruning rounds in a row in which its score was low
)
NORMALS = ["nx", "ny", "nz"]  # in 3DGS's files, always 0, after the positions


class ImportanceMLP(nn.Module):
    """The network logit(s_k) = MLP(x_k) with one hidden layer.

    X_k: features of the Gaussian, and its latent.
    """

    def __init__(
        self,
        kind: str,  # a key of INPUTS
        start: float,  # s_k of every Gaussian before training
        center: Tensor,  # (3,) world; features are relative to it
        extent: float,  # world units
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.extent = extent
        self.register_buffer("center", center.detach().clone())
        self.sizes = {name: INPUT_SIZES[name] for name in INPUTS[kind]}
        self.bias = nn.Parameter(torch.tensor([math.log(start / (1 - start))]))
        if inputs := sum(self.sizes.values()):
            bound = 1 / math.sqrt(inputs)
            hidden = torch.empty(UNITS, inputs).uniform_(-bound, bound, generator=generator)
            self.hidden = nn.Parameter(hidden)
            # Above 0: latents alone start at 0, and units that are all 0 would never learn.
            self.hidden_bias = nn.Parameter(torch.empty(UNITS).uniform_(0, bound, generator=generator))
            self.out = nn.Parameter(torch.zeros(1, UNITS))  # s is the same for all until this has moved
        self.to(center.device)

    def forward(self, raw: dict[str, Tensor]) -> Tensor:
        """Return s (N, 1) of Gaussians given by raw parameters.

        Differentiable in the network and the latents.
        """
        if not self.sizes:
            return self.bias.sigmoid().expand(len(raw["means"]), 1)
        network = ImportanceNetwork(self._weights(), self.out[0], self.bias, self.center, self.extent)
        constant = (raw[name].detach() for name in ("means", "scales", "sh_dc", "sh_rest"))
        return evaluate_importance(network, *constant, raw.get("latents"))

    def _weights(self) -> Tensor:
        """Return the hidden layer's weights of all inputs, 0 for those that it does not see, and its bias."""
        seen = dict(zip(self.sizes, self.hidden.split(list(self.sizes.values()), 1)))
        absent = {name: self.hidden.new_zeros(UNITS, size) for name, size in INPUT_SIZES.items()}
        return torch.cat([*(absent | seen).values(), self.hidden_bias[:, None]], 1)


def gate(probability: Tensor, kind: str, key: int) -> Tensor:
    """Return what the rasterizer gets of s (N, 1) in training: s (soft), or 0 and 1 with the gradient of s.

    sampled: 1 with probability s (as MaskGaussian, Liu et al. 2024), by the random numbers of `key`;
    rounded: 1 where s reaches a half.
    """
    if kind == "sampled":
        thresholds = uniform(key, len(probability), probability.device)[:, None]
        hard = (probability.detach() > thresholds).to(probability)
    else:
        hard = deterministic_gate(probability.detach(), kind)
    return hard + (probability - probability.detach())


def deterministic_gate(probability: Tensor, kind: str, threshold: float = OPEN_FROM) -> Tensor:
    """Return the gates (N, 1) for files and measures, without chance: s (soft), or 1 from `threshold` on."""
    return probability if kind == "soft" else (probability >= threshold).to(probability)


class GaussianModel:
    """N Gaussians: `raw` holds the unconstrained tensors by name, the properties their activated values."""

    def __init__(self, raw: dict[str, Tensor]) -> None:
        """Take one tensor (N, ...) per entry of PARAMETERS; K follows from `sh_rest`."""
        self.raw = {name: values.detach() for name, values in raw.items()}
        self.shift = NO_SHIFT  # (3,) float64, where the origin of the means is in the scene's files
        self.sh_degree = degree_of(1 + self.raw["sh_rest"].shape[1])  # of the files it is saved in
        self.active_sh_degree = self.sh_degree  # in renders
        self.optimizer: torch.optim.Optimizer | None = None
        self.statistics: dict[str, Tensor] = {}
        self.tags = {tag.name: self.means.new_zeros(len(self), dtype=torch.int32) for tag in TAGS}
        self.network: ImportanceMLP | None = None
        self.network_optimizer: torch.optim.Optimizer | None = None
        self._held: Tensor | None = None  # see `hold_importance`
        self.reset_statistics("densification")
        self.reset_statistics("round")

    @classmethod
    def from_points(
        cls,
        xyz: np.ndarray,  # (P, 3) world
        rgb: np.ndarray,  # (P, 3) uint8
        sh_degree: int,
        opacity: float,
        device: torch.device,
        unit: float = 1.0,  # world units, as Scene.unit
        shift: np.ndarray = NO_SHIFT,  # (3,) as Scene.shift
        own: slice = slice(None),
    ) -> GaussianModel:
        """Return one isotropic Gaussian per point, sized by its 3 nearest neighbors (Kerbl et al. 2023).

        `own`: those to return; they are as large as among all. Raise ValueError without points.
        """
        if len(xyz) == 0:
            raise ValueError("the scene has no points to start from")
        means = torch.as_tensor(np.asarray(xyz, np.float32), device=device)
        log_scales = _initial_scales(means, unit)[own].log()
        means = means[own].clone()  # without the others
        colors = torch.as_tensor(np.asarray(rgb[own]), device=device).float() / 255
        count = len(means)
        sh_rest = torch.zeros(count, base_count(sh_degree) - 1, 3, device=device)
        raw = {
            "means": means,
            "sh_dc": rgb_to_sh(colors)[:, None, :],
            "sh_rest": sh_rest,
            "opacities": torch.full((count, 1), opacity, device=device).logit(),
            "scales": log_scales[:, None].repeat(1, 3),
            "quats": torch.tensor([1.0, 0, 0, 0], device=device).repeat(count, 1),
        }
        model = cls(raw)
        model.shift = shift
        return model

    def __len__(self) -> int:
        return len(self.raw["means"])

    @property
    def device(self) -> torch.device:
        return self.raw["means"].device

    @property
    def means(self) -> Tensor:  # (N, 3) world
        return self.raw["means"]

    @property
    def sh_dc(self) -> Tensor:  # (N, 1, 3)
        return self.raw["sh_dc"]

    @property
    def sh_rest(self) -> Tensor:  # (N, K - 1, 3)
        return self.raw["sh_rest"]

    @property
    def opacities(self) -> Tensor:  # (N, 1) in (0, 1)
        return self.activated("opacities")

    @property
    def scales(self) -> Tensor:  # (N, 3) world units
        return self.activated("scales")

    @property
    def quats(self) -> Tensor:  # (N, 4) w x y z, unit
        return self.activated("quats")

    def activated(self, name: str) -> Tensor:
        return _ROW[name].activation(self.raw[name])

    def compute_importance(self) -> Tensor | None:
        """Return s (N, 1) in (0, 1) by the network, None where there is none: 1 for all."""
        if self.network is None:
            return None
        return self.network(self.raw)

    def hold_importance(self) -> Tensor | None:
        """Return s (N, 1) to train with: a leaf that gathers gradients until `learn_importance`.

        It is the same tensor until then, unless Gaussians were added or dropped. None without a network.
        """
        if self.network is not None and self._held is None:
            with torch.no_grad():
                self._held = self.compute_importance()
            self._held.requires_grad_()
        return self._held

    def learn_importance(self, ranks: Ranks = ALONE) -> None:
        """Pass the gradients that the held s has gathered on to latents and network, and step the network.

        The network is the same on all ranks: it learns from the gradients of all.
        """
        gathered, self._held = self._held, None
        if gathered is None or gathered.grad is None:
            return
        if "latents" in self.raw:
            self.raw["latents"].grad = None
        with torch.enable_grad():
            self.network(self.raw).backward(gathered.grad)
        for values in self.network.parameters():
            if values.grad is not None:
                values.grad = ranks.sum(values.grad)
        self.network_optimizer.step()
        self.network_optimizer.zero_grad(set_to_none=True)

    # Training

    def start_training(self, settings: OptimizationSettings) -> None:
        """Give every parameter gradients and an Adam group, without state."""
        for name in self.raw:
            self.raw[name] = torch.nn.Parameter(self.raw[name].contiguous())
        views, rate = settings.views_per_step, rate_of_batch(settings)
        groups = [
            {"params": [self.raw[row.name]], "lr": rate * row.learning_rate(settings), "name": row.name}
            for row in PARAMETERS
        ]
        kind = SparseGaussianAdam if settings.optimizer_type == "sparse_adam" else GaussianAdam
        betas = tuple(beta**views for beta in ADAM_BETAS)
        self.optimizer = kind(groups, lr=0.0, eps=ADAM_EPSILON, betas=betas)

    def start_importance(
        self,
        settings: ImportanceSettings,
        center: Tensor,  # (3,) world, of the Gaussians of all ranks
        extent: float,
        generator: torch.Generator,
    ) -> None:
        """Give every Gaussian a latent, and the model the network that computes importance."""
        self.network = ImportanceMLP(
            *(settings.importance, settings.importance_start, center, extent, generator)
        )
        rate = settings.importance_lr
        self.network_optimizer = torch.optim.Adam(self.network.parameters(), lr=rate, fused=True)
        if "latents" in INPUTS[settings.importance]:
            latents = self.means.new_zeros(len(self), LATENTS)
            self.raw["latents"] = torch.nn.Parameter(latents)
            self.optimizer.add_param_group(
                {"params": [self.raw["latents"]], "lr": settings.latent_lr, "name": "latents"}
            )

    @torch.no_grad()
    def bake_importance(self, gate: str, threshold: float) -> None:
        """Drop the Gaussians that `gate` closes below `threshold`, and the network and latents with them."""
        opacities, seen = self._gated_opacities(gate, threshold)
        self.network = self.network_optimizer = self._held = None
        if "latents" in self.raw:
            self.optimizer.state.pop(self.raw.pop("latents"), None)
            groups = self.optimizer.param_groups
            groups[:] = [group for group in groups if group["name"] != "latents"]
        self.overwrite("opacities", opacities, "keep")
        self.keep(seen)

    def _gated_opacities(self, gate: str, threshold: float = OPEN_FROM) -> tuple[Tensor, Tensor]:
        """Return raw opacities (N, 1) of opacity times gate, and the mask (N,) of those still visible."""
        shares = deterministic_gate(self.compute_importance(), gate, threshold)
        opacities = self.opacities * shares
        raw = torch.where(shares == 1, self.raw["opacities"], opacities.logit())
        return raw, opacities[:, 0] >= SMALLEST_ALPHA

    def set_learning_rate(self, name: str, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if group["name"] == name:
                group["lr"] = rate

    def stepping(self) -> StepInBackward:
        """Return what a render takes so that its backward pass steps what it shows."""
        raw = self.raw
        shown = {"means3D": raw["means"], "scales": raw["scales"], "rotations": raw["quats"]}
        shown |= {"dc": raw["sh_dc"], "shs": raw["sh_rest"], "opacities": raw["opacities"]}
        return StepInBackward(self.optimizer, shown)

    def step(self, visible: Tensor) -> None:  # (N,) bool
        """Take one Adam step and drop the gradients. Sparse Adam steps visible Gaussians only.

        Nothing changes if rows were added or dropped since the backward pass, or if that has taken the step:
        there are no gradients.
        """
        if all(values.grad is None for values in self.raw.values()):
            return
        if isinstance(self.optimizer, SparseGaussianAdam):
            self.optimizer.step(visible, len(self))
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def unsound(self) -> list[str]:
        """Return what has become NaN or infinite, such as `scales of 3 of 5,000 Gaussians`."""
        flags = self.optimizer.unsound.tolist()
        names = [group["name"] for group, flag in zip(self.optimizer.param_groups, flags) if flag]
        found = [f"{name} of {self._count_unsound(name):,} of {len(self):,} Gaussians" for name in names]
        if len(self) and float(self.raw["scales"].detach().max()) > LARGEST_LOG_SCALE:
            found.append(f"scales of some of {len(self):,} Gaussians, too large for a number,")
        network = [] if self.network is None else self.network.parameters()
        if not all(bool(values.isfinite().all()) for values in network):
            found.append("weights of the importance network")
        return found

    def _count_unsound(self, name: str) -> int:
        return int((~self.raw[name].detach().isfinite().flatten(1).all(1)).sum())

    def reset_statistics(self, since: str) -> None:
        """Set the statistics that are collected `since` then to zero."""
        for row in STATISTICS:
            if row.since == since:
                self.statistics[row.name] = self.means.new_zeros(len(self), dtype=row.dtype)

    def raise_sh_degree(self, degree: int) -> None:
        """Render with SH up to `degree`. Coefficients that the Gaussians lack are added, as zeros.

        Training begins with those of degree 0: what is not in use yet takes neither time nor memory.
        """
        lacking = base_count(degree) - 1 - self.sh_rest.shape[1]
        if lacking > 0:
            self._replace(
                "sh_rest",
                _with_zero_bases(self.sh_rest.detach(), lacking),
                lambda m: _with_zero_bases(m, lacking),
            )
        self.active_sh_degree = degree

    # Row surgery: parameters, their Adam moments, statistics and tags always move together

    def rows(self, mask: Tensor) -> dict[str, Tensor]:  # (N,) bool
        """Return copies of the raw parameters and tags of the Gaussians in `mask`."""
        return _chosen_rows(self.raw | self.tags, mask)

    def append(self, rows: dict[str, Tensor]) -> None:
        """Add Gaussians given by raw parameters and tags (M, ...), with zero Adam moments and statistics."""
        count, self._held = len(rows["means"]), None
        for name in self.raw:
            self._replace(
                name, torch.cat([self.raw[name].detach(), rows[name]]), lambda m: _with_zeros(m, count)
            )
            give_back_freed_memory()
        self.statistics = {name: _with_zeros(values, count) for name, values in self.statistics.items()}
        self.tags = {name: torch.cat([values, rows[name]]) for name, values in self.tags.items()}

    def keep(self, mask: Tensor) -> None:  # (N,) bool
        """Drop the Gaussians that are not in `mask`."""
        self._take(_indices_of(mask))

    def sort_by_place(self) -> None:
        """Put Gaussians that are neighbors in space side by side.

        What a kernel handles together is then seen together, or not at all, and lies together in memory.
        """
        self._take(morton_order(self.means.detach()))

    def move_rows(self, ranks: Ranks, moves: list[int]) -> None:
        """Give the first rows to the first rank, and so on, as many as `moves` says; take those of others."""
        self._change_rows(lambda values: ranks.exchange(values.split(moves))[0])

    def _take(self, rows: Tensor) -> None:  # (M,) int64
        self._change_rows(lambda values: values.index_select(0, rows))

    def _change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self._held = None
        for name in self.raw:
            self._replace(name, change(self.raw[name].detach()), change)
            give_back_freed_memory()
        self.statistics = {name: change(values) for name, values in self.statistics.items()}
        self.tags = {name: change(values) for name, values in self.tags.items()}

    def overwrite(self, name: str, values: Tensor, moments: str = "forget") -> None:
        """Set one raw parameter of all Gaussians; `moments`: "forget" or "keep" those of Adam."""
        change = torch.zeros_like if moments == "forget" else _same
        self._replace(name, values.detach(), change)

    def _replace(self, name: str, values: Tensor, change_moment: Callable[[Tensor], Tensor]) -> None:
        old = self.raw[name]
        old.grad = None  # the graph of the last view may keep the old rows alive a while
        self.raw[name] = torch.nn.Parameter(values) if isinstance(old, torch.nn.Parameter) else values
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            if group["name"] == name:
                group["params"] = [self.raw[name]]
        state = self.optimizer.state.pop(old, None)
        if state:
            for moment in ADAM_MOMENTS:
                state[moment] = change_moment(state[moment])
            self.optimizer.state[self.raw[name]] = state

    # Files

    @torch.no_grad()
    def baked(self, gate: str) -> GaussianModel:
        """Return the model as a file holds it: opacities times gates, without network.

        Gaussians whose opacity is then below the rasterizer's smallest alpha are left out: nobody can see
        them. Without importance the tensors are the same, in the same memory but without gradients.
        """
        raw = {row.name: self.raw[row.name].detach() for row in PARAMETERS}
        if self.network is not None:
            raw["opacities"], seen = self._gated_opacities(gate)
            raw = _chosen_rows(raw, seen)
        model = GaussianModel(raw)
        model.sh_degree, model.shift = self.sh_degree, self.shift
        return model

    def relative_to(self, origin: np.ndarray) -> GaussianModel:
        """Return the model in coordinates whose origin is at `origin` (3,) in the scene's files."""
        if np.array_equal(self.shift, origin):
            return self
        moved = self.means.double() + torch.as_tensor(self.shift - origin, device=self.device)
        model = GaussianModel(self.raw | {"means": moved.float()})
        model.active_sh_degree, model.shift = self.active_sh_degree, origin
        return model

    def save_ply(self, path: str | os.PathLike, ranks: Ranks = ALONE) -> None:
        """Write the standard 3DGS PLY: little-endian float32, raw values, SH channel after channel.

        The first of several ranks writes the Gaussians of all.
        """
        columns: dict[str, Tensor] = {}
        unused = base_count(self.sh_degree) - 1 - self.sh_rest.shape[1]
        raw = self.raw | {"sh_rest": _with_zero_bases(self.sh_rest, unused)}
        for row in PARAMETERS:
            names = row.columns(base_count(self.sh_degree))
            columns |= zip(names, channels_first(raw[row.name].detach()), strict=True)
        write_gaussians(path, _ply_columns(self.sh_degree), columns, self.shift, ranks)

    @classmethod
    def load_ply(
        cls, path: str | os.PathLike, device: torch.device, say: Callable[[str], object] = print
    ) -> GaussianModel:
        """Read a 3DGS PLY of SH degree 0 to 3. ValueError if it is none, FileNotFoundError if missing.

        Gaussians that are not finite are left out or clamped (`make_sound`), and `say` is told so. ValueError
        if none is left.
        """
        vertices, shift = read_gaussians(path)
        present = vertices.dtype.names
        rest = sum(name.startswith("f_rest_") for name in present)
        bases = 1 + rest // 3
        try:
            needed = [name for name in _ply_columns(degree_of(bases)) if name not in NORMALS]
        except ValueError as problem:
            raise ValueError(f"{path}: {problem}") from problem
        if rest % 3:
            raise ValueError(f"{path}: it has {rest} columns f_rest_*, expected 0, 9, 24 or 45")
        if missing := [name for name in needed if name not in present]:
            kind = kind_of_vertices(present) or f"it has no {', '.join(missing)}"
            raise ValueError(f"{path}: not a PLY file of Gaussians, {kind}")
        raw = {}
        try:
            for row in PARAMETERS:
                values = float_columns(vertices, row.columns(bases))
                raw[row.name] = channels_last(values, row.shape(bases)).to(device)
            raw, notes = make_sound(raw)
        except ValueError as problem:
            raise ValueError(f"{path}: {problem}") from problem
        for note in notes:
            say(f"{path}: {note}")
        model = cls(raw)
        model.shift = shift
        return model

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all that training depends on: parameters, Adam state, statistics, tags, the network."""
        tensors = {f"raw.{name}": values.detach() for name, values in self.raw.items()}
        tensors |= {f"statistics.{name}": values for name, values in self.statistics.items()}
        tensors |= {f"tags.{name}": values for name, values in self.tags.items()}
        for name, values in self.raw.items():
            for key, value in self.optimizer.state.get(values, {}).items():
                tensors[f"adam.{name}.{key}"] = torch.as_tensor(value)
        if self.network is not None:
            tensors |= {f"network.{name}": values for name, values in self.network.state_dict().items()}
            for name, values in self.network.named_parameters():
                for key, value in self.network_optimizer.state.get(values, {}).items():
                    tensors[f"network_adam.{name}.{key}"] = torch.as_tensor(value)
        if self._held is not None:
            tensors["held.importance"] = self._held.detach()
            if self._held.grad is not None:
                tensors["held.gradient"] = self._held.grad
        return tensors

    @classmethod
    def from_state(
        cls,
        tensors: dict[str, Tensor],
        settings: OptimizationSettings,
        importance: ImportanceSettings,
        extent: float,
        device: torch.device,
    ) -> GaussianModel:
        """Return the model of `state_tensors`, ready to train on. ValueError names a missing tensor."""
        tables = {"raw": PARAMETERS, "statistics": STATISTICS, "tags": TAGS}
        needed = [f"{kind}.{row.name}" for kind, rows in tables.items() for row in rows]
        has_network = "network.bias" in tensors
        if has_network and "latents" in INPUTS[importance.importance]:
            needed.append("raw.latents")
        missing = [name for name in needed if name not in tensors]
        if missing:
            raise ValueError(f"the checkpoint has no {', '.join(missing)}")
        for name in needed:
            if len(tensors[name]) != len(tensors[needed[0]]) or not torch.isfinite(tensors[name]).all():
                raise ValueError(f"the checkpoint's {name} does not fit its Gaussians or is not finite")
        model = cls({row.name: tensors[f"raw.{row.name}"].to(device) for row in PARAMETERS})
        model.start_training(settings)
        model.statistics = {row.name: tensors[f"statistics.{row.name}"].to(device) for row in STATISTICS}
        model.tags = {tag.name: tensors[f"tags.{tag.name}"].to(device) for tag in TAGS}
        if has_network:
            model._restore_importance(tensors, importance, extent)
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, name, entry = key.split(".")
                where = "cpu" if entry == "step" else device
                model.optimizer.state[model.raw[name]][entry] = value.to(where)
        return model

    def _restore_importance(
        self, tensors: dict[str, Tensor], settings: ImportanceSettings, extent: float
    ) -> None:
        self.start_importance(settings, self.means.new_zeros(3), extent, torch.Generator())
        try:
            own = {key: values for key, values in tensors.items() if key.startswith("network.")}
            self.network.load_state_dict(
                {key.removeprefix("network."): values for key, values in own.items()}
            )
        except RuntimeError as problem:
            raise ValueError(f"the checkpoint's importance network does not fit: {problem}") from problem
        if "latents" in self.raw:
            with torch.no_grad():
                self.raw["latents"].copy_(tensors["raw.latents"])
        parameters = dict(self.network.named_parameters())
        for key, value in tensors.items():
            if key.startswith("network_adam."):
                _, name, entry = key.split(".")
                self.network_optimizer.state[parameters[name]][entry] = value.to(self.device)
        if "held.importance" in tensors:
            self._held = tensors["held.importance"].to(self.device).requires_grad_()
        if "held.gradient" in tensors:
            self._held.grad = tensors["held.gradient"].to(self.device)


_ROW = {row.name: row for row in PARAMETERS}


def rate_of_batch(settings: OptimizationSettings) -> float:
    """Return the factor of learning rates for steps of several views: the square root of their number.

    The mean gradient of n views has 1 / sqrt(n) of the noise, and there are n times fewer steps (Zhao et al.
    2024, On Scaling Up 3D Gaussian Splatting Training).
    """
    return math.sqrt(settings.views_per_step)


def ply_size(count: int, sh_degree: int) -> int:
    """Return the bytes of a PLY file of `count` Gaussians."""
    return file_size(_ply_columns(sh_degree), count)


def gaussians_in_ply(size: float, sh_degree: int) -> int:
    """Return how many Gaussians a PLY file of at most `size` bytes holds."""
    each = ply_size(1, sh_degree) - ply_size(0, sh_degree)
    # With more digits than the number needs, and in case that the scene will be shifted.
    header = ply_size(0, sh_degree) + len(str(int(size))) + SHIFT_ROOM
    return max(0, int(size - header) // each)


def _initial_scales(means: Tensor, unit: float) -> Tensor:  # (P, 3) -> (P,)
    return distCUDA2(means).clamp_min(SMALLEST_SQUARED_DISTANCE * unit**2).sqrt()


def _indices_of(mask: Tensor) -> Tensor:  # (N,) bool -> (M,) int64
    """Return the rows that `mask` chooses. A GPU is waited for here, once for all tensors that follow."""
    return mask.nonzero()[:, 0]


def _chosen_rows(tensors: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Return copies of the rows of tensors (N, ...) that `mask` (N,) bool chooses, without gradients."""
    chosen = _indices_of(mask)
    return {name: values.detach().index_select(0, chosen) for name, values in tensors.items()}


def _with_zeros(values: Tensor, count: int) -> Tensor:
    return torch.cat([values, values.new_zeros(count, *values.shape[1:])])


def _with_zero_bases(values: Tensor, count: int) -> Tensor:  # (N, K - 1, 3) -> (N, K - 1 + count, 3)
    return torch.cat([values, values.new_zeros(len(values), count, 3)], 1)


def _ply_columns(sh_degree: int) -> list[str]:
    columns = [name for row in PARAMETERS for name in row.columns(base_count(sh_degree))]
    return columns[:3] + NORMALS + columns[3:]
