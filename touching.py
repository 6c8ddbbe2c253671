"""Touching and broken digits: many candidate cuts, judged by the network, and the best path through them.

Where digits touch no profile says for sure where one ends; the network does, once it knows what is not a digit. A wide
component is cut at every likely place (too often), each group of neighbouring pieces is read, and dynamic programming
finds the groups that together are read with the highest probability. So is ink that came apart: pieces that are a digit
only together are one. "Heuristic over-segmentation" and the Viterbi algorithm of: Y. LeCun, L. Bottou, Y. Bengio,
P. Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998, sections V and VI.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import cv2
import numpy as np

from segmentation import Found, Part, patches

SLANTS = np.tan(np.deg2rad([0, -12, 12, -24, 24, -36, 36]))  # of cuts: writing leans
MOST_CUTS = 9  # of one component
NEAREST = 0.12  # heights: cuts closer than that are one
WIDEST = 1.6  # heights: no digit is wider
NEAR = 0.15  # heights: ink that came apart is not farther apart
SURE = 0.95  # probability: what is read with it is not looked at again
ACCEPTED = 0.6  # probability that every digit of a new grouping must have
LEAST = 1e-3  # probability: one bad piece is enough


@dataclass(frozen=True)
class Cut:
    """A straight line that takes a component apart: x at its middle row, and how far x moves a row down."""

    x: float
    slant: float


def cuts(mask: np.ndarray, stroke: float) -> list[Cut]:
    """Places where touching digits may be taken apart: the minima of the ink's projection along several slants.

    mask: h x w uint8, ink not 0. stroke: its thickness in pixels. From left to right, at most MOST_CUTS.
    """
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    places = np.rint(xs - SLANTS[:, None] * (ys - height / 2)).astype(int)
    inside = (places >= 0) & (places < width)
    slants = np.broadcast_to(np.arange(len(SLANTS))[:, None], places.shape)
    profile = np.bincount((slants * width + places)[inside], minlength=len(SLANTS) * width).reshape(-1, width)
    # What lies left and right of a cut must be ink too: near the ends a slanted line crosses little of anything.
    before = np.cumsum(profile, axis=1)
    least = np.minimum(before, len(xs) - before) < 0.04 * len(xs)
    cost = profile + np.abs(SLANTS)[:, None] * 0.5 * stroke + 1e6 * least
    cost = cv2.blur(cost.astype(np.float32), (3, 1))
    best = cost.argmin(axis=0)
    depth = cost.min(axis=0)
    chosen: list[int] = []
    for x in np.argsort(depth, kind="stable"):
        if depth[x] > 1e5 or len(chosen) == MOST_CUTS:
            break
        if all(abs(x - other) >= NEAREST * height for other in chosen):
            chosen.append(int(x))
    return [Cut(float(x), float(SLANTS[best[x]])) for x in sorted(chosen)]


def numbered(mask: np.ndarray, lines: list[Cut]) -> np.ndarray:
    """Which piece each pixel of a mask (h x w uint8) belongs to: h x w int, 0 = left of the first cut; -1: no ink."""
    height, width = mask.shape
    rows = np.arange(height)[:, None] - height / 2
    pieces = np.zeros((height, width), int)
    for cut in lines:
        pieces += np.arange(width) > cut.x + cut.slant * rows
    pieces[mask == 0] = -1
    return pieces


def best_path(scores: dict[tuple[int, int], float], count: int) -> list[tuple[int, int]]:
    """The groups (first, after the last) that cover `count` pieces with the greatest sum of scores (Viterbi)."""
    reached = [0.0] + [-math.inf] * count
    came_from = [0] * (count + 1)
    for (first, end), score in sorted(scores.items(), key=lambda item: item[0][1]):
        if reached[first] + score > reached[end]:
            reached[end], came_from[end] = reached[first] + score, first
    path, end = [], count
    while end > 0:
        path.append((came_from[end], end))
        end = came_from[end]
    return path[::-1]


def candidates(chain: list[Part], height: float) -> tuple[dict[tuple[int, int], Part], int]:
    """Every group of neighbouring pieces that may be a digit, by its first piece and the one after its last.

    chain: components from left to right; height: of the line's digits in pixels. Also the number of pieces.
    """
    numbers, count = [], 0
    for part in chain:
        lines = cuts(part.mask, part.stroke) if part.width > 0.5 * height else []
        number = numbered(part.mask, lines)
        numbers.append(np.where(number >= 0, number + count, -1))
        count += len(lines) + 1
    groups = {}
    for first in range(count):
        for end in range(first + 1, count + 1):
            group = _take(chain, numbers, first, end)
            if group is not None and group.width <= WIDEST * height and group.height >= 0.5 * height:
                groups[first, end] = group
    return groups, count


def _take(chain: list[Part], numbers: list[np.ndarray], first: int, end: int) -> Part | None:
    """The pieces from `first` until before `end` as one part; None where they are empty."""
    masks = [((number >= first) & (number < end)).astype(np.uint8) * 255 for number in numbers]
    found = [part.only(mask) for part, mask in zip(chain, masks) if mask.any()]
    return reduce(Part.merged, found) if found else None


def best_grouping(groups: list[tuple[int, int]], probabilities: np.ndarray, count: int) -> list[int]:
    """Which groups (places in the list) cover all `count` pieces with the highest probability; empty: none do."""
    scores = dict(zip(groups, np.log(np.maximum(probabilities, LEAST)).tolist()))
    path = best_path(scores, count)
    places = {group: place for place, group in enumerate(groups)}
    return [places[step] for step in path] if all(step in places for step in path) else []


def chains(found: Found, probabilities: np.ndarray) -> list[list[int]]:
    """The digits (their numbers) that have to be looked at again: wide or low doubtful ones, with close neighbours.

    None on most pages: then no time is lost.
    """
    boxes = np.array([part.box for part in found.digits], float).reshape(-1, 4)
    height = line_heights(found)
    doubtful = (probabilities < SURE) & (boxes[:, 2] - boxes[:, 0] > 0.5 * height)
    doubtful |= (probabilities < SURE) & (boxes[:, 3] - boxes[:, 1] < 0.8 * height)
    near = (found.lines[1:] == found.lines[:-1]) & (boxes[1:, 0] - boxes[:-1, 2] < NEAR * height[1:])
    near &= doubtful[1:] | doubtful[:-1]
    groups = np.split(np.arange(len(boxes)), np.flatnonzero(~near) + 1)
    return [group.tolist() for group in groups if doubtful[group].any()]


def line_heights(found: Found) -> np.ndarray:
    """N: the height in pixels that digits of each digit's line have."""
    heights = np.array([part.height for part in found.digits], float)
    return np.array([np.quantile(heights[found.lines == line], 0.75) for line in found.lines])


def reread(
    found: Found, digits: np.ndarray, probabilities: np.ndarray, judge: Callable
) -> tuple[Found, np.ndarray, np.ndarray]:
    """What was found, with touching digits taken apart and broken ones put together where that reads better.

    digits, probabilities: how each part was read, N. judge: called once, with the candidates' patches (M x 28 x 28
    uint8), returns their likeliest digits and probabilities. The same three things again.
    """
    again = chains(found, probabilities) if len(found.digits) else []
    if not again:
        return found, digits, probabilities
    heights = line_heights(found)
    lattices = [candidates([found.digits[i] for i in chain], heights[chain[0]]) for chain in again]
    parts = [part for groups, _ in lattices for part in groups.values()]
    slopes = [found.slopes[chain[0]] for chain, (groups, _) in zip(again, lattices) for _ in groups]
    their_digits, their_probabilities = judge(patches(found.ink, parts, slopes))
    entries = [
        [(found.digits[i], found.lines[i], found.slopes[i], digits[i], probabilities[i])] for i in range(len(digits))
    ]
    start = 0
    for chain, (groups, count) in zip(again, lattices):
        place = np.arange(start, start + len(groups))
        start += len(groups)
        kept = [place[k] for k in best_grouping(list(groups), their_probabilities[place], count)]
        if kept and their_probabilities[kept].min() >= ACCEPTED:
            line, slope = found.lines[chain[0]], found.slopes[chain[0]]
            new = [(parts[k], line, slope, their_digits[k], their_probabilities[k]) for k in kept]
            for i in chain:
                entries[i] = []
            entries[chain[0]] = new
    new_parts, lines, slopes, digits, probabilities = zip(*(entry for some in entries for entry in some))
    found = replace(found, digits=list(new_parts), lines=np.array(lines), slopes=np.array(slopes))
    return found, np.array(digits), np.array(probabilities)
