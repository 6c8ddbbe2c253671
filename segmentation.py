"""From a photo to digits: the ink mask, recursive row and column projection, boxes, lines and 28x28 patches.

The way of the data, and of this file:

1. ink: the picture at a working size, the light divided out, so that paper is 0 under a lamp and in a shadow;
2. parts: connected ink, without what cannot be a digit's (specks, rulings, frames, the table, dark areas);
3. rows and columns: the parts projected along the text's slope, cut where the profile is empty, again inside each cut;
4. patches: each digit turned upright and drawn as MNIST draws it.

A length is told in strokes (the pen's thickness in this picture) or in digit heights, never in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

WORK_AREA = 1_000_000  # pixels: a page of writing at this size keeps its strokes at two pixels or more
PATCH, BOX = 28, 20  # MNIST: the digit fitted into 20 x 20, its centre of mass in the middle of 28 x 28
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


@dataclass(frozen=True)
class Part:
    """Connected ink of the working picture: a stroke, several, or (joined) a whole digit."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    mask: np.ndarray  # (y1 - y0) x (x1 - x0) uint8, 255 where its ink is
    hull: np.ndarray  # points (x, y) around it: its projection in any direction is theirs
    stroke: float  # thickness in pixels

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


def segment(image: np.ndarray, single: bool = False, stages: dict | None = None) -> Segments:
    """Find the handwritten digits of a picture.

    image: H x W x 3 BGR (a fourth channel is ignored) or H x W grey, uint8. single: the whole picture is one digit.
    stages: a dictionary that is filled with what every stage made, for `contact_sheet`.
    Never raises for a uint8 picture: one without digits, however small or odd, gives empty arrays.
    """
    stages = {} if stages is None else stages
    if image.size == 0 or min(image.shape[:2]) < LEAST:
        return Segments()
    page = _shrink(image)
    scale = page.shape[1] / image.shape[1]
    ink = _ink(page)
    parts = _parts(ink, stages)
    stages.update(page=page, ink=ink, parts=parts)
    rows = _rows(_join(parts))
    digits = [(digit, number, slope) for number, (row, slope) in enumerate(rows) for digit in row]
    if not digits:
        return Segments()
    corners = np.array([digit.box for digit, _, _ in digits]) / scale
    limit = np.array([image.shape[1], image.shape[0]])
    first = np.clip(np.floor(corners[:, :2]), 0, limit - 1)
    last = np.clip(np.ceil(corners[:, 2:]), first + 1, limit)
    boxes = np.hstack([first, last - first]).astype(np.int32)
    patches = np.stack([_patch(ink, digit, slope) for digit, _, slope in digits])
    return Segments(boxes, patches, np.array([number for _, number, _ in digits], np.int32))


# 1. Ink


def _shrink(image: np.ndarray) -> np.ndarray:
    """The picture as BGR at the working size, averaged over areas so that thin strokes stay."""
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = np.ascontiguousarray(image[..., :3])
    scale = min(1.0, (WORK_AREA / (image.shape[0] * image.shape[1])) ** 0.5)
    size = [max(1, round(n * scale)) for n in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _darkest(picture: np.ndarray) -> np.ndarray:
    """The least of the three channels: ink of any colour is dark in one of them."""
    blue, green, red = (cv2.extractChannel(picture, i) for i in range(3))
    return cv2.min(cv2.min(blue, green), red)


def _ink(page: np.ndarray) -> np.ndarray:
    """H x W uint8, 0 = paper: how much darker than the paper around it each pixel is, whatever light and colour."""
    height, width = page.shape[:2]
    step = max(1.0, min(height, width) / 120)
    small = cv2.resize(page, (round(width / step), round(height / step)), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    # Ink covers less than half of any wide neighbourhood: the median is paper, and strokes are what strays far from it.
    stray = grey.astype(np.float32) - cv2.medianBlur(grey, max(3, min(grey.shape) // 2) | 1)
    if (stray**3).sum() > 0:  # bright strokes: go on with the negative
        page, small = cv2.bitwise_not(page), cv2.bitwise_not(small)
    half = cv2.resize(page, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    side = max(3, round(_stroke_bound(_darkest(small)) * step))  # twice the bound, in pixels of `half`
    paper = cv2.morphologyEx(half, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8), borderType=cv2.BORDER_REPLICATE)
    paper = cv2.resize(cv2.max(paper, 32), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.bitwise_not(_darkest(cv2.divide(page, paper, scale=255)))


def _stroke_bound(dark: np.ndarray) -> int:
    """A bound for the strokes' thickness: the least window whose closing (fill the dark up) takes all strokes away."""
    short = min(dark.shape)
    sides = [max(3, short // n | 1) for n in (16, 8, 4, 2)]
    filled = []
    for side in sides:
        paper = cv2.morphologyEx(
            dark, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8), borderType=cv2.BORDER_REPLICATE
        )
        filled.append(float(np.percentile(cv2.subtract(paper, dark), 99.8)))
    for side, now, wider in zip(sides, filled, filled[1:]):
        if now >= 0.8 * wider and now >= 0.4 * filled[-1]:
            return side
    return sides[-1]


# 2. Parts


def _parts(ink: np.ndarray, stages: dict) -> list[Part]:
    """Connected ink that may be strokes of digits."""
    paper = float(np.median(ink))
    noise = 1.4826 * float(np.median(cv2.absdiff(ink, np.full_like(ink, round(paper)))))
    floor = paper + max(6 * noise, CONTRAST * 255)
    strong = ink[ink > floor]
    if not len(strong):
        return []
    level, _ = cv2.threshold(strong, 0, 255, cv2.THRESH_OTSU)
    pen = float(strong[strong > level].mean()) if (strong > level).any() else float(level)
    mask = cv2.threshold(ink, max(floor, paper + 0.4 * (pen - paper)), 255, cv2.THRESH_BINARY)[1]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    inside = np.flatnonzero(mask)
    label = labels.ravel()[inside]
    area = np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3).ravel()[inside]
    stroke = 4 * np.bincount(label, distance, count) / area  # the mean distance to the rim of a bar is a quarter of it
    seeded = np.bincount(label, ink.ravel()[inside] > paper + 0.65 * (pen - paper), count) > 0
    x, y, w, h = stats[:, :4].T
    length = np.hypot(w, h)
    keep = seeded & (np.maximum(w, h) >= LEAST)
    keep[0] = False
    stages["mask"] = mask
    if not keep.any():
        return []
    thickness = _weighted_median(stroke[keep], (area / stroke.clip(1))[keep])
    keep &= length >= 3 * thickness
    keep &= stroke <= 3 * thickness
    stages["thickness"] = thickness
    return [_part(labels, i, stats[i], float(stroke[i])) for i in np.flatnonzero(keep)]


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _part(labels: np.ndarray, i: int, stat: np.ndarray, stroke: float) -> Part:
    x, y, w, h = (int(n) for n in stat[:4])
    mask = (labels[y : y + h, x : x + w] == i).astype(np.uint8) * 255
    return Part((x, y, x + w, y + h), mask, _hull(mask, x, y), stroke)


def _hull(mask: np.ndarray, x: int, y: int) -> np.ndarray:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return cv2.convexHull(np.concatenate(contours))[:, 0] + (x, y)


def _join(parts: list[Part]) -> list[Part]:
    """Strokes of one digit that came apart, joined again."""
    return parts


def _merge(a: Part, b: Part) -> Part:
    x0, y0 = min(a.box[0], b.box[0]), min(a.box[1], b.box[1])
    x1, y1 = max(a.box[2], b.box[2]), max(a.box[3], b.box[3])
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for part in (a, b):
        left, top, right, bottom = part.box
        mask[top - y0 : bottom - y0, left - x0 : right - x0] |= part.mask
    hull = cv2.convexHull(np.concatenate([a.hull, b.hull]).astype(np.int32))[:, 0]
    return Part((x0, y0, x1, y1), mask, hull, max(a.stroke, b.stroke))


# 3. Rows and columns


def _extents(parts: list[Part], angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The projections of N parts on the normals of A slopes (radians): two A x N arrays, first and last."""
    points = np.concatenate([part.hull for part in parts])
    starts = np.cumsum([0] + [len(part.hull) for part in parts[:-1]])
    across = np.outer(np.cos(angles), points[:, 1]) - np.outer(np.sin(angles), points[:, 0])
    return np.minimum.reduceat(across, starts, axis=1), np.maximum.reduceat(across, starts, axis=1)


def _slope(parts: list[Part]) -> float:
    """The text's slope in radians: the direction in which the parts' projection is the shortest."""
    if len(parts) < 3:
        return 0.0
    angles = np.deg2rad(np.arange(-40, 41, 2.0))
    first, last = _extents(parts, angles)
    quarter = (last - first) / 4
    occupied = _occupied(first + quarter, last - quarter)
    return float(angles[np.argmin(occupied * (1 + np.abs(angles)))])


def _occupied(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The length of the union of the N intervals in each of A rows."""
    order = np.argsort(first, axis=1)
    first, last = np.take_along_axis(first, order, 1), np.take_along_axis(last, order, 1)
    reach = np.maximum.accumulate(last, axis=1)
    gaps = np.maximum(first[:, 1:] - reach[:, :-1], 0).sum(axis=1)
    return reach[:, -1] - first[:, 0] - gaps


def _rows(parts: list[Part]) -> list[tuple[list[Part], float]]:
    """The parts as text lines, top to bottom, each sorted from left to right, with its slope."""
    if not parts:
        return []
    slope = _slope(parts)
    first, last = (v[0] for v in _extents(parts, np.array([slope])))
    quarter = (last - first) / 4
    first, last = first + quarter, last - quarter
    order = np.argsort(first)
    reach = np.maximum.accumulate(last[order])
    cuts = np.flatnonzero(first[order][1:] > reach[:-1]) + 1
    rows = []
    for group in np.split(order, cuts):
        row = sorted((parts[i] for i in group), key=lambda part: part.box[0] + part.box[2])
        rows.append((row, slope))
    return rows


# 4. Patches


def _patch(ink: np.ndarray, digit: Part, slope: float) -> np.ndarray:
    """28 x 28 uint8 as MNIST: upright, fitted into 20 x 20 with its aspect kept, centred by mass, ink near 255."""
    x0, y0, x1, y1 = digit.box
    grey = cv2.bitwise_and(ink[y0:y1, x0:x1], cv2.dilate(digit.mask, np.ones((3, 3), np.uint8)))
    level = max(1.0, float(cv2.mean(grey, digit.mask)[0]))
    turn = np.array([[np.cos(slope), np.sin(slope)], [-np.sin(slope), np.cos(slope)]])
    around = (digit.hull - (x0, y0)) @ turn.T
    extent = float((around.max(axis=0) - around.min(axis=0)).max()) + 1
    scale = BOX / extent
    if scale < 0.5:  # warpAffine looks at four pixels only: average over areas first
        size = [max(1, round(2 * scale * n)) for n in grey.shape[::-1]]
        turn = turn @ np.diag([grey.shape[1] / size[0], grey.shape[0] / size[1]])
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    grey = cv2.convertScaleAbs(grey, alpha=255 / level)
    moments = cv2.moments(grey)
    mass = np.array([moments["m10"], moments["m01"]]) / max(moments["m00"], 1)
    linear = scale * turn
    offset = (PATCH - 1) / 2 - linear @ mass
    return cv2.warpAffine(grey, np.hstack([linear, offset[:, None]]), (PATCH, PATCH), flags=cv2.INTER_LINEAR)


def contact_sheet(image: np.ndarray, segments: Segments, stages: dict) -> np.ndarray:
    """One BGR picture of every stage."""
    return image
