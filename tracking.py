"""Steady readings of a moving picture: boxes followed from frame to frame, labels voted on, short drop-outs bridged.

A file of its own because it needs neither camera nor network: readings go in, a steadier reading comes out. A box that
flashes up is no digit yet; a digit that is missed for a moment still is one; a label is what most frames said, each
counted by its confidence; and which digit follows which in a line is voted on in the same way.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

import cv2
import numpy as np

from recognition import Digit, Reading, centres

SIGHTINGS, AGE = 3, 0.25  # sightings and seconds until a box is taken for a digit: glints and half digits come and go
HYSTERESIS = 1.2  # times the votes of a label that another one needs to take its place
STAY = 0.7  # of the least confidence: a digit shown is rejected below that only, or doubtful ones would flicker
MEMORY = 1.0  # seconds in which sightings fade to 1/e: a shadow's edge needs half a second to pass a digit
LABEL_MEMORY = 1.5  # and votes on what a digit is: of a doubt that tilts with the page most of a second may be wrong
BRIDGE = 1.0  # seconds for which a digit that isn't found is kept, while most others of the page are
BRIDGE_ALL = 0.3  # seconds for which it is kept when they are not: a blurred moment, or the page has gone
PRESENT = 0.5  # of the frames of late, at least, a digit is found in: a sheet's edge is one now and then
REACH = 0.6  # of a digit's height: how far from its expected place it is still the same (neighbours are 0.8 apart)
INSIDE = 0.5  # of a box, at least, lies in that of the same digit whose strokes came apart, or are whole again
FARTHEST = 30  # grid cells of 0.3 digit heights: a hand moves a page no farther from one frame to the next
FORGOTTEN = 0.05  # a count of followers that no longer counts


@dataclass(eq=False)
class Track:
    """One digit through time."""

    box: np.ndarray = field(default_factory=lambda: np.zeros(4))  # x, y, w, h
    born: float = 0.0  # seconds: when it was first found
    seen: float = 0.0  # and last
    line: float = 0.0  # the line's number when it was last found
    digit: int = -1  # the label that has the votes
    accepted: bool = False  # whether it is shown as a digit, not rejected
    sightings: int = 0
    weight: float = 0.0  # fading number of sightings
    voted: float = 0.0  # the same, fading as votes do
    watched: float = 0.0  # and of the frames since it was first found
    votes: list[float] = field(default_factory=lambda: [0.0] * 10)  # fading sum of confidences (ten: faster than numpy)
    followers: dict[Track, float] = field(default_factory=dict)  # fading number of times each stood next in the line

    def vote(self, reading: Digit) -> None:
        """Count a sighting."""
        self.sightings += 1
        self.weight += 1
        self.voted += 1
        self.votes[reading.digit] += reading.confidence
        most = max(self.votes)
        if self.digit < 0 or most > HYSTERESIS * self.votes[self.digit]:
            self.digit = self.votes.index(most)

    @property
    def confirmed(self) -> bool:
        """Whether it has been found often enough to be a digit."""
        return self.sightings >= SIGHTINGS and self.seen - self.born >= AGE

    @property
    def presence(self) -> float:
        """0..1: of the frames of late, the share in which it was found."""
        return self.weight / max(self.watched, 1e-9)

    @property
    def certainty(self) -> float:
        """0..1: the mean confidence of all readings, whatever they said: low for what is no digit."""
        return sum(self.votes) / max(self.voted, 1e-9)

    @property
    def confidence(self) -> float:
        """0..1: the label's mean confidence, frames that read another digit counting as 0."""
        return self.votes[self.digit] / max(self.voted, 1e-9)


class Tracker:
    """Follows the digits of a stream of readings. Give it all boxes: it rejects by the confidence over many frames."""

    def __init__(self, min_confidence: float = 0.0) -> None:
        self.min_confidence = min_confidence
        self.tracks: list[Track] = []
        self.time = 0.0
        self.strange = 0  # frames in a row in which most digits are others than they were
        self.started = False  # whether any frame has been read

    def clear(self) -> None:
        """Forget everything: another picture follows."""
        self.__init__(self.min_confidence)

    def update(self, reading: Reading, time: float) -> Reading:
        """The steady reading after one more frame's reading, taken at `time` seconds."""
        boxes = np.array([digit.box for digit in reading.digits], float).reshape(-1, 4)
        labels = np.array([digit.digit for digit in reading.digits], int)
        old = list(self.tracks)
        keep, keep_votes = (math.exp(-max(0.0, time - self.time) / memory) for memory in (MEMORY, LABEL_MEMORY))
        for track in self.tracks:
            track.votes, track.voted = [keep_votes * n for n in track.votes], keep_votes * track.voted
            track.weight, track.watched = keep * track.weight, keep * track.watched
            track.followers = {t: keep * n for t, n in track.followers.items() if n > FORGOTTEN}
        found = self._match(boxes, labels)
        known = sum(track.sightings > 0 and track.digit == label for track, label in zip(found, labels))
        self.strange = self.strange + 1 if 2 * known < min(len(boxes), len(old)) else 0
        if self.strange >= SIGHTINGS:  # another page in the same place
            self.clear()
            return self.update(reading, time)
        for digit, box, track in zip(reading.digits, boxes, found):
            if not track.sightings:  # at the very first frame nothing is steadier yet: believe it
                track.born = time if self.started else -math.inf
                track.sightings = 0 if self.started else SIGHTINGS
            track.box, track.seen, track.line = box, time, digit.line
            track.vote(digit)
        for left, right, track, follower in zip(reading.digits, reading.digits[1:], found, found[1:]):
            usual = max(track.followers, key=track.followers.get, default=follower)
            missed = usual.seen < time and usual in self.tracks  # the next one stands in for it, and is no follower
            if left.line == right.line and not missed:
                track.followers[follower] = track.followers.get(follower, 0.0) + 1
        for track in self.tracks:
            track.watched += 1
        self.time, self.started = time, True
        self._drop(reading.width, reading.height)
        return self._steady(reading)

    def _match(self, boxes: np.ndarray, labels: np.ndarray) -> list[Track]:
        """The track of each box, a new one where there is none; tracks without a box move along with the others."""
        found: list[Track | None] = [None] * len(boxes)
        if len(boxes) and self.tracks:
            old = np.array([track.box for track in self.tracks])
            read = np.array([track.digit for track in self.tracks])
            height = (old[:, None, 3] + boxes[None, :, 3]) / 2
            moved = centres(boxes)[None] - centres(old)[:, None]  # tracks x boxes x 2
            shift = _common_shift(moved, np.median(height), read[:, None] == labels[None])
            distance = np.linalg.norm(moved - shift, axis=2) / height
            distance += 1.5 * np.abs(np.log(old[:, None, 3] / boxes[None, :, 3]))  # 1.5 times as high is another thing
            first = old[:, None, :2] + shift
            last = np.minimum(first + old[:, None, 2:], boxes[:, :2] + boxes[:, 2:])
            shared = (last - np.maximum(first, boxes[:, :2])).clip(0).prod(axis=2)
            inside = shared > INSIDE * np.minimum(old[:, 2:].prod(axis=1)[:, None], boxes[:, 2:].prod(axis=1))
            inside &= read[:, None] == labels
            distance[inside] = np.minimum(distance[inside], REACH)
            taken = set()
            for flat in np.argsort(distance, axis=None):
                i, j = divmod(int(flat), len(boxes))
                if distance[i, j] > REACH:
                    break
                if i not in taken and found[j] is None:
                    taken.add(i)
                    found[j] = self.tracks[i]
            for i, track in enumerate(self.tracks):
                if i not in taken:
                    track.box[:2] += shift
        new = {j: Track() for j, track in enumerate(found) if track is None}
        self.tracks += new.values()
        return [new.get(j) or track for j, track in enumerate(found)]

    def _drop(self, width: int, height: int) -> None:
        """Forget tracks that haven't been found for too long, or have left the picture."""
        confirmed = [track for track in self.tracks if track.confirmed]
        there = sum(track.seen == self.time for track in confirmed) >= 0.5 * len(confirmed)
        kept = []
        for track in self.tracks:
            patience = (BRIDGE if there else BRIDGE_ALL) if track.confirmed else BRIDGE_ALL / 3
            patience = min(patience, max(BRIDGE_ALL / 3, track.seen - track.born))  # a passing shadow's edge
            x, y = track.box[:2] + track.box[2:] / 2
            flashes = track.confirmed and track.presence < PRESENT
            if self.time - track.seen <= patience and not flashes and 0 <= x < width and 0 <= y < height:
                kept.append(track)
        self.tracks = kept

    def _steady(self, reading: Reading) -> Reading:
        digits: list[Digit] = []
        rejected = []
        for chain in self._chains():
            line = digits[-1].line + 1 if digits else 0
            for track in chain:
                if not track.confirmed:
                    continue
                box = tuple(map(round, track.box.tolist()))
                track.accepted = track.certainty >= self.min_confidence * (STAY if track.accepted else 1)
                if not track.accepted:
                    rejected.append((box, track.certainty))
                    continue
                place = digits[-1].position + 1 if digits and digits[-1].line == line else 0
                digits.append(Digit(track.digit, track.confidence, box, line, place))
        return Reading(reading.width, reading.height, tuple(digits), tuple(rejected))

    def _chains(self) -> list[list[Track]]:
        """The tracks as text lines, top to bottom: each track's follower is the one that it had in most frames."""
        alive = set(self.tracks)
        pairs = [(n, a, b) for a in self.tracks for b, n in a.followers.items() if b in alive]
        after: dict[Track, Track] = {}
        before: dict[Track, Track] = {}
        for _, a, b in sorted(pairs, key=lambda pair: -pair[0]):
            if a not in after and b not in before:
                after[a], before[b] = b, a
        chains = []
        for track in self.tracks:
            if track in before:
                continue
            chain = [track]
            while chain[-1] in after:
                chain.append(after[chain[-1]])
            chains.append(chain)
        return sorted(chains, key=lambda chain: statistics.median(t.line for t in chain) + 1e-6 * chain[0].box[1])


def _common_shift(moved: np.ndarray, height: float, same: np.ndarray) -> np.ndarray:
    """How the page moved, x and y: the displacement that most pairs of an old and a new box share.

    moved: tracks x boxes x 2, displacements. same: tracks x boxes, whether both were read as the same digit.
    A hand's jerk of more than half a digit would otherwise give every digit its neighbour's history.
    """
    cell, side = REACH / 2 * height, 2 * FARTHEST + 1
    flat = moved.reshape(-1, 2) / cell
    near = np.abs(flat).max(1) <= FARTHEST
    if not near.any():
        return np.zeros(2)
    flat = flat[near]
    weight = np.where(same.ravel()[near], 1.0, 0.2) / (1 + 0.02 * np.abs(flat).max(1))  # of equals, the nearer
    cells = np.rint(flat).astype(int) + FARTHEST
    votes = np.bincount(cells @ (side, 1), weight, side * side).reshape(side, side)
    votes = cv2.boxFilter(votes, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    best = np.array(divmod(int(votes.argmax()), side)) - FARTHEST
    close = np.abs(flat - best).max(1) <= 1.5
    return np.median(flat[close], axis=0) * cell
