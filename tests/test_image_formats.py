"""Every format and depth of photos that is read: by value, and as the pixels are stored."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, features

from utils.image_files import decode
from utils.images import PHOTO_SUFFIXES, read_image

COLORS = [[(255, 40, 10), (128, 128, 128)], [(20, 200, 30), (10, 20, 250)]]
COLOR = np.array(COLORS, np.uint8).repeat(16, 0).repeat(24, 1)  # (32, 48, 3)
GRAY = np.array([[255, 128], [0, 40]], np.uint8).repeat(16, 0).repeat(24, 1)  # (32, 48)
ALPHA = np.array([[255, 200], [60, 0]], np.uint8).repeat(16, 0).repeat(24, 1)
RGBA = np.dstack([COLOR, ALPHA])
LOSSY = 5  # of 255, at most
has_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def by_pillow(image: np.ndarray, kind: str, mode: str = "", **options) -> bytes:
    file, picture = io.BytesIO(), Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


def by_opencv(image: np.ndarray, suffix: str, *options) -> bytes:
    """Of RGB or RGBA in OpenCV's order."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    image = cv2.cvtColor(image, order[image.shape[2]]) if image.ndim == 3 else image
    return cv2.imencode(suffix, image, options)[1].tobytes()


def in_bits(image: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(image / 255 * (2**bits - 1)).astype(np.uint16)


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = number
    return exif


def pnm(image: np.ndarray, largest: int) -> bytes:
    kind = b"P6" if image.ndim == 3 else b"P5"
    numbers = np.rint(image / 255 * largest).astype(np.uint8 if largest < 256 else ">u2")
    return b"%s\n# a comment\n%d %d\n%d\n" % (kind, *image.shape[1::-1], largest) + numbers.tobytes()


EXACT = {
    "8.png": (lambda: by_pillow(COLOR, "PNG"), COLOR),
    "16.png": (lambda: by_opencv(in_bits(COLOR, 16), ".png"), COLOR),
    "gray8.png": (lambda: by_pillow(GRAY, "PNG"), GRAY),
    "gray16.png": (lambda: by_opencv(in_bits(GRAY, 16), ".png"), GRAY),
    "gray alpha.png": (lambda: by_pillow(RGBA, "PNG", "LA"), None),
    "alpha.png": (lambda: by_pillow(RGBA, "PNG"), RGBA),
    "alpha16.png": (lambda: by_opencv(in_bits(RGBA, 16), ".png"), RGBA),
    "palette.png": (lambda: by_pillow(COLOR, "PNG", "P"), None),
    "palette of 4 bits.png": (lambda: by_pillow(GRAY, "PNG", "P", bits=4), None),
    "1 bit.png": (lambda: by_pillow((GRAY > 99).astype(np.uint8) * 255, "PNG", "1"), None),
    "8.tif": (lambda: by_pillow(COLOR, "TIFF"), COLOR),
    "lzw.tif": (lambda: by_pillow(COLOR, "TIFF", compression="tiff_lzw"), COLOR),
    "big.tif": (lambda: by_pillow(COLOR, "TIFF", big_tiff=True), COLOR),
    "16.tif": (lambda: by_opencv(in_bits(COLOR, 16), ".tif"), COLOR),
    "gray.tif": (lambda: by_pillow(GRAY, "TIFF"), GRAY),
    "gray16.tif": (lambda: by_pillow(in_bits(GRAY, 16), "TIFF"), GRAY),
    "alpha.tif": (lambda: by_pillow(RGBA, "TIFF"), RGBA),
    "alpha16.tif": (lambda: by_opencv(in_bits(RGBA, 16), ".tif"), RGBA),
    "8.bmp": (lambda: by_pillow(COLOR, "BMP"), COLOR),
    "8.webp": (lambda: by_pillow(COLOR, "WEBP", lossless=True), COLOR),
    "alpha.webp": (lambda: by_pillow(RGBA, "WEBP", lossless=True, exact=True), RGBA),
    "255.ppm": (lambda: pnm(COLOR, 255), COLOR),
    "1023.ppm": (lambda: pnm(COLOR, 1023), COLOR),
    "100.pgm": (lambda: pnm(np.uint8(GRAY > 99) * np.uint8(255), 100), np.uint8(GRAY > 99) * np.uint8(255)),
    "65535.pgm": (lambda: pnm(GRAY, 65535), GRAY),
}


def shown(content: bytes) -> np.ndarray:
    """RGB or RGBA by Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB"))


@pytest.mark.parametrize("name", EXACT)
def test_lossless_formats_by_value(tmp_path, name):
    content, expected = EXACT[name][0](), EXACT[name][1]
    expected = shown(content) if expected is None else expected
    (tmp_path / name).write_bytes(content)
    expected = np.dstack([expected] * 3) if expected.ndim == 2 else expected
    assert np.array_equal(read_image(tmp_path / name), expected)


LOSSY_FILES = {
    "8.jpg": lambda: by_pillow(COLOR, "JPEG", quality=98, subsampling=0),
    "gray.jpeg": lambda: by_pillow(GRAY, "JPEG", quality=98),
    "cmyk.jpg": lambda: by_pillow(COLOR, "JPEG", "CMYK", quality=98),
    "progressive.jpg": lambda: by_pillow(COLOR, "JPEG", quality=98, progressive=True, subsampling=0),
    "jpeg.tif": lambda: by_pillow(COLOR, "TIFF", compression="jpeg", quality=98),
    "lossy.webp": lambda: by_pillow(COLOR, "WEBP", quality=100),
}


@pytest.mark.parametrize("name", LOSSY_FILES)
def test_lossy_formats_by_value(tmp_path, name):
    (tmp_path / name).write_bytes(LOSSY_FILES[name]())
    expected = np.dstack([GRAY] * 3) if name.startswith("gray") else COLOR
    assert_alike(read_image(tmp_path / name), expected)


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert it away from the edges of the blocks."""
    assert found.shape == expected.shape
    for part in (np.s_[4:12, 4:20], np.s_[20:28, 4:20], np.s_[4:12, 28:44], np.s_[20:28, 28:44]):
        assert np.abs(found[part] - expected[part].astype(int)).max() <= 2 * LOSSY


def write_avif(path, image: np.ndarray, bits: int) -> None:
    pixels = image if bits == 8 else in_bits(image, bits)
    options = (cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 98)
    try:
        path.write_bytes(by_opencv(pixels, ".avif", *options))
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("image", [COLOR, RGBA], ids=["RGB", "RGBA"])
def test_avif_of_every_depth(tmp_path, bits, image):
    write_avif(tmp_path / "a.avif", image, bits)
    assert_alike(read_image(tmp_path / "a.avif"), image)


TURNED = {
    "a.jpg": lambda number: by_pillow(COLOR, "JPEG", exif=orientation(number), quality=98, subsampling=0),
    "a.png": lambda number: by_pillow(COLOR, "PNG", exif=orientation(number)),
    "a.webp": lambda number: by_pillow(COLOR, "WEBP", exif=orientation(number), lossless=True),
    "a.tif": lambda number: by_pillow(COLOR, "TIFF", tiffinfo={274: number}),
    "lzw.tif": lambda number: by_pillow(COLOR, "TIFF", tiffinfo={274: number}, compression="tiff_lzw"),
    "big.tif": lambda number: by_pillow(COLOR, "TIFF", tiffinfo={274: number}, big_tiff=True),
    "alpha.tif": lambda number: by_pillow(RGBA, "TIFF", tiffinfo={274: number}),
    "avif": lambda number: by_pillow(COLOR, "AVIF", exif=orientation(number), quality=98),
}


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("name", [*TURNED][:-1] + [pytest.param("avif", marks=has_avif)])
def test_pixels_are_read_as_stored(tmp_path, name, number):
    """COLMAP calibrates the stored pixels, whatever the file says of their orientation."""
    (tmp_path / name).write_bytes(TURNED[name](number))
    assert_alike(read_image(tmp_path / name)[..., :3], COLOR)


def test_pixels_are_those_that_colmap_sees(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    for name, make in TURNED.items():
        if name.endswith((".jpg", ".png", "tif")):
            (tmp_path / name).write_bytes(make(6))
            theirs = pycolmap.Bitmap.read(str(tmp_path / name), True).to_array()[..., :3]
            assert np.abs(read_image(tmp_path / name)[..., :3] - theirs.astype(int)).max() <= LOSSY


def test_depths_that_are_not_known_are_refused(tmp_path):
    content = by_opencv(in_bits(COLOR, 12), ".jp2")
    (tmp_path / "a.jp2").write_bytes(content)
    with pytest.raises(ValueError, match="a.jp2: more than 8 bits are read of PNG, TIFF, AVIF and PNM only"):
        read_image(tmp_path / "a.jp2")


@pytest.mark.parametrize("name", ["8.tif", "big.tif", "16.png", "8.webp", "1023.ppm", "alpha.tif"])
def test_damaged_files_are_refused_or_read(tmp_path, name):
    """No other error, and no crash."""
    content, random = EXACT[name][0](), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, min(len(content), 300), 3):
            damaged[at] = random.integers(256)
        (tmp_path / name).write_bytes(damaged[: random.integers(1, len(content))])
        try:
            assert decode(tmp_path / name).dtype == np.uint8
        except ValueError as problem:
            assert name in str(problem)


def test_every_promised_suffix_is_tested():
    tested = {name[name.rfind(".") :] for name in (*EXACT, *LOSSY_FILES)} | {".avif"}
    assert set(PHOTO_SUFFIXES) <= tested | {".tiff"}
