import os
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from support.permissions import locked

from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.images import read_image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.config import HoldoutConfig
from anoseg_trainer.data.evaluation_images import find_evaluation_images
from anoseg_trainer.data.good_images import GoodImages, find_good_images, read_good_images
from anoseg_trainer.data.image_size import sizes_from_headers
from anoseg_trainer.data.part_store import PartStoreWriter, whole_placement
from anoseg_trainer.data.parts import Parts, find_parts, held_out_together
from anoseg_trainer.data.split import split_images
from anosegd.capture.pixel_formats import CODES, image_from_raw


def load(data):
    return read_good_images(find_good_images(data))


def write_parts(path, images, spec):
    with PartStoreWriter(path, spec) as writer:
        read_good_images(images, writer.add)
        return writer.finish()


@pytest.fixture(name="write_plates")
def write_plates_fixture(plate):
    def write_plates(folder, n):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(n)
        for i in range(n):
            cv2.imwrite(str(folder / f"{i:02d}.png"), plate(rng))

    return write_plates


def test_both_layouts_read_the_same_images(product):
    """A flat folder gives the same images as the MVTec AD layout."""
    nested, flat = load(product), load(product / "train" / "good")
    assert nested.fingerprint == flat.fingerprint
    assert nested.paths == flat.paths


def test_fingerprint_follows_names_and_bytes(tmp_path, write_plates, plate):
    """Renaming or changing one image changes the fingerprint."""
    write_plates(tmp_path / "a", 10)
    first = load(tmp_path / "a").fingerprint
    (tmp_path / "a" / "03.png").rename(tmp_path / "a" / "33.png")
    renamed = load(tmp_path / "a").fingerprint
    cv2.imwrite(str(tmp_path / "a" / "33.png"), plate(np.random.default_rng(99)))
    assert len({first, renamed, load(tmp_path / "a").fingerprint}) == 3


def test_all_bad_files_are_named(tmp_path, write_plates):
    """A zero-byte and a broken image are refused together, each by name."""
    write_plates(tmp_path, 12)
    (tmp_path / "05.png").write_bytes(b"")
    (tmp_path / "07.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert "2 of 12" in str(error.value)
    assert "05.png" in str(error.value)
    assert "07.png" in str(error.value)


def test_a_jpeg_without_its_tail_is_refused(tmp_path, write_plates):
    """An image whose lower rows are missing does not become a good part, though it ends in an end marker."""
    write_plates(tmp_path, 12)
    data = cv2.imencode(".jpg", cv2.imread(str(tmp_path / "05.png")))[1].tobytes()
    (tmp_path / "05.jpg").write_bytes(data[: len(data) // 2] + data[-2:])
    with pytest.raises(DataError, match=r"05.jpg: not a whole JPEG image"):
        load(tmp_path)


def test_missing_empty_and_small_folders_are_refused(tmp_path, write_plates):
    """No folder, no images, and too few images are data errors that say how to mend them."""
    write_plates(tmp_path / "few", 9)
    (tmp_path / "empty").mkdir()
    for name, words in (("none", "no such folder"), ("empty", "no images"), ("few", "at least 10")):
        with pytest.raises(DataError, match=words):
            load(tmp_path / name)


@pytest.mark.parametrize(("n", "words"), [(0, "no images found"), (3, "3 good images")])
def test_a_refused_folder_says_what_was_not_read(write_plates, tmp_path, n, words):
    """Fifty GIF files are no images, and the message says so."""
    write_plates(tmp_path, n)
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    (tmp_path / "b.avif").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"{words} \(2 files are not read because of their format, such as a.gif\)"):
        find_good_images(tmp_path)


def test_mixed_sizes_grey_and_deep_images_are_noted(tmp_path, write_plates, plate):
    """Mixed sizes, grey and 16-bit images work, and the notes say so."""
    write_plates(tmp_path, 12)
    grey = read_image(tmp_path / "00.png")[:, :, 0]
    cv2.imwrite(str(tmp_path / "00.png"), grey)
    cv2.imwrite(str(tmp_path / "01.png"), grey.astype(np.uint16) * 256)
    cv2.imwrite(str(tmp_path / "02.png"), plate(np.random.default_rng(0), height=60))
    notes = " ".join(load(tmp_path).notes)
    assert "differ in size" in notes
    assert "2 of 12 images are grey" in notes
    assert "1 of 12 images has 16 bit" in notes


def test_12_bit_in_16_are_noted_and_not_mixed(tmp_path, write_plates):
    """Twelve-bit files give the pixels of the 8-bit ones, and a note; beside true 16-bit files they are refused by name."""
    write_plates(tmp_path, 12)
    grey = {path: read_image(path)[:, :, 0] for path in tmp_path.iterdir()}
    for path, image in grey.items():
        cv2.imwrite(str(path), image)
    plain = load(tmp_path)
    for path, image in grey.items():
        cv2.imwrite(str(path), image.astype(np.uint16) * 16)
    twelve = load(tmp_path)
    assert "12 of 12 images have 12 bit in 16" in " ".join(twelve.notes)
    assert twelve.pixel_digests == plain.pixel_digests
    cv2.imwrite(str(tmp_path / "07.png"), read_image(tmp_path / "07.png")[:, :, 0].astype(np.uint16) * 256)
    with pytest.raises(DataError, match=r"00\.png.*12 bit.*07\.png"):
        load(tmp_path)


def test_names_group_images(tmp_path, write_plates):
    """With a pattern, images whose names share its first group are one part."""
    write_plates(tmp_path, 12)
    for path in sorted(tmp_path.iterdir()):
        path.rename(tmp_path / f"part{int(path.stem) // 3}_view{path.stem}.png")
    images = load(tmp_path)
    groups = find_parts(images, r"part(\d+)_").numbers
    assert groups.max() == 3
    assert (np.bincount(groups) == 3).all()


def test_exposures_of_one_part_are_found_by_comparing(tmp_path):
    """Brighter and darker images of one part are grouped; images of different parts are not."""
    rng = np.random.default_rng(2)
    for part in range(8):
        texture = cv2.GaussianBlur(rng.normal(0, 60, (96, 128)).astype(np.float32), (0, 0), 3) * 8 + 120
        for exposure, gain in enumerate((0.6, 1.0, 1.3)):
            shot = np.clip(texture * gain + rng.normal(0, 2, texture.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / f"exp{exposure}_{part}.png"), shot)
    images = load(tmp_path)
    groups = find_parts(images, "").numbers
    parts = [int(p.stem.split("_")[1]) for p in images.paths]
    assert groups.max() == 7
    assert len({(g, p) for g, p in zip(groups, parts, strict=True)}) == 8


def test_names_that_lack_the_group_stand_alone(tmp_path, write_plates):
    """If the group is not part of the match, the image is a part of its own."""
    write_plates(tmp_path, 10)
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(tmp_path / (f"a{i // 3}_{i}.png" if i < 6 else f"b{i}.png"))
    groups = find_parts(load(tmp_path), r"^(?:a(\d)|b)").numbers
    assert sorted(np.bincount(groups)) == [1, 1, 1, 1, 3, 3]


def test_a_pattern_that_matches_no_name_is_not_used(tmp_path, write_plates):
    """The user's own is refused: otherwise each exposure would count as a part. That of an earlier training gives way."""
    write_plates(tmp_path, 12)
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(tmp_path / f"Part{i:02}.png")
    images, notes = load(tmp_path), []
    with pytest.raises(ConfigError, match=r"'\^\(part\\d\+\)' matches none of the file names, such as Part00.png"):
        find_parts(images, r"^(part\d+)")
    compared = find_parts(images, "")
    found = find_parts(images, r"^(part\d+)", notes.append, inherited=True)
    assert (found.known, found.numbers.tolist()) == (compared.known, compared.numbers.tolist())
    assert "the images are compared instead" in notes[0]
    find_parts(images, r"^(Part0\d)", notes.append)
    assert notes[1] == r"'^(Part0\d)' does not match Part10.png, Part11.png: each of these images counts as another part"


def test_copies_are_one_part_whatever_else_is_found(tmp_path, plate):
    """Twenty files with the same pixels, in two formats, are one part: when images are compared, and when names decide."""
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"same{i:02}.{'png' if i % 2 else 'bmp'}"), plate(np.random.default_rng(1)))
        cv2.imwrite(str(tmp_path / f"other{i:02}.png"), plate(np.random.default_rng(100 + i)))
    for pattern in ("", ".+"):
        notes = []
        parts = find_parts(load(tmp_path), pattern, notes.append)
        assert (parts.count, parts.known) == (21, True)
        assert sorted(np.bincount(parts.numbers)) == [1] * 20 + [20]
        assert notes == ["19 of 40 images are copies of others: images with equal pixels count as one part"]


def test_exposures_of_one_part_under_a_fixed_camera_are_found(tmp_path, plate):
    """All thumbnails look alike; the details in which plates differ still tell which images show the same plate."""
    rng = np.random.default_rng(3)
    for part in range(15):
        image = plate(np.random.default_rng(part)).astype(float)
        for exposure, gain in enumerate((0.7, 0.9, 1.0, 1.1)):
            shot = np.clip(image * gain + rng.normal(0, 2, image.shape), 0, 255)
            cv2.imwrite(str(tmp_path / f"{part:02}_{exposure}.png"), shot.astype(np.uint8))
    parts = find_parts(load(tmp_path), "")
    assert parts.known
    assert parts.numbers.tolist() == [part for part in range(15) for _ in range(4)]


@pytest.mark.parametrize("noise", [1, 4])
def test_images_that_differ_by_noise_alone_leave_the_parts_unknown(tmp_path, plate, noise):
    """Forty shots of one plate, or of forty equal plates: nobody can tell, so each counts, and nothing is promised."""
    rng = np.random.default_rng(3)
    image = plate(np.random.default_rng(1))
    for i in range(40):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8))
    notes = []
    parts = find_parts(load(tmp_path), "", notes.append)
    assert (parts.count, parts.known) == (40, False)
    assert "nothing is promised" in notes[0]
    assert "holdout.group" in notes[0]
    assert find_parts(load(tmp_path), ".+").known  # the user says that each image shows another part


def test_parts_that_merely_move_are_not_known_and_near_duplicates_stay_together(tmp_path):
    """A disc that moves by pixels shows no details of its own: no promise, but equal positions are not split."""
    rng = np.random.default_rng(2)
    for i in range(40):
        image = np.full((96, 96), 60, np.uint8)
        cv2.circle(image, (48 + i % 20 // 5, 48 + i % 5), 24, 180, -1)
        noisy = np.clip(image + rng.normal(0, 1, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), noisy)
    parts = find_parts(load(tmp_path), "")
    assert not parts.known
    assert (parts.numbers[:20] == parts.numbers[20:]).all()


def test_images_that_are_alike_are_held_out_together_where_parts_are_not_known(tmp_path, plate):
    """Twelve places, each six times with other dirt: no pair is clearly one place, but the six are held out together."""
    for place in range(12):
        below = plate(np.random.default_rng(place)).astype(float)
        for shot in range(6):
            dirt = plate(np.random.default_rng(100 + 6 * place + shot)).astype(float)
            image = np.clip(0.57 * below + 0.43 * dirt, 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / f"{place:02}_{shot}.png"), image)
    images = load(tmp_path)
    parts = find_parts(images, "")
    assert (parts.known, parts.count) == (False, 72)
    groups = held_out_together(images, parts)
    assert len(set(groups)) == 12
    assert all(len(set(groups[6 * place : 6 * place + 6])) == 1 for place in range(12))
    split = split_images(parts.numbers, HoldoutConfig(), 0, known=parts.known, groups=groups)
    assert not set(groups[list(split.train)]) & set(groups[[*split.validation, *split.calibration]])
    assert split.calibration_groups == len(split.calibration)  # a part counts as before

    known = find_parts(images, ".+")
    assert held_out_together(images, known).tolist() == known.numbers.tolist()


def test_parts_that_appear_at_many_angles_are_not_grouped_by_their_angle(tmp_path):
    """Rods at twelve angles, six times each: their details are alike because of the angle, so each is a part of its own."""
    rng = np.random.default_rng(5)
    for shot in range(72):
        image = rng.normal(60, 6, (96, 96)).astype(np.float32)
        turn = np.deg2rad(15 * (shot % 12) + rng.uniform(-3, 3))
        along = np.array([np.cos(turn), np.sin(turn)]) * 40
        start, end = (tuple(int(v) for v in 48 + sign * along) for sign in (-1, 1))
        cv2.line(image, start, end, 200.0, 9)
        cv2.imwrite(str(tmp_path / f"{shot:02}.png"), np.clip(image, 0, 255).astype(np.uint8))
    unknown = Parts(np.arange(72), known=False)
    assert held_out_together(load(tmp_path), unknown).tolist() == list(range(72))


def test_a_single_image_is_one_part(tmp_path, plate):
    """A folder of one defective image can be compared."""
    cv2.imwrite(str(tmp_path / "one.png"), plate(np.random.default_rng(0)))
    images = read_good_images([tmp_path / "one.png"])
    assert find_parts(images, "").numbers.tolist() == [0]
    assert held_out_together(images, find_parts(images, "")).tolist() == [0]


def test_a_name_that_is_not_utf8_is_accepted(tmp_path, write_plates):
    """File names are bytes: an image may have a name that is not UTF-8."""
    write_plates(tmp_path, 10)
    (tmp_path / "00.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    assert len(load(tmp_path).paths) == 10


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.integers(0, 30), min_size=25, max_size=120),
    validation=st.floats(0.05, 0.3),
    calibration=st.floats(0.05, 0.4),
    seed=st.integers(0, 5),
)
def test_no_part_is_on_two_sides(members, validation, calibration, seed):
    """Whatever the groups, each image is dealt once and a group stays together."""
    groups = np.unique(members, return_inverse=True)[1].astype(np.int64)
    holdout = HoldoutConfig(validation=validation, calibration=calibration)
    try:
        split = split_images(groups, holdout, seed)
    except DataError:
        return
    sides = [split.train, split.validation, split.calibration]
    assert sorted(i for side in sides for i in side) == list(range(len(groups)))
    seen = [set(groups[list(side)]) for side in sides]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert len(seen[2]) == split.calibration_groups
    assert split.calibration_parts == tuple(groups[list(split.calibration)])


def test_the_store_holds_the_scaled_parts(product, tmp_path):
    """A stored part equals the part that an engine would see of that image."""
    spec = InputSpec(64, 96, "tile", 0.5, 8)
    paths = find_good_images(product)
    store = write_parts(tmp_path / "parts", paths, spec)
    image = read_image(paths[3])
    assert (store[3] == whole_placement(spec, image).scaled_part(image)).all()
    assert len(store) == len(paths)


def test_a_full_disk_is_an_error_in_words(product, tmp_path):
    """No space for the scaled parts is an error in words, and no wrong input: starting again may help."""
    (tmp_path / "parts").symlink_to("/dev/full")
    with pytest.raises(AnosegError, match="No space left") as raised:
        write_parts(tmp_path / "parts", find_good_images(product), InputSpec(64, 96))
    assert raised.value.exit_code == 1
    assert not (tmp_path / "parts").is_symlink()


def test_too_few_different_parts_are_refused(tmp_path, write_plates):
    """Twelve copies of one named part cannot be split."""
    write_plates(tmp_path, 1)
    for i in range(1, 12):
        shutil.copy(tmp_path / "00.png", tmp_path / f"{i:02d}.png")
    groups = find_parts(load(tmp_path), r"png").numbers
    with pytest.raises(DataError, match="only 1 different part:"):
        split_images(groups, HoldoutConfig(), 0)


def test_calibration_takes_as_many_parts_as_the_target_needs():
    """As many parts as the target needs, between a tenth and a fifth of all; a configured share is kept."""
    groups = np.arange(1000)
    assert len(split_images(groups, HoldoutConfig(), 0, needed=150).calibration) == 150
    assert len(split_images(groups, HoldoutConfig(), 0, needed=19).calibration) == 100
    assert len(split_images(groups, HoldoutConfig(), 0, needed=999).calibration) == 200
    assert len(split_images(groups, HoldoutConfig(calibration=0.3), 0, needed=19).calibration) == 300
    by_four = np.arange(1000) // 4
    assert split_images(by_four, HoldoutConfig(), 0, needed=40).calibration_groups == 40


@pytest.mark.parametrize("seed", range(10))
def test_parts_are_counted_where_some_have_more_images_than_others(seed):
    """600 parts, photographed once to four times: 99 of them are held out, which is less than a fifth of the images."""
    parts = np.repeat(np.arange(600), np.random.default_rng(seed).integers(1, 5, 600))
    split = split_images(parts, HoldoutConfig(), seed, needed=99)
    assert 99 <= split.calibration_groups <= 115
    assert len(split.calibration) < 0.2 * len(parts)


def test_whole_groups_come_as_near_to_the_wanted_share_as_they_allow():
    """With 11 places of 40 images, two places are nearer to a fifth than three; one is always held out for each purpose."""
    places = np.repeat(np.arange(11), 40)

    def sizes(groups, calibration=None):
        split = split_images(groups, HoldoutConfig(calibration=calibration), 0, needed=99)
        return [len(side) for side in (split.train, split.validation, split.calibration)]

    assert sizes(places) == [320, 40, 80]
    assert sizes(places, calibration=0.1) == [360, 40, 40]
    assert sizes(np.repeat(np.arange(3), 40)) == [40, 40, 40]
    assert sizes(np.repeat(np.arange(7), 40)) == [200, 40, 40]  # 40 or 80 of 280; a fifth is 56


@pytest.mark.parametrize("images", [10, 12, 18, 25])
def test_at_least_two_images_are_held_out_for_each_purpose(images):
    """Two images are the fewest that have a spread."""
    split = split_images(np.arange(images), HoldoutConfig(), 0, needed=99)
    assert min(len(split.validation), len(split.calibration)) >= 2
    assert len(split.train) >= 6


@pytest.mark.parametrize("seed", range(8))
def test_a_group_that_is_too_large_is_learned(seed):
    """One lot of 300 images is not held out while 200 single parts are there for it, wherever it stands in the order."""
    groups = np.concatenate([np.zeros(300, np.int64), np.arange(1, 201)])
    split = split_images(groups, HoldoutConfig(), seed, needed=99)
    assert [len(side) for side in (split.train, split.validation, split.calibration)] == [360, 40, 100]


def test_sizes_from_headers_are_those_of_the_decoded_images(tmp_path):
    """Every format, grey or colour, 8 or 16 bit, a JPEG with an orientation: the header gives the decoded size."""
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    cv2.imwrite(str(tmp_path / "colour.jpg"), image)
    jpeg = (tmp_path / "colour.jpg").read_bytes()
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    for suffix in ("png", "bmp", "webp", "tif", "ppm"):
        cv2.imwrite(str(tmp_path / f"colour.{suffix}"), image)
    for suffix in ("png", "tif", "pgm"):
        cv2.imwrite(str(tmp_path / f"grey.{suffix}"), image[:, :, 0])
        cv2.imwrite(str(tmp_path / f"deep.{suffix}"), image[:, :, 0].astype(np.uint16) * 256)
    paths = find_good_images(tmp_path)
    assert len(paths) == 13
    assert sizes_from_headers(paths) == tuple(read_image(path).shape[:2] for path in paths) == ((40, 56),) * 13


def test_a_broken_header_leaves_the_size_to_the_decoder(tmp_path, write_plates):
    """An image's size comes from its header; a broken file has none."""
    write_plates(tmp_path, 1)
    assert sizes_from_headers([tmp_path / "00.png"]) == ((96, 128),)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert sizes_from_headers([tmp_path / "broken.png"]) is None


@pytest.mark.parametrize("format_", ["tif", "jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_tag_turns_no_image(tmp_path, format_, orientation):
    """Every format is read as stored, as a camera delivers; OpenCV would turn a TIFF."""
    stored = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8), (0, 0), 3)
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if format_ == "webp" else {"quality": 95} if format_ == "jpg" else {}
    Image.fromarray(stored[:, :, ::-1]).save(tmp_path / f"a.{format_}", exif=tag, **options)
    found = read_image(tmp_path / f"a.{format_}")
    assert found.shape == stored.shape
    assert np.abs(found.astype(int) - stored).max() <= (0 if format_ != "jpg" else 16)
    assert sizes_from_headers([tmp_path / f"a.{format_}"]) == ((20, 30),)


@pytest.mark.parametrize(("bits", "camera"), [(10, "Mono10"), (12, None), (14, "Mono14"), (16, None)])
def test_values_that_the_line_would_scale_otherwise_are_noted(tmp_path, bits, camera):
    """A file of 16 bit does not say how many bits its camera had. Multiplied as the note says, it is what the line sees."""
    rng = np.random.default_rng(0)
    for i in range(10):
        values = rng.integers(0, 1 << bits, (48, 64)).astype(np.uint16)
        values[0, 0] = (1 << bits) - 1
        cv2.imwrite(str(tmp_path / f"{i}.png"), values)
    notes = " ".join(load(tmp_path).notes)
    if camera is None:
        assert "values by 4" not in notes
        return
    assert f"the largest value of the images with 16 bit is {(1 << bits) - 1}. If they are from a {camera} camera" in notes
    code = next(code for code, name in CODES.items() if name == camera)
    cv2.imwrite(str(tmp_path / "9.png"), values * 4)
    assert (read_image(tmp_path / "9.png") == image_from_raw(values.tobytes(), code, 48, 64)).all()


def test_what_is_left_out_is_noted(tmp_path, write_plates):
    """Formats that are not read, second pages and animation frames are named; texts and hidden files are not."""
    write_plates(tmp_path, 10)
    pages = [Image.new("RGB", (128, 96), colour) for colour in ("red", "blue")]
    for name in ("a.tif", "b.png", "c.webp", "d.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    for name in ("e.avif", "README.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    notes = " ".join(load(tmp_path).notes)
    assert "only the first page is read of a.tif, b.png, c.webp" in notes
    assert "not read, because of their format: d.gif, e.avif" in notes


def test_many_images_that_look_alike_fit_into_memory():
    """Of 2,000 images under a fixed camera, nearly all of the 2 million pairs are alike: they are not kept one by one."""
    rng = np.random.default_rng(11)
    n = 2000
    thumbnails = 1 + 0.05 * rng.normal(size=(n, 16)).astype(np.float32)
    details = rng.normal(size=(n, 64, 64)).astype(np.float32)
    details = np.stack([cv2.GaussianBlur(detail, (0, 0), 1.5) for detail in details]).reshape(n, -1)
    details[1] = details[0] + 0.01 * details[1]  # the same part twice
    images = GoodImages(
        paths=tuple(Path(f"{i}.png") for i in range(n)),
        sizes_hw=((100, 100),) * n,
        fingerprint="",
        pixel_digests=tuple(f"{i:08d}" for i in range(n)),
        thumbnails=thumbnails / np.linalg.norm(thumbnails, axis=1, keepdims=True),
        details=(details / np.linalg.norm(details, axis=1, keepdims=True)).astype(np.float16),
        levels=np.zeros((n, 8, 8), np.float32),
        spreads=np.zeros(n, np.float32),
        tints=np.zeros((n, 3), np.float32),
        notes=(),
    )
    tracemalloc.start()
    try:
        parts = find_parts(images, "")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parts.known
    assert parts.count == n - 1
    assert parts.numbers[0] == parts.numbers[1]
    assert peak < 250e6  # the details in FP32 take 33 MB, and as pairs of numbers all pairs took 400 MB


@pytest.mark.parametrize("find", [find_good_images, find_evaluation_images])
def test_a_folder_that_the_user_may_not_enter_is_refused(tmp_path, find):
    """In one line, with what to do; not with a traceback, as pathlib's PermissionError would be."""
    (tmp_path / "home" / "parts" / "train" / "good").mkdir(parents=True)
    with locked(tmp_path / "home"), pytest.raises(DataError, match="cannot be looked at") as raised:
        find(tmp_path / "home" / "parts")
    assert "namei -l" in raised.value.hint
