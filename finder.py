"""Where the digits are in live pictures, with what the pictures before have shown.

Finding them takes as long as reading them. So of a video that is read without a window they are found by a process of
its own, `python finder.py` (capture.Ahead): of two threads one would wait for the other, for Python runs one at a time.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from parts import CLEARLY
from segmentation import Found, find

AFRESH = 30  # live pictures for which what was found out about sheet and doubts counts; then it is found out anew
SELDOM = 8  # as AFRESH, where a sheet of paper was looked for in vain, or a doubt remained; and whether ink is bright
# Grey levels: a picture (in cells of a 40th) that varies less, or is darker, shows no writing: a covered lens.
DARK = 12
WAITING = 4  # pictures of a video that may wait for the one who reads: some take long to find, and others to read
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def silence_opencv() -> None:
    """Turn off OpenCV's own messages: they are many lines for a source that fails, and show a URL's password."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_blank(image: np.ndarray) -> bool:
    """Whether a picture is too flat or dark to show any writing: it costs 0.1 ms to see that a lens is covered."""
    small = cv2.resize(image[::2], (40, 40), interpolation=cv2.INTER_AREA)  # half of the rows show as much
    return int(small.max()) - int(small.min()) < DARK


def upright(image: np.ndarray, mirror: bool = False, rotate: int = 0) -> np.ndarray:
    """A camera's picture as it is to be seen: turned by `rotate` degrees clockwise (0 or one of TURNS), mirrored."""
    if rotate:
        image = cv2.rotate(image, TURNS[rotate])
    return cv2.flip(image, 1) if mirror else image


class Finder:
    """Finds the digits of one live picture after the other."""

    def __init__(self) -> None:
        self.pictures = 0  # that showed anything
        self.sheet: np.ndarray | None = None  # of paper, on which the last picture's digits were found
        self.bright_strokes: bool | None = None  # whether its strokes were, if it was clearly writing

    def find(self, image: np.ndarray, stages: dict | None = None) -> Found | None:
        """As segmentation.find; where a sheet of paper was is looked first. None of a picture that shows nothing."""
        seldom = self.pictures % SELDOM == 0
        if seldom:
            self.bright_strokes = None  # of another picture, taken for strokes, they might look like writing as well
        if self.bright_strokes is None and is_blank(image):  # after writing comes writing
            return None
        stages = {} if stages is None else stages
        in_vain = self.sheet is not None and not self.sheet.size
        if self.pictures % AFRESH == 0 or (in_vain and seldom):
            self.sheet, in_vain = None, False
        self.pictures += 1
        found = find(image, stages=stages, sheet=self.sheet, bright_strokes=self.bright_strokes)
        self.bright_strokes = stages["bright strokes"] if stages.get("share", 0.0) > CLEARLY else None
        if not in_vain or found.sheet is not None:
            self.sheet = found.sheet
        return found


def _put_out(image: np.ndarray | None, found: Found | None) -> None:
    pickle.dump((image, found), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


def main() -> int:
    """Put out each picture of a video and what is found in it, and a None at its end, as long as somebody listens.

    Arguments: the file; mirror, 0 or 1, and rotate, as of `upright`.
    """
    cv2.setNumThreads(1)
    threadpool_limits(1, "blas")
    silence_opencv()
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when nobody listens any more, end and say nothing
    video, finder = cv2.VideoCapture(sys.argv[1]), Finder()
    mirror, rotate = map(int, sys.argv[2:])
    # Aside: decoding takes long, and who listens may be late.
    with contextlib.suppress(OSError), ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as sender:
        coming, going = decoder.submit(video.read), deque()
        while (image := coming.result()[1]) is not None:
            coming = decoder.submit(video.read)
            image = upright(image, bool(mirror), rotate)
            going.append(sender.submit(_put_out, image, finder.find(image)))
            if len(going) > WAITING:
                going.popleft().result()
        sender.submit(_put_out, None, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
