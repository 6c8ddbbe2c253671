"""pages.py: what training sees of paper, and what is not a digit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import mnist
import options
import pages
import paper
import segmentation
from recognition import Recognizer
from touching import likeliest


@pytest.fixture(scope="module")
def digits():
    return mnist.load_subset()


def test_what_is_no_digit_is_drawn_as_a_patch(digits):
    rng = np.random.default_rng(0)
    patches = [pages.no_digit(rng, *digits) for _ in range(200)]
    for patch in patches:
        assert patch.shape == (28, 28) and patch.dtype == np.uint8 and patch.max() > 128
        _, _, w, h = cv2.boundingRect((patch > 0).astype(np.uint8))
        assert max(w, h) <= pages.BOX + 1
    assert len({patch.tobytes() for patch in patches}) > 190  # they vary


def test_candidate_cuts_give_right_and_wrong_pieces(digits):
    patches, labels = pages.cut_strings(np.random.default_rng(0), *digits, number=40)
    assert patches.shape == (len(labels), 28, 28) and len(labels) > 150
    assert 0.3 < (labels == pages.NOT_A_DIGIT).mean() < 0.8 and set(labels.tolist()) == set(range(11))
    right = labels < pages.NOT_A_DIGIT
    read, _ = likeliest(Recognizer(options.DEFAULT_WEIGHTS, "cpu").classify(patches[right]))
    assert (read == labels[right]).mean() > 0.85  # with a neighbour's strokes at the side


def test_strings_touch(digits):
    for seed in range(20):
        strip, owners = pages.strip_of(np.random.default_rng(seed), digits[0][seed : seed + 3])
        assert owners.shape == (3, *strip.shape) and (strip[owners.any(axis=0)] > 64).all()
        count, _ = cv2.connectedComponents(cv2.dilate((strip > 100).astype(np.uint8), np.ones((3, 3))))
        assert count <= 3  # paper, and one component; a digit may be broken itself


def test_whose_ink_is_where_on_a_written_string(digits):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        strip, owners, labels = pages.random_strip(rng, *digits)
        picture, where = pages.on_paper(rng, strip, owners)
        assert where.shape == (len(labels), *picture.shape[:2]) and where.any(axis=(1, 2)).all()
        grey = picture.min(axis=2).astype(float)  # coloured ink is dark in one channel at least
        around = cv2.dilate(where.any(axis=0).astype(np.uint8), np.ones((15, 15))) > 0
        assert grey[where.any(axis=0)].mean() < grey[around & ~where.any(axis=0)].mean() - 15
        found = segmentation.find(picture)
        ink = cv2.resize(found.mask, grey.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0  # small writing is enlarged
        assert (ink & around).sum() >= 0.95 * ink.sum()


def test_the_digits_cut_out_of_pages_are_the_ones_written(digits):
    patches, labels = pages.cut_pages(range(30), *digits, seed=1)
    assert patches.shape == (len(labels), 28, 28) and patches.dtype == np.uint8
    assert set(labels.tolist()) == set(range(11))
    is_digit = labels < pages.NOT_A_DIGIT
    assert 0.4 < is_digit.mean() < 0.9
    read, _ = likeliest(Recognizer(options.DEFAULT_WEIGHTS, "cpu").classify(patches[is_digit]))
    assert (read == labels[is_digit]).mean() > 0.93  # thin, blurred and shadowed ones among them


def test_boxes_are_labelled_by_what_they_hold(digits):
    rng = np.random.default_rng(0)
    line = paper.pick(rng, *digits, "2580")
    page = paper.write_lines(rng, [line], paper.sheet(rng, (500, 200)), height=60, unsteady=0.0)
    x, y, w, h = page.boxes.T
    last = len(x) - 1
    pair = [x[0], y[:2].min(), x[1] + w[1] - x[0], h[:2].max()]
    half = [x[0], y[0], w[0], h[0] // 3]
    nothing = [2, 2, 20, 20]
    boxes = np.array([*page.boxes, pair, half, nothing])
    assert pages.label_segments(page, boxes).tolist() == [2, 5, 8, 0, 10, 10, 10]
    assert last == 3 and pages.label_segments(page, boxes[:0]).tolist() == []


def test_pages_are_kept_and_do_not_depend_on_the_processes(digits, tmp_path):
    images, labels = digits[0][::50], digits[1][::50]
    made = pages.written(20, images, labels, 3, tmp_path)
    (file,) = tmp_path.glob("written-*.npz")
    before = file.stat().st_mtime_ns
    again = pages.written(20, images, labels, 3, tmp_path)
    assert file.stat().st_mtime_ns == before and all(np.array_equal(a, b) for a, b in zip(made, again))
    alone = pages.cut_pages(range(20), images, labels, 3)
    assert all(np.array_equal(a, b) for a, b in zip(made, alone))
    pages.written(20, images, labels, 4, tmp_path)
    assert len(list(tmp_path.glob("written-*.npz"))) == 2
