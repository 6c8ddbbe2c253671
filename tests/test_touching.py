"""touching.py: digits that touch taken apart, broken ones put together, and nothing done where nothing is in doubt."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mnist
import options
import pages
import paper
import touching
from finder import AFRESH
from parts import whole
from recognition import Recognizer
from segmentation import GREY, PATCH, SEEN, STRIP, find, patches, strip


@pytest.fixture(scope="module")
def digits():
    images, labels = mnist.load_subset()
    rows = mnist.sample_indices()  # no training has seen them
    return images[rows], labels[rows]


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.floats(-9, 0), min_size=21, max_size=21))))
def test_no_way_of_cutting_without_overlap_is_better_than_the_best_path(case):
    count, values = case
    groups = [(a, b) for a in range(count) for b in range(a + 1, count + 1)]
    scores = dict(zip(groups, values))

    def total(ends: tuple[int, ...]) -> float:
        steps = [0, *ends, count]
        return sum(scores[step] for step in zip(steps, steps[1:]))

    every = [c for k in range(count) for c in itertools.combinations(range(1, count), k)]
    path = touching.best_path(scores, count)
    assert path[0][0] == 0 and path[-1][1] == count
    shared = sum(before[1] - after[0] for before, after in zip(path, path[1:]))
    reached = sum(scores[step] for step in path) + shared * touching.SHARED
    assert reached >= max(map(total, every)) - 1e-9 and 0 <= shared < count
    assert all(before[1] - after[0] in (0, 1) for before, after in zip(path, path[1:]))


@given(
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.floats(0, 1), min_size=30, max_size=30))),
    st.integers(1, 4),
)
def test_no_grouping_without_overlap_is_likelier_to_be_a_text(case, digits_of_it):
    count, values = case
    groups = [(a, b) for a in range(count) for b in range(a + 1, count + 1)]
    beliefs = np.resize(values, (len(groups), 11))
    text = [3, 1, 4, 1][:digits_of_it]
    places = touching.spelled_grouping(groups, beliefs, count, text)
    scores = np.log(np.maximum(beliefs, touching.LEAST))

    def total(steps: list[tuple[int, int]]) -> float:
        return sum(scores[groups.index(step), digit] for step, digit in zip(steps, text))

    ends = [[0, *c, count] for c in itertools.combinations(range(1, count), digits_of_it - 1)]
    every = [list(zip(cut, cut[1:])) for cut in ends]
    if not places:
        assert not every
        return
    path = [groups[place] for place in places]
    shared = sum(before[1] - after[0] for before, after in zip(path, path[1:]))
    assert len(path) == len(text) and path[0][0] == 0 and path[-1][1] == count
    assert total(path) + shared * touching.SHARED >= max(map(total, every), default=-np.inf) - 1e-9


def test_a_strip_is_the_same_for_any_size_and_slope():
    strips = []
    for size, slope in ((30, 0.0), (30, 0.3), (400, -0.2)):
        ink = np.zeros((5 * size, 5 * size), np.uint8)
        middle, along = np.array([2.5 * size] * 2), 0.55 * size * np.array([np.cos(slope), np.sin(slope)])
        for end in (middle - along, middle + along):
            cv2.circle(ink, np.rint(end).astype(int).tolist(), size // 2, 255, max(2, size // 8))
        strips.append(strip(ink, whole(ink), slope).astype(int))
        assert strips[-1].shape[0] == PATCH and strips[-1].shape[1] % 2 == 0
        rows, columns = (np.flatnonzero((strips[-1] > 100).any(axis)) for axis in (1, 0))
        assert abs(np.ptp(rows) + 1 - STRIP) <= 2
        assert min(columns[0], strips[-1].shape[1] - 1 - columns[-1]) >= SEEN / 2 - 2  # paper for what a column sees
    width = max(n.shape[1] for n in strips)
    first, *others = (np.pad(n, ((0, 0), ((width - n.shape[1]) // 2,) * 2)) for n in strips)
    assert all(np.abs(first - other).mean() < 12 for other in others)


def test_a_cut_goes_where_two_discs_touch():
    ink = np.zeros((40, 84), np.uint8)
    for x in (20, 62):
        cv2.circle(ink, (x, 20), 20, 255, 5)
    paths = touching.cuts(ink, 40.0)
    assert 1 <= len(paths) <= touching.CUTS * 84 / 40 and paths.shape[1] == 40
    assert (np.abs(np.diff(paths, axis=1)) <= 1).all() and paths.min() >= 0 and paths.max() < 84
    assert min(abs(path[20] - 41) for path in paths) <= 3
    groups, count = touching.candidates(ink, [whole(ink)], 40.0)
    assert count == len(paths) + 1 and all(0 <= first < end <= count for first, end in groups)
    assert any(abs(part.width - 42) < 6 for part in groups.values())


def test_beside_a_piece_the_rest_of_what_it_was_cut_from_shows_grey():
    ink = np.zeros((60, 100), np.uint8)
    for x in (30, 70):
        cv2.circle(ink, (x, 30), 20, 255, 4)
    both = whole(ink)
    left = both.only(np.where(np.arange(both.width) < both.width // 2, both.mask, 0).astype(np.uint8))
    slope = [0.3]  # a line that falls: what shows beside the piece is turned with it
    alone, seen = (patches(ink, [left], slope, *more)[0].astype(int) for more in ((), (both,)))
    added = seen - alone
    assert 0 <= added.min() and added.max() <= GREY and not added[alone > 250].any()  # its own ink stays as it was
    assert (added > GREY // 2).sum() > 20
    y, x = np.nonzero(added > GREY // 2)
    assert x.min() > 20 and y.mean() < 13  # to the right, and upright again it lies higher
    assert (patches(ink, [both], slope, both) == patches(ink, [both], slope)).all()


@pytest.mark.parametrize("count, least", [(2, 0.8), (3, 0.7)])
def test_strings_of_touching_digits_are_read(digits, reader, count, least):
    right = 0
    for k in range(40):
        page, text = pages.string_page(np.random.default_rng([k, count]), *digits, count)
        right += reader.read(page.picture).lines == [text]
    assert right / 40 >= least


def test_a_string_read_whole_helps_where_no_cut_does(unseen_digits, reader):
    images, labels = unseen_digits.images.numpy(), unseen_digits.labels.numpy()
    only_cuts = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.4, strings=None)
    right = np.zeros(2, int)
    for k in range(200):
        page, text = pages.string_page(np.random.default_rng([k, 3]), images, labels, 3)
        right += [recognizer.read(page.picture).lines == [text] for recognizer in (reader, only_cuts)]
    assert right[0] >= right[1] + 3, right


def test_letters_that_are_joined_are_no_digits(reader):
    only_cuts = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.4, strings=None)
    passed_over = np.zeros(2, int)
    for k in range(200):
        rng = np.random.default_rng([k, 9])
        word = rng.choice([*pages.LETTERS], int(rng.integers(2, 5)))
        signs = np.stack([pages.fit(pages.symbol(letter, None)) for letter in word])  # in a font that no training saw
        picture, _ = pages.on_paper(rng, *pages.strip_of(rng, signs))
        passed_over += [not recognizer.read(picture).lines for recognizer in (reader, only_cuts)]
    assert passed_over[0] >= 160 and passed_over[0] >= passed_over[1] + 10, passed_over


def test_1s_that_touch_are_1s_and_the_strokes_of_a_v_are_none(digits, reader):
    images, labels = digits
    ones, right = images[labels == 1], 0
    for k in range(20):
        page, text = pages.string_page(np.random.default_rng(k), ones, np.ones(len(ones), int), 2)
        right += reader.read(page.picture).lines == [text]
    assert right >= 8  # six in ten lean alike
    rng = np.random.default_rng(0)
    for sign in "V^N":
        line = [pages.fit(pages.symbol(sign, None))], [pages.NOT_A_DIGIT]
        page = paper.write_lines(rng, [line], paper.sheet(rng, (200, 160)), height=50)
        assert reader.read(page.picture).lines == []


def test_a_broken_digit_is_put_together(digits, reader):
    images, labels = digits
    whole_five = images[np.flatnonzero(labels == 5)[3]]
    broken = cv2.resize(whole_five, (84, 84), interpolation=cv2.INTER_CUBIC)
    page = np.full((300, 400), 235, np.uint8)
    page[100:184, 150:234] = 235 - (0.8 * broken).astype(np.uint8)
    before = reader.read(page).lines
    page[138:143] = 235  # a fold in the paper takes the ink away
    assert before == ["5"] and reader.read(page).lines == ["5"]


def test_nothing_is_looked_at_again_where_nothing_is_in_doubt(digits):
    rng = np.random.default_rng(0)
    page = paper.write_lines(rng, [paper.pick(rng, *digits, "157922")], paper.sheet(rng, (640, 200)), height=60)
    found = find(page.picture)

    def judge(_: np.ndarray) -> None:
        raise AssertionError("this would cost time")

    assert touching.reread(found, np.eye(11)[[1, 5, 7, 9, 2, 2]], judge, lambda units: np.ones(6))[0] is found


def test_what_stays_in_doubt_is_looked_at_once(digits, monkeypatch):
    """Live, an unreadable thing on a page costs its cuts in one frame of a second, not in every one."""
    rng = np.random.default_rng(2)
    page = paper.write_lines(rng, [paper.pick(rng, *digits, "157922")], paper.sheet(rng, (640, 300)), height=60)
    picture = paper.draw(
        rng, page.picture, [rng.uniform(0, 1, (9, 2)) * (150, 70) + (400, 200)], 5, paper.PENS["marker"]
    )
    calls = []
    monkeypatch.setattr("recognition.reread", lambda *a: calls.append(1) or touching.reread(*a))
    live = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.4, remember=True)
    moved = [np.roll(picture, (k, 2 * k), axis=(0, 1)) for k in range(AFRESH)]  # by a hand
    readings = [live.read(one) for one in moved]
    assert len(calls) == 2  # at a quarter of the pixels, and closer up
    assert len({tuple(reading.lines) for reading in readings}) == 1
    assert readings[0].rejected and readings[-1].rejected
    live.read(picture)
    assert len(calls) == 4  # what has been seen once is not believed for ever


def test_live_only_what_is_the_same_but_for_noise_is_not_read_again(digits, monkeypatch):
    rng = np.random.default_rng(0)
    page = paper.write_lines(rng, [paper.pick(rng, *digits, "157922")], paper.sheet(rng, (640, 200)), height=60).picture
    live = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.4, remember=True)
    anew, classify = [], live._classify
    monkeypatch.setattr(live, "_classify", lambda patches: anew.append(len(patches)) or classify(patches))

    def read_anew(picture: np.ndarray) -> int:
        anew.clear()
        assert live.read(picture).lines == ["157922"]
        return sum(anew)

    assert read_anew(page) == 6
    assert read_anew(cv2.add(page, rng.normal(0, 3, page.shape), dtype=cv2.CV_8U)) <= 1  # a sensor's noise
    turned = cv2.warpAffine(page, paper.turned((640, 200), 1.5)[:2], (640, 200), borderMode=cv2.BORDER_REPLICATE)
    assert read_anew(turned) >= 4  # a hand that hardly moves


def test_a_page_of_print_is_not_cut_up_for_ever(monkeypatch):
    """Hundreds of letters in doubt: what is looked at again is bounded, and so are its time and memory."""
    page, rng = np.full((480, 640, 3), 245, np.uint8), np.random.default_rng(0)
    for y in range(32, 470, 22):
        text = "".join(rng.choice(list("etaoinshrdlucmfwypvbgkqjxz     "), 58))
        cv2.putText(page, text, (20, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    reader = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.4, remember=True)
    judged: list[int] = []
    network = reader._classify
    monkeypatch.setattr(reader, "_classify", lambda some: judged.append(len(some)) or network(some))
    for _ in range(2):
        judged.clear()
        reader.read(page)
        assert 300 < sum(judged) < 25_000  # 98,000 when every chain was looked at
