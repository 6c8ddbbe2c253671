"""Training digits as a camera sees them: MNIST's written on paper with strokes that are no digits, and cut out again.

A network trained on MNIST alone has never seen what segmentation.py hands to it, nor anything that is not a digit. So
random pages are composed by paper.py and read by segmentation.py; what came out is compared with what was written:

    images, labels = cut_pages(range(100), digits, digit_labels, seed=0)     # n x 28 x 28 uint8; 0..9, 10 = not a digit

or, on every processor and kept in a file for the next time:

    images, labels = written(2000, digits, digit_labels, seed=0, cache=Path("runs"))

Letters and operators are written stroke by stroke, or drawn in OpenCV's fonts, and bent as a hand bends them. The same
seed gives the same pages, however many processes make them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import paper
import segmentation
import touching
from LeNet_5 import NOT_A_DIGIT, NOTHING
from paper import PENS, Page
from parts import Part, whole
from segmentation import BOX, PATCH, segment
from utils import write_atomically


def _signs(text: str) -> dict[str, list[str]]:
    """Each sign's forms from a text of sign:strokes."""
    signs: dict[str, list[str]] = {}
    for entry in text.split():
        signs.setdefault(entry[0], []).append(entry[2:])
    return signs


# How a hand writes them: strokes, of each point x (0..4) and y (0..8; capitals 0 to 6, small letters 2 to 6). Left out
# is what nobody can tell from a 0 or a 1 without its neighbours: O o I l i | / ! and points and commas.
LETTERS = _signs("""
    A:062046/1434 B:0006/003041423303/033344453606 C:4130100105163645 D:0006/002042442606 E:40000646/0333
    F:400006/0333 G:41301001051636454323 H:0006/4046/0343 J:3035261605 K:0006/400346 L:000646 M:0600234046
    N:06004640 P:06003041423303 Q:100105163645413010/2447 R:06003041423303/2346 S:413010010213334445361605
    T:0040/2026 U:000516364540 V:002640 W:0016233640 X:0046/4006 Y:002326/4023 Z:00400646
    a:4332120305163645/4246 a:12314246/43130405163645 b:0006/0312324345361605 c:4332120305163645 d:4332120305163645/4046
    e:04444332120305163645 f:41302126/0333 g:4332120305163645/4247381807 h:0006/0312324346 j:22271807
    k:0006/420446 m:0206/0312222326/2332424346 n:0206/0312324346 p:0208/0312324345361605
    q:4332120305163645/4248 r:0206/031232 s:43321203143445361605 t:2025263645/0242 u:0205163645/4246 t:20252636/0232
    v:022642 w:0216233642 x:0246/4206 y:0225/4208 z:02420646
""")
OPERATORS = _signs("""
    +:2226/0444 -:0444 =:0343/0545 *:2226/0345/4305 %:4006/0010110100/3545463635 ?:01103041322324/2627
    &:4612112031220405162643 @:343323243444434130100105163646 #:1016/3036/0242/0444
    $:413010010213334445361605/2027 (:30111536 ):10313516 [:30101636 ]:10303616 {:30212213242536
    (:3012141638 (:2012141628 ):1032343618 ):2032343628 [:20101828 ]:20303828 ?:01103041322324 ?:02103042332425
    >:024406 >:003408 >:024304 >:014307 <:420446 <:401448 <:420344 <:410447
    }:10212233242516 <:410345 >:014305 ~:04133544 ^:042144
""")
GREEK = _signs("√:04152640 π:0242/1216/3236 Σ:4000230646 θ:20010526454120/0446")
# Forms that MNIST's writers, Americans of 1990, hardly use: a 1 with a flag, a crossed 7, a closed 4.
OTHER_FORMS = _signs("""
    0:20010526454120 1:022026 1:032026 1:042026 1:052026 1:022026/0646 2:0110304142060646 3:0040234345361605
    3:0110304132231323344445361605 4:300444/3036 4:100444/3236 4:200444/3236 4:100444/3036 5:400003334445361605
    5:0003334445361605/0040 6:4011040516364544331304 7:004016 7:004016/0343 7:01004016/1333 7:01004026/1444
    7:0110304026/1343 8:3010010213334445361605041333424130 9:4130100102133342/4046 9:4130100102133342/404536
""")
FACES = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)  # Pillow's: for tests
TURNED, MIRRORED = (2, 3, 4, 5, 6, 7, 9), (3, 4, 6, 7, 9)  # digits that a quarter turn or a mirror makes none
Patches = tuple[np.ndarray, np.ndarray]  # n x 28 x 28 uint8 and their labels, n int64
CANVAS = 96  # pixels that a symbol is drawn in before it becomes a patch
OTHERS = 0.16  # of the digits on pages and in strings are not MNIST's
STRINGS, SIGNS = 8, 20  # of touching digits, and alone, for each page
CLEAN = 0.75  # of the strings are cut from clean ink, the others found on paper
STRIPS, LONGEST, WIDTH = 40, 3, 104  # strings a page as strips, signs of one at most, and pixels that a strip is wide
# How many of those of several signs have one that is no digit, and how many have nothing but such: words. Few, for they
# are hard to read, and what is hard is seen often.
SIGNS_TOO = WORDS = 0.08
PER_CHUNK = 16  # pages that a process makes at a time


# ---- what is not a digit --------------------------------------------------------------------------------------------


def fit(ink: np.ndarray) -> np.ndarray:
    """Ink (h x w uint8, bright on 0) as a patch of MNIST's form: 20 x 20 in 28 x 28, its mass in the middle.

    ValueError where there is none.
    """
    x, y, w, h = cv2.boundingRect((ink > 64).astype(np.uint8))
    if not w:
        raise ValueError("there is no ink to fit into a patch")
    scale = BOX / max(w, h)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(ink[y : y + h, x : x + w], size, interpolation=cv2.INTER_AREA)
    moments = cv2.moments(small)
    corner = [PATCH / 2 - 0.5 - moments[m] / max(moments["m00"], 1) for m in ("m10", "m01")]
    left, top = (int(np.clip(round(c), 0, PATCH - n)) for c, n in zip(corner, size))
    patch = np.zeros((PATCH, PATCH), np.uint8)
    patch[top : top + size[1], left : left + size[0]] = small
    return patch


def symbol(text: str, face: int | None, thickness: int = 5) -> np.ndarray:
    """A letter or operator, CANVAS x CANVAS uint8, bright on 0, in one of OpenCV's fonts (None: Pillow's own)."""
    if face is None:
        picture = Image.new("L", (CANVAS, CANVAS))
        ImageDraw.Draw(picture).text((CANVAS / 2,) * 2, text, 255, ImageFont.load_default(size=56), anchor="mm")
        return np.array(picture)
    ink = np.zeros((CANVAS, CANVAS), np.uint8)
    (w, h), below = cv2.getTextSize(text, face, 1.0, 1)
    scale = 58 / max(w, h + below)
    at = (round((CANVAS - scale * w) / 2), round((CANVAS + scale * (h - below)) / 2))
    cv2.putText(ink, text, at, face, scale, 255, thickness, cv2.LINE_AA)
    return ink


def handwritten(rng: np.random.Generator, strokes: str, thickness: int) -> np.ndarray:
    """A sign written by hand, CANVAS x CANVAS uint8, bright on 0. strokes: as in LETTERS.

    Now and then with a broad nib, whose strokes are thick in one direction and thin in the other, or with serifs.
    """
    lines = []
    wide, round_off, shaky = rng.uniform(0.6, 1.1), int(rng.integers(0, 3)), rng.uniform(0.03, 0.2)
    serif = rng.uniform(0.3, 0.7) if rng.random() < 0.15 else 0.0
    for stroke in strokes.split("/"):
        points = np.array([int(c) for c in stroke], float).reshape(-1, 2) - (2, 4)
        points = (points + rng.normal(0, shaky, points.shape)) * (wide, 1)
        if serif:
            lines += [np.add(end, [[-serif, 0], [serif, 0]]) for end in (points[0], points[-1])]
        for _ in range(round_off):  # Chaikin's corner cutting
            between = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1)
            points = np.vstack([points[:1], between.reshape(-1, 2), points[-1:]])
        lines.append(points)
    lines = [np.rint((CANVAS / 2 + 9 * points) * 16).astype(np.int32) for points in lines]
    ink = np.zeros((CANVAS, CANVAS), np.uint8)
    if thickness > 4 and rng.random() < 0.25:
        cv2.polylines(ink, lines, False, 255, 2, cv2.LINE_AA, 4)
        nib = np.zeros((thickness, thickness), np.uint8)
        angle = rng.uniform(0, np.pi)
        reach = (thickness - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
        ends = np.rint((thickness - 1) / 2 + np.outer((-1, 1), reach)).astype(int).tolist()
        cv2.line(nib, *ends, 1)
        return cv2.dilate(ink, nib)
    cv2.polylines(ink, lines, False, 255, thickness, cv2.LINE_AA, 4)
    return ink


def drawing(rng: np.random.Generator, thickness: int = 5) -> np.ndarray:
    """A scribble, figure or blob, CANVAS x CANVAS uint8, bright on 0."""
    turn = np.linspace(0, 1, 64)
    around = 2 * np.pi * turn
    kind = rng.integers(9)
    if kind == 0:  # a polygon or a star, open or closed
        n = int(rng.integers(3, 8))
        angle = 2 * np.pi * np.arange(n) / n + rng.uniform(0, 7)
        order = np.arange(n) * (2 if n > 4 and rng.random() < 0.5 else 1) % n
        strokes = [np.stack([np.cos(angle), np.sin(angle)], 1)[[*order, order[0]]]]
        strokes[0] *= rng.uniform(0.5, 1, 2)
    elif kind == 1:  # zigzag or wave
        n = int(rng.integers(2, 6))
        x = 2 * turn - 1
        wave = np.sin(n * around) if rng.random() < 0.5 else 2 * np.abs(2 * (n * turn % 1) - 1) - 1
        strokes = [np.stack([x, rng.uniform(0.2, 0.9) * wave], 1)]
    elif kind == 2:  # spiral
        r = turn * rng.uniform(1.6, 3.5)
        strokes = [np.stack([np.cos(2 * np.pi * r), np.sin(2 * np.pi * r)], 1) * turn[:, None]]
    elif kind == 3:  # arrow
        tip, size = np.array([1.0, 0.0]), rng.uniform(0.3, 0.7)
        barbs = np.array([[1 - size, -size], tip, [1 - size, size]])
        strokes = [np.array([[-1, 0], tip]), barbs]
    elif kind == 4:  # a face or a ringed thing
        circle = np.stack([np.cos(around), np.sin(around)], 1)
        inner = 0.45 * circle, 0.9 * circle * (1, 0.1), 0.9 * circle * (0.1, 1)
        mouth = np.stack([0.5 * np.cos(around / 2), 0.2 + 0.4 * np.sin(around / 2)], 1)
        eyes = (0.2 * circle + (x, -0.3) for x in (-0.4, 0.4))
        strokes = [circle, mouth, *eyes] if rng.random() < 0.5 else [circle, inner[rng.integers(3)]]
    elif kind == 5:  # hatching, a grid
        n = int(rng.integers(2, 5))
        places = np.linspace(-0.8, 0.8, n)
        strokes = [np.array([[x, -1], [x + rng.uniform(-0.3, 0.3), 1]]) for x in places]
        if rng.random() < 0.6:
            strokes += [np.array([[-1, y], [1, y + rng.uniform(-0.3, 0.3)]]) for y in places]
    elif kind == 6:  # strokes that cross or meet anywhere
        strokes = [rng.uniform(-1, 1, (2, 2)) for _ in range(rng.integers(2, 6))]
    else:  # scribble: a hand that wanders
        points = cv2.GaussianBlur(rng.standard_normal((1, 64, 2)), (0, 0), rng.uniform(2.5, 6))[0]
        points -= points.min(0)
        strokes = [2 * points / points.max() - 1]
    ink = np.zeros((CANVAS, CANVAS), np.uint8)
    lines = [np.rint((CANVAS / 2 + 0.4 * CANVAS * s) * 16).astype(np.int32) for s in strokes]
    if kind in (0, 8) and rng.random() < 0.3:  # a blob
        cv2.fillPoly(ink, lines, 255, cv2.LINE_AA, 4)
    cv2.polylines(ink, lines, False, 255, thickness, cv2.LINE_AA, 4)
    return ink


def bent(rng: np.random.Generator, ink: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Ink as a hand would bend it: turned, slanted, stretched and pulled about; same size, uint8."""
    height, width = ink.shape
    matrix = np.eye(2) + strength * rng.normal(0, 0.12, (2, 2)) + [[0, strength * rng.normal(0, 0.12)], [0, 0]]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    pull = strength * 0.035 * width * rng.standard_normal((6, 6, 2), np.float32)
    pull = cv2.resize(pull, (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = xs - width / 2, ys - height / 2
    map_x = matrix[0, 0] * x + matrix[0, 1] * y + width / 2 + pull[..., 0]
    map_y = matrix[1, 0] * x + matrix[1, 1] * y + height / 2 + pull[..., 1]
    return cv2.remap(ink, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)


def no_digit(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A patch (28 x 28 uint8) of something to be written that is not a digit: a letter, operator or drawing.

    Or one of the digits (N x 28 x 28 uint8, N labels), turned or mirrored: a hand's strokes, and no digit any more.
    """
    if rng.random() < 0.1:
        row = rng.integers(len(images))
        quarters, mirrored = ((1, False), (3, False), (0, True))[rng.integers(3)]
        if labels[row] in (MIRRORED if mirrored else TURNED):
            return np.rot90(images[row][:, ::-1] if mirrored else images[row], quarters).copy()
    kind, thickness = rng.random(), int(rng.integers(3, 10))
    signs = LETTERS if rng.random() < 0.55 else OPERATORS
    if kind < 0.5:
        ink = handwritten(
            rng, str(rng.choice([form for forms in (*signs.values(), *GREEK.values()) for form in forms])), thickness
        )
    elif kind < 0.75:
        ink = symbol(str(rng.choice(list(signs))), int(rng.choice(FACES)), thickness)
    else:
        ink = drawing(rng, thickness)
    return fit(bent(rng, ink, 1.0 if kind < 0.75 else 0.6))


def other_digit(rng: np.random.Generator, digit: int) -> np.ndarray:
    """A patch (28 x 28 uint8) of a digit in a form that MNIST hardly has."""
    return fit(bent(rng, handwritten(rng, str(rng.choice(OTHER_FORMS[str(digit)])), int(rng.integers(3, 10))), 0.8))


def strip_of(rng: np.random.Generator, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digits (n x 28 x 28 uint8) in a row, each touching the next: H x W uint8, and whose ink is where, n x H x W bool.

    Neighbours overlap by 0 to 25 % of the narrower one's width, and more where that does not make them touch.
    """
    strip = np.zeros((PATCH + 8, (len(digits) + 1) * PATCH), np.uint8)
    owners = np.zeros((len(digits), *strip.shape), bool)
    right = last = 0
    for digit, owner in zip(digits, owners):
        ink = fit(digit)
        x, y, w, h = cv2.boundingRect((ink > 64).astype(np.uint8))
        ink, top = ink[y : y + h, x : x + w], 4 + y + int(rng.integers(-2, 3))
        left = max(0, right - round(float(rng.uniform(0, 0.25)) * min(w, last)))
        grown = cv2.dilate((strip > 128).astype(np.uint8), np.ones((3, 3), np.uint8))
        while left > 0 and not (grown[top : top + h, left : left + w] & (ink > 128)).any():
            left -= 1
        place = np.s_[top : top + h, left : left + w]
        strip[place] = np.maximum(strip[place], ink)
        owner[place] = ink > 100
        right, last = left + w, w
    return strip[:, :right], owners[:, :, :right]


def seen(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """Ink (h x w uint8, bright on 0) as a camera sees it: blurred, noisy, its contrast stretched."""
    ink = cv2.GaussianBlur(ink, (0, 0), rng.uniform(0.3, max(0.3, 0.03 * len(ink))))
    ink = cv2.add(ink, rng.normal(0, rng.uniform(0, 10), ink.shape), dtype=cv2.CV_8U)
    return cv2.convertScaleAbs(ink, alpha=rng.uniform(1.0, 1.3))


def enlarged(strip: np.ndarray, owners: np.ndarray, zoom: float, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """What `strip_of` gives, `zoom` times as large; smooth: drawn anew with clean edges, as a pen would."""
    if not smooth:
        size = tuple(int(n * zoom) for n in strip.shape[::-1])
        ink = cv2.resize(strip, size, interpolation=cv2.INTER_CUBIC)
        return ink, np.stack([cv2.resize(owner.astype(np.uint8), size) > 0 for owner in owners])
    ink = np.uint8(255 * paper.ink_of(strip, zoom * BOX)[0])
    corner, old = (np.array(cv2.boundingRect((n > 127).astype(np.uint8))[:2]) for n in (ink, strip))
    matrix = np.column_stack([zoom * np.eye(2), corner - zoom * old])
    return ink, np.stack([cv2.warpAffine(owner.astype(np.uint8), matrix, ink.shape[::-1]) > 0 for owner in owners])


def random_strip(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, signs_too: float = 0.25, words: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One to three touching digits and signs: what `strip_of` gives, and n labels.

    signs_too: how often one of several is no digit. words: how often, of the others, none is one.
    """
    rows = rng.integers(len(images), size=1 + int(rng.choice(LONGEST, p=[0.2, 0.4, 0.4])))
    signs, names = images[rows].copy(), labels[rows].copy()
    for k in np.flatnonzero(rng.random(len(rows)) < OTHERS):  # a 1 with a flag is no 11
        signs[k] = other_digit(rng, int(names[k]))
    if rng.random() < (signs_too if len(rows) > 1 else 0.6):  # % is no 96
        signs[0], names[0] = no_digit(rng, images, labels), NOT_A_DIGIT
    elif words and len(rows) > 1 and rng.random() < words:  # without words nothing is drawn for them
        signs, names = np.stack([no_digit(rng, images, labels) for _ in rows]), np.full(len(rows), NOT_A_DIGIT)
    order = rng.permutation(len(rows))
    return *strip_of(rng, signs[order]), names[order]


def on_paper(rng: np.random.Generator, strip: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `strip_of` gives, written on a small page: H x W x 3 BGR, and whose ink is where, n x H x W bool."""
    height, slope = float(np.exp(rng.uniform(np.log(24), np.log(75)))), float(rng.normal(0, 5))
    pen = random_pen(rng)
    if rng.random() < 0.6:
        pen = replace(pen, width=None)
    writing = paper.lay_out(rng, [([strip], [0])], height, slope, pen, unsteady=0.0)
    corner, room = rng.integers(10, 45, (2, 2))  # at least 10 pixels of paper on each side
    size = tuple((writing.size + corner + room).tolist())
    sheet = paper.sheet(rng, size, random_paper(rng), rng.uniform(0.5, 2.5))
    page = paper.put(rng, writing, paper.light(sheet, rng.uniform(0.5, 1), rng.uniform(0, 360)), corner)
    where = paper.carried(owners, strip, height, slope, pen.width, writing.places[0] + corner, size)
    return random_camera(rng, page, height, 0.5).picture, where


def owned(parts: list[Part], digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels of each of P parts n digits (n x H x W, 0 or 1) own, P x n; and how many it has, P."""
    numbers = np.arange(len(digits))[:, None]
    bits = np.arange(2 ** len(digits)) >> numbers & 1  # which digits own a pixel, as the bits of one number
    owners = np.tensordot(1 << numbers[:, 0], digits, 1).astype(np.uint8)
    pixels = np.array(
        [
            cv2.calcHist([owners[y0:y1, x0:x1]], [0], part.mask, [bits.shape[1]], [0, bits.shape[1]]).ravel()
            for part in parts
            for x0, y0, x1, y1 in [part.box]
        ]
    )
    return pixels @ bits.T, pixels.sum(axis=1)


def shown(
    rng: np.random.Generator, strip: np.ndarray, owners: np.ndarray
) -> tuple[np.ndarray, list[Part], np.ndarray, float, float] | None:
    """What `strip_of` gives as segmentation sees it: three of four from clean ink, the others found on paper.

    The ink picture (h x w uint8), the parts that the string is in, whose ink is where (n x h x w uint8), a digit's
    height and the line's slope (radians). None where nothing was found.
    """
    if rng.random() < CLEAN:
        ink, where = enlarged(strip, owners, rng.uniform(1.1, 2.4), smooth=rng.random() < 0.6)
        ink = seen(rng, ink)
        return ink, [whole(ink)], where.astype(np.uint8), 0.7 * len(ink), float(rng.normal(0, 0.1))
    picture, where = on_paper(rng, strip, owners)
    found = segmentation.find(picture)
    if not len(found.digits):
        return None
    line = np.flatnonzero(found.lines == np.bincount(found.lines).argmax())
    where = [cv2.resize(n.astype(np.uint8), found.ink.shape[::-1], interpolation=cv2.INTER_NEAREST) for n in where]
    height, slope = touching.line_heights(found)[line[0]], found.slopes[line[0]]
    return found.ink, [found.digits[k] for k in line], np.stack(where), float(height), float(slope)


def write_strips(numbers: Iterable[int], images: np.ndarray, labels: np.ndarray, seed: int) -> Patches:
    """The strings of pages of these numbers as strips: n x 28 x WIDTH uint8, and what they say, n x LONGEST int64.

    The signs from the left: 0..9, 10: not a digit, NOTHING after the last.
    """
    strips, truth = [], []
    for number in numbers:
        rng = np.random.default_rng([seed, number, STRIPS])
        for _ in range(STRIPS):
            strip, owners, names = random_strip(rng, images, labels, SIGNS_TOO, WORDS)
            string = shown(rng, strip, owners)
            if string is None:
                continue
            ink, chain, _, _, slope = string
            strip = segmentation.strip(ink, reduce(Part.merged, chain), slope)
            if strip.shape[1] <= WIDTH:
                strips.append(cv2.copyMakeBorder(strip, 0, 0, 0, WIDTH - strip.shape[1], cv2.BORDER_CONSTANT))
                truth.append(np.pad(names, (0, LONGEST - len(names)), constant_values=NOTHING))
    return np.array(strips), np.array(truth, np.int64)


def cut_strings(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, number: int) -> Patches:
    """What touching.py's candidate cuts make of strings of touching digits: right ones and as many wrong ones."""
    patches, truth = [np.zeros((0, PATCH, PATCH), np.uint8)], []
    for _ in range(number):
        strip, owners, names = random_strip(rng, images, labels)
        string = shown(rng, strip, owners)
        if string is None:
            continue
        ink, chain, where, height, slope = string
        whole = reduce(Part.merged, chain)
        pieces = list(touching.candidates(ink, chain, height)[0].values())
        if not pieces:
            continue
        # What is found is broader than what was written: each of its places belongs to the nearest digits.
        far = np.stack([cv2.distanceTransform(1 - digit, cv2.DIST_L2, 3) for digit in where])
        digits = ((far <= far.min(0) + 0.7) & (far < 0.12 * height + 2)).astype(np.uint8)
        own, size = owned([*pieces, whole], digits)
        recall, purity = own[:-1] / np.maximum(1, own[-1]), own[:-1] / np.maximum(1, size[:-1, None])
        alike = recall * purity / np.maximum(recall + purity - recall * purity, 1e-9)  # intersection over union
        best = recall.argmax(axis=1)
        several = (recall > 0.6).sum(axis=1) > 1
        recall, purity = (n[np.arange(len(pieces)), best] for n in (recall, purity))
        right = (recall > 0.85) & (purity > 0.8)
        for digit, piece in enumerate(alike.argmax(axis=0)):  # the best that cuts can do, if it is nearly right
            right[piece] |= best[piece] == digit and alike[piece, digit] > 0.6
        wrong = ~right & ((recall < 0.65) | (purity < 0.6) | several)
        right = rng.permutation(np.flatnonzero(right))
        right = np.concatenate([right[best[right] == digit][:2] for digit in range(len(names))])  # many are nearly one
        # The hardest wrong ones are few: a digit with all of a neighbour, mostly a 1.
        hard, easy = (rng.permutation(np.flatnonzero(wrong & which)) for which in (several, ~several))
        kept = np.concatenate([right, hard[: (1 + len(right)) // 2], easy[: 1 + len(right) // 2]])
        beside = whole if rng.random() < 0.8 else None  # strokes also come apart where nothing is known of the rest
        patches.append(segmentation.patches(ink, [pieces[k] for k in kept], [slope] * len(kept), beside))
        truth += [*names[best[right]], *[NOT_A_DIGIT] * (len(kept) - len(right))]
    return np.concatenate(patches), np.array(truth, np.int64)


def cut_signs(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, number: int) -> Patches:
    """Signs as segmentation cuts them out of paper: three that are no digits for each digit of another form."""
    patches, truth = [], []
    for _ in range(number):
        digit = int(rng.integers(10)) if rng.random() < 0.25 else NOT_A_DIGIT
        sign = no_digit(rng, images, labels) if digit == NOT_A_DIGIT else other_digit(rng, digit)
        ink = seen(rng, cv2.resize(sign, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
        patches.append(segmentation.patches(ink, [whole(ink)], [rng.normal(0, 0.1)]))
        truth.append(digit)
    return np.concatenate(patches), np.array(truth, np.int64)


# ---- pages ----------------------------------------------------------------------------------------------------------


def random_pen(rng: np.random.Generator) -> paper.Pen:
    """One of the pens, of another width, colour, pressure and roughness."""
    pen = PENS[str(rng.choice(["ballpoint", "blue", "red", "fineliner", "marker", "pencil"]))]
    colour = np.clip(np.array(pen.colour) + rng.normal(0, 18, 3), 0, 200)
    return paper.Pen(
        tuple(colour.tolist()),
        None if rng.random() < 0.2 else float(rng.uniform(0.035, 0.17)),
        float(np.clip(pen.opacity + rng.uniform(-0.25, 0.05), 0.35, 1)),
        float(rng.uniform(0, 0.7)) if rng.random() < 0.4 else pen.grain,
    )


def random_paper(rng: np.random.Generator) -> tuple[float, ...]:
    """The colour of some paper, nearly white or grey."""
    return tuple(rng.uniform(190, 250) + rng.normal(0, 5, 3))


def random_camera(rng: np.random.Generator, page: Page, height: float, compressed: float) -> Page:
    """A page of digits so many pixels high as some camera sees it. compressed: how often as a JPEG."""
    blur = rng.uniform(0, 0.03) * height + rng.uniform(0, 0.5)
    jpeg = int(rng.integers(35, 96)) if rng.random() < compressed else None
    return page.seen(lambda picture: paper.camera(rng, picture, blur, rng.uniform(0, 6), jpeg))


def random_page(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> Page:
    """A page of digits (N x 28 x 28 uint8, N) and other things in random light; label 10: not a digit."""
    width = int(rng.integers(360, 720))
    height = int(width * rng.uniform(0.6, 0.9))
    tall = float(np.exp(rng.uniform(np.log(20), np.log(80))))
    per_line, count = int(np.clip(0.8 * width / tall, 2, 10)), int(np.clip(0.5 * height / tall, 1, 5))
    others = rng.choice([0.0, 0.2, 0.5, 1.0], p=[0.25, 0.35, 0.25, 0.15])  # the share of what is not a digit
    lines = []
    for _ in range(count):
        rows = rng.integers(len(images), size=per_line)
        patches, truth = images[rows].copy(), labels[rows].astype(np.int64)
        for k in np.flatnonzero(rng.random(per_line) < others):
            patches[k], truth[k] = no_digit(rng, images, labels), NOT_A_DIGIT
        for k in np.flatnonzero((rng.random(per_line) < OTHERS) & (truth != NOT_A_DIGIT)):
            patches[k] = other_digit(rng, int(truth[k]))
        lines.append((patches, truth))
    gap = (0.08, 0.4) if rng.random() < 0.75 else (-0.15, 0.15)
    pen = random_pen(rng)
    slope = rng.uniform(-14, 14) + rng.normal(0, 1, count)
    writing = paper.lay_out(rng, lines, tall, slope.tolist(), pen, gap, leading=rng.uniform(0.25, 0.7))
    room = np.array(writing.size) + rng.integers(10, 90, 2)
    size = tuple(int(n) for n in np.maximum(room, (width, height)))
    page = paper.sheet(rng, size, random_paper(rng), rng.uniform(0.5, 3))
    if rng.random() < 0.3:
        rules = {"spacing": rng.uniform(1.2, 2.2) * tall, "start": rng.uniform(0, 40), "width": rng.uniform(0.8, 1.8)}
        page = (paper.ruled if rng.random() < 0.6 else paper.grid)(page, **rules)
    page = paper.put(rng, writing, page)
    if rng.random() < 0.2:  # a frame, a rule, a scribble across
        points = rng.uniform(0, 1, (int(rng.integers(2, 6)), 2)) * size
        page = page.seen(lambda picture: paper.draw(rng, picture, [points], 0.09 * tall, pen))
    page = page.seen(
        lambda picture: paper.light(picture, rng.uniform(0.35, 1), rng.uniform(0, 360), rng.uniform(0, 0.4))
    )
    if rng.random() < 0.2:
        corners = rng.uniform(-0.3, 1.3, (4, 2))
        page = page.seen(lambda picture: paper.shadow(picture, cv2.convexHull(corners.astype(np.float32))[:, 0], 0.4))
    if rng.random() < 0.4:
        tilt = tuple(rng.uniform(-0.15, 0.15, 2))
        seen = paper.view(page, paper.turned(size, rng.uniform(-6, 6), tilt), size)
        page = seen if len(seen.labels) == len(page.labels) else page  # what left the frame would have no label
    if rng.random() < 0.12:
        page = page.seen(cv2.bitwise_not)
    return random_camera(rng, page, tall, 0.6)


def label_segments(page: Page, boxes: np.ndarray) -> np.ndarray:
    """What the boxes (N x 4: x, y, w, h) that segmentation found on a page hold: N int, -1 where that is not clear.

    A box that fits one written thing has its label; one around several, around a piece, or around nothing that was
    written is not a digit's.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    if not len(page.labels):
        return np.full(len(boxes), NOT_A_DIGIT)
    found, truth = (np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]).astype(float) for b in (boxes, page.boxes))
    shared = np.minimum(found[:, None, 2:], truth[None, :, 2:]) - np.maximum(found[:, None, :2], truth[None, :, :2])
    shared = shared.clip(0).prod(axis=2)  # pixels that each box shares with each written thing's
    area, own = boxes[:, 2:].prod(axis=1), page.boxes[:, 2:].prod(axis=1)
    of_truth, of_box = shared / own, shared / area[:, None]
    best = of_truth.argmax(axis=1)
    rows = np.arange(len(boxes))
    covered, filled = of_truth[rows, best], of_box[rows, best]
    several = (of_truth > 0.6).sum(axis=1)
    labels = np.full(len(boxes), -1)
    whole = (several == 1) & (covered > 0.85) & (filled > 0.6)
    labels[whole] = page.labels[best[whole]]
    labels[several > 1] = NOT_A_DIGIT
    labels[(several == 0) & (covered < 0.5)] = NOT_A_DIGIT
    labels[((shared > 0) & (page.labels != NOT_A_DIGIT)).sum(axis=1) == 0] = NOT_A_DIGIT
    labels[(boxes[:, 2] < 0.4 * boxes[:, 3]) & (labels == NOT_A_DIGIT) & ~whole] = -1  # a stroke that might be a 1
    return labels


def cut_pages(numbers: Iterable[int], images: np.ndarray, labels: np.ndarray, seed: int) -> Patches:
    """What segmentation cuts out of the pages of these numbers: n x 28 x 28 uint8 and n int64 (10: not a digit).

    With what candidate cuts make of a few strings of touching digits for each page, and a few signs alone.
    """
    patches, truth = [np.zeros((0, PATCH, PATCH), np.uint8)], [np.zeros(0, np.int64)]
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        page = random_page(rng, images, labels)
        segments = segment(page.picture)
        found = label_segments(page, segments.boxes)
        patches.append(segments.patches[found >= 0])
        truth.append(found[found >= 0])
        for cut, number in ((cut_strings, STRINGS), (cut_signs, SIGNS)):
            more, their = cut(rng, images, labels, number)
            patches.append(more)
            truth.append(their)
    return np.concatenate(patches), np.concatenate(truth)


def string_page(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, count: int) -> tuple[Page, str]:
    """A page with one string of `count` touching digits, and what it says."""
    rows = rng.integers(len(images), size=count)
    strip, _ = strip_of(rng, images[rows])
    height = float(rng.uniform(30, 70))
    pen = paper.Pen(PENS["ballpoint"].colour, None, float(rng.uniform(0.7, 0.95)))
    writing = paper.lay_out(rng, [([strip], [0])], height, rng.uniform(-5, 5), pen, unsteady=0.0)
    size = tuple(int(n + rng.integers(30, 120)) for n in writing.size)
    page = paper.put(rng, writing, paper.light(paper.sheet(rng, size), rng.uniform(0.6, 1)))
    page = page.seen(lambda picture: paper.camera(rng, picture, 0.5, 2))
    return page, "".join(map(str, labels[rows]))


# ---- many of them ---------------------------------------------------------------------------------------------------


def written(
    pages: int, images: np.ndarray, labels: np.ndarray, seed: int, cache: Path, make: Callable[..., Patches] = cut_pages
) -> Patches:
    """What segmentation cuts out of so many pages of these digits, made on all processors or taken from the cache.

    cache: a folder; the file in it is made anew when the digits, the seed, or the code that makes pages changes. make:
    `cut_pages` or `write_strips`. UserError when it can't be written.
    """
    code = b"".join(
        (Path(__file__).parent / name).read_bytes()
        for name in ("pages.py", "paper.py", "ink.py", "parts.py", "segmentation.py", "touching.py")
    )
    key = hashlib.sha256(code + images.tobytes() + f"{pages} {seed} {make.__name__}".encode()).hexdigest()[:16]
    file = cache / f"written-{key}.npz"
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            return kept["images"], kept["labels"]
    chunks = [(make, range(first, min(first + PER_CHUNK, pages)), seed) for first in range(0, pages, PER_CHUNK)]
    patches: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    # spawn: a process that is forked from one with running threads may hang, and Windows has nothing else.
    pool = multiprocessing.get_context("spawn").Pool(initializer=_begin, initargs=(images, labels))
    with pool, tqdm(total=pages, desc="writing pages", unit="page", leave=False) as bar:
        for some, their in pool.imap(_cut_chunk, chunks):
            patches.append(some)
            truth.append(their)
            bar.update(min(PER_CHUNK, pages - bar.n))
    result = {"images": np.concatenate(patches), "labels": np.concatenate(truth)}
    write_atomically(file, lambda beside: np.savez_compressed(beside, **result))
    return result["images"], result["labels"]


_source: Patches  # the digits that this process writes with


def _begin(images: np.ndarray, labels: np.ndarray) -> None:
    """What a process of the pool needs only once."""
    global _source
    _source = images, labels
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)  # the other processors have processes of their own
    threadpool_limits(1, "blas")


def _cut_chunk(task: tuple[Callable[..., Patches], range, int]) -> Patches:
    make, numbers, seed = task
    return make(numbers, *_source, seed)
