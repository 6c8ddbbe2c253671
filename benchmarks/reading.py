"""What a network makes of things that MNIST's test set does not ask: touching digits, letters, its own confidence.

    python benchmarks/reading.py --data data/mnist                         the demos' reader
    python benchmarks/reading.py --data data/mnist --weights runs/x a.pt   others, one after the other
    python benchmarks/reading.py --misread misread.png                     the touching digits that are misread
    python benchmarks/reading.py --figure docs/training.png                what the reader is trained on, as a picture

Pages are composed by pages.py from MNIST's test digits and read as demo.py reads them. Letters and operators are in
Pillow's own font, which training has not seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
import torch
from tqdm import tqdm

import mnist
import options
import pages
import paper
import recognition
from recognition import Recognizer
from utils import predict, put_text, run_script, write_image

TILE, COLUMNS = (150, 90), 10  # pixels of a misread string's picture; how many stand side by side


def touching(
    recognizer: Recognizer, images: np.ndarray, labels: np.ndarray, count: int, number: int
) -> list[np.ndarray]:
    """Of so many strings of `count` touching digits those that are misread, each a tile with both readings below."""
    tiles = []
    for k in tqdm(range(number), f"{count} touching digits", leave=False):
        page, text = pages.string_page(np.random.default_rng([k, count]), images, labels, count)
        lines = recognizer.read(page.picture).lines
        if lines != [text]:
            height, width = page.picture.shape[:2]
            scale = min(TILE[0] / width, TILE[1] / height)
            tile = np.full((TILE[1] + 18, TILE[0], 3), 255, np.uint8)
            picture = cv2.resize(page.picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            tile[: picture.shape[0], : picture.shape[1]] = picture
            put_text(tile, f"{text}: {' '.join(lines) or 'none'}", 2, len(tile) - 5, 10, (0, 0, 255))
            tiles.append(tile)
    return tiles


def rejected(recognizer: Recognizer, texts: dict[str, list[str]], number: int) -> float:
    """The share of symbols, written five to a line in Pillow's font, that are not read as digits."""
    rng = np.random.default_rng(11)
    found = refused = 0
    for _ in tqdm(range(number), "letters and operators", leave=False):
        line = [pages.fit(pages.symbol(str(rng.choice(list(texts))), None)) for _ in range(5)]
        page = paper.write_lines(rng, [(line, [pages.NOT_A_DIGIT] * 5)], paper.sheet(rng, (500, 160)), height=50)
        reading = recognizer.read(paper.camera(rng, page.picture, 0.6, 2))
        found += len(reading.digits) + len(reading.rejected)
        refused += len(reading.rejected)
    return refused / max(1, found)


def side_by_side(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size as one, so many in a row."""
    tiles = [*tiles, *[np.full_like(tiles[0], 255)] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)])


def draw_training(columns: int = 30, rows: int = 6) -> np.ndarray:
    """What segmentation cuts out of the first pages: digits above, below them what is not a digit; ink dark."""
    patches, labels = pages.cut_pages(range(16), *mnist.load_subset(), seed=0)
    order = np.random.default_rng(0).permutation(len(labels))
    halves = []
    for of_half in (labels[order] < pages.NOT_A_DIGIT, labels[order] == pages.NOT_A_DIGIT):
        tiles = patches[order][of_half][: columns * rows].reshape(rows, columns, 28, 28)
        halves.append(255 - tiles.transpose(0, 2, 1, 3).reshape(rows * 28, columns * 28))
    return np.vstack([halves[0], np.full((6, columns * 28), 128, np.uint8), halves[1]])


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=[options.DEFAULT_WEIGHTS], metavar="FILE_OR_RUN")
    parser.add_argument("--strings", default=options.DEFAULT_STRINGS, metavar="FILE_OR_RUN", help="as of demo.py")
    parser.add_argument("--data", metavar="DIR", help="MNIST, as for test.py")
    as_demo = options.demo_parser().get_default("min_confidence")
    parser.add_argument("--min_confidence", type=float, default=as_demo, metavar="X", help="default: %(default)s")
    parser.add_argument("--number", type=int, default=500, metavar="N", help="of pages each (default: %(default)s)")
    parser.add_argument("--misread", metavar="FILE", help="draw the touching digits that are misread")
    parser.add_argument("--figure", metavar="FILE", help="only draw what the reader is trained on")
    opt = parser.parse_args(argv)

    def body() -> None:
        if opt.figure:
            write_image(Path(opt.figure), draw_training())
            return
        digits = mnist.load(opt.data, train=False)
        images, labels = digits.images.numpy(), digits.labels.numpy()
        misread: list[np.ndarray] = []
        for weights in opt.weights:
            recognizer = Recognizer(weights, "cpu", opt.min_confidence, strings=opt.strings)
            probability = torch.softmax(predict(recognizer.model, digits.images), 1)
            misses = int((probability.argmax(1) != digits.labels).sum())
            unread = (recognizer.classify(images)[:, :10].max(axis=1) < opt.min_confidence).mean()
            print(f"{weights} ({recognizer.checkpoint['arch']}), {digits.source}")
            print(f"  {misses} misses of {len(digits)} over all outputs; {100 * unread:.2f} % rejected")
            for count in (2, 3):
                wrong = touching(recognizer, images, labels, count, opt.number)
                share = 1 - len(wrong) / opt.number
                print(f"  {count} touching digits exactly right: {100 * share:.1f} % of {opt.number}")
                misread += wrong
            both = pages.LETTERS | pages.OPERATORS
            for name, signs in (("letters", pages.LETTERS), ("operators", pages.OPERATORS), ("both", both)):
                share = rejected(recognizer, signs, opt.number // 5)
                with patch.object(recognition, "odds_in_context", lambda beliefs, *_: np.ones(len(beliefs))):
                    alone = rejected(recognizer, signs, opt.number // 5)
                print(f"  {name} rejected: {100 * share:.1f} % (each judged alone: {100 * alone:.1f} %)")
        if opt.misread and misread:
            write_image(Path(opt.misread), side_by_side(misread, COLUMNS))

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
