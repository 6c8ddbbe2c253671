"""What each stage of the segmentation brings: all is read again with one stage switched off at a time.

    PHOTOS_DIR=photos python benchmarks/ablation.py
    PHOTOS_DIR=photos python benchmarks/ablation.py --altered     nothing switched off; every picture seen otherwise

PHOTOS_DIR is a folder with images/ and labels.json (a list of {"file", "kind", "lines"}). A row a stage: the photos'
digit error rate (edit distance over digits written) by kind, false digits a picture where there are none, and how many
of 80 pages composed as in tests/test_segmentation.py have the right number of boxes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import cv2
import numpy as np
from test_demo import errors_between
from test_segmentation import composed
from tqdm import tqdm

import ink
import options
import paper
import parts
import recognition
import segmentation
import touching
from recognition import Recognizer
from utils import UserError, read_image, run_script

PAGES = 80


def evenly_lit(picture: np.ndarray, _: int) -> np.ndarray:
    """A background that is the same everywhere: the paper's level in most of the picture."""
    return np.full_like(picture, np.quantile(picture, 0.75))


def colourless(page: np.ndarray, bright_strokes: bool) -> np.ndarray:
    """The page in grey, or its negative."""
    grey = cv2.cvtColor(page, cv2.COLOR_BGR2GRAY)
    return cv2.bitwise_not(grey) if bright_strokes else grey


def no_noise(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A floor that knows of the least contrast only."""
    level = np.full((2, 2), np.median(picture), np.uint8)
    return level, level + int(ink.CONTRAST * (255 - ink.PAPER))


STAGES = {  # what is switched off: where, which name, what stands in for it
    "nothing": (),
    "sheets before something else": (segmentation, "find_sheets", lambda page, known=None: []),
    "what is seen beside a sheet": (segmentation, "_on_paper", lambda found: np.ones(len(found.digits), bool)),
    "polarity by votes (mean grey instead)": (ink, "_bright_on_dark", lambda grey: grey.mean() < 128),
    "colour (grey instead of the darkest channel)": (ink, "_dark", colourless),
    "background divided out": (parts, "fill_dark", evenly_lit),
    "shadows' corners": (parts, "with_corners", lambda *_: None),
    "noise floor": (ink, "_floor", no_noise),
    "noisy pictures smoothed": (ink, "NOISY", 256),
    "rulings": (parts, "_rulings", lambda mask, *_: (mask, 0)),
    "writing fainter than its frame": (parts, "_large", lambda found: []),
    "writing weaker than other writing": (parts, "_by_weaker_pen", lambda *_: None),
    "frames": (parts, "_frames", lambda *_, **__: []),
    "is it writing at all": (parts, "WRITING", 0.0),
    "pieces at the edge": (parts, "_cut_off", lambda found: np.zeros_like(found.at_edge)),
    "joining broken strokes": (segmentation, "_join", lambda layout, slope: layout),
    "punctuation": (segmentation, "_digits_only", lambda row, *_: row),
    "slope": (segmentation, "_slope", lambda *_: segmentation.LEVEL),
    "pen brought near MNIST's": (segmentation, "PEN", (0.0, 99.0)),
    "touching digits taken apart": (touching, "regroup", lambda found, beliefs, *_: (found, beliefs)),
    "strings read whole": (Recognizer, "spell", lambda *_: touching.Spelling([], -math.inf, -math.inf, -math.inf)),
    "doubtful digits completed": (touching, "complete", lambda found, beliefs, *_: (found, beliefs)),
    "both of these": (recognition, "reread", lambda found, beliefs, *_: (found, beliefs)),
    "what stands around": (recognition, "odds_in_context", lambda beliefs, *_: np.ones(len(beliefs))),
}


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """So many times as wide and high."""
    return lambda p: cv2.resize(p, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def turned(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    """Turned about the middle, all of it; what was beyond the edge is like the edge."""

    def turn(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(abs(degrees)))
        frame = int(width * c + height * s), int(height * c + width * s)
        matrix = paper.turned((width, height), degrees, frame=frame)
        return cv2.warpPerspective(picture, matrix, frame, borderMode=cv2.BORDER_REPLICATE)

    return turn


ALTERED = {
    "as they are": lambda p: p,
    "0.35 times the size": scaled(0.35),
    "0.5 times": scaled(0.5),
    "0.7 times": scaled(0.7),
    "turned by -7 degrees": turned(-7),
    "-3": turned(-3),
    "3": turned(3),
    "7": turned(7),
    "brighter (gamma 0.6)": lambda p: np.uint8(255 * (p / 255) ** 0.6),
    "darker (gamma 1.6)": lambda p: np.uint8(255 * (p / 255) ** 1.6),
    "blurred (deviation a thousandth of the longer side)": lambda p: cv2.GaussianBlur(p, (0, 0), max(p.shape) / 1000),
    "blurred twice as much": lambda p: cv2.GaussianBlur(p, (0, 0), max(p.shape) / 500),
    "noise (deviation 12)": lambda p: paper.camera(np.random.default_rng(0), p, noise=12),
    "the negative": cv2.bitwise_not,
}


def measure(
    recognizer: Recognizer, photos: Path, labels: list[dict], alter: Callable[[np.ndarray], np.ndarray]
) -> list[float]:
    """The row's figures: error rates in per cent of plain and hard pages and single digits, false digits, pages."""
    errors, written, negatives = {}, {}, 0
    for row in labels:
        read = "".join(recognizer.read(alter(read_image(photos / "images" / row["file"]))).lines)
        kind, truth = row["kind"], "".join(row["lines"])
        errors[kind] = errors.get(kind, 0) + errors_between(truth, read)
        written[kind] = written.get(kind, 0) + len(truth)
        negatives += not truth
    rates = [100 * errors[kind] / written[kind] for kind in ("page_plain", "page_hard", "single")]
    right = 0
    for seed in range(PAGES):
        made, _ = composed(seed)
        right += len(segmentation.segment(alter(made.picture)).boxes) == len(made.labels)
    return [*rates, errors["negative"] / negatives, 100 * right / PAGES]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=options.DEFAULT_WEIGHTS, metavar="FILE_OR_RUN")
    parser.add_argument("--altered", action="store_true", help="alter the pictures instead of the segmentation")
    opt = parser.parse_args(argv)

    def body() -> None:
        if not os.environ.get("PHOTOS_DIR"):
            raise UserError("set PHOTOS_DIR to a folder with images/ and labels.json")
        photos = Path(os.environ["PHOTOS_DIR"])
        labels = json.loads((photos / "labels.json").read_text(encoding="utf-8"))
        recognizer = Recognizer(opt.weights, "cpu", options.demo_parser().get_default("min_confidence"))
        what = "seen" if opt.altered else "switched off"
        print(f"| {what} | plain % | hard % | single % | false digits | composed pages right % |")
        print("| --- | --- | --- | --- | --- | --- |")
        rows = []
        for name, change in tqdm((ALTERED if opt.altered else STAGES).items(), unit="row", leave=False):
            switched, alter = ((), change) if opt.altered else (change, lambda picture: picture)
            with patch.object(*switched) if switched else nullcontext():
                rows.append(measure(recognizer, photos, labels, alter))
            print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in rows[-1]) + " |", flush=True)
        if opt.altered:
            print("| mean | " + " | ".join(f"{value:.1f}" for value in np.mean(rows, axis=0)) + " |")

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
