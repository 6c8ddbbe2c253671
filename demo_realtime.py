"""Read handwritten digits live: `python demo_realtime.py` with a webcam, or --source and a video file or URL.

Each frame goes through the same Recognizer as demo.py's pictures. Esc, q or closing the window ends it; without a
screen, --headless with --json or --record keeps what was read.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

import options
from recognition import Recognizer
from utils import UserError, draw_reading, prepare_folder, put_text, require_display, run_script

WINDOW = "LeNet-5 reads - Esc or q: end"
ANSWER_WITHIN = 8000  # milliseconds for a camera or stream on the network to answer
WIDTH, HEIGHT = 640, 480  # asked of a camera: more pixels cost time and say nothing more about a page of digits


def without_password(source: str) -> str:
    """The source as it may be shown: the user and password of a URL left out."""
    return re.sub(r"(?<=://)[^/@]*@", "", source)


def open_source(source: str) -> cv2.VideoCapture:
    """Open a camera index, video file or URL. UserError when it doesn't open."""
    shown = without_password(source)
    if source.isdecimal():
        capture = cv2.VideoCapture(int(source))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, WIDTH)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, HEIGHT)
        hint = "is it plugged in, free and allowed? another one: --source 1; a video: --source page.mp4"
        shown = f"camera {source}"
    elif "://" in source:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, ANSWER_WITHIN, cv2.CAP_PROP_READ_TIMEOUT_MSEC, ANSWER_WITHIN]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, timeouts)
        hint = "is the phone's camera app running, and on the same network? try the address in a browser"
    else:
        if not Path(source).is_file():
            raise UserError(f"there is no video {source}; name a file, a URL or a camera's index")
        capture = cv2.VideoCapture(source)
        hint = "is it a video? broken, perhaps, or of a format that OpenCV can't play"
    if not capture.isOpened():
        capture.release()
        raise UserError(f"{shown} doesn't open: {hint}")
    return capture


class Recorder:
    """A video file of the annotated frames; .avi (MJPG) can be played even after a kill, .mp4 only once closed."""

    def __init__(self, path: Path, fps: float) -> None:
        """fps: frames a second at which the file plays. UserError when it can't be written."""
        prepare_folder(path.parent)
        self.path, self.fps, self.size = path, fps, None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame; one of another size than the first is scaled, as a VideoWriter would drop it silently."""
        if self.size is None:
            self.size = frame.shape[1::-1]
            code = "MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*code), self.fps, self.size)
            if not self.writer.isOpened():
                raise UserError(f"can't write the video {self.path}; choose a name that ends in .avi or .mp4")
        self.writer.write(frame if frame.shape[1::-1] == self.size else cv2.resize(frame, self.size))

    def close(self) -> None:
        """Finish the file, so that it can be played."""
        if self.size is not None:
            self.writer.release()


def demo_realtime(opt: options.Options) -> int:
    """Read live as the options say. UserError: source, screen, checkpoint, files that can't be written, lost camera."""
    if not opt.headless:
        try:
            require_display("the window")
        except UserError as error:
            raise UserError(f"{error}; say --headless with --json FILE or --record FILE") from error
    recognizer = Recognizer(options.weights_paths(opt)[0], opt.device, opt.min_confidence)
    live = opt.source.isdecimal() or "://" in opt.source
    capture = open_source(opt.source)
    recorder = log = None
    times: deque[float] = deque(maxlen=30)
    frames, lines, started = 0, None, time.perf_counter()
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        recorder = Recorder(opt.record, fps if 1 <= fps <= 240 else 30.0) if opt.record else None
        if opt.json:
            prepare_folder(opt.json.parent)
            log = opt.json.open("w", encoding="utf-8")
        while not opt.max_frames or frames < opt.max_frames:
            grabbed, frame = capture.read()
            if not grabbed:
                break
            now = time.perf_counter()
            reading = recognizer.read(frame)
            times.append(time.perf_counter())
            if log:
                row = {"frame": frames, "time": round(now - started, 4), **reading.as_dict()}
                log.write(json.dumps(row) + "\n")
                log.flush()
            if reading.lines != lines:
                lines = reading.lines
                print(f"frame {frames}: {' / '.join(lines) or 'no digit'}")
            frames += 1
            if opt.headless and not recorder:
                continue
            picture = draw_reading(frame, reading)
            if recorder:
                recorder.write(picture)
            if not opt.headless:
                rate = (len(times) - 1) / max(1e-9, times[-1] - times[0])
                put_text(picture, f"{rate:.0f} frames/s", 8, 22, 14, (255, 255, 255))
                cv2.imshow(WINDOW, picture)
                key = cv2.waitKey(1) & 0xFF
                if key in (27, ord("q")) or cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1:
                    break
        else:
            grabbed = True
    finally:  # also after Ctrl-C: what was recorded can be played
        capture.release()
        if recorder:
            recorder.close()
        if log:
            log.close()
        if not opt.headless:
            cv2.destroyAllWindows()
        seconds = time.perf_counter() - started
        print(f"{frames} frames in {seconds:.1f} s ({frames / max(seconds, 1e-9):.0f} a second)")
        for path in filter(None, (opt.record, opt.json)):
            print(f"saved: {path}")
    if not grabbed and (live or frames == 0):
        what = "gave no frame" if frames == 0 else f"was lost after {frames} frames"
        raise UserError(f"{without_password(opt.source)} {what}; look at its plug, power or network and start again")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read live; the exit status."""
    opt = options.parse(options.realtime_parser(), argv)
    # OpenCV's own messages about a source that fails are many lines, and they show a URL's password.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return run_script(lambda: demo_realtime(opt))


if __name__ == "__main__":
    sys.exit(main())
