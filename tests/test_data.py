"""mnist.py and convert_mnist.py: what is read, what is refused, what is left out of training."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error
from hypothesis import given
from hypothesis import strategies as st

import convert_mnist
import mnist
from utils import UserError

TEST_NAMES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write_idx(file, array: np.ndarray) -> None:
    """An IDX file of bytes."""
    magic = mnist.IMAGES_MAGIC if array.ndim == 3 else mnist.LABELS_MAGIC
    data = b"".join(n.to_bytes(4, "big") for n in (magic, *array.shape)) + array.tobytes()
    file.write_bytes(gzip.compress(data, 1) if file.suffix == ".gz" else data)


def test_the_subset_is_balanced_and_its_split_keeps_the_samples_out():
    images, labels = mnist.load_subset()
    assert images.shape == (5000, 28, 28) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [500] * 10
    train, held_out = mnist._split_subset()
    assert len(train) == 4000 and len(held_out) == 1000 and not set(train) & set(held_out)
    assert set(mnist.sample_indices()) <= set(held_out)
    assert np.bincount(labels[held_out]).tolist() == [100] * 10


def test_full_mnist_without_the_samples_digits(mnist_dir):
    train, test = mnist.load(mnist_dir, train=True), mnist.load(mnist_dir, train=False)
    assert len(train) == 59_800 and len(test) == 10_000
    assert train.images.shape == (59_800, 28, 28) and train.images.dtype == torch.uint8
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    images, _ = mnist.load_subset()
    samples = mnist._rows(images[mnist.sample_indices()])
    assert not np.isin(mnist._rows(train.images.numpy()), samples).any()


def test_idx_files_are_found_raw_zipped_and_where_torchvision_puts_them(mnist_dir, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in TEST_NAMES:
        (raw / name).write_bytes(gzip.decompress((mnist_dir / f"{name}.gz").read_bytes()))
    assert torch.equal(mnist.load(tmp_path, train=False).images, mnist.load(mnist_dir, train=False).images)


def test_png_folders_hold_what_the_idx_files_hold(mnist_dir, tmp_path):
    digits = mnist.load(mnist_dir, train=False).take(torch.arange(200))
    folder = tmp_path / "mnist_test"
    assert convert_mnist.convert(digits.images.numpy(), digits.labels.numpy(), folder) == 200
    assert (folder / str(int(digits.labels[42])) / "00042.png").is_file()
    for named in (tmp_path, folder):  # the folder of both parts, or the part itself
        again = mnist.load(named, train=False)
        assert torch.equal(again.images, digits.images) and torch.equal(again.labels, digits.labels)


def test_a_half_filled_folder_is_refused_unless_told_to_resume(tmp_path):
    images, labels = mnist.load_subset()
    images, labels = images[::100], labels[::100]
    convert_mnist.convert(images, labels, tmp_path / "m")
    removed = sorted((tmp_path / "m").glob("*/*.png"))[7]
    removed.unlink()
    with pytest.raises(UserError, match=r"49 of 50 pictures.*--resume"):
        convert_mnist.convert(images, labels, tmp_path / "m")
    assert convert_mnist.convert(images, labels, tmp_path / "m", resume=True) == 1 and removed.is_file()
    assert convert_mnist.convert(images, labels, tmp_path / "m") == 0  # complete: nothing to do


def test_convert_as_a_script(mnist_dir, tmp_path, script):
    small = tmp_path / "idx"
    small.mkdir()
    for name in mnist.MD5:
        shutil.copy(mnist_dir / f"{name}.gz", small)
    (tmp_path / "png").write_text("in the way")
    run = script("convert_mnist.py", "--source", small, "--output", tmp_path / "png")
    assert_one_line_error(run, "png", "--output")


def broken(folder, images: np.ndarray, labels: np.ndarray, case: str) -> None:
    """Fill a folder with test files that have one thing wrong."""
    files = [folder / f"{name}.gz" for name in TEST_NAMES]
    write_idx(files[0], images)
    write_idx(files[1], labels)
    if case == "truncated .gz":
        files[0].write_bytes(files[0].read_bytes()[:-500])
    elif case == "not a .gz":
        files[0].write_bytes(b"<html>404 not found</html>")
    elif case == "wrong magic":
        write_idx(files[1], images)
    elif case == "short":
        files[0].write_bytes(gzip.compress(gzip.decompress(files[0].read_bytes())[:-28]))
    elif case == "counts differ":
        write_idx(files[1], labels[:-1])
    elif case == "file missing":
        files[1].unlink()
    elif case == "empty file":
        files[0].write_bytes(b"")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("truncated .gz", "truncated"),
        ("not a .gz", "truncated or broken"),
        ("wrong magic", "magic number 2051"),
        ("short", "where its header says"),
        ("counts differ", "50 images but"),
        ("wrong checksum", "MD5"),
        ("file missing", "t10k-labels"),
        ("empty file", "magic number 0"),
    ],
)
def test_broken_idx_files_are_named_in_one_line(tmp_path, case, words, script, checkpoint):
    images, labels = mnist.load_subset()
    data = tmp_path / "data"
    data.mkdir()
    broken(data, images[::100], labels[::100], case)
    with pytest.raises(UserError, match=words) as caught:
        mnist.load(data, train=False)
    assert str(data) in str(caught.value) and "\n" not in str(caught.value)
    if case == "truncated .gz":  # once through the script, as a user sees it
        assert_one_line_error(script("test.py", "--weights", checkpoint, "--data", data), words, str(data))


@given(st.binary(max_size=2000), st.booleans())
def test_no_bytes_at_all_break_the_reader(tmp_path_factory, data, zipped):
    file = tmp_path_factory.mktemp("fuzz") / ("x.gz" if zipped else "x")
    file.write_bytes(data)
    try:
        assert mnist.read_idx(file, mnist.LABELS_MAGIC).ndim == 1
    except UserError as error:
        assert str(file) in str(error)


def test_missing_and_empty_folders_are_said(tmp_path, script, checkpoint):
    assert_one_line_error(script("train.py", "--data", tmp_path / "none"), "no folder", "none")
    assert_one_line_error(script("test.py", "--weights", checkpoint, "--data", tmp_path / "none"), "no folder")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(script("train.py", "--data", tmp_path / "empty"), "neither", "empty")
    assert_one_line_error(script("train.py", MNIST_DIR=str(tmp_path / "none")), "$MNIST_DIR")
    for digit in range(9):
        (tmp_path / "mnist_train" / str(digit)).mkdir(parents=True)
    assert_one_line_error(script("train.py", "--data", tmp_path), "no PNG files")


def test_bad_pictures_in_png_folders_are_named(tmp_path):
    images, labels = mnist.load_subset()
    convert_mnist.convert(images[::100], labels[::100], tmp_path / "mnist_test")
    bad = tmp_path / "mnist_test" / "3" / "00017.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"00017\.png can't be read"):
        mnist.load(tmp_path, train=False)
    from PIL import Image

    Image.new("L", (30, 28)).save(bad)
    with pytest.raises(UserError, match="30x28"):
        mnist.load(tmp_path, train=False)


def test_without_network_the_subset_is_used_and_said_loudly(tmp_path, script):
    start = time.monotonic()
    run = script("train.py", "--epochs", 1, "--batch_size", 400, "--name", "r", cwd=tmp_path, MNIST_DIR="")
    assert run.returncode == 0, run.stderr
    assert "GOING ON WITH THE EMBEDDED SUBSET" in run.stderr and time.monotonic() - start < 60
    from utils import load_checkpoint

    data = load_checkpoint(tmp_path / "runs" / "r")["data"]
    assert data == {"source": "embedded subset, train", "train": 3600, "validation": 400}
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").rglob("*.gz"))


def test_a_download_without_answer_is_given_up_in_time(tmp_path):
    """A server that takes the connection and never answers, as the only way out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        code = f"import mnist; from pathlib import Path; mnist.download(Path({str(tmp_path)!r}))"
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PATH": "", "http_proxy": proxy, "https_proxy": proxy, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert "can't download MNIST" in run.stderr and time.monotonic() - start < 15


def test_augmentation_keeps_digits_digits_and_is_seeded():
    images, _ = mnist.load_subset()
    x = torch.from_numpy(images[:200]).unsqueeze(1).float() / 255

    def varied(seed: int) -> torch.Tensor:
        return mnist.augment(x, torch.Generator().manual_seed(seed))

    y = varied(1)
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1 + 1e-6
    assert torch.equal(y, varied(1)) and not torch.equal(y, varied(2))
    ink = y.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert ink.min() > 0.7 and ink.max() < 1.35  # 1 / 0.9^2 and 1 / 1.1^2, hardly any ink pushed out
    assert torch.equal(mnist.augment(x, torch.Generator(), 0, 0, 0).mul(255).round(), x.mul(255).round())


def test_validation_is_the_same_for_every_run():
    images, labels = mnist.load_subset()
    digits = mnist.Digits(torch.from_numpy(images), torch.from_numpy(labels).long(), "subset")
    torch.manual_seed(1)
    training, validation = mnist.split_validation(digits, 300)
    torch.manual_seed(2)
    again = mnist.split_validation(digits, 300)[1]
    assert torch.equal(validation.images, again.images) and len(training) == 4700
    assert len(mnist.split_validation(digits, 9999)[1]) == 500  # at most a tenth
