"""How steady and how fast live reading is, on a page of 18 digits that a hand holds before a camera.

    python benchmarks/live.py                   400 frames at 640x480: lines right; frames a second, and of a still page
    python benchmarks/live.py --size 1920x1080 --seeds 3
    python benchmarks/live.py --room                the page held up before a cluttered room
    python benchmarks/live.py --write clip.avi      only write the clip, for demo_realtime.py --source clip.avi

The page shakes, slides, turns and tilts, the light changes, a shadow passes, quick moves blur, the sensor is noisy. Its
digits are the 200 that no training sees.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import cv2
import numpy as np
import torch
from test_scenes import room

import mnist
import options
import paper
from recognition import Recognizer
from tracking import Tracker
from utils import run_script

FPS = 30
TABLE = 62, 70, 74  # what is around the page: BGR
SETTLED = 10  # frames that a reader may take before it is judged


def wander(rng: np.random.Generator, frames: int, period: float) -> np.ndarray:
    """A smooth random walk of so many frames between about -1 and 1 that turns every `period` seconds."""
    knots = rng.uniform(-1, 1, int(frames / FPS / period) + 4)
    at = np.arange(frames) / FPS / period + 1
    first = at.astype(int)
    t = (1 - np.cos(np.pi * (at - first))) / 2
    return knots[first] * (1 - t) + knots[first + 1] * t


def clip(
    frames: int, size: tuple[int, int] = (640, 480), seed: int = 0, moved: float = 1.0, in_room: bool = False
) -> Iterator[paper.Page]:
    """Frames (their `picture`, and what is written: `lines`) of a page moved by hand; moved: 0 where it lies still.

    in_room: before a cluttered room instead of a plain table.
    """
    rng = np.random.default_rng(seed)
    images, labels = mnist.load_subset()
    rows = mnist.sample_indices()
    text = "".join(rng.permutation(list("0123456789" * 2))[:18])
    lines = [paper.pick(rng, images[rows], labels[rows], text[k : k + 6]) for k in (0, 6, 12)]
    at = round(0.2 * size[0]), round(0.2 * size[1])
    page = paper.write_lines(rng, lines, paper.sheet(rng, size), height=size[1] / 8, pen=paper.PENS["marker"], at=at)
    slide, shake, turn, tilt, lean, zoom, lamp = (
        moved * wander(rng, frames, period) for period in (0.8, 0.1, 1.2, 1.5, 1.5, 2.0, 0.7)
    )
    slide_y, shake_y = moved * wander(rng, frames, 0.8), moved * wander(rng, frames, 0.1)
    passing = (np.arange(frames) / FPS % 5) / 2.5 - 0.5  # a shadow every five seconds, for two and a half
    around = room(np.random.default_rng(100 + seed), size) if in_room else TABLE
    last = None
    for k in range(frames):
        shift = 0.05 * slide[k] + 0.01 * shake[k], 0.05 * slide_y[k] + 0.01 * shake_y[k]
        matrix = paper.turned(size, 8 * turn[k], (0.1 * tilt[k], 0.1 * lean[k]), 0.78 + 0.05 * zoom[k], shift)
        seen = paper.view(page, matrix, size, around)
        picture = paper.light(seen.picture, low=0.55 + 0.25 * lamp[k], degrees=60 * float(slide[k]))
        if moved and -0.3 < passing[k] < 1.3:
            x = float(passing[k])
            picture = paper.shadow(
                picture, [(x - 0.2, -0.1), (x + 0.1, -0.1), (x + 0.2, 1.1), (x - 0.1, 1.1)], 0.4, 0.02
            )
        speed = 0.0 if last is None else float(np.hypot(*(np.subtract(shift, last) * size)))
        last = shift
        picture = paper.camera(rng, picture, blur=0.7 + 0.3 * speed, noise=7, jpeg=75)
        yield paper.Page(picture, seen.labels, seen.line, seen.hulls)


def judge(recognizer: Recognizer, pages: Iterator[paper.Page], tracker: Tracker | None) -> tuple[float, float, int]:
    """Of the frames after the first ten: the part whose lines are exactly right, false digits a frame; their number."""
    right = false = judged = 0
    for k, page in enumerate(pages):
        reading = recognizer.read(page.picture)
        if tracker:
            reading = tracker.update(reading, k / FPS)
        if k < SETTLED:
            continue
        judged += 1
        right += reading.lines == page.lines
        false += max(0, len(reading.digits) - len(page.labels))
    return right / judged, false / judged, judged


def write(path: Path, pictures: Iterable[np.ndarray]) -> None:
    """The pictures, all of one size, as a video."""
    writer = None
    for picture in pictures:
        if writer is None:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, picture.shape[1::-1])
        writer.write(picture)
    writer.release()


def frames_a_second(video: Path, *arguments: str) -> tuple[float, float]:
    """What demo_realtime.py says that it reaches on a video without a window: over all, and by its median frame."""
    script = Path(__file__).parent.parent / "demo_realtime.py"
    command = [
        sys.executable,
        script,
        "--headless",
        "--source",
        video,
        "--json",
        video.with_suffix(".jsonl"),
        *arguments,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    overall, median = re.search(r"\((\d+) a second, median (\d+)\)", output).groups()
    return float(overall), float(median)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=options.DEFAULT_WEIGHTS, metavar="FILE_OR_RUN")
    parser.add_argument("--frames", type=int, default=400, metavar="N", help="of each clip (default: %(default)s)")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="clips (default: %(default)s)")
    parser.add_argument("--room", action="store_true", help="before a cluttered room instead of a plain table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the first clip as a video, measure nothing")
    opt = parser.parse_args(argv)
    size = tuple(int(n) for n in opt.size.split("x"))
    made = partial(clip, opt.frames, size, in_room=opt.room)

    def body() -> None:
        if opt.write:
            write(opt.write, (page.picture for page in made()))
            return
        torch.set_num_threads(1)
        print("seed   frames   lines right: steady   frame by frame   false digits a frame: steady   frame by frame")
        for seed in range(opt.seeds):
            pages = list(made(seed=seed))
            live = Recognizer(opt.weights, "cpu", min_confidence=0.0, remember=True)
            steady, false, judged = judge(live, iter(pages), Tracker(0.5))
            single = Recognizer(opt.weights, "cpu", min_confidence=0.5)
            alone, flashes, _ = judge(single, iter(pages), None)
            print(
                f"{seed:4d} {judged:8d} {100 * steady:20.1f} % {100 * alone:14.1f} % {false:30.4f} {flashes:16.4f}",
                flush=True,
            )
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "clip.avi"
            for name, moved in (("moved by hand", 1.0), ("lying still", 0.0)):
                write(video, (page.picture for page in made(moved=moved)))
                for also, more in (("", ()), (" --record", ("--record", str(Path(folder) / "out.avi")))):
                    rates = [frames_a_second(video, "--weights", str(opt.weights), *more) for _ in range(3)]
                    overall, median = np.median(rates, axis=0)
                    print(
                        f"demo_realtime.py --headless --json{also}, the page {name}: {median:.0f} frames a second by "
                        f"the median frame, {overall:.0f} with the start and all; medians of three",
                        flush=True,
                    )

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
