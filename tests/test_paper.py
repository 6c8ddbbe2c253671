"""The page composer: what it says about a page is what stands on it. And the sample pictures that it made."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import paper
from mnist import load_subset, sample_indices
from paper import PENS, Page, Pen, lay_out, pick, put, sheet, turned, view, write_lines
from samples.make_samples import PICTURES
from samples.make_samples import main as make_samples

ROOT = Path(__file__).parent.parent
IMAGES, LABELS = load_subset()
BLACK = Pen((0, 0, 0), opacity=1)


def digits(*lines: str, seed: int = 0) -> list[paper.Line]:
    rng = np.random.default_rng(seed)
    return [pick(rng, IMAGES, LABELS, line) for line in lines]


@st.composite
def writings(draw):
    """Lines of digits of any size, slope and pen, as arguments of lay_out."""
    lines = draw(st.lists(st.text("0123456789", min_size=1, max_size=5), min_size=1, max_size=4))
    seed = draw(st.integers(0, 2**32))
    biggest = 400 if len(lines) == 1 else 120  # big pages are slow, not different
    return {
        "rng": np.random.default_rng(seed),
        "lines": digits(*lines, seed=seed),
        "height": draw(st.lists(st.floats(15, biggest), min_size=len(lines), max_size=len(lines))),
        "slope": draw(st.lists(st.floats(-30, 30), min_size=len(lines), max_size=len(lines))),
        "pen": draw(st.sampled_from([*PENS.values(), BLACK, Pen(width=None)])),
    }


def ink(picture: np.ndarray) -> np.ndarray:
    """Where a white page is at least half black."""
    return picture.max(axis=2) < 128


def assert_boxes_fit(page: Page, slack: int) -> None:
    """Every box lies in the picture, ink comes near each of its sides, and there is no ink outside the boxes."""
    mask = ink(page.picture)
    outside = mask.copy()
    for x, y, w, h in page.boxes:
        assert x >= 0 and y >= 0 and x + w <= mask.shape[1] and y + h <= mask.shape[0] and w > 0 and h > 0
        ys, xs = np.nonzero(mask[y : y + h, x : x + w])
        assert max(xs.min(), ys.min(), w - 1 - xs.max(), h - 1 - ys.max()) <= slack
        outside[max(0, y - slack) : y + h + slack, max(0, x - slack) : x + w + slack] = False
    assert not outside.any()


@settings(max_examples=40, deadline=None)
@given(writings())
def test_a_page_is_what_it_says(arguments):
    rng, lines = arguments["rng"], arguments["lines"]
    width = arguments["pen"].width
    width = width and max(width, 1.5 / min(arguments["height"]))  # thinner than a pixel, ink is grey, not black
    arguments["pen"] = Pen((0, 0, 0), width, opacity=1)
    writing = lay_out(**arguments)
    page = put(rng, writing, sheet(rng, [n + 9 for n in writing.size], (255, 255, 255), 0))
    assert page.lines == ["".join(map(str, labels)) for _, labels in lines]
    assert page.labels.tolist() == [label for _, labels in lines for label in labels]
    assert page.position.tolist() == [place for _, labels in lines for place in range(len(labels))]
    assert (np.diff(page.line) >= 0).all()
    assert page.boxes.shape == (len(page.labels), 4) and page.boxes.dtype == np.int32
    assert_boxes_fit(page, slack=1)


@settings(max_examples=40, deadline=None)
@given(writings())
def test_no_digit_touches_another(arguments):
    writing = lay_out(**arguments)
    owners = np.zeros((writing.size[1] + 4, writing.size[0] + 4), np.uint8)
    for cover, (x, y) in zip(writing.inks, writing.places + 2):
        canvas = np.zeros_like(owners)
        ground = canvas[max(0, y) : y + cover.shape[0], max(0, x) : x + cover.shape[1]]
        ground[:] = (cover[max(0, -y) :, max(0, -x) :] >= 0.5 * cover.max())[: ground.shape[0], : ground.shape[1]]
        owners += cv2.dilate(canvas, np.ones((3, 3), np.uint8))
    assert owners.max() == 1


def test_digits_overlap_when_asked():
    apart, over = (lay_out(np.random.default_rng(0), digits("808"), gap=gap) for gap in ((0.1, 0.1), (-0.2, -0.2)))
    rights = [[hull[:, 0].max() for hull in writing.hulls] for writing in (apart, over)]
    lefts = [[hull[:, 0].min() for hull in writing.hulls] for writing in (apart, over)]
    assert rights[0][0] < lefts[0][1] and rights[1][0] > lefts[1][1]


def test_lines_keep_their_pitch():
    writing = lay_out(np.random.default_rng(0), digits("123", "45", "6"), 40, pitch=100)
    assert np.diff(writing.baselines).tolist() == [100, 100]


@pytest.mark.parametrize("pen", PENS, ids=str)
def test_same_seed_same_page(pen):
    def page():
        rng = np.random.default_rng(7)
        written = write_lines(rng, digits("314", "15"), sheet(rng, (500, 300)), 40, 5, PENS[pen])
        return written.seen(lambda picture: paper.camera(rng, picture, 0.5, 2, 90))

    first, second = page(), page()
    assert np.array_equal(first.picture, second.picture) and np.array_equal(first.boxes, second.boxes)


@pytest.mark.parametrize("height", [40, 100, 400])
@pytest.mark.parametrize("width", [0.05, 0.09, 0.16])
def test_stroke_width_is_the_pens(height, width):
    (patches, _) = digits("1111111111")[0]
    found = []
    for patch in patches:
        cover, _ = paper.ink_of(patch, height, width=width)
        length = cv2.countNonZero(paper.skeleton((cover > 0.5).astype(np.uint8)))
        found.append(float(cover.sum()) / (length + width * height))  # a round end adds half a width
    assert np.median(found) == pytest.approx(width * height, rel=0.25)


@pytest.mark.parametrize("width", [None, 0.05, 0.09, 0.16])
def test_loops_stay_open(width):
    """An 8 whose upper bow a broad pen fills is a 6, and a 6 without its loop is nothing."""

    def loops(ink: np.ndarray) -> int:
        return cv2.connectedComponents((ink < 0.5).astype(np.uint8), connectivity=4)[0] - 2

    looped = IMAGES[np.isin(LABELS, (0, 6, 8, 9))][::5]
    in_mnist = np.array([loops(cv2.resize(n / 255, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)) for n in looped])
    drawn = np.array([loops(np.pad(paper.ink_of(n, 80, width=width)[0], 1)) for n in looped])
    assert (drawn < in_mnist).mean() < 0.03


def test_stroke_edges_are_smooth_when_big():
    """No steps of the 28x28 patch at 20 times its size: taking out what is shorter than a step shortens no outline."""

    def length(outline: np.ndarray, window: int) -> float:
        """Of an outline, K x 2, averaged over a window."""
        wrapped = np.vstack((outline[-window:], outline, outline[:window]))
        mean = [np.convolve(side, np.ones(window) / window, "same")[window:-window] for side in wrapped.T]
        return np.hypot(*(np.diff(side, append=side[0]) for side in mean)).sum()

    cover, _ = paper.ink_of(digits("0")[0][0][0], 400)
    outlines, _ = cv2.findContours((cover > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        assert length(outline.reshape(-1, 2), 5) < 1.04 * length(outline.reshape(-1, 2), 31)  # enlarged bluntly: 1.12


def test_scanning_dirt_is_not_written():
    patch = np.zeros((28, 28), np.uint8)
    patch[5:23, 10:13] = 255
    clean, _ = paper.ink_of(patch, 100)
    patch[8:10, 18] = 255
    dirty, _ = paper.ink_of(patch, 100)
    assert cv2.boundingRect((dirty > 0).astype(np.uint8))[2:] == cv2.boundingRect((clean > 0).astype(np.uint8))[2:]


@settings(max_examples=25, deadline=None)
@given(st.floats(-40, 40), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.floats(0.6, 1.6))
def test_boxes_move_with_the_view(degrees, right, down, zoom):
    rng = np.random.default_rng(3)
    page = write_lines(rng, digits("2718", "281"), sheet(rng, (400, 300), (255, 255, 255), 0), 50, 0, BLACK, (90, 70))
    matrix = turned((400, 300), degrees, (right, down), zoom, frame=(1400, 1400))
    assert_boxes_fit(view(page, matrix, (1400, 1400), (255, 255, 255)), slack=3)


def test_view_unmoved_and_away():
    rng = np.random.default_rng(3)
    page = write_lines(rng, digits("2718"), sheet(rng, (400, 300)), 50)
    same = view(page, turned((400, 300)), (400, 300))
    assert np.array_equal(same.picture, page.picture) and np.array_equal(same.boxes, page.boxes)
    assert view(page, turned((400, 300), shift=(2, 0)), (400, 300)).lines == []


@pytest.mark.parametrize(
    "change",
    [
        lambda p: paper.light(p, 0.3, 70, 0.4, (0.9, 1, 1)),
        lambda p: paper.shadow(p, [(0.2, 0.2), (1.3, 0.4), (0.5, 1.2)]),
        lambda p: paper.shadow(p, [(0, 0), (1, 0), (0, 1)], softness=0),
        lambda p: paper.ruled(p, 9.5),
        lambda p: paper.grid(p, 12),
        lambda p: paper.camera(np.random.default_rng(0), p, 1, 4, 70),
        lambda p: paper.draw(np.random.default_rng(0), p, [np.array([(-9, 3), (20, 30.5)])], 3, PENS["pencil"]),
        lambda p: paper.draw(np.random.default_rng(0), p, [np.array([(-9, -3), (-20, -30)])], 3, PENS["chalk"]),
    ],
)
@pytest.mark.parametrize("size", [(640, 480), (31, 47), (1, 1)])
def test_changes_make_a_new_picture_of_the_same_size(change, size):
    picture = sheet(np.random.default_rng(0), size)
    before = picture.copy()
    changed = change(picture)
    assert changed.shape == picture.shape and changed.dtype == np.uint8 and np.array_equal(picture, before)


def test_light_and_ink_only_darken_and_chalk_covers():
    rng = np.random.default_rng(0)
    paper_, board = sheet(rng, (300, 200)), sheet(rng, (300, 200), (60, 70, 55))
    assert (paper.light(paper_, 0.4, vignette=0.3) <= paper_).all()
    assert (write_lines(rng, digits("12"), paper_, 60, pen=PENS["blue"]).picture <= paper_).all()
    assert write_lines(rng, digits("12"), board, 60, pen=PENS["chalk"]).picture.max() > 180


def test_a_writing_that_does_not_fit_and_one_without_ink_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="leaves"):
        write_lines(rng, digits("123456"), sheet(rng, (100, 100)), 50)
    with pytest.raises(ValueError, match="without ink"):
        lay_out(rng, [(np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.int64))])


def test_nothing_written():
    rng = np.random.default_rng(0)
    page = write_lines(rng, [], sheet(rng, (50, 40)))
    assert page.lines == [] and page.boxes.shape == (0, 4) and page.position.shape == (0,)


def test_writings_share_a_page():
    rng = np.random.default_rng(0)
    page = write_lines(rng, digits("12"), sheet(rng, (300, 300)), 40, at=(5, 5))
    assert write_lines(rng, digits("345", "6"), page, 40, at=(5, 120)).lines == ["12", "345", "6"]


def test_pick():
    images, labels = pick(np.random.default_rng(0), IMAGES, LABELS, "9905")
    assert labels.tolist() == [9, 9, 0, 5] and not np.array_equal(images[0], images[1])
    assert len(pick(np.random.default_rng(0), IMAGES[:1], LABELS[:1], "000")[0]) == 3


# ---- the embedded subset and the sample pictures --------------------------------------------------------------------


def test_sample_digits_are_twenty_a_class():
    rows = sample_indices()
    assert len(set(rows.tolist())) == 200 and rows.min() >= 0 and rows.max() < len(LABELS)
    assert np.bincount(LABELS[rows]).tolist() == [20] * 10
    assert np.bincount(LABELS).tolist() == [500] * 10 and IMAGES.shape == (5000, 28, 28) and IMAGES.dtype == np.uint8


@pytest.fixture(scope="module")
def truth():
    return json.loads((ROOT / "samples" / "truth.json").read_text(encoding="utf-8"))["images"]


def test_truth_is_of_the_files(truth):
    pictures = {file.name for kind in ("*.jpg", "*.png") for file in (ROOT / "samples").glob(kind)}
    assert {row["file"] for row in truth} == pictures and len(truth) == len(PICTURES)
    assert sum(not row["lines"] for row in truth) == 2
    for row in truth:
        file = ROOT / "samples" / row["file"]
        height, width, _ = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR).shape
        assert (row["width"], row["height"]) == (width, height) and file.stat().st_size < 700_000
        lines = [""] * len(row["lines"])
        for digit in row["digits"]:
            x, y, w, h = digit["box"]
            assert 0 <= x < x + w <= width and 0 <= y < y + h <= height
            assert digit["position"] == len(lines[digit["line"]])
            lines[digit["line"]] += str(digit["digit"])
        assert lines == row["lines"]


def test_samples_are_made_as_the_script_says(truth, tmp_path):
    """The same digits at the same places; the pictures' bytes may differ with the libraries' versions."""
    assert make_samples(["--output", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))["images"]
    assert [(row["file"], row["lines"]) for row in again] == [(row["file"], row["lines"]) for row in truth]
    places = [np.array([d["box"] for row in rows for d in row["digits"]]) for rows in (again, truth)]
    assert np.abs(places[0] - places[1]).max() <= 2
