"""From ink to parts: connected ink, without what cannot be a digit's (specks, rulings, frames, the table, dark areas).

A length is told in strokes (the pen's thickness in this picture), never in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from ink import NEXT, darkness, fill_dark, ink_on, with_corners

TILTS = np.tan(np.deg2rad(np.arange(-16, 17, 2)))  # of rulings, looked for within half a step of one of these
FANS = np.tan(np.deg2rad(np.arange(-21, 22, 3)))  # how much more a ruling is tilted than one a longer side away
PASSES = 2  # in which rulings are looked for: the first may hide others, or mislead where they meet
SLENDER = 40  # times as long as thick, at least, is a ruling that ends in the picture
GAPS = 0.7  # of a ruling's length, at least, is straight ink
RULING = 0.4  # of the picture's longer side: a straight line of that length is no digit's
BOXED = 8.0  # strokes: no narrower is a box around a digit
RECTANGLE = 0.87  # of the smallest rectangle around it is inside a part that is one
BITS = 0.85  # of a component's pixels, at least, are a ruling's: it is a bit of one
SEEDS = 0.1  # of a part's pixels are strong ink: blurred thin strokes have a third, noise and shadows none
WRITING = 0.4  # of all ink's length is strokes of one pen: 0.7 and more on a page, 0.1 to 0.4 of a cat, a tree, stains
CLEARLY = 0.7  # that share is no doubt writing
CLEAN = 0.97  # and that share is strokes of one pen: hardly anything else stands on the page
LARGE = 15  # strokes: few digits are as high, and tables of them higher
COLOURFUL = 40  # of 255: how far a colour's channels are apart, at least
FAINT = 0.75  # of the strength of all ink: writing that weak beside its rulings is looked for without them
STRONG = 0.5  # times as much of a part is strong ink as of any other: of less, it may be another pen's
WEAKEST = 0.2  # of the strength of all ink: weaker is no second pen but what shines through the paper
WEAK_AREA = 3.0  # squares of the pen's thickness: less ink, but for single pixels, is no second pen's
PAIRS = 1 << 22  # of strong and weak components: comparing more takes hundreds of megabytes, and is noise or print
BENT = 1.25  # times as long as its box's diagonal is a stroke that is no straight line, and no corner
SLIM = 3.0  # strokes: no digit is shorter; the thickest of MNIST's has 3.9, a small and blurred one 3
LEAST = 7  # pixels: the lowest raster in which ten digits differ (the 5 x 7 fonts)
CROSSING = 2.4  # strokes: ink is hardly wider, not even where strokes cross


@dataclass(frozen=True, eq=False)
class Part:
    """Connected ink of the working picture: a stroke, several, or (joined) a whole digit."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    mask: np.ndarray  # (y1 - y0) x (x1 - x0) uint8, 255 where its ink is
    stroke: float  # thickness in pixels
    points: np.ndarray | None = None  # its outline, where that is known without looking for its contour
    weak: bool = False  # whether it is much weaker than other ink: by another pen, or it shines through the paper

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
        return Part((x0, y0, x1, y1), mask, max(self.stroke, other.stroke), points, self.weak and other.weak)

    def only(self, mask: np.ndarray) -> Part:
        """What a mask of its own size leaves of it: a part of no size where that is empty."""
        x, y, w, h = cv2.boundingRect(mask)
        x0, y0 = self.box[0] + x, self.box[1] + y
        return Part((x0, y0, x0 + w, y0 + h), mask[y : y + h, x : x + w], self.stroke)


def whole(ink: np.ndarray) -> Part:
    """All of a picture's ink (H x W uint8, 0 = paper) as one part. ValueError where there is none."""
    mask = cv2.threshold(ink, 90, 255, cv2.THRESH_BINARY)[1]
    if not mask.any():
        raise ValueError("there is no ink in the picture")
    stroke = _thickness(cv2.mean(cv2.distanceTransform(mask, cv2.DIST_L2, 3), mask)[0])
    height, width = mask.shape
    return Part((0, 0, width, height), mask, float(stroke)).only(mask)


def find_strokes(page: np.ndarray, stages: dict, bright_strokes: bool | None = None) -> tuple[np.ndarray, list[Part]]:
    """The ink of a picture of the working size, and what of it may be strokes of digits.

    bright_strokes: whether they are; None to find out. Where they are no clear writing, what may hide it is tried.
    """
    found = _strokes(page, stages, bright_strokes)
    tries = []  # other pictures of dark strokes, and how clear writing these have to be
    if stages["share"] < CLEARLY:
        if bright_strokes is None and stages["bright strokes"]:
            tries.append((page, CLEARLY))  # a bold digit that fills the picture: the strokes were its holes
        brightest = cv2.merge([page.max(axis=2)] * 3)
        if cv2.norm(brightest, page, cv2.NORM_INF) > COLOURFUL:
            tries.append((brightest, CLEAN))  # a highlighter is as bright as paper in some channel
    for picture, least in tries:
        theirs: dict = {}
        as_dark = _strokes(picture, theirs, False)
        if theirs["share"] > max(stages["share"], least):
            stages.clear()
            stages.update({**theirs, "page": page})
            return as_dark
    return found


def _strokes(page: np.ndarray, stages: dict, bright_strokes: bool | None) -> tuple[np.ndarray, list[Part]]:
    """As `find_strokes`, with nothing tried."""
    dark, half, side, bright_strokes = darkness(page, bright_strokes)
    paper = fill_dark(half, side)
    ink, floor, background = ink_on(dark, paper, side // 4)
    stages.clear()
    parts = _parts(ink, floor, stages)
    stages.update({"page": page, "dark": dark, "half": half, "paper": paper, "background": background, "ink": ink})
    stages["bright strokes"] = bright_strokes
    return ink, parts


def out_of_shadows(ink: np.ndarray, parts: list[Part], stages: dict) -> tuple[np.ndarray, list[Part]]:
    """What `find_strokes` gives and noted in `stages`, or that without shadows' corners if this is clearer."""
    if not stages["share"]:
        return ink, parts
    crossing = math.ceil(CROSSING * stages["thickness"] / 2) + 1  # of `half`
    paper = with_corners(stages["paper"], stages["half"], crossing)
    if paper is None:
        return ink, parts
    theirs: dict = {}
    their_ink, floor, background = ink_on(stages["dark"], paper, crossing // 4)
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
    found = without(_frames(found, boxes="rulings" in stages))  # without rulings they have gone already
    stages["left"] = mask
    if not len(found.kept) and len(whole.kept) == 1 and not whole.at_edge[whole.kept[0]]:
        found = whole  # a line that is all there is, and ends on the page: a 1
    stages["thickness"] = found.thickness
    kept, weak = ~_cut_off(found), []
    weaker = _by_weaker_pen(ink, floor, found, pen)
    if weaker:
        weak = [replace(weaker.part(i), weak=True) for i in weaker.kept.tolist()]
        its = weaker.pixels(weaker.kept)
        stages["left"] = cv2.bitwise_or(mask, its)
        area, shown = found.area.copy(), found.label[its.ravel()[found.inside] > 0]
        area[shown], kept[shown] = 0, False  # what showed of it before is neither clutter nor a part of its own
        found = replace(found, area=area)
    stages["share"] = found.share
    if 0 < stages["share"] < WRITING:
        return []
    return [found.part(i) for i in found.kept[kept[found.kept]].tolist()] + weak


def _by_weaker_pen(ink: np.ndarray, floor: np.ndarray, found: Connected, pen: float) -> Connected | None:
    """Writing that is too weak beside that of a stronger pen: pencil on a page with a marker's digits.

    ink: H x W uint8 without rulings and frames, floor: as of `ink_on`. found: its components, pen: how strong the pen's
    ink is. None where the rest of the ink, measured anew, is not clearly writing as well.
    """
    if not len(found.kept):
        return None
    strong = found.seeded >= STRONG * found.seeded[found.kept].max()
    boxes = found.stats[found.kept[strong[found.kept]]]
    typical = weighted_median(boxes[:, 3], boxes[:, 2])
    edges = 2 * math.ceil(found.thickness) + 1
    rest = cv2.subtract(ink, cv2.dilate(found.pixels(strong), np.ones((edges, edges), np.uint8)))
    some = cv2.erode(cv2.compare(rest, floor, cv2.CMP_GT), np.ones((2, 2), np.uint8))  # noise is single pixels
    if cv2.countNonZero(some) < WEAK_AREA * found.thickness**2:
        return None
    _, mask, seeds, strength = _masks(rest, floor)
    if not WEAKEST * pen < strength < FAINT * pen:
        return None
    found = _connected(mask, seeds)
    if len(found.area) * len(boxes) > PAIRS:
        return None
    first, size = found.stats[:, None, :2], found.stats[:, None, 2:]
    apart = (first >= boxes[:, :2] + boxes[:, 2:]) | (first + size <= boxes[:, :2])  # else a box, a ring, an edge
    apart = apart.any(axis=2).all(axis=1)
    apart[0] = False
    kept = found.kept[apart[found.kept] & ~found.at_edge[found.kept]]
    kept = kept[found.stats[kept, 2:].max(axis=1) > typical / 2]
    length = found.area / found.stroke
    bent = kept[length[kept] > BENT * np.hypot(*found.stats[kept, 2:].T)]  # what rulings and boxes leave is straight
    whole = length[apart].sum()
    if length[kept].sum() < CLEARLY * whole or length[bent].sum() < whole / 2:
        return None
    return replace(found, kept=kept)


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
    typical = weighted_median(height[inner].astype(float), width[inner].astype(float))
    margin = (width < 0.25 * height) & (found.stroke < 0.7 * found.thickness)
    return found.along_edge | found.at_edge & ((height < 0.6 * typical) | margin)


def _masks(ink: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Three H x W masks of rising strength: for lines, for ink, and the strong ink that a part must have somewhere.

    And how strong the pen's ink is, 0 to 255.
    """
    faint = cv2.compare(ink, floor, cv2.CMP_GT)
    step = 2 if min(ink.shape) >= 240 else 1  # half the picture tells the pen's strength as well
    strokes = _connected(np.ascontiguousarray(faint[::step, ::step]), faint[::step, ::step], LEAST // step)
    strong = ink[::step, ::step].ravel()[strokes.places(strokes.kept)]
    if not len(strong):
        return *(np.zeros_like(ink),) * 3, 0.0
    level, _ = cv2.threshold(strong, 0, 255, cv2.THRESH_OTSU)
    strongest = strong[strong > level]
    pen = float(strongest.mean()) if len(strongest) else float(level)
    lines, mask, seeds = (cv2.threshold(ink, part * pen, 255, cv2.THRESH_BINARY)[1] for part in (0.25, 0.35, 0.55))
    return lines, mask, cv2.bitwise_and(seeds, faint), pen


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
    seeded: np.ndarray  # share of its pixels that are strong ink
    kept: np.ndarray  # numbers of those that are like strokes
    thickness: float  # of the pen, in pixels
    ends: np.ndarray  # R x 2 x 2: the points (x, y) where ink begins and ends in a row, component after component,
    starts: np.ndarray  # and where in it each component starts

    @cached_property
    def share(self) -> float:
        """How much of all the ink's length is in components that are like strokes and not cut off by the edge, 0..1."""
        length = np.where(self.at_edge, 0, self.area / self.stroke)
        return float(length[self.kept].sum() / max(length[1:].sum(), 1.0))

    def places(self, which: np.ndarray) -> np.ndarray:
        """Where in the flat mask the ink of some of the components (their numbers, or K bool) is."""
        chosen = np.zeros(len(self.area), bool)
        chosen[which] = True
        return self.inside[chosen[self.label]]

    def pixels(self, which: np.ndarray) -> np.ndarray:
        """H x W uint8: 255 at `places`."""
        picture = np.zeros(self.labels.shape, np.uint8)
        picture.ravel()[self.places(which)] = 255
        return picture

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
    seeded = np.bincount(label, seeds.ravel()[inside] != 0, count) / area
    seeded[0] = 0
    keep = (seeded >= SEEDS) & (longer >= least)
    keep &= area >= 3.4 * stroke**2  # a stroke is longer than thick: a square dot has 2.2, a round one 1.8, a blot 3
    at_edge = (x == 0) | (y == 0) | (x + w == width) | (y + h == height)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    along_edge = np.bincount(rim, minlength=count) >= 0.5 * longer
    slim = keep & (longer >= SLIM * stroke)
    sure = slim & ~at_edge
    sure = sure if sure.any() else slim
    thickness = weighted_median(stroke[sure], (area / stroke)[sure]) if sure.any() else 1.0
    keep &= sure.any() & (longer >= 3 * thickness)
    keep &= stroke <= np.where(at_edge, 1.6, 3) * thickness  # the table, a hand, a shadow come in from the edge
    kept = np.flatnonzero(keep)
    return Connected(
        labels, inside, label, stats, area, stroke, at_edge, along_edge, seeded, kept, thickness, ends, starts
    )


def _thickness(depth: np.ndarray | float) -> np.ndarray:
    """Strokes' thickness in pixels from the mean of their pixels' distance transform."""
    # A bar's mean distance to its rim is a quarter of its width; pixels at the rim count as 1 there and lie 1/2 deep.
    return np.maximum(4 * (depth - 0.5), 1)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The one of N values that those below it and those above it weigh as much as."""
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
    some = np.random.default_rng(0).integers(len(across), size=2_000)  # enough to tell; every nth could lie on a grid's
    y, x = (across[some] - middle[1]).astype(np.float32), (along[some] - middle[0]).astype(np.float32)

    def sharpest(tilts: np.ndarray, fans: np.ndarray) -> tuple[float, float]:
        best, steep = (-1, 0.0, 0.0), tilts.astype(np.float32)[:, None]
        for fan in fans.astype(np.float32):  # all at once is slower: megabytes
            halved = 0.5 / (1 + fan * x)  # rows of two pixels
            places = (y * halved - steep * (x * halved)).astype(np.int32)
            places -= places.min() - 1
            rows = int(places.max()) + 2
            places += rows * np.arange(len(tilts), dtype=np.int32)[:, None]
            profiles = np.bincount(places.ravel(), minlength=rows * len(tilts))
            sharpness = np.square(np.diff(profiles.reshape(-1, rows))).sum(axis=1)
            best = max(best, (sharpness.max(), tilts[sharpness.argmax()], fan), key=lambda one: one[0])
        return best[1:]

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
    if np.count_nonzero(cv2.reduce(runs, 0, cv2.REDUCE_MAX)) < GAPS * least:  # mostly: then nothing is long enough
        return band, band, 0
    bridged = cv2.dilate(runs, np.ones((5, length), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bridged, connectivity=8)
    straight: list[tuple[bool, float, np.ndarray]] = []  # whether each goes through the picture, thickness, points
    for i in np.flatnonzero((stats[1:, 2] >= least) & (stats[1:, 3] <= stats[1:, 2] / 3)) + 1:
        x, y, w, h = (int(n) for n in stats[i, :4])
        line = (runs[y : y + h, x : x + w] > 0) & (labels[y : y + h, x : x + w] == i)
        columns = line.sum(axis=0)
        filled = np.flatnonzero(columns)
        span = filled[-1] + 1 - filled[0]
        thick = max(1.0, float(np.median(columns[filled])) - swell)
        edge = max(2 * thick, 0.02 * width)
        through = x + filled[0] <= edge and x + filled[-1] >= width - edge
        if span < least or len(filled) < GAPS * span or thick > 2 * thickness:
            continue
        if not (through or span >= slender * thick):
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


def _frames(found: Connected, closed: bool = False, boxes: bool = True) -> list[Part]:
    """What is drawn around others: boxes and circles, tables and circles that touch.

    Parts with several others in their holes, rectangles with one, or with ink of their own inside that touches them;
    if not only `closed` ones are asked for, also those with another one wholly inside and no ink of their own in the
    middle. Of each only what is around: what else hangs together with it are digits that touch it. boxes: look also at
    what is like a box by its size alone; that takes a while.
    """
    first, size = found.stats[:, :2], found.stats[:, 2:]
    last, longer, shorter, kept = first + size, size.max(axis=1), size.min(axis=1), found.kept
    hollow = (shorter > BOXED * found.stroke) & (found.area < 0.4 * size.prod(axis=1))
    hollow[0] = False
    hollow &= boxes
    around = np.union1d(kept, np.flatnonzero(hollow))  # a form's boxes may be too faint to be kept
    inside = longer[kept] > 0.12 * shorter[around, None]  # the columns' parts in the rows' parts
    for k in range(2):
        inside &= first[kept, k] > (first[around, k] + found.stroke[around])[:, None]
        inside &= last[kept, k] < (last[around, k] - found.stroke[around])[:, None]
    holding = inside.any(axis=1)
    looked_at = holding | hollow[around]
    frames = []
    for i, holds in zip(around[looked_at].tolist(), holding[looked_at].tolist()):
        part = found.part(i)
        rectangle = _is_rectangle(part)
        if not (holds or rectangle) and shorter[i] < LARGE * part.stroke:
            continue
        within, border = _held(part, found), _border(part)
        touching = cv2.countNonZero(part.mask) - cv2.countNonZero(border.mask) > shorter[i] / 2 * part.stroke
        middle = part.mask[part.height // 4 : -(part.height // 4), part.width // 4 : -(part.width // 4)]
        drawn_around = holds and not (closed or middle.any())
        if within > (not rectangle) or (rectangle and touching) or drawn_around:
            frames.append(border)
    return frames


def _border(part: Part) -> Part:
    """A part without its ink in the convex hulls of its holes."""
    outlines, hierarchy = cv2.findContours(part.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    inside, hulls = np.zeros_like(part.mask), []
    for outline in sorted((o for o, h in zip(outlines, hierarchy[0]) if h[3] >= 0), key=cv2.contourArea, reverse=True):
        x, y = outline[0, 0]
        if not inside[y, x]:  # else it is a hole of what touches the border
            hulls.append(cv2.convexHull(outline))
            cv2.fillConvexPoly(inside, hulls[-1], 255)
    cv2.polylines(inside, hulls, True, 0, 2 * round(part.stroke) + 1)  # a bent line's ink, too, is in its hole's hull
    return replace(part, mask=cv2.subtract(part.mask, inside))


def _is_rectangle(part: Part) -> bool:
    """Whether a part's outline is nearly one, turned or not: an ellipse covers 0.79 of that around it."""
    return cv2.contourArea(part.contour) > RECTANGLE * np.prod(cv2.minAreaRect(part.contour)[1])


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
