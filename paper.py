"""Pictures of digits on paper, made from 28x28 digits: as a person writes them and a camera sees them.

samples/, tests, benchmarks and training are served from here. A picture is made in the order of nature, by functions
that each do one thing and take a numpy Generator where they draw anything:

    page = write_lines(rng, [digits, digits], sheet(rng, (640, 480)), height=60, slope=5, pen=PENS["ballpoint"])
    page = view(page, turned((640, 480), degrees=3, tilt=(0.1, 0)), (640, 480))
    page = page.seen(lambda picture: camera(rng, light(picture, low=0.5), noise=3))
    page.picture, page.boxes, page.lines, page.labels

Sizes are (width, height) in pixels, colours BGR of 0..255, pictures H x W x 3 uint8. Degrees are counter-clockwise: a
line of positive slope rises to the right. The same generator state gives the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np

Line = tuple[np.ndarray, np.ndarray]  # n x 28 x 28 uint8 patches (ink bright on 0) and n labels: one written line
Size = tuple[int, int]
Colour = tuple[float, float, float]

BOX = 20  # MNIST fits its digits into 20 x 20 pixels: a digit `height` pixels high is enlarged height / BOX times
MARGIN = 4  # patch pixels around a digit's ink, as MNIST's own: room for a broad pen's strokes
DEBRIS = 0.08  # of a digit's largest part: smaller ones beside it are scanning dirt, larger ones a 5's flag
LOOP = 2  # patch pixels: how wide a loop stays open whatever the pen


@dataclass(frozen=True)
class Pen:
    """What writes."""

    colour: Colour = (50, 40, 40)
    width: float | None = 0.09  # of a stroke, in digit heights; None: each digit's strokes as its writer made them
    opacity: float = 0.95  # how much of the paper's light a full stroke takes away (of its complementary colour)
    grain: float = 0.0  # 0..1: how much the paper's roughness breaks the stroke, as pencil and chalk do
    covers: bool = False  # paint lies on the ground and hides it; ink lies in it and darkens it


PENS = {
    "ballpoint": Pen((55, 42, 42), 0.08, 0.9, 0.12),
    "blue": Pen((150, 60, 25), 0.08, 0.9, 0.12),
    "red": Pen((50, 40, 190), 0.09, 0.88, 0.1),
    "fineliner": Pen((40, 35, 35), 0.055, 0.95),
    "marker": Pen((35, 30, 30), 0.16, 0.97),
    "pencil": Pen((95, 95, 95), 0.075, 0.55, 0.6),
    "chalk": Pen((225, 230, 230), 0.12, 0.9, 0.6, covers=True),
}


@dataclass(frozen=True)
class Page:
    """A picture and what is written on it, digit by digit in the order of writing (lines downward, left to right)."""

    picture: np.ndarray  # H x W x 3 uint8
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # N
    line: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # N: line of each digit, 0 = the top one
    hulls: tuple[np.ndarray, ...] = ()  # N times K x 2 float32: the convex hull of each digit's ink, x and y

    @property
    def boxes(self) -> np.ndarray:
        """N x 4 int32: x, y, width, height in pixels, tight around each digit's ink."""
        corners = [(*np.floor(hull.min(0) + 0.5), *np.floor(hull.max(0) + 1.5)) for hull in self.hulls]
        corners = np.array(corners, np.int32).reshape(-1, 4)
        return np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2]))

    @property
    def position(self) -> np.ndarray:
        """N int32: the place of each digit in its line, 0 = the leftmost."""
        return np.arange(len(self.line), dtype=np.int32) - np.searchsorted(self.line, self.line).astype(np.int32)

    @property
    def lines(self) -> list[str]:
        """The digits as strings, a line each, as results.json has them."""
        return ["".join(map(str, self.labels[self.line == number])) for number in np.unique(self.line)]

    def seen(self, change: Callable[[np.ndarray], np.ndarray]) -> Page:
        """The same page with its picture changed by a function that moves nothing: light, shadow, camera."""
        return replace(self, picture=change(self.picture))


# ---- writing --------------------------------------------------------------------------------------------------------


def stroke_field(patch: np.ndarray, width: float | None = None, detail: int = 4) -> np.ndarray:
    """A digit as a signed distance field: how many patch pixels each place lies inside (> 0) a stroke, float32.

    patch: 28 x 28 uint8, ink bright. width: of the pen's stroke in patch pixels, led along the middle of the digit's
    strokes; None keeps them. detail: places per patch pixel. The field goes MARGIN patch pixels around the ink.
    Enlarged and cut at zero it has clean edges at any size: C. Green, "Improved Alpha-Tested Magnification for Vector
    Textures and Special Effects", SIGGRAPH 2007. ValueError for a patch without ink.
    """
    if not patch.any():
        raise ValueError("a digit's patch without ink can't be written")
    x, y, w, h = cv2.boundingRect((patch > 0).astype(np.uint8))
    ink = cv2.copyMakeBorder(patch[y : y + h, x : x + w], *(MARGIN,) * 4, cv2.BORDER_CONSTANT)
    ink = cv2.subtract(ink, enclosed(ink)).astype(np.float32)  # else the next steps would fill small loops
    ink = cv2.resize(ink, None, fx=detail, fy=detail, interpolation=cv2.INTER_CUBIC)
    ink = cv2.GaussianBlur(ink, (0, 0), 0.45 * detail)  # the steps of MNIST's pixels go, its strokes stay
    mask = (ink > 0.45 * ink.max()).astype(np.uint8)  # a little under a half: thin strokes lose height in the blur
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count > 2:
        area = stats[:, cv2.CC_STAT_AREA]
        written = area >= DEBRIS * area[1:].max()
        written[0] = False  # the paper
        mask = written.astype(np.uint8)[parts]
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    depth = inside - cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    if width is not None:
        half = width / 2 * detail
        own = 2 * float(inside[mask > 0].mean())  # half a stroke: its places lie a quarter of it deep on average
        middle = cv2.distanceTransform(1 - skeleton(mask), cv2.DIST_L2, cv2.DIST_MASK_5)
        drawn = np.maximum(half - middle, depth + (half - own))  # the second: a loop that was filled stays filled
        # With a broad pen people write larger loops: they stay open as wide as LOOP, or as they were.
        count, loops = cv2.connectedComponents(1 - mask, connectivity=4)
        widest = np.zeros(count, np.float32)
        np.maximum.at(widest, loops, -depth)
        widest[[0, loops[0, 0]]] = np.inf  # neither ink nor the paper around the digit is a loop
        depth = np.minimum(drawn, depth + np.maximum(0, widest - LOOP / 2 * detail)[loops])
    return cv2.GaussianBlur(depth / detail, (0, 0), 0.4 * detail)


def enclosed(ink: np.ndarray) -> np.ndarray:
    """How much darker each place is than all ways out of it to the border, 0 outside of loops: H x W uint8, as the ink.

    Holes are filled by erosions above the picture: P. Soille, "Morphological Image Analysis", 1999, pp. 173-174.
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    before, filled = None, np.full_like(ink, 255)
    while before is None or (filled != before).any():
        before, filled = filled, cv2.max(cv2.erode(filled, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0), ink)
    return filled - ink


@lru_cache(maxsize=1)
def _thinning_tables() -> tuple[np.ndarray, np.ndarray]:
    """What Zhang and Suen's two half steps keep (1) of a pixel by its 8 neighbours, bit 0 = north, then clockwise."""
    n, _, e, _, s, _, w, _ = ring = [np.arange(256) >> bit & 1 for bit in range(8)]
    neighbours = sum(ring)
    strokes = sum((here == 0) & (after == 1) for here, after in zip(ring, ring[1:] + ring[:1]))  # that begin here
    edge = (neighbours >= 2) & (neighbours <= 6) & (strokes == 1)
    first = edge & (n * e * s == 0) & (e * s * w == 0)
    second = edge & (n * e * w == 0) & (n * s * w == 0)
    return (~first).astype(np.uint8), (~second).astype(np.uint8)


def skeleton(mask: np.ndarray) -> np.ndarray:
    """The middle line, one pixel wide, of the strokes in a mask (H x W uint8 of 0 and 1).

    T. Y. Zhang, C. Y. Suen, "A fast parallel algorithm for thinning digital patterns", CACM 27(3), 1984.
    """
    weights = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    before, left = -1, cv2.countNonZero(mask)
    while left != before:
        for table in _thinning_tables():
            code = cv2.filter2D(mask, -1, weights, borderType=cv2.BORDER_CONSTANT)
            mask = mask & cv2.LUT(code, table)
        before, left = left, cv2.countNonZero(mask)
    return mask


def _placed(
    patch: np.ndarray, height: float, degrees: float, width: float | None
) -> tuple[np.ndarray, int, np.ndarray, tuple[int, int]]:
    """A digit's `stroke_field` for `ink_of`, its detail, and the 2 x 3 matrix that makes it ink, of that size."""
    zoom = height / BOX
    detail = min(8, max(3, math.ceil(zoom)))  # finer than the result, and never so coarse that thin strokes wobble
    depth = stroke_field(patch, None if width is None else width * BOX, detail)
    x, y, w, h = cv2.boundingRect((depth > -0.5).astype(np.uint8))
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), degrees, zoom / detail)
    corners = np.array([(x, y), (x + w, y), (x, y + h), (x + w, y + h)]) @ matrix[:, :2].T
    matrix[:, 2] = 1 - corners.min(0)
    return depth, detail, matrix, tuple((np.ceil(np.ptp(corners, axis=0)).astype(int) + 2).tolist())


def ink_of(
    patch: np.ndarray, height: float, degrees: float = 0.0, width: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A digit's ink at its size: coverage h x w float32 of 0..1, and its convex hull K x 2 float32 (x, y in it).

    patch: 28 x 28 uint8. height: pixels that MNIST's 20 become. degrees: turned by. width: stroke width / height.
    ValueError for a patch without ink.
    """
    depth, _, matrix, size = _placed(patch, height, degrees, width)
    depth = cv2.warpAffine(depth, matrix, size, flags=cv2.INTER_LINEAR, borderValue=-BOX)
    coverage = np.clip(depth * (height / BOX) + 0.5, 0, 1)  # a stroke's edge is one pixel wide
    points = cv2.findNonZero((coverage >= 0.5 * coverage.max()).astype(np.uint8))
    return coverage, cv2.convexHull(points).reshape(-1, 2).astype(np.float32)


def carried(
    parts: np.ndarray, patch: np.ndarray, height: float, degrees: float, width: float | None, at: np.ndarray, size: Size
) -> np.ndarray:
    """Where parts of a patch (n x H x W bool) come to lie on a page of that size if the ink that `ink_of` makes of it
    is put there with its corner `at` x and y: n x h x w bool.
    """
    _, detail, matrix, _ = _placed(patch, height, degrees, width)
    corner = np.array(cv2.boundingRect((patch > 0).astype(np.uint8))[:2])
    to_field = np.eye(3)  # from the middle of a patch's pixel to that of its places in the field
    to_field[:2] = np.column_stack([detail * np.eye(2), (MARGIN - corner + 0.5) * detail - 0.5])
    matrix = matrix @ to_field
    matrix[:, 2] += at
    return np.stack([cv2.warpAffine(part.astype(np.float32), matrix, size) > 0.4 for part in parts])


@dataclass(frozen=True)
class Writing:
    """Digits laid out but not on paper yet. Places are relative to the writing's upper left corner."""

    pen: Pen
    size: Size  # pixels that it needs
    baselines: np.ndarray  # pixels: where each line's baseline starts at the left, downward
    labels: np.ndarray
    line: np.ndarray
    hulls: tuple[np.ndarray, ...]
    inks: tuple[np.ndarray, ...]  # N coverages, and where each one's corner lies:
    places: np.ndarray  # N x 2 int


def lay_out(
    rng: np.random.Generator,
    lines: Sequence[Line],
    height: float | Sequence[float] = 50,
    slope: float | Sequence[float] = 0.0,
    pen: Pen = PENS["ballpoint"],
    gap: tuple[float, float] = (0.15, 0.45),
    leading: float = 0.5,
    pitch: float = 0.0,
    unsteady: float = 1.0,
) -> Writing:
    """Set lines of digits below each other as a hand does.

    lines: each (n x 28 x 28 uint8 patches, n labels). height (pixels) and slope (degrees): one, or one a line. gap: the
    space between neighbours is drawn evenly from here, in digit heights; leading: the least space between lines, in
    digit heights. Both keep ink apart where they are not negative. pitch: the least distance of baselines, pixels, for
    ruled paper. unsteady: 0 = a machine's hand, 1 = a person's: sizes, angles, places and stroke widths vary.
    """
    heights, slopes = (np.broadcast_to(np.asarray(v, float), len(lines)) for v in (height, slope))
    hulls, inks, places, strips = [], [], [], []
    for (patches, _), size, degrees in zip(lines, heights, slopes):
        along = np.array([math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))])
        down = np.array([-along[1], along[0]])
        pen_at, points = float(rng.uniform(0, 0.4) * size * unsteady), []
        for patch in patches:
            wide = None if pen.width is None else pen.width * (1 + unsteady * rng.uniform(-0.1, 0.1))
            own = size * (1 + unsteady * rng.uniform(-0.08, 0.08))
            ink, hull = ink_of(patch, own, degrees + unsteady * rng.normal(0, 2.5), wide and wide * size / own)
            first, base = (hull @ along).min(), (hull @ down).max()
            drop = unsteady * rng.normal(0, 0.03) * size
            place = np.rint((pen_at - first) * along + (drop - base) * down).astype(int)
            inks.append(ink)
            places.append(place)
            points.append(hull + place)
            # 2: what rounding places to whole pixels and the strokes' soft edges can take away from a gap
            pen_at = float((points[-1] @ along).max() + rng.uniform(*gap) * size + 2)
        hulls += points
        strips.append(np.vstack(points) if points else np.zeros((1, 2), np.float32))

    tops = _stack(strips, slopes, leading * heights + 2, pitch)
    line = np.repeat(np.arange(len(lines)), [len(patches) for patches, _ in lines]).astype(np.int32)
    lift = np.array([[0, tops[number]] for number in line]).reshape(-1, 2)
    hulls = [hull + move for hull, move in zip(hulls, lift.astype(np.float32))]
    corner = np.floor(np.vstack(hulls).min(0)).astype(int) - 1 if hulls else np.zeros(2, int)
    size = np.ceil(np.vstack(hulls).max(0)).astype(int) + 2 - corner if hulls else np.zeros(2, int)
    labels = np.concatenate([np.asarray(labels, np.int64) for _, labels in lines]) if lines else np.zeros(0, np.int64)
    return Writing(
        pen,
        (int(size[0]), int(size[1])),
        tops - corner[1],
        labels,
        line,
        tuple(hull - corner.astype(np.float32) for hull in hulls),
        tuple(inks),
        np.array(places, int).reshape(-1, 2) + lift - corner,
    )


def _stack(strips: list[np.ndarray], slopes: np.ndarray, gaps: np.ndarray, pitch: float) -> np.ndarray:
    """How far down each line's baseline starts (N int, pixels) so that its ink (K x 2 points) is below the last one's.

    A line takes up a strip of its own slope across the writing; a strip is below another if it is so at both ends.
    """
    ends = np.array([f(np.vstack(strips)[:, 0]) for f in (np.min, np.max)]) if strips else np.zeros(2)
    tops, edge = [], None  # edge: the lower edge of the lines so far at both ends
    for strip, slope, gap in zip(strips, slopes, gaps):
        rise = math.tan(math.radians(slope))
        level = strip[:, 1] + rise * strip[:, 0]  # how far below the baseline
        upper, lower = level.min() - rise * ends, level.max() - rise * ends
        top = 0 if edge is None else round(max(tops[-1] + pitch, (edge - upper).max() + gap))
        tops.append(top)
        edge = top + lower
    return np.array(tops, int)


def put(rng: np.random.Generator, writing: Writing, page: Page | np.ndarray, at: Size | None = None) -> Page:
    """Ink a writing onto a page (or a bare sheet, H x W x 3 uint8), its upper left corner at `at` or anywhere it fits.

    Its lines are numbered after those that the page has. ValueError where it doesn't fit.
    """
    page = page if isinstance(page, Page) else Page(page)
    room = np.array(page.picture.shape[1::-1]) - writing.size
    at = np.array(at) if at is not None else np.array([rng.integers(0, max(0, space) + 1) for space in room])
    if (at < 0).any() or (at > room).any():
        raise ValueError(
            f"a writing of {writing.size} pixels at {tuple(at)} leaves a {page.picture.shape[1::-1]} sheet"
        )
    picture = page.picture.copy()
    for ink, place in zip(writing.inks, writing.places + at):
        _absorb(rng, picture, ink, place, writing.pen)
    return Page(
        picture,
        np.concatenate((page.labels, writing.labels)),
        np.concatenate((page.line, writing.line + (page.line.max() + 1 if len(page.line) else 0))).astype(np.int32),
        page.hulls + tuple(hull + at.astype(np.float32) for hull in writing.hulls),
    )


def write_lines(
    rng: np.random.Generator,
    lines: Sequence[Line],
    page: Page | np.ndarray,
    height: float | Sequence[float] = 50,
    slope: float | Sequence[float] = 0.0,
    pen: Pen = PENS["ballpoint"],
    at: Size | None = None,
    **layout: object,
) -> Page:
    """`lay_out` and `put` in one: lines of digits on a page or bare sheet. ValueError where they don't fit."""
    return put(rng, lay_out(rng, lines, height, slope, pen, **layout), page, at)


def draw(
    rng: np.random.Generator, picture: np.ndarray, strokes: Sequence[np.ndarray], width: float, pen: Pen
) -> np.ndarray:
    """Draw with a pen along strokes (each K x 2, x and y in pixels), `width` pixels wide: frames, rules, scribble."""
    ink = np.zeros(picture.shape[:2], np.uint8)
    shift = 4  # fractional bits of the points' coordinates
    for stroke in strokes:
        points = np.rint(np.asarray(stroke, float) * 2**shift).astype(np.int32)
        cv2.polylines(ink, [points.reshape(-1, 1, 2)], False, 255, max(1, round(width)), cv2.LINE_AA, shift)
    x, y, w, h = cv2.boundingRect(ink)
    picture = picture.copy()
    _absorb(rng, picture, ink[y : y + h, x : x + w].astype(np.float32) / 255, np.array((x, y)), pen)
    return picture


def _absorb(rng: np.random.Generator, picture: np.ndarray, ink: np.ndarray, place: np.ndarray, pen: Pen) -> None:
    """Lay ink (h x w of 0..1) on the picture at a place, in it: paper * (1 - alpha * (1 - colour)), paint covers."""
    (x, y), (h, w) = place, ink.shape
    left, top, right, low = max(0, -x), max(0, -y), min(w, picture.shape[1] - x), min(h, picture.shape[0] - y)
    if left >= right or top >= low:
        return
    alpha = ink[top:low, left:right] * pen.opacity
    if pen.grain:
        rough = cv2.GaussianBlur(_noise(rng, alpha.shape), (0, 0), 0.8)
        alpha = alpha * np.clip(1 - pen.grain * (0.35 + rough), 0, 1)
    ground = picture[y + top : y + low, x + left : x + right]
    colour = np.array(pen.colour, np.float32)
    inked = colour if pen.covers else ground * (colour / 255)
    ground[:] = np.rint(ground + alpha[..., None] * (inked - ground))


# ---- paper ----------------------------------------------------------------------------------------------------------


def sheet(rng: np.random.Generator, size: Size, colour: Colour = (236, 240, 242), grain: float = 1.5) -> np.ndarray:
    """A blank sheet of paper or board; grain: the standard deviation of its fibres' brightness, in grey levels."""
    width, height = size
    clouds = rng.standard_normal((height // 48 + 2, width // 48 + 2), np.float32)
    texture = _noise(rng, (height, width)) + cv2.resize(clouds, size, interpolation=cv2.INTER_CUBIC)
    return cv2.merge([cv2.add(grain * texture, float(level), dtype=cv2.CV_8U) for level in colour])


def ruled(
    picture: np.ndarray,
    spacing: float,
    colour: Colour = (215, 185, 165),
    width: float = 1.3,
    start: float = 0.0,
    upright: bool = False,
) -> np.ndarray:
    """Printed rules every `spacing` pixels, the first one at `start`, `width` pixels wide; upright: down the page."""
    picture = picture.copy()
    ground = picture.swapaxes(0, 1) if upright else picture
    away = (np.arange(len(ground)) - start + spacing / 2) % spacing - spacing / 2
    print_ = np.clip(width / 2 + 0.5 - np.abs(away), 0, 1) * (np.arange(len(ground)) > start - spacing / 2)
    rows = np.flatnonzero(print_)
    light = 1 - print_[rows, None, None] * (1 - np.array(colour) / 255)
    ground[rows] = np.rint(ground[rows] * light)
    return picture


def grid(
    picture: np.ndarray, spacing: float, colour: Colour = (215, 190, 170), width: float = 1.2, start: float = 0.0
) -> np.ndarray:
    """Squared paper: rules both ways."""
    return ruled(ruled(picture, spacing, colour, width, start), spacing, colour, width, start, upright=True)


# ---- light ----------------------------------------------------------------------------------------------------------


def light(
    picture: np.ndarray,
    low: float = 0.5,
    degrees: float = 30.0,
    vignette: float = 0.0,
    tint: Colour = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """A lamp at one side: the brightness falls from 1 to `low` (0..1) in the direction `degrees`.

    vignette: how much darker the corners are, 0..1. tint: the lamp's colour as factors (BGR).
    """
    height, width = picture.shape[:2]
    ys, xs = np.mgrid[-1 : 1 : complex(height // 16 + 2), -1 : 1 : complex(width // 16 + 2)].astype(np.float32)
    across, up = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))
    ramp = 0.5 + (xs * across + ys * up) / (2 * (abs(across) + abs(up)))
    fall = (1 - low) * np.maximum(ramp, 0) ** 1.3  # a lamp's light falls ever slower
    level = (1 - fall) * (1 - vignette * (xs**2 + ys**2) / 2)
    level = level[..., None] * np.array(tint, np.float32)
    return _dim(picture, cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR))


def shadow(
    picture: np.ndarray, corners: Sequence[tuple[float, float]], depth: float = 0.45, softness: float = 0.01
) -> np.ndarray:
    """The shadow of something with these corners (x, y in parts of the picture, may lie outside).

    depth: the part of the light that it takes, 0..1. softness: the edge's width in parts of the picture's diagonal.
    """
    height, width = picture.shape[:2]
    shape = np.zeros((height, width), np.float32)
    points = np.rint(np.array(corners) * (width, height)).astype(np.int32)
    cv2.fillPoly(shape, [points], 1.0)
    sigma = softness * math.hypot(width, height) / 2
    if sigma > 0.3:
        shape = _soft(shape, sigma)
    return _dim(picture, cv2.merge([1 - depth * shape] * 3))


def _soft(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur whose cost does not grow with sigma: done on a smaller picture where that shows no difference."""
    step = max(1, int(sigma / 2))
    size = image.shape[1::-1]
    small = cv2.resize(image, (max(1, size[0] // step), max(1, size[1] // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR) if step > 1 else small


def _dim(picture: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Light (H x W x 3 float32) on a picture."""
    return cv2.multiply(picture, level, dtype=cv2.CV_8U)


def _add(picture: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Grey levels (H x W float32, may be negative) added to every channel, kept within 0..255."""
    return cv2.add(picture, cv2.merge([levels] * 3), dtype=cv2.CV_8U)


def _noise(rng: np.random.Generator, shape: tuple[int, int], tile: int = 256) -> np.ndarray:
    """H x W float32, normal with deviation 1. It repeats every `tile` pixels, which costs a fifth and no eye sees."""
    height, width = shape
    noise = rng.standard_normal((min(height, tile), min(width, tile)), np.float32)
    return cv2.repeat(noise, -(-height // tile), -(-width // tile))[:height, :width]


# ---- the camera -----------------------------------------------------------------------------------------------------


def turned(
    size: Size,
    degrees: float = 0.0,
    tilt: tuple[float, float] = (0.0, 0.0),
    zoom: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    frame: Size | None = None,
) -> np.ndarray:
    """The 3 x 3 matrix that shows a page of this size in a frame (default: its own size), for `view`.

    degrees: turned about its middle. tilt: how much farther from the eye than the middle the right and the bottom edge
    are, in parts (-0.5..0.5). zoom: enlarged. shift: moved right and down by parts of the frame.
    """
    frame = frame or size
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    to_middle = np.array([[1, 0, -(size[0] - 1) / 2], [0, 1, -(size[1] - 1) / 2], [0, 0, 1]])
    lean = np.array([[1, 0, 0], [0, 1, 0], [2 * tilt[0] / size[0], 2 * tilt[1] / size[1], 1]])
    turn = np.array([[zoom * cos, zoom * sin, 0], [-zoom * sin, zoom * cos, 0], [0, 0, 1]])
    back = np.array(
        [[1, 0, (frame[0] - 1) / 2 + shift[0] * frame[0]], [0, 1, (frame[1] - 1) / 2 + shift[1] * frame[1]]]
    )
    return np.vstack((back, [0, 0, 1])) @ turn @ lean @ to_middle


def view(page: Page, matrix: np.ndarray, size: Size, around: np.ndarray | Colour = (70, 95, 120)) -> Page:
    """The page as it looks through a 3 x 3 matrix in a frame of this size: turned, tilted, moved by a hand.

    around: what the page lies on, a colour or a picture of the frame's size. Digits that leave the frame are no longer
    of the page, even where a part of their ink still shows.
    """
    if isinstance(around, np.ndarray):
        ground = cv2.warpPerspective(page.picture, matrix, size, around.copy(), borderMode=cv2.BORDER_TRANSPARENT)
    else:
        ground = cv2.warpPerspective(page.picture, matrix, size, borderValue=around)
    moved = [cv2.perspectiveTransform(hull[None], matrix)[0] for hull in page.hulls]
    limit = np.array(size) - 1
    kept = [i for i, hull in enumerate(moved) if hull.min() >= 0 and (hull <= limit).all()]
    return Page(ground, page.labels[kept], page.line[kept], tuple(moved[i] for i in kept))


def camera(
    rng: np.random.Generator, picture: np.ndarray, blur: float = 0.0, noise: float = 0.0, jpeg: int | None = None
) -> np.ndarray:
    """What the sensor makes of it. blur: sigma in pixels; noise: standard deviation in grey levels; jpeg: quality."""
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    if noise:
        picture = _add(picture, noise * _noise(rng, picture.shape[:2]))
    if jpeg is not None:
        coded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, jpeg))[1]
        picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return picture


def pick(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, text: str) -> Line:
    """One digit of `images` (N x 28 x 28 uint8) for each figure of `text`, none twice while there are others."""
    rows = np.empty(len(text), int)
    for figure in sorted(set(text)):  # a set has another order in each process
        asked = [i for i, c in enumerate(text) if c == figure]
        found = np.flatnonzero(labels == int(figure))
        rows[asked] = rng.choice(found, len(asked), replace=len(asked) > len(found))
    return images[rows], labels[rows].astype(np.int64)
