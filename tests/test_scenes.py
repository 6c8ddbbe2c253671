"""Pictures as people take them: a sheet on a desk or held before a room, tables, squared paper, a digit that fills all.

SCENES composes them from any digits; benchmarks/scenes.py reads many of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_demo import errors_between

import mnist
import options
import pages
import paper
import segmentation
from paper import Page, Pen, Size
from recognition import Recognizer
from samples.make_samples import wood
from segmentation import contact_sheet, segment

Rng = np.random.Generator
Digits = tuple[np.ndarray, np.ndarray]  # N x 28 x 28 uint8 and N labels
Scene = Callable[[Rng, Digits], Page]
FINGER = (120, 150, 205)


def lines_of(rng: Rng, digits: Digits, lines: tuple[int, int], length: tuple[int, int]) -> list[paper.Line]:
    """Some lines of some digits each; lines, length: at least and at most."""
    rows = [
        rng.integers(len(digits[0]), size=rng.integers(length[0], length[1] + 1)) for _ in range(rng.integers(*lines))
    ]
    return [(digits[0][row], digits[1][row].astype(np.int64)) for row in rows]


def snap(rng: Rng, page: Page, blur: tuple[float, float] = (0.4, 1.2), low: float = 0.5) -> Page:
    """In the light of a lamp, as a phone saves it."""
    page = page.seen(lambda p: paper.light(p, rng.uniform(low, 1), rng.uniform(0, 360), rng.uniform(0, 0.2)))
    return page.seen(lambda p: paper.camera(rng, p, rng.uniform(*blur), 3, 85))


def written(rng: Rng, lines: list[paper.Line], sheet: Callable[[Size], np.ndarray], **how: object) -> Page:
    """The lines on a sheet with some room around; how: of `paper.lay_out`."""
    how = {"height": rng.uniform(40, 70), "slope": rng.uniform(-4, 4), "pen": pages.random_pen(rng), **how}
    writing = paper.lay_out(rng, lines, **how)
    size = tuple(int(n + rng.integers(60, 200)) for n in writing.size)
    return paper.put(rng, writing, sheet(size))


def laid(rng: Rng, page: Page, frame: Size, around: np.ndarray, most: float = 0.85) -> Page:
    """The page as a sheet in a frame of that size, turned and tilted, before what is around it."""
    size = page.picture.shape[1::-1]
    zoom = min(frame[0] / size[0], frame[1] / size[1]) * rng.uniform(0.5, most)
    for _ in range(20):
        matrix = paper.turned(size, rng.uniform(-9, 9), tuple(rng.uniform(-0.12, 0.12, 2)), zoom, frame=frame)
        seen = paper.view(page, matrix, frame, around)
        if len(seen.labels) == len(page.labels):
            return seen
    raise AssertionError("a page that is half as large as the frame fits into it")


def desk(rng: Rng, size: Size) -> np.ndarray:
    """A table's top of some colour."""
    shade = np.array(((60, 90, 130), (40, 50, 70), (90, 90, 90), (150, 170, 190), (30, 30, 35))[rng.integers(5)])
    grain = wood(rng, size) / np.array((72, 108, 150))
    return np.clip(grain * shade + rng.normal(0, 4, (size[1], size[0], 1)), 0, 255).astype(np.uint8)


def room(rng: Rng, size: Size) -> np.ndarray:
    """What stands behind who holds a sheet up: things of all colours, out of focus."""
    picture = np.full((size[1], size[0], 3), rng.uniform(60, 170, 3), np.uint8)
    for _ in range(int(rng.integers(10, 30))):
        first, second = np.int32(rng.uniform(-0.2, 1.2, (2, 2)) * size).tolist()
        colour, kind = tuple(rng.uniform(10, 210, 3)), rng.integers(3)
        if kind == 0:
            cv2.rectangle(picture, first, second, colour, cv2.FILLED)
        elif kind == 1:
            axes = np.abs(np.subtract(second, first)).tolist()
            cv2.ellipse(picture, first, axes, rng.uniform(0, 180), 0, 360, colour, cv2.FILLED, cv2.LINE_AA)
        else:
            cv2.line(picture, first, second, colour, int(rng.integers(1, 12)), cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 4))


def fingers(rng: Rng, page: Page, below: bool) -> Page:
    """Two that hold the sheet: thumbs from below, or from the sides."""
    picture, (height, width) = page.picture.copy(), page.picture.shape[:2]
    for side in (0, 1):
        at = (
            (int(rng.uniform(0.3, 0.7) * width), height)
            if below
            else (side * width, int(rng.uniform(0.2, 0.8) * height))
        )
        long, broad = int(rng.uniform(0.1, 0.16) * width), int(rng.uniform(0.025, 0.045) * width)
        angle = (90 if below else 0) + rng.uniform(-25, 25)
        cv2.ellipse(picture, at, (long, broad), angle, 0, 360, FINGER, cv2.FILLED, cv2.LINE_AA)
    return replace(page, picture=picture)


def plain(rng: Rng) -> Callable[[Size], np.ndarray]:
    return lambda size: paper.sheet(rng, size)


def with_rules(rng: Rng, spacing: float, squared: bool) -> Callable[[Size], np.ndarray]:
    """Ruled paper with a margin, or squared paper."""
    ink = np.array((215, 175, 150)) * rng.uniform(0.6, 1.0)

    def make(size: Size) -> np.ndarray:
        how = {"colour": tuple(ink), "width": rng.uniform(1, 2.2), "start": rng.uniform(0, 40)}
        if squared:
            return paper.grid(paper.sheet(rng, size), spacing, **how)
        sheet, x = paper.ruled(paper.sheet(rng, size), spacing, **how), int(rng.uniform(5, 30))
        sheet[:, x : x + 2] = (90, 90, 220)
        return sheet

    return make


# ---- the scenes -----------------------------------------------------------------------------------------------------


def sheet_on_a_desk(rng: Rng, digits: Digits) -> Page:
    page = written(rng, lines_of(rng, digits, (1, 5), (3, 8)), plain(rng))
    return snap(rng, laid(rng, page, (1600, 1200), desk(rng, (1600, 1200))))


def coloured_note(rng: Rng, digits: Digits) -> Page:
    colour = ((120, 235, 250), (190, 160, 250), (170, 240, 180))[rng.integers(3)]
    page = written(rng, lines_of(rng, digits, (1, 3), (2, 4)), lambda size: paper.sheet(rng, size, colour))
    return snap(rng, laid(rng, page, (1600, 1200), desk(rng, (1600, 1200))))


def fingers_at_its_edge(rng: Rng, digits: Digits) -> Page:
    page = written(rng, lines_of(rng, digits, (1, 3), (3, 5)), plain(rng))
    return snap(rng, fingers(rng, laid(rng, page, (1600, 1200), desk(rng, (1600, 1200))), below=False))


def held_before_a_room(rng: Rng, digits: Digits) -> Page:
    frame = ((640, 480), (1280, 720))[rng.integers(2)]
    pen = Pen(tuple(rng.uniform(20, 80, 3)), float(rng.uniform(0.08, 0.15)), 0.95)
    page = written(rng, lines_of(rng, digits, (1, 3), (2, 5)), plain(rng), pen=pen)
    return snap(rng, fingers(rng, laid(rng, page, frame, room(rng, frame), most=0.9), below=True), blur=(0.4, 1))


def ruled_sheet_on_a_desk(rng: Rng, digits: Digits) -> Page:
    sheet = with_rules(rng, rng.uniform(65, 115), squared=False)
    page = written(rng, lines_of(rng, digits, (2, 5), (3, 8)), sheet, height=60)
    return snap(rng, laid(rng, page, (1600, 1200), desk(rng, (1600, 1200))))


def aslant(rng: Rng, digits: Digits, squared: bool) -> Page:
    """A page with lines that fills the picture, seen at an angle."""
    height = rng.uniform(35, 60)
    sheet = with_rules(rng, height * (rng.uniform(0.5, 1.1) if squared else rng.uniform(1.5, 2.1)), squared)
    page = written(rng, lines_of(rng, digits, (2, 6), (4, 8)), sheet, height=height, slope=rng.uniform(-2, 2))
    size = page.picture.shape[1::-1]
    return snap(rng, laid(rng, page, size, np.full((size[1], size[0], 3), 235, np.uint8), most=1.0))


def ruled_aslant(rng: Rng, digits: Digits) -> Page:
    return aslant(rng, digits, squared=False)


def squared_aslant(rng: Rng, digits: Digits) -> Page:
    return aslant(rng, digits, squared=True)


def table(rng: Rng, digits: Digits, cell: int) -> Page:
    """A printed table with so many digits in each cell."""
    rows, columns, height = int(rng.integers(2, 6)), int(rng.integers(2, 8 - cell)), int(rng.uniform(36, 55))
    wide, tall = int((0.3 + 1.4 * cell) * height), int(1.7 * height)
    sheet, grey, margin = paper.sheet(rng, (columns * wide + 120, rows * tall + 120)), int(rng.uniform(30, 150)), 60
    thick = int(rng.integers(1, 4))
    for k in range(rows + 1):
        y = margin + k * tall
        cv2.line(sheet, (margin, y), (margin + columns * wide, y), (grey,) * 3, thick)
    for k in range(columns + 1):
        x = margin + k * wide
        cv2.line(sheet, (x, margin), (x, margin + rows * tall), (grey,) * 3, thick)
    page, pen, line = Page(sheet), pages.random_pen(rng), []
    for row in range(rows):
        for column in range(columns):
            writing = paper.lay_out(rng, lines_of(rng, digits, (1, 2), (cell, cell)), height, 0, pen)
            room_left = np.array((wide, tall)) - writing.size
            corner = (
                np.array((column * wide, row * tall)) + margin + np.maximum(2, room_left // 2 + rng.integers(-3, 4, 2))
            )
            page = paper.put(rng, writing, page, tuple(corner.tolist()))
            line += [row] * cell
    return snap(
        rng, laid(rng, replace(page, line=np.array(line)), (1024, 768), paper.sheet(rng, (1024, 768)), most=0.95)
    )


def table_of_digits(rng: Rng, digits: Digits) -> Page:
    return table(rng, digits, 1)


def table_of_pairs(rng: Rng, digits: Digits) -> Page:
    return table(rng, digits, 2)


def boxes_of_a_form(rng: Rng, digits: Digits) -> Page:
    """A printed box for each digit, side by side or with gaps; some digits touch theirs."""
    rows, columns, height = int(rng.integers(1, 4)), int(rng.integers(4, 9)), rng.uniform(40, 60)
    box = np.array((1.15, 1.5)) * height
    step = np.add(box, (rng.choice([0, 6, 12]), 50))
    sheet, grey, thick = (
        paper.sheet(rng, tuple((step * (columns, rows) + 150).astype(int))),
        rng.uniform(40, 170),
        rng.integers(1, 3),
    )
    corners = [(75 + step * (k, row)).astype(int) for row in range(rows) for k in range(columns)]
    for corner in corners:
        cv2.rectangle(sheet, corner.tolist(), (corner + box).astype(int).tolist(), (grey,) * 3, int(thick))
    page, pen = Page(sheet), pages.random_pen(rng)
    for corner in corners:
        writing = paper.lay_out(rng, lines_of(rng, digits, (1, 2), (1, 1)), 0.95 * height, 0, pen)
        inside = np.maximum(1, (box - writing.size) // 2 + rng.integers(-4, 5, 2))
        page = paper.put(rng, writing, page, tuple((corner + inside).astype(int).tolist()))
    return snap(rng, replace(page, line=np.repeat(np.arange(rows), columns)))


def circled(rng: Rng, digits: Digits) -> Page:
    pen = pages.random_pen(rng)
    page = written(rng, lines_of(rng, digits, (1, 2), (2, 5)), plain(rng), height=60, slope=0, pen=pen, gap=(1, 1.4))
    for x, y, w, h in page.boxes:
        turn = np.linspace(0, 2 * math.pi * rng.uniform(0.98, 1.05), 40) + rng.uniform(0, 6)
        reach = (0.5 * math.hypot(w, h) + 10) * (1 + 0.04 * np.sin(2 * turn + rng.uniform(0, 6)))
        ring = np.stack([x + w / 2 + reach * np.cos(turn), y + h / 2 + reach * np.sin(turn)], axis=1)
        page = page.seen(lambda p, ring=ring: paper.draw(rng, p, [ring], (pen.width or 0.09) * 60, pen))
    return snap(rng, page)


def underlined(rng: Rng, digits: Digits) -> Page:
    pen = pages.random_pen(rng)
    page = written(rng, lines_of(rng, digits, (1, 4), (3, 7)), plain(rng), height=60, pen=pen, leading=0.9)
    for line in np.unique(page.line):
        x, y, w, h = page.boxes[page.line == line].T
        along = np.linspace(x.min() - 10, (x + w).max() + 10, 12)
        level = np.interp(along, x + w / 2, (y + h).astype(float)) + 12 + rng.normal(0, 1.2, 12)
        stroke = np.stack([along, level], axis=1)
        page = page.seen(lambda p, stroke=stroke: paper.draw(rng, p, [stroke], (pen.width or 0.09) * 60, pen))
    return snap(rng, page)


def highlighted(rng: Rng, digits: Digits) -> Page:
    """Lines, or their first halves, gone over with a highlighter."""
    page = written(rng, lines_of(rng, digits, (2, 5), (3, 7)), plain(rng))
    colour = np.array(((90, 255, 255), (190, 150, 255), (150, 255, 150))[rng.integers(3)]) / 255
    over = np.zeros(page.picture.shape[:2], np.float32)
    for line in np.unique(page.line):
        x, y, w, h = page.boxes[page.line == line].T
        end = (x + w).max() + 10 if rng.random() < 0.6 else int((x.min() + (x + w).max()) / 2)
        if rng.random() < 0.6:
            over[max(0, y.min() + rng.integers(-5, 8)) : (y + h).max() + rng.integers(-8, 5), x.min() - 10 : end] = 1
    over = cv2.GaussianBlur(over, (0, 0), 1.5)[..., None]
    return snap(rng, page.seen(lambda p: (p * (1 - over + over * colour)).astype(np.uint8)))


def shadows(rng: Rng, digits: Digits) -> Page:
    page = written(rng, lines_of(rng, digits, (1, 4), (3, 7)), plain(rng))
    for _ in range(int(rng.integers(1, 3))):
        corners = cv2.convexHull(rng.uniform(-0.2, 1.2, (5, 2)).astype(np.float32))[:, 0]
        depth, soft = rng.uniform(0.2, 0.5), rng.uniform(0.002, 0.03)
        page = page.seen(lambda p, c=corners, d=depth, s=soft: paper.shadow(p, c, d, s))
    return snap(rng, page)


def whiteboard(rng: Rng, digits: Digits) -> Page:
    colour = ((30, 30, 30), (160, 60, 30), (40, 40, 200), (60, 140, 40))[rng.integers(4)]
    pen = Pen(colour, float(rng.uniform(0.06, 0.12)), 0.85, 0.15)
    board = written(rng, lines_of(rng, digits, (1, 4), (3, 7)), plain(rng), height=rng.uniform(60, 140), pen=pen)
    height, width = board.picture.shape[:2]
    y, x = np.mgrid[:height, :width] / np.array((height, width))[:, None, None] - rng.uniform(0, 1, (2, 1, 1))
    glare = 200 * np.exp(-(x**2 + y**2) / 0.015)  # a lamp mirrored
    return snap(rng, board.seen(lambda p: np.clip(p + glare[..., None], 0, 255).astype(np.uint8)))


def white_on_black(rng: Rng, digits: Digits) -> Page:
    colour = ((255, 255, 255), (80, 220, 255), (255, 180, 80), (120, 255, 120))[rng.integers(4)]
    pen = Pen(colour, float(rng.uniform(0.05, 0.14)), 1.0, covers=True)
    dark = int(rng.integers(0, 40))
    lines, height = lines_of(rng, digits, (1, 4), (2, 6)), rng.uniform(60, 140)
    return written(rng, lines, lambda size: np.full((size[1], size[0], 3), dark, np.uint8), height=height, pen=pen)


def mnist_itself(rng: Rng, digits: Digits) -> Page:
    """MNIST's images side by side, white on black."""
    rows, columns = rng.integers(2, 11, 2)
    lines = [lines_of(rng, digits, (1, 2), (columns, columns))[0] for _ in range(rows)]
    picture = np.vstack([np.hstack(list(images)) for images, _ in lines])
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    hulls = tuple(np.float32([(28 * a, 28 * b), (28 * a + 27, 28 * b + 27)]) for a, b in zip(x.ravel(), y.ravel()))
    labels = np.concatenate([labels for _, labels in lines])
    return Page(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), labels, y.ravel(), hulls)


def one_digit_that_fills_it(rng: Rng, digits: Digits) -> Page:
    pen = Pen((40, 40, 40), float(rng.uniform(0.03, 0.14)), 0.95)
    return snap(
        rng, written(rng, lines_of(rng, digits, (1, 2), (1, 1)), plain(rng), height=rng.uniform(350, 700), pen=pen)
    )


def a_word_before_it(rng: Rng, digits: Digits) -> Page:
    """A word of letters that no digit looks like, and a number in the line below."""
    names = rng.choice(list("ABEFGHKMNPRTXYaehkmnrx"), int(rng.integers(3, 6)))
    letters = [pages.bent(rng, pages.handwritten(rng, str(rng.choice(pages.LETTERS[n])), 5), 0.6) for n in names]
    word = np.stack([pages.fit(letter) for letter in letters]), np.full(len(letters), pages.NOT_A_DIGIT)
    page = written(rng, [word, *lines_of(rng, digits, (1, 2), (3, 6))], plain(rng))
    kept = page.labels != pages.NOT_A_DIGIT
    hulls = tuple(hull for hull, digit in zip(page.hulls, kept) if digit)
    return snap(rng, Page(page.picture, page.labels[kept], np.zeros(kept.sum(), np.int32), hulls))


def several_pens(rng: Rng, digits: Digits) -> Page:
    """Two to four lines, each by another pen; one is a pencil."""
    pencil = Pen((95, 95, 95), 0.07, float(rng.uniform(0.45, 0.65)), 0.6)
    pens = [pencil, *(pages.random_pen(rng) for _ in range(int(rng.integers(1, 4))))]
    height = float(rng.uniform(40, 65))
    writings = [
        paper.lay_out(rng, lines_of(rng, digits, (1, 2), (3, 6)), height, rng.uniform(-2, 2), pens[k])
        for k in rng.permutation(len(pens))
    ]
    wide, tall = np.array([writing.size for writing in writings]).T
    page, y = Page(paper.sheet(rng, (int(wide.max()) + 160, int((tall + 20).sum()) + 120))), 50
    for writing in writings:
        page = paper.put(rng, writing, page, (int(rng.integers(40, 100)), y))
        y += writing.size[1] + 20
    return snap(rng, page)


def below_a_printed_heading(rng: Rng, digits: Digits) -> Page:
    page = written(rng, lines_of(rng, digits, (1, 4), (3, 7)), plain(rng))
    picture = cv2.copyMakeBorder(page.picture, 110, 0, 0, 0, cv2.BORDER_REPLICATE)
    heading = ("Name: ________", "HOMEWORK", "Invoice Total", "Telephone")[rng.integers(4)]
    font = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)[rng.integers(3)]
    cv2.putText(picture, heading, (20, 60), font, rng.uniform(0.8, 1.5), (40, 40, 40), 2, cv2.LINE_AA)
    return snap(rng, Page(picture, page.labels, page.line, tuple(hull + np.float32([0, 110]) for hull in page.hulls)))


def the_back_shines_through(rng: Rng, digits: Digits) -> Page:
    """What is written on the sheet's other side is seen as well: mirrored, blurred and faint."""
    back = written(rng, lines_of(rng, digits, (3, 6), (4, 8)), plain(rng)).picture
    back = cv2.GaussianBlur(back[:, ::-1], (0, 0), 1.2)
    white = back.reshape(-1, 3).max(axis=0).astype(float)
    sheet = (white - (white - back) * rng.uniform(0.1, 0.3)).astype(np.uint8)
    front = paper.lay_out(
        rng, lines_of(rng, digits, (1, 3), (2, 5)), rng.uniform(40, 55), rng.uniform(-3, 3), pages.random_pen(rng)
    )
    size = np.maximum(sheet.shape[1::-1], np.add(front.size, 60))
    sheet = cv2.resize(sheet, size.tolist())
    return snap(rng, paper.put(rng, front, sheet, tuple(rng.integers(10, 40, 2).tolist())))


SCENES: dict[str, Scene] = {
    scene.__name__.replace("_", " "): scene
    for scene in (
        *(sheet_on_a_desk, coloured_note, fingers_at_its_edge, held_before_a_room, ruled_sheet_on_a_desk),
        *(
            ruled_aslant,
            squared_aslant,
            table_of_digits,
            table_of_pairs,
            boxes_of_a_form,
            circled,
            underlined,
            highlighted,
        ),
        *(shadows, whiteboard, white_on_black, mnist_itself, one_digit_that_fills_it, a_word_before_it),
        *(several_pens, below_a_printed_heading, the_back_shines_through),
    )
}


def compose(name: str, number: int, digits: Digits) -> Page:
    """Picture 0, 1, ... of a scene."""
    return SCENES[name](np.random.default_rng([number, *name.encode()]), digits)


# ---- what must be read ----------------------------------------------------------------------------------------------

DIGITS = mnist.load_subset()
PICTURES = 24  # of each scene
MOST = {  # digits of them that may be wrong, and how many there are: a few more than were wrong
    "sheet on a desk": (9, 335),
    "coloured note": (3, 120),
    "fingers at its edge": (4, 148),
    "held before a room": (12, 128),
    "ruled sheet on a desk": (24, 383),
    "ruled aslant": (22, 521),
    "squared aslant": (46, 446),
    "table of digits": (7, 370),
    "table of pairs": (18, 606),
    "boxes of a form": (12, 273),
    "circled": (9, 78),
    "underlined": (11, 258),
    "highlighted": (38, 338),
    "shadows": (20, 243),
    "several pens": (8, 303),
    "below a printed heading": (34, 233),
    "the back shines through": (21, 142),
}


@pytest.mark.parametrize("name", MOST)
def test_scenes_are_read(name, reader):
    """What stands around a sheet, and what is printed on it, is not read; what is written is."""
    most, digits = MOST[name]
    wrong = written = 0
    for number in range(PICTURES):
        page = compose(name, number, DIGITS)
        wrong += errors_between("".join(page.lines), "".join(reader.read(page.picture).lines))
        written += len(page.labels)
    assert written == digits, "other pictures than those that were counted"
    assert wrong <= most, f"{wrong} of {written} digits"


def test_boxes_on_a_sheet_are_places_of_the_picture(reader):
    """The sheet is cut out to be read; the boxes lie where the digits are in the whole picture, at its full size."""
    found = total = 0
    for number in range(4):
        page = compose("sheet on a desk", number, DIGITS)
        x, y, w, h = np.array([digit.box for digit in reader.read(page.picture).digits]).T
        for left, top, width, height in page.boxes:
            across = np.minimum(x + w, left + width) - np.maximum(x, left)
            down = np.minimum(y + h, top + height) - np.maximum(y, top)
            shared = across.clip(0) * down.clip(0)
            found += (shared / (w * h + width * height - shared)).max() > 0.6
        total += len(page.boxes)
    assert found >= 0.97 * total


def test_the_stages_of_a_sheet_can_be_drawn():
    page = compose("coloured note", 1, DIGITS)
    stages: dict = {}
    segments = segment(page.picture, stages=stages)
    drawn = contact_sheet(page.picture, segments, stages)
    assert len(segments.boxes) == len(page.labels)
    assert stages["page"].shape[0] < page.picture.shape[0], "only the sheet is looked at"
    assert drawn.shape[1] > 4 * 600 and drawn.std() > 10


def test_an_empty_sheet_on_a_desk_says_nothing(reader):
    """Neither the table's grain nor the sheet's edges are digits."""
    false = 0
    for number in range(20):
        rng = np.random.default_rng(number)
        empty = Page(paper.sheet(rng, (800, 600)))
        page = snap(rng, laid(rng, empty, (1600, 1200), desk(rng, (1600, 1200))))
        false += len(reader.read(page.picture).digits)
    assert false <= 2


def in_marker(rng: Rng) -> Page:
    """Two lines of digits that no training sees, on a sheet for a camera."""
    rows = mnist.sample_indices()
    lines = [paper.pick(rng, *(part[rows] for part in DIGITS), text) for text in ("157922", "413086")]
    return paper.write_lines(rng, lines, paper.sheet(rng, (640, 480)), height=70, pen=paper.PENS["marker"])


@pytest.mark.parametrize("seed", [2, 15, 22, 28])
def test_what_lies_between_a_sheet_and_something_bright_is_not_read(seed, reader):
    """In a room with a shadow across it a sheet's outline takes in a corner of what is beside it."""
    rng = np.random.default_rng(seed)
    page = in_marker(rng)
    matrix = paper.turned((640, 480), rng.uniform(-10, 10), (0, 0), 0.72, tuple(rng.uniform(-0.05, 0.05, 2)))
    picture = paper.view(page, matrix, (640, 480), room(rng, (640, 480))).picture
    x = rng.uniform(0.2, 0.6)
    picture = paper.shadow(picture, [(x - 0.2, -0.1), (x + 0.1, -0.1), (x + 0.2, 1.1), (x - 0.1, 1.1)], 0.4, 0.02)
    reading = reader.read(paper.camera(rng, paper.light(picture, 0.55, 90), 0.8, 5))
    assert len(reading.digits) == len(page.labels)


@pytest.mark.parametrize("seed", [2, 3])
def test_live_a_sheet_that_is_moved_is_followed(seed, monkeypatch):
    """Before a room everything else is looked at in the first picture only."""
    rng = np.random.default_rng(seed)
    page = in_marker(rng)
    around, asked = room(rng, (640, 480)), []
    look = segmentation._find_on_sheet
    monkeypatch.setattr(segmentation, "_find_on_sheet", lambda *a: asked.append(1) or look(*a))
    live = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.4, remember=True)
    for k in range(12):
        matrix = paper.turned((640, 480), k, (0, 0), 0.7, (0.01 * k, -0.008 * k))
        picture = paper.camera(rng, paper.view(page, matrix, (640, 480), around).picture, 0.6, 2)
        assert live.read(picture).lines == page.lines
        assert len(asked) <= 2  # once, and perhaps closer up
    assert asked
    sideways = cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)
    assert live.read(sideways).height == 640  # a turned phone's picture has another shape
