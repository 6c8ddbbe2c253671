"""Makes the pictures of this folder and truth.json, what is written on them.

    python -m samples.make_samples [--output DIR]

Run it in the project's root folder. It writes with the 200 digits of data/sample_digits.json, which no training sees:
reading these pictures is an honest test. All chance comes from one seed: the same library versions make the same bytes.
A picture is a function below: its name is the file's, its docstring says what is hard about it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mnist import load_subset, sample_indices
from paper import (
    PENS,
    Line,
    Page,
    Size,
    camera,
    draw,
    grid,
    lay_out,
    light,
    put,
    ruled,
    shadow,
    sheet,
    turned,
    view,
    write_lines,
)

HERE = Path(__file__).parent
SEED = 1998
QUALITY = 88  # of the JPEG files: a phone's

Rng = np.random.Generator
Deal = Callable[..., list[Line]]  # deal("123", "45"): two lines of digits, none used twice before all were used


def dealer(rng: Rng) -> Deal:
    """A `Deal` of the 200 sample digits."""
    images, labels = load_subset()
    rows = sample_indices()
    stacks = {str(d): itertools.cycle(rng.permutation(rows[labels[rows] == d])) for d in range(10)}

    def deal(*lines: str) -> list[Line]:
        dealt = [[next(stacks[figure]) for figure in line] for line in lines]
        return [(images[line], labels[line].astype(np.int64)) for line in dealt]

    return deal


def snap(rng: Rng, page: Page, blur: float = 0.6, noise: float = 2.0, **lamp: object) -> Page:
    """The page in the light of a lamp, seen by a camera."""
    return page.seen(lambda picture: camera(rng, light(picture, **lamp), blur, noise))


def wood(rng: Rng, size: Size) -> np.ndarray:
    """A table's top: long streaks of brown, H x W x 3 uint8."""
    brightness = np.ones(size[::-1], np.float32)
    for height, strength in ((3, 0.04), (20, 0.06), (90, 0.06)):  # fibres, veins, boards: pixels high
        streaks = rng.standard_normal((size[1] // height + 2, 4), np.float32)
        brightness += strength * cv2.resize(streaks, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(brightness[..., None] * (72, 108, 150), 0, 255).astype(np.uint8)


def curve(rng: Rng, points: Sequence[tuple[float, float]], wobble: float = 0.0) -> np.ndarray:
    """A smooth stroke K x 2 through points (Catmull and Rom 1974), shaken by `wobble` pixels."""
    p = np.asarray(points, float)
    p = p + wobble * rng.standard_normal(p.shape)
    p = np.vstack((2 * p[0] - p[1], p, 2 * p[-1] - p[-2]))
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    path = b + t * (c - a) / 2 + t**2 * (a - 2.5 * b + 2 * c - d / 2) + t**3 * (1.5 * (b - c) + (d - a) / 2)
    return np.vstack((path.reshape(-1, 2), p[-2]))


# ---- the pictures ---------------------------------------------------------------------------------------------------


def one_line(rng: Rng, deal: Deal) -> Page:
    """Ballpoint on white paper, one line, soft daylight."""
    page = write_lines(rng, deal("1592704836"), sheet(rng, (1100, 420)), 80, -1, PENS["ballpoint"], at=(70, 150))
    return snap(rng, page, low=0.8, degrees=-20)


def several_lines(rng: Rng, deal: Deal) -> Page:
    """Four lines of different lengths, a fineliner."""
    lines = deal("3141592653", "589793", "23846264338", "3279")
    page = write_lines(rng, lines, sheet(rng, (1100, 800)), 72, [1, 0, 2, 1], PENS["fineliner"], (90, 80), leading=0.9)
    return snap(rng, page, low=0.75, degrees=140, vignette=0.1)


def slanted(rng: Rng, deal: Deal) -> Page:
    """Lines that rise steeply, blue ink."""
    lines = deal("48641330", "15792201", "9007")
    page = write_lines(rng, lines, sheet(rng, (1000, 760)), 80, 17, PENS["blue"], (120, 90), leading=0.6)
    return snap(rng, page, low=0.7, degrees=200, vignette=0.15)


def crooked(rng: Rng, deal: Deal) -> Page:
    """Every line goes its own way: up, down, level."""
    lines = deal("271828", "18284590", "4523")
    page = write_lines(rng, lines, sheet(rng, (1000, 800)), 72, [7, -9, 1], PENS["ballpoint"], leading=0.4)
    return snap(rng, page, low=0.75, degrees=60)


def big_and_small(rng: Rng, deal: Deal) -> Page:
    """Digits of very different sizes on one sheet."""
    lines, sizes = deal("603", "8451972", "77250"), [230, 48, 100]
    page = write_lines(rng, lines, sheet(rng, (1000, 740)), sizes, 2, replace(PENS["ballpoint"], width=0.06), (150, 90))
    return snap(rng, page, low=0.7, degrees=-130)


def marker(rng: Rng, deal: Deal) -> Page:
    """A thick felt pen."""
    page = write_lines(rng, deal("40961", "65537"), sheet(rng, (1000, 620)), 150, 3, PENS["marker"], (90, 80))
    return snap(rng, page, low=0.7, degrees=30, vignette=0.2)


def red_ink(rng: Rng, deal: Deal) -> Page:
    """Red ink on yellowish paper in lamplight."""
    paper = sheet(rng, (900, 480), (205, 232, 238))
    page = write_lines(rng, deal("161803", "398874"), paper, 90, -4, PENS["red"], (130, 90))
    return snap(rng, page, low=0.65, degrees=170, tint=(0.82, 0.95, 1.0))


def pencil(rng: Rng, deal: Deal) -> Page:
    """Faint, grainy pencil."""
    lines = deal("141421", "356237", "3095")
    page = write_lines(rng, lines, sheet(rng, (900, 620), grain=2.5), 90, 2, PENS["pencil"], (110, 80))
    return snap(rng, page, low=0.75, degrees=80, vignette=0.1)


def uneven_light(rng: Rng, deal: Deal) -> Page:
    """A lamp close by: the far side of the sheet lies nearly in the dark."""
    lines = deal("17320508", "07568877")
    page = write_lines(rng, lines, sheet(rng, (1100, 560)), 96, -3, PENS["blue"], (190, 100), leading=0.7)
    return snap(rng, page, noise=3, low=0.22, degrees=15, vignette=0.2, tint=(0.85, 0.95, 1.0))


def hard_shadow(rng: Rng, deal: Deal) -> Page:
    """The sharp shadow of a phone and the softer one of the hand that holds it cut through the digits."""
    lines = deal("22360679", "77499789", "69641")
    page = write_lines(rng, lines, sheet(rng, (1000, 660)), 86, 4, PENS["ballpoint"], (120, 90))
    phone = [(0.36, 0.35), (0.72, 0.22), (1.02, 0.92), (0.62, 1.1)]
    hand = [(0.84, 0.52), (1.1, 0.45), (1.2, 1.2), (0.8, 1.2)]
    page = page.seen(lambda picture: shadow(shadow(picture, phone, 0.5, 0.006), hand, 0.3, 0.02))
    return snap(rng, page, low=0.8, degrees=210)


def ruled_paper(rng: Rng, deal: Deal) -> Page:
    """An exercise book: printed rules and a red margin that the digits stand on and cross."""
    pitch = 84
    page = Page(ruled(sheet(rng, (1050, 760)), pitch, width=2, start=120))
    page = page.seen(lambda p: draw(rng, p, [np.array([(150, 0), (150, 760)])], 2, replace(PENS["red"], opacity=0.5)))
    lines = lay_out(rng, deal("8366600265", "34075547", "978"), 68, 0, PENS["blue"], pitch=2 * pitch)
    page = put(rng, lines, page, (190, 120 + pitch - int(lines.baselines[0])))
    page = view(page, turned((1050, 760), 2.5, (0.02, 0.03), 1.12), (1050, 760))
    return snap(rng, page, low=0.7, degrees=-40, vignette=0.1)


def squared_paper(rng: Rng, deal: Deal) -> Page:
    """Squared paper from a maths pad."""
    page = Page(grid(sheet(rng, (1050, 760)), 38, width=1.6))
    lines = deal("4472135", "954999", "5793")
    page = write_lines(rng, lines, page, 86, [1, 2, 0], PENS["ballpoint"], (170, 130), leading=0.7)
    page = view(page, turned((1050, 760), -3, (-0.03, 0.02), 1.12), (1050, 760))
    return snap(rng, page, low=0.65, degrees=120)


def blackboard(rng: Rng, deal: Deal) -> Page:
    """White chalk on a wiped blackboard."""
    board = sheet(rng, (1100, 740), (58, 72, 52), grain=2)
    wipes = [curve(rng, [(x, 740), (x + 150, 400), (x - 100, 150), (x + 80, -20)], 40) for x in range(0, 1300, 130)]
    for wipe in wipes:
        board = draw(rng, board, [wipe], 90, replace(PENS["chalk"], opacity=0.05, grain=0.4))
    page = write_lines(rng, deal("69314", "718055", "994"), board, 120, [3, 1, 2], PENS["chalk"], (170, 70))
    return snap(rng, page, low=0.65, degrees=-60, vignette=0.15)


def phone(rng: Rng, deal: Deal) -> Page:
    """A phone's photo, 3 megapixels: the sheet lies askew on a table, seen at an angle."""
    size, frame = (1500, 1060), (2000, 1500)
    lines = deal("2645751", "311064590", "59050161")
    page = write_lines(rng, lines, sheet(rng, size), 125, [2, 3, 1], PENS["blue"], (110, 130), leading=0.7)
    matrix = turned(size, -7, (0.05, -0.12), 1.12, frame=frame)
    edge = view(Page(np.full((size[1], size[0], 3), 255, np.uint8)), matrix, frame, (0, 0, 0)).picture[..., 0]
    below = cv2.GaussianBlur(np.roll(edge, (14, 10), (0, 1)), (0, 0), 12).astype(np.float32) / 255
    table = (wood(rng, frame) * (1 - 0.55 * below[..., None])).astype(np.uint8)  # the sheet's own shadow
    page = view(page, matrix, frame, table)
    page = page.seen(lambda picture: shadow(picture, [(0.72, 1.1), (0.8, 0.62), (1.2, 0.5), (1.2, 1.2)], 0.35, 0.05))
    return snap(rng, page, blur=0.9, noise=1.5, low=0.6, degrees=-30, vignette=0.15, tint=(0.9, 0.97, 1.0))


def single(rng: Rng, deal: Deal) -> Page:
    """One big digit."""
    page = write_lines(rng, deal("5"), sheet(rng, (600, 600)), 360, 3, PENS["ballpoint"], (130, 120))
    return snap(rng, page, low=0.6, degrees=45)


def form(rng: Rng, deal: Deal) -> Page:
    """A digit in each box of a printed form."""
    side, tall = 84, 104
    corners = np.array([(0, 0), (side, 0), (side, tall), (0, tall), (0, 0)])
    frames = [corners + np.array((70 + number * (side + 12), 130)) for number in range(10)]
    printed = replace(PENS["fineliner"], colour=(120, 100, 90))
    page = Page(draw(rng, sheet(rng, (1100, 420)), frames, 2, printed))
    for frame, line in zip(frames, deal(*"0123456789")):
        digit = lay_out(rng, [line], 62, 0, PENS["ballpoint"])
        corner = np.rint(frame[0] + (np.array((side, tall)) - digit.size) / 2 + rng.normal(0, 3, 2))
        page = put(rng, digit, page, (int(corner[0]), int(corner[1])))
    page = replace(page, line=np.zeros_like(page.line))  # written one by one, read as one line
    return snap(rng, page, low=0.7, degrees=-150)


def webcam(rng: Rng, deal: Deal) -> Page:
    """A webcam's frame, 640x480: 18 digits in three lines, held up, noisy."""
    size = (640, 480)
    page = write_lines(rng, deal("157922", "486413", "300987"), sheet(rng, size), 68, 2, PENS["marker"], (70, 60))
    page = view(page, turned(size, 3, (0.04, 0.02), 1.02), size, (62, 70, 74))
    return snap(rng, page, blur=0.8, noise=2, low=0.6, degrees=160, vignette=0.2)


def empty_ruled(rng: Rng, deal: Deal) -> Page:
    """An empty page with rules in uneven light: nothing to read."""
    page = Page(ruled(sheet(rng, (1000, 750)), 58, width=2, start=110))
    page = page.seen(lambda p: draw(rng, p, [np.array([(140, 0), (140, 750)])], 2, replace(PENS["red"], opacity=0.5)))
    page = view(page, turned((1000, 750), -4, (0.03, -0.04), 1.15), (1000, 750))
    page = page.seen(lambda picture: shadow(picture, [(-0.1, 0.6), (0.5, 0.75), (0.6, 1.2), (-0.1, 1.2)], 0.4, 0.03))
    return snap(rng, page, low=0.4, degrees=25, vignette=0.2)


def no_digit(rng: Rng, deal: Deal) -> Page:
    """A used sheet: a coffee stain, punched holes, a staple, a fold and crumbs, and nothing to read."""
    picture = sheet(rng, (1000, 750))
    coffee = replace(PENS["fineliner"], colour=(95, 140, 180), opacity=0.5, grain=0.0)
    for x, y, width in ((680, 230, 190), (740, 245, 170), (560, 330, 50), (850, 190, 34), (600, 500, 26)):
        picture = draw(rng, picture, [np.array([(x, y), (x + 8, y + 5)])], width, coffee)
    dark = replace(PENS["fineliner"], colour=(60, 66, 72))
    for y in (250, 500):
        picture = draw(rng, picture, [np.array([(52, y), (52.5, y)])], 34, dark)
    picture = draw(rng, picture, [np.array([(190, 60), (238, 44)])], 4, replace(dark, colour=(120, 118, 115)))
    fold = curve(rng, [(0, 395), (500, 388), (1000, 392)], 1.0)
    picture = draw(rng, picture, [fold], 3, replace(PENS["pencil"], opacity=0.25))
    crumbs = rng.uniform((0, 0), (1000, 750), (40, 2))
    picture = draw(rng, picture, [np.stack((c, c + rng.normal(0, 1.5, 2))) for c in crumbs], 3, PENS["pencil"])
    return snap(rng, Page(picture), low=0.65, degrees=-120, vignette=0.1)


PICTURES = (
    *(one_line, several_lines, slanted, crooked, big_and_small, marker, red_ink, pencil, uneven_light, hard_shadow),
    *(ruled_paper, squared_paper, blackboard, phone, single, form, webcam, empty_ruled, no_digit),
)
LOSSLESS = (webcam,)  # a camera's frame comes uncompressed, a photo as JPEG


def truth(file: str, page: Page, note: str) -> dict:
    """What is on a picture, in the form of results.json's images."""
    digits = [
        {"digit": int(label), "box": box.tolist(), "line": int(line), "position": int(position)}
        for label, box, line, position in zip(page.labels, page.boxes, page.line, page.position)
    ]
    height, width = page.picture.shape[:2]
    return {"file": file, "note": note, "width": width, "height": height, "lines": page.lines, "digits": digits}


def main(argv: list[str] | None = None) -> int:
    """Write every picture and truth.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR", help="where to (default: this folder)")
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    deal, rows = dealer(np.random.default_rng(SEED)), []
    for number, picture in enumerate(PICTURES):
        page = picture(np.random.default_rng([SEED, number]), deal)
        kind, settings = ("png", ()) if picture in LOSSLESS else ("jpg", (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        file = f"{picture.__name__}.{kind}"
        cv2.imencode(f".{kind}", page.picture, settings)[1].tofile(output / file)
        rows.append(json.dumps(truth(file, page, picture.__doc__)))
    (output / "truth.json").write_text('{"images": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
