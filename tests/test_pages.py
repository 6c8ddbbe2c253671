"""pages.py: what training sees of paper, and what is not a digit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mnist
import options
import pages
import paper
import touching
from recognition import Recognizer
from touching import likeliest
from utils import load_model, predict


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


@given(st.integers(1, 5), arrays(float, (15, 3), elements=st.floats(0.1, 1)))
def test_shares_are_those_of_all_ways_counted_one_by_one(count, odds):
    groups = [(a, b) for a in range(count) for b in range(a + 1, count + 1)]
    odds = odds[: len(groups)]
    price = np.exp(pages.SHARPER * touching.SHARED)

    def ways(place: int, step: int) -> list[tuple[float, list[tuple[int, int]]]]:
        """From a place and a number of digits on: what each way is worth, and its groups with their digits' numbers."""
        if place == count:
            return [(1.0, [])]
        found = []
        for k, (first, end) in enumerate(groups):
            for then in {end, end - 1} - {first} if end < count else {end}:
                if first == place and then > first and step < odds.shape[1]:
                    worth = odds[k, step] * (1 if then == end else price)
                    found += [(worth * w, [(k, step), *rest]) for w, rest in ways(then, step + 1)]
        return found

    through, whole = pages.shares(groups, count, odds, 1)
    counted, total = np.zeros_like(odds), 0.0
    for worth, steps in ways(0, 0):
        if len(steps) == odds.shape[1]:
            total += worth
            for k, step in steps:
                counted[k, step] += worth
    assert whole == pytest.approx(total)
    assert np.allclose(through, counted / max(total, 1e-300))


def test_what_misleads_the_reader_is_mined(digits):
    network, _ = load_model(options.DEFAULT_WEIGHTS, torch.device("cpu"))
    patches, truth = pages.mined(48, *digits, 0, network)
    alone = pages.hard_pieces(range(48), *digits, 0, network)
    assert np.array_equal(patches, alone[0]) and np.array_equal(truth, alone[1])
    read = torch.softmax(predict(network, torch.from_numpy(patches)), 1).numpy()
    no_digits = truth == pages.NOT_A_DIGIT
    assert 5 < no_digits.sum() < len(truth) - 5
    assert (read[no_digits, :10].max(axis=1) > pages.HARD).all()  # it takes them for digits
