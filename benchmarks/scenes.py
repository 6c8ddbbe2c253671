"""What is read of pictures as people take them: a sheet on a desk, a table, squared paper, ...

    python benchmarks/scenes.py                                    a row a scene: digit error rate, exact pictures
    python benchmarks/scenes.py --only "held before a room"        some scenes
    python benchmarks/scenes.py --without rulings                  with a stage of the segmentation switched off
    python benchmarks/scenes.py --figure docs/scenes.jpg           the first picture of each as it is read

They are composed by tests/test_scenes.py with MNIST's validation digits, which no training sees.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import cv2
import numpy as np
from ablation import STAGES
from reading import side_by_side
from test_demo import errors_between
from test_scenes import SCENES, compose
from tqdm import tqdm

import mnist
import options
from recognition import Recognizer
from utils import draw_reading, put_text, run_script, write_image

TILE, COLUMNS = (320, 240), 4  # pixels of a picture in the figure; how many stand side by side


def tile(picture: np.ndarray, name: str) -> np.ndarray:
    """A picture on white with its name below."""
    height, width = picture.shape[:2]
    scale = min(TILE[0] / width, TILE[1] / height)
    small = cv2.resize(
        picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    made = np.full((TILE[1] + 26, TILE[0] + 8, 3), 255, np.uint8)
    y, x = ((np.array((TILE[1], TILE[0])) - small.shape[:2]) // 2).tolist()
    made[y : y + small.shape[0], x : x + small.shape[1]] = small
    put_text(made, name, 4, len(made) - 8, 14, (60, 60, 60))
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=options.DEFAULT_WEIGHTS, metavar="FILE_OR_RUN")
    parser.add_argument("--data", metavar="DIR", help="MNIST, as for train.py")
    parser.add_argument(
        "--number", type=int, default=100, metavar="N", help="of pictures a scene (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=list(SCENES), choices=list(SCENES), metavar="SCENE")
    parser.add_argument("--without", default="nothing", choices=list(STAGES), metavar="STAGE", help="as in ablation.py")
    parser.add_argument("--figure", metavar="FILE", help="only draw the first picture of each scene as it is read")
    opt = parser.parse_args(argv)

    def body() -> None:
        _, validation = mnist.split_validation(mnist.load(opt.data, train=True), 5000)
        digits = validation.images.numpy(), validation.labels.numpy()
        recognizer = Recognizer(opt.weights, "cpu", options.demo_parser().get_default("min_confidence"))
        if opt.figure:
            pictures = [compose(name, 0, digits).picture for name in opt.only]
            tiles = [tile(draw_reading(p, recognizer.read(p)), name) for p, name in zip(pictures, opt.only)]
            write_image(Path(opt.figure), side_by_side(tiles, COLUMNS))
            return
        print(f"{validation.source}, validation\n\n| scene | digits | digit error rate % | pictures exact % |")
        print("| --- | --- | --- | --- |")
        for name in opt.only:
            errors = written = exact = 0
            for number in tqdm(range(opt.number), name, leave=False):
                page = compose(name, number, digits)
                with patch.object(*STAGES[opt.without]) if STAGES[opt.without] else nullcontext():
                    lines = recognizer.read(page.picture).lines
                errors += errors_between("".join(page.lines), "".join(lines))
                written += len(page.labels)
                exact += lines == page.lines
            print(f"| {name} | {written} | {100 * errors / written:.1f} | {100 * exact / opt.number:.0f} |", flush=True)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
