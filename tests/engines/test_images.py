"""Reading image files of all kinds, and refusing those that cannot be read."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from anoseg_engines.errors import DataError
from anoseg_engines.images import decode_image, decode_jpeg, list_images, read_image, rotated
from anosegd.capture.pixel_formats import image_from_raw

MONO12 = 0x01100005


def test_grey_16_bit_and_alpha_become_bgr(tmp_path: Path) -> None:
    """Grey is repeated, 16 bit is divided by 256 and alpha is dropped, so that images are always uint8 [H, W, 3]."""
    grey16 = np.full((4, 5), 0x8040, np.uint16)
    bgra = np.dstack([np.full((4, 5), v, np.uint8) for v in (1, 2, 3, 4)])
    for name, stored, expected in [("a.png", grey16, (128, 128, 128)), ("b.png", bgra, (1, 2, 3))]:
        cv2.imwrite(str(tmp_path / name), stored)
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8
        assert image.shape == (4, 5, 3)
        assert (image == expected).all()


def test_12_bit_in_16_are_scaled_as_the_line_scales_them(tmp_path: Path) -> None:
    """A file that holds a Mono12 frame gives the same pixels as the frame from the camera; black stays black."""
    frame = np.random.default_rng(0).integers(0, 4096, (4, 6)).astype(np.uint16)
    frame[0, 0] = 4095
    cv2.imwrite(str(tmp_path / "a.png"), frame)
    assert (read_image(tmp_path / "a.png") == image_from_raw(frame.tobytes(), MONO12, 4, 6)).all()
    cv2.imwrite(str(tmp_path / "b.png"), frame * 0)
    assert not read_image(tmp_path / "b.png").any()
    cv2.imwrite(str(tmp_path / "c.png"), frame + 1)  # 4096: more than 12 bit
    assert (read_image(tmp_path / "c.png")[:, :, 0] == (frame + 1) >> 8).all()


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.pnm", "a.JPG"])
def test_uncommon_names_of_common_formats_are_listed(tmp_path: Path, name: str) -> None:
    """A JPEG under its rarer endings, and a portable any-map, are images like others."""
    image = np.full((8, 8, 3), 90, np.uint8)
    (tmp_path / name).write_bytes(cv2.imencode(".ppm" if name.endswith("pnm") else ".jpg", image)[1].tobytes())
    (path,) = list_images(tmp_path)
    assert read_image(path).shape == (8, 8, 3)


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"\x89PNG\r\n\x1a\nrubbish", "not a readable image")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """An empty or broken file is an error with its name."""
    path = tmp_path / "part_17.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"part_17.png.*{message}"):
        read_image(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A folder that does not exist is an error with its name, not an empty list."""
    with pytest.raises(DataError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def photo(height: int = 61, width: int = 83) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


SAMPLINGS = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_whole_jpeg_has_the_pixels_that_opencv_gives_it(tmp_path: Path, sampling: int, progressive: int) -> None:
    """The strict decoder changes no pixel: a model trained on OpenCV's pixels sees the same ones."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    for name, stored in (("colour.jpg", photo()), ("grey.jpg", photo()[:, :, 0])):
        cv2.imwrite(str(tmp_path / name), stored, options)
        assert (read_image(tmp_path / name) == cv2.imread(str(tmp_path / name), cv2.IMREAD_COLOR)).all()


@pytest.mark.parametrize("restart", [0, 4])
@pytest.mark.parametrize("damage", ["cut", "cut, end marker", "zeros, end marker", "last byte"])
def test_a_damaged_jpeg_is_refused(tmp_path: Path, damage: str, restart: int) -> None:
    """A JPEG without its tail is refused even with an end marker: OpenCV fills in the missing rows and reports no error."""
    data = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_RST_INTERVAL, restart])[1].tobytes()
    half = data[: len(data) // 2]
    damaged = {
        "cut": half,
        "cut, end marker": half + data[-2:],
        "zeros, end marker": half + bytes(len(data) - len(half) - 2) + data[-2:],
        "last byte": data[:-1],
    }[damage]
    path = tmp_path / "part_17.jpg"
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"part_17.jpg.*not a whole JPEG image"):
        read_image(path)


def test_a_jpeg_is_decoded_into_memory_of_its_size() -> None:
    """A camera's frame goes straight into its slot; memory of another size is left alone."""
    data = cv2.imencode(".jpg", photo())[1].tobytes()
    slot, small = np.zeros((61, 83, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    assert decode_jpeg(data, slot).image.ctypes.data == slot.ctypes.data
    assert (decode_jpeg(data, small).image == slot).all()
    assert not small.any()


def test_a_jpeg_header_that_names_a_huge_image_is_refused() -> None:
    """A damaged header does not make the decoder take all memory."""
    data = bytearray(cv2.imencode(".jpg", photo())[1].tobytes())
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xdc\xff\xdc"
    with pytest.raises(DataError, match="65500×65500 pixels are too many"):
        decode_jpeg(bytes(data))


def test_an_image_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    """A whole PNG image of 136 kB, with more pixels than OpenCV decodes."""
    side = 33_000

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes((1 + side // 8) * side), 6))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"huge\.png: the image has too many pixels"):
        read_image(tmp_path / "huge.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_grey_files_stay_one_channel_on_the_line(tmp_path: Path, name: str) -> None:
    """The line reads the one channel that is there. The trainer sees the same values three times."""
    grey = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    cv2.imwrite(str(tmp_path / name), grey)
    image = decode_image((tmp_path / name).read_bytes(), tmp_path / name).image
    assert image.shape == (9, 7, 1)
    assert (read_image(tmp_path / name) == np.repeat(image, 3, axis=2)).all()
    for degrees in (0, 90, 180, 270):
        turned = rotated(image, degrees)
        assert (turned == np.rot90(image, -degrees // 90)).all()
