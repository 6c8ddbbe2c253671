"""Read the handwritten digits in pictures: `python demo.py photo.jpg folder 'scans/*.png'`.

Writes into --output: results.json; results.csv (a row a digit: file, line, position, digit, confidence, box in pixels);
and an annotated copy of each picture under its own name. A picture that can't be read keeps its row, with the reason.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import options
from recognition import Recognizer
from segmentation import contact_sheet
from utils import (
    IMAGE_SUFFIXES,
    UserError,
    draw_reading,
    prepare_folder,
    read_image,
    require_display,
    run_script,
    write_image,
    write_text,
)
from viewer import Window

COMPANIONS = {".json", ".csv", ".md", ".py"}  # lie beside pictures and are passed over; any other file is reported
TOO_SMALL = 7  # pixels: ten digits can't be told apart in fewer (the smallest fonts are 5 x 7)
COLUMNS = ("file", "line", "position", "digit", "confidence", "x", "y", "w", "h", "error")


def find_pictures(sources: Sequence[str], *outputs: Path) -> list[tuple[str, Path]]:
    """Every picture of the sources (image, folder with its subfolders, glob), once: its name in the results, its path.

    A name is the path below the source; where two would be the same, or their annotated copies, as much of the path
    above it as tells them apart. Hidden files, companions and what lies in one of `outputs` are passed over; subfolders
    that can't be looked into are named like pictures. UserError for a source that isn't there, and when there is none.
    """
    found: dict[Path, tuple[str, Path]] = {}
    taken: set[str] = set()
    for source in sources:
        base, files = _files_of(source)
        inside = {output.resolve() for output in outputs if base.resolve() in output.resolve().parents}
        for file in files:
            if file.suffix.lower() in COMPANIONS or file.resolve() in found:
                continue
            if inside.intersection(file.resolve().parents):
                continue
            for folder in (base, *base.parents):
                name = readable(file.relative_to(folder).as_posix())
                copy = str(annotated_path(Path(), name)).casefold()
                if copy not in taken:
                    break
            taken.add(copy)
            found[file.resolve()] = name, file
    if not found:
        raise UserError(f"{', '.join(sources)}: there are no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return list(found.values())


def _files_of(source: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files. UserError when there are none."""
    path = Path(os.path.abspath(Path(source).expanduser()))
    try:
        if path.is_dir():
            base, files = path, sorted(f for f in _files_below(path) if not _is_hidden(f.relative_to(path)))
        elif path.exists():  # before glob: a name may have brackets in it
            base, files = path.parent, [path] if path.is_file() else []
        else:
            magic = [k for k, part in enumerate(path.parts) if glob.has_magic(part)]
            base = Path(*path.parts[: magic[0]]) if magic else path
            matches = map(Path, glob.glob(str(path), recursive=True)) if magic else []
            files = sorted(match for match in matches if match.is_file())
    except OSError as error:
        raise UserError(f"can't look into {source} ({error.strerror})") from error
    if not files and path.is_dir():
        raise UserError(f"{source} has no pictures in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if not files:
        raise UserError(f"there are no pictures at {source}; name a picture, a folder or a glob such as 'photos/*.jpg'")
    return base, files


def _files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, and the subfolders that can't be looked into. OSError if it can't."""
    found: list[Path] = []

    def locked(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        found.append(Path(error.filename))

    for here, _, names in os.walk(folder, onerror=locked):
        found += (file for file in (Path(here, name) for name in names) if file.is_file())
    return found


def readable(text: str) -> str:
    """Text that is UTF-8, whatever bytes stand in the names of files in it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


def annotated_path(output: Path, name: str) -> Path:
    """Where a picture's annotated copy goes: its own name, or .png added where OpenCV can't write it so."""
    path = output / PurePosixPath(name)
    in_colour = path.suffix.lower() != ".pgm" and cv2.haveImageWriter("x" + path.suffix)
    return path if in_colour else path.with_name(path.name + ".png")


def sheet_path(debug: Path, name: str) -> Path:
    """Where a picture's stages go: its own name with .png added, for page.jpg may lie beside page.png."""
    return debug / PurePosixPath(name + ".png")


def check_output(output: Path, debug: Path | None, pictures: Sequence[tuple[str, Path]]) -> None:
    """UserError when a result would overwrite a file that is no earlier result of this script."""
    results = [output / "results.json", output / "results.csv"]
    try:
        earlier = {"model", "images"} <= json.loads(results[0].read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        earlier = False
    copies = [*results, *(annotated_path(output, name) for name, _ in pictures)]
    sheets = [sheet_path(debug, name) for name, _ in pictures] if debug else []
    sources = {path.resolve() for _, path in pictures}
    lost = [] if earlier else [file for file in copies if file.exists()]
    lost += [file for file in (*copies, *sheets) if file.resolve() in sources]
    if lost:
        raise UserError(
            f"{lost[0]} would be overwritten, and it is no earlier result of demo.py; choose another folder"
        )


def csv_rows(images: list[dict]) -> str:
    """results.csv: a row a digit; a picture without any, or with an error, has one row without a digit."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for image in images:
        for digit in image.get("digits") or [{}]:
            box = dict(zip("xywh", digit.get("box", ())))
            fields = {key: value for key, value in digit.items() if key != "box"}
            writer.writerow({"file": image["file"], **fields, **box, "error": image["error"] or ""})
    return text.getvalue()


def demo(opt: options.Options) -> int:
    """Read as the options say; 1 when a picture could not be read. UserError: sources, checkpoint, device, output."""
    pictures = find_pictures(opt.sources, *filter(None, (opt.output, opt.debug)))
    if opt.show:
        require_display("--show")
    check_output(opt.output, opt.debug, pictures)
    for folder in filter(None, (opt.output, opt.debug)):
        prepare_folder(folder)
    threadpool_limits(1, "blas")  # numpy's products are small: its second thread would wait, and busily
    recognizer = Recognizer(options.weights_paths(opt)[0], opt.device, opt.min_confidence, strings=opt.strings)
    images: list[dict] = []
    unwritten: list[UserError] = []

    def save() -> None:
        results = {"model": recognizer.card, "images": images}
        write_text(opt.output / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        write_text(opt.output / "results.csv", csv_rows(images))

    start = time.perf_counter()
    window = Window("demo.py - any key: next, Esc or q: end") if opt.show else None
    try:
        for name, path in tqdm(pictures, unit="picture"):
            try:
                if path.is_dir():
                    raise UserError(f"can't look into {path}; what is in it is not read")
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    raise UserError(f"{path} is not a picture ({', '.join(sorted(IMAGE_SUFFIXES))})")
                image = read_image(path)
                if max(image.shape[:2]) < TOO_SMALL:
                    raise UserError(f"{path} has {image.shape[1]}x{image.shape[0]} pixels, too few to show a digit")
            except UserError as error:
                images.append({"file": name, "error": readable(str(error))})
                continue
            stages = {} if opt.debug else None
            reading = recognizer.read(image, opt.single, stages)
            images.append({"file": name, **reading.as_dict()})
            annotated = draw_reading(image, reading)
            try:
                write_image(annotated_path(opt.output, name), annotated)
                if opt.debug:
                    write_image(sheet_path(opt.debug, name), contact_sheet(image, stages["segments"], stages))
            except UserError as error:  # its reading is there all the same
                unwritten.append(error)
            if window and not show(window, annotated):
                window = None  # enough seen; the rest is read without
    except KeyboardInterrupt:
        save()
        print(f"\nstopped: the {len(images)} of {len(pictures)} pictures read so far are in {opt.output}")
        raise
    save()
    failures = [image for image in images if image["error"]]
    for image in failures:
        print(f"error: {image['error']}", file=sys.stderr)
    for error in unwritten:
        print(f"error: {error}", file=sys.stderr)
    for image in images[:20]:
        if not image["error"]:
            print(f"{image['file']}: {' / '.join(image['lines']) or 'no digit'}")
    if len(images) > 20:
        print(f"... and {len(images) - 20} more")
    digits = sum(len(image.get("digits", ())) for image in images)
    seconds = time.perf_counter() - start
    print(f"{len(images)} pictures, {digits} digits, {len(failures)} could not be read, {seconds:.1f} s")
    print(f"results: {opt.output / 'results.json'}, {opt.output / 'results.csv'} and annotated pictures beside them")
    return 1 if failures or unwritten else 0


def show(window: Window, picture: np.ndarray) -> bool:
    """Show a picture until a key; False when that was Esc or q, or the window was closed."""
    window.show(picture)
    key = ""
    while not key:
        key = window.key(milliseconds=50)
    if key in ("q", "\x1b"):
        window.close()
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Read pictures; the exit status."""
    opt = options.parse(options.demo_parser(), argv)
    return run_script(lambda: demo(opt))


if __name__ == "__main__":
    sys.exit(main())
