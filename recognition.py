"""From a picture to what is written on it: segmentation finds the digits, the network reads them all in one batch.

`Recognizer` is the one thing that both demos call:

    reading = Recognizer("weights/article.pt").read(image)
    print(reading.lines)          # ['157922019', '48641330']
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from LeNet_5 import DIGITS
from segmentation import PATCH, Found, find, patches
from touching import SURE, reread
from utils import find_checkpoint, load_model, multiplies_bf16, pick_device, predict, sha256


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


ALIKE = 12.0  # of 255: two patches that differ less than that (root of the mean square) are the same to the eye


def _flat(patches: np.ndarray) -> np.ndarray:
    """Patches N x 28 x 28 as N x 784 float32."""
    return patches.reshape(len(patches), PATCH * PATCH).astype(np.float32)


def _nearest(pixels: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of N flat patches the most similar of M seen ones: its number, and whether it is the same to the eye."""
    if not len(seen):
        return np.zeros(len(pixels), int), np.zeros(len(pixels), bool)
    apart = (pixels**2).sum(1)[:, None] - 2 * pixels @ seen.T + (seen**2).sum(1)  # |a - b|^2 of all pairs at once
    nearest = apart.argmin(axis=1)
    return nearest, apart[np.arange(len(nearest)), nearest] <= ALIKE**2 * pixels.shape[1]


class Recognizer:
    """A trained network that reads pictures."""

    def __init__(
        self, weights: str | Path, device: str = "auto", min_confidence: float = 0.0, remember: bool = False
    ) -> None:
        """weights: checkpoint file or run folder. min_confidence: 0..1, below it a box is not read. remember: for live
        pictures, what looks as in the picture before is not read again.

        UserError for a checkpoint or device that can't be used.
        """
        self.file = find_checkpoint(Path(weights))
        self.device = pick_device(device)
        self.model, self.checkpoint = load_model(self.file, self.device)
        if self.device.type == "cpu" and multiplies_bf16(self.device):
            self.model.to(torch.bfloat16)  # half the time, and 44 instead of 42 of MNIST's 10,000 test digits misread
        self.min_confidence, self.remember = min_confidence, remember
        # The last picture's patches, flat, and what they were read as; one that no patch is like to begin with.
        self.memory = np.full((1, PATCH * PATCH), 1e6, np.float32), np.zeros(1, int), np.zeros(1, np.float32)
        self.now: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # and this one's
        self.in_vain = self.memory[0]  # patches in doubt that looking again has left as they were
        self.knows_others = self.model.outputs > DIGITS

    @property
    def card(self) -> dict:
        """Which network reads, as results.json has it."""
        return {"weights": str(self.file), "arch": self.checkpoint["arch"], "sha256": sha256(self.file)}

    def classify(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest digits (N int) and their probabilities (N floats, 0..1) of uint8 patches N x 28 x 28.

        With a network that knows what is no digit, the ten probabilities of a patch needn't add up to 1.
        """
        if len(patches) == 0:
            return np.zeros(0, int), np.zeros(0)
        if not self.remember:
            return self._classify(patches)
        # What was read stays in memory as it was read: nothing can creep away from it.
        seen, digit, confidence = self.memory
        pixels = _flat(patches)
        known, alike = _nearest(pixels, seen)
        new = ~alike
        digit, confidence, seen = digit[known], confidence[known], seen[known]
        if new.any():
            digit[new], confidence[new] = self._classify(patches[new])
            seen[new] = pixels[new]
        self.now.append((seen, digit, confidence))
        return digit, confidence

    def _classify(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = predict(self.model, torch.from_numpy(patches).to(self.device))
        confidence, digit = torch.softmax(logits, 1)[:, :DIGITS].cpu().max(1)
        return digit.numpy(), confidence.numpy()

    def _look_again(
        self, found: Found, drawn: np.ndarray, digits: np.ndarray, probabilities: np.ndarray
    ) -> tuple[Found, np.ndarray, np.ndarray]:
        """`reread`, but not of what it left as it was in the picture before. drawn: the digits' patches."""
        doubtful = _flat(drawn[probabilities < SURE])
        if self.remember and _nearest(doubtful, self.in_vain)[1].all():
            return found, digits, probabilities
        again = reread(found, digits, probabilities, self.classify)
        self.in_vain = doubtful if again[0].digits == found.digits else self.in_vain[:0]
        return again

    @torch.inference_mode()
    def activations(self, patch: np.ndarray) -> dict[str, np.ndarray]:
        """What each layer makes of one patch (28 x 28 uint8): its name to maps C x H x W, or C values, float32."""
        layers: dict[str, np.ndarray] = {}
        hooks = [
            module.register_forward_hook(
                lambda _, __, output, name=name: layers.update({name: output[0].float().cpu().numpy()})
            )
            for name, module in self.model.named_modules()
            if not list(module.children())
        ]
        try:
            predict(self.model, torch.from_numpy(patch)[None].to(self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return layers

    def read(self, image: np.ndarray, single: bool = False, stages: dict | None = None) -> Reading:
        """Read an upright picture: H x W x 3 BGR or H x W grey, uint8.

        single: the whole picture is one digit. stages: filled with what every stage made, for --debug.
        """
        if self.now:
            self.memory, self.now = tuple(map(np.concatenate, zip(*self.now))), []
        found = find(image, single, stages)
        drawn = patches(found.ink, found.digits, found.slopes)
        answers = self.classify(drawn)
        if self.knows_others and not single:  # else nothing could tell a wrong cut
            found, *answers = self._look_again(found, drawn, *answers)
        if stages is not None:
            stages |= {"digits": found.digits, "segments": found.segments()}
        digits: list[Digit] = []
        rejected = []
        lines: dict[int, int] = {}  # a segmented line's number to its number among the lines with digits
        places: dict[int, int] = {}
        for box, line, digit, confidence in zip(found.boxes(found.digits), found.lines, *answers):
            box = tuple(int(v) for v in box)
            if confidence < self.min_confidence:
                rejected.append((box, float(confidence)))
                continue
            number = lines.setdefault(int(line), len(lines))
            places[number] = places.get(number, -1) + 1
            digits.append(Digit(int(digit), float(confidence), box, number, places[number]))
        height, width = image.shape[:2]
        return Reading(width, height, tuple(digits), tuple(rejected))
