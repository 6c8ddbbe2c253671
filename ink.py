"""From a picture to its ink: at a working size, the light divided out, so that paper is 0 under a lamp and in a shadow.

And where a picture is not all paper, the sheets that may lie in it. Nothing is known of digits here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

WORK_AREA = 1_000_000  # pixels: a page of writing at this size keeps its strokes at two pixels or more
PAPER = 64  # level of bare paper in the ink picture while it is made: noise must not be cut off on one side
FAST_MEDIAN = 72  # pixels: OpenCV's median of narrower pictures takes ten times as long
NEXT = np.ones((3, 3), np.uint8)  # a pixel and its neighbours
SHEET = 0.04, 0.9  # of the picture that a sheet of paper before something else takes up
LEVELS = 12  # of each channel at which what is brighter may be such a sheet
FLAT = 16  # of 255: a channel that differs by less shows no sheet, but a wall, paper all over, a covered lens
EVEN = 1.15  # times as bright beside its paper in one channel as in another, at most, is what is as white as that
AROUND = 0.75  # of its surroundings, at least, are that much fainter: a room has a bright corner beside it
CONVEX = 0.85  # of its hull, at least, is bright: the rest is fingers, and writing at its edge
SAME = 0.7  # of the union of two places, at least, is in both: a sheet that a hand has moved since the last frame
FAINTER = 0.8  # of its brightness, at most, has what is around it
SHADOW = 0.35, 1.25  # of its brightness that a shadow leaves at least, and the most that this differs between channels
NOISY = 4  # of 255: where three quarters of all neighbours differ by that, noise has a deviation of 9: smoothed
CORNERS = 0.01  # of the picture, at least, is darker than its paper by a tenth and wider than ink: shadows
NOISIEST = 25  # deviation in the ink picture, of 255: a region that strays more is partly bold ink
BLOT = 0.2  # of the way from paper to black: half of a region that is as dark as that is a bold digit's
CONTRAST = 0.08  # of the paper's brightness: fainter than that is no ink to the eye either


def shrink(image: np.ndarray, part: float = 1.0) -> np.ndarray:
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


def _dark(page: np.ndarray, bright_strokes: bool) -> np.ndarray:
    """H x W uint8: the least of the three channels, for ink of any colour is dark in one of them.

    bright_strokes: of the negative.
    """
    first, second, third = cv2.split(page)
    if bright_strokes:
        return cv2.bitwise_not(cv2.max(cv2.max(first, second), third))
    return cv2.min(cv2.min(first, second), third)


def darkness(page: np.ndarray, bright_strokes: bool | None) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """What tells the ink from its paper: the page as `_dark` gives it, H x W uint8, and the same at half its size; the
    side of a window that is wider than strokes there; and whether strokes are bright. bright_strokes: None to find out.
    """
    height, width = page.shape[:2]
    step = max(1.0, min(height, width) / 120)
    size = round(width / step), round(height / step)
    if bright_strokes is None:
        bright_strokes = _bright_on_dark(cv2.cvtColor(_smaller(page, size), cv2.COLOR_BGR2GRAY))
    dark = _dark(page, bright_strokes)
    half = cv2.resize(dark, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    bound = _stroke_bound(_smaller(half if step >= 2 else dark, size))  # of a small page half is too small
    return dark, half, max(3, round(bound * step)), bright_strokes  # in `half` twice the bound: crossings are wider


def ink_on(dark: np.ndarray, paper: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much darker than the paper around it each pixel is, whatever light and colour, and what of it is only noise.

    dark: as of `darkness`. paper: the same without ink, at half its size; edge: pixels of it that an edge of what is
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
    ranks = [side * side // 4, side * side // 2]
    quarter, half = np.partition(regions, ranks)[..., ranks].astype(np.float32).transpose(2, 0, 1)
    most = PAPER + BLOT * (255 - PAPER)
    quarter, half = np.minimum(quarter, most), np.minimum(half, most)
    noise = np.minimum((half - quarter) / 0.6745, NOISIEST)  # the quartile of a normal distribution
    floor = np.minimum(half + np.maximum(6 * noise, CONTRAST * (255 - PAPER)), 255)
    return half.astype(np.uint8), floor.astype(np.uint8)


def with_corners(paper: np.ndarray, half: np.ndarray, crossing: int) -> np.ndarray | None:
    """The paper (as of `ink_on`) with what its window, far wider than strokes, leaves out of shadows: corners, wedges.

    half: as of `darkness`; crossing: pixels of it that ink is wide, at most. What is wider still is a shadow, and so is
    all that hangs together with it and is no narrower than ink: a closing by reconstruction (L. Vincent,
    "Morphological grayscale reconstruction in image analysis", IEEE Transactions on Image Processing 2(2), 1993). None
    where hardly anything was left out.
    """
    least = cv2.convertScaleAbs(paper, alpha=0.9)

    def left_out(darker: np.ndarray) -> float:
        return cv2.countNonZero(cv2.compare(darker, least, cv2.CMP_LT)) / paper.size

    inkless = fill_dark(half, crossing)
    if left_out(inkless) < CORNERS:
        return None
    shadows = cv2.min(fill_dark(inkless, 3 * crossing // 2), paper)
    before = paper
    while cv2.norm(before, shadows, cv2.NORM_INF) > 2:
        before = shadows
        for _ in range(8):
            shadows = cv2.max(cv2.erode(shadows, NEXT), inkless)
    return shadows if left_out(shadows) >= CORNERS else None


def fill_dark(picture: np.ndarray, side: int) -> np.ndarray:
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
        closed = fill_dark(closed, side // step)
        every = max(1, 2 // step)  # enough to count
        depths = (closed[::every, ::every] - dark[::every, ::every]).ravel()
        most = math.ceil(0.998 * len(depths)) - 1
        filled.append(int(np.partition(depths, most)[most]))
        places.append(np.count_nonzero(depths > 0.5 * filled[-1]) / len(depths))
    for k in range(len(sides) - 1):
        if filled[k] >= 0.8 * filled[k + 1] and filled[k] >= 0.4 * filled[-1]:
            return sides[k + (places[k + 1] > 1.05 * places[k])]
    return sides[-1]


def uneven(background: np.ndarray) -> bool:
    """Whether a tenth of the picture or more has a background less than half as bright as the paper's."""
    height, width = background.shape
    samples = background[:: 1 + height // 64, :: 1 + width // 64]
    return bool((samples < 0.5 * np.quantile(samples, 0.9)).mean() > 0.1)


def find_sheets(page: np.ndarray, known: np.ndarray | None = None) -> list[tuple[np.ndarray, bool]]:
    """Sheets of paper that may lie on something darker or be held before it: none, one or two, the surer first.

    Of each its hull in a small picture of the page (h x w uint8: 0 outside, 2 where it is bright, 1 elsewhere in it, be
    that fingers, a shadow, or the room beside it), and whether it may as well be paper in the light with a shadow
    beside it. Of all that is brighter than some level it is what is the most nearly convex, the largest, and stands out
    the most; the second one is where that may be a shadow's doing, and the first where not. known: a sheet of the
    picture before; then only where that may be now.
    """
    height, width = page.shape[:2]
    step = max(1.0, min(height, width) / 120)
    small = _smaller(page, (round(width / step), round(height / step)))
    if known is not None:
        if known.shape != small.shape[:2]:  # the camera was turned
            return []
        known = cv2.min(known, 1)
    small = fill_dark(small, min(small.shape[:2]) // 13)  # without what is written
    colours = small.reshape(-1, 3).T.copy()
    best: list[float] = [0.0, 0.0]  # how far the sheets stand out: what is surely one, and what may be in the light
    sheets: list[np.ndarray | None] = [None, None]
    for at_most, inside, outline in sorted(_bright_places(small, known), key=lambda place: -place[0]):
        if at_most <= min(best):
            break
        paper, rim, fainter = _beside(colours, inside)
        least = fainter.min(axis=0)
        if not len(least):
            continue
        ranks = [len(least) // 2, int(AROUND * len(least))]
        median, most = np.partition(least, ranks)[ranks]
        if median > FAINTER:
            continue
        even = np.mean(rim.max(axis=0) < EVEN * rim.min(axis=0))
        stands_out = at_most * even * (1 - most) * paper.min() / max(1.0, paper.max())
        if stands_out <= min(best):
            continue
        shadow = (least > SHADOW[0]) & (fainter.max(axis=0) < SHADOW[1] * least)
        sheet = cv2.drawContours(inside.copy(), [outline], -1, 2, cv2.FILLED)
        for lit in (False, True):
            if stands_out > best[lit] and (lit or shadow.mean() < 0.15):
                best[lit], sheets[lit] = stands_out, sheet
    return [(s, bool(lit)) for lit, s in enumerate(sheets) if s is not None and not (lit and s is sheets[0])]


def _bright_places(small: np.ndarray, known: np.ndarray | None) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """The hulls (h x w uint8, 1 inside) of what is brighter than some level, how far each stands out at most (first),
    and its contour then (last).

    known: as of `find_sheets`.
    """
    masks: dict[bytes, np.ndarray | None] = {}  # of each hull, for a sheet's is the same at many levels
    best: dict[bytes, tuple[float, np.ndarray]] = {}
    # White is brighter than a table in each channel, a colour in one; but of a room's colours each is bright in some.
    for level in (*cv2.split(small), _dark(small, False)):
        if np.ptp(level) < FLAT:
            continue
        for bound in np.linspace(level.min(), level.max(), LEVELS + 2)[1:-1]:
            bright = cv2.morphologyEx(cv2.threshold(level, bound, 1, cv2.THRESH_BINARY)[1], cv2.MORPH_OPEN, NEXT)
            for contour in cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
                hull = cv2.convexHull(contour)
                share = cv2.contourArea(hull) / level.size
                if not SHEET[0] < share < SHEET[1]:
                    continue
                key = hull.tobytes()
                if key not in masks:
                    inside = cv2.fillConvexPoly(np.zeros_like(level), hull, 1)
                    masks[key] = inside if known is None or _overlap(inside, known) >= SAME else None
                if masks[key] is None:
                    continue
                convex = cv2.countNonZero(cv2.bitwise_and(bright, masks[key])) / cv2.countNonZero(masks[key])
                if convex >= CONVEX:
                    at_most = convex**6 * share**0.25
                    if key not in best or at_most > best[key][0]:
                        best[key] = at_most, contour
    return [(at_most, masks[key], contour) for key, (at_most, contour) in best.items()]


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Of all that two masks (0 or 1) cover, the share that both do: 0..1."""
    both = cv2.countNonZero(cv2.bitwise_and(first, second))
    return both / max(1, cv2.countNonZero(first) + cv2.countNonZero(second) - both)


def _beside(colours: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The median colour just inside a mask (0 or 1), 3 floats; and how bright places beside it are.

    colours: of all pixels, 3 x h*w uint8. Just inside 3 x M and just outside 3 x N, 1 = as bright as that median. None
    where there is nothing.
    """
    rim = cv2.subtract(inside, cv2.erode(inside, NEXT, iterations=3))
    near = cv2.dilate(inside, NEXT)
    around = cv2.subtract(cv2.dilate(near, NEXT, iterations=3), near)
    just_inside, just_outside = (colours.take(np.flatnonzero(mask.view(bool)), axis=1) for mask in (rim, around))
    if not just_inside.size:
        return np.zeros(3), np.zeros((3, 0)), np.zeros((3, 0))
    ranks = [(just_inside.shape[1] - 1) // 2, just_inside.shape[1] // 2]  # np.median takes three times as long
    paper = np.partition(just_inside, ranks, axis=1)[:, ranks].mean(axis=1)
    return paper, just_inside / np.maximum(1, paper)[:, None], just_outside / np.maximum(1, paper)[:, None]


def alone(page: np.ndarray, sheet: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The page cut down to a sheet of `find_sheets`, and around that covered with paper as at its edge.

    And where that begins in the page: x, y.
    """
    x, y, w, h = cv2.boundingRect(sheet)
    x0, y0, x1, y1 = max(0, x - 3), max(0, y - 3), min(sheet.shape[1], x + w + 3), min(sheet.shape[0], y + h + 3)
    across, down = page.shape[1] / sheet.shape[1], page.shape[0] / sheet.shape[0]
    corner = round(x0 * across), round(y0 * down)
    page = page[corner[1] : round(y1 * down), corner[0] : round(x1 * across)].copy()
    # Its very edge is neither paper nor table.
    sheet = cv2.erode(cv2.min(sheet, 1), NEXT, iterations=2, borderType=cv2.BORDER_REPLICATE)[y0:y1, x0:x1]
    size = page.shape[1::-1]
    paper = fill_dark(_smaller(page, sheet.shape[::-1]), 9)
    _, nearest = cv2.distanceTransformWithLabels(1 - sheet, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((nearest.max() + 1, 3), np.uint8)
    colours[nearest[sheet > 0]] = paper[sheet > 0]
    paper = cv2.resize(cv2.blur(colours[nearest], (5, 5)), size, interpolation=cv2.INTER_LINEAR)
    around = cv2.resize(255 * (1 - sheet), size, interpolation=cv2.INTER_LINEAR)
    return cv2.copyTo(paper, cv2.threshold(around, 127, 255, cv2.THRESH_BINARY)[1], page), corner
