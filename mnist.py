"""MNIST as tensors: from its IDX files, from PNG class folders, or from the subset that comes with the project.

The whole data set lives in memory as one uint8 tensor (47 MB); batches are cut from it and varied as batches.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from utils import UserError

HERE = Path(__file__).parent / "data"
DOWNLOADED = Path("data/mnist")  # where a download goes, and where it is looked for
ANSWER_WITHIN = 5.0  # seconds for a mirror to answer, all asked at once

# The published MD5 sums of the decompressed files.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
SIZES = {True: 60_000, False: 10_000}  # how many images there are to train on, and to test with


@dataclass(frozen=True)
class Digits:
    """Labelled digits: `images` N x 28 x 28 uint8 (paper 0, ink 255), `labels` N int64, `source` in words."""

    images: Tensor
    labels: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Digits:
        """The digits at these places (indices or a mask)."""
        return Digits(self.images[index], self.labels[index], self.source)

    def to(self, device: torch.device) -> Digits:
        """The same digits on another device."""
        return Digits(self.images.to(device), self.labels.to(device), self.source)


# ---- IDX files ------------------------------------------------------------------------------------------------------


def read_idx(path: Path, magic: int) -> np.ndarray:
    """An IDX file of bytes (.gz or not): images N x rows x columns, or labels N, uint8.

    UserError: missing, truncated, another magic number, more or fewer bytes than its header says.
    """
    again = "copy or download it again"
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or broken ({error}); {again}") from error
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror or error})") from error
    found = int.from_bytes(data[:4], "big")
    if found != magic:
        raise UserError(f"{path} starts with magic number {found}, an IDX file of this kind with {magic}; {again}")
    dimensions = magic & 0xFF
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    body = data[4 + 4 * dimensions :]
    if len(body) != math.prod(shape):
        raise UserError(f"{path} holds {len(body)} bytes where its header says {math.prod(shape)}; {again}")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _idx_file(folder: Path, name: str) -> Path | None:
    places = [folder, folder / "MNIST" / "raw", folder / "raw"]
    files = [place / (name + suffix) for place in places for suffix in ("", ".gz")]
    return next((file for file in files if file.is_file()), None)


def load_idx(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's images (N x 28 x 28 uint8) and labels (N uint8) from a folder's IDX files, checksums compared.

    UserError: as read_idx; a file missing; counts that differ; checksums that are not MNIST's.
    """
    arrays = []
    for kind, magic in (("images-idx3", IMAGES_MAGIC), ("labels-idx1", LABELS_MAGIC)):
        name = f"{'train' if train else 't10k'}-{kind}-ubyte"
        file = _idx_file(folder, name)
        if file is None:
            raise UserError(f"{folder} has no {name}(.gz); put MNIST's four IDX files there, or leave --data out")
        arrays.append((name, file, read_idx(file, magic)))
    (_, images_file, images), (_, labels_file, labels) = arrays
    if len(images) != len(labels):
        raise UserError(
            f"{images_file} has {len(images)} images but {labels_file} {len(labels)} labels; get both again"
        )
    for name, file, array in arrays:
        header = (IMAGES_MAGIC if array.ndim == 3 else LABELS_MAGIC, *array.shape)
        checksum = hashlib.md5(b"".join(n.to_bytes(4, "big") for n in header) + array.tobytes(), usedforsecurity=False)
        if checksum.hexdigest() != MD5[name]:
            raise UserError(
                f"{file} has MD5 {checksum.hexdigest()} decompressed, not MNIST's {MD5[name]}; get it again"
            )
    return images, labels


# ---- PNG class folders ----------------------------------------------------------------------------------------------


def png_files(folder: Path) -> list[tuple[Path, int]]:
    """The pictures of a folder that has the folders 0 to 9, with their labels, in the order of their names (numbers).

    UserError: a class folder is missing or empty.
    """
    files = []
    for label in range(10):
        found = list((folder / str(label)).glob("[!.]*.png"))  # hidden ones were being written
        if not found:
            raise UserError(f"{folder / str(label)} has no PNG files; make them with: python convert_mnist.py")
        files += [(file, label) for file in found]
    return sorted(files, key=lambda pair: (len(pair[0].stem), pair[0].stem))


def load_png(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N x 28 x 28 uint8) and labels (N uint8) from PNG class folders. UserError names one that isn't."""
    files = png_files(folder)

    def read(file: Path) -> np.ndarray:
        try:
            image = np.asarray(Image.open(file).convert("L"))
        except (OSError, SyntaxError) as error:
            raise UserError(
                f"{file} can't be read as a picture; convert again with: python convert_mnist.py"
            ) from error
        if image.shape != (28, 28):
            raise UserError(f"{file} is {image.shape[1]}x{image.shape[0]}, not 28x28 as MNIST's digits are")
        return image

    with ThreadPoolExecutor() as pool:
        images = list(tqdm(pool.map(read, [f for f, _ in files], chunksize=500), folder.name, len(files), leave=False))
    return np.stack(images), np.array([label for _, label in files], dtype=np.uint8)


# ---- the subset that comes with the project -------------------------------------------------------------------------


def load_subset() -> tuple[np.ndarray, np.ndarray]:
    """The embedded 5,000 MNIST training images, 500 a class: 5000 x 28 x 28 uint8, and their labels (uint8)."""
    with np.load(HERE / "mnist5k.npz", allow_pickle=False) as file:
        return file["images"], file["labels"]


def sample_indices() -> np.ndarray:
    """The 200 rows of the subset, 20 a class, that samples/ is made of and that no training sees."""
    return np.array(json.loads((HERE / "sample_digits.json").read_text())["subset_rows"])


def _split_subset() -> tuple[np.ndarray, np.ndarray]:
    """The subset's 4,000 rows to train on and the 1,000 held out: 100 a class, the samples' 20 among them."""
    _, labels = load_subset()
    held_out = set(sample_indices().tolist())
    for label in range(10):
        rows = [row for row in np.flatnonzero(labels == label) if row not in held_out]
        held_out.update(rows[-80:])
    mask = np.isin(np.arange(len(labels)), sorted(held_out))
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _rows(images: np.ndarray) -> np.ndarray:
    """Each image as one comparable value."""
    return np.ascontiguousarray(images).reshape(len(images), -1).view("V784").ravel()


# ---- finding the data -----------------------------------------------------------------------------------------------


def download(folder: Path = DOWNLOADED) -> None:
    """Fetch the four IDX files to folder/MNIST/raw with torchvision's loader (its mirrors, its checksums).

    UserError when no mirror answers in time, or the fetching breaks off.
    """
    from torchvision.datasets import MNIST  # here, for its import takes a second that no other script should wait for

    names = [resource for resource, _ in MNIST.resources]
    answered = threading.Event()
    reasons: list[str] = []

    def knock(mirror: str) -> None:
        try:
            urllib.request.urlopen(mirror + names[-1], timeout=ANSWER_WITHIN).close()
            answered.set()
        except (OSError, ValueError) as error:
            reasons.append(str(getattr(error, "reason", error)))
        if len(reasons) == len(MNIST.mirrors):
            answered.set()

    for mirror in MNIST.mirrors:  # daemons: a name server that never answers can't hold us up
        threading.Thread(target=knock, args=(mirror,), daemon=True).start()
    if not answered.wait(ANSWER_WITHIN) or len(reasons) == len(MNIST.mirrors):
        why = reasons[0] if reasons else f"no answer within {ANSWER_WITHIN:.0f} s"
        raise UserError(f"can't download MNIST ({why}); connect, or put its four IDX files into {folder}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(ANSWER_WITHIN)  # torchvision sets none of its own
    try:
        MNIST(str(folder), train=True, download=True)
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        raise UserError(f"the download of MNIST to {folder} broke off ({error}); try again") from error
    finally:
        socket.setdefaulttimeout(before)


def find(data: str | Path | None) -> Path | None:
    """The folder that MNIST is read from: `data`, $MNIST_DIR, data/mnist, or a download; None: the embedded subset.

    Only the last step is a fallback, and it is said loudly. UserError for a `data` or $MNIST_DIR without MNIST.
    """
    given = data or os.environ.get("MNIST_DIR")
    if given:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            named = " (named by $MNIST_DIR)" if not data else ""
            raise UserError(f"{folder}{named} is no folder; name one with MNIST's files")
        return folder
    if _idx_file(DOWNLOADED, "train-images-idx3-ubyte"):
        return DOWNLOADED
    try:
        print(f"MNIST is not in {DOWNLOADED} yet: downloading it (11 MB)", file=sys.stderr)
        download()
        return DOWNLOADED
    except UserError as error:
        print(
            f"{'!' * 78}\n! {error}\n! GOING ON WITH THE EMBEDDED SUBSET: 4,000 images to train on, 1,000 held out for "
            f"testing.\n! Figures from it are not MNIST's.\n{'!' * 78}",
            file=sys.stderr,
        )
        return None


def load(data: str | Path | None, train: bool) -> Digits:
    """MNIST's training or test digits, wherever `find` finds them. The 200 digits of samples/ are left out of training.

    UserError: as find, load_idx and load_png.
    """
    folder = find(data)
    images, labels = load_subset()
    samples = images[sample_indices()]
    if folder is None:
        rows = _split_subset()[0 if train else 1]
        images, labels, source = images[rows], labels[rows], f"embedded subset, {'train' if train else 'held out'}"
    else:
        name = "mnist_train" if train else "mnist_test"
        pngs = next((place for place in (folder / name, folder) if (place / "0").is_dir()), None)
        if pngs is not None:
            images, labels = load_png(pngs)
            whole = SIZES[train]
            if len(images) != whole:
                print(f"warning: {pngs} has {len(images)} pictures where MNIST has {whole}", file=sys.stderr)
        elif _idx_file(folder, "train-images-idx3-ubyte") or _idx_file(folder, "t10k-images-idx3-ubyte"):
            images, labels = load_idx(folder, train)
        else:
            raise UserError(f"{folder} has neither MNIST's IDX files nor {name}/ with the folders 0 to 9")
        source = f"MNIST {'train' if train else 'test'}, {'PNG' if pngs else 'IDX'}"
    if train:
        kept = ~np.isin(_rows(images), _rows(samples))
        images, labels = images[kept], labels[kept]
    return Digits(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)), source)


# ---- parts, batches, augmentation -----------------------------------------------------------------------------------


def split_validation(digits: Digits, count: int) -> tuple[Digits, Digits]:
    """Training and validation part. The same `count` images (at most a tenth) whatever the run's seed is."""
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(1998))
    count = min(count, len(digits) // 10)
    return digits.take(order[count:]), digits.take(order[:count])


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of one epoch's batches, shuffled; the last, smaller one is left out (unless it is the only one)."""
    order = torch.randperm(count, generator=generator)
    yield from order.split(size)[: max(1, count // size)]


def augment(
    images: Tensor,
    generator: torch.Generator,
    degrees: float = 10.0,
    scale: float = 0.1,
    shift: float = 1.5,
    shear: float = 0.0,
    elastic: float = 0.0,
    thickness: float = 0.0,
    untouched: float = 0.0,
) -> Tensor:
    """Vary each image of a batch a little, bicubic (bilinear blurs, and test images are sharp), paper (0) outside.

    images: N x 1 x H x W floats in 0..1, H and W multiples of 4. Drawn evenly: turned by +-degrees, width and height
    each scaled by 1 +- scale, slanted by +-shear (pixels a pixel), moved by +-shift pixels each way; strokes made
    thicker or thinner by up to `thickness` pixels on each side. elastic: deviation in pixels of a smooth random
    displacement, drawn on a raster of 4 pixels instead of smoothed by a Gaussian of 4. P. Y. Simard, D. Steinkraus,
    J. C. Platt, "Best practices for convolutional neural networks applied to visual document analysis", ICDAR 2003,
    section 2.
    """
    n, (height, width), device = len(images), images.shape[-2:], images.device
    draw = torch.rand(n, 7, generator=generator).mul_(2).sub_(1).to(device)  # -1..1
    angle = draw[:, 0] * math.radians(degrees)
    zoom = 1 + draw[:, 1:3] * scale
    unit = torch.tensor([2 / width, 2 / height], dtype=torch.float64)  # grid_sample's is half a picture, either way
    move = draw[:, 3:5] * (shift * unit).to(device, torch.float32)
    slant = draw[:, 5] * shear
    cos, sin = torch.cos(angle), torch.sin(angle)
    tall = height / width
    rows = torch.stack((cos * zoom[:, 0], (cos * slant - sin) * zoom[:, 1] * tall, move[:, 0]), 1)
    rows = torch.stack((rows, torch.stack((sin * zoom[:, 0] / tall, (sin * slant + cos) * zoom[:, 1], move[:, 1]), 1)))
    x, y, one = rows[..., None, None].unbind(
        2
    )  # each 2 x N x 1 x 1: what a place's x, its y and 1 add to both coordinates
    across, down = (torch.linspace(1 / size - 1, 1 - 1 / size, size, device=device) for size in (width, height))
    grid = x * across + y * down[:, None] + one  # 2 x N x height x width; affine_grid takes five times as long
    if elastic:
        coarse = torch.randn(2, n, height // 4, width // 4, generator=generator).to(device)
        to_rows, to_columns = _gaussians(height).to(device), _gaussians(width).to(device)
        grid += to_rows @ coarse @ to_columns.T * (elastic * unit).to(device, torch.float32)[:, None, None, None]
    original = images
    images = functional.grid_sample(images, grid.permute(1, 2, 3, 0), mode="bicubic", align_corners=False).clamp(0, 1)
    if thickness:
        change = (draw[:, 6] * thickness).view(n, 1, 1, 1)
        swollen, shrunk = (_neighbourhood(f, images) for f in (torch.maximum, torch.minimum))
        images = images + change.clamp(min=0) * (swollen - images) + change.clamp(max=0) * (images - shrunk)
    if untouched:
        stays = torch.rand(n, 1, 1, 1, generator=generator).to(device) < untouched
        images = torch.where(stays, original, images)
    return images


def _gaussians(size: int, sigma: float = 4.0) -> Tensor:
    """size x size/4: what random values on a raster of 4 pixels weigh at each pixel, smooth, their deviation kept."""
    raster = torch.arange(size // 4) * 4 + 1.5
    weights = torch.exp(-((torch.arange(size)[:, None] - raster) ** 2) / (2 * sigma**2))
    return weights / weights.norm(dim=1, keepdim=True)


def _neighbourhood(of: Callable[[Tensor, Tensor], Tensor], images: Tensor) -> Tensor:
    """The maximum or minimum of each pixel and its four neighbours (max_pool2d takes ten times as long)."""
    wide = functional.pad(images, (1, 1, 1, 1))
    across = of(wide[..., 1:-1, :-2], wide[..., 1:-1, 2:])
    return of(images, of(across, of(wide[..., :-2, 1:-1], wide[..., 2:, 1:-1])))
