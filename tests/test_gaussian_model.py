import numpy as np
import pytest
import torch
from arguments import ImportanceSettings, OptimizationSettings
from gaussian_model import PARAMETERS, GaussianModel
from plyfile import PlyData
from utils.morton import morton_order
from utils.sh import C0

CPU = torch.device("cpu")
STANDARD_COLUMNS = (
    ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    + [f"f_rest_{i}" for i in range(45)]
    + ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
)


def random_model(count=7, sh_degree=3, seed=0):
    random = np.random.default_rng(seed)
    points, colors = random.normal(size=(count, 3)), random.integers(0, 256, (count, 3), dtype=np.uint8)
    model = GaussianModel.from_points(points, colors, sh_degree, 0.1, CPU)
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.raw.items():
        model.raw[name] = values + 0.1 * torch.randn(values.shape, generator=generator)
    return model


def training_model(optimizer_type="default", steps=3, **options):
    model = random_model(**options)
    model.start_training(OptimizationSettings(optimizer_type=optimizer_type))
    for step in range(steps):
        optimize_once(model, step)
    return model


def optimize_once(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sum(
        (model.raw[n] * torch.randn(model.raw[n].shape, generator=generator)).sum() for n in model.raw
    ).backward()
    model.step(torch.ones(len(model), dtype=torch.bool))


def moments(model, name):
    state = model.optimizer.state[model.raw[name]]
    return state["exp_avg"], state["exp_avg_sq"]


def test_points_become_round_gaussians_as_large_as_their_neighbours_are_far():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 2.0]])
    model = GaussianModel.from_points(points, np.full((4, 3), 255, np.uint8), 3, 0.1, CPU)
    assert torch.allclose(model.scales[0], torch.full((3,), ((1 + 4 + 4) / 3) ** 0.5))
    assert torch.equal(model.quats, torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1))
    assert torch.allclose(model.opacities, torch.full((4, 1), 0.1))
    assert torch.allclose(model.sh_dc * C0 + 0.5, torch.ones(4, 1, 3))
    assert model.sh_rest.shape == (4, 15, 3) and not model.sh_rest.any()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_and_coinciding_points_get_finite_scales(count):
    for points in (np.zeros((count, 3)), np.arange(3 * count).reshape(count, 3)):
        model = GaussianModel.from_points(points, np.zeros((count, 3), np.uint8), 3, 0.1, CPU)
        assert torch.isfinite(model.raw["scales"]).all() and (model.scales > 0).all()


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="no points"):
        GaussianModel.from_points(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), 3, 0.1, CPU)


def test_ply_has_the_standard_columns_as_little_endian_floats(tmp_path):
    model = random_model()
    model.save_ply(tmp_path / "a.ply")
    file = PlyData.read(tmp_path / "a.ply")
    assert file.byte_order == "<" and not file.text and [e.name for e in file.elements] == ["vertex"]
    assert [p.name for p in file["vertex"].properties] == STANDARD_COLUMNS
    assert {p.val_dtype for p in file["vertex"].properties} == {"f4"}
    assert np.array_equal(file["vertex"]["scale_1"], model.raw["scales"][:, 1])
    assert np.array_equal(file["vertex"]["opacity"], model.raw["opacities"][:, 0])
    assert np.array_equal(file["vertex"]["rot_0"], model.raw["quats"][:, 0])
    assert not np.any(file["vertex"]["ny"])
    # channel-major: all 15 of red, then green, then blue
    assert np.array_equal(file["vertex"]["f_rest_2"], model.raw["sh_rest"][:, 2, 0])
    assert np.array_equal(file["vertex"]["f_rest_17"], model.raw["sh_rest"][:, 2, 1])
    assert np.array_equal(file["vertex"]["f_dc_2"], model.raw["sh_dc"][:, 0, 2])


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_ply_round_trip_is_exact(tmp_path, sh_degree):
    model = random_model(sh_degree=sh_degree)
    model.save_ply(tmp_path / "a.ply")
    again = GaussianModel.load_ply(tmp_path / "a.ply", CPU)
    assert again.sh_degree == again.active_sh_degree == sh_degree
    assert all(torch.equal(model.raw[row.name], again.raw[row.name]) for row in PARAMETERS)


def test_ply_of_nothing_round_trips(tmp_path):
    model = random_model()
    model.keep(torch.zeros(7, dtype=torch.bool))
    model.save_ply(tmp_path / "a.ply")
    assert len(GaussianModel.load_ply(tmp_path / "a.ply", CPU)) == 0


def test_an_export_without_importance_takes_no_memory_and_no_gradients():
    model = random_model(count=4)
    model.start_training(OptimizationSettings())
    baked = model.baked("sampled")
    assert not baked.means.requires_grad
    assert all(baked.raw[name].data_ptr() == values.data_ptr() for name, values in model.raw.items())


def test_ply_without_a_column_is_refused_by_name(tmp_path):
    model = random_model()
    model.save_ply(tmp_path / "a.ply")
    content = (tmp_path / "a.ply").read_bytes()
    for old, new, complaint in (
        (b"scale_1", b"sc_le_1", "has no scale_1"),
        (b"f_rest_9\n", b"f_tser_9\n", "expected 1, 4, 9 or 16"),
    ):
        (tmp_path / "b.ply").write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match=complaint):
            GaussianModel.load_ply(tmp_path / "b.ply", CPU)
    for broken in (b"", b"\x89PNG\r\n\x1a\n\0\0", content[:-5], content[: len(content) // 2]):
        (tmp_path / "b.ply").write_bytes(broken)
        with pytest.raises(ValueError, match="b.ply: not a PLY file of Gaussians"):
            GaussianModel.load_ply(tmp_path / "b.ply", CPU)
    with pytest.raises(FileNotFoundError):
        GaussianModel.load_ply(tmp_path / "c.ply", CPU)


def test_learning_rates_are_those_of_3dgs():
    rates = {group["name"]: group["lr"] for group in training_model(steps=0).optimizer.param_groups}
    expected = {
        "means": 0.00016,
        "sh_dc": 0.0025,
        "sh_rest": 0.000125,
        "opacities": 0.025,
        "scales": 0.005,
        "quats": 0.001,
    }
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("optimizer_type", ["default", "sparse_adam"])
@pytest.mark.parametrize("sh_degree", [0, 3])
def test_keep_moves_parameters_moments_and_statistics_together(optimizer_type, sh_degree):
    model = training_model(optimizer_type, sh_degree=sh_degree)
    model.statistics["gradient_sum"] += torch.arange(7)
    before = {name: values.detach().clone() for name, values in model.raw.items()}
    old_moments = {name: [m.clone() for m in moments(model, name)] for name in model.raw}
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)
    model.keep(mask)
    for name in model.raw:
        assert torch.equal(model.raw[name], before[name][mask])
        for moment, old in zip(moments(model, name), old_moments[name]):
            assert torch.equal(moment, old[mask])
    assert model.statistics["gradient_sum"].tolist() == [0, 2, 3, 6]
    optimize_once(model)  # the optimizer holds the new tensors
    assert not torch.equal(model.raw["means"], before["means"][mask])


@pytest.mark.parametrize("optimizer_type", ["default", "sparse_adam"])
def test_appended_rows_start_without_history(optimizer_type):
    model = training_model(optimizer_type)
    model.statistics["gradient_views"] += 5
    old = [m.clone() for m in moments(model, "scales")]
    steps = model.optimizer.state[model.raw["scales"]]["step"]
    chosen = torch.tensor([0, 1, 0, 0, 0, 1, 0], dtype=torch.bool)
    rows = model.rows(chosen)
    model.append(rows)
    assert len(model) == 9
    for name in model.raw:
        assert torch.equal(model.raw[name][7:], rows[name]) and model.raw[name].requires_grad
    for moment, before in zip(moments(model, "scales"), old):
        assert torch.equal(moment[:7], before) and not moment[7:].any()
    assert model.optimizer.state[model.raw["scales"]]["step"] == steps
    assert model.statistics["gradient_views"].tolist() == [5] * 7 + [0, 0]
    optimize_once(model)


def test_the_optimizer_forgets_replaced_tensors():
    model = training_model()
    for _ in range(3):
        model.append(model.rows(torch.ones(len(model), dtype=torch.bool)))
    assert len(model.optimizer.state) == len(PARAMETERS)
    held = {id(p) for group in model.optimizer.param_groups for p in group["params"]}
    assert held == {id(values) for values in model.raw.values()}


def test_overwrite_sets_values_and_clears_only_their_moments():
    model = training_model()
    scales = [m.clone() for m in moments(model, "scales")]
    model.overwrite("opacities", torch.full((7, 1), -3.0))
    assert (model.raw["opacities"] == -3).all()
    assert not any(m.any() for m in moments(model, "opacities"))
    assert all(torch.equal(a, b) for a, b in zip(moments(model, "scales"), scales))


def test_no_step_between_row_surgery_and_the_next_backward_pass():
    model = training_model("sparse_adam")
    model.raw["means"].sum().backward()
    model.keep(torch.arange(7) < 3)
    before = model.raw["means"].detach().clone()
    model.step(torch.ones(7, dtype=torch.bool))
    assert torch.equal(model.raw["means"], before)


def test_sparse_adam_leaves_the_invisible_alone():
    model = training_model("sparse_adam")
    before = model.raw["quats"].detach().clone()
    visible = torch.arange(7) < 4
    model.raw["quats"].sum().backward()
    model.raw["means"].sum().backward()
    model.step(visible)
    assert torch.equal((model.raw["quats"] != before).any(1), visible)


def test_neighbours_come_together_with_all_that_is_theirs():
    model = training_model(count=50)
    model.statistics["max_radius"] += torch.arange(50, dtype=torch.int32)
    before = {name: tensor.clone() for name, tensor in model.state_tensors().items()}
    order = morton_order(before["raw.means"])
    assert order.tolist() != list(range(50))
    model.sort_by_place()
    for name, values in model.state_tensors().items():
        expected = before[name] if name.endswith("step") else before[name][order]
        assert torch.equal(values, expected), name


def test_coefficients_added_when_they_come_into_use_train_as_if_they_had_been_there():
    """They have no gradient before, so that neither they nor their Adam moments are but zero."""
    whole, growing = random_model(), random_model()
    for model in (whole, growing):
        model.raw["sh_rest"].zero_()
    growing.raw["sh_rest"] = growing.raw["sh_rest"][:, :0]
    for model in (whole, growing):
        model.start_training(OptimizationSettings())
    for degree in (0, 1, 1, 3):
        growing.raise_sh_degree(degree)
        used = (degree + 1) ** 2 - 1
        assert growing.sh_rest.shape == (7, used, 3) and growing.active_sh_degree == degree
        weights = torch.randn(7, 15, 3, generator=torch.Generator().manual_seed(degree))
        weights[:, used:] = 0
        for model in (whole, growing):
            (model.sh_rest * weights[:, : model.sh_rest.shape[1]]).sum().backward()
            model.raw["means"].sum().backward()
            model.step(torch.ones(7, dtype=torch.bool))
    for theirs, ours in zip(moments(whole, "sh_rest"), moments(growing, "sh_rest")):
        assert torch.equal(theirs, ours)
    assert torch.equal(whole.sh_rest, growing.sh_rest) and whole.sh_rest.all()


@pytest.mark.parametrize("optimizer_type", ["default", "sparse_adam"])
def test_training_goes_on_from_its_state_as_if_never_stopped(optimizer_type):
    model = training_model(optimizer_type)
    model.statistics["max_radius"] += 3
    state = {name: tensor.clone() for name, tensor in model.state_tensors().items()}
    settings = OptimizationSettings(optimizer_type=optimizer_type)
    again = GaussianModel.from_state(state, settings, ImportanceSettings(), 1.0, CPU)
    for either in (model, again):
        optimize_once(either, 11)
    for name in model.raw:
        assert torch.equal(model.raw[name], again.raw[name])
    assert torch.equal(model.statistics["max_radius"], again.statistics["max_radius"])


def test_an_incomplete_state_is_refused():
    state = training_model().state_tensors()
    del state["raw.quats"]
    with pytest.raises(ValueError, match="no raw.quats"):
        GaussianModel.from_state(state, OptimizationSettings(), ImportanceSettings(), 1.0, CPU)
