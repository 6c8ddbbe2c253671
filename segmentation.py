"""From a photo to digits: the ink mask, recursive row and column projection, boxes, lines and 28x28 patches.

The way of the data, and of this file:

1. ink: the picture at a working size, the light divided out, so that paper is 0 under a lamp and in a shadow;
2. parts: connected ink, without what cannot be a digit's (specks, rulings, frames, the table, dark areas);
3. rows and columns: the parts projected along the text's slope, cut where the profile is empty, again inside each cut;
4. patches: each digit turned upright and drawn as MNIST draws it.

A length is told in strokes (the pen's thickness in this picture) or in digit heights, never in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import accumulate

import cv2
import numpy as np

WORK_AREA = 1_000_000  # pixels: a page of writing at this size keeps its strokes at two pixels or more
PEN = 2.0, 4.2  # the pen's thickness in MNIST's box of 20: its 5 % and 95 % quantiles
PAPER = 64  # level of bare paper in the ink picture while it is made: noise must not be cut off on one side
ANGLES = np.deg2rad(np.arange(-150, 61, 2.5))  # of text lines, and below them of the columns across it
NORMALS = np.stack([-np.sin(ANGLES), np.cos(ANGLES)], axis=1).astype(np.float32)  # A x 2
LEVEL, QUARTER = 60, 36  # numbers of ANGLES: the level one, and how many make a quarter turn
FINE = 2  # a patch is drawn that much finer first, and averaged: pens have half a pixel
FAST_MEDIAN = 72  # pixels: OpenCV's median of narrower pictures takes ten times as long
NEXT = np.ones((3, 3), np.uint8)  # a pixel and its neighbours
GREY = 90  # of 255: ink beside a piece, which it was cut from
STRIP, SEEN = 22, 36  # pixels that a string is high in a strip of PATCH, and paper in its length: what a column sees
PATCH, BOX = 28, 20  # MNIST: the digit fitted into 20 x 20, its centre of mass in the middle of 28 x 28
TILTS = np.tan(np.deg2rad(np.arange(-16, 17, 2)))  # of rulings, looked for within half a step of one of these
FANS = np.tan(np.deg2rad(np.arange(-21, 22, 3)))  # how much more a ruling is tilted than one a longer side away
PASSES = 2  # in which rulings are looked for: the first may hide others, or mislead where they meet
SLENDER = 40  # times as long as thick, at least, is a ruling that ends in the picture
RULING = 0.4  # of the picture's longer side: a straight line of that length is no digit's
BITS = 0.85  # of a component's pixels, at least, are a ruling's: it is a bit of one
SEEDS = 0.1  # of a part's pixels are strong ink: blurred thin strokes have a third, noise and shadows none
WRITING = 0.4  # of all ink's length is strokes of one pen: 0.7 and more on a page, 0.1 to 0.4 of a cat, a tree, stains
CLEARLY = 0.7  # that share is no doubt writing
CLEAN = 0.97  # and that has hardly anything else beside it
LARGE = 15  # strokes: few digits are as high, and tables of them higher
FAINT = 0.75  # of the strength of all ink: writing that weak beside its rulings is looked for without them
SHEET = 0.04, 0.9  # of the picture that a sheet of paper before something else takes up
LEVELS = 12  # of each channel at which what is brighter may be such a sheet
FLAT = 16  # of 255: a channel that differs by less shows no sheet, but a wall, paper all over, a covered lens
CONVEX = 0.85  # of its hull, at least, is bright: the rest is fingers, and writing at its edge
FAINTER = 0.8  # of its brightness, at most, has what is around it
SHADOW = 0.35, 1.25  # of its brightness that a shadow leaves at least, and the most that this differs between channels
THICK = 2.5  # pixels: strokes that a mask keeps whole; MNIST's are 2 to 4 pixels in a patch
CLEAR = 3.0  # pixels: what thinner ones of a small picture are enlarged to
SLIM = 3.0  # strokes: no digit is shorter; the thickest of MNIST's has 3.9, a small and blurred one 3
LEAST = 7  # pixels: the lowest raster in which ten digits differ (the 5 x 7 fonts)
NOISY = 4  # of 255: where three quarters of all neighbours differ by that, noise has a deviation of 9: smoothed
CROSSING = 2.4  # strokes: ink is hardly wider, not even where strokes cross
CORNERS = 0.01  # of the picture, at least, is darker than its paper by a tenth and wider than ink: shadows
NOISIEST = 25  # deviation in the ink picture, of 255: a region that strays more is partly bold ink
BLOT = 0.2  # of the way from paper to black: half of a region that is as dark as that is a bold digit's
CONTRAST = 0.08  # of the paper's brightness: fainter than that is no ink to the eye either


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
class Part:
    """Connected ink of the working picture: a stroke, several, or (joined) a whole digit."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    mask: np.ndarray  # (y1 - y0) x (x1 - x0) uint8, 255 where its ink is
    stroke: float  # thickness in pixels
    points: np.ndarray | None = None  # its outline, where that is known without looking for its contour

    @cached_property
    def contour(self) -> np.ndarray:
        """Points (x, y) all around it, N x 2 int32."""
        contours, _ = cv2.findContours(self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=self.box[:2])
        return (contours[0] if len(contours) == 1 else np.concatenate(contours))[:, 0]

    @property
    def outline(self) -> np.ndarray:
        """Points (x, y) of its ink, N x 2 int32: its projection in any direction is theirs."""
        return self.contour if self.points is None else self.points

    @property
    def width(self) -> int:
        """In pixels of the working picture."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """In pixels of the working picture."""
        return self.box[3] - self.box[1]

    def merged(self, other: Part) -> Part:
        """Both as one."""
        x0, y0 = min(self.box[0], other.box[0]), min(self.box[1], other.box[1])
        x1, y1 = max(self.box[2], other.box[2]), max(self.box[3], other.box[3])
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for part in (self, other):
            left, top, right, bottom = part.box
            mask[top - y0 : bottom - y0, left - x0 : right - x0] |= part.mask
        points = np.concatenate([self.outline, other.outline])
        return Part((x0, y0, x1, y1), mask, max(self.stroke, other.stroke), points)

    def only(self, mask: np.ndarray) -> Part:
        """What a mask of its own size leaves of it: a part of no size where that is empty."""
        x, y, w, h = cv2.boundingRect(mask)
        x0, y0 = self.box[0] + x, self.box[1] + y
        return Part((x0, y0, x0 + w, y0 + h), mask[y : y + h, x : x + w], self.stroke)


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
    coarse: bool = False  # whether `find` had only a quarter of the working area, and with `fine` would have all of it

    def boxes(self, parts: list[Part]) -> np.ndarray:
        """N x 4 int32: x, y, w, h of the parts in pixels of the picture, inside it."""
        corners = np.array([part.box for part in parts], float).reshape(-1, 4) / self.scale + self.corner * 2
        limit = np.array(self.size)
        first = np.clip(np.floor(corners[:, :2]), 0, limit - 1)
        last = np.clip(np.ceil(corners[:, 2:]), first + 1, limit)
        return np.hstack([first, last - first]).astype(np.int32)

    def segments(self) -> Segments:
        """Its digits' boxes, patches and lines."""
        return Segments(self.boxes(self.digits), patches(self.ink, self.digits, self.slopes), self.lines)


def segment(image: np.ndarray, single: bool = False, stages: dict | None = None) -> Segments:
    """The handwritten digits of a picture, as `find` finds them, drawn as patches."""
    return find(image, single, stages).segments()


def find(image: np.ndarray, single: bool = False, stages: dict | None = None, fine: bool = False) -> Found:
    """Find the handwritten digits of a picture.

    image: H x W x 3 BGR (a fourth channel is ignored) or H x W grey, uint8. single: the whole picture is one digit.
    stages: a dictionary that is filled with what every stage made, for `contact_sheet`. fine: spare no pixels.
    Never raises for a uint8 picture: one without digits, however small or odd, gives none.
    """
    stages = {} if stages is None else stages
    if image.size == 0 or min(image.shape[:2]) < LEAST:
        blank = np.zeros((1, 1), np.uint8)
        return Found(image.shape[1::-1], 1.0, (0.0, 0.0), blank, blank, [], np.zeros(0, np.int32), np.zeros(0))
    return _find(image, single, stages, fine, sheets=True)


def _find(image: np.ndarray, single: bool, stages: dict, fine: bool, sheets: bool) -> Found:
    """As `find`; sheets: where the picture seems not to be all paper, a sheet of it is looked for. Else it is one."""
    whole = sheets
    # Of the working area: a pen that is thick enough mostly needs no more than a quarter, in half of the time.
    for part in (1.0,) if fine or image.shape[0] * image.shape[1] <= WORK_AREA / 8 else (0.25, 1.0):
        page = _shrink(image, part)
        ink, parts = _strokes(page, stages)
        if sheets and (found := _find_on_sheet(image, single, stages, fine, len(parts))):
            return found
        sheets = False
        if parts and stages["thickness"] >= THICK:
            break
    else:
        larger = min(CLEAR / stages["thickness"], (WORK_AREA / (page.shape[0] * page.shape[1])) ** 0.5)
        if parts and larger > 1.2:
            page = cv2.resize(page, None, fx=larger, fy=larger, interpolation=cv2.INTER_CUBIC)
            ink, parts = _strokes(page, stages)
    if whole:  # beside what is no sheet everything looks more like writing
        ink, parts = _out_of_shadows(ink, parts, stages)
    rows: list[tuple[list[Part], float]] = []
    if parts:
        layout = Layout.of(parts)
        slope = _slope(layout)
        joined = _join(layout, slope)
        layout = _digits_only(joined, slope)
        if len(layout.parts) < len(joined.parts):
            slope = _slope(layout)  # the digits' own
        rows = [([reduce(Part.merged, layout.parts)], 0.0)] if single and layout.parts else _rows(layout, slope)
    stages["digits"] = [digit for row, _ in rows for digit in row]
    lines = np.repeat(np.arange(len(rows), dtype=np.int32), [len(row) for row, _ in rows])
    slopes = np.array([slope for _, slope in rows])[lines]
    size, scale = image.shape[1::-1], page.shape[1] / image.shape[1]
    return Found(size, scale, (0.0, 0.0), ink, stages["left"], stages["digits"], lines, slopes, coarse=part < 1)


def _find_on_sheet(image: np.ndarray, single: bool, stages: dict, fine: bool, parts: int) -> Found | None:
    """What is found on a sheet of paper before something else, if that is more clearly writing than the whole picture.

    stages: of the whole picture, which has so many `parts`; if so, the sheet's. single, fine: as of `find`.
    """
    share = stages["share"]
    doubtful = stages["bright strokes"] or share < CLEARLY or not parts
    if not doubtful and (share >= CLEAN or not _uneven(stages["background"])):
        return None
    page = _shrink(image, 4)  # the sheet then has a working area for itself
    for box, paper, lit in _sheets(page):
        if lit and not doubtful:
            continue
        theirs: dict = {}
        found = _find(_alone(page, box, paper), single, theirs, fine, sheets=False)
        more, clearer = len(found.digits) - parts, theirs["share"] > share
        if found.digits and theirs["share"] > CLEARLY and (more > 0 or (clearer and (more == 0 or not lit))):
            stages.clear()
            stages.update(theirs)
            scale = page.shape[1] / image.shape[1]
            corner = box[0] / scale, box[1] / scale
            return replace(found, size=image.shape[1::-1], scale=found.scale * scale, corner=corner)
    return None


def _uneven(background: np.ndarray) -> bool:
    """Whether a tenth of the picture or more has a background less than half as bright as the paper's."""
    height, width = background.shape
    samples = background[:: 1 + height // 64, :: 1 + width // 64]
    return bool((samples < 0.5 * np.quantile(samples, 0.9)).mean() > 0.1)


def whole(ink: np.ndarray) -> Part:
    """All of a picture's ink (H x W uint8, 0 = paper) as one part. ValueError where there is none."""
    mask = cv2.threshold(ink, 90, 255, cv2.THRESH_BINARY)[1]
    if not mask.any():
        raise ValueError("there is no ink in the picture")
    stroke = _thickness(cv2.mean(cv2.distanceTransform(mask, cv2.DIST_L2, 3), mask)[0])
    height, width = mask.shape
    return Part((0, 0, width, height), mask, float(stroke)).only(mask)


# 1. Ink


def _shrink(image: np.ndarray, part: float = 1.0) -> np.ndarray:
    """The picture as BGR at (a part of) the working area, halved by averages so that thin strokes stay."""
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = np.ascontiguousarray(image[..., :3])
    scale = (part * min(1.0, WORK_AREA / (image.shape[0] * image.shape[1]))) ** 0.5
    if scale >= 1:
        return image
    return _smaller(image, [max(1, round(n * scale / 2) * 2) for n in image.shape[1::-1]])  # even: halved exactly later


def _smaller(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The picture at that size (width, height): halves by averages, and then what four pixels give.

    It takes a tenth of the time of averages over any area; exact halves take a fiftieth.
    """
    while image.shape[1] >= 2 * size[0] and image.shape[0] >= 2 * size[1]:
        height, width = (n // 2 for n in image.shape[:2])
        image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def _sheets(page: np.ndarray) -> list[tuple[tuple[int, int, int, int], np.ndarray, bool]]:
    """Sheets of paper that may lie on something darker or be held before it: none, one or two, the surer first.

    Of each its box in the page (x0, y0, x1, y1), with some room around; which places of the box are paper, small (h x w
    uint8, 0 or 1); and whether it may as well be paper in the light with a shadow beside it. Of all that is brighter
    than some level it is what is the most nearly convex, the largest, and stands out the most; the second one is where
    that may be a shadow's doing, and the first where not.
    """
    height, width = page.shape[:2]
    step = max(1.0, min(height, width) / 120)
    small = _smaller(page, (round(width / step), round(height / step)))
    small = _close(small, min(small.shape[:2]) // 13)  # without what is written
    bright_places: list[tuple[float, np.ndarray]] = []  # how far each of them stands out at most
    for level in cv2.split(small):  # white is brighter than a table in each channel, a colour in one
        if np.ptp(level) < FLAT:
            continue
        for bound in np.linspace(level.min(), level.max(), LEVELS + 2)[1:-1]:
            bright = cv2.morphologyEx(cv2.threshold(level, bound, 1, cv2.THRESH_BINARY)[1], cv2.MORPH_OPEN, NEXT)
            for contour in cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
                hull = cv2.convexHull(contour)
                share = cv2.contourArea(hull) / level.size
                if not SHEET[0] < share < SHEET[1]:
                    continue
                inside = cv2.fillConvexPoly(np.zeros_like(level), hull, 1)
                convex = cv2.mean(bright, inside)[0]
                if convex >= CONVEX:
                    bright_places.append((convex**3 * share**0.25, inside))
    best: list[float] = [0.0, 0.0]  # how far the sheets stand out: what is surely one, and what may be in the light
    sheets: list[np.ndarray | None] = [None, None]
    for at_most, inside in sorted(bright_places, key=lambda place: -place[0]):
        if at_most <= min(best):
            break
        paper, fainter = _beside(small, inside)
        least = fainter.min(axis=1)
        if not len(least) or np.median(least) > FAINTER:
            continue
        stands_out = at_most * (1 - np.median(least)) * paper.min() / max(1.0, paper.max())
        shadow = (least > SHADOW[0]) & (fainter.max(axis=1) < SHADOW[1] * least)
        for lit in (False, True):
            if stands_out > best[lit] and (lit or shadow.mean() < 0.15):
                best[lit], sheets[lit] = stands_out, inside
    made = []
    across, down = width / small.shape[1], height / small.shape[0]
    for lit, sheet in enumerate(sheets):
        if sheet is None or (lit and sheet is sheets[0]):
            continue
        x, y, w, h = cv2.boundingRect(sheet)
        x0, y0, x1, y1 = max(0, x - 3), max(0, y - 3), min(sheet.shape[1], x + w + 3), min(sheet.shape[0], y + h + 3)
        box = round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down)
        # Its very edge is neither paper nor table.
        paper = cv2.erode(sheet, NEXT, iterations=2, borderType=cv2.BORDER_REPLICATE)[y0:y1, x0:x1]
        made.append((box, paper, bool(lit)))
    return made


def _beside(picture: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The median colour just inside a mask (0 or 1), 3 floats; and how bright the places just outside are beside it.

    N x 3, 1 = as bright. None where there is nothing just inside or outside.
    """
    rim = cv2.subtract(inside, cv2.erode(inside, NEXT, iterations=3))
    near = cv2.dilate(inside, NEXT)
    around = cv2.subtract(cv2.dilate(near, NEXT, iterations=3), near)
    if not rim.any():
        return np.zeros(3), np.zeros((0, 3))
    paper = np.median(picture[rim > 0], axis=0)
    return paper, picture[around > 0] / np.maximum(1, paper)


def _alone(page: np.ndarray, box: tuple[int, int, int, int], sheet: np.ndarray) -> np.ndarray:
    """The page cut down to its sheet, as `_sheets` gives it, and around that covered with paper as at its edge."""
    x0, y0, x1, y1 = box
    page = page[y0:y1, x0:x1].copy()
    size = page.shape[1::-1]
    paper = _close(_smaller(page, sheet.shape[::-1]), 9)
    _, nearest = cv2.distanceTransformWithLabels(1 - sheet, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((nearest.max() + 1, 3), np.uint8)
    colours[nearest[sheet > 0]] = paper[sheet > 0]
    paper = cv2.resize(cv2.blur(colours[nearest], (5, 5)), size, interpolation=cv2.INTER_LINEAR)
    around = cv2.resize(255 * (1 - sheet), size, interpolation=cv2.INTER_LINEAR)
    return cv2.copyTo(paper, cv2.threshold(around, 127, 255, cv2.THRESH_BINARY)[1], page)


def _dark(page: np.ndarray, bright_strokes: bool) -> np.ndarray:
    """H x W uint8: the least of the three channels, for ink of any colour is dark in one of them.

    bright_strokes: of the negative.
    """
    first, second, third = cv2.split(page)
    if bright_strokes:
        return cv2.bitwise_not(cv2.max(cv2.max(first, second), third))
    return cv2.min(cv2.min(first, second), third)


def _paper(page: np.ndarray, bright_strokes: bool | None) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """What tells the ink from its paper: the page as `_dark` gives it, H x W uint8, and the same at half its size; the
    side of a window that is wider than strokes there; and whether strokes are bright. bright_strokes: None to find out.
    """
    height, width = page.shape[:2]
    step = max(1.0, min(height, width) / 120)
    small = _smaller(page, (round(width / step), round(height / step)))
    if bright_strokes is None:
        bright_strokes = _bright_on_dark(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
    dark = _dark(page, bright_strokes)
    half = cv2.resize(dark, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    bound = _stroke_bound(_dark(small, bright_strokes))
    return dark, half, max(3, round(bound * step)), bright_strokes  # in `half` twice the bound: crossings are wider


def _ink(dark: np.ndarray, paper: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much darker than the paper around it each pixel is, whatever light and colour, and what of it is only noise.

    dark: as of `_paper`. paper: the same without ink, at half its size; edge: pixels of it that an edge of what is
    darker is wide, at most. Three H x W uint8: the ink, 0 = paper; what the paper's own texture and noise reach around
    each pixel; and the background that was divided out.
    """
    height, width = dark.shape
    # Eroded, as at the sheet's edge the table's darkness is no ink.
    paper = cv2.erode(paper, np.ones((max(3, edge | 1),) * 2, np.uint8))
    # Division makes noise grow in the dark: three times at most, then a deep shadow leaves its ink a little weaker.
    samples = paper[:: 1 + height // 64, :: 1 + width // 64].ravel()
    bright = np.partition(samples, 9 * len(samples) // 10)[9 * len(samples) // 10]
    divisor = cv2.max(paper, max(16, int(bright) // 3))
    lift = cv2.subtract(divisor, paper)  # there, too, what is as dark as its paper is paper
    if cv2.countNonZero(lift):
        dark = cv2.add(dark, cv2.resize(lift, (width, height), interpolation=cv2.INTER_LINEAR))
    background = cv2.resize(divisor, (width, height), interpolation=cv2.INTER_LINEAR)
    ink = cv2.bitwise_not(cv2.divide(dark, background, scale=255 - PAPER))  # noise goes to both sides of PAPER
    if width >= 4:
        some = ink[::16, : width // 4 * 4]
        rough = cv2.absdiff(some[:, 1::4], some[:, ::4]).ravel()  # of neighbours, ink's among them
        if np.partition(rough, len(rough) // 4)[len(rough) // 4] >= NOISY:
            ink = cv2.GaussianBlur(ink, (3, 3), 0)
    level, floor = (cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) for small in _floor(ink))
    return cv2.subtract(ink, level), cv2.subtract(floor, level), background


def _with_corners(paper: np.ndarray, half: np.ndarray, crossing: int) -> np.ndarray | None:
    """The paper (as of `_ink`) with what its window, far wider than strokes, leaves out of shadows: corners, wedges.

    half: as of `_paper`; crossing: pixels of it that ink is wide, at most. What is wider still is a shadow, and so is
    all that hangs together with it and is no narrower than ink: a closing by reconstruction (L. Vincent,
    "Morphological grayscale reconstruction in image analysis", IEEE Transactions on Image Processing 2(2), 1993). None
    where hardly anything was left out.
    """
    least = cv2.convertScaleAbs(paper, alpha=0.9)

    def left_out(darker: np.ndarray) -> float:
        return cv2.countNonZero(cv2.compare(darker, least, cv2.CMP_LT)) / paper.size

    inkless = _close(half, crossing)
    if left_out(inkless) < CORNERS:
        return None
    shadows = cv2.min(_close(inkless, 3 * crossing // 2), paper)
    before = paper
    while cv2.norm(before, shadows, cv2.NORM_INF) > 2:
        before = shadows
        for _ in range(8):
            shadows = cv2.max(cv2.erode(shadows, NEXT), inkless)
    return shadows if left_out(shadows) >= CORNERS else None


def _close(picture: np.ndarray, side: int) -> np.ndarray:
    """Dark places narrower than a square of that side filled up with what is around; the picture goes on beyond its
    border, or a strip of table along it would be narrow.
    """
    side |= 1  # an even square has no middle, and would move every edge by a pixel
    height, width = picture.shape[:2]
    wide = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_REPLICATE)
    wide = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return wide[side : side + height, side : side + width]


def _bright_on_dark(grey: np.ndarray) -> bool:
    """Whether the strokes are brighter than what they are written on.

    Ink covers less than half of any neighbourhood wider than a few strokes: its median is paper, strokes stray from it.
    How wide the strokes are is not known yet, so neighbourhoods of several sizes vote, each with how far the picture
    strays there. The smaller count more: in the large ones a bright sheet on a table is a stroke itself. Where they
    don't agree a bright rim decides, which is paper: of an 8 that fills the picture the ink is more than its holes.
    """
    darkest, brightest = np.quantile(grey[::2, ::2], (0.02, 0.98))
    rim = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    rim = (rim - darkest) / max(1.0, brightest - darkest)
    vote = weight = 0.0
    for coarser, short in enumerate((120, 72, 36, 18, 9)):  # pixels of the shorter side: five are a neighbourhood
        scale = short / min(grey.shape)
        if scale < 1:
            size = [max(1, round(n * scale)) for n in grey.shape[::-1]]
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
        margin = max(0, FAST_MEDIAN - grey.shape[1])
        around = cv2.medianBlur(cv2.copyMakeBorder(grey, 0, 0, 0, margin, cv2.BORDER_REPLICATE), 5)
        around = around[:, : grey.shape[1]]
        apart, above = cv2.norm(grey, around, cv2.NORM_L2SQR), cv2.norm(cv2.subtract(grey, around), cv2.NORM_L2SQR)
        decided = (2 * above - apart) / max(apart, 1.0)  # from -1, all below its surroundings, to 1
        strength = math.sqrt(apart / grey.size) / 2**coarser
        vote, weight = vote + decided**3 * strength, weight + abs(decided) ** 3 * strength
    return vote > max(0.0, 1.5 * (rim - 0.5)) * weight


def _stroke_bound(dark: np.ndarray) -> int:
    """A bound for the strokes' thickness: the least window whose closing (fill the dark up) takes all strokes away.

    Or the next one, where that takes more away: bold strokes are wider where they cross and touch.
    """
    short = min(dark.shape)
    sides = [max(3, short // n | 1) for n in (16, 8, 4, 2)]
    filled, places, closed, step = [], [], dark, 1  # for each window: how far it fills, and what share of the picture
    for side in sides:
        while step < side // 7:  # what is closed already has nothing as narrow as that: fewer pixels tell the same
            closed, dark, step = closed[::2, ::2], dark[::2, ::2], 2 * step
        closed = _close(closed, side // step)
        every = max(1, 2 // step)  # enough to count
        depths = (closed[::every, ::every] - dark[::every, ::every]).ravel()
        most = math.ceil(0.998 * len(depths)) - 1
        filled.append(int(np.partition(depths, most)[most]))
        places.append(np.count_nonzero(depths > 0.5 * filled[-1]) / len(depths))
    for k in range(len(sides) - 1):
        if filled[k] >= 0.8 * filled[k + 1] and filled[k] >= 0.4 * filled[-1]:
            return sides[k + (places[k + 1] > 1.05 * places[k])]
    return sides[-1]


# 2. Parts


def _strokes(page: np.ndarray, stages: dict, bright_strokes: bool | None = None) -> tuple[np.ndarray, list[Part]]:
    """The ink of a picture of the working size, and what of it may be strokes of digits.

    bright_strokes: whether they are; None to find out.
    """
    unknown = bright_strokes is None
    dark, half, side, bright_strokes = _paper(page, bright_strokes)
    paper = _close(half, side)
    ink, floor, background = _ink(dark, paper, side // 4)
    stages.clear()
    parts = _parts(ink, floor, stages)
    stages.update({"page": page, "dark": dark, "half": half, "paper": paper, "background": background, "ink": ink})
    stages["bright strokes"] = bright_strokes
    if unknown and bright_strokes and stages["share"] < CLEARLY:
        theirs: dict = {}
        as_dark = _strokes(page, theirs, False)
        if theirs["share"] > max(stages["share"], CLEARLY):  # a bold digit that fills the picture: these were its holes
            stages.clear()
            stages.update(theirs)
            return as_dark
    return ink, parts


def _out_of_shadows(ink: np.ndarray, parts: list[Part], stages: dict) -> tuple[np.ndarray, list[Part]]:
    """What `_strokes` gives and noted in `stages`, or, where that is more clearly writing, without shadows' corners."""
    if stages["share"] < WRITING:
        return ink, parts
    crossing = math.ceil(CROSSING * stages["thickness"] / 2) + 1  # of `half`
    paper = _with_corners(stages["paper"], stages["half"], crossing)
    if paper is None:
        return ink, parts
    theirs: dict = {}
    their_ink, floor, background = _ink(stages["dark"], paper, crossing // 4)
    their_parts = _parts(their_ink, floor, theirs)
    clearer = theirs["share"] > stages["share"] or len(their_parts) >= len(parts)
    if not clearer or theirs["share"] <= CLEARLY:
        return ink, parts
    stages.pop("rulings", None)
    stages.update({**theirs, "paper": paper, "background": background, "ink": their_ink})
    return their_ink, their_parts


def _parts(ink: np.ndarray, floor: np.ndarray, stages: dict) -> list[Part]:
    """Connected ink that may be strokes of digits."""
    lines, mask, seeds, pen = _masks(ink, floor)
    stages["mask"], ink = mask, ink.copy()
    found = whole = _connected(mask, seeds)
    for part in _large(found):
        rest = ink.copy()
        _wipe(rest, part)
        anew = _masks(rest, floor)
        if anew[3] < FAINT * pen:
            inner = _connected(anew[1], anew[2])
            if _held(part, inner) > 1:
                ink, (lines, mask, seeds, pen), found = rest, anew, inner
    mask = mask.copy()

    def without(frames: list[Part]) -> Connected:
        for frame in frames:
            for picture in (lines, mask, ink):
                _wipe(picture, frame)
        return _connected(mask, seeds) if frames else found

    table = None
    for _ in range(PASSES):
        found = without(_frames(found, closed=True))  # a margin with its rulings is open, and has digits of its own
        rulings, number = _rulings(mask, lines, found, table)
        if not number:
            break
        table = rulings if number > 2 else table
        stages["rulings"] = cv2.bitwise_or(rulings, stages.get("rulings", rulings))
        edges = cv2.subtract(cv2.dilate(rulings, NEXT), mask)
        lines, mask, ink = cv2.subtract(lines, rulings), cv2.subtract(mask, rulings), cv2.subtract(ink, rulings | edges)
        anew = _masks(ink, floor)
        if anew[3] < FAINT * pen:
            lines, mask, seeds, pen = anew
        found = _connected(mask, seeds)
    found = without(_frames(found))
    stages["left"] = mask
    if not len(found.kept) and len(whole.kept) == 1 and not whole.at_edge[whole.kept[0]]:
        found = whole  # a line that is all there is, and ends on the page: a 1
    stages["thickness"] = found.thickness
    stages["share"] = found.share
    if 0 < stages["share"] < WRITING:
        return []
    return [found.part(i) for i in found.kept[~_cut_off(found)[found.kept]].tolist()]


def _wipe(picture: np.ndarray, part: Part) -> None:
    """Take a part and the pixels around it away from a picture of the working size, H x W uint8, in place."""
    x0, y0, x1, y1 = part.box
    picture[y0:y1, x0:x1] &= ~cv2.dilate(part.mask, NEXT)


def _cut_off(found: Connected) -> np.ndarray:
    """Which components the picture's edge shows a piece of: what lies along it, is low, or is a margin's thin line."""
    width, height = found.stats[:, 2:].T
    inner = found.kept[~found.at_edge[found.kept]]
    if not len(inner):
        return found.along_edge
    typical = _weighted_median(height[inner].astype(float), width[inner].astype(float))
    margin = (width < 0.25 * height) & (found.stroke < 0.7 * found.thickness)
    return found.along_edge | found.at_edge & ((height < 0.6 * typical) | margin)


def _masks(ink: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Three H x W masks of rising strength: for lines, for ink, and the strong ink that a part must have somewhere.

    And how strong the pen's ink is, 0 to 255.
    """
    faint = cv2.compare(ink, floor, cv2.CMP_GT)
    step = 2 if min(ink.shape) >= 240 else 1  # half the picture tells the pen's strength as well
    strokes = _connected(np.ascontiguousarray(faint[::step, ::step]), faint[::step, ::step], LEAST // step)
    kept = np.zeros(len(strokes.area), bool)
    kept[strokes.kept] = True
    strong = ink[::step, ::step].ravel()[strokes.inside[kept[strokes.label]]]
    if not len(strong):
        return *(np.zeros_like(ink),) * 3, 0.0
    level, _ = cv2.threshold(strong, 0, 255, cv2.THRESH_OTSU)
    strongest = strong[strong > level]
    pen = float(strongest.mean()) if len(strongest) else float(level)
    lines, mask, seeds = (cv2.threshold(ink, part * pen, 255, cv2.THRESH_BINARY)[1] for part in (0.25, 0.35, 0.55))
    return lines, mask, cv2.bitwise_and(seeds, faint), pen


def _floor(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the paper's own texture and noise reach, by region: as two small uint8 pictures, its level first.

    Noise goes both ways and ink one way only, so a region's lower quartile tells its noise however much is written.
    """
    step = max(1.0, min(ink.shape) / 32)
    height, width = (round(n / step) for n in ink.shape)
    some = cv2.resize(ink, (width, height), interpolation=cv2.INTER_NEAREST)
    side = min(16, height, width)  # of a region; each shares half with the next
    regions = [
        [some[y : y + side, x : x + side].ravel() for x in range(0, width - side + 1, 8)]
        for y in range(0, height - side + 1, 8)
    ]
    quarter, half = np.sort(regions)[..., [side * side // 4, side * side // 2]].astype(np.float32).transpose(2, 0, 1)
    most = PAPER + BLOT * (255 - PAPER)
    quarter, half = np.minimum(quarter, most), np.minimum(half, most)
    noise = np.minimum((half - quarter) / 0.6745, NOISIEST)  # the quartile of a normal distribution
    floor = np.minimum(half + np.maximum(6 * noise, CONTRAST * (255 - PAPER)), 255)
    return half.astype(np.uint8), floor.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Connected:
    """The connected components of a mask: arrays with one entry a component, number 0 is what lies between them."""

    labels: np.ndarray  # H x W: the component of each pixel
    inside: np.ndarray  # K: the pixels with ink, as places in the flat mask,
    label: np.ndarray  # and their components
    stats: np.ndarray  # x, y, width, height
    area: np.ndarray  # number of pixels
    stroke: np.ndarray  # thickness in pixels
    at_edge: np.ndarray  # whether it touches the picture's edge
    along_edge: np.ndarray  # whether it lies along it, as a table does
    kept: np.ndarray  # numbers of those that are like strokes
    thickness: float  # of the pen, in pixels
    ends: np.ndarray  # R x 2 x 2: the points (x, y) where ink begins and ends in a row, component after component,
    starts: np.ndarray  # and where in it each component starts

    @cached_property
    def share(self) -> float:
        """How much of all the ink's length is in components that are like strokes and not cut off by the edge, 0..1."""
        length = np.where(self.at_edge, 0, self.area / self.stroke)
        return float(length[self.kept].sum() / max(length[1:].sum(), 1.0))

    def part(self, i: int) -> Part:
        """Component i."""
        x, y, w, h = self.stats[i].tolist()
        mask = cv2.inRange(self.labels[y : y + h, x : x + w], i, i)
        points = self.ends[self.starts[i] : self.starts[i + 1]].reshape(-1, 2)
        return Part((x, y, x + w, y + h), mask, float(self.stroke[i]), points)


def _connected(mask: np.ndarray, seeds: np.ndarray, least: int = LEAST) -> Connected:
    """The connected components of the mask; kept are those that have seeds and are like strokes of one pen."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    height, width = mask.shape
    # OpenCV's own statistics go over the paper too and take four times as long. Here: the ink's pixels, then their runs
    # in the rows, of which there are a tenth as many.
    inside = np.flatnonzero(mask != 0)
    label = labels.ravel()[inside]
    area = np.bincount(label, minlength=count)
    area[0] = 1  # the paper's is of no use, and divided by
    begins = np.ones(len(inside), bool)
    np.not_equal(inside[1:], inside[:-1] + 1, out=begins[1:])
    rows = inside.searchsorted(np.arange(0, mask.size, width))
    begins[rows[rows < len(inside)]] = True  # a run ends with its row
    begin = np.flatnonzero(begins)
    runs = label[begin]
    order = runs.argsort(kind="stable")  # by component, each from its top row to its bottom row
    starts = np.zeros(count + 1, int)
    np.bincount(runs, minlength=count).cumsum(out=starts[1:])
    last = np.full(len(begin), len(inside) - 1)
    last[:-1] = begin[1:] - 1
    y, x0 = np.divmod(inside[begin[order]], width)
    ends = np.empty((len(begin), 2, 2), np.int32)
    ends[:, 0, 0], ends[:, 1, 0], ends[:, :, 1] = x0, inside[last[order]] - y * width, y[:, None]
    stats = np.zeros((count, 4), int)
    if len(begin):
        first = starts[1:-1]
        stats[1:, 0], stats[1:, 1] = np.minimum.reduceat(x0, first), y[first]
        stats[1:, 2] = np.maximum.reduceat(ends[:, 1, 0], first) + 1
        stats[1:, 3] = y[starts[2:] - 1] + 1
        stats[1:, 2:] -= stats[1:, :2]
    x, y, w, h = stats.T
    longer = np.maximum(np.maximum(w, h), 0.8 * np.hypot(w, h))  # the second: of a stroke that lies aslant
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3).ravel()[inside]
    stroke = _thickness(np.bincount(label, distance, count) / area)
    keep = np.bincount(label, seeds.ravel()[inside] != 0, count) >= SEEDS * area
    keep[0] = False
    keep &= longer >= least
    keep &= area >= 3.4 * stroke**2  # a stroke is longer than thick: a square dot has 2.2, a round one 1.8, a blot 3
    at_edge = (x == 0) | (y == 0) | (x + w == width) | (y + h == height)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    along_edge = np.bincount(rim, minlength=count) >= 0.5 * longer
    slim = keep & (longer >= SLIM * stroke)
    sure = slim & ~at_edge
    sure = sure if sure.any() else slim
    thickness = _weighted_median(stroke[sure], (area / stroke)[sure]) if sure.any() else 1.0
    keep &= sure.any() & (longer >= 3 * thickness)
    keep &= stroke <= np.where(at_edge, 1.6, 3) * thickness  # the table, a hand, a shadow come in from the edge
    kept = np.flatnonzero(keep)
    return Connected(labels, inside, label, stats, area, stroke, at_edge, along_edge, kept, thickness, ends, starts)


def _thickness(depth: np.ndarray | float) -> np.ndarray:
    """Strokes' thickness in pixels from the mean of their pixels' distance transform."""
    # A bar's mean distance to its rim is a quarter of its width; pixels at the rim count as 1 there and lie 1/2 deep.
    return np.maximum(4 * (depth - 0.5), 1)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = values.argsort()
    total = weights[order].cumsum()
    return float(values[order[total.searchsorted(total[-1] / 2)]])


def _rulings(mask: np.ndarray, faint: np.ndarray, found: Connected, table: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Long straight thin lines of the mask (rulings, grids, margins), without the pixels where digits cross them.

    And how many there are: where none are the mask means nothing. table: those found before, if they are many.

    They are looked for in the faint mask, where they have fewer gaps, if any ink is long enough to be a piece of one,
    or much of it is dashes, or more than on a page of writing is no strokes: the crossings of a faint grid.
    """
    least = max(mask.shape) * RULING
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(faint, NEXT)[::2, ::2], connectivity=8)
    width, height = 2 * stats[1:, 2:4].T
    pieces = (np.maximum(width, height) > least / 2) | (width >= 4 * height) & (width >= 2 * found.thickness)
    if width[pieces].sum() < least and height[pieces].sum() < least:
        if not len(found.kept) or found.share > CLEARLY:
            return mask, 0
        y, x = np.nonzero(np.isin(found.labels, found.kept, invert=True) & (mask > 0))
        if not len(y):
            return mask, 0
    else:
        y, x = np.nonzero(faint)
        inside = np.append(False, pieces)[labels[y // 2, x // 2]]
        y, x = y[inside], x[inside]
    # Lines that end on the page may be strokes of large digits where nothing is smaller than they; not if they are two.
    others = bool((found.stats[found.kept, 2:] <= least / 2).all(axis=1).any())
    demands = least, 1 if others else 2, SLENDER
    if table is not None:  # what runs from the first of its lines to the last is one of its lines
        demands = min(least, 0.8 * cv2.boundingRect(table)[2]), 1, 0
    level, band, number = _level_lines(mask, faint, found.thickness, _levelled(y, x, mask.shape[::-1]), *demands)
    demands = least, 1 if others else math.inf, SLENDER  # 11 is two, too
    if number > 2 or table is not None:
        demands = min(least, 0.8 * cv2.boundingRect(level if table is None else table)[3]), 1, 0
    turned = _levelled(x, y, mask.shape)
    upright, across, more = _level_lines(mask.T.copy(), faint.T.copy(), found.thickness, turned, *demands)
    if not number + more:
        return mask, 0
    rulings, bands = level | upright.T, band | across.T
    # What is left of nothing but them: crossings, and where a hand's line is thicker.
    _, labels = cv2.connectedComponents(cv2.subtract(mask, rulings), connectivity=8)
    inside = np.bincount(labels[bands > 0], minlength=labels.max() + 1)
    bits = inside >= BITS * np.bincount(labels.ravel())
    bits[0] = False
    return cv2.bitwise_or(rulings, bits.astype(np.uint8)[labels] * 255), number + more


def _levelled(across: np.ndarray, along: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """The homography (3 x 3) that makes lines level, and the size (width, height) that the picture has then.

    It is that by which the profile of the lines' pixels is the sharpest.

    across, along: the pixels' coordinates at right angles to the lines and along them, in a picture of that size
    (width, height). Columns stay columns. Parallel lines seen aslant meet in a point: their tilt changes with
    their place.
    """
    middle = np.array(size) / 2
    y, x = (n[:: 1 + len(n) // 1_000] - m for n, m in zip((across, along), middle[::-1]))  # enough to tell

    def sharpest(tilts: np.ndarray, fans: np.ndarray) -> tuple[float, float]:
        tilts, fans = (n.ravel() for n in np.meshgrid(tilts, fans))
        places = ((y - tilts[:, None] * x) / (1 + fans[:, None] * x) / 2).astype(np.int32)
        places -= places.min()
        rows = places.max() + 1
        profiles = np.bincount((places + rows * np.arange(len(tilts))[:, None]).ravel(), minlength=rows * len(tilts))
        best = np.square(np.diff(profiles.reshape(-1, rows))).sum(axis=1).argmax()
        return tilts[best], fans[best]

    tilt, fan = sharpest(TILTS, FANS / max(size))
    nearer = np.linspace(-0.5, 0.5, 5)
    tilt, fan = sharpest(tilt + nearer * (TILTS[1] - TILTS[0]), fan + nearer * (FANS[1] - FANS[0]) / max(size))
    level = np.array([[1, 0, 0], [-tilt, 1, 0], [fan, 0, 1]]) @ _moved(-middle)
    corners = np.float32([[[0, 0], [size[0], 0], [0, size[1]], size]])
    corners = cv2.perspectiveTransform(corners, level)[0]
    first, last = corners.min(axis=0), corners.max(axis=0)
    return _moved(-first) @ level, np.ceil(last - first).astype(int).tolist()


def _moved(by: np.ndarray) -> np.ndarray:
    """The homography (3 x 3) that adds x, y."""
    return np.array([[1, 0, by[0]], [0, 1, by[1]], [0, 0, 1]])


def _level_lines(
    mask: np.ndarray,
    faint: np.ndarray,
    thickness: float,
    levelled: tuple[np.ndarray, list[int]],
    least: float,
    enough: float,
    slender: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The mask's pixels in lines level in the picture `levelled` and at least that long, but not what crosses them.

    Those that end in the picture count if they are `enough`, and each so many times as long as thick (`slender`). Also
    all that they cover, H x W uint8, and how many they are.
    """
    band = np.zeros_like(mask)
    length = round(max(14 * thickness, least / 10))  # no stroke of a digit is that straight for that long
    level, size = levelled
    width = size[0]
    faint = cv2.warpPerspective(faint, level, size, flags=cv2.INTER_NEAREST)
    swell = 2 * round(length / 16)
    swollen = cv2.dilate(faint, np.ones((1 + swell, 1), np.uint8))  # a sloped line's runs get long enough
    runs = cv2.morphologyEx(swollen, cv2.MORPH_OPEN, np.ones((1, length), np.uint8))
    bridged = cv2.dilate(runs, np.ones((5, length), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bridged, connectivity=8)
    straight: list[tuple[bool, float, np.ndarray]] = []  # whether each goes through the picture, thickness, points
    for i in np.flatnonzero((stats[1:, 2] - length >= least) & (stats[1:, 3] <= stats[1:, 2] / 3)) + 1:
        x, y, w, h = (int(n) for n in stats[i, :4])
        line = (runs[y : y + h, x : x + w] > 0) & (labels[y : y + h, x : x + w] == i)
        columns = line.sum(axis=0)
        filled = np.flatnonzero(columns)
        span = filled[-1] + 1 - filled[0]
        thick = max(1.0, float(np.median(columns[filled])) - swell)
        edge = max(2 * thick, 0.02 * width)
        through = x + filled[0] <= edge and x + filled[-1] >= width - edge
        if len(filled) < 0.7 * span or thick > 2 * thickness or not (through or span >= slender * thick):
            continue
        # Its middle, by medians over stretches: digits that stand on the line don't pull it off its way.
        middle = (np.arange(h) @ line)[filled] / columns[filled]
        pieces = np.array_split(np.arange(len(filled)), max(2, len(filled) // length))
        along = np.array([filled[0] - length, *(np.median(filled[i]) for i in pieces), filled[-1] + length])
        rows = np.array([np.median(middle[i]) for i in pieces])
        rows = np.array([2 * rows[0] - rows[1], *rows, 2 * rows[-1] - rows[-2]])
        points = np.stack([along + x, rows + y], axis=1)[None]
        straight.append((through, thick, cv2.perspectiveTransform(points, np.linalg.inv(level))[0]))
    straight = [line for line in straight if line[0] or len(straight) >= enough]
    if not straight:
        return band, band, 0
    for _, thick, points in straight:
        cv2.polylines(band, [np.rint(points).astype(np.int32)], False, 255, round(thick) + 2)
    thickest = max(thick for _, thick, _ in straight)
    crossing = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((round(thickest) + 2, 1), np.uint8))
    return cv2.subtract(cv2.bitwise_and(band, mask), crossing), band, len(straight)


def _frames(found: Connected, closed: bool = False) -> list[Part]:
    """What is drawn around others: boxes and circles, tables and circles that touch.

    Parts with several others in their holes; if not only `closed` ones are asked for, also those with another one
    wholly inside and no ink of their own in the middle.
    """
    boxes, margin = found.stats[found.kept], found.stroke[found.kept, None]
    first, size = boxes[:, :2], boxes[:, 2:]
    last, longer, shorter = first + size, size.max(axis=1), size.min(axis=1)
    inside = longer > 0.12 * shorter[:, None]  # the columns' parts in the rows' parts
    for k in range(2):
        inside &= first[:, k] > first[:, k, None] + margin
        inside &= last[:, k] < last[:, k, None] - margin
    frames = []
    for i in found.kept[inside.any(axis=1)].tolist():
        part = found.part(i)
        within = _held(part, found)
        middle = part.mask[part.height // 4 : -(part.height // 4), part.width // 4 : -(part.width // 4)]
        if within > 1 or not (closed or middle.any()):
            frames.append(part)
    return frames


def _held(part: Part, found: Connected) -> int:
    """How many of the components that are like strokes lie in a part's holes."""
    x0, y0, x1, y1 = part.box
    outlines, _ = cv2.findContours(part.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    holes = cv2.drawContours(np.zeros_like(part.mask), outlines, -1, 255, cv2.FILLED) - part.mask
    return int(np.isin(found.kept, found.labels[y0:y1, x0:x1][holes > 0]).sum())


def _large(found: Connected) -> list[Part]:
    """What may be drawn around others by its size: larger than a digit by the same pen, and mostly holes."""
    size = found.stats[found.kept, 2:]
    large = size.max(axis=1) >= np.maximum(LARGE * found.stroke[found.kept], 0.15 * max(found.labels.shape))
    large &= found.area[found.kept] < 0.4 * size.prod(axis=1)
    return [found.part(i) for i in found.kept[large].tolist()]


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
    for i, j, limit in _one_digit(layout, slope):
        a, b = layout.parts[i].contour, layout.parts[j].contour
        if (((a[:, None] - b[None]) ** 2).sum(axis=2) <= limit**2).any():
            return _join(layout.merged(i, j), slope)
    return layout


def _one_digit(layout: Layout, slope: int) -> list[tuple[int, int, float]]:
    """Pairs of parts that are strokes of one digit if they come as close as the third number says, in pixels.

    One above the other, or one a fragment, and together neither too tall nor wider than a digit.
    """
    left, top, right, bottom = layout.boxes(slope)
    width, height = right - left, bottom - top
    typical = _weighted_median(height, height) if len(height) > 3 else np.inf
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


# 3. Rows and columns


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
    typical, pen = _weighted_median(heights, weights), _weighted_median(row.strokes, weights)
    low = (heights < 0.35 * typical) & (row.strokes > 0.4 * pen)
    flat = (widths > 2 * heights) & (heights < 3.5 * row.strokes)
    long = (heights > 2.5 * typical) & (widths < 0.25 * heights)
    hair = (widths < 0.15 * heights) & (row.strokes < 0.6 * pen)  # a fold, a sheet's edge: no 1 of the same pen
    spans = np.hypot(widths, heights)
    drop = low | flat | long | hair
    for i in np.flatnonzero(spans > 4 * typical).tolist():  # lines that rulings leave: their ink is not much longer
        drop[i] |= np.count_nonzero(row.parts[i].mask) < 2.5 * spans[i] * row.strokes[i]
    return row.take(np.flatnonzero(~drop)) if drop.any() else row


# 4. Patches


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


# 5. What happened


def contact_sheet(image: np.ndarray, segments: Segments, stages: dict) -> np.ndarray:
    """One BGR picture that shows why a digit was found or missed.

    Above: the picture, its background, the ink with that divided out, the mask. Below: the mask with its row and column
    profiles (rulings red, what was dropped grey), the boxes in reading order, the patches. `stages` is what `segment`
    filled.
    """
    if "page" not in stages:
        return np.zeros((1, 1, 3), np.uint8) if image.size == 0 else _shrink(image)
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
