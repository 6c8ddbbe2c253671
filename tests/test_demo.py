"""demo.py as a user runs it: good pictures, bad pictures, odd folders, interrupts."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, start, wait_for
from PIL import Image

import mnist
import options
import paper
from demo import annotated_path, find_pictures, main
from recognition import Recognizer
from utils import UserError, draw_reading, load_model, predict, read_image, write_image

SAMPLES = ROOT / "samples"
TRUTH = {image["file"]: image["lines"] for image in json.loads((SAMPLES / "truth.json").read_text())["images"]}


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=0.5)


def errors_between(truth: str, read: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(read) + 1))
    for i, a in enumerate(truth, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(read, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


# ---- what it reads --------------------------------------------------------------------------------------------------


def test_samples_are_read(script, tmp_path):
    """The promise of the README: at least 97 % of the digits, and nothing where nothing is written."""
    run = script("demo.py", "--output", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    read = {image["file"]: image["lines"] for image in results["images"]}
    assert read.keys() == TRUTH.keys()
    digits = sum(len("".join(lines)) for lines in TRUTH.values())
    errors = sum(errors_between("".join(lines), "".join(read[file])) for file, lines in TRUTH.items())
    assert errors <= 0.03 * digits, {file: (TRUTH[file], read[file]) for file in TRUTH if TRUTH[file] != read[file]}
    empty = [file for file, lines in TRUTH.items() if not lines]
    assert len(empty) >= 2 and all(read[file] == [] for file in empty)
    for file in TRUTH:
        assert read_image(tmp_path / "out" / file).shape == read_image(SAMPLES / file).shape


def test_results_json_is_the_contract_s(script, tmp_path):
    run = script("demo.py", SAMPLES / "one_line.jpg", "--output", tmp_path)
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"model", "images"} and set(results["model"]) == {"weights", "arch", "sha256"}
    (image,) = results["images"]
    height, width = read_image(SAMPLES / "one_line.jpg").shape[:2]
    assert (image["file"], image["width"], image["height"], image["error"]) == ("one_line.jpg", width, height, None)
    assert image["lines"] == ["".join(str(digit["digit"]) for digit in image["digits"])]
    for place, digit in enumerate(image["digits"]):
        x, y, w, h = digit["box"]
        assert 0 <= x and x + w <= width and 0 <= y and y + h <= height and 0 <= digit["confidence"] <= 1
        assert (digit["line"], digit["position"]) == (0, place)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["digit"] for row in rows] == list(image["lines"][0]) and rows[0]["x"] == str(
        image["digits"][0]["box"][0]
    )


def test_a_tiled_page_reads_as_well_as_test_py(unseen_digits, recognizer):
    """MNIST test digits, laid out on a page: within one point of what the network reads from the IDX file."""
    images, labels = unseen_digits.images.numpy()[:1000], unseen_digits.labels.numpy()[:1000]
    model, _ = load_model(options.DEFAULT_WEIGHTS)
    direct = (predict(model, torch.from_numpy(images)).argmax(1).numpy() == labels).mean()
    right = 0
    for first in range(0, 1000, 100):
        page = np.full((10 * 44, 10 * 44), 255, np.uint8)
        for place, image in enumerate(images[first : first + 100]):
            y, x = divmod(place, 10)
            page[44 * y + 8 : 44 * y + 36, 44 * x + 8 : 44 * x + 36] = 255 - image
        read = recognizer.read(cv2.cvtColor(page, cv2.COLOR_GRAY2BGR))
        for digit in read.digits:
            x, y, w, h = digit.box
            place = int((y + h / 2) // 44) * 10 + int((x + w / 2) // 44)
            right += digit.digit == labels[first + place]
        right -= max(0, len(read.digits) - 100)  # a digit read twice is no digit read well
    assert right / 1000 >= direct - 0.01


@pytest.mark.skipif(
    not os.environ.get("PHOTOS_DIR"), reason="needs the labelled photos: set PHOTOS_DIR to their folder"
)
def test_photos_of_real_handwriting(tmp_path, script):
    photos = os.environ["PHOTOS_DIR"]
    run = script("demo.py", f"{photos}/images", "--output", tmp_path)
    assert run.returncode == 0, run.stderr
    labels = json.loads(Path(photos, "labels.json").read_text())
    read = {image["file"]: image["lines"] for image in json.loads((tmp_path / "results.json").read_text())["images"]}
    for kind, most in (("page_plain", 0.10), ("page_hard", 0.25), ("single", 0.15)):
        rows = [label for label in labels if label["kind"] == kind]
        errors = sum(errors_between("".join(row["lines"]), "".join(read[row["file"]])) for row in rows)
        assert errors <= most * sum(len("".join(row["lines"])) for row in rows), kind


def test_single_takes_the_whole_picture_as_one_digit(script, tmp_path):
    seven = np.full((200, 200, 3), 255, np.uint8)
    cv2.line(seven, (50, 40), (150, 40), (0, 0, 0), 14)
    cv2.line(seven, (140, 60), (90, 170), (0, 0, 0), 14)  # apart from the bar, as a broken stroke is
    write_image(tmp_path / "in" / "seven.png", seven)
    run = script("demo.py", tmp_path / "in", "--single", "--output", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    (image,) = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert image["lines"] == ["7"]


def test_min_confidence_leaves_boxes_unread(recognizer):
    image = read_image(SAMPLES / "one_line.jpg")
    doubtful = Recognizer(options.DEFAULT_WEIGHTS, "cpu", min_confidence=1.0).read(image)
    assert len(doubtful.digits) + len(doubtful.rejected) == len(recognizer.read(image).digits)
    assert len(doubtful.rejected) > 0 and (draw_reading(image, doubtful) != image).any()


@pytest.mark.parametrize("size", [(28, 28), (64, 48), (5000, 3000)])
def test_annotated_pictures_of_any_size(recognizer, size):
    picture = np.full((size[1], size[0], 3), 230, np.uint8)
    drawn = draw_reading(picture, recognizer.read(picture))
    assert drawn.dtype == np.uint8 and max(drawn.shape) >= 240


def test_exif_rotation_is_applied(tmp_path):
    turned = Image.open(SAMPLES / "one_line.jpg").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me 90 degrees clockwise"
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == read_image(SAMPLES / "one_line.jpg").shape


# ---- what it is given -----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A folder of good pictures with every sort of bad file among them."""
    folder = tmp_path / "Bilder mit Umläuten"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(SAMPLES / "one_line.jpg", folder / "a.jpg")
    shutil.copy(SAMPLES / "one_line.jpg", folder / "sub" / "a.jpg")
    (folder / "broken.jpg").write_bytes((SAMPLES / "one_line.jpg").read_bytes()[:300])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("I am no picture")
    (folder / "notes.txt").write_text("nor am I")
    (folder / ".hidden.txt").write_text("passed over")
    (folder / "labels.json").write_text("{}")
    write_image(folder / "dot.png", np.zeros((1, 1, 3), np.uint8))
    write_image(folder / "blank.png", np.full((50, 60, 3), 255, np.uint8))
    return folder


def test_bad_files_lose_nothing(mixed, tmp_path, script):
    run = script("demo.py", mixed, "--output", tmp_path / "out")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    images = {image["file"]: image for image in json.loads((tmp_path / "out" / "results.json").read_text())["images"]}
    bad = {"broken.jpg", "zero.png", "text.png", "notes.txt", "dot.png"}
    assert images.keys() == bad | {"a.jpg", "sub/a.jpg", "blank.png"}
    for name in bad:
        assert set(images[name]) == {"file", "error"} and images[name]["error"]
        assert sum(name in line for line in run.stderr.splitlines() if line.startswith("error: ")) == 1
    assert images["a.jpg"]["lines"] == images["sub/a.jpg"]["lines"] == TRUTH["one_line.jpg"]
    assert images["blank.png"]["lines"] == [] and images["blank.png"]["error"] is None
    assert (tmp_path / "out" / "a.jpg").is_file() and (tmp_path / "out" / "sub" / "a.jpg").is_file()
    assert "8 pictures" in run.stdout and "5 could not be read" in run.stdout


def test_output_inside_the_source_is_not_read_again(tmp_path, script):
    shutil.copy(SAMPLES / "one_line.jpg", tmp_path / "a.jpg")
    for _ in range(2):
        run = script("demo.py", tmp_path, "--output", tmp_path / "results")
        assert run.returncode == 0, run.stderr
        assert "1 pictures" in run.stdout


def test_globs_and_same_names_from_several_sources(tmp_path):
    for name in ("x/a.jpg", "x/b.png", "y/a.jpg"):
        write_image(tmp_path / name, np.full((9, 9), 255, np.uint8))
    found = find_pictures([f"{tmp_path}/x/*.jpg", str(tmp_path / "y"), str(tmp_path / "x" / "a.jpg")], tmp_path / "out")
    names, paths = zip(*found)
    assert paths == (tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg") and names[0] == "a.jpg"
    assert len({annotated_path(tmp_path / "out", name) for name in names}) == 2
    assert all(tmp_path / "out" in annotated_path(tmp_path / "out", name).parents for name in names)


def test_sources_that_are_not_there_are_said(tmp_path, script):
    (tmp_path / "empty").mkdir()
    out = ("--output", tmp_path / "out")
    assert_one_line_error(script("demo.py", tmp_path / "none.jpg", *out), "none.jpg")
    assert_one_line_error(script("demo.py", tmp_path / "empty", *out), "no pictures")
    assert_one_line_error(script("demo.py", f"{tmp_path}/*.jpg", *out), "no pictures")
    assert_one_line_error(script("demo.py", "--weights", tmp_path / "none.pt", *out), "none.pt")
    assert_one_line_error(script("demo.py", "--strings", options.DEFAULT_WEIGHTS, *out), "reader.pt", "--weights")
    assert_one_line_error(script("demo.py", "--weights", options.DEFAULT_STRINGS, *out), "strings.pt", "--strings")
    with pytest.raises(UserError):
        find_pictures([str(tmp_path / "nothing")], tmp_path)


def test_a_subfolder_that_can_t_be_opened_is_said_and_the_others_are_read(tmp_path, monkeypatch, capsys):
    """Whoever runs the tests may be allowed everything; so the system's own refusal is played."""
    for name in ("open", "locked"):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(SAMPLES / "one_line.jpg", tmp_path / "in" / name)
    look = os.scandir

    def refuse(folder):
        if Path(folder).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return look(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main([str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and str(tmp_path / "in" / "locked") in errors[0]
    images = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert {image["file"]: bool(image["error"]) for image in images} == {"locked": True, "open/one_line.jpg": False}


def test_an_output_that_can_t_be_written_is_said_before_reading(tmp_path, script):
    (tmp_path / "file").write_text("in the way")
    assert_one_line_error(script("demo.py", "--output", tmp_path / "file" / "out"), "can't write")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says by DISPLAY whether it has a screen")
def test_show_without_a_screen_is_said(tmp_path, script):
    run = script("demo.py", "--show", "--output", tmp_path, DISPLAY="", WAYLAND_DISPLAY="")
    assert_one_line_error(run, "screen")


def test_a_format_without_colours_gets_a_copy_of_another(tmp_path, script):
    for name in ("a.jpg", "b.pgm", f"{'c' * 240}.jpg"):
        write_image(tmp_path / "in" / name, read_image(SAMPLES / "one_line.jpg")[..., 0])
    run = script("demo.py", tmp_path / "in", "--output", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    images = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert [image["lines"] for image in images] == [TRUTH["one_line.jpg"]] * 3
    assert (tmp_path / "out" / "b.pgm.png").exists() and (tmp_path / "out" / f"{'c' * 240}.jpg").exists()


def test_a_copy_that_can_t_be_written_loses_no_reading(tmp_path, script):
    """What is in the way of one annotated picture, a folder here, is said; all pictures are read."""
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(SAMPLES / "one_line.jpg", tmp_path / name)
    assert script("demo.py", tmp_path / "a.jpg", "--output", tmp_path / "out").returncode == 0
    (tmp_path / "out" / "a.jpg").unlink()
    (tmp_path / "out" / "a.jpg").mkdir()
    run = script("demo.py", tmp_path / "a.jpg", tmp_path / "b.jpg", "--output", tmp_path / "out")
    assert_one_line_error(run, "can't write", "a.jpg")
    images = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert [image["lines"] for image in images] == [TRUTH["one_line.jpg"]] * 2 and (tmp_path / "out" / "b.jpg").exists()


def test_nothing_of_the_user_s_is_overwritten(tmp_path, script):
    picture = tmp_path / "a.jpg"
    shutil.copy(SAMPLES / "one_line.jpg", picture)
    for name in ("results.csv", "results.json"):
        out = tmp_path / name.partition(".")[2]
        out.mkdir()
        (out / name).write_text("{}")
        assert_one_line_error(script("demo.py", picture, "--output", out), name, "would be overwritten")
        assert (out / name).read_text() == "{}" and len(list(out.iterdir())) == 1
    write_image(tmp_path / "a.jpg.png", read_image(picture))
    before = (tmp_path / "a.jpg.png").read_bytes()
    run = script("demo.py", tmp_path, "--output", tmp_path / "out", "--debug", tmp_path)
    assert_one_line_error(run, "a.jpg.png would be overwritten")
    assert (tmp_path / "a.jpg.png").read_bytes() == before


def test_pictures_of_one_stem_have_a_sheet_each_and_sheets_are_not_read(tmp_path, script):
    for name in ("a.jpg", "a.png"):
        write_image(tmp_path / name, read_image(SAMPLES / "one_line.jpg"))
    for _ in range(2):
        run = script("demo.py", tmp_path, "--output", tmp_path / "out", "--debug", tmp_path / "stages")
        assert run.returncode == 0 and "2 pictures" in run.stdout, run.stderr
    assert {sheet.name for sheet in (tmp_path / "stages").iterdir()} == {"a.jpg.png", "a.png.png"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems' file names are text")
def test_names_that_are_no_text_and_terminals_that_can_t_show_them(tmp_path, script):
    shutil.copy(SAMPLES / "one_line.jpg", tmp_path / "ümläut 漢.jpg")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.jpg")).write_text("no picture")
    run = script("demo.py", tmp_path, "--output", tmp_path / "out", PYTHONIOENCODING="ascii")
    assert_one_line_error(run, ".jpg")
    images = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert [image["file"] for image in images if image["error"] is None] == ["ümläut 漢.jpg"] and len(images) == 2


def test_whoever_reads_the_output_may_stop(tmp_path):
    """As in `python demo.py | head -1`."""
    process = start(sys.executable, ROOT / "demo.py", SAMPLES / "one_line.jpg", "--output", tmp_path)
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(60)
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_read(tmp_path, polite):
    for k in range(400):
        shutil.copy(SAMPLES / "phone.jpg", tmp_path / f"{k:03d}.jpg")
    out = tmp_path / "out"
    process = start(sys.executable, ROOT / "demo.py", tmp_path, "--output", out)
    wait_for(lambda: process.poll() is not None or (out / "002.jpg").exists())
    process.send_signal(polite)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    images = json.loads((out / "results.json").read_text())["images"]
    assert 2 <= len(images) < 400 and f"the {len(images)} of 400 pictures" in output


def test_debug_saves_a_contact_sheet(tmp_path, script):
    run = script("demo.py", SAMPLES / "one_line.jpg", "--output", tmp_path / "out", "--debug", tmp_path / "stages")
    assert run.returncode == 0, run.stderr
    sheet = read_image(tmp_path / "stages" / "one_line.jpg.png")
    assert sheet.shape[0] > 300 and sheet.std() > 10


def test_a_written_page_is_read_in_order(recognizer, unseen_digits):
    """Pages as paper.py writes them, other digits each time: every line, top to bottom."""
    images, labels = unseen_digits.images.numpy(), unseen_digits.labels.numpy()
    wrong = total = 0
    for seed in range(20):  # 360 digits: one more or less misread decides nothing
        rng = np.random.default_rng(seed)
        lines = [paper.pick(rng, images, labels, text) for text in ("271828", "314159", "161803")]
        page = paper.write_lines(rng, lines, paper.sheet(rng, (640, 480)), height=60)
        read = recognizer.read(paper.camera(rng, page.picture, blur=0.6, noise=3))
        wrong += errors_between("".join(page.lines), "".join(read.lines))
        total += 18
    assert wrong <= 0.05 * total


@pytest.mark.parametrize("ink", [0, 255])
def test_a_transparent_picture_is_laid_on_paper(tmp_path, ink):
    images, _ = mnist.load_subset()
    patch = cv2.resize(images[mnist.sample_indices()[45]], (112, 112), interpolation=cv2.INTER_CUBIC)
    layered = np.full((112, 112, 4), ink, np.uint8)
    layered[..., 3] = patch
    file = tmp_path / "drawn.png"
    cv2.imwrite(str(file), layered)
    picture = read_image(file)
    assert picture.shape == (112, 112, 3)
    assert np.abs(picture[..., 0].astype(int) - (patch if ink else 255 - patch)).max() <= 1
    turned = cv2.rotate(layered, cv2.ROTATE_180)[..., [2, 1, 0, 3]]
    exif = Image.Exif()
    exif[0x0112] = 3  # "turn me 180 degrees"
    Image.fromarray(turned).save(file, exif=exif)
    assert np.array_equal(read_image(file), picture)
    opaque = np.dstack([patch, patch, patch, np.full_like(patch, 255)])
    cv2.imwrite(str(file), opaque)
    assert np.array_equal(read_image(file), opaque[..., :3])
