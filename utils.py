"""What several scripts need: errors for the user, device, seed, checkpoint files, image files, drawing."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pickle
import random
import signal
import sys
import tempfile
import threading
import timeit
import zipfile
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from LeNet_5 import ARCHITECTURES, build, to_input

if TYPE_CHECKING:
    from recognition import Reading

CHECKPOINT_FORMAT = 1
_FORMATS = "png", "jpg", "jpeg", "jfif", "bmp", "gif", "webp", "avif", "tif", "tiff", "pgm", "ppm", "jp2"
IMAGE_SUFFIXES = {f".{name}" for name in _FORMATS}


class UserError(Exception):
    """Something that the user can mend: one line that says what happened, to which file, and what to do now."""


def run_script(body: Callable[[], int | None]) -> int:
    """Run a script's body; its exit status: the body's own (None: 0), 1 after a UserError, 130 after Ctrl-C.

    A polite kill (SIGTERM) ends as Ctrl-C does.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a file's name may hold what the terminal can't show
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = body() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever was reading what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing it would fail again
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


# ---- device, seed ---------------------------------------------------------------------------------------------------


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes cuda, else mps, else cpu. UserError where there is none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # "meta" holds nothing
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UserError(f"device {name!r} can't be used ({reason}); say --device cpu, or leave --device out") from error
    return device


@cache
def faster_in_bf16(device: torch.device) -> bool:
    """Whether the networks take less time in bf16 than in fp32.

    On a processor that is tried, on a convolution of theirs (0.02 to 0.05 s): with AMX and with AMD's AVX-512 they do,
    with Intel's AVX-512 without AMX they take 1.5 times as long, and emulated an epoch took 7 times as long.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    maps, kernels = (torch.ones(n, 32, k, k).to(memory_format=torch.channels_last) for n, k in ((4, 12), (96, 5)))
    convolutions = [partial(functional.conv2d, maps.to(t), kernels.to(t)) for t in (torch.float32, torch.bfloat16)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other where the machine has other work, too
    times = [[timeit.timeit(convolution, number=1) for convolution in convolutions] for _ in range(10)]
    torch.set_num_threads(threads)
    fp32, bf16 = map(min, zip(*times))
    return bf16 < fp32


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next step's (Linux with glibc; elsewhere nothing).

    By default it hands blocks of this size back to the kernel at every step, and each page costs a fault to get again:
    a sixth of an epoch's time here (benchmarks/epoch.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, 32 * 2**20)  # bytes; the most that glibc takes
        mallopt(trim_threshold, 2**30)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@torch.inference_mode()
def predict(model: torch.nn.Module, images: torch.Tensor, size: int = 500) -> torch.Tensor:
    """The model's logits (N x classes) for uint8 images N x 28 x 28, `size` at once, without any randomness."""
    was_training = model.training
    if was_training:  # saying so to every layer takes a while
        model.eval()
    kind = next(model.parameters()).dtype
    logits = torch.cat([model(to_input(part).to(kind)).float() for part in images.split(size)])
    if was_training:
        model.train()
    return logits


# ---- files ----------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: `path` is whole or untouched, even on a full disk.

    UserError when the folder can't be made or the file can't be written.
    """
    path = Path(path)
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name may be 255 bytes long and no longer
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:20]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        beside = Path(name)
        write(beside)
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)  # mkstemp's files are private, results are not
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"can't write {path} ({reason}); see that the folder is writable and the disk not full"
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. UserError as write_atomically."""
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def read_image(path: Path) -> np.ndarray:
    """The picture in a file as H x W x 3 BGR uint8, upright (EXIF rotation applied). UserError says why not."""
    try:
        data = np.fromfile(path, dtype=np.uint8)  # not cv2.imread: that fails for non-ASCII paths on some systems
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror or error})") from error
    if data.size == 0:
        raise UserError(f"{path} is an empty file")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:  # too large a picture, for one
        raise UserError(f"{path} can't be decoded ({str(error).strip().splitlines()[-1]})") from error
    if image is None:
        raise UserError(f"{path} is not a picture that can be decoded (broken, or of an unknown format)")
    if bytes(data[:4]) in (b"\x89PNG", b"RIFF", b"GIF8"):  # PNG, WebP and GIF, which may be transparent
        unreadable = contextlib.suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError)
        with unreadable, Image.open(path) as layered:
            if "A" in layered.getbands() or "transparency" in layered.info:
                return _on_paper(np.asarray(ImageOps.exif_transpose(layered).convert("RGBA"))[..., [2, 1, 0, 3]])
    return image


def _on_paper(layered: np.ndarray) -> np.ndarray:
    """A BGRA picture laid on white, or on black where what is opaque is bright itself: BGR."""
    color, opacity = layered[..., :3].astype(np.float32), layered[..., 3:].astype(np.float32) / 255
    bright = (color * opacity).sum() > 127.5 * 3 * opacity.sum()
    return np.rint(color * opacity + (0 if bright else 255) * (1 - opacity)).astype(np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a BGR or grey uint8 picture in the format that the path's suffix names.

    UserError as write_atomically; for a format that OpenCV doesn't write, or not with so many pixels or colours.
    """
    try:
        encoded, data = cv2.imencode(Path(path).suffix, image)
    except cv2.error:
        encoded = False
    if not encoded:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise UserError(f"can't write {path}: OpenCV writes no picture of {size} pixels as {Path(path).suffix!r}")
    write_atomically(path, data.tofile)


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    """Save a plain dictionary of tensors, numbers and strings, atomically, with the format's version."""
    write_atomically(path, lambda beside: torch.save({"format": CHECKPOINT_FORMAT, **checkpoint}, beside))


def find_checkpoint(path: Path, name: str = "best.pt") -> Path:
    """The checkpoint file that `path` names: itself, or `name` inside a run folder. UserError when there is none."""
    path = Path(path)
    file = path / name if path.is_dir() else path
    if not file.is_file():
        hint = f"no {name} in it; has train.py finished an epoch there?" if path.is_dir() else "no such file"
        raise UserError(f"no checkpoint at {path} ({hint}); make one with: python train.py")
    return file


def load_checkpoint(path: Path) -> dict:
    """The dictionary in a checkpoint file or run folder (best.pt), on the CPU. Nothing in it is ever unpickled.

    UserError: missing, damaged, a pickled model, no checkpoint of this project, a newer format, another architecture.
    """
    path = find_checkpoint(path)
    again = "copy or train it again"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch.load compares no checksums
                    raise UserError(f"{path} is damaged (its checksums differ); {again}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors (a whole pickled model, perhaps), and unpickling a file "
            "can run any code; save a dictionary as train.py does"
        ) from error
    except PermissionError as error:
        raise UserError(f"can't read {path} ({error.strerror})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read: truncated, or not a checkpoint; {again}") from error
    kinds = {"format": int, "arch": str, "model": dict}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(n), kind) for n, kind in kinds.items()):
        raise UserError(f"{path} is not a checkpoint of this project (no format, arch and model in it)")
    if checkpoint["format"] > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has format {checkpoint['format']}, newer than this program's {CHECKPOINT_FORMAT}; "
            "update the program"
        )
    if checkpoint["arch"] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path} holds a network {checkpoint['arch']!r}, which is unknown here (known: {known})")
    if not isinstance(checkpoint.get("data"), dict):
        checkpoint["data"] = {}
    return checkpoint


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[torch.nn.Module, dict]:
    """The network in a checkpoint file or run folder, ready to read on `device`, and the checkpoint."""
    checkpoint = load_checkpoint(path)
    model = build(checkpoint["arch"])
    try:
        model.load_state_dict(checkpoint["model"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its tensors don't fit the network {checkpoint['arch']!r} that it names") from error
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise UserError(f"{path}: its weights are no numbers; its training failed, train it again")
    # channels_last: the layout in which the CPU's convolutions and pooling run 1.5 times as fast (benchmarks/)
    return model.to(device, memory_format=torch.channels_last).eval(), checkpoint


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def prepare_folder(folder: Path) -> None:
    """Make a folder for results and see that files can be written there. UserError before any work is done."""
    probe = Path(folder) / ".probe"
    write_atomically(probe, lambda beside: beside.write_text(""))
    probe.unlink(missing_ok=True)  # another script's, perhaps


def require_display(wanted_by: str) -> None:
    """UserError where no window can be opened: there OpenCV's Qt would end the process without an exception."""
    on_linux = sys.platform.startswith("linux")
    if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"{wanted_by} needs a screen, and there is none (no DISPLAY)")
    try:
        cv2.waitKey(1)
    except cv2.error as error:
        raise UserError(f"{wanted_by} needs windows, and this OpenCV has none: pip install opencv-python") from error


# ---- drawing --------------------------------------------------------------------------------------------------------

SURE, UNSURE, REJECTED = (80, 200, 0), (0, 140, 255), (150, 150, 150)  # BGR: green, orange, grey
READABLE = 240  # pixels: a smaller picture is enlarged, or its labels couldn't be read


@lru_cache(256)  # a frame has the same few digits as the one before
def _lettering(text: str, height: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The text's ink and its outline (h x w x 3 uint8, bright on 0), and the margin around both in pixels."""
    scale, width = height / 22, max(1, round(height / 12))  # Hershey Simplex's digits are 22 high at scale 1
    (w, h), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, width)
    margin = 2 * width + below
    ink = np.zeros((h + 2 * margin, w + 2 * margin), np.uint8)
    cv2.putText(ink, text, (margin, margin + h), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, width, cv2.LINE_AA)
    # The outline is the ink swollen: writing again with a thicker pen is another, wider text in OpenCV 5.
    edge = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1)))
    return cv2.merge([ink] * 3), cv2.merge([edge] * 3), margin


def put_text(picture: np.ndarray, text: str, x: float, y: float, height: float, color: tuple[int, int, int]) -> None:
    """Write text with its lower left corner at x, y, `height` pixels high, outlined so that any background will do."""
    lettering = _lettering if len(text) == 1 else _lettering.__wrapped__  # a status is another one in every frame
    ink, edge, margin = lettering(text, max(1, round(height)))
    left, top = round(x) - margin, round(y) + margin - len(ink)
    target = picture[max(0, top) : max(0, top + len(ink)), max(0, left) : max(0, left + ink.shape[1])]
    part = np.s_[max(0, -top) :, max(0, -left) :]
    if target.size:
        ink, edge = (mask[part][: target.shape[0], : target.shape[1]] for mask in (ink, edge))
        target[:] = cv2.subtract(target, edge)
        target[:] = cv2.add(target, cv2.multiply(ink, (*color, 0), scale=1 / 255))


def confidence_color(confidence: float) -> tuple[int, int, int]:
    """BGR from orange (a coin's toss and below) to green (certain)."""
    share = min(1.0, max(0.0, 2 * confidence - 1))
    return tuple(round(a + (b - a) * share) for a, b in zip(UNSURE, SURE))


def draw_reading(image: np.ndarray, reading: Reading) -> np.ndarray:
    """A copy of the picture (BGR uint8) with each digit's box and reading; boxes that were not read are grey.

    A very small picture comes back enlarged, so that the labels can be read.
    """
    times = max(1, -(-READABLE // max(image.shape[:2])))
    picture = cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC) if times > 1 else image.copy()
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    height, width = picture.shape[:2]
    line = max(1, round(max(height, width) / 500))
    least = max(10.0, min(height, width) / 40)  # the smallest label
    for box, _ in reading.rejected:
        x, y, w, h = (times * v for v in box)
        cv2.rectangle(picture, (x, y), (x + w, y + h), REJECTED, line)
    for digit in reading.digits:
        x, y, w, h = (times * v for v in digit.box)
        color = confidence_color(digit.confidence)
        cv2.rectangle(picture, (x, y), (x + w, y + h), color, line)
        size = min(max(least, 0.35 * h), height / 4)
        above = y - 2 * line if y - 2 * line > size else y + h + size + 2 * line  # below where there is no room above
        put_text(picture, str(digit.digit), x, min(above, height - 2 * line), size, color)
    return picture
