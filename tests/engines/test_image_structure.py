"""Images that are not whole in a way that decoders do not report, and messages that hold more than one image."""

import io
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anoseg_engines.errors import DataError
from anoseg_engines.image_structure import StructureError, check_structure, has_more_pages, tiff
from anoseg_engines.images import decode, read_image

END = b"\xff\xd9"


def photo(height: int = 61, width: int = 83) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


def saved(kind: str, image: np.ndarray | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray((photo() if image is None else image)[:, :, ::-1]).save(file, kind, **options)
    return file.getvalue()


def progressive(restart: int = 0) -> bytes:
    return cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, restart])[1].tobytes()


def segments(jpeg: bytes, marker: int) -> list[int]:
    """Where segments of this kind begin. Not for images with previews."""
    return [i for i in range(len(jpeg) - 1) if jpeg[i] == 0xFF and jpeg[i + 1] == marker]


def one_scan_each() -> list[bytes]:
    """A baseline JPEG whose three components have a scan each, in pieces: the header, the scans, the end."""
    planes = [cv2.imencode(".jpg", photo()[:, :, i])[1].tobytes() for i in range(3)]
    size = segments(planes[0], 0xC0)[0]
    scans = [segments(plane, 0xDA)[0] for plane in planes]
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, 61, 83, 3) + b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    header = planes[0][:size] + frame + planes[0][size + 13 : scans[0]]
    return [
        header,
        *(p[at : at + 5] + bytes([i]) + p[at + 6 : -2] for i, (p, at) in enumerate(zip(planes, scans, strict=True), 1)),
        END,
    ]


@pytest.mark.parametrize("restart", [0, 2])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(restart: int) -> None:
    """libjpeg shows a progressive image that was cut between two scans as a blurred one, and reports nothing."""
    data = progressive(restart)
    scans = segments(data, 0xDA)
    assert len(scans) > 5
    for cut in scans[1:]:
        with pytest.raises(DataError, match="scans are missing"):
            decode(data[:cut] + END)
    decode(data)


def test_a_progressive_jpeg_without_one_of_its_scans_is_refused() -> None:
    """Each scan is needed, not only the last one."""
    data = progressive()
    scans = [*segments(data, 0xDA), len(data) - 2]
    for begin, end in pairwise(scans):
        with pytest.raises(DataError, match="not a whole JPEG image"):
            decode(data[:begin] + data[end:])


def test_a_jpeg_with_one_scan_for_each_component_needs_all_of_them() -> None:
    """Without the scan of a colour libjpeg shows grey, and reports nothing."""
    pieces = one_scan_each()
    assert decode(b"".join(pieces)).image.std() > 10
    for i in (1, 2, 3):
        with pytest.raises(DataError, match="scans are missing"):
            decode(b"".join(pieces[:i] + pieces[i + 1 :]))


def test_a_jpeg_whose_damage_nobody_can_find_is_refused() -> None:
    """The decoder of arithmetic coding fills in what is missing and reports nothing."""
    data = bytearray(cv2.imencode(".jpg", photo())[1].tobytes())
    data[segments(bytes(data), 0xC0)[0] + 1] = 0xC9
    with pytest.raises(DataError, match="arithmetic"):
        decode(bytes(data))


@pytest.mark.parametrize("damage", ["missing", "exchanged"])
def test_a_jpeg_with_wrong_restart_markers_is_refused(damage: str) -> None:
    """Restart markers that are missing or out of order mean that rows are."""
    data = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes()
    first, second, third = (segments(data, 0xD0 + i)[0] for i in range(3))
    damaged = {
        "missing": data[:first] + data[second:],
        "exchanged": data[:first] + data[second:third] + data[first:second] + data[third:],
    }[damage]
    with pytest.raises(DataError, match="not a whole JPEG image"):
        decode(damaged)


@pytest.mark.parametrize("height", [0, 40, 61 + 16])
def test_a_jpeg_whose_header_names_another_height_is_refused(height: int) -> None:
    """A height of zero means that it comes later, which no decoder reads; others do not match the data."""
    data = bytearray(cv2.imencode(".jpg", photo())[1].tobytes())
    struct.pack_into(">H", data, segments(bytes(data), 0xC0)[0] + 5, height)
    with pytest.raises(DataError, match="not a whole JPEG image"):
        decode(bytes(data))


JPEG, PNG = saved("JPEG"), saved("PNG")
WHOLE: dict[str, bytes] = {
    "jpeg": JPEG,
    "progressive": progressive(),
    "png": PNG,
    "bmp": saved("BMP"),
    "webp": saved("WEBP"),
    "ppm": saved("PPM"),
}


@pytest.mark.parametrize("first", WHOLE)
@pytest.mark.parametrize("filler", [b"", bytes(2), b"\r\n\r\n"])
def test_a_second_image_in_one_message_is_refused(first: str, filler: bytes) -> None:
    """Of two images only the first would be judged."""
    for second in (first, "jpeg", "png"):
        with pytest.raises(DataError, match="more than one image"):
            decode(WHOLE[first] + filler + WHOLE[second])


CUT = {
    **WHOLE,
    "tiff": saved("TIFF"),
    "tiff of OpenCV": cv2.imencode(".tif", photo(), [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes(),
}


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_a_cut_image_before_a_whole_one_is_refused(kind: str, share: float) -> None:
    """Otherwise the second one's bytes would count as the rest of the first, and hide what was there."""
    decode(CUT[kind])
    with pytest.raises(DataError):
        decode(CUT[kind][: round(len(CUT[kind]) * share)] + CUT[kind])


def test_a_second_jpeg_that_is_cut_is_refused_too() -> None:
    """It was sent as an image, so something was to be seen on it."""
    with pytest.raises(DataError, match="more than one image"):
        decode(JPEG + b"vendor" + JPEG[: len(JPEG) // 2])


@pytest.mark.parametrize("first", WHOLE)
@pytest.mark.parametrize("rest", [bytes(5000), b"\r\n", b"AXIS\x01\x02\xff\xd8\xff\x00serial", b"\xff\xd9\xff\xd8"])
def test_other_bytes_after_the_image_are_accepted(first: str, rest: bytes) -> None:
    """Cameras fill up with zeros or add bytes of their own."""
    assert (decode(WHOLE[first] + rest).image == decode(WHOLE[first]).image).all()


def test_previews_within_a_jpeg_and_multi_picture_files_are_accepted() -> None:
    """A preview in the header is no second image. A multi-picture file says that others follow."""
    preview = cv2.imencode(".jpg", photo()[:16, :16])[1].tobytes()
    exif = b"\xff\xe1" + struct.pack(">H", len(preview) + 8) + b"Exif\0\0" + preview
    several = b"\xff\xe2" + struct.pack(">H", 8) + b"MPF\0\0\0"
    for data in (JPEG[:2] + exif + JPEG[2:], JPEG[:2] + several + JPEG[2:] + JPEG):
        assert (decode(data).image == decode(JPEG).image).all()


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def in_pieces(chunks: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    (at,) = [i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT"]
    data = chunks[at][1]
    return [*chunks[:at], *((b"IDAT", data[i : i + size]) for i in range(0, len(data), size)), *chunks[at + 1 :]]


def interlaced_png() -> bytes:
    """An interlaced grey image with its seven passes."""
    grey = photo()[:, :, 0]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in grey[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


@pytest.mark.parametrize("whole", [PNG, interlaced_png()])
def test_a_png_without_one_of_its_parts_is_refused(whole: bytes) -> None:
    """A chunk that is missing, an end that is missing, and a wrong checksum are all found."""
    chunks = in_pieces(png_chunks(whole), 500)
    decode(png_of(chunks))
    for i in range(len(chunks)):
        with pytest.raises(DataError, match="not a readable image"):
            decode(png_of(chunks[:i] + chunks[i + 1 :]))
    for i in range(20, len(whole) - 12, 97):
        with pytest.raises(DataError, match="not a readable image"):
            decode(whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :])


def test_an_interlaced_png_without_its_last_pass_is_refused() -> None:
    """All passes must be there, although the first ones already show the whole picture."""
    chunks = png_chunks(interlaced_png())
    rows = zlib.decompress(chunks[1][1])
    chunks[1] = (b"IDAT", zlib.compress(rows[: len(rows) // 2]))
    with pytest.raises(DataError, match="rows of the PNG image are missing"):
        decode(png_of(chunks))


TIFFS = {
    "plain": saved("TIFF"),
    "lzw": saved("TIFF", compression="tiff_lzw"),
    "deflate": saved("TIFF", compression="tiff_adobe_deflate"),
    "packbits": saved("TIFF", compression="packbits"),
    "strips": cv2.imencode(".tif", photo(), [cv2.IMWRITE_TIFF_ROWSPERSTRIP, 8])[1].tobytes(),
    "big": saved("TIFF", big_tiff=True),
}


def tiff_entry(data: bytes, tag: int) -> int:
    """Where the entry of a tag begins."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    return next(at + 2 + 12 * i for i in range(count) if struct.unpack_from("<H", data, at + 2 + 12 * i) == (tag,))


@pytest.mark.parametrize("kind", [kind for kind in TIFFS if kind != "big"])
@pytest.mark.parametrize("damage", ["no strip", "fewer strips", "shorter strip", "outside"])
def test_a_tiff_with_missing_strips_is_refused(kind: str, damage: str) -> None:
    """libtiff shows a strip without a place in the file as black."""
    data = bytearray(TIFFS[kind])
    at, sizes = tiff_entry(bytes(data), 273), tiff_entry(bytes(data), 279)
    count, first = struct.unpack_from("<II", data, at + 4)
    many = count > 1
    where = first if many else at + 8
    if damage == "no strip":
        struct.pack_into("<I", data, where, 0)
    elif damage == "outside":
        struct.pack_into("<I", data, where, len(data) - 5)
    elif damage == "fewer strips":
        struct.pack_into("<I", data, tiff_entry(bytes(data), 278) + 8, 4)
    else:
        sizes_at = struct.unpack_from("<I", data, sizes + 8)[0] if many else sizes + 8
        form = "<H" if struct.unpack_from("<H", data, sizes + 2) == (3,) else "<I"
        (size,) = struct.unpack_from(form, data, sizes_at)
        struct.pack_into(form, data, sizes_at, size // 2)
    with pytest.raises(DataError, match="not a readable image"):
        decode(bytes(data))


@pytest.mark.parametrize("kind", TIFFS)
def test_a_whole_tiff_is_read(kind: str) -> None:
    """Strips, compressions and 64-bit offsets are all read, and give the same pixels."""
    assert (decode(TIFFS[kind]).image == photo()).all()


def test_a_large_compressed_tiff_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit is far below OpenCV's."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert (decode(TIFFS["lzw"]).image == photo()).all()
    monkeypatch.setattr(tiff, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="the TIFF image has too many pixels"):
        decode(TIFFS["lzw"])


def test_a_preview_in_a_tiff_is_no_further_page() -> None:
    """A page that says that it is a smaller copy of another one shows nothing new."""
    small = Image.fromarray(photo()[:16, :16])
    small_tags = {254: 1}
    for tags, more in ((small_tags, False), ({}, True)):
        file = io.BytesIO()
        page = Image.fromarray(photo())
        small.encoderinfo = {"tiffinfo": tags}
        page.save(file, "TIFF", save_all=True, append_images=[small])
        assert has_more_pages(file.getvalue()) is more


@pytest.mark.parametrize("offset", [1 << 20, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("of", ["directory", "next directory"])
def test_a_large_tiff_whose_offsets_are_damaged(offset: int, of: str) -> None:
    """BigTIFF has offsets of 64 bits. One outside the file is damage, or the end of the pages, and not an internal error."""
    data = bytearray(TIFFS["big"])
    (first,) = struct.unpack_from("<Q", data, 8)
    (entries,) = struct.unpack_from("<Q", data, first)
    struct.pack_into("<Q", data, 8 if of == "directory" else first + 8 + 20 * entries, offset)
    assert not has_more_pages(bytes(data))
    if of == "directory":
        with pytest.raises(StructureError):
            check_structure(bytes(data))


@pytest.mark.parametrize("digits", [21, 5000])
def test_a_portable_map_whose_header_has_a_very_long_number_is_refused(digits: int) -> None:
    """Python refuses to read a number of more than 4300 digits with another error than the one of a damaged image."""
    with pytest.raises(StructureError, match="the header of the portable map is damaged"):
        check_structure(b"P5 " + b"9" * digits + b" 1 255\n" + bytes(100))


TEXT = cv2.imencode(".ppm", photo(), [cv2.IMWRITE_PXM_BINARY, 0])[1].tobytes()
MORE = {"text": TEXT, "text grey": TEXT.replace(b"P3", b"P2", 1).replace(b"83 61", b"249 61", 1)}


@pytest.mark.parametrize("kind", [*WHOLE, *TIFFS, *MORE])
def test_an_image_that_was_cut_is_refused(kind: str) -> None:
    """By the file's own lengths, whatever the version of the decoder makes of it."""
    data = (WHOLE | TIFFS | MORE)[kind]
    decode(data)
    for part in (data[: len(data) * i // 12] for i in range(1, 12)):
        with pytest.raises(DataError, match=r"not a (readable|whole JPEG) image"):
            decode(part)
        with pytest.raises(StructureError):
            check_structure(part)


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    """Also in a chunk that no decoder needs: the file has been changed."""
    chunks = png_chunks(PNG)
    data = bytearray(png_of([chunks[0], (b"tEXt", b"Comment\0left camera"), *chunks[1:]]))
    data[data.index(b"left")] ^= 1
    with pytest.raises(StructureError, match="checksum"):
        check_structure(bytes(data))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: cv2.imencode(".jp2", photo())[1].tobytes(), "not one of JPEG, PNG"),
        (lambda: saved("GIF"), "not one of JPEG, PNG"),
        (lambda: saved("TIFF", compression="jpeg"), "use LZW or Deflate"),
        (lambda: saved("BMP")[:30] + struct.pack("<I", 1) + saved("BMP")[34:], "store it as PNG"),
    ],
)
def test_a_format_that_cannot_be_checked_is_refused(tmp_path: Path, made: Callable[[], bytes], why: str) -> None:
    """Whatever the name of the file says."""
    (tmp_path / "part_17.png").write_bytes(made())
    with pytest.raises(DataError, match=f"part_17.png: not a readable image.*{why}"):
        read_image(tmp_path / "part_17.png")
