"""From a picture to what is written on it: segmentation finds the digits, the network reads them all in one batch.

`Recognizer` is the one thing that both demos call:

    reading = Recognizer("weights/article.pt").read(image)
    print(reading.lines)          # ['157922019', '48641330']
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from finder import AFRESH, SELDOM, Finder
from LeNet_5 import DIGITS, NOT_A_DIGIT, NOTHING, LeNet_5_Strings, spelled, string_losses
from options import DEFAULT_STRINGS
from segmentation import PATCH, Found, find, patches
from touching import SURE, Spelling, likeliest, reread, reweighted
from utils import UserError, faster_in_bf16, find_checkpoint, load_model, pick_device, predict, sha256


@dataclass(frozen=True)
class Digit:
    """One digit that was read: `box` is x, y, width, height in pixels, `position` the place in its line."""

    digit: int
    confidence: float  # 0..1, the network's probability that it is this digit
    box: tuple[int, int, int, int]
    line: int
    position: int


@dataclass(frozen=True)
class Reading:
    """What a picture says. `rejected` are boxes that were too uncertain to be read, with the confidence they had."""

    width: int
    height: int
    digits: tuple[Digit, ...]
    rejected: tuple[tuple[tuple[int, int, int, int], float], ...] = ()

    @property
    def lines(self) -> list[str]:
        """The digits as text, a string a written line, top to bottom."""
        texts = [""] * (1 + max((digit.line for digit in self.digits), default=-1))
        for digit in self.digits:
            texts[digit.line] += str(digit.digit)
        return texts

    def as_dict(self) -> dict:
        """The reading as results.json has it (docs/ARCHITECTURE.md), without the file's name."""
        return {
            "width": self.width,
            "height": self.height,
            "error": None,
            "lines": self.lines,
            "digits": [
                {
                    "digit": digit.digit,
                    "confidence": round(digit.confidence, 4),
                    "box": list(digit.box),
                    "line": digit.line,
                    "position": digit.position,
                }
                for digit in self.digits
            ],
        }


USUAL = 0.23  # of what segmentation finds on a page is no digit (train.py's RARER: 0.3 to 1)
CAUTION = 2.3  # times that "not a digit" counts for likelier than it is: a false digit is worse than one not read
# Of 255, root of the mean square: patches that differ less are the same but for the sensor's noise. Were it more, a
# digit misread on a page that moves slowly would stay misread.
ALIKE = 3.0
PAIRS = 1 << 24  # pairs of patches: comparing more takes longer than reading them, and hundreds of megabytes
NONE = 0.97  # probability: what is no digit with it is no doubt
# Of what is much weaker than other ink, at least, is surely digits, without 1s: of what shines through the paper, or is
# left of boxes, less is.
WRITTEN = 0.5
ALIKE_BOX = 0.2  # of its height: a digit's sides stay within that where looking again only reads it otherwise
REACH = 0.5  # of a digit's height: how far it may have moved since


def centres(boxes: np.ndarray) -> np.ndarray:
    """The middles (x, y) of N x 4 boxes."""
    return boxes[:, :2] + boxes[:, 2:] / 2


def _flat(patches: np.ndarray) -> np.ndarray:
    """Patches N x 28 x 28 as N x 784 float32."""
    return patches.reshape(len(patches), PATCH * PATCH).astype(np.float32)


def _nearest(pixels: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of N flat patches the most similar of M seen ones: its number, and whether only noise differs."""
    if not len(seen):
        return np.zeros(len(pixels), int), np.zeros(len(pixels), bool)
    apart = (pixels**2).sum(1)[:, None] - 2 * pixels @ seen.T + (seen**2).sum(1)  # |a - b|^2 of all pairs at once
    nearest = apart.argmin(axis=1)
    return nearest, apart[np.arange(len(nearest)), nearest] <= ALIKE**2 * pixels.shape[1]


def odds_in_context(beliefs: np.ndarray, lines: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
    """How many times likelier than on average "not a digit" is at each place of a page: N factors.

    An S among letters is no 5, and a 5 like an S among digits is one: what the others of the page, and above all of
    the line, were read as changes the odds. beliefs: N x 11 probabilities. lines: N, the number of each one's. As in:
    M. Saerens, P. Latinne, C. Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities: a
    simple procedure", Neural Computation 14(1), 2002; nothing counts for itself, or one doubt would confirm itself.
    """
    odds = np.ones(len(beliefs))
    if len(beliefs) < 2:
        return odds
    units = np.arange(len(beliefs)) if units is None else units
    size = np.bincount(units)[units]
    page, line = len(beliefs) + 1 - size, np.bincount(lines)[lines] + 1 - size  # that count, and one more
    for _ in range(5):  # it settles sooner
        rejected = reweighted(beliefs, odds)[:, NOT_A_DIGIT]
        own = np.bincount(units, rejected)[units]
        share = (USUAL + rejected.sum() - own) / page  # of the page, as if one more were as usual
        share = (share + np.bincount(lines, rejected)[lines] - own) / line  # and of the line, one as the page is
        odds = share / (1 - share) / (USUAL / (1 - USUAL))
    return odds


class Recognizer:
    """A trained network that reads pictures."""

    def __init__(
        self,
        weights: str | Path,
        device: str = "auto",
        min_confidence: float = 0.0,
        remember: bool = False,
        strings: str | Path | None = DEFAULT_STRINGS,
    ) -> None:
        """weights: checkpoint file or run folder. min_confidence: 0..1, below it a box is not read. remember: for live
        pictures, what looks as in the picture before is not read again. strings: of the network that reads touching
        digits whole; None: only cuts take them apart.

        UserError for a checkpoint or device that can't be used.
        """
        self.file = find_checkpoint(Path(weights))
        self.device = pick_device(device)
        self.model, self.checkpoint = load_model(self.file, self.device)
        if isinstance(self.model, LeNet_5_Strings):
            raise UserError(f"{self.file} reads strings, not single digits; give it as --strings")
        self.strings = None
        if strings is not None:
            self.strings, _ = load_model(find_checkpoint(Path(strings)), self.device)
            if not isinstance(self.strings, LeNet_5_Strings):
                raise UserError(f"{strings} reads single digits, not strings; give it as --weights")
        if self.device.type == "cpu" and faster_in_bf16(self.device):
            self.model.to(torch.bfloat16)  # about as many of MNIST's test digits are misread
        else:
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear):  # by columns: half of the time for a page's patches
                    layer.weight.data = layer.weight.data.t().contiguous().t()
        self.min_confidence, self.remember = min_confidence, remember
        # The last picture's patches, flat, and what they were read as; one that no patch is like to begin with.
        self.memory = np.full((1, PATCH * PATCH), 1e6, np.float32), np.zeros((1, DIGITS + 1), np.float32)
        self.now: list[tuple[np.ndarray, np.ndarray]] = []  # and this one's
        self.pictures = 0  # that were read
        # Centres of digits in doubt that were looked at again, and what was made of them.
        self.looked_at = np.zeros((0, 2)), np.zeros((0, DIGITS + 1), np.float32)
        self.finder = Finder()  # of live pictures' digits
        self.knows_others = self.model.outputs > DIGITS

    @property
    def card(self) -> dict:
        """Which network reads, as results.json has it."""
        return {"weights": str(self.file), "arch": self.checkpoint["arch"], "sha256": sha256(self.file)}

    def classify(self, patches: np.ndarray) -> np.ndarray:
        """What is to be believed of uint8 patches N x 28 x 28: N x 11 probabilities, the last of "not a digit".

        The network's own, but for CAUTION.
        """
        if len(patches) == 0:
            return np.zeros((0, DIGITS + 1), np.float32)
        if not self.remember or len(patches) * len(self.memory[0]) > PAIRS:
            return self._classify(patches)
        # What was read stays in memory as it was read: nothing can creep away from it.
        seen, beliefs = self.memory
        pixels = _flat(patches)
        known, alike = _nearest(pixels, seen)
        new = ~alike
        beliefs, seen = beliefs[known], seen[known]
        if new.any():
            beliefs[new], seen[new] = self._classify(patches[new]), pixels[new]
        self.now.append((seen, beliefs))
        return beliefs

    def _classify(self, patches: np.ndarray) -> np.ndarray:
        beliefs = torch.softmax(predict(self.model, torch.from_numpy(patches).to(self.device)), 1)
        beliefs = functional.pad(beliefs, (0, DIGITS + 1 - beliefs.shape[1])).cpu().numpy()
        return reweighted(beliefs, np.float32(CAUTION))

    def _read(self, found: Found) -> tuple[Found, np.ndarray]:
        """What was found, without ghosts, and what the network makes of its digits' patches."""
        beliefs = self.classify(patches(found.ink, found.digits, found.slopes))
        weak = np.array([part.weak for part in found.digits], bool)
        if weak.any():
            digits, probabilities = likeliest(beliefs[weak])
            if ((probabilities >= SURE) & (digits != 1)).mean() < WRITTEN:
                kept = np.flatnonzero(~weak)
                return found.take(kept), beliefs[kept]
        return found, beliefs

    def _look_again(
        self, image: np.ndarray, found: Found, beliefs: np.ndarray, stages: dict | None
    ) -> tuple[Found, np.ndarray]:
        """`reread`, and where doubt remains the same of what is found closer up. But not of what was looked at in one
        of the last pictures and is still there.
        """
        boxes = found.boxes(found.digits)
        beliefs, doubtful = self._recall(boxes, beliefs)
        if not doubtful.any():
            return found, beliefs
        again, theirs = self._reread(found, beliefs)
        if found.coarse and (likeliest(theirs)[1] < SURE).any():
            its_stages: dict = {}
            closer = find(image, stages=its_stages, coarse=found)
            closer, its_beliefs = self._reread(*self._read(closer))
            if len(closer.digits) > len(again.digits) / 2:  # else rulings came apart there, and took digits with them
                again, theirs = closer, its_beliefs
                if stages is not None:
                    stages.clear()
                    stages.update(its_stages)
        if self.remember and len(theirs) == len(beliefs):
            # What is cut or joined otherwise has to be each time.
            doubtful &= np.abs(again.boxes(again.digits) - boxes).max(axis=1) < ALIKE_BOX * boxes[:, 3]
            new = centres(boxes[doubtful]), theirs[doubtful]
            self.looked_at = tuple(map(np.concatenate, zip(self.looked_at, new)))
        return again, theirs

    def _recall(self, boxes: np.ndarray, beliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The beliefs, with what looking again has made of digits in doubt in one of the last pictures; and which of N
        digits in these boxes have to be looked at now: N bool.
        """
        doubtful = likeliest(beliefs)[1] < SURE
        known, theirs = self.looked_at
        if len(boxes) and len(known):
            places = centres(boxes)
            apart = np.linalg.norm(places[None] - known[:, None], axis=2)
            nearest = apart.argmin(axis=1)
            near = apart.min(axis=1) < REACH * boxes[nearest, 3]
            nearest, theirs = nearest[near], theirs[near]
            known[near] = places[nearest]  # they move with the page
            still = doubtful[nearest]
            beliefs = beliefs.copy()  # self.now has them
            beliefs[nearest[still]] = theirs[still]
            doubtful[nearest] = False
        return beliefs, doubtful

    def _reread(self, found: Found, beliefs: np.ndarray) -> tuple[Found, np.ndarray]:
        spell = None if self.strings is None else self.spell
        return reread(found, beliefs, self.classify, partial(odds_in_context, beliefs, found.lines), spell)

    @torch.inference_mode()
    def spell(self, strip: np.ndarray, text: list[int]) -> Spelling:
        """What is read on a strip (28 x W uint8) whole, and how likely it and `text` are."""
        logits = predict(self.strings, torch.from_numpy(strip)[None].to(self.device)).cpu()
        signs = [sign for sign in spelled(logits)[0].tolist() if sign != NOTHING]
        labels = torch.full((2, max(1, len(signs), len(text))), NOTHING)
        for row, string in zip(labels, (signs, text)):
            row[: len(string)] = torch.tensor(string)
        # However many signs: at no place a digit.
        no_digit = torch.logsumexp(functional.log_softmax(logits[0], 1)[:, NOT_A_DIGIT:], 1).sum()
        return Spelling(signs, *(-string_losses(logits.expand(2, -1, -1), labels)).tolist(), float(no_digit))

    @torch.inference_mode()
    def activations(self, patch: np.ndarray) -> dict[str, np.ndarray]:
        """What each layer makes of one patch (28 x 28 uint8): its name to maps C x H x W, or C values, float32."""
        layers: dict[str, np.ndarray] = {}
        thread = threading.get_ident()  # another one may be reading with the same network

        def keep(name: str, output: torch.Tensor) -> None:
            if threading.get_ident() == thread:
                layers[name] = output[0].float().cpu().numpy()

        hooks = [
            module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            for name, module in self.model.named_modules()
            if not list(module.children())
        ]
        try:
            predict(self.model, torch.from_numpy(patch)[None].to(self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return layers

    def _forget(self) -> None:
        """A new picture begins: keep of the last ones what still counts."""
        if self.now:
            self.memory, self.now = tuple(map(np.concatenate, zip(*self.now))), []
        if self.pictures % AFRESH == 0:
            self.looked_at = tuple(n[:0] for n in self.looked_at)
        elif self.pictures % SELDOM == 0:
            beliefs = self.looked_at[1]  # a doubt that remains may be resolved otherwise
            settled = (likeliest(beliefs)[1] >= SURE) | (beliefs[:, NOT_A_DIGIT] >= NONE)
            self.looked_at = tuple(n[settled] for n in self.looked_at)
        self.pictures += 1

    def read(
        self, image: np.ndarray, single: bool = False, stages: dict | None = None, found: Found | None = None
    ) -> Reading:
        """Read an upright picture: H x W x 3 BGR or H x W grey, uint8.

        single: the whole picture is one digit. stages: filled with what every stage made, for --debug. found: what a
        `Finder` has found in it.
        """
        height, width = image.shape[:2]
        if found is None:
            live = self.remember and not single
            found = self.finder.find(image, stages) if live else find(image, single, stages)
        if found is None:
            return Reading(width, height, ())
        self._forget()
        found, beliefs = self._read(found)
        if self.knows_others and not single:  # else nothing could tell a wrong cut
            found, beliefs = self._look_again(image, found, beliefs, stages)
            beliefs = reweighted(beliefs, odds_in_context(beliefs, found.lines))
        if stages is not None:
            stages |= {"digits": found.digits, "segments": found.segments()}
        digits: list[Digit] = []
        rejected = []
        lines: dict[int, int] = {}  # a segmented line's number to its number among the lines with digits
        places: dict[int, int] = {}
        for box, line, digit, confidence in zip(found.boxes(found.digits), found.lines, *likeliest(beliefs)):
            box = tuple(int(v) for v in box)
            if confidence < self.min_confidence:
                rejected.append((box, float(confidence)))
                continue
            number = lines.setdefault(int(line), len(lines))
            places[number] = places.get(number, -1) + 1
            digits.append(Digit(int(digit), float(confidence), box, number, places[number]))
        return Reading(width, height, tuple(digits), tuple(rejected))
