"""Test checkpoints on MNIST's test set: accuracy, misses, confusion matrix, and a picture of every misread digit.

Given several checkpoints, or a run folder, it prints the article's table (epoch, accuracy) with the misses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import mnist
import options
from LeNet_5 import DIGITS, LeNet_5_Strings, string_losses
from utils import UserError, load_model, pick_device, predict, prepare_folder, run_script, write_image, write_text

FONT = cv2.FONT_HERSHEY_SIMPLEX
PAPER = 18  # pixels on either side of a digit, where it stands alone on a strip
NAMES = (*"0123456789", "none")  # of the classes; the last: not a digit


def checkpoint_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves; of a run folder every .pt file in it, by name. UserError where there is none."""
    files = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.glob("*.pt") if not file.name.startswith("."))
            if not found:
                raise UserError(f"{path} has no checkpoint (*.pt); train one with: python train.py")
            files += found
        else:
            files.append(path)
    return files


def probabilities(model: nn.Module, images: torch.Tensor, size: int) -> torch.Tensor:
    """How likely each class is for uint8 images N x 28 x 28, `size` at once: N x 10, or 11 with "not a digit"; CPU.

    Of a network that reads strings: how likely a strip with this one digit is read as that digit and nothing else.
    """
    if not isinstance(model, LeNet_5_Strings):
        return torch.softmax(predict(model, images, size), 1).cpu()
    logits = predict(model, functional.pad(images, (PAPER, PAPER)), size).cpu()
    signs = [torch.full((len(logits), 1), digit) for digit in range(DIGITS)]
    digits = torch.stack([(-string_losses(logits, sign)).exp() for sign in signs], 1)
    return torch.cat([digits, (1 - digits.sum(1, keepdim=True)).clamp(min=0)], 1)


def confusion_matrix(truth: np.ndarray, reading: np.ndarray, classes: int = 10) -> np.ndarray:
    """How often each digit (row) was read as each class (column): 10 x classes counts."""
    return np.bincount(truth * classes + reading, minlength=10 * classes).reshape(10, classes)


def per_class(matrix: np.ndarray) -> list[dict]:
    """Each digit's count, misses, recall (of its images, the share read right), precision (of its readings, ditto)."""
    rows = []
    for digit in range(10):
        hits, images, readings = int(matrix[digit, digit]), int(matrix[digit].sum()), int(matrix[:, digit].sum())
        rows.append(
            {
                "digit": digit,
                "images": images,
                "misses": images - hits,
                "recall": hits / max(images, 1),
                "precision": hits / max(readings, 1),
            }
        )
    return rows


def draw_confusion(matrix: np.ndarray, cell: int = 56) -> np.ndarray:
    """The confusion matrix as a picture: hits green, misses red, darker for more."""
    rows, columns = matrix.shape
    picture = np.full(((rows + 1) * cell + 24, (columns + 1) * cell, 3), 255, np.uint8)
    most = max(1, int((matrix * (1 - np.eye(rows, columns, dtype=int))).max()))
    for row in range(rows):
        for column in range(columns):
            x, y, n = (column + 1) * cell, (row + 1) * cell, int(matrix[row, column])
            strength = n / max(1, int(matrix[row].sum())) if row == column else (n / most) ** 0.5
            faded = int(255 - 150 * strength)
            color = (faded, 235, faded) if row == column else (faded, faded, 255)
            cv2.rectangle(picture, (x, y), (x + cell - 2, y + cell - 2), color if n else (245, 245, 245), cv2.FILLED)
            if n:
                _centred(picture, str(n), x + cell // 2, y + cell // 2, 0.5)
    for k in range(columns):
        _centred(picture, NAMES[k], (k + 1) * cell + cell // 2, cell // 2, 0.8 if k < 10 else 0.6)
    for k in range(rows):
        _centred(picture, str(k), cell // 2, (k + 1) * cell + cell // 2, 0.8)
    _centred(picture, "row: truth, column: reading", picture.shape[1] // 2, picture.shape[0] - 12, 0.5)
    return picture


def draw_misread(images: np.ndarray, truth: np.ndarray, reading: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Every misread digit, 3 times enlarged, with "truth > reading" and the confidence below it, the surest first."""
    wrong = np.flatnonzero(truth != reading)
    wrong = wrong[np.argsort(-confidence[wrong])]
    columns, width, height = 12, 96, 124
    picture = np.full((max(1, -(-len(wrong) // columns)) * height, columns * width, 3), 255, np.uint8)
    for place, index in enumerate(wrong):
        x, y = place % columns * width, place // columns * height
        enlarged = cv2.resize(images[index], (84, 84), interpolation=cv2.INTER_NEAREST)
        picture[y + 6 : y + 90, x + 6 : x + 90] = 255 - enlarged[..., None]
        text = f"{truth[index]} > {NAMES[reading[index]]}  {100 * confidence[index]:.0f}%"
        _centred(picture, text, x + width // 2, y + 106, 0.42)
    return picture


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> tuple[np.ndarray, float]:
    """How often the readings of each confidence are right, and how far that is from what they say.

    confidence: N floats in 0..1; right: N bools. Returns bins x 3 (mean confidence, share right, number; a bin without
    readings is 0, 0, 0) and the expected calibration error, the mean distance over all readings (0..1). C. Guo et al.,
    "On calibration of modern neural networks", ICML 2017, section 2.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (confidence, right.astype(float))]
    table = np.stack([total / np.maximum(count, 1) for total in sums] + [count], axis=1)
    return table, float((np.abs(table[:, 0] - table[:, 1]) * count).sum() / max(count.sum(), 1))


def draw_reliability(table: np.ndarray, error: float, side: int = 360) -> np.ndarray:
    """The share of right readings (bars, up) by confidence (to the right); on the diagonal the network is right."""
    picture = np.full((side + 90, side + 60, 3), 255, np.uint8)
    width = side // len(table)
    left, base = 40, side + 40
    for place, (_, share, count) in enumerate(table):
        x, top = left + place * width, base - round(side * share)
        if count:
            cv2.rectangle(picture, (x + 1, top), (x + width - 2, base), (210, 190, 150), cv2.FILLED)
            _centred(picture, f"{count:.0f}", x + width // 2, min(top - 8, base - 8), 0.36)
        _centred(picture, f"{(place + 0.5) / len(table):.2f}", x + width // 2, base + 12, 0.34)
    cv2.line(picture, (left, base), (left + len(table) * width, base - side), (0, 0, 200), 1, cv2.LINE_AA)
    _centred(picture, "confidence; bars: share right, with number", left + side // 2, base + 32, 0.42)
    _centred(picture, f"expected calibration error {100 * error:.2f} %", left + side // 2, 16, 0.5)
    return picture


def _centred(picture: np.ndarray, text: str, x: int, y: int, scale: float) -> None:
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    cv2.putText(picture, text, (x - width // 2, y + height // 2), FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)


def test(opt: options.Options) -> None:
    """Test as the options say. UserError: checkpoint, data, device, or a result that can't be written."""
    for folder in filter(None, (opt.output, opt.json and opt.json.parent)):
        prepare_folder(folder)
    device = pick_device(opt.device)
    files = checkpoint_files(options.weights_paths(opt))
    models = [(file, *load_model(file, device)) for file in files]
    digits = mnist.load(opt.data, train=False)
    truth = digits.labels.numpy()
    on_device = digits.to(device)

    results, readings = [], []
    for file, model, checkpoint in tqdm(models, unit="checkpoint", disable=len(models) == 1):
        probability = probabilities(model, on_device.images, opt.batch_size)
        confidence, reading = (tensor.numpy() for tensor in probability.max(1))
        misses = int((reading != truth).sum())
        table, calibration_error = reliability(confidence, reading == truth)
        readings.append((reading, confidence, table, probability.shape[1]))
        results.append(
            {
                "weights": str(file),
                "arch": checkpoint["arch"],
                "epoch": checkpoint.get("epoch"),
                "trained_on": checkpoint["data"].get("source", "unknown"),
                "images": len(digits),
                "accuracy": 1 - misses / len(digits),
                "misses": misses,
                "calibration_error": calibration_error,
                "per_class": per_class(confusion_matrix(truth, reading, probability.shape[1])),
            }
        )
    # Of several, the details are of best.pt (chosen by validation, not by this test), else of the last named.
    chosen = next((k for k, file in enumerate(files) if file.name == "best.pt"), len(files) - 1)
    row, (reading, confidence, table, classes) = results[chosen], readings[chosen]
    matrix = confusion_matrix(truth, reading, classes)
    pictures = {
        "confusion.png": draw_confusion(matrix),
        "reliability.png": draw_reliability(table, row["calibration_error"]),
        "misread.png": draw_misread(digits.images.numpy(), truth, reading, confidence),
    }
    for name, picture in pictures.items():
        write_image(opt.output / name, picture)
    if opt.json:
        write_text(opt.json, json.dumps({**row, "data": digits.source, "checkpoints": results}, indent=2) + "\n")
    # All is written before anything is said: `| head` may close the output.
    print(f"{digits.source}: {len(digits)} images, on {device}")
    if len(results) > 1:
        print(f"\n{'epoch':>5s}  {'accuracy':>8s}  {'misses':>6s}  checkpoint")
        for one in sorted(results, key=lambda one: one["epoch"] or 0):
            print(f"{one['epoch']!s:>5s}  {100 * one['accuracy']:7.2f}%  {one['misses']:6d}  {one['weights']}")
    print(f"\n{row['weights']} ({row['arch']}, epoch {row['epoch']}, trained on {row['trained_on']})")
    print("\nconfusion (row: truth, column: reading)")
    print("     " + "".join(f"{name:>6s}" for name in NAMES[: matrix.shape[1]]))
    for digit, counts in enumerate(matrix):
        print(f"{digit:4d} " + "".join(f"{n:6d}" if n else "     ." for n in counts))
    print("\ndigit  images  misses   recall  precision")
    for line in row["per_class"]:
        print("{digit:5d}  {images:6d}  {misses:6d}  {recall:7.2%}  {precision:9.2%}".format(**line))
    print(f"\nexpected calibration error {100 * row['calibration_error']:.2f} %")
    print("pictures: " + ", ".join(str(opt.output / name) for name in pictures))
    print(f"accuracy {100 * row['accuracy']:.2f} %, {row['misses']} misses of {row['images']}")


def main(argv: Sequence[str] | None = None) -> int:
    """Test; the exit status."""
    opt = options.parse(options.test_parser(), argv)
    return run_script(lambda: test(opt))


if __name__ == "__main__":
    sys.exit(main())
