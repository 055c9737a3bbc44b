"""TIFF files with several pictures: the whole one is taken, whichever comes first."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from PIL import Image

from edge.files import Directory, big_tiff, of_image, tiff
from edge.support import encoded, gradient
from secondlook.edge import NotAPictureError, Size, open_picture

SMALL, WHOLE = gradient(40, 30), gradient(320, 240)
PREVIEW = of_image(SMALL, tags={254: (1,)})


def small(**tags: int) -> Directory:
    return of_image(SMALL, tags={int(tag[1:]): (value,) for tag, value in tags.items()})


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_whole_picture_below_a_preview(order: str) -> None:
    picture = open_picture(tiff(replace(PREVIEW, below=[PREVIEW, of_image(WHOLE)]), order=order))
    assert picture.size == Size(320, 240)
    assert picture.original().tobytes() == WHOLE.tobytes()


def test_the_whole_picture_behind_a_preview() -> None:
    assert open_picture(tiff(PREVIEW, of_image(WHOLE))).original().tobytes() == WHOLE.tobytes()
    assert open_picture(big_tiff(PREVIEW, of_image(WHOLE))).original().tobytes() == WHOLE.tobytes()


def test_previews_and_masks_behind_or_below_the_whole_picture_are_left_alone() -> None:
    mask = replace(of_image(gradient(640, 480)), tags={254: (4,)})
    for file in (tiff(of_image(WHOLE), PREVIEW, mask), tiff(of_image(WHOLE, below=[PREVIEW]))):
        assert open_picture(file).original().tobytes() == WHOLE.tobytes()


def test_the_first_of_several_pages_is_taken() -> None:
    for larger in map(of_image, (gradient(42, 30), gradient(57, 43), gradient(81, 61))):  # A4, A3, A2
        for page in (small(), small(_254=2), small(_297=0)):
            assert open_picture(tiff(page, larger)).size == Size(40, 30)
    pages = encoded(SMALL, "TIFF", save_all=True, append_images=[gradient(40, 30)])
    assert open_picture(pages).original().tobytes() == SMALL.tobytes()


@pytest.mark.parametrize(
    "file",
    [
        tiff(small(_254=1, _297=0), of_image(WHOLE)),
        tiff(small(_254=3), of_image(WHOLE)),
        tiff(small(_254=3), of_image(WHOLE, tags={254: (2,)})),
        tiff(PREVIEW, of_image(WHOLE, tags={254: (1,)})),
        tiff(of_image(WHOLE, tags={254: (1,)}), PREVIEW),
    ],
    ids=["numbered", "page", "pages", "all", "first"],
)
def test_a_preview_is_not_the_first_page(file: bytes) -> None:
    assert open_picture(file).original().tobytes() == WHOLE.tobytes()


@pytest.mark.parametrize(
    "file",
    [
        tiff(small(), of_image(WHOLE)),
        tiff(small(_254=2), of_image(WHOLE)),
        tiff(small(_297=0), of_image(WHOLE, tags={297: (1,)})),
        tiff(replace(small(), below=[of_image(WHOLE)])),
        tiff(PREVIEW, of_image(WHOLE), of_image(gradient(300, 240))),
    ],
    ids=["behind", "page", "numbered", "below", "two"],
)
def test_a_file_that_does_not_say_which_is_the_whole_is_refused(file: bytes) -> None:
    with pytest.raises(NotAPictureError, match=r"has 2 pictures .*320x240.* does not say which is"):
        open_picture(file)


@pytest.mark.parametrize("photometric", [32803, 34892])
def test_raw_sensor_data_are_named(photometric: int) -> None:
    sensor = Directory((320, 240), bytes(320 * 240), (8,), photometric)
    with pytest.raises(NotAPictureError, match=r"raw sensor data \(320x240 pixels\).* develop it"):
        open_picture(tiff(replace(PREVIEW, below=[sensor])))


def test_the_orientation_beside_a_preview_is_the_whole_pictures() -> None:
    turned = tiff(replace(PREVIEW, tags={254: (1,), 274: (6,)}, below=[of_image(WHOLE)]))
    upright = WHOLE.transpose(Image.Transpose.ROTATE_270)
    assert open_picture(turned).original().tobytes() == upright.tobytes()
    both = tiff(replace(PREVIEW, tags={254: (1,), 274: (6,)}, below=[of_image(WHOLE, tags={274: (1,)})]))
    assert open_picture(both).original().tobytes() == WHOLE.tobytes()


def test_directories_that_cost_more_than_a_picture_are_refused() -> None:
    greedy = of_image(SMALL, tags={60_000 + tag: tuple(range(300)) for tag in range(900)})
    file = bytearray(tiff(greedy))
    assert open_picture(bytes(file)).size == Size(40, 30)
    (at,) = struct.unpack_from("<I", file, 4)
    for entry in range(10, 900):  # each now claims a megabyte of the same bytes
        struct.pack_into("<I", file, at + 2 + 12 * entry + 4, 250_000)
    with pytest.raises(NotAPictureError, match="claim more bytes than it has"):
        open_picture(bytes(file))
    struct.pack_into("<H", file, at, 60_000)
    with pytest.raises(NotAPictureError, match="a directory of 60000 entries"):
        open_picture(bytes(file))


@pytest.mark.parametrize("tag", [258, 274, 277, 282, 700, 34675])
def test_tags_of_far_too_many_values_are_refused(tag: int) -> None:
    with pytest.raises(NotAPictureError, match=f"is damaged: its tag {tag} has 300000 values"):
        open_picture(tiff(of_image(SMALL), Directory((4, 4), bytes(48), tags={tag: (7,) * 300_000})))


def test_directories_that_lead_in_circles_come_to_an_end() -> None:
    file = bytearray(tiff(of_image(SMALL)))
    file[-4:] = file[4:8]  # the next one is the first
    assert open_picture(bytes(file)).size == Size(40, 30)
