from __future__ import annotations

import io
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge.support import encoded, gradient, square
from secondlook.edge import (
    GeometryError,
    JpegSettings,
    Region,
    SettingsError,
    Size,
    decode_jpeg,
    fit_to_view,
    open_picture,
    place,
    sent_size,
)
from secondlook.edge.colours import to_rgb
from secondlook.edge.wire import Filter, Fixed, View

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"]
MODES += ["I;16", "I;16L", "I;16B", "I;16N"]
modes = st.sampled_from(["squash", "pad"])


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(image, dtype=np.float64)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 90), st.integers(1, 90), st.integers(1, 64), modes)
def test_any_mode_and_size_becomes_both_pictures(
    mode: str, width: int, height: int, side: int, fit: Any
) -> None:
    picture = open_picture(Image.new(mode, (width, height)))
    assert picture.size == Size(width, height)
    assert picture.original().mode == "RGB"
    view = square(side, fit)
    overview = picture.global_image(view)
    assert overview.size == sent_size(view, picture.size)
    received = decode_jpeg(overview.jpeg)
    assert received.size == (overview.size.width, overview.size.height)
    assert fit_to_view(received, view, picture.size).size == (side, side)
    assert picture.local_image(Region(0, 0, width, height), view).size == overview.size


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 200), st.integers(1, 200), st.sampled_from(["JPEG", "PNG"]))
def test_any_region_is_cropped_and_never_enlarged(st_data: Any, width: int, height: int, kind: str) -> None:
    left = st_data.draw(st.integers(0, width - 1))
    top = st_data.draw(st.integers(0, height - 1))
    right = st_data.draw(st.integers(left + 1, width))
    bottom = st_data.draw(st.integers(top + 1, height))
    side = st_data.draw(st.integers(1, 250))
    region = Region(left, top, right, bottom)
    detail = open_picture(encoded(gradient(width, height), kind)).local_image(region, square(side))
    assert decode_jpeg(detail.jpeg).size == (detail.size.width, detail.size.height)
    assert detail.size == Size(min(side, region.width), min(side, region.height))


def test_a_local_image_shows_the_region_pixel_by_pixel() -> None:
    source = gradient(300, 200)
    best = JpegSettings(100, "4:4:4")
    detail = open_picture(source).local_image(Region(40, 30, 140, 110), square(336), best)
    expected = pixels(source.crop((40, 30, 140, 110)))
    assert np.abs(pixels(decode_jpeg(detail.jpeg)) - expected).max() <= 3


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (7, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_extreme_shapes(size: tuple[int, int], kind: str, mode: Any) -> None:
    picture = open_picture(encoded(gradient(*size), kind))
    view = square(48, mode)
    assert picture.global_image(view).size == sent_size(view, Size(*size))
    assert picture.local_image(Region(0, 0, *size), view).size == sent_size(view, Size(*size))


def test_pad_puts_the_picture_where_the_geometry_says() -> None:
    red = Image.new("RGB", (200, 50), (255, 0, 0))
    view = View(size=Fixed(width=100, height=60), fit="pad", pad_colour=(1, 2, 3))
    fitted = fit_to_view(red, view)
    left, top, width, height = place(Size(200, 50), Size(100, 60), "pad")
    expected = Image.new("RGB", (100, 60), (1, 2, 3))
    expected.paste((255, 0, 0), (left, top, left + width, top + height))
    assert fitted.tobytes() == expected.tobytes()


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_what_was_sent_smaller_is_enlarged_to_what_the_original_gives(fit: Any) -> None:
    view, original = square(96, fit), Size(61, 40)
    sent = open_picture(gradient(61, 40)).shrunk(view)
    assert sent.size == (61, 40)
    assert fit_to_view(sent, view, original).tobytes() == fit_to_view(gradient(61, 40), view).tobytes()


def test_the_views_filter_is_used() -> None:
    source = photograph(300, 200, 1.0, seed=3)
    shrunk = {
        name: open_picture(source).shrunk(View(size=Fixed(width=50, height=40), filter=name)).tobytes()
        for name in get_args(Filter)
    }
    assert len(set(shrunk.values())) == 4
    nearest = source.resize((50, 40), Image.Resampling.BICUBIC, reducing_gap=3.0)
    assert shrunk["bicubic"] == nearest.tobytes()


def test_a_picture_many_times_larger_is_fitted_with_the_filter_alone() -> None:
    source = photograph(1200, 900, 1.0, seed=3)
    fitted = fit_to_view(source, View(size=Fixed(width=50, height=40), filter="bicubic"))
    assert fitted.tobytes() == source.resize((50, 40), Image.Resampling.BICUBIC).tobytes()


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_what_has_the_encoders_size_already_is_not_changed(mode: Any) -> None:
    source = gradient(64, 64)
    fitted = fit_to_view(source, square(64, mode))
    assert fitted is not source
    assert fitted.tobytes() == source.tobytes()


def test_shrinking_is_antialiased() -> None:
    stripes = Image.new("L", (512, 512))
    stripes.putdata([255 * (x % 2) for _ in range(512) for x in range(512)])
    fitted = pixels(fit_to_view(stripes, square(64)))
    assert np.abs(fitted[:, 2:-2] - 127.5).max() < 6


def test_transparency_is_laid_over_white() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)
    assert to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0])
    data = encoded(palette, "PNG", transparency=0)
    assert open_picture(data).original().getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_all_transparent_is_not_all_white(mode: str) -> None:
    image = gradient(40, 30).convert(mode)
    image.putalpha(0)
    opaque = image.convert("RGBA").convert("RGB")
    assert open_picture(encoded(image, "PNG")).original().tobytes() == opaque.tobytes()
    empty = Image.new(mode, (4, 3))
    assert open_picture(encoded(empty, "PNG")).original().getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0damaged", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x01"]
)
def test_damaged_exif_data_leave_the_picture_as_it_is(kind: str, exif: bytes) -> None:
    image = gradient(40, 30)
    picture = open_picture(encoded(image, kind, exif=exif, lossless=True))
    assert picture.original().tobytes() == image.tobytes()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 257 * 100, 65535)):
        deep.putpixel((x, 0), value)
    for kind in ("PNG", "TIFF"):
        opened = open_picture(encoded(deep, kind)).original()
        assert [opened.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]
    eight = Image.new("I", (1, 1), 200)
    assert to_rgb(eight).getpixel((0, 0)) == (200, 200, 200)


def test_cmyk_jpegs_are_converted() -> None:
    data = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=100)
    overview = open_picture(data).global_image(square(16))
    colour = pixels(decode_jpeg(overview.jpeg)).mean(axis=(0, 1))
    assert colour[0] > 240
    assert colour[1:].max() < 15


ORIENTATIONS: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation → how an upright picture is turned to be stored so (the inverse of showing it)."""


@pytest.mark.parametrize("tag", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "image"])
def test_every_exif_orientation_is_turned_upright(tag: int, kind: str) -> None:
    upright = gradient(320, 160)
    turn = ORIENTATIONS[tag]
    stored = upright.transpose(turn) if turn is not None else upright
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"quality": 100, "subsampling": "4:4:4"} if kind == "JPEG" else {}
    source: Any = encoded(stored, "PNG" if kind == "image" else kind, exif=exif, **options)
    picture = open_picture(Image.open(io.BytesIO(source)) if kind == "image" else source)
    assert picture.size == Size(320, 160)
    assert np.abs(pixels(picture.original()) - pixels(upright)).max() <= 6
    for mode in ("squash", "pad"):
        view = square(64, mode)
        fitted = pixels(fit_to_view(picture.shrunk(view), view, picture.size))
        assert np.abs(fitted - pixels(fit_to_view(upright, view))).max() <= 4
    corner = picture.local_image(Region(0, 0, 32, 32), square(64), JpegSettings(100, "4:4:4"))
    assert np.abs(pixels(decode_jpeg(corner.jpeg)) - pixels(upright.crop((0, 0, 32, 32)))).max() <= 8


def photograph(width: int, height: int, slope: float, seed: int) -> Image.Image:
    """Noise with the spectrum of photographs (1/f to the power `slope`), and hard edges."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = (
        random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)
    ) / frequency**slope
    noise = np.fft.irfft2(spectrum, s=(height, width))
    grey = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
    image = Image.merge("RGB", [Image.fromarray(np.roll(grey, shift, axis=1)) for shift in (0, 9, 40)])
    image.paste((250, 20, 20), (width // 3, height // 3, width // 2, height // 2))
    image.paste((255, 255, 255), (width // 5, height // 5, width // 5 + 9, height // 2))
    return image


@pytest.mark.parametrize("size", [(1600, 1200), (1021, 767)])
@pytest.mark.parametrize("slope", [1.0, 0.5])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_scaled_decoding_is_faithful(
    size: tuple[int, int], slope: float, subsampling: str, mode: Any
) -> None:
    data = encoded(photograph(*size, slope, seed=7), "JPEG", quality=92, subsampling=subsampling)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = place(Size(*size), Size(144, 144), mode)[2:]
    reference = pixels(whole.resize((width, height), Image.Resampling.LANCZOS))
    fitted = pixels(open_picture(data).shrunk(square(144, mode)))
    error = np.square(fitted - reference).mean()
    assert error <= 255**2 / 10**3.8, f"PSNR {10 * np.log10(255**2 / error):.1f} dB is below 38 dB"


def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(gradient(1600, 1200))
    decoded = []
    resize = Image.Image.resize

    def spy(self: Image.Image, *arguments: Any, **named: Any) -> Image.Image:
        decoded.append(self.size)
        return resize(self, *arguments, **named)

    monkeypatch.setattr(Image.Image, "resize", spy)
    open_picture(data).shrunk(square(96))
    assert decoded == [(400, 300)]


def test_a_file_is_read_once_and_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "latest.jpg"
    path.write_bytes(encoded(gradient(200, 100)))
    picture = open_picture(str(path))
    path.write_bytes(b"something else")
    assert picture.global_image(square(32)).size == Size(32, 32)
    assert picture.local_image(Region(0, 0, 200, 100), square(300)).size == Size(200, 100)


def test_a_given_image_is_neither_changed_nor_kept() -> None:
    source = gradient(40, 30)
    picture = open_picture(source)
    source.paste((0, 0, 0), (0, 0, 40, 30))
    assert picture.original().tobytes() == gradient(40, 30).tobytes()


def test_metadata_stays_on_the_device() -> None:
    exif = Image.Exif()
    exif[0x010E] = "somewhere private"
    data = encoded(gradient(300, 300), "JPEG", exif=exif, comment=b"also private", icc_profile=b"profile")
    picture = open_picture(data)
    region = Region(0, 0, 50, 50)
    for sent in (picture.global_image(square(64, "pad")), picture.local_image(region, square(300))):
        assert b"private" not in sent.jpeg
        assert b"ICC_PROFILE" not in sent.jpeg
        assert b"Exif" not in sent.jpeg


def test_quality_and_subsampling_are_used() -> None:
    picture = open_picture(photograph(300, 300, 0.5, seed=1))
    low = picture.global_image(square(128), JpegSettings(20, "4:2:0")).jpeg
    high = picture.global_image(square(128), JpegSettings(95, "4:4:4")).jpeg
    assert len(low) * 3 < len(high)
    layers = [Image.open(io.BytesIO(jpeg)).layer for jpeg in (low, high)]  # type: ignore[attr-defined]
    assert [layer[0][1:3] for layer in layers] == [(2, 2), (1, 1)]


def test_noise_can_be_sent_too() -> None:
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(0, 256, (500, 500, 3), np.uint8))
    for quality in (90, 100):
        sent = open_picture(noise).global_image(square(500), JpegSettings(quality, "4:4:4"))
        assert decode_jpeg(sent.jpeg).size == (500, 500)


def test_a_region_outside_the_picture_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(0, 0, 41, 30\) reaches outside the picture of 40x30"):
        open_picture(gradient(40, 30)).local_image(Region(0, 0, 41, 30), square(10))


@pytest.mark.parametrize("quality", [0, 101, 50.5, True])
def test_impossible_jpeg_settings_are_refused(quality: Any) -> None:
    with pytest.raises(SettingsError, match=f"not {quality}"):
        JpegSettings(quality)
    with pytest.raises(SettingsError, match="'4:4:4', '4:2:2' or '4:2:0', not '4:1:1'"):
        JpegSettings(90, "4:1:1")  # type: ignore[arg-type]


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_again_shares_what_it_is_and_not_what_it_decodes(turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    buffer = io.BytesIO()
    gradient(60, 40).save(buffer, "JPEG", exif=exif)
    picture = open_picture(buffer.getvalue())
    again, held = picture.again(), picture.held_bytes
    assert (picture.upright_jpeg is None) == turned
    expected = again.global_image(View(size=Fixed(width=30, height=30)))  # which decodes so small a JPEG
    assert again.held_bytes > picture.held_bytes == held
    assert again.upright_jpeg is None
    assert picture.again().global_image(View(size=Fixed(width=30, height=30))) == expected
