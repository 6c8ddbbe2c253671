"""tracking.py on readings made up for the purpose: what flashes, what drops out, what moves, what is another page."""

from __future__ import annotations

import numpy as np
import pytest

from recognition import Digit, Reading
from tracking import Tracker

PAGE = ["157922", "486413", "300987"]
DT = 1 / 30


def reading(lines=PAGE, shift=(0, 0), missing=(), instead=None, extra=()) -> Reading:
    """A page of 30 x 50 digits. missing: places left out; instead: place to digit; extra: more digits."""
    digits = []
    for line, text in enumerate(lines):
        places = [k for k in range(len(text)) if (line, k) not in missing]
        for position, k in enumerate(places):
            label = (instead or {}).get((line, k), int(text[k]))
            box = (100 + 45 * k + shift[0], 100 + 90 * line + shift[1], 30, 50)
            digits.append(Digit(label, 0.95, box, line, position))
    return Reading(640, 480, (*digits, *extra))


def after(tracker: Tracker, readings, start=0.0) -> list[list[str]]:
    """The steady lines after each reading."""
    return [tracker.update(one, start + k * DT).lines for k, one in enumerate(readings)]


def test_the_first_frame_is_believed():
    tracker = Tracker(0.5)
    steady = tracker.update(reading(), 0.0)
    assert steady.lines == PAGE and steady.digits[0].box == (100, 100, 30, 50)
    assert [digit.position for digit in steady.digits] == [0, 1, 2, 3, 4, 5] * 3


def test_a_still_page_reads_the_same_whatever_flickers():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(300):
        missing = {(int(rng.integers(3)), int(rng.integers(6)))} if rng.random() < 0.5 else ()
        instead = {(int(rng.integers(3)), int(rng.integers(6))): int(rng.integers(10))}
        frames.append(reading(missing=missing, instead=instead, shift=tuple(rng.integers(-2, 3, 2))))
    lines = after(Tracker(0.5), [reading(), *frames])
    assert [(k, one) for k, one in enumerate(lines) if one != PAGE] == []


def test_a_speck_that_flashes_is_never_shown():
    speck = Digit(1, 0.99, (300, 20, 8, 40), 0, 0)
    frames = [reading(extra=(speck,) if k % 10 < 2 else ()) for k in range(100)]
    assert all(lines == PAGE for lines in after(Tracker(0.5), [reading(), *frames]))


def test_what_is_a_digit_in_every_third_frame_is_not_shown_for_long():
    """A sheet's edge, now and then cut out with it."""
    edge = Digit(1, 0.99, (40, 20, 8, 60), 0, 0)
    lines = after(Tracker(0.5), [reading(extra=(edge,) if k % 3 == 0 else ()) for k in range(60)])
    assert all(one == PAGE for one in lines[10:])


def test_a_digit_in_a_passing_shadow_stays():
    tracker = Tracker(0.5)
    after(tracker, [reading()] * 60)
    lines = after(tracker, [reading(missing={(1, 2)})] * 15, start=2.0)
    assert all(one == PAGE for one in lines)


def test_a_new_digit_is_shown_within_half_a_second():
    tracker = Tracker(0.5)
    after(tracker, [reading(missing={(1, 5)})] * 30)
    lines = after(tracker, [reading()] * 20, start=1.0)
    assert lines[0] == ["157922", "48641", "300987"] and lines[-1] == PAGE
    assert lines.index(PAGE) * DT <= 0.5


@pytest.mark.parametrize("jump", [(45, 0), (0, 90), (-60, 30), (130, -70)])
def test_a_page_that_jumps_keeps_its_digits_apart(jump):
    """By one digit's place, or one line's: each digit's nearest neighbour is now another one."""
    tracker = Tracker(0.5)
    after(tracker, [reading()] * 30)
    before = {track: track.digit for track in tracker.tracks}
    steady = tracker.update(reading(shift=jump, missing={(0, 0)}), 1.0)
    assert steady.lines == PAGE and {track: track.digit for track in tracker.tracks} == before


def test_a_slow_turn_and_zoom_is_followed():
    tracker = Tracker(0.5)
    for k in range(60):
        angle, zoom = np.radians(8 * np.sin(k / 10)), 1 + 0.2 * np.sin(k / 15)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        digits = []
        for digit in reading().digits:
            x, y = turn @ (np.array(digit.box[:2]) - (230, 215)) + (230, 215)
            box = (round(x), round(y), round(30 * zoom), round(50 * zoom))
            digits.append(Digit(digit.digit, 0.9, box, digit.line, digit.position))
        assert tracker.update(Reading(640, 480, tuple(digits)), k * DT).lines == PAGE
    assert len(tracker.tracks) == 18


def test_another_page_is_read_at_once():
    tracker = Tracker(0.5)
    after(tracker, [reading()] * 60)
    other = [line[::-1] for line in PAGE[::-1]]
    lines = after(tracker, [reading(other)] * 5, start=2.0)
    assert lines[-1] == other


def test_a_page_taken_away_is_gone_soon():
    tracker = Tracker(0.5)
    after(tracker, [reading()] * 30)
    lines = after(tracker, [Reading(640, 480, ())] * 30, start=1.0)
    assert lines[2] == PAGE  # a blurred moment is bridged
    assert lines[12] == [] and tracker.tracks == []


def test_doubtful_boxes_are_rejected_over_time():
    doubtful = Digit(3, 0.3, (500, 100, 30, 50), 0, 6)
    tracker = Tracker(0.5)
    steady = [tracker.update(reading(extra=(doubtful,)), k * DT) for k in range(30)][-1]
    assert steady.lines == PAGE and [box for box, _ in steady.rejected] == [(500, 100, 30, 50)]


def test_a_digit_near_the_least_confidence_does_not_flicker():
    rng = np.random.default_rng(0)
    tracker, shown = Tracker(0.5), []
    for k in range(200):
        doubtful = Digit(3, 0.47 + 0.1 * rng.standard_normal(), (500, 100, 30, 50), 0, 6)
        shown.append(len(tracker.update(reading(extra=(doubtful,)), k * DT).digits))
    assert np.count_nonzero(np.diff(shown)) <= 1


def test_a_digit_whose_bar_comes_off_is_still_one():
    """A 5, half as wide and three quarters as high for some frames, then whole again."""
    whole = reading(missing={(2, 5)}, extra=(Digit(5, 0.99, (325, 280, 54, 44), 2, 5),))
    bare = reading(missing={(2, 5)}, extra=(Digit(5, 0.99, (325, 290, 27, 32), 2, 5),))
    apart = np.random.default_rng(0).random(200) < 0.5
    lines = after(Tracker(0.5), [whole] * 10 + [bare if one else whole for one in apart])
    assert all(one == ["157922", "486413", "300985"] for one in lines)


def test_a_digit_that_is_read_wrong_for_most_of_a_second_keeps_its_label():
    """Where it is in doubt how the page is held decides: wrong for 0.8 of each 3 seconds."""
    frames = [reading(instead={(1, 3): 9} if k % 90 >= 66 else None) for k in range(360)]
    assert all(one == PAGE for one in after(Tracker(0.5), frames))


def test_a_digit_that_is_written_anew_is_shown_within_two_seconds():
    tracker = Tracker(0.5)
    after(tracker, [reading()] * 300)
    lines = after(tracker, [reading(instead={(1, 3): 9})] * 60, start=10.0)
    assert lines[-1] == ["157922", "486913", "300987"]


def test_hundreds_of_digits_and_none():
    tracker = Tracker(0.5)
    many = ["0123456789" * 3] * 12
    steady = [tracker.update(reading(many, shift=(k, k)), k * DT) for k in range(5)][-1]
    assert steady.lines[0] == many[0][:12] or len(steady.digits) > 0  # those whose middle is inside the picture
    assert Tracker(0.5).update(Reading(10, 10, ()), 0.0).lines == []
