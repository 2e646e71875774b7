from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from scene_files import quantized_photo, write_photo
from utils.images import read_image, resize_image, write_png


def jpeg_turned_by_exif(image: np.ndarray) -> bytes:
    """A JPEG whose EXIF data say that it has to be rotated by 90 degrees for display."""
    data = cv2.imencode(".jpg", image)[1].tobytes()
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation, one short, "rotate 90 CW"
    exif = b"Exif\0\0MM\x00*" + struct.pack(">IH", 8, 1) + entry + b"\0\0\0\0"
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_rgb_is_read_in_order(tmp_path):
    image = quantized_photo(0)
    write_photo(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)


def test_alpha_is_kept_straight(tmp_path):
    image = quantized_photo(0, channels=4)
    write_photo(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)


def test_opaque_alpha_is_dropped(tmp_path):
    image = quantized_photo(0, channels=4)
    image[..., 3] = 255
    write_photo(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image[..., :3])


def test_grey_becomes_three_channels(tmp_path):
    image = quantized_photo(0)[..., 0]
    write_photo(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.stack([image] * 3, axis=2))


def test_16_bit_becomes_8_bit(tmp_path):
    image = quantized_photo(0)
    noise = np.random.default_rng(0).integers(-128, 129, image.shape)
    write_photo(tmp_path / "a.png", np.clip(image.astype(int) * 257 + noise, 0, 65535).astype(np.uint16))
    assert np.array_equal(read_image(tmp_path / "a.png"), image)


def test_exif_orientation_is_not_applied(tmp_path):
    image = cv2.GaussianBlur(quantized_photo(0), (7, 7), 0)
    (tmp_path / "a.jpg").write_bytes(jpeg_turned_by_exif(image))
    assert cv2.imread(str(tmp_path / "a.jpg")).shape != image.shape, "the file does not test anything"
    assert read_image(tmp_path / "a.jpg").shape == image.shape


def test_missing_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="image not found: .*nowhere.png"):
        read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.png \({len(content)} bytes\) is damaged or not an image"):
        read_image(tmp_path / "a.png")


def test_cut_off_image_is_refused_and_not_half_read(tmp_path):
    write_photo(tmp_path / "a.png", quantized_photo(0))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        read_image(tmp_path / "a.png")


def test_float_image_is_refused(tmp_path):
    write_photo(tmp_path / "a.tiff", quantized_photo(0).astype(np.float32))
    with pytest.raises(
        ValueError, match="a.tiff: images need 8 or 16 bits per channel, this one holds float32"
    ):
        read_image(tmp_path / "a.tiff")


def test_halving_averages_2x2_blocks():
    image = quantized_photo(0)
    blocks = image.reshape(8, 2, 12, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(image, 12, 8) - blocks).max() <= 0.5


def test_same_size_is_untouched():
    image = quantized_photo(0)
    assert np.array_equal(resize_image(image, 24, 16), image)


def test_growing_keeps_a_constant():
    assert (resize_image(np.full((4, 4, 3), 77, np.uint8), 9, 7) == 77).all()


def test_hidden_colors_do_not_bleed_when_alpha_is_resized():
    image = np.zeros((2, 4, 4), np.uint8)
    image[:, :2] = (200, 100, 50, 255)
    image[:, 1] = (0, 255, 0, 0)  # invisible green
    image[:, 2:] = (9, 9, 9, 0)
    assert resize_image(image, 2, 1)[0, 0].tolist() == [200, 100, 50, 128]
    assert resize_image(image, 2, 1)[0, 1, 3] == 0


@pytest.mark.parametrize("channels", [3, 4])
def test_png_round_trip(tmp_path, channels):
    image = quantized_photo(5, channels=channels)
    write_png(tmp_path / "deep/a.png", image)
    assert np.array_equal(read_image(tmp_path / "deep/a.png"), image)


def test_writing_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected an \(H, W, 3 or 4\) uint8 image, got \(3, 4, 5\) uint8"):
        write_png(tmp_path / "a.png", np.zeros((3, 4, 5), np.uint8))
