"""How long one frame takes: segmentation alone, and everything from pixels to digits.

    python benchmarks/frame.py                  a 640x480 frame with 18 digits, larger ones, one of a sheet held up

Pages are composed by paper.py from the samples' digits. Medians of many runs; the ratio to a per-pixel Python scan, as
the article's segmentation does it, is taken in the same run.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import cv2
import numpy as np
import torch
from test_scenes import laid, room
from threadpoolctl import threadpool_limits

import mnist
import options
import paper
from recognition import Recognizer
from segmentation import segment
from utils import run_script

SIZES = ((640, 480), (1280, 720), (1920, 1080), (2560, 1920), (4000, 3000))


def page(size: tuple[int, int], held_up: bool = False) -> np.ndarray:
    """A page of 18 digits in three lines, BGR uint8, with a lamp's gradient and the sensor's noise.

    held_up: as a sheet before a room.
    """
    rng = np.random.default_rng(18)
    images, labels = mnist.load_subset()
    rows = mnist.sample_indices()
    lines = [paper.pick(rng, images[rows], labels[rows], text) for text in ("157922", "019486", "413300")]
    written = paper.write_lines(rng, lines, paper.light(paper.sheet(rng, size)), height=size[1] / 8)
    if held_up:
        written = laid(rng, written, size, room(rng, size))
    return paper.camera(rng, written.picture, blur=0.6, noise=2)


def milliseconds(call: Callable[[np.ndarray], object], frame: np.ndarray, seconds: float = 3.0) -> list[float]:
    """Times of repeated calls with the frame, for about that long, after three that don't count."""
    for _ in range(3):
        call(frame)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call(frame)
        times.append(1000 * (time.perf_counter() - start))
    return times


def per_pixel_scan(frame: np.ndarray) -> tuple[list[int], list[int]]:
    """Row and column sums pixel by pixel in Python, the first step of the article's segmentation."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    binary = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1]
    height, width = binary.shape
    rows, columns = [0] * height, [0] * width
    for y in range(height):
        for x in range(width):
            if binary[y, x]:
                rows[y] += 1
                columns[x] += 1
    return rows, columns


def main(argv: list[str] | None = None) -> int:
    """Time and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=options.DEFAULT_WEIGHTS, metavar="FILE_OR_RUN")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)")
    opt = parser.parse_args(argv)

    def body() -> None:
        cv2.setNumThreads(opt.threads)
        torch.set_num_threads(opt.threads)
        threadpool_limits(1, "blas")  # as in the demos
        recognizer = Recognizer(opt.weights, "cpu")
        versions = f"opencv {cv2.__version__}, torch {torch.__version__}, numpy {np.__version__}"
        print(f"{versions}, {platform.machine()}, {opt.threads} threads\n")
        print("size        megapixels  digits   segmentation: median  10 %  90 %     everything: median")
        for size, held_up in (*((size, False) for size in SIZES), (SIZES[0], True)):
            frame = page(size, held_up)
            alone = milliseconds(segment, frame)
            everything = milliseconds(recognizer.read, frame)
            tenths = statistics.quantiles(alone, n=10)
            print(
                f"{size[0]:4d}x{size[1]:<4d}   {size[0] * size[1] / 1e6:10.1f}  {len(segment(frame).boxes):6d}   "
                f"{statistics.median(alone):18.2f} ms {tenths[0]:5.2f} {tenths[-1]:5.2f} "
                f"{statistics.median(everything):18.2f} ms{'  held up before a room' * held_up}"
            )
            if size == SIZES[0] and not held_up:
                scan = statistics.median(milliseconds(per_pixel_scan, frame, 1.0))
                ratio = scan / statistics.median(alone)
        print(f"\na per-pixel Python scan of the 640x480 frame: {scan:.0f} ms, {ratio:.0f} times segmentation's")

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
