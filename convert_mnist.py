"""MNIST's IDX files as PNG pictures in class folders, to look at them (and for ImageFolder, as the article does).

Writes <output>/mnist_train/<digit>/<index>.png and <output>/mnist_test/<digit>/<index>.png, where index is the image's
place in the IDX file, with 5 figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import options
from mnist import DOWNLOADED, download, find, load_idx
from utils import UserError, run_script, write_atomically


def convert(images: np.ndarray, labels: np.ndarray, folder: Path, resume: bool = False) -> int:
    """Write images (N x 28 x 28 uint8) to folder/<label>/<index>.png; the number written.

    A folder that has pictures already is refused, unless `resume`: then those that are there are kept.
    """
    targets = [folder / str(label) / f"{index:05d}.png" for index, label in enumerate(labels)]
    there = set(folder.glob("*/[!.]*.png"))  # hidden ones were being written when something was killed
    if there >= set(targets):
        print(f"{folder} is complete already ({len(targets)} pictures)")
        return 0
    if there and not resume:
        raise UserError(f"{folder} has {len(there)} of {len(targets)} pictures: fill it up with --resume, or delete it")
    for label in np.unique(labels):
        try:
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make {folder / str(label)} ({error.strerror}); choose another --output") from error
    todo = [index for index, target in enumerate(targets) if target not in there]

    def write(index: int) -> None:
        write_atomically(targets[index], Image.fromarray(images[index]).save)

    with ThreadPoolExecutor() as pool:
        try:
            for _ in tqdm(pool.map(write, todo), desc=folder.name, total=len(todo), unit="png"):
                pass
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print(f"\nstopped; fill {folder.parent} up with the same command and --resume", file=sys.stderr)
            raise
    return len(todo)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert both parts; the exit status."""
    opt = options.parse(options.convert_parser(), argv)

    def body() -> None:
        if opt.download:
            download(Path(opt.source) if opt.source else DOWNLOADED)
        folder = find(opt.source or (DOWNLOADED if opt.download else None))
        if folder is None:
            raise UserError("there is no MNIST to convert: name its folder with --source")
        parts = {name: load_idx(folder, train) for name, train in (("mnist_train", True), ("mnist_test", False))}
        written = sum(convert(*part, opt.output / name, opt.resume) for name, part in parts.items())
        print(f"{written} pictures written to {opt.output}; train on them with: python train.py --data {opt.output}")

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
