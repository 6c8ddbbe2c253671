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
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import compress

import cv2
import numpy as np

WORK_AREA = 1_000_000  # pixels: a page of writing at this size keeps its strokes at two pixels or more
PEN = 2.0, 4.2  # the pen's thickness in MNIST's box of 20: its 5 % and 95 % quantiles
PAPER = 64  # level of bare paper in the ink picture while it is made: noise must not be cut off on one side
ANGLES = np.deg2rad(np.arange(-150, 61, 2.5))  # of text lines, and below them of the columns across it
LEVEL, QUARTER = 60, 36  # numbers of ANGLES: the level one, and how many make a quarter turn
FINE = 3  # a patch is drawn that much finer first, and averaged: pens and places have a third of a pixel
PATCH, BOX = 28, 20  # MNIST: the digit fitted into 20 x 20, its centre of mass in the middle of 28 x 28
RULING = 0.4  # of the picture's longer side: a straight line of that length is no digit's
SEEDS = 0.1  # of a part's pixels are strong ink: blurred thin strokes have a third, noise and shadows none
WRITING = 0.3  # of all ink's length is strokes of one pen: 0.7 and more on a page, 0.1 in a photo of a cat or a tree
THICK = 2.5  # pixels: strokes that a mask keeps whole; MNIST's are 2 to 4 pixels in a patch
SLIM = 3.5  # strokes: no digit is shorter; the thickest of MNIST's has 3.9, one in a hundred less than 5
LEAST = 7  # pixels: the lowest raster in which ten digits differ (the 5 x 7 fonts)
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
    outline: np.ndarray  # points (x, y) around it
    stroke: float  # thickness in pixels

    @cached_property
    def hull(self) -> np.ndarray:
        """Its convex hull's corners (x, y): its projection in any direction is theirs."""
        return cv2.convexHull(self.outline)[:, 0]

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
        outline = np.concatenate([self.outline, other.outline])
        return Part((x0, y0, x1, y1), mask, outline, max(self.stroke, other.stroke))

    def only(self, mask: np.ndarray) -> Part:
        """What a mask of its own size, not empty, leaves of it."""
        x, y, w, h = cv2.boundingRect(mask)
        x0, y0 = self.box[0] + x, self.box[1] + y
        mask = mask[y : y + h, x : x + w]
        return Part((x0, y0, x0 + w, y0 + h), mask, _outline(mask, x0, y0), self.stroke)


@dataclass(frozen=True, eq=False)
class Found:
    """A picture's digits as parts of its ink, before they are drawn as patches."""

    size: tuple[int, int]  # the picture's width and height
    scale: float  # pixels of the working picture for each of the picture's own
    ink: np.ndarray  # the working picture, H x W uint8, 0 = paper
    mask: np.ndarray  # H x W uint8, not 0 where there is ink, a digit's or not, but no rulings or frames
    digits: list[Part]  # in reading order
    lines: np.ndarray  # N int: the text line of each, 0 on top
    slopes: np.ndarray  # N: that line's slope in radians

    def boxes(self, parts: list[Part]) -> np.ndarray:
        """N x 4 int32: x, y, w, h of the parts in pixels of the picture, inside it."""
        corners = np.array([part.box for part in parts], float).reshape(-1, 4) / self.scale
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


def find(image: np.ndarray, single: bool = False, stages: dict | None = None) -> Found:
    """Find the handwritten digits of a picture.

    image: H x W x 3 BGR (a fourth channel is ignored) or H x W grey, uint8. single: the whole picture is one digit.
    stages: a dictionary that is filled with what every stage made, for `contact_sheet`.
    Never raises for a uint8 picture: one without digits, however small or odd, gives none.
    """
    stages = {} if stages is None else stages
    size = image.shape[1], image.shape[0]
    if image.size == 0 or min(size) < LEAST:
        return Found(size, 1.0, *(np.zeros((1, 1), np.uint8),) * 2, [], np.zeros(0, np.int32), np.zeros(0))
    for part in (0.25, 1.0):  # of the working area: a pen that is thick enough needs no more, in a quarter of the time
        page = _shrink(image, part)
        ink, floor = _ink(page)
        stages.clear()
        parts = _parts(ink, floor, stages)
        if parts and stages["thickness"] >= THICK:
            break
    stages.update(page=page, ink=ink)
    rows: list[tuple[list[Part], float]] = []
    if parts:
        layout = Layout.of(parts)
        slope = _slope(layout)
        layout = _digits_only(_join(layout, slope), slope, 0.25)
        rows = [([reduce(Part.merged, layout.parts)], 0.0)] if single else _rows(layout, slope)
    stages["digits"] = [digit for row, _ in rows for digit in row]
    lines = np.repeat(np.arange(len(rows), dtype=np.int32), [len(row) for row, _ in rows])
    slopes = np.array([slope for _, slope in rows])[lines]
    return Found(size, page.shape[1] / image.shape[1], ink, stages["left"], stages["digits"], lines, slopes)


def whole(ink: np.ndarray) -> Part:
    """All of a picture's ink (H x W uint8, 0 = paper) as one part. ValueError where there is none."""
    mask = cv2.threshold(ink, 90, 255, cv2.THRESH_BINARY)[1]
    if not mask.any():
        raise ValueError("there is no ink in the picture")
    stroke = 4 * (float(cv2.mean(cv2.distanceTransform(mask, cv2.DIST_L2, 3), mask)[0]) - 0.5)  # as in _connected
    height, width = mask.shape
    return Part((0, 0, width, height), mask, _outline(mask), max(stroke, 1.0)).only(mask)


# 1. Ink


def _shrink(image: np.ndarray, part: float = 1.0) -> np.ndarray:
    """The picture as BGR at (a part of) the working area, averaged over areas so that thin strokes stay."""
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = np.ascontiguousarray(image[..., :3])
    scale = (part * min(1.0, WORK_AREA / (image.shape[0] * image.shape[1]))) ** 0.5
    while scale <= 0.5:  # halves take a twentieth of the time of other areas
        height, width = (n // 2 for n in image.shape[:2])
        image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        scale *= 2
    size = [max(1, round(n * scale)) for n in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _dark(page: np.ndarray, bright_strokes: bool) -> np.ndarray:
    """H x W uint8: the least of the three channels, for ink of any colour is dark in one of them.

    bright_strokes: of the negative.
    """
    first, second, third = cv2.split(page)
    if bright_strokes:
        return cv2.bitwise_not(cv2.max(cv2.max(first, second), third))
    return cv2.min(cv2.min(first, second), third)


def _ink(page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much darker than the paper around it each pixel is, whatever light and colour, and what of it is only noise.

    Two H x W uint8, 0 = paper: the ink, and what the paper's own texture and noise reach around each pixel.
    """
    height, width = page.shape[:2]
    step = max(1.0, min(height, width) / 120)
    small = cv2.resize(page, (round(width / step), round(height / step)), interpolation=cv2.INTER_AREA)
    bright_strokes = _bright_on_dark(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
    dark = _dark(page, bright_strokes)
    half = cv2.resize(dark, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    bound = _stroke_bound(_dark(small, bright_strokes))
    side = max(3, round(bound * step))  # in `half` twice the bound: crossings are wider
    # Eroded, as at the sheet's edge the table's darkness is no ink.
    paper = cv2.erode(_close(half, side), np.ones((max(3, side // 4 | 1),) * 2, np.uint8))
    # Division makes noise grow in the dark: three times at most, then a deep shadow leaves its ink a little weaker.
    samples = paper[:: 1 + height // 64, :: 1 + width // 64].ravel()
    bright = np.partition(samples, 9 * len(samples) // 10)[9 * len(samples) // 10]
    paper = cv2.max(paper, max(16, int(bright) // 3))
    paper = cv2.resize(paper, (width, height), interpolation=cv2.INTER_LINEAR)
    ink = cv2.bitwise_not(cv2.divide(dark, paper, scale=255 - PAPER))  # noise goes to both sides of PAPER
    level, floor = (cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) for small in _floor(ink))
    return cv2.subtract(ink, level), cv2.subtract(floor, level)


def _close(picture: np.ndarray, side: int) -> np.ndarray:
    """Dark places narrower than a square of that side filled up with what is around; the picture goes on beyond its
    border, or a strip of table along it would be narrow.
    """
    height, width = picture.shape[:2]
    wide = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_REPLICATE)
    wide = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return wide[side : side + height, side : side + width]


def _bright_on_dark(grey: np.ndarray) -> bool:
    """Whether the strokes are brighter than what they are written on.

    Ink covers less than half of any neighbourhood wider than a few strokes: its median is paper, strokes stray from it.
    At the straight edge of a sheet on a table nothing strays, whichever of the two is the darker and the larger. How
    wide the strokes are is not known yet: neighbourhoods of several sizes vote.
    """
    vote = 0.0
    for part in (3, 6, 12, 24):  # of the shorter side; each looked at where that is five pixels, for speed
        step = max(1.0, min(grey.shape) / (5 * part))
        size = [round(n / step) for n in grey.shape[::-1]]
        coarse = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if step > 1 else grey
        around = cv2.medianBlur(coarse, max(5, min(coarse.shape) // part) | 1)
        above, below = (cv2.norm(cv2.subtract(*pair), cv2.NORM_L2SQR) for pair in ((coarse, around), (around, coarse)))
        vote += ((above - below) / max(above + below, 1.0)) ** 3  # the decided ones count
    return vote > 0


def _stroke_bound(dark: np.ndarray) -> int:
    """A bound for the strokes' thickness: the least window whose closing (fill the dark up) takes all strokes away."""
    short = min(dark.shape)
    sides = [max(3, short // n | 1) for n in (16, 8, 4, 2)]
    filled, closed = [], dark
    for side in sides:
        step = max(1, side // 7)  # what is closed already has nothing as narrow as that: fewer pixels tell the same
        closed = _close(closed[::step, ::step], side // step | 1)
        closed = cv2.resize(closed, dark.shape[::-1], interpolation=cv2.INTER_LINEAR)
        counts = cv2.calcHist([cv2.subtract(closed, dark)], [0], None, [256], [0, 256])
        filled.append(int(np.searchsorted(counts.ravel().cumsum(), 0.998 * dark.size)))
    for side, now, wider in zip(sides, filled, filled[1:]):
        if now >= 0.8 * wider and now >= 0.4 * filled[-1]:
            return side
    return sides[-1]


# 2. Parts


def _parts(ink: np.ndarray, floor: np.ndarray, stages: dict) -> list[Part]:
    """Connected ink that may be strokes of digits."""
    lines, mask, seeds = _masks(ink, floor)
    stages["mask"] = mask.copy()
    found = _connected(mask, seeds)
    frames = _frames(found.parts)
    for frame in frames:
        x0, y0, x1, y1 = frame.box
        for picture in (lines, mask):
            picture[y0:y1, x0:x1] &= ~cv2.dilate(frame.mask, np.ones((3, 3), np.uint8))
    rulings = _rulings(mask, lines, found)
    if rulings.any():
        stages["rulings"] = rulings
        mask = cv2.subtract(mask, rulings)
    stages["left"] = mask
    if frames or rulings.any():
        left = _connected(mask, seeds)
        alone = len(found.kept) == 1 and not found.at_edge[found.kept[0]]
        found = (
            found if alone and not len(left.kept) else left
        )  # a line that is all there is, and ends on the page: a 1
    stages["thickness"] = found.thickness
    length = np.where(found.at_edge, 0, found.area / found.stroke)
    stages["share"] = float(length[found.kept].sum() / max(length[1:].sum(), 1.0))
    if 0 < stages["share"] < WRITING:
        return []
    return list(compress(found.parts, ~_cut_off(found)[found.kept]))


def _cut_off(found: Connected) -> np.ndarray:
    """Which components the picture's edge shows a piece of: what lies along it, is low, or is a margin's thin line."""
    width, height = found.stats[:, 2:].T
    inner = found.kept[~found.at_edge[found.kept]]
    if not len(inner):
        return found.along_edge
    typical = _weighted_median(height[inner].astype(float), width[inner].astype(float))
    margin = (width < 0.25 * height) & (found.stroke < 0.7 * found.thickness)
    return found.along_edge | found.at_edge & ((height < 0.6 * typical) | margin)


def _masks(ink: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three H x W masks of rising strength: for lines, for ink, and the strong ink that a part must have somewhere."""
    faint = cv2.compare(ink, floor, cv2.CMP_GT)
    step = 2 if min(ink.shape) >= 240 else 1  # half the picture tells the pen's strength as well
    strokes = _connected(np.ascontiguousarray(faint[::step, ::step]), faint[::step, ::step], LEAST // step)
    kept = np.zeros(len(strokes.stats), bool)
    kept[strokes.kept] = True
    strong = ink[::step, ::step][kept[strokes.labels]]
    if not len(strong):
        return (np.zeros_like(ink),) * 3
    level, _ = cv2.threshold(strong, 0, 255, cv2.THRESH_OTSU)
    pen = float(strong[strong > level].mean()) if (strong > level).any() else float(level)
    lines, mask, seeds = (cv2.threshold(ink, part * pen, 255, cv2.THRESH_BINARY)[1] for part in (0.25, 0.35, 0.55))
    return lines, mask, cv2.bitwise_and(seeds, faint)


def _floor(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the paper's own texture and noise reach, by region: as two small uint8 pictures, its level first.

    Noise goes both ways and ink one way only, so a region's lower quartile tells its noise however much is written.
    """
    height, width = ink.shape
    step = max(1.0, min(height, width) / 64)
    small = cv2.resize(
        ink,
        (round(width / step), round(height / step)),
        interpolation=cv2.INTER_NEAREST,
    )
    window = tuple(min(n, 32) for n in small.shape)
    regions = np.lib.stride_tricks.sliding_window_view(small, window)[::16, ::16, ::2, ::2]
    regions = regions.reshape(*regions.shape[:2], -1)
    places = [regions.shape[2] // 4, regions.shape[2] // 2]
    quarter, half = np.moveaxis(np.partition(regions, places)[..., places].astype(np.float32), 2, 0)
    noise = (half - quarter) / 0.6745  # the quartile of a normal distribution
    floor = np.minimum(half + np.maximum(6 * noise, CONTRAST * (255 - PAPER)), 255)
    return half.astype(np.uint8), floor.astype(np.uint8)


@dataclass(frozen=True)
class Connected:
    """The connected components of a mask: arrays with one entry a component, number 0 is what lies between them."""

    labels: np.ndarray  # H x W: the component of each pixel
    stats: np.ndarray  # x, y, width, height
    area: np.ndarray  # number of pixels
    stroke: np.ndarray  # thickness in pixels
    at_edge: np.ndarray  # whether it touches the picture's edge
    along_edge: np.ndarray  # whether it lies along it, as a table does
    kept: np.ndarray  # numbers of those that are like strokes
    thickness: float  # of the pen, in pixels

    @cached_property
    def parts(self) -> list[Part]:
        """The kept components."""
        return [self._part(i) for i in self.kept]

    def _part(self, i: int) -> Part:
        x, y, w, h = self.stats[i].tolist()
        mask = cv2.inRange(self.labels[y : y + h, x : x + w], int(i), int(i))
        return Part((x, y, x + w, y + h), mask, _outline(mask, x, y), float(self.stroke[i]))


def _connected(mask: np.ndarray, seeds: np.ndarray, least: int = LEAST) -> Connected:
    """The connected components of the mask; kept are those that have seeds and are like strokes of one pen."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    inside = np.flatnonzero(mask != 0)
    label = labels.ravel()[inside]
    # OpenCV's own statistics go over the paper too, and take four times as long.
    area = np.bincount(label, minlength=count)
    order = np.argsort(label, kind="stable")  # by component, each from its top row to its bottom row
    start = np.cumsum(area[1:]) - area[1:]
    ys, xs = np.divmod(inside[order], mask.shape[1])
    x, y, w, h = stats = np.zeros((4, count), int)
    if len(inside):
        x[1:], y[1:] = np.minimum.reduceat(xs, start), ys[start]
        w[1:], h[1:] = np.maximum.reduceat(xs, start) + 1 - x[1:], ys[start + area[1:] - 1] + 1 - y[1:]
    area[0] = 1  # the paper's is of no use, and divided by
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3).ravel()[inside]
    # A bar's mean distance to its rim is a quarter of its width; pixels at the rim count as 1 there and lie 1/2 deep.
    stroke = np.maximum(4 * (np.bincount(label, distance, count) / area - 0.5), 1)
    keep = np.bincount(label, seeds.ravel()[inside] != 0, count) >= SEEDS * area
    keep[0] = False
    keep &= np.maximum(w, h) >= least
    keep &= area >= 4 * stroke**2  # a stroke is longer than thick: a square dot has 2.2, a round one 1.8, a blot 3
    at_edge = (x == 0) | (y == 0) | (x + w == mask.shape[1]) | (y + h == mask.shape[0])
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    along_edge = np.bincount(rim, minlength=count) >= 0.5 * np.maximum(w, h)
    slim = keep & (np.maximum(w, h) >= SLIM * stroke)
    sure = slim & ~at_edge if (slim & ~at_edge).any() else slim
    thickness = _weighted_median(stroke[sure], (area / stroke)[sure]) if sure.any() else 1.0
    keep &= sure.any() & (np.maximum(w, h) >= 3 * thickness)
    keep &= stroke <= np.where(at_edge, 1.6, 3) * thickness  # the table, a hand, a shadow come in from the edge
    return Connected(labels, stats.T, area, stroke, at_edge, along_edge, np.flatnonzero(keep), thickness)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _outline(mask: np.ndarray, x: int = 0, y: int = 0) -> np.ndarray:
    """Points (x, y) around the ink of a mask, N x 2 int32, moved by x and y."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    return (contours[0] if len(contours) == 1 else np.concatenate(contours))[:, 0]


def _rulings(mask: np.ndarray, faint: np.ndarray, found: Connected) -> np.ndarray:
    """Long straight thin lines of the mask (rulings, grids, margins), without the pixels where digits cross them.

    They are looked for in the faint mask, where they have fewer gaps, if any ink is long enough to be a piece of one.
    """
    least = max(mask.shape) * RULING
    rulings = np.zeros_like(mask)
    if (found.stats[1:, 2] > least / 2).any():
        rulings |= _level_lines(mask, faint, found.thickness, least)
    if (found.stats[1:, 3] > least / 2).any():
        rulings |= _level_lines(mask.T.copy(), faint.T.copy(), found.thickness, least).T
    return rulings


def _level_lines(mask: np.ndarray, faint: np.ndarray, thickness: float, least: float) -> np.ndarray:
    """The pixels of nearly level lines that are at least that long."""
    width = mask.shape[1]
    band = np.zeros_like(mask)
    length = round(max(14 * thickness, least / 10))  # no stroke of a digit is that straight for that long
    swollen = cv2.dilate(faint, np.ones((3, 1), np.uint8))  # a sloped line's runs get long enough
    runs = cv2.morphologyEx(swollen, cv2.MORPH_OPEN, np.ones((1, length), np.uint8))
    bridged = cv2.dilate(runs, np.ones((5, length), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bridged, connectivity=8)
    thickest = 0.0
    for i in np.flatnonzero((stats[1:, 2] - length >= least) & (stats[1:, 3] <= stats[1:, 2] / 3)) + 1:
        x, y, w, h = (int(n) for n in stats[i, :4])
        line = (runs[y : y + h, x : x + w] > 0) & (labels[y : y + h, x : x + w] == i)
        columns = line.sum(axis=0)
        filled = np.flatnonzero(columns)
        span = filled[-1] + 1 - filled[0]
        thick = max(1.0, float(np.median(columns[filled])) - 2)
        edge = max(2 * thick, 0.02 * width)
        through = x + filled[0] <= edge and x + filled[-1] >= width - edge
        if len(filled) >= 0.7 * span and thick <= 2 * thickness and (through or span >= 40 * thick):
            # Its middle, by medians over stretches: digits that stand on the line don't pull it off its way.
            middle = (np.arange(h) @ line)[filled] / columns[filled]
            pieces = np.array_split(np.arange(len(filled)), max(2, len(filled) // length))
            along = np.array(
                [
                    filled[0] - length,
                    *(np.median(filled[i]) for i in pieces),
                    filled[-1] + length,
                ]
            )
            level = np.array([np.median(middle[i]) for i in pieces])
            level = np.array([2 * level[0] - level[1], *level, 2 * level[-1] - level[-2]])
            points = np.rint(np.stack([along + x, level + y], axis=1)).astype(np.int32)
            cv2.polylines(band, [points], False, 255, round(thick) + 2)
            thickest = max(thickest, thick)
    if not thickest:
        return band
    lines = cv2.bitwise_and(band, mask)
    crossing = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((round(thickest) + 2, 1), np.uint8))
    return cv2.subtract(lines, crossing)


def _frames(parts: list[Part]) -> list[Part]:
    """The boxes and circles drawn around others: parts with another one wholly inside and no ink of their own there."""
    if len(parts) < 2:
        return []
    boxes = np.array([part.box for part in parts])
    margin = np.array([part.stroke for part in parts])[:, None]
    inside = (boxes[None, :, :2] > boxes[:, None, :2] + margin[..., None]).all(axis=2)
    inside &= (boxes[None, :, 2:] < boxes[:, None, 2:] - margin[..., None]).all(axis=2)
    size = boxes[:, 2:] - boxes[:, :2]
    inside &= size.max(axis=1)[None] > 0.12 * size.min(axis=1)[:, None]
    frames = []
    for part, others in zip(parts, inside):
        middle = part.mask[part.height // 4 : -(part.height // 4), part.width // 4 : -(part.width // 4)]
        if others.any() and not middle.any():
            frames.append(part)
    return frames


@dataclass(frozen=True, eq=False)
class Layout:
    """N parts as arrays: where they lie, and their projection in every direction."""

    parts: list[Part]
    boxes: np.ndarray  # N x 4: x0, y0, x1, y1
    strokes: np.ndarray  # N: thickness in pixels
    first: np.ndarray  # N x A: where the part begins, projected on the normal of each of ANGLES,
    last: np.ndarray  # and where it ends

    @classmethod
    def of(cls, parts: list[Part]) -> Layout:
        """The layout of at least one part."""
        starts = np.cumsum([0] + [len(part.hull) for part in parts[:-1]])
        across = np.concatenate([part.hull for part in parts]) @ np.stack([-np.sin(ANGLES), np.cos(ANGLES)])
        first, last = np.minimum.reduceat(across, starts), np.maximum.reduceat(across, starts)
        return cls(parts, np.array([p.box for p in parts]), np.array([p.stroke for p in parts]), first, last)

    def take(self, index: np.ndarray) -> Layout:
        """The parts of these numbers, or where the index is true."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        parts = [self.parts[i] for i in index]
        return Layout(parts, self.boxes[index], self.strokes[index], self.first[index], self.last[index])

    def level_boxes(self, slope: int) -> np.ndarray:
        """N x 4: each part's box (x0, y0, x1, y1) in a picture turned so that text of that slope is level."""
        ends = self.first, self.last
        columns, rows = ([end[:, k] for end in ends] for k in (slope - QUARTER, slope))
        return np.stack([columns[0], rows[0], columns[1] + 1, rows[1] + 1], axis=1)

    def merged(self, i: int, j: int) -> Layout:
        """The same with part j merged into part i."""
        parts = [*self.parts]
        parts[i] = parts[i].merged(parts[j])
        del parts[j]
        boxes, strokes, first, last = (
            np.delete(a, j, axis=0) for a in (self.boxes, self.strokes, self.first, self.last)
        )
        i -= j < i
        boxes[i], strokes[i] = parts[i].box, parts[i].stroke
        first[i], last[i] = np.minimum(first[i], self.first[j]), np.maximum(last[i], self.last[j])
        return Layout(parts, boxes, strokes, first, last)


def _join(layout: Layout, slope: int) -> Layout:
    """Strokes of one digit that came apart, joined again, the nearest first."""
    while len(layout.parts) > 1:
        for i, j, limit in _one_digit(layout.level_boxes(slope), layout.strokes):
            a, b = layout.parts[i].outline, layout.parts[j].outline
            if (((a[:, None] - b[None]) ** 2).sum(axis=2) <= limit**2).any():
                layout = layout.merged(i, j)
                break
        else:
            break
    return layout


def _one_digit(boxes: np.ndarray, strokes: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs of parts that are strokes of one digit if they come as close as the third number says, in pixels.

    boxes: N x 4, level; strokes: N. One above the other, or one a fragment, and not too tall together.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    typical = _weighted_median(height, height) if len(boxes) > 3 else np.inf
    gap = np.maximum(boxes[:, None, :2] - boxes[None, :, 2:], boxes[None, :, :2] - boxes[:, None, 2:]).max(axis=2)
    first, second = np.nonzero(np.triu(gap < 0.2 * np.maximum(height[:, None], height[None]), 1))
    low, high = np.sort([height[first], height[second]], axis=0)
    stroke = np.maximum(strokes[first], strokes[second])
    top, bottom = np.minimum(boxes[first, 1], boxes[second, 1]), np.maximum(boxes[first, 3], boxes[second, 3])
    shared = np.minimum(boxes[first, 2], boxes[second, 2]) - np.maximum(boxes[first, 0], boxes[second, 0])
    beside = np.where(low <= 0.5 * high, 2 * stroke, np.where(low < 0.75 * high, stroke, 0))
    above = shared >= 0.5 * np.minimum(width[first], width[second])
    limit = np.where(above, np.maximum(2.5 * stroke, 0.12 * high), beside)
    gap = gap[first, second]
    fits = (bottom - top <= 1.35 * np.maximum(typical, high)) & (low <= 0.8 * typical) & (gap <= limit)
    pairs = np.flatnonzero(fits)
    return [(int(first[k]), int(second[k]), float(limit[k])) for k in pairs[np.argsort(gap[pairs])]]


# 3. Rows and columns


def _slope(layout: Layout, about: int = LEVEL, reach: int = 16) -> int:
    """The text's slope, a number of ANGLES: the direction in which the parts' projection is the shortest.

    Looked for at most `reach` angles away from `about`, which is also the slope of parts too few to tell.
    """
    if len(layout.parts) < 3:
        return about
    angles = np.arange(max(QUARTER, about - reach), min(len(ANGLES), about + reach + 1))
    first, last = layout.first[:, angles], layout.last[:, angles]
    quarter = (last - first) / 4
    occupied = _occupied(first + quarter, last - quarter)
    return int(angles[np.argmin(occupied * (1 + np.abs(ANGLES[angles])))])


def _occupied(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The length of the union of the N intervals in each of A columns."""
    order = np.argsort(first, axis=0)
    first, last = np.take_along_axis(first, order, 0), np.take_along_axis(last, order, 0)
    reach = np.maximum.accumulate(last, axis=0)
    gaps = np.maximum(first[1:] - reach[:-1], 0).sum(axis=0)
    return reach[-1] - first[0] - gaps


def _rows(layout: Layout, slope: int) -> list[tuple[list[Part], float]]:
    """The parts as text lines in reading order, each sorted from left to right, with its slope (radians).

    The row/column projection: cut into rows where the profile across the text is empty; each row again, along a slope
    of its own; one that is too tall for a line into columns, if these come apart into rows; until nothing does.
    """
    if not layout.parts:
        return []
    first, last = layout.first[:, slope], layout.last[:, slope]
    inner = (last - first) / 4  # the middle half counts: strokes reach into the next line
    rows = [layout.take(row) for row in _bands(first + inner, last - inner)]
    if len(rows) > 1:
        return [line for row in rows for line in _rows(row, _slope(row, slope, 4))]
    typical = np.sort(last - first)[len(last) // 2]
    left, right = layout.first[:, slope - QUARTER], layout.last[:, slope - QUARTER]
    if last.max() - first.min() > 2 * typical:
        columns = [layout.take(column) for column in _bands(left, right, gap=typical)]
        blocks = [_rows(column, _slope(column, slope, 4)) for column in columns] if len(columns) > 1 else []
        if any(len(lines) > 1 for lines in blocks):
            return [line for lines in blocks for line in lines]
    row = _digits_only(layout.take(np.argsort(left + right)), slope).parts
    return [(row, float(ANGLES[slope]))] if row else []


def _bands(first: np.ndarray, last: np.ndarray, gap: float = 0.0) -> list[np.ndarray]:
    """Numbers of parts in groups between which their projections leave more than a `gap` (pixels)."""
    order = np.argsort(first)
    reach = np.maximum.accumulate(last[order])
    return np.split(order, np.flatnonzero(first[order][1:] > reach[:-1] + gap) + 1)


def _digits_only(row: Layout, slope: int, lowest: float = 0.35) -> Layout:
    """A line without its minus signs, dots and commas, much lower than its digits, and what is left of rulings."""
    boxes = row.level_boxes(slope)  # a digit on a steep line lies down in the picture
    widths, heights = (boxes[:, 2:] - boxes[:, :2]).T
    weights = np.minimum(heights, widths)
    typical, pen = _weighted_median(heights, weights), _weighted_median(row.strokes, weights)
    low = (heights < lowest * typical) & (row.strokes > 0.4 * pen)
    flat = (widths > 2 * heights) & (heights < 5 * row.strokes)
    long = (heights > 2.5 * typical) & (widths < 0.2 * heights)
    drop = low | flat | long
    return row.take(~drop) if drop.any() else row


# 4. Patches


def patches(ink: np.ndarray, parts: list[Part], slopes: np.ndarray) -> np.ndarray:
    """N x 28 x 28 uint8, a patch as MNIST's for each part of the ink picture, its line's slope (radians) undone.

    Fitted into 20 x 20 with its aspect kept, the pen's thickness brought near MNIST's, centred by mass, ink near 255.
    """
    if not parts:
        return np.zeros((0, PATCH, PATCH), np.uint8)
    counts = [len(part.hull) for part in parts]
    points, turns = np.concatenate([part.hull for part in parts]).T, np.repeat(slopes, counts)
    cos, sin = np.cos(turns), np.sin(turns)
    around = np.stack([cos * points[0] + sin * points[1], cos * points[1] - sin * points[0]])
    starts = np.cumsum([0, *counts[:-1]])
    extents = (np.maximum.reduceat(around, starts, 1) - np.minimum.reduceat(around, starts, 1)).max(axis=0) + 1
    thick = np.array([part.stroke for part in parts]) * BOX / extents
    grow = np.minimum(np.maximum(thick, PEN[0]), PEN[1]) - thick
    scales = FINE * (BOX - grow) / extents
    pens = (np.rint(np.abs(grow) * FINE) * np.sign(grow)).astype(int)
    order = np.argsort(pens)  # those that the same pen goes over lie together, one patch below the other
    side = FINE * PATCH
    drawn = np.zeros((len(parts) * side, side), np.uint8)
    for place, i in enumerate(order.tolist()):
        _draw(ink, parts[i], float(slopes[i]), float(scales[i]), drawn[place * side : (place + 1) * side])
    starts = [0, *(np.flatnonzero(np.diff(pens[order])) + 1).tolist(), len(parts)]
    for start, end in zip(starts, starts[1:]):
        if swell := int(pens[order[start]]):
            pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (1 + abs(swell),) * 2)
            group = drawn[start * side : end * side]
            group[:] = cv2.dilate(group, pen) if swell > 0 else cv2.erode(group, pen)
    done = np.empty((len(parts), PATCH, PATCH), np.uint8)
    small = cv2.resize(drawn, (PATCH, len(parts) * PATCH), interpolation=cv2.INTER_AREA)
    done[order] = small.reshape(len(parts), PATCH, PATCH)
    return done


def _draw(ink: np.ndarray, digit: Part, slope: float, scale: float, patch: np.ndarray) -> None:
    """Draw a digit `scale` times as large into a zeroed patch, upright, its centre of mass in the middle."""
    x0, y0, x1, y1 = digit.box
    grey = cv2.bitwise_and(ink[y0:y1, x0:x1], cv2.dilate(digit.mask, None))
    level = max(1.0, cv2.mean(grey, digit.mask)[0])
    across = down = scale
    if scale < 1:  # warpAffine looks at four pixels only: average over areas first
        size = [max(1, round(scale * n)) for n in grey.shape[::-1]]
        across, down = scale * grey.shape[1] / size[0], scale * grey.shape[0] / size[1]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    grey = cv2.convertScaleAbs(grey, alpha=255 / level)
    moments = cv2.moments(grey)
    x, y = (moments[name] / max(moments["m00"], 1) for name in ("m10", "m01"))
    cos, sin, middle = math.cos(slope), math.sin(slope), (len(patch) - 1) / 2
    a, b, c, d = across * cos, down * sin, -across * sin, down * cos
    matrix = np.array([[a, b, middle - a * x - b * y], [c, d, middle - c * x - d * y]])
    cv2.warpAffine(grey, matrix, patch.shape[::-1], patch)


# 5. What happened


def contact_sheet(image: np.ndarray, segments: Segments, stages: dict) -> np.ndarray:
    """One BGR picture that shows why a digit was found or missed.

    Above: the picture, the ink with the light divided out, the mask. Below: the mask with its row and column profiles
    (rulings red, what was dropped grey), the boxes in reading order, the patches. `stages` is what `segment` filled.
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
    scale = page.shape[1] / image.shape[1]
    colours = ((0, 0, 230), (230, 80, 0), (0, 150, 0), (190, 0, 190))  # a colour a line
    for (x, y, w, h), line in zip((segments.boxes * scale).round().astype(int).tolist(), segments.lines):
        cv2.rectangle(
            boxed,
            (x, y),
            (x + w, y + h),
            colours[line % 4],
            max(1, min(page.shape[:2]) // 300),
        )
    across = max(1, int(np.ceil(np.sqrt(len(segments.patches) * page.shape[1] / page.shape[0]))))
    tiles = np.zeros((-(-max(1, len(segments.patches)) // across), across, PATCH, PATCH), np.uint8)
    tiles.reshape(-1, PATCH, PATCH)[: len(segments.patches)] = segments.patches
    tiles = tiles.transpose(0, 2, 1, 3).reshape(tiles.shape[0] * PATCH, -1)
    panels = [
        page,
        cv2.bitwise_not(stages["ink"]),
        cv2.bitwise_not(mask),
        profiled,
        boxed,
        tiles,
    ]
    names = ["picture", "ink", "mask", "parts and profiles", "boxes", "patches"]
    cells = [_panel(panel, name, page.shape) for panel, name in zip(panels, names)]
    return np.vstack([np.hstack(cells[:3]), np.hstack(cells[3:])])


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
