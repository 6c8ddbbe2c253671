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
from typing import NamedTuple

import cv2
import numpy as np

from LeNet_5 import NOT_A_DIGIT
from parts import Part
from segmentation import Found, patches, strip

CUTS = 16  # at most, for each square of a component
THROUGH = 0.2, 0.35, 0.5, 0.65, 0.8  # of the height: rows through whose places paths are looked for
LEAST_INK = 0.03  # of a digit's ink: paths that divide it so much alike are one
NEAREST = 0.06  # heights: paths closer than that in such a row are one
PAPER_COST, ASIDE_COST = 0.02, 0.3  # of a step on paper and of one aside; a step through full ink costs 1 more
INK = 60  # of 255: more is ink
WIDEST = 1.6  # heights: no digit is wider
NEAR = 0.15  # heights: ink that came apart is not farther apart
AROUND = 0.35  # heights: how far from a digit's box ink that may belong to it is looked for
SHARED = math.log(0.8)  # score of a piece that two digits share
SURE = 0.6  # probability: what is read with it is not looked at again
ACCEPTED = 0.4  # probability that the digits of a new grouping must have: what the demos ask of a digit
LETTER = 0.85, 1.1  # heights: of touching digits 2 % are narrower than the first, of letters 1 % wider than the second
PARALLEL = 25  # degrees: of MNIST's 1s six in ten pairs lean that much alike, of V, M and ^ no strokes do
LEAST = 1e-3  # probability: one bad piece is enough
MOST = 40.0  # squares of a line's height: so much is looked at again in a picture; a page of print has hundreds
SPELT = 2.0  # nats: how much likelier than what the cuts say a string has to be to stand in its place
Context = Callable[[np.ndarray], np.ndarray]  # which parts may be one thing, N, to N odds of "not a digit"
Judge = Callable[[np.ndarray], np.ndarray]  # patches M x 28 x 28 uint8 to M x 11 probabilities


class Spelling(NamedTuple):
    """What a network reads on a strip whole, and how likely it is: log probabilities."""

    signs: list[int]
    likely: float  # that they stand there,
    as_cut: float  # or what the cuts say,
    no_digit: float  # or whatever has no digit in it


Speller = Callable[[np.ndarray, list[int]], Spelling]  # of a strip (28 x W uint8) and what cuts make of it


def cuts(ink: np.ndarray, height: float) -> np.ndarray:
    """Where touching digits may be taken apart: paths from top to bottom that cross little ink.

    ink: h x w uint8, 0 = paper. height: of a digit in pixels. K x h int: the column that each of the paths takes in
    each row, the leftmost first. The cheapest path through each place of a few rows is found by dynamic programming;
    those are kept that are cheaper than the others that divide the ink alike.
    """
    rows, width = ink.shape
    cost = ink.astype(np.float32) / 255 + PAPER_COST
    above, aside_above = _cheapest(cost)
    below, aside_below = _cheapest(cost[::-1])
    total = above + below[::-1] - cost
    prices, paths = [], []
    near = math.ceil(NEAREST * height) - 1
    for y in {int(at * rows) for at in THROUGH}:
        starts, free = [], np.ones(width, bool)
        for x in np.argsort(total[y], kind="stable").tolist():
            if free[x]:
                starts.append(x)
                free[max(0, x - near) : x + near + 1] = False
        up, down = (_follow(n, np.array(starts)) for n in (aside_above[: y + 1], aside_below[: rows - y]))
        prices.append(total[y, starts])
        paths.append(np.concatenate([up[::-1], down[1:]]).T)
    paths = np.concatenate(paths)[np.concatenate(prices).argsort(kind="stable")]  # the cheapest first
    dark = (ink > INK).cumsum(axis=1)
    left = np.take_along_axis(dark, paths.T, axis=1).T  # K x h: how much of each row's ink each path leaves on its left
    whole = max(1, int(dark[:, -1].sum()))
    share = left.sum(axis=1) / whole
    least = LEAST_INK * min(1.0, height / width)  # of a digit's ink, as a share of all
    kept: list[int] = []
    for k in np.flatnonzero((share > least) & (share < 1 - least)).tolist():
        if len(kept) < CUTS * width / height and (np.abs(left[k] - left[kept]).sum(axis=1) > least * whole).all():
            kept.append(k)
    return paths[sorted(kept, key=share.__getitem__)]


def _cheapest(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least sum of costs on a path from the first row to each place, a column at most aside a row down: h x w.

    And where such a path comes from, h x w int: -1, 0 or 1 columns aside in the row above.
    """
    total = np.pad(cost, ((0, 0), (1, 1)), constant_values=np.inf)
    for before, row in zip(total, total[1:]):
        row[1:-1] += np.minimum(before[1:-1], np.minimum(before[:-2], before[2:]) + ASIDE_COST)
    options = np.stack([total[:-1, 1:-1], total[:-1, :-2] + ASIDE_COST, total[:-1, 2:] + ASIDE_COST])
    aside = np.zeros(cost.shape, int)
    aside[1:] = np.array([0, -1, 1])[options.argmin(axis=0)]
    return total[:, 1:-1], aside


def _follow(aside: np.ndarray, x: np.ndarray) -> np.ndarray:
    """h x K: the columns of the cheapest paths to the columns x of the last row, from that row back to the first."""
    path = [x]
    for row in aside[:0:-1]:
        x = x + row[x]
        path.append(x)
    return np.array(path)


def best_path(scores: dict[tuple[int, int], float], count: int) -> list[tuple[int, int]]:
    """The groups (first, after the last) that cover `count` pieces with the greatest sum of scores (Viterbi).

    A group may begin with the last piece of the one before, for SHARED: touching digits share ink.
    """
    reached = [0.0] + [-math.inf] * count
    steps: list[tuple[int, int] | None] = [None] * (count + 1)  # the group that each place was reached by
    for (first, end), score in sorted(scores.items()):
        for at, total in ((end, reached[first] + score), (end - 1, reached[first] + score + SHARED)):
            if at > first and (at == end or end < count) and total > reached[at]:
                reached[at], steps[at] = total, (first, end)
    path = []
    while count > 0 and steps[count]:
        path.append(steps[count])
        count = steps[count][0]
    return path[::-1]


def candidates(ink: np.ndarray, chain: list[Part], height: float) -> tuple[dict[tuple[int, int], Part], int]:
    """Every group of neighbouring pieces that may be a digit, by its first piece and the one after its last.

    ink: the working picture. chain: its components from left to right; height: of the line's digits in pixels. Also the
    number of pieces.
    """
    whole = reduce(Part.merged, chain)
    left, top = whole.box[:2]
    rest = np.zeros_like(whole.mask)
    pieces = [(len(chain), rest)]  # the component of each, and the chain's ink from there on to the right
    for number, part in reversed(list(enumerate(chain))):
        x0, y0, x1, y1 = part.box
        masks = [part.mask]
        if part.width > 0.5 * height:
            paths = cuts(cv2.bitwise_and(ink[y0:y1, x0:x1], part.mask), height)
            masks += [part.mask * (np.arange(part.width) > path[:, None]) for path in paths]
        rights = [rest.copy() for _ in masks]
        for right_of_it, mask in zip(rights, masks):
            right_of_it[y0 - top : y1 - top, x0 - left : x1 - left] |= mask
        pieces = [(number, right_of_it) for right_of_it in rights] + pieces
        rest = rights[0]
    groups = {}
    for first, (begin, right_of_it) in enumerate(pieces[:-1]):
        for end, (_, beyond) in enumerate(pieces[first + 1 :], first + 1):
            group = whole.only(cv2.subtract(right_of_it, beyond))
            if group.width > WIDEST * height:
                break
            if group.height >= 0.5 * height:
                stroke = max(part.stroke for part in chain[begin : pieces[end - 1][0] + 1])
                groups[first, end] = Part(group.box, group.mask, stroke)
    return groups, len(pieces) - 1


def best_grouping(groups: list[tuple[int, int]], probabilities: np.ndarray, count: int) -> list[int]:
    """Which groups (places in the list) cover all `count` pieces with the highest probability; empty: none do."""
    scores = dict(zip(groups, np.log(np.maximum(probabilities, LEAST)).tolist()))
    path = best_path(scores, count)
    places = {group: place for place, group in enumerate(groups)}
    return [places[step] for step in path]


def spelled_grouping(groups: list[tuple[int, int]], beliefs: np.ndarray, count: int, text: list[int]) -> list[int]:
    """Which groups (places in the list) cover all `count` pieces and are most probably this text; empty: none can be.

    beliefs: M x 11 probabilities of the groups. As `best_path`, but with as many groups as the text has digits.
    """
    scores = np.log(np.maximum(beliefs[:, text], LEAST))
    reached: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # after so many pieces: the best sum, and its groups
    for k in range(len(text)):
        before, reached = reached, {}
        for place, (first, end) in enumerate(groups):
            if first not in before:
                continue
            total, path = before[first]
            for at, price in ((end, 0.0), (end - 1, SHARED)):
                score = total + scores[place, k] + price
                if at > first and (at == end or end < count) and score > reached.get(at, (-math.inf,))[0]:
                    reached[at] = score, [*path, place]
    return reached.get(count, (0.0, []))[1]


def chains(found: Found, probabilities: np.ndarray) -> list[list[int]]:
    """The digits (their numbers) that have to be looked at again: wide or low doubtful ones, with close neighbours.

    None on most pages: then no time is lost.
    """
    boxes = np.array([part.box for part in found.digits], float).reshape(-1, 4)
    height = line_heights(found)
    width, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    may_be_two = among_digits(found, probabilities) | (len(boxes) == 1)
    wide = width > np.where(may_be_two, 0.5, LETTER[0]) * height
    doubtful = (probabilities < SURE) & (wide | (tall < 0.8 * height))
    near = (found.lines[1:] == found.lines[:-1]) & (boxes[1:, 0] - boxes[:-1, 2] < NEAR * height[1:])
    near &= doubtful[1:] | doubtful[:-1]
    groups = np.split(np.arange(len(boxes)), np.flatnonzero(~near) + 1)
    return [group.tolist() for group in groups if doubtful[group].any()]


def among_digits(found: Found, probabilities: np.ndarray) -> np.ndarray:
    """N bool: whether half of what stands in the same line is surely digits.

    There a narrow thing in doubt is two digits; elsewhere it may be a letter: V, n and ^ would fall into 1s.
    """
    return np.bincount(found.lines, probabilities >= SURE)[found.lines] >= 0.5 * np.bincount(found.lines)[found.lines]


def _parallel(strokes: list[Part]) -> bool:
    """Whether strokes from left to right lean alike, as a hand's 1s do and the strokes of V, N and ^ don't."""
    moments = [cv2.moments(stroke.mask, binaryImage=True) for stroke in strokes]
    leans = [math.degrees(math.atan2(2 * m["mu11"], m["mu20"] - m["mu02"])) / 2 for m in moments]
    return all(abs((one - other + 90) % 180 - 90) < PARALLEL for one, other in zip(leans, leans[1:]))


def line_heights(found: Found) -> np.ndarray:
    """N: the height in pixels that digits of each digit's line have: that of the highest but a quarter of them."""
    heights = np.array([part.height for part in found.digits], float)
    order = np.lexsort((heights, found.lines))
    counts = np.bincount(found.lines)
    ends = counts.cumsum()
    return heights[order][np.maximum(ends - 1 - counts // 4, 0)][found.lines]


def completed(found: Found, number: int, height: float, others: list[Part]) -> Part | None:
    """A digit with all the ink around it that none of the `others` owns, for strokes that came apart or were too faint.

    number: of the digit. height: of its line in pixels. None where there is no such ink, or too much of it for a digit.
    """
    part = found.digits[number]
    x0, y0, x1, y1 = part.box
    reach = round(height)
    left, top = max(0, x0 - reach), max(0, y0 - reach)
    near = found.mask[top : y1 + reach, left : x1 + reach].copy()
    for other in others:
        a, b, c, d = other.box
        place = np.s_[max(b, top) - top : max(d - top, 0), max(a, left) - left : max(c - left, 0)]
        there = near[place]
        there[other.mask[max(b, top) - b :, max(a, left) - a :][: there.shape[0], : there.shape[1]] > 0] = 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    x, y, w, h, area = stats.T
    inside = (x > 0) & (y > 0) & (x + w < near.shape[1]) & (y + h < near.shape[0])
    apart = np.maximum.reduce([x0 - left - x - w, x - x1 + left, y0 - top - y - h, y - y1 + top])
    inside &= apart <= AROUND * height
    own = part.mask > 0
    inside[np.unique(labels[y0 - top : y1 - top, x0 - left : x1 - left][own])] = True
    inside[0] = False
    mask = (inside & (area >= part.stroke))[labels].astype(np.uint8) * 255
    mask[y0 - top : y1 - top, x0 - left : x1 - left][own] = 255
    if np.count_nonzero(mask) < 1.05 * np.count_nonzero(own):
        return None
    around = Part((left, top, left + mask.shape[1], top + mask.shape[0]), mask, part.stroke).only(mask)
    return around if around.height <= 1.35 * height and around.width <= WIDEST * height else None


def complete(found: Found, beliefs: np.ndarray, judge: Judge) -> tuple[Found, np.ndarray]:
    """What was found, with doubtful digits completed where they read better so. Arguments and result as of `reread`."""
    probabilities = likeliest(beliefs)[1]
    doubtful = np.flatnonzero(probabilities < ACCEPTED).tolist()
    if not doubtful:
        return found, beliefs
    sure = [part for part, probability in zip(found.digits, probabilities) if probability >= ACCEPTED]
    heights = line_heights(found)
    tried = [(i, part) for i in doubtful if (part := completed(found, i, heights[i], sure)) is not None]
    if not tried:
        return found, beliefs
    theirs = judge(patches(found.ink, [part for _, part in tried], found.slopes[[i for i, _ in tried]]))
    their_probabilities = likeliest(theirs)[1]
    parts, beliefs, gone = [*found.digits], beliefs.copy(), set()
    for k in np.argsort(-their_probabilities):
        i, part = tried[k]
        if i in gone or their_probabilities[k] < ACCEPTED:
            continue
        parts[i], beliefs[i] = part, theirs[k]
        gone |= {j for j in doubtful if j != i and _within(found.digits[j].box, part.box)}
    kept = np.array([i for i in range(len(parts)) if i not in gone])
    return replace(found, digits=parts).take(kept), beliefs[kept]


def _within(inner: tuple[int, int, int, int], outer: tuple[int, int, int, int]) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@dataclass(frozen=True, eq=False)
class Lattice:
    """All ways to group the pieces of one chain."""

    chain: list[int]  # the digits (their numbers) that it is made of
    whole: Part  # all of them
    groups: list[tuple[int, int]]  # M: the first piece of each and the one after its last
    parts: list[Part]  # M: each group's ink
    count: int  # of pieces


def lattice_of(found: Found, chain: list[int], height: float) -> Lattice:
    """All ways to group the pieces of some digits (their numbers) of a line whose digits are `height` pixels high."""
    pieces = [found.digits[i] for i in chain]
    groups, count = candidates(found.ink, pieces, height)
    return Lattice(chain, reduce(Part.merged, pieces), list(groups), list(groups.values()), count)


def grouped(
    found: Found, lattice: Lattice, beliefs: np.ndarray, odds: float, spell: Speller | None
) -> tuple[list[int], np.ndarray]:
    """The likeliest groups (places among the lattice's M) that cover all its pieces, and what to believe of each.

    beliefs: of all groups, M x 11 probabilities. odds: how many times likelier "not a digit" is. No groups: none do.
    """
    digits, probabilities = likeliest(reweighted(beliefs, odds))
    kept = best_grouping(lattice.groups, probabilities, lattice.count)
    uncut = [lattice.parts[k].box for k in kept] == [found.digits[i].box for i in lattice.chain]
    if spell is None or not kept or uncut:  # what nobody had to cut the other network knows better
        return kept, beliefs[kept]
    text = digits[kept].tolist()
    signs, likely, as_cut, no_digit = spell(strip(found.ink, lattice.whole, found.slopes[lattice.chain[0]]), text)
    if likely > as_cut + SPELT and likely > math.log(0.5):
        spelt = spelled_grouping(lattice.groups, beliefs, lattice.count, signs)
        if spelt:
            kept, text, as_cut = spelt, signs, likely
    if len(text) == 1:  # a sign alone is the other network's
        return kept, beliefs[kept]
    if no_digit + math.log(odds) > as_cut:  # a word whose letters are joined: cut anywhere, it holds some digits
        return [], beliefs[:0]
    share = math.exp(as_cut)  # either the string is right, or each piece is what it looks like
    mixed = beliefs[kept] * (1 - share)
    mixed[np.arange(len(kept)), text] += share
    return kept, mixed


def regroup(
    found: Found, beliefs: np.ndarray, judge: Judge, context: Context, spell: Speller | None
) -> tuple[Found, np.ndarray]:
    """What was found, with neighbouring pieces grouped anew where they read better so. In and out as `reread`."""
    probabilities = likeliest(beliefs)[1]
    again = chains(found, probabilities) if (probabilities < SURE).any() else []
    if not again:
        return found, beliefs
    units = np.arange(len(beliefs))
    for chain in again:
        units[chain] = chain[0]
    # The pieces of a digit say nothing about what stands around it. Among letters a cut has to be surer; among digits
    # it must still prove itself.
    odds = np.maximum(1.0, context(units))
    heights, digits_around = line_heights(found), among_digits(found, probabilities)
    again.sort(key=lambda chain: odds[chain[0]])  # among digits first
    squares = np.cumsum([sum(found.digits[i].width for i in chain) / heights[chain[0]] for chain in again])
    again = again[: max(1, squares.searchsorted(MOST))]
    lattices = [lattice_of(found, chain, heights[chain[0]]) for chain in again]
    drawn = [
        patches(found.ink, one.parts, np.full(len(one.parts), found.slopes[one.chain[0]]), one.whole)
        for one in lattices
    ]
    theirs = np.split(judge(np.concatenate(drawn)), np.cumsum([len(one) for one in drawn[:-1]]))
    entries = [[entry] for entry in zip(found.digits, found.lines, found.slopes, beliefs)]
    for lattice, of_groups in zip(lattices, theirs):
        chain, first = lattice.chain, lattice.chain[0]
        kept, mixed = grouped(found, lattice, of_groups, odds[first], spell)
        parts = [lattice.parts[k] for k in kept]
        digits, probabilities = likeliest(reweighted(mixed, odds[first]))
        width = sum(found.digits[i].width for i in chain)
        maybe_letter = not digits_around[first] and width < LETTER[1] * heights[first]
        strokes = maybe_letter and (digits == 1).all() and not _parallel(parts)
        accepted = probabilities >= ACCEPTED  # among digits most are enough: the others stay unread
        if kept and not strokes and (accepted.all() or (digits_around[first] and accepted.mean() > 0.5)):
            for i in chain:
                entries[i] = []
            line, slope = found.lines[first], found.slopes[first]
            entries[first] = [(part, line, slope, its) for part, its in zip(parts, mixed)]
    new_parts, lines, slopes, beliefs = zip(*(entry for some in entries for entry in some))
    return replace(found, digits=list(new_parts), lines=np.array(lines), slopes=np.array(slopes)), np.array(beliefs)


def reread(
    found: Found, beliefs: np.ndarray, judge: Judge, context: Context, spell: Speller | None = None
) -> tuple[Found, np.ndarray]:
    """What was found, with touching digits taken apart and broken ones put together where that reads better.

    beliefs: what the network makes of each part, N x 11 probabilities, the last of "not a digit". judge: gives the same
    of candidates' patches (M x 28 x 28 uint8). context: recognition.odds_in_context, of its `units`. spell: reads
    touching digits whole; None: only cuts take them apart. The first two again, as they are now.
    """
    return complete(*regroup(found, beliefs, judge, context, spell), judge)


def likeliest(beliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest digits (N int) of N x 11 probabilities, and their probabilities (N floats, 0..1)."""
    digits = beliefs[:, :NOT_A_DIGIT].argmax(axis=1)
    return digits, beliefs[np.arange(len(beliefs)), digits]


def reweighted(beliefs: np.ndarray, odds: np.ndarray | float) -> np.ndarray:
    """N x 11 probabilities where "not a digit" is so many times (N, or one for all) likelier than before."""
    none = beliefs[:, NOT_A_DIGIT:] * np.reshape(odds, (-1, 1))
    beliefs = np.concatenate([beliefs[:, :NOT_A_DIGIT], none], axis=1)
    return beliefs / beliefs.sum(axis=1, keepdims=True)
