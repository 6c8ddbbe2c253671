"""From a photo to digits: the ink mask, recursive row and column projection, boxes, lines and 28x28 patches.

The way of the data: shrink to a working size, divide the light out, threshold, drop what is no ink of a digit, cut the
page into rows and the rows into columns until nothing splits any more, cut the patches as MNIST makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

WORK_AREA = 1_000_000  # pixels: a page of writing at this size keeps its strokes at two pixels or more
PATCH, BOX = 28, 20  # MNIST: the digit fitted into 20 x 20, its centre of mass in the middle of 28 x 28
SPECK = 3.0  # strokes: ink shorter and narrower than this is a speck
CONTRAST = 0.08  # of the paper's brightness: fainter than that the eye sees no ink either


@dataclass(frozen=True)
class Segments:
    """The digits of one picture in reading order."""

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int32))  # N x 4: x, y, w, h in pixels
    patches: np.ndarray = field(default_factory=lambda: np.zeros((0, PATCH, PATCH), np.uint8))  # ink bright on 0
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # N: text line of each, 0 on top

    @property
    def positions(self) -> np.ndarray:
        """N int32: the place of each digit in its line, 0 = the leftmost."""
        return np.array([i - np.searchsorted(self.lines, line) for i, line in enumerate(self.lines)], np.int32)


def segment(image: np.ndarray, single: bool = False, stages: dict | None = None) -> Segments:
    """Find the handwritten digits of a picture.

    image: H x W x 3 BGR (a fourth channel is ignored) or H x W grey, uint8. single: the whole picture is one digit.
    stages: a dictionary that is filled with what every stage made, for `contact_sheet`.
    Never raises for a uint8 picture: one without digits, however small or odd, gives empty arrays.
    """
    stages = {} if stages is None else stages
    if image.size == 0 or min(image.shape[:2]) < 3:
        return Segments()
    page = _shrink(image)
    scale = page.shape[1] / image.shape[1]
    ink = _ink(page)
    mask = _mask(ink)
    stages.update(page=page, ink=ink, mask=mask)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return Segments()
    thickness = 4 * float(np.median(cv2.distanceTransform(mask, cv2.DIST_L2, 5)[mask > 0]))
    x, y, w, h, area = stats[1:].T
    keep = np.maximum(w, h) >= SPECK * thickness
    ids = np.flatnonzero(keep) + 1
    if not len(ids):
        return Segments()
    lut = np.zeros(count, np.uint8)
    lut[ids] = 255
    kept = lut[labels]
    stages["kept"] = kept
    if single:
        blocks = [[_bounds(kept, 0, 0)]]
    else:
        gap = max(1, round(thickness / 2))
        blocks = [[box] for box in _rows(kept, gap)]
        blocks = [_columns(kept, box[0], gap) for box in blocks]
    boxes, lines, patches = [], [], []
    number = 0
    for row in blocks:
        for x0, y0, x1, y1 in row:
            boxes.append((x0, y0, x1 - x0, y1 - y0))
            lines.append(number)
            patches.append(_patch(np.where(kept[y0:y1, x0:x1] > 0, ink[y0:y1, x0:x1], 0)))
        number += bool(row)
    full = np.rint(np.array(boxes) / scale).astype(np.int32)
    limit = np.array([image.shape[1], image.shape[0]])
    full[:, :2] = np.minimum(full[:, :2], limit - 1)
    full[:, 2:] = np.clip(full[:, 2:], 1, limit - full[:, :2])
    return Segments(full, np.array(patches), np.array(lines, np.int32))


def _shrink(image: np.ndarray) -> np.ndarray:
    """The picture as BGR at the working size, averaged over areas so that thin strokes stay."""
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = np.ascontiguousarray(image[..., :3])
    scale = min(1.0, (WORK_AREA / (image.shape[0] * image.shape[1])) ** 0.5)
    size = [max(1, round(n * scale)) for n in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _ink(page: np.ndarray) -> np.ndarray:
    """H x W uint8: how much darker than the paper around it each pixel is (0 = paper), whatever the light and colour."""
    height, width = page.shape[:2]
    step = max(1, min(height, width) // 120)
    small = cv2.resize(page, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    window = min(grey.shape) // 2 | 1
    # Ink covers less than half of any neighbourhood, so the median is paper, and strokes are what strays far from it.
    stray = (grey.astype(np.float32) - cv2.medianBlur(grey, window)) if window > 1 else np.zeros((1, 1))
    if (stray**3).sum() > 0:  # bright strokes: look at the negative
        page, small = 255 - page, 255 - small
    kernel = np.ones((max(3, min(grey.shape) // 3 | 1),) * 2, np.uint8)
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
    paper = cv2.resize(cv2.max(paper, 24), (width, height), interpolation=cv2.INTER_LINEAR)
    return (255 - cv2.divide(page, paper, scale=255)).max(axis=2)


def _mask(ink: np.ndarray) -> np.ndarray:
    """H x W uint8, 255 where there is ink: strong pixels and the weaker ones connected with them."""
    paper = float(np.median(ink))
    noise = 1.4826 * float(np.median(np.abs(ink.astype(np.float32) - paper)))
    floor = paper + max(6 * noise, CONTRAST * 255)
    strong = ink[ink > floor]
    if not len(strong):
        return np.zeros_like(ink)
    level, _ = cv2.threshold(strong, 0, 255, cv2.THRESH_OTSU)
    weak = cv2.threshold(ink, max(floor, 0.6 * level), 255, cv2.THRESH_BINARY)[1]
    count, labels = cv2.connectedComponents(weak, connectivity=8)
    seeded = np.zeros(count, np.uint8)
    seeded[labels[ink > level]] = 255
    seeded[0] = 0
    return seeded[labels]


def _runs(profile: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """The stretches (start, end) where a projection profile is not empty; gaps up to `gap` pixels don't split."""
    filled = np.flatnonzero(profile)
    if not len(filled):
        return []
    cuts = np.flatnonzero(np.diff(filled) > gap)
    return list(zip(filled[np.r_[0, cuts + 1]].tolist(), (filled[np.r_[cuts, len(filled) - 1]] + 1).tolist()))


def _bounds(mask: np.ndarray, x0: int, y0: int) -> tuple[int, int, int, int]:
    x, y, w, h = cv2.boundingRect(mask)
    return x0 + x, y0 + y, x0 + x + w, y0 + y + h


def _rows(mask: np.ndarray, gap: int) -> list[tuple[int, int, int, int]]:
    """The page cut into rows where its row profile is empty."""
    return [_bounds(mask[a:b], 0, a) for a, b in _runs(mask.max(axis=1), gap)]


def _columns(mask: np.ndarray, box: tuple[int, int, int, int], gap: int) -> list[tuple[int, int, int, int]]:
    """A row cut into columns, and each column tightened to its ink."""
    x0, y0, x1, y1 = box
    runs = _runs(mask[y0:y1, x0:x1].max(axis=0), gap)
    return [_bounds(mask[y0:y1, x0 + a : x0 + b], x0 + a, y0) for a, b in runs]


def _patch(ink: np.ndarray) -> np.ndarray:
    """28 x 28 uint8 as MNIST: fitted into 20 x 20 with its aspect kept, centred by mass, ink near 255."""
    scale = BOX / max(ink.shape)
    size = [max(1, round(n * scale)) for n in ink.shape[::-1]]
    digit = cv2.resize(ink, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).astype(np.float32)
    digit = np.clip(digit * (255 / max(1.0, np.percentile(digit[digit > 0], 90) if digit.any() else 1.0)), 0, 255)
    m = cv2.moments(digit)
    mass = max(m["m00"], 1e-6)
    middle = (PATCH - 1) / 2
    shift = np.float32([[1, 0, middle - m["m10"] / mass], [0, 1, middle - m["m01"] / mass]])
    return np.rint(cv2.warpAffine(digit, shift, (PATCH, PATCH))).astype(np.uint8)
