import dataclasses
import math

import pytest
from arguments import VARIANTS, Settings, given_flags, make_settings, render_parser, train_parser
from arguments import variant_values
from arguments.resolve import ADDED

# The public command line of 3DGS: what its users' scripts rely on.
DEFAULTS_OF_3DGS = {
    "sh_degree": 3, "images": "images", "depths": "", "resolution": -1, "white_background": False,
    "train_test_exp": False, "eval": False, "convert_SHs_python": False, "compute_cov3D_python": False,
    "debug": False,
    "antialiasing": False, "iterations": 30_000, "position_lr_init": 0.00016, "position_lr_final": 0.0000016,
    "position_lr_delay_mult": 0.01, "position_lr_max_steps": 30_000, "feature_lr": 0.0025,
    "opacity_lr": 0.025,
    "scaling_lr": 0.005, "rotation_lr": 0.001, "exposure_lr_init": 0.01, "exposure_lr_final": 0.001,
    "exposure_lr_delay_steps": 0, "exposure_lr_delay_mult": 0.0, "percent_dense": 0.01, "lambda_dssim": 0.2,
    "densification_interval": 100, "opacity_reset_interval": 3000, "densify_from_iter": 500,
    "densify_until_iter": 15_000, "densify_grad_threshold": 0.0002, "depth_l1_weight_init": 1.0,
    "depth_l1_weight_final": 0.01, "random_background": False, "optimizer_type": "default",
    "test_iterations": (7_000, 30_000), "save_iterations": (7_000, 30_000), "checkpoint_iterations": (),
    "quiet": False, "debug_from": -1, "detect_anomaly": False, "ip": "127.0.0.1", "port": 6009,
}  # fmt: skip
GROUPS = [item.default_factory for item in dataclasses.fields(Settings)]


def settings_of(*arguments, recorded=None):
    return make_settings(given_flags(train_parser(), arguments), recorded)


def test_defaults_are_those_of_3dgs():
    flat = settings_of("--variant", "3dgs").flat()
    assert {name: flat[name] for name in DEFAULTS_OF_3DGS} == DEFAULTS_OF_3DGS


def test_names_are_unique_across_groups_and_every_flag_is_explained():
    names = [item.name for group in GROUPS for item in dataclasses.fields(group)]
    assert len(names) == len(set(names))
    assert all(item.metadata["sentence"] for group in GROUPS for item in dataclasses.fields(group))


def test_every_number_has_a_bound():
    for group in GROUPS:
        for item in dataclasses.fields(group):
            is_number = type(item.default) in (int, float, tuple)  # True and False are no numbers
            assert not is_number or item.metadata["bound"] is not None, item.name


def test_all_defaults_respect_their_bounds():
    make_settings({})


def test_short_flags_and_lists():
    settings = settings_of("-s", "a", "-m", "b", "-i", "images_4", "-r", "2", "-w", "--test_iterations", "-1")
    model = settings.model
    assert (model.source_path, model.model_path, model.images, model.resolution) == ("a", "b", "images_4", 2)
    assert model.white_background and settings.run.test_iterations == (-1,)
    assert settings_of("--save_iterations", "1", "20").run.save_iterations == (1, 20)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--iteration", "3"], "--iteration"),  # an abbreviation of --iterations
        (["--white"], "--white"),
        (["--iterations", "many"], "invalid int value: 'many'"),
        (["--iterations", "0"], "--iterations: expected at least 1, got 0"),
        (["-r", "0"], "--resolution: expected -1 or at least 1, got 0"),
        (["--sh_degree", "4"], "--sh_degree: expected 0 to 3, got 4"),
        (["--lambda_dssim", "1.5"], "--lambda_dssim: expected 0 to 1, got 1.5"),
        (["--feature_lr", "nan"], "--feature_lr: expected a finite number, got nan"),
        (["--initial_opacity", "1"], "--initial_opacity: expected above 0 and below 1, got 1.0"),
        (["--optimizer_type", "sgd"], "--optimizer_type: expected one of default, sparse_adam, got 'sgd'"),
        (["--variant", "best"], "--variant: expected one of 3dgs, no_tag, tag, tag_25k, tag_gradprune, "),
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
        (["--exposure_lr_init", "-1"], "--exposure_lr_init: expected at least 0, got -1.0"),
        (["--depth_l1_weight_final", "-1"], "--depth_l1_weight_final: expected at least 0, got -1.0"),
        (["--error_deviations", "-11"], "--error_deviations: expected -10 to 100, got -11.0"),
    ],
)
def test_bad_flags_are_refused_with_a_sentence(arguments, complaint):
    with pytest.raises(ValueError) as refusal:
        settings_of(*arguments)
    assert complaint in str(refusal.value)


def test_given_wins_over_recorded_wins_over_default():
    recorded = {
        "antialiasing": True,
        "resolution": 4,
        "test_iterations": [5],
        "quiet": True,
        "no_such_setting": 1,
    }
    settings = settings_of("-r", "2", recorded=recorded)
    assert settings.model.resolution == 2
    assert settings.pipeline.antialiasing
    assert settings.run.test_iterations == (5,)
    assert not settings.run.quiet  # asked of the earlier command only


def test_recorded_values_are_checked_too():
    for value in ("2", math.inf, [1], True):
        with pytest.raises(ValueError, match="--resolution: expected a whole number"):
            settings_of(recorded={"resolution": value})


def test_a_recorded_run_gives_the_same_settings_again():
    first = settings_of("-s", "a", "--iterations", "7", "--checkpoint_iterations", "3", "4")
    again = settings_of(recorded=first.flat())
    assert again.flat() == first.flat()


def test_what_an_earlier_version_did_not_record_stays_as_it_was_there():
    flat = settings_of("--variant", "tag_gradprune_decomp").flat()
    record = {name: value for name, value in flat.items() if name not in ADDED}
    again = settings_of(recorded=record).flat()
    assert {name: again[name] for name in ADDED} == {
        "resolution_schedule": 0,
        "importance_interval": 1,
        "energy_contrast": 0,
        "thin_energy": 0,
        "variant": "3dgs",
        "scale_schedule": False,
        "scale_rates": False,
    }
    assert settings_of(recorded=flat).flat() == flat


# --scale_schedule, --scale_rates

SHARES = ("growth_cap", "error_quantile")  # of the Gaussians that grow in one step
SHORT = ("--variant", "tag_gradprune_decomp", "--iterations", "7000", "--scale_schedule")


def test_a_short_run_is_a_small_copy_of_a_full_one():
    flat = settings_of(*SHORT).flat()
    milestones = {  # 7 thirtieths of those of a full run
        "densify_from_iter": 117,
        "densify_until_iter": 3500,
        "prune_until_iter": 5833,
        "importance_from_iter": 2333,
        "importance_until_iter": 3500,
        "resolution_schedule": 3500,
        "position_lr_max_steps": 7000,
        "sh_degree_interval": 233,
    }
    assert {name: flat[name] for name in milestones} == milestones
    rates = {  # as much is to be learnt in fewer steps
        "position_lr_init": 1.6e-4,
        "position_lr_final": 8e-6,
        "feature_lr": 0.0025,
        "opacity_lr": 0.025,
        "scaling_lr": 0.005,
        "rotation_lr": 0.001,
        "importance_lr": 0.002,
        "latent_lr": 0.02,
    }
    for name, rate in rates.items():
        assert flat[name] == pytest.approx(rate * (30 / 7) ** 0.5)
    # 144 densifications, at 600, 700 ... 14,900, have become 33, at 200, 300 ... 3400.
    assert flat["growth_cap"] == pytest.approx(1.03 ** (144 / 33) - 1) == pytest.approx(0.1377, abs=5e-5)
    assert (1 + flat["growth_cap"]) ** 33 == pytest.approx(1.03**144)
    assert flat["error_quantile"] == 1 < 1.2 ** (144 / 33) - 1  # the cap alone limits growth then
    full = settings_of(*SHORT[:2]).flat()  # which is scaled, too, by 1
    changed = {name for name in flat if flat[name] != full[name]}  # no interval or lifespan does
    assert changed == {*milestones, *rates, *SHARES, "iterations"}


def test_what_is_given_by_hand_is_not_scaled():
    given = ("--growth_cap", "0.05", "--densify_from_iter", "500", "--prune_until_iter", "5000")
    flat = settings_of(*SHORT, *given).flat()
    assert (flat["growth_cap"], flat["densify_from_iter"], flat["prune_until_iter"]) == (0.05, 500, 5000)
    assert flat["densify_until_iter"] == 3500
    late = settings_of(*SHORT, "--densify_from_iter", "500").flat()  # 600 to 3400: 29 are left
    assert late["growth_cap"] == pytest.approx(1.03 ** (144 / 29) - 1)


def test_a_full_run_is_its_own_scaled_copy():
    for variant in VARIANTS:
        full = settings_of("--variant", variant, "--no-scale_schedule", "--no-scale_rates").flat()
        scaled = settings_of("--variant", variant, "--scale_schedule", "--scale_rates").flat()
        assert scaled == full | {"scale_schedule": True, "scale_rates": True}


def test_rates_and_milestones_are_scaled_apart():
    full = settings_of("--variant", "3dgs", "--iterations", "7500").flat()
    assert full["opacity_lr"] == 0.025 and full["sh_degree_interval"] == 1000
    rates = settings_of("--variant", "3dgs", "--iterations", "7500", "--scale_rates").flat()
    assert rates["opacity_lr"] == 0.05 and rates["sh_degree_interval"] == 250
    assert rates["densify_until_iter"] == 15_000 and rates["growth_cap"] == full["growth_cap"]
    milestones = settings_of("--variant", "3dgs", "--iterations", "7500", "--scale_schedule").flat()
    assert milestones["opacity_lr"] == 0.025 and milestones["sh_degree_interval"] == 1000
    assert milestones["densify_until_iter"] == 3750
    few, fewest = (settings_of("--iterations", count).flat() for count in ("60", "1000"))
    assert few["opacity_lr"] == fewest["opacity_lr"] == pytest.approx(0.025 * 30**0.5)
    by_hand = settings_of("--iterations", "7500", "--opacity_lr", "0.01").flat()
    assert (by_hand["opacity_lr"], by_hand["scaling_lr"]) == (0.01, 0.01)


def test_only_3dgs_is_not_scaled_by_default():
    for variant in VARIANTS:
        flat = settings_of("--variant", variant, "--iterations", "7000").flat()
        assert flat["densify_until_iter"] == (15_000 if variant == "3dgs" else 3500)
    assert settings_of("--iterations", "7000", "--no-scale_schedule").flat()["densify_until_iter"] == 15_000
    assert settings_of().run.variant == "tag_gradprune_decomp"


def test_a_floor_in_pixels_that_an_earlier_version_recorded_is_a_share_now():
    assert settings_of(recorded={"error_floor": 30.0}).densification.error_floor == pytest.approx(2e-4)
    assert settings_of(recorded={"error_floor": 2e-4}).densification.error_floor == 2e-4
    with pytest.raises(ValueError, match="--error_floor: expected 0 to 1, got 28"):
        settings_of("--error_floor", "28")


def test_what_a_variant_sets_is_known_whatever_was_given_by_hand():
    assert variant_values(settings_of(*SHORT, "--tag_lifespan", "5"))["tag_lifespan"] == 300
    few = settings_of(*SHORT[:2], "--iterations", "3", "--scale_schedule", "--thin_energy", "0")
    values = variant_values(few)  # of which some would not go together by themselves
    assert (values["thin_energy"], values["prune_until_iter"]) == (1.0, 2)
    assert set(values) == set(VARIANTS["tag_gradprune_decomp"])


def test_without_a_growth_cap_there_is_none_to_scale():
    flags = ("--variant", "3dgs", "--iterations", "7000", "--scale_schedule")
    assert settings_of(*flags).flat()["growth_cap"] == 0


def test_help_names_every_available_flag_with_default_and_unit(capsys):
    with pytest.raises(SystemExit) as leaving:
        given_flags(train_parser(), ["--help_all"])
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for group in GROUPS:
        for item in dataclasses.fields(group):
            assert f"--{item.name}" in text
    assert "from which a Gaussian is densified (NDC units; at least 0; default 0.0002)" in text
    assert "opacity of the initial Gaussians (above 0 and below 1; default 0.1)" in text


@pytest.mark.parametrize(("name", "built_in", "other"), [("split_length", 0.6, 0.7), ("latent_size", 4, 8)])
def test_a_recorded_flag_that_is_built_in_now_must_have_that_value(name, built_in, other):
    assert settings_of(recorded={name: built_in}) == settings_of()
    with pytest.raises(ValueError, match=f"made with --{name} {other}; this version has {built_in} built in"):
        settings_of(recorded={name: other})


def test_values_under_earlier_names_are_known():
    assert settings_of("--prune_by", "gradient").pruning.prune_by == "removal_energy"
    assert settings_of(recorded={"prune_by": "gradient"}).pruning.prune_by == "removal_energy"


def test_render_knows_the_flags_of_scene_and_pipeline():
    given = given_flags(
        render_parser(), ["-m", "x", "--iteration", "7", "--skip_train", "-w", "--antialiasing"]
    )
    video = {"video": "", "frames": 240, "fps": 30}
    switches = {"skip_train": True, "skip_test": False, "depth": False}
    files = {"model_path": "x", "iteration": 7, "ply": "", "cameras": ""}
    assert given == files | switches | video | {"white_background": True, "antialiasing": True}
    with pytest.raises(ValueError, match="--iterations"):
        given_flags(render_parser(), ["--iterations", "7"])
