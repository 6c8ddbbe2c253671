"""From a photo to digits: the ink mask, recursive row and column projection, boxes, lines and 28x28 patches.

The way of the data:

1. ink.py: the picture at a working size, the light divided out, so that paper is 0 under a lamp and in a shadow;
2. parts.py: connected ink, without what cannot be a digit's (specks, rulings, frames, the table, dark areas);
3. rows and columns: the parts projected along the text's slope, cut where the profile is empty, again inside each cut;
4. patches: each digit turned upright and drawn as MNIST draws it.

A length is told in strokes (the pen's thickness in this picture) or in digit heights, never in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import accumulate

import cv2
import numpy as np

from ink import NEXT, WORK_AREA, alone, find_sheets, shrink, uneven
from parts import CLEAN, CLEARLY, LEAST, Part, find_strokes, out_of_shadows, weighted_median

PEN = 2.0, 4.2  # the pen's thickness in MNIST's box of 20: its 5 % and 95 % quantiles
ANGLES = np.deg2rad(np.arange(-150, 61, 2.5))  # of text lines, and below them of the columns across it
NORMALS = np.stack([-np.sin(ANGLES), np.cos(ANGLES)], axis=1).astype(np.float32)  # A x 2
LEVEL, QUARTER = 60, 36  # numbers of ANGLES: the level one, and how many make a quarter turn
FINE = 2  # a patch is drawn that much finer first, and averaged: pens have half a pixel
GREY = 90  # of 255: ink beside a piece, which it was cut from
STRIP, SEEN = 22, 36  # pixels that a string is high in a strip of PATCH, and paper in its length: what a column sees
PATCH, BOX = 28, 20  # MNIST: the digit fitted into 20 x 20, its centre of mass in the middle of 28 x 28
SAME_LINE = 0.4  # heights: digits of two pens that lie no farther apart stand in one text line
RIM = 3  # pixels of its small picture: no nearer to its hull's edge a sheet is surely paper
BESIDE = 0.25  # of a digit's ink, at least, lies beside its sheet where it is none
THICK = 2.5  # pixels: strokes that a mask keeps whole; MNIST's are 2 to 4 pixels in a patch
CLEAR = 3.0  # pixels: what thinner ones of a small picture are enlarged to


@dataclass(frozen=True)
class Segments:
    """The digits of one picture in reading order."""

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int32))  # N x 4: x, y, w, h in pixels
    patches: np.ndarray = field(default_factory=lambda: np.zeros((0, PATCH, PATCH), np.uint8))  # ink bright on 0
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # N: text line of each, 0 on top

    @property
    def positions(self) -> np.ndarray:
        """N int32: the place of each digit in its line, 0 = the leftmost."""
        return (np.arange(len(self.lines)) - np.searchsorted(self.lines, self.lines)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Found:
    """A picture's digits as parts of its ink, before they are drawn as patches."""

    size: tuple[int, int]  # the picture's width and height
    scale: float  # pixels of the working picture for each of the picture's own
    corner: tuple[float, float]  # where in the picture the working picture begins: x, y, in the picture's pixels
    ink: np.ndarray  # the working picture, H x W uint8, 0 = paper
    mask: np.ndarray  # H x W uint8, not 0 where there is ink, a digit's or not, but no rulings or frames
    digits: list[Part]  # in reading order
    lines: np.ndarray  # N int: the text line of each, 0 on top
    slopes: np.ndarray  # N: that line's slope in radians
    # Which of the picture's sheets it is, as ink.find_sheets gives it; empty where they were looked for in vain.
    sheet: np.ndarray | None = None
    clean: bool = False  # whether hardly anything but strokes of one pen is there
    coarse: bool = False  # whether `find` had only a quarter of the working area, and looking closer it would have all

    def boxes(self, parts: list[Part]) -> np.ndarray:
        """N x 4 int32: x, y, w, h of the parts in pixels of the picture, inside it."""
        corners = np.array([part.box for part in parts], float).reshape(-1, 4) / self.scale + self.corner * 2
        limit = np.array(self.size)
        first = np.clip(np.floor(corners[:, :2]), 0, limit - 1)
        last = np.clip(np.ceil(corners[:, 2:]), first + 1, limit)
        return np.hstack([first, last - first]).astype(np.int32)

    def take(self, kept: np.ndarray) -> Found:
        """Only the digits of these numbers."""
        digits = [self.digits[i] for i in kept.tolist()]
        return replace(self, digits=digits, lines=self.lines[kept], slopes=self.slopes[kept])

    def segments(self) -> Segments:
        """Its digits' boxes, patches and lines."""
        return Segments(self.boxes(self.digits), patches(self.ink, self.digits, self.slopes), self.lines)


def segment(image: np.ndarray, single: bool = False, stages: dict | None = None) -> Segments:
    """The handwritten digits of a picture, as `find` finds them, drawn as patches."""
    return find(image, single, stages).segments()


def find(
    image: np.ndarray,
    single: bool = False,
    stages: dict | None = None,
    coarse: Found | None = None,
    sheet: np.ndarray | None = None,
    bright_strokes: bool | None = None,
) -> Found:
    """Find the handwritten digits of a picture.

    image: H x W x 3 BGR (a fourth channel is ignored) or H x W grey, uint8. single: the whole picture is one digit.
    stages: a dictionary that is filled with what every stage made, for `contact_sheet`. coarse: what was found before;
    now spare no pixels. sheet: on which sheet of paper something was found in a picture before this one; there it is
    looked for first. An empty one: there was none, and one is only looked for where it has to be. bright_strokes:
    whether they were then; None to find out.
    Never raises for a uint8 picture: one without digits, however small or odd, gives none.
    """
    stages = {} if stages is None else stages
    if image.size == 0 or min(image.shape[:2]) < LEAST:
        blank = np.zeros((1, 1), np.uint8)
        return Found(image.shape[1::-1], 1.0, (0.0, 0.0), blank, blank, [], np.zeros(0, np.int32), np.zeros(0))
    sheet = coarse.sheet if coarse else sheet
    vain = sheet is not None and not sheet.size
    if sheet is not None and not vain:
        page = shrink(image, 4)
        for hull in [sheet] if coarse else [moved for moved, _ in find_sheets(page, sheet)[-1:]]:
            found = _on_sheet(image, page, hull, single, stages, coarse, bright_strokes)
            if found.digits and stages["share"] > CLEARLY:
                return found
        bright_strokes = None  # of the sheet, not of all
    return _find(image, single, stages, coarse, whole=True, vain=vain, bright_strokes=bright_strokes)


def _find(
    image: np.ndarray,
    single: bool,
    stages: dict,
    coarse: Found | None,
    whole: bool,
    vain: bool = False,
    bright_strokes: bool | None = None,
) -> Found:
    """As `find`; whole: where the picture seems not to be all paper, a sheet of it is looked for. Else it is one.

    vain: it was looked for in vain in a picture like this one.
    """
    sheets = whole and not (coarse and coarse.clean)  # closer up, noise makes the same paper less clean
    none: np.ndarray | None = None
    # Of the working area: a pen that is thick enough mostly needs no more than a quarter, in half of the time.
    for part in (1.0,) if coarse or image.shape[0] * image.shape[1] <= WORK_AREA / 8 else (0.25, 1.0):
        page = shrink(image, part)
        ink, parts = find_strokes(page, stages, bright_strokes)
        # Found out once if that is clear: at another size the votes may be others.
        bright_strokes = stages["bright strokes"] if stages["share"] > CLEARLY else None
        if sheets and _may_be_on_sheet(stages, len(parts), vain):
            if found := _find_on_sheet(image, single, stages, coarse, len(parts)):
                return found
            none = np.zeros((0, 0), np.uint8)
        sheets = False
        if parts and stages["thickness"] >= THICK:
            break
    else:
        larger = min(CLEAR / stages["thickness"], (WORK_AREA / (page.shape[0] * page.shape[1])) ** 0.5)
        if parts and larger > 1.2:
            page = cv2.resize(page, None, fx=larger, fy=larger, interpolation=cv2.INTER_CUBIC)
            ink, parts = find_strokes(page, stages, bright_strokes)
    if whole:  # beside what is no sheet everything looks more like writing
        ink, parts = out_of_shadows(ink, parts, stages)
    rows = _text_lines([part for part in parts if not part.weak], single)
    if not single:
        for line in _text_lines([part for part in parts if part.weak], single):  # by themselves: they may be ghosts'
            rows = _inserted(rows, line)
    stages["digits"] = [digit for row, _ in rows for digit in row]
    lines = np.repeat(np.arange(len(rows), dtype=np.int32), [len(row) for row, _ in rows])
    slopes = np.array([slope for _, slope in rows])[lines]
    size, scale = image.shape[1::-1], page.shape[1] / image.shape[1]
    left, clean = stages["left"], stages["share"] >= CLEAN
    return Found(size, scale, (0.0, 0.0), ink, left, stages["digits"], lines, slopes, none, clean, coarse=part < 1)


def _text_lines(parts: list[Part], single: bool) -> list[tuple[list[Part], float]]:
    """The digits that the parts are strokes of, line by line, and each line's slope. single: all are one digit."""
    if not parts:
        return []
    layout = Layout.of(parts)
    slope = _slope(layout)
    joined = _join(layout, slope)
    layout = _digits_only(joined, slope)
    if len(layout.parts) < len(joined.parts):
        slope = _slope(layout)  # the digits' own
    if single and layout.parts:
        return [([reduce(Part.merged, layout.parts)], 0.0)]
    return _rows(layout, slope)


def _inserted(rows: list[tuple[list[Part], float]], line: tuple[list[Part], float]) -> list[tuple[list[Part], float]]:
    """Text lines from top to bottom, with one more in its place, or its digits among those of the same height."""

    def depth(digits: list[Part], slope: float) -> float:
        x0, y0, x1, y1 = np.mean([digit.box for digit in digits], axis=0)
        return (y0 + y1) / 2 * math.cos(slope) - (x0 + x1) / 2 * math.sin(slope)

    digits, slope = line
    height = np.mean([digit.height for digit in digits])
    for k, (others, theirs) in enumerate(rows):
        if abs(depth(others, theirs) - depth(digits, theirs)) < SAME_LINE * height:
            whole = sorted(others + digits, key=lambda digit: digit.box[0])
            return [*rows[:k], (whole, theirs), *rows[k + 1 :]]
    above = sum(depth(others, slope) < depth(digits, slope) for others, _ in rows)
    return [*rows[:above], line, *rows[above:]]


def _in_doubt(stages: dict, parts: int) -> bool:
    """Whether what was found of a picture, so many parts, may as well be no writing."""
    return bool(stages["bright strokes"] or stages["share"] < CLEARLY or not parts)


def _may_be_on_sheet(stages: dict, parts: int, vain: bool) -> bool:
    """Whether a sheet of paper may lie in a picture with so many parts. vain: none did in one like it."""
    if _in_doubt(stages, parts):
        return True
    return not vain and stages["share"] < CLEAN and uneven(stages["background"])


def _find_on_sheet(image: np.ndarray, single: bool, stages: dict, coarse: Found | None, parts: int) -> Found | None:
    """What is found on a sheet of paper before something else, if that is more clearly writing than the whole picture.

    stages: of the whole picture, which has so many `parts`; if so, the sheet's. single, coarse: as of `find`.
    """
    share, doubtful = stages["share"], _in_doubt(stages, parts)
    page = shrink(image, 4)  # the sheet then has a working area for itself
    for sheet, lit in find_sheets(page):
        if lit and not doubtful:
            continue
        theirs: dict = {}
        found = _on_sheet(image, page, sheet, single, theirs, coarse)
        more, clearer = len(found.digits) - parts, theirs["share"] > share
        if found.digits and theirs["share"] > CLEARLY and (more > 0 or (clearer and (more == 0 or not lit))):
            stages.clear()
            stages.update(theirs)
            return found
    return None


def _on_sheet(
    image: np.ndarray,
    page: np.ndarray,
    sheet: np.ndarray,
    single: bool,
    stages: dict,
    coarse: Found | None,
    bright_strokes: bool | None = None,
) -> Found:
    """What is found on a sheet of the page, which is the picture made smaller. The others: as of `find`."""
    picture, corner = alone(page, sheet)
    found = _find(picture, single, stages, coarse, whole=False, bright_strokes=bright_strokes)
    scale = page.shape[1] / image.shape[1]
    place = corner[0] / scale, corner[1] / scale
    found = replace(found, size=image.shape[1::-1], scale=found.scale * scale, corner=place, sheet=sheet)
    found = found.take(np.flatnonzero(_on_paper(found)))
    stages["digits"] = found.digits
    return found


def _on_paper(found: Found) -> np.ndarray:
    """N bool: which digits are written on their sheet, and are not what is seen between it and the edge of its hull."""
    inner = cv2.erode(found.sheet, NEXT, iterations=RIM, borderType=cv2.BORDER_REPLICATE)
    scale = np.array(found.sheet.shape[::-1] * 2) / (found.size * 2)
    on_paper = np.ones(len(found.digits), bool)
    for i, (x, y, w, h) in enumerate((found.boxes(found.digits) * scale).tolist()):
        place = slice(int(y), math.ceil(y + h)), slice(int(x), math.ceil(x + w))
        if not inner[place].all():
            dark = found.sheet[place] < 2
            ink = cv2.resize(found.digits[i].mask, dark.shape[::-1], interpolation=cv2.INTER_AREA)
            on_paper[i] = ink[dark].sum() < BESIDE * ink.sum()
    return on_paper


# Rows and columns


@dataclass(eq=False)
class Layout:
    """N parts as arrays: where they lie, seen in every direction."""

    parts: list[Part]
    strokes: np.ndarray  # N: thickness in pixels
    first: np.ndarray  # N x A: where the part begins, projected on the normal of each of ANGLES,
    last: np.ndarray  # and where it ends

    @classmethod
    def of(cls, parts: list[Part]) -> Layout:
        """The layout of at least one part."""
        outlines = [part.outline for part in parts]
        across = NORMALS @ np.concatenate(outlines).astype(np.float32).T  # A x points: what is reduced lies together
        starts = list(accumulate(map(len, outlines[:-1]), initial=0))
        strokes = np.array([part.stroke for part in parts])
        first, last = (n.reduceat(across, starts, axis=1).T for n in (np.minimum, np.maximum))
        return cls(parts, strokes, first, last)

    def take(self, index: np.ndarray) -> Layout:
        """The parts of these numbers."""
        parts = [self.parts[i] for i in index.tolist()]
        return Layout(parts, self.strokes[index], self.first[index], self.last[index])

    def boxes(self, slope: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Left, top, right and bottom ends of the N parts in a picture turned so that text of that slope is level."""
        across = slope - QUARTER
        return self.first[:, across], self.first[:, slope], self.last[:, across] + 1, self.last[:, slope] + 1

    def merged(self, i: int, j: int) -> Layout:
        """The same with part j merged into part i."""
        whole = self.take(np.arange(len(self.parts)))
        whole.parts[i] = self.parts[i].merged(self.parts[j])
        whole.strokes[i] = whole.parts[i].stroke
        whole.first[i] = np.minimum(self.first[i], self.first[j])
        whole.last[i] = np.maximum(self.last[i], self.last[j])
        return whole.take(np.flatnonzero(np.arange(len(self.parts)) != j))


def _join(layout: Layout, slope: int) -> Layout:
    """Strokes of one digit that came apart, joined again, the nearest first."""
    while True:
        for i, j, limit in _one_digit(layout, slope):
            if _come_close(layout.parts[i], layout.parts[j], limit):
                layout = layout.merged(i, j)
                break
        else:
            return layout


def _come_close(first: Part, second: Part, limit: float) -> bool:
    """Whether two parts' contours come within so many pixels of each other."""
    near = []
    for points, box in ((first.contour, second.box), (second.contour, first.box)):
        near.append(
            points[((points > np.subtract(box[:2], limit + 1)) & (points < np.add(box[2:], limit))).all(axis=1)]
        )
    a, b = near
    return bool((((a[:, None] - b[None]) ** 2).sum(axis=2) <= limit**2).any())


def _one_digit(layout: Layout, slope: int) -> list[tuple[int, int, float]]:
    """Pairs of parts that are strokes of one digit if they come as close as the third number says, in pixels.

    One above the other, or one a fragment, and together neither too tall nor wider than a digit.
    """
    left, top, right, bottom = layout.boxes(slope)
    width, height = right - left, bottom - top
    typical = weighted_median(height, height) if len(height) > 3 else np.inf
    small = np.flatnonzero(height <= 0.8 * typical)  # one of the two is
    if len(height) < 2 or not len(small):
        return []
    gap = np.maximum(
        np.maximum(left, left[small, None]) - np.minimum(right, right[small, None]),
        np.maximum(top, top[small, None]) - np.minimum(bottom, bottom[small, None]),
    )
    usual = 0.0 if np.isinf(typical) else typical
    near = gap < 0.2 * np.maximum(np.maximum(height, height[small, None]), usual)
    near[np.arange(len(small)), small] = False
    pair, second = np.nonzero(near)
    if not len(pair):
        return []
    gap, first = gap[pair, second], small[pair]
    low, high = np.minimum(height[first], height[second]), np.maximum(height[first], height[second])
    stroke = np.maximum(layout.strokes[first], layout.strokes[second])
    together = np.maximum(bottom[first], bottom[second]) - np.minimum(top[first], top[second])
    broad = np.maximum(right[first], right[second]) - np.minimum(left[first], left[second])
    shared = np.minimum(right[first], right[second]) - np.maximum(left[first], left[second])
    beside = np.where(low <= 0.5 * high, 2 * stroke, np.where(low < 0.75 * high, stroke, 0))
    above = shared >= np.where(low <= 0.6 * high, 0.3, 0.5) * np.minimum(width[first], width[second])
    limit = np.where(above, np.maximum(3.5 * stroke, 0.12 * high), beside)
    # Across the gap of a broken digit, the two halves are no higher than others are whole.
    reach = np.maximum(high, np.where(together < 1.1 * usual, usual, 0))
    fits = (together <= 1.35 * np.maximum(typical, high)) & (broad <= 1.1 * together)
    fits &= (gap <= limit) & (gap < 0.2 * reach)
    pairs = np.flatnonzero(fits)[gap[fits].argsort(kind="stable")].tolist()
    return [(int(first[k]), int(second[k]), float(limit[k])) for k in pairs]


def _slope(layout: Layout, about: int = LEVEL, reach: int = 16) -> int:
    """The text's slope, a number of ANGLES: the direction in which the parts' projection is the shortest.

    Looked for at most `reach` angles away from `about`, which is also the slope of parts too few to tell.
    """
    if len(layout.parts) < 3:
        return about
    start = max(QUARTER, about - reach)
    angles = slice(start, about + reach + 1)
    first, last = layout.first[:, angles], layout.last[:, angles]
    quarter = (last - first) / 4
    occupied = _occupied(first + quarter, last - quarter)
    return start + int((occupied * (1 + np.abs(ANGLES[angles]))).argmin())


def _occupied(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The length of the union of the N intervals in each of A columns."""
    first, last = np.sort(first, axis=0), np.sort(last, axis=0)
    # A gap lies where as many intervals have ended as have begun.
    return last[-1] - first[0] - np.maximum(first[1:] - last[:-1], 0).sum(axis=0)


def _rows(layout: Layout, slope: int) -> list[tuple[list[Part], float]]:
    """The parts as text lines in reading order, each sorted from left to right, with its slope (radians).

    The row/column projection: cut into rows where the profile across the text is empty; each row again, along a slope
    of its own; one that is too tall for a line into columns, if these come apart into rows; until nothing does.
    """
    if not layout.parts:
        return []
    left, first, right, last = layout.boxes(slope)
    across = _across_lines(first, last)
    if across.any():
        alone = [([layout.parts[i]], float(ANGLES[slope])) for i in np.flatnonzero(across)]
        return _rows(layout.take(np.flatnonzero(~across)), slope) + alone
    inner = (last - first) / 4  # the middle half counts: strokes reach into the next line
    rows = _bands(first + inner, last - inner)
    if len(rows) > 1:
        layouts = [layout.take(row) for row in rows]
        return [line for row in layouts for line in _rows(row, _slope(row, slope, 4))]
    typical = np.sort(last - first)[len(last) // 2]
    if last.max() - first.min() > 2 * typical:
        columns = _bands(left, right, gap=typical)
        layouts = [layout.take(column) for column in columns] if len(columns) > 1 else []
        blocks = [_rows(column, _slope(column, slope, 4)) for column in layouts]
        if any(len(lines) > 1 for lines in blocks):
            return [line for lines in blocks for line in lines]
    row = _digits_only(layout, slope)
    left, _, right, _ = row.boxes(slope)
    return [([row.parts[i] for i in (left + right).argsort().tolist()], float(ANGLES[slope]))] if row.parts else []


def _across_lines(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """N bool: which parts, by where they begin and end across the text, span lines of the others: braces, scribble."""
    heights = last - first
    tall = heights > 3 * np.sort(heights)[len(heights) // 2]
    if not tall.any():
        return tall
    first_of, last_of = (first + heights / 4)[~tall], (last - heights / 4)[~tall]
    middles = np.array([np.median(first_of[line] + last_of[line]) / 2 for line in _bands(first_of, last_of)])
    return tall & (((middles > first[:, None]) & (middles < last[:, None])).sum(axis=1) > 1)


def _bands(first: np.ndarray, last: np.ndarray, gap: float = 0.0) -> list[np.ndarray]:
    """Numbers of parts in groups between which their projections leave more than a `gap` (pixels)."""
    order = first.argsort()
    breaks = np.flatnonzero(first[order[1:]] > np.sort(last)[:-1] + gap) + 1  # as in _occupied
    return np.split(order, breaks) if len(breaks) else [order]


def _digits_only(row: Layout, slope: int) -> Layout:
    """A line without its minus signs, dots and commas, much lower than its digits, and what is left of rulings."""
    left, top, right, bottom = row.boxes(slope)  # a digit on a steep line lies down in the picture
    widths, heights = right - left, bottom - top
    weights = np.minimum(heights, widths)
    typical, pen = weighted_median(heights, weights), weighted_median(row.strokes, weights)
    low = (heights < 0.35 * typical) & (row.strokes > 0.4 * pen)
    flat = (widths > 2 * heights) & (heights < 3.5 * row.strokes)
    narrow = widths < 0.25 * heights
    tallest = heights[~narrow].max(initial=0.0)  # no taller than that, it may be a 1 beside smaller writing
    long = narrow & (heights > np.maximum(2.5 * typical, 1.2 * tallest))
    hair = (widths < 0.15 * heights) & (row.strokes < 0.6 * pen)  # a fold, a sheet's edge: no 1 of the same pen
    spans = np.hypot(widths, heights)
    drop = low | flat | long | hair
    for i in np.flatnonzero(spans > 4 * typical).tolist():  # lines that rulings leave: their ink is not much longer
        drop[i] |= np.count_nonzero(row.parts[i].mask) < 2.5 * spans[i] * row.strokes[i]
    return row.take(np.flatnonzero(~drop)) if drop.any() else row


# Patches


def patches(ink: np.ndarray, parts: list[Part], slopes: np.ndarray, cut_from: Part | None = None) -> np.ndarray:
    """N x 28 x 28 uint8, a patch as MNIST's for each part of the ink picture, its line's slope (radians) undone.

    Fitted into 20 x 20 with its aspect kept, the pen's thickness brought near MNIST's, centred by mass, ink near 255.
    cut_from: what the parts are pieces of. The rest of it shows grey beside each: whoever judges a cut should see it.
    """
    if not parts:
        return np.zeros((0, PATCH, PATCH), np.uint8)
    turns, outlines = np.exp(-1j * np.asarray(slopes)), [part.outline for part in parts]
    counts = [len(outline) for outline in outlines]
    upright = ((np.concatenate(outlines) @ (1, 1j)) * turns.repeat(counts)).view(float).reshape(-1, 2)  # points (x, y)
    starts = list(accumulate(counts[:-1], initial=0))
    first, last = np.minimum.reduceat(upright, starts), np.maximum.reduceat(upright, starts)
    extents = (last - first).max(axis=1) + 1
    thick = np.array([part.stroke for part in parts]) * BOX / extents
    grow = np.minimum(np.maximum(thick, PEN[0]), PEN[1]) - thick
    scales = FINE * np.minimum(BOX - grow, PATCH) / extents
    sizes = np.array([(part.width, part.height) for part in parts])
    stacked, places, centres = _stacked(ink, parts, sizes, 1 // np.minimum(scales, 1))
    # Matrices, N x 2 x 3: each digit is turned, made `scales` times as large, and its centre the patch's.
    across, down = (scales[:, None] * sizes / places[:, 1:]).T
    matrices = np.empty((len(parts), 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = across * turns.real, -down * turns.imag
    matrices[:, 1, 0], matrices[:, 1, 1] = across * turns.imag, down * turns.real
    side = FINE * PATCH
    matrices[:, :, 2] = (side - 1) / 2 - (matrices[:, :, :2] @ centres[:, :, None])[..., 0]
    pens = np.rint(grow * FINE).astype(int)
    order = pens.argsort()  # those that the same pen goes over lie together, one patch below the other
    drawn = np.empty((len(parts) * side, side), np.uint8)
    for place, i in zip(range(0, len(drawn), side), order.tolist()):
        top, width, height = places[i].tolist()
        digit = stacked[top : top + height, :width]
        cv2.warpAffine(digit, matrices[i], (side, side), drawn[place : place + side])
    for swell in set(pens.tolist()) - {0}:
        start, end = pens[order].searchsorted([swell, swell + 1]) * side
        drawn[start:end] = _swollen(drawn[start:end], swell)
    if cut_from is not None:
        x0, y0, x1, y1 = cut_from.box
        rest = cv2.bitwise_and(ink[y0:y1, x0:x1], cv2.dilate(cut_from.mask, NEXT))
        rest = cv2.min(cv2.convertScaleAbs(rest, alpha=GREY / max(1.0, cv2.mean(rest, cut_from.mask)[0])), GREY)
        corners = np.array([part.box[:2] for part in parts])
        matrices[:, :, :2] *= (places[:, 1:] / sizes)[:, None]  # of pixels of the ink, no longer of the stacked
        matrices[:, :, 2] += (matrices[:, :, :2] @ ((x0, y0) - corners)[:, :, None])[..., 0]
        for place, i in zip(range(0, len(drawn), side), order.tolist()):
            piece = drawn[place : place + side]
            cv2.max(piece, cv2.warpAffine(rest, matrices[i], (side, side)), piece)
    done = np.empty((len(parts), PATCH, PATCH), np.uint8)
    done[order] = cv2.resize(drawn, (PATCH, len(parts) * PATCH), interpolation=cv2.INTER_AREA).reshape(done.shape)
    return done


def strip(ink: np.ndarray, part: Part, slope: float) -> np.ndarray:
    """28 x W uint8: all of a part of the ink picture side by side, for a network that reads strings; ink near 255.

    Its line's slope (radians) undone, STRIP pixels high, the pen's thickness brought near MNIST's, paper on all sides.
    """
    cos, sin = math.cos(slope), math.sin(slope)
    turned = part.outline @ np.array([[cos, -sin], [sin, cos]])
    first, last = turned.min(axis=0), turned.max(axis=0) + 1
    scale = STRIP / (last[1] - first[1])
    width = SEEN + 2 * math.ceil((last[0] - first[0]) * scale / 2)
    x0, y0, x1, y1 = part.box
    own = cv2.bitwise_and(ink[y0:y1, x0:x1], cv2.dilate(part.mask, NEXT))
    own = cv2.convertScaleAbs(own, alpha=255 / max(1.0, cv2.mean(own, part.mask)[0]))
    if FINE * scale < 1:
        size = tuple(max(1, round(n * FINE * scale)) for n in (part.width, part.height))
        own = cv2.resize(own, size, interpolation=cv2.INTER_AREA)
    at = np.array([(x1 - x0) / own.shape[1], (y1 - y0) / own.shape[0]])  # pixels of the ink for each of `own`
    matrix = FINE * scale * np.array([[cos * at[0], sin * at[1], 0], [-sin * at[0], cos * at[1], 0]])
    middle = ((first + last) / 2 - (cos * x0 + sin * y0, cos * y0 - sin * x0)) * scale * FINE
    matrix[:, 2] = FINE * np.array([width, PATCH]) / 2 - middle
    drawn = cv2.warpAffine(own, matrix, (FINE * width, FINE * PATCH))
    thick = part.stroke * scale
    swell = round(FINE * (min(max(thick, PEN[0]), PEN[1]) - thick))
    return cv2.resize(_swollen(drawn, swell), (width, PATCH), interpolation=cv2.INTER_AREA)


def _swollen(drawn: np.ndarray, swell: int) -> np.ndarray:
    """What is drawn with a pen so many pixels thicker, or thinner where that is negative."""
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (1 + abs(swell),) * 2)
    return (cv2.dilate if swell > 0 else cv2.erode)(drawn, pen)


def _stacked(
    ink: np.ndarray, parts: list[Part], sizes: np.ndarray, shrink: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts' ink, one below the other in one picture, so that what is done to each is done to all in one call.

    sizes: N x 2, width and height of the parts; shrink: N, how many times smaller each is drawn. The picture, uint8,
    the mean of each part's ink 255; N x 3 int, where in it each begins, its width and its height; N x 2 its centre of
    mass (x, y), from its upper left corner.
    """
    sizes = np.maximum(1, np.rint(sizes / shrink[:, None])).astype(int)
    rows = np.append(0, (sizes[:, 1] + 1).cumsum())  # an empty row after each
    places = np.column_stack([rows[:-1], sizes])
    grey = np.zeros((rows[-1], sizes[:, 0].max()), np.uint8)
    mask = np.zeros_like(grey)
    for part, small, (top, width, height) in zip(parts, (shrink > 1).tolist(), places.tolist()):
        x0, y0, x1, y1 = part.box
        own, its = ink[y0:y1, x0:x1], part.mask
        if small:
            own, its = (cv2.resize(n, (width, height), interpolation=cv2.INTER_AREA) for n in (own, its))
        grey[top : top + height, :width] = own
        mask[top : top + height, :width] = its
    grey = cv2.bitwise_and(grey, cv2.dilate(cv2.threshold(mask, 0, 255, cv2.THRESH_BINARY)[1], NEXT))
    grey_of_mask = cv2.multiply(grey, mask, scale=1 / 255)
    sums = [cv2.reduce(n, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for n in (grey_of_mask, mask)]
    inked, area = np.add.reduceat(sums, rows[:-1], axis=1)
    levels = np.maximum(inked / np.maximum(area, 1), 1 / 255).astype(np.float32)  # mean of the ink, 0..1
    heights = sizes[:, 1] + 1
    stacked = cv2.min(grey / levels.repeat(heights)[:, None], 255)
    weights = np.ones((stacked.shape[1], 2), np.float32)
    weights[:, 1] = np.arange(stacked.shape[1])
    mass, x = (stacked @ weights).T
    y = mass * (np.arange(rows[-1]) - rows[:-1].repeat(heights))
    mass, *centres = np.add.reduceat([mass, x, y], rows[:-1], axis=1)
    return stacked.astype(np.uint8), places, (centres / np.maximum(mass, 1)).T


# What happened


def contact_sheet(image: np.ndarray, segments: Segments, stages: dict) -> np.ndarray:
    """One BGR picture that shows why a digit was found or missed.

    Above: the picture, its background, the ink with that divided out, the mask. Below: the mask with its row and column
    profiles (rulings red, what was dropped grey), the boxes in reading order, the patches. `stages` is what `segment`
    filled.
    """
    if "page" not in stages:
        return np.zeros((1, 1, 3), np.uint8) if image.size == 0 else shrink(image)
    page, mask, kept = stages["page"], stages["mask"], np.zeros_like(stages["mask"])
    for part in stages["digits"]:
        x0, y0, x1, y1 = part.box
        kept[y0:y1, x0:x1] |= part.mask
    profiled = np.full((*mask.shape, 3), 255, np.uint8)
    profiled[mask > 0] = (190, 190, 190)
    if "rulings" in stages:
        profiled[stages["rulings"] > 0] = (0, 0, 255)
    profiled[kept > 0] = 0
    rows, columns = kept.mean(axis=1), kept.mean(axis=0)
    margin = max(8, min(mask.shape) // 6)
    profiled = cv2.copyMakeBorder(profiled, 0, margin, 0, margin, cv2.BORDER_CONSTANT, value=(235, 235, 235))
    for y, n in enumerate(rows / max(rows.max(), 1) * (margin - 2)):
        profiled[y, mask.shape[1] : mask.shape[1] + round(n)] = (200, 80, 0)
    for x, n in enumerate(columns / max(columns.max(), 1) * (margin - 2)):
        profiled[mask.shape[0] : mask.shape[0] + round(n), x] = (200, 80, 0)
    boxed = page.copy()
    colours = ((0, 0, 230), (230, 80, 0), (0, 150, 0), (190, 0, 190))  # a colour a line
    for part, line in zip(stages["digits"], segments.lines):
        cv2.rectangle(boxed, part.box[:2], part.box[2:], colours[line % 4], max(1, min(page.shape[:2]) // 300))
    across = max(1, int(np.ceil(np.sqrt(len(segments.patches) * page.shape[1] / page.shape[0]))))
    tiles = np.zeros((-(-max(1, len(segments.patches)) // across), across, PATCH, PATCH), np.uint8)
    tiles.reshape(-1, PATCH, PATCH)[: len(segments.patches)] = segments.patches
    tiles = tiles.transpose(0, 2, 1, 3).reshape(tiles.shape[0] * PATCH, -1)
    panels = [
        page,
        stages["background"],
        cv2.bitwise_not(stages["ink"]),
        cv2.bitwise_not(mask),
        profiled,
        boxed,
        tiles,
    ]
    names = ["picture", "background", "ink", "mask", "parts and profiles", "boxes", "patches"]
    cells = [_panel(panel, name, page.shape) for panel, name in zip(panels, names)]
    return np.vstack([np.hstack(cells[:4]), np.hstack([*cells[4:], np.full_like(cells[0], 235)])])


def _panel(picture: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The picture fitted into a titled panel; all panels of a page are of one size."""
    height, width = (max(1, round(n * 600 / max(shape[:2]))) for n in shape[:2])
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = [max(1, int(n * scale)) for n in picture.shape[1::-1]]
    panel = np.full((height + 28, max(width, 160) + 8, 3), 235, np.uint8)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    panel[24 : 24 + size[1], 4 : 4 + size[0]] = small
    cv2.putText(
        panel,
        name,
        (4, 17),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.5,
        (60, 60, 60),
        1,
        cv2.LINE_AA,
    )
    return panel
