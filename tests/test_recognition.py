"""recognition.py: what stands around a sign decides what is read where its shape alone does not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import mnist
import pages
import paper
from recognition import odds_in_context
from segmentation import find
from touching import likeliest, reweighted


def belief(digit: int, probability: float) -> np.ndarray:
    """A network's answer: that digit or none."""
    row = np.zeros(11)
    row[digit], row[pages.NOT_A_DIGIT] = probability, 1 - probability
    return row


def test_what_looks_like_both_is_a_digit_among_digits_and_none_among_letters():
    for around, is_digit in ((0.99, True), (0.01, False)):
        beliefs = np.array([belief(d, p) for d, p in zip((1, 7, 5, 0, 3), (around, around, 0.5, around, around))])
        digits, probabilities = likeliest(reweighted(beliefs, odds_in_context(beliefs, np.zeros(5, int))))
        assert digits.tolist() == [1, 7, 5, 0, 3]
        assert (probabilities > 0.5).tolist() == [is_digit] * 5


def test_a_line_counts_for_more_than_the_page():
    """A telephone number below a word."""
    beliefs = np.array([*(belief(8, 0.02) for _ in range(4)), *(belief(7, 0.98) for _ in range(4)), belief(5, 0.5)])
    in_the_word = odds_in_context(beliefs, np.array([0, 0, 0, 0, 1, 1, 1, 1, 0]))[-1]
    in_the_number = odds_in_context(beliefs, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]))[-1]
    assert in_the_number < 1 < in_the_word


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2)), min_size=1, max_size=30))
def test_odds_are_finite_and_nothing_counts_for_itself(entries):
    beliefs = np.array([belief(3, probability) for probability, _ in entries])
    lines = np.unique([line for _, line in entries], return_inverse=True)[1]
    odds = odds_in_context(beliefs, lines)
    assert odds.shape == (len(entries),) and (odds > 0).all() and np.isfinite(odds).all()
    if len(entries) == 1:
        assert odds.tolist() == [1]


def test_words_are_not_read(reader):
    """Letters of a font that no training saw, five to a line."""
    rng = np.random.default_rng(3)
    read = refused = 0
    for _ in range(12):
        letters = [pages.fit(pages.symbol(str(rng.choice(list(pages.LETTERS))), None)) for _ in range(5)]
        page = paper.write_lines(rng, [(letters, [10] * 5)], paper.sheet(rng, (500, 160)), height=50)
        reading = reader.read(paper.camera(rng, page.picture, 0.6, 2))
        read, refused = read + len(reading.digits), refused + len(reading.rejected)
    assert refused > 50 and refused / (read + refused) > 0.8


def test_digits_are_read_beside_words(reader):
    images, labels = mnist.load_subset()
    rows = mnist.sample_indices()  # no training has seen them
    rng = np.random.default_rng(2)
    word = [pages.fit(pages.symbol(letter, None)) for letter in "WEHAK"]
    digits, truth = paper.pick(rng, images[rows], labels[rows], "157924")
    page = paper.write_lines(rng, [(word, [10] * 5), (digits, truth)], paper.sheet(rng, (500, 260)), height=50)
    assert reader.read(page.picture).lines[-1] == "157924"


def test_what_is_in_doubt_is_looked_at_with_all_the_pictures_pixels(reader, monkeypatch):
    """Small bold digits that touch, out of focus: at half the size they run into each other."""
    images, labels = mnist.load_subset()
    rows = mnist.sample_indices()
    written, pen = [], paper.PENS["marker"]
    for seed in range(16):
        rng = np.random.default_rng(seed)
        texts = ("".join(rng.permutation(list("0123456789"))[:6]) for _ in range(3))
        lines = [paper.pick(rng, images[rows], labels[rows], text) for text in texts]
        page = paper.write_lines(rng, lines, paper.sheet(rng, (640, 480)), 38, pen=pen, gap=(-0.12, 0))
        written.append((paper.camera(rng, page.picture, blur=2.5, noise=3), page.lines))

    def right() -> int:
        return sum(line in reader.read(picture).lines for picture, lines in written for line in lines)

    assert all(find(picture).coarse for picture, _ in written)
    closer = right()
    monkeypatch.setattr("recognition.find", lambda image, single=False, stages=None, **_: find(image, single))
    assert closer >= right() + 5
