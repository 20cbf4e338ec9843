import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from anoseg_engines.errors import DataError
from anoseg_trainer.data.evaluation_images import check_masks, find_evaluation_images, left_out
from anoseg_trainer.data.masks import read_mask

SHAPE = (24, 32)


def drawn():
    """The truth: a rectangle."""
    mask = np.zeros(SHAPE, bool)
    mask[5:15, 8:20] = True
    return mask


def palette(mask):
    """A palette image as labelling programs write it: index 1 is dark red."""
    image = Image.fromarray(mask.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


@pytest.mark.parametrize(
    "save",
    [
        lambda path, mask: cv2.imwrite(str(path), mask.astype(np.uint8) * 255),
        lambda path, mask: cv2.imwrite(str(path), mask.astype(np.uint8)),
        lambda path, mask: cv2.imwrite(str(path), mask.astype(np.uint8) * 7),
        lambda path, mask: cv2.imwrite(str(path), mask.astype(np.uint16) * 0xFFFF),
        lambda path, mask: cv2.imwrite(str(path), mask[:, :, None].astype(np.uint8) * np.uint8([0, 0, 255])),
        lambda path, mask: Image.fromarray(mask).save(path),
        lambda path, mask: palette(mask).save(path),
        lambda path, mask: cv2.imwrite(
            str(path), np.dstack([mask.astype(np.uint8) * 255] * 3 + [np.full(SHAPE, 255, np.uint8)])
        ),
        lambda path, mask: cv2.imwrite(str(path), np.where(mask, 250, 3).astype(np.uint8)),
    ],
    ids=["255", "1", "7", "16 bit", "red", "1 bit", "palette", "opaque alpha", "nearly black and white"],
)
def test_plainly_binary_masks_are_read(tmp_path, save):
    """Whatever the one colour beside black is, the mask is the drawn one."""
    save(tmp_path / "a.png", drawn())
    assert (read_mask(tmp_path / "a.png") == drawn()).all()


def test_an_empty_mask_is_one(tmp_path):
    """All black: nothing is marked."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(SHAPE, np.uint8))
    assert not read_mask(tmp_path / "a.png").any()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (cv2.GaussianBlur(drawn().astype(np.uint8) * 255, (0, 0), 2), "colours beside black"),
        (drawn().astype(np.uint8) + 2 * np.eye(*SHAPE, dtype=np.uint8), "2 colours beside black|3 colours beside black"),
        (np.dstack([np.zeros((*SHAPE, 3), np.uint8), drawn().astype(np.uint8) * 255]), "partly transparent"),
    ],
    ids=["soft edges", "two labels", "alpha"],
)
def test_other_masks_are_refused_by_name(tmp_path, image, words):
    """Grey levels, several labels and transparency: no guess is made."""
    cv2.imwrite(str(tmp_path / "part_7.png"), image)
    with pytest.raises(DataError, match=rf"part_7.png.*({words})"):
        read_mask(tmp_path / "part_7.png")


@pytest.fixture
def tests_folder(tmp_path):
    """Two good and three defective images with masks."""
    rng = np.random.default_rng(0)
    for folder in ("test/good", "test/spot", "ground_truth/spot"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        image = rng.integers(0, 255, (*SHAPE, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"test/good/{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"test/spot/{i}.png"), 255 - image)
        cv2.imwrite(str(tmp_path / f"ground_truth/spot/{i}_mask.png"), drawn().astype(np.uint8))
    return tmp_path


def test_all_unusable_masks_are_named_at_once(tests_folder):
    """Two of three masks have soft edges: both are named before anything is inspected."""
    for i in (0, 2):
        soft = cv2.GaussianBlur(drawn().astype(np.uint8) * 255, (0, 0), 2)
        cv2.imwrite(str(tests_folder / f"ground_truth/spot/{i}_mask.png"), soft)
    with pytest.raises(DataError, match=r"(?s)2 masks cannot be used.*0_mask.png.*2_mask.png"):
        check_masks(find_evaluation_images(tests_folder))


def test_empty_and_inverted_masks_are_noted(tests_folder):
    """An image whose mask is empty is left out, and said; so is a mask that marks most of the image."""
    cv2.imwrite(str(tests_folder / "ground_truth/spot/0_mask.png"), np.zeros(SHAPE, np.uint8))
    cv2.imwrite(str(tests_folder / "ground_truth/spot/1_mask.png"), (~drawn()).astype(np.uint8) * 255)
    empty, large = check_masks(find_evaluation_images(tests_folder))
    assert "left out of the pixel metrics" in empty
    assert "0.png" in empty
    assert "more than half" in large
    assert "1_mask.png" in large


def test_defects_need_not_be_marked(tests_folder):
    """Without a folder of masks for a kind of defect, its images have none, which is said. A missing mask is refused."""
    (tests_folder / "test/crack").mkdir()
    cv2.imwrite(str(tests_folder / "test/crack/7.png"), np.zeros((*SHAPE, 3), np.uint8))
    tests = find_evaluation_images(tests_folder)
    (note,) = check_masks(tests)
    assert note == "left out of the pixel metrics, because there is no folder of masks: ground_truth/crack"
    image = np.zeros((*SHAPE, 3), np.uint8)
    masks = {test.defect: test.read_mask(image) for test in tests}
    assert masks["crack"] is None
    assert not masks["good"].any()
    assert masks["spot"].any()
    (tests_folder / "ground_truth/spot/1_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 mask is missing:\n.*ground_truth/spot/1_mask.png"):
        find_evaluation_images(tests_folder)


def test_masks_of_another_size_are_all_named(tests_folder):
    """Before anything is inspected, with both sizes."""
    for name in ("0", "1"):
        cv2.imwrite(str(tests_folder / f"ground_truth/spot/{name}_mask.png"), np.zeros((SHAPE[0] + 1, SHAPE[1]), np.uint8))
    with pytest.raises(DataError, match="2 masks cannot be used") as caught:
        check_masks(find_evaluation_images(tests_folder))
    for name in ("0", "1"):
        assert f"{name}_mask.png: the mask is {SHAPE[1]}×{SHAPE[0] + 1}, its image {SHAPE[1]}×{SHAPE[0]}" in str(caught.value)


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_that_only_the_image_has_is_refused(tests_folder, orientation):
    """Was the mask drawn on the pixels as stored, or as shown? Nobody can tell, so the image is named."""
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = orientation
    path = tests_folder / "test/spot/1.png"
    Image.open(path).save(path, exif=tag)
    with pytest.raises(DataError, match=rf"1.png.*orientation \({orientation}\)"):
        check_masks(find_evaluation_images(tests_folder))
    mask = tests_folder / "ground_truth/spot/1_mask.png"
    Image.open(mask).save(mask, exif=tag)
    assert check_masks(find_evaluation_images(tests_folder)) == []


def test_files_that_are_not_looked_at_are_said(tests_folder):
    """Other formats, further pages, masks without an image, images beside the folders, empty folders."""
    test = tests_folder / "test"
    (test / "spot" / "x.gif").write_bytes(b"x")
    (test / "scratch").mkdir()
    cv2.imwrite(str(test / "loose.png"), np.zeros((*SHAPE, 3), np.uint8))
    cv2.imwrite(str(tests_folder / "ground_truth/spot/9_mask.png"), drawn().astype(np.uint8))
    pages = [Image.new("RGB", SHAPE[::-1], colour) for colour in ("red", "blue")]
    pages[0].save(test / "good" / "p.tif", save_all=True, append_images=pages[1:])
    notes = "\n".join(left_out(tests_folder, find_evaluation_images(tests_folder)))
    for words in (
        "not read, because of their format: x.gif",
        "beside the folders test/<defect> are not read: loose.png",
        "masks without an image: 9_mask.png",
        "folders without an image: scratch",
        "only the first page is read: p.tif",
    ):
        assert words in notes


def test_a_flat_folder_is_told_what_evaluate_needs(tests_folder):
    """The number of images that were found, and the layout."""
    with pytest.raises(DataError, match=r"flat folder of 3 images") as error:
        find_evaluation_images(tests_folder / "test" / "good")
    assert "ground_truth/<defect>/<name>_mask.png" in str(error.value)


def test_a_mask_that_is_not_whole_is_refused(tmp_path):
    """A JPEG mask without its tail would mark less than was drawn."""
    data = cv2.imencode(".jpg", drawn().astype(np.uint8) * 255)[1].tobytes()
    path = tmp_path / "mask.jpg"
    path.write_bytes(data[: len(data) - 30] + data[-2:])
    with pytest.raises(DataError, match=r"mask.jpg.*not a whole JPEG image"):
        read_mask(path)
