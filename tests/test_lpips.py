"""evaluation/lpips.py against the formula, the reference implementation, and numbers of the latter."""

from __future__ import annotations

import os
import pickle
import socket
import urllib.error
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from plain_lpips import plain_lpips, plain_network, random_vgg16, waves

from evaluation import lpips
from evaluation.lpips import HEADS, LPIPS, fetch_vgg16, read_vgg16

# LPIPS of `pictures(kind, height, width)` by lpips 0.1.4, VGG16: (normalize=False, normalize=True).
REFERENCE_VALUES = {
    ("shifted", 64, 96): (0.0446270, 0.0534732),
    ("darker", 64, 96): (0.0253491, 0.0237962),
    ("blurred", 64, 96): (0.2931303, 0.2875307),
    ("shifted", 101, 77): (0.0489597, 0.0583338),
    ("darker", 101, 77): (0.0245172, 0.0219606),
    ("blurred", 101, 77): (0.2827729, 0.2823997),
}


def pictures(kind, height, width):
    picture = waves(height, width)
    others = {
        "shifted": waves(height, width, phase=0.4),
        "darker": 0.6 * picture,
        "blurred": F.avg_pool2d(picture[None], 5, stride=1, padding=2)[0],
    }
    return others[kind], picture


@pytest.fixture(scope="module")
def random_state():
    return random_vgg16()


@pytest.fixture(scope="module")
def random_network(random_state):
    return plain_network(random_state)


@pytest.fixture(scope="module")
def random_file(random_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(random_state, path)
    return path


@pytest.fixture(scope="module")
def random_lpips(random_file):
    return LPIPS(read_vgg16(random_file))


@pytest.fixture(scope="module")
def trained_weights():
    beside = Path(__file__).resolve().parents[2] / "shared" / "weights" / "vgg16_features_fp16.pth"
    path = Path(os.environ.get("LPIPS_WEIGHTS", beside))
    if not path.is_file():
        pytest.skip(f"no VGG16 weights at {path} (set LPIPS_WEIGHTS)")
    return path


@pytest.fixture(scope="module")
def trained_lpips(trained_weights):
    return LPIPS(read_vgg16(trained_weights))


@pytest.fixture(scope="module")
def heads():
    return list(safetensors.torch.load_file(HEADS).values())


def reference_lpips(state):
    """The `lpips` package's network with the weights `state`; skips where the package is not installed."""
    package = pytest.importorskip("lpips", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision on old arguments that lpips uses
        network = package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for name, module in network.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            values = {
                part: state[f"features.{name.split('.')[1]}.{part}"].float() for part in ("weight", "bias")
            }
            module.load_state_dict(values)
    return network


# The measure


@pytest.mark.parametrize(
    ("kind", "size"), [("shifted", (37, 53)), ("darker", (16, 31)), ("blurred", (33, 16))]
)
def test_matches_the_formula(random_lpips, random_network, heads, kind, size):
    image, reference = pictures(kind, *size)
    expected = plain_lpips(image, reference, random_network, heads)
    assert random_lpips(image[None], reference[None]).item() == pytest.approx(expected, rel=1e-4)


def test_normalize_means_minus_one_to_one(random_lpips, random_network, heads):
    image, reference = pictures("blurred", 32, 40)
    expected = plain_lpips(2 * image - 1, 2 * reference - 1, random_network, heads)
    assert random_lpips(image[None], reference[None], normalize=True).item() == pytest.approx(
        expected, rel=1e-4
    )
    assert random_lpips(image[None], reference[None]).item() != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("height", [16, 33])
@pytest.mark.parametrize("pixels", [1, 2 * 40 * 6])
def test_strips_change_nothing(random_lpips, monkeypatch, height, pixels):
    image, reference = pictures("shifted", height, 40)
    whole = random_lpips(image[None], reference[None]).item()
    monkeypatch.setattr(lpips, "STRIP_PIXELS", pixels)
    assert random_lpips(image[None], reference[None]).item() == pytest.approx(whole, rel=1e-5)


def test_a_batch_is_one_value_per_pair(random_lpips):
    pairs = [pictures(kind, 32, 32) for kind in ("shifted", "darker", "blurred")]
    images, references = (torch.stack(side) for side in zip(*pairs))
    singles = [random_lpips(image[None], reference[None]).item() for image, reference in pairs]
    assert random_lpips(images, references).tolist() == pytest.approx(singles, rel=1e-5)
    assert len(set(singles)) == 3


def test_equal_pictures_are_at_distance_zero(random_lpips):
    black = torch.zeros(1, 3, 20, 20)
    assert random_lpips(black, black).item() == 0
    assert random_lpips(waves(20, 20)[None], waves(20, 20)[None]).item() == 0


def test_agrees_with_the_reference_package(random_lpips, random_state):
    reference = reference_lpips(random_state)
    for kind in ("shifted", "darker", "blurred"):
        image, gt_image = (picture[None] for picture in pictures(kind, 45, 38))
        for normalize in (False, True):
            with torch.no_grad():
                expected = reference(image, gt_image, normalize=normalize).item()
            assert random_lpips(image, gt_image, normalize=normalize).item() == pytest.approx(
                expected, rel=1e-4
            )


@pytest.mark.parametrize("case", REFERENCE_VALUES, ids=lambda case: f"{case[0]}-{case[1]}x{case[2]}")
def test_agrees_with_values_of_the_reference_package(trained_lpips, case):
    image, gt_image = (picture[None] for picture in pictures(*case))
    values = [trained_lpips(image, gt_image, normalize=normalize).item() for normalize in (False, True)]
    assert values == pytest.approx(REFERENCE_VALUES[case], abs=1e-4)


def test_agrees_with_the_reference_package_on_trained_weights(trained_lpips, trained_weights):
    reference = reference_lpips(read_vgg16(trained_weights))
    image, gt_image = (picture[None] for picture in pictures("blurred", 64, 96))
    with torch.no_grad():
        expected = reference(image, gt_image).item()
    assert trained_lpips(image, gt_image).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 15, 20), (1, 3, 20, 15), (1, 1, 20, 20), (3, 20, 20)])
def test_pictures_it_cannot_measure_are_refused(random_lpips, shape):
    with pytest.raises(ValueError, match="LPIPS"):
        random_lpips(torch.zeros(shape), torch.zeros(shape))


def test_pictures_of_two_sizes_are_refused(random_lpips):
    with pytest.raises(ValueError, match=r"one shape, got \(1, 3, 20, 20\) and \(1, 3, 20, 21\)"):
        random_lpips(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))


# The heads that are shipped


def test_shipped_heads_are_the_published_ones(heads):
    assert [len(head) for head in heads] == [64, 128, 256, 512, 512]
    assert all((head > 0).all() for head in heads)
    package = pytest.importorskip("lpips", exc_type=ImportError)
    published = torch.load(Path(package.__file__).parent / "weights/v0.1/vgg.pth", "cpu", weights_only=True)
    assert all(
        torch.equal(head, value.flatten()) for head, value in zip(heads, published.values(), strict=True)
    )


def test_heads_come_with_their_licence():
    notice = HEADS.with_suffix(".LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2018, Richard Zhang" in notice and "Redistribution and use" in notice


# VGG16's weights


def test_half_precision_is_promoted(random_file, random_state):
    read = read_vgg16(random_file)
    assert all(value.dtype == torch.float32 for value in read.values())
    assert torch.equal(read["features.28.bias"], random_state["features.28.bias"].float())


def test_other_layers_of_the_file_are_left_out(random_state, tmp_path):
    torch.save({**random_state, "classifier.0.bias": torch.zeros(4)}, tmp_path / "whole.pth")
    assert set(read_vgg16(tmp_path / "whole.pth")) == set(random_state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda state: {name: value for name, value in state.items() if name != "features.17.bias"},
            "features.17.bias",
        ),
        (
            lambda state: {**state, "features.5.weight": torch.zeros(128, 3, 3, 3)},
            "features.5.weight of shape .128, 64",
        ),
        (
            lambda state: {**state, "features.0.bias": torch.full((64,), torch.nan)},
            "features.0.bias.* not finite",
        ),
        (lambda state: [1, 2], "no torchvision VGG16"),
    ],
    ids=["missing", "shape", "nan", "list"],
)
def test_a_file_of_something_else_is_refused(random_state, tmp_path, damage, message):
    torch.save(damage(random_state), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        read_vgg16(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(ValueError, match="damaged.pth: not a state dict"):
        read_vgg16(tmp_path / "damaged.pth")


class Harmful:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_code_in_a_weights_file_does_not_run(tmp_path):
    (tmp_path / "harmful.pth").write_bytes(pickle.dumps({"features.0.weight": Harmful(tmp_path / "made")}))
    with pytest.raises(ValueError, match="harmful.pth: not a state dict"):
        read_vgg16(tmp_path / "harmful.pth")
    torch.save({"features.0.weight": Harmful(tmp_path / "made")}, tmp_path / "harmful.pth")
    with pytest.raises(ValueError, match="harmful.pth: not a state dict"):
        read_vgg16(tmp_path / "harmful.pth")
    assert not (tmp_path / "made").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        read_vgg16(tmp_path / "nowhere.pth")


# Where they come from


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_the_cache_of_torch_hub_is_used(hub, monkeypatch):
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads what is there")
    )
    cached = hub / "checkpoints" / "vgg16-397923af.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"weights")
    assert fetch_vgg16() == cached


def test_weights_are_downloaded_into_that_cache(hub, monkeypatch):
    def download(url, path, hash_prefix, progress):
        assert url.startswith("https://") and url.endswith(f"vgg16-{hash_prefix}.pth") and not progress
        assert 0 < socket.getdefaulttimeout() <= 30
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert fetch_vgg16(quiet=True).read_bytes() == b"weights"
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "problem", [urllib.error.URLError("no route"), TimeoutError("no route"), RuntimeError("no route")]
)
def test_a_failed_download_says_what_to_do(hub, monkeypatch, problem):
    def download(*_, **__):
        raise problem

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(OSError, match="no route.*--lpips_weights"):
        fetch_vgg16()
    assert socket.getdefaulttimeout() is None
