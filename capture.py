"""Where live pictures come from: a camera, a video file, a stream's URL or a folder of pictures.

A file of its own because it is the one place with a thread, a clock and hardware that fails; demo_realtime.py only asks
for the next frame. `Capture` reads in a thread that never waits for whoever uses the frames: of a camera or stream only
the newest frame is kept, so what is shown is now; of a file every frame is handed over, in order.
"""

from __future__ import annotations

import http.client
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np

import finder
from segmentation import Found
from utils import IMAGE_SUFFIXES, UserError, read_image

WIDTH, HEIGHT = 640, 480  # asked of a camera: more pixels cost time and say nothing more about a page of digits
ANSWER_WITHIN = 8.0  # seconds for a stream to answer, or to send its next frame
ASK_THE_PHONE = "is the phone's camera app running, and on the same network? try the address in a browser"
MOST = 1 << 26  # bytes of one JPEG: whatever sends more is no camera
SECRET = r"(?i)([?&](?:user|usr|username|login|pwd|pass|password|passwd|token|key|auth)=)[^&#]*"
SLIDE = 2.0  # seconds that a picture of a folder is shown
FIRST_WAIT, LONGEST_WAIT = 0.25, 4.0  # seconds between attempts to reopen a lost source: doubled each time
BACK_ENDS = {  # the operating system's own first: its errors are quick and it obeys the size asked for
    "linux": (cv2.CAP_V4L2, cv2.CAP_ANY),
    "darwin": (cv2.CAP_AVFOUNDATION, cv2.CAP_ANY),
    "win32": (cv2.CAP_DSHOW, cv2.CAP_MSMF, cv2.CAP_ANY),  # DirectShow opens in an instant, Media Foundation in many
}


@dataclass(frozen=True)
class Frame:
    """A picture (H x W x 3 BGR uint8), its number in the source, when it came (perf_counter) and its time in seconds.

    `time` counts from the first frame: by the clock for a camera, by the frame rate for a file. `found`: its digits,
    where they are known.
    """

    image: np.ndarray
    number: int
    came: float
    time: float
    found: Found | None = None


def without_password(source: str) -> str:
    """The source as it may be shown: a URL's user and password left out, also those among its parameters."""
    user = r"(?<=://)([^/?#]*@|[^/?#]*:.*@)"  # the second: one with a / or # in it, which no URL may have
    return re.sub(SECRET, r"\1***", re.sub(user, "", source))


# ---- sources: read() gives the next picture, or None when there is none (any more) ----------------------------------
# `found`: the digits in that picture, where they are known. `broken`: how much of the source could not be read.


class Video:
    """A camera, a video file or a stream through OpenCV."""

    broken, found = 0, None

    def __init__(self, capture: cv2.VideoCapture, live: bool, name: str) -> None:
        self.capture, self.live, self.name = capture, live, name
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 240 else 30.0  # what a file claims may be nonsense

    def read(self) -> np.ndarray | None:
        """The next picture."""
        return self.capture.read()[1]

    def close(self) -> None:
        """Let it go."""
        self.capture.release()


class Ahead:
    """A video file whose pictures come with the digits that a process of its own (finder.py) has found in them."""

    live, broken = False, 0

    def __init__(self, video: Video, file: str, mirror: bool, rotate: int) -> None:
        """video: the file opened, which it is known by. mirror, rotate: as of finder.upright."""
        self.fps, self.name = video.fps, video.name
        video.close()
        self.found: Found | None = None  # in the picture read last
        # Ctrl-C is for the one who reads.
        apart = {"start_new_session": True, "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        command = [sys.executable, finder.__file__, file, str(int(mirror)), str(rotate)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **apart)

    def read(self) -> np.ndarray | None:
        """The next picture."""
        try:
            image, self.found = pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            print("error: the process that finds the digits was ended (is the memory full?)", file=sys.stderr)
            self.broken += 1
            return None
        return image

    def close(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class MotionJpeg:
    """An HTTP stream of JPEGs, as phones send it, without OpenCV: that squeezes a turned phone's frames into the first
    frame's shape, and says of an address that is refused only that it doesn't open."""

    live, fps, broken, found = True, 30.0, 0, None

    def __init__(self, response: http.client.HTTPResponse, name: str) -> None:
        self.response, self.name = response, name
        self.mark = response.headers.get_boundary("").strip("-").encode()  # some put its dashes into the header, too

    def read(self) -> np.ndarray | None:
        """The next picture; None when the stream breaks off or sends nothing for ANSWER_WITHIN."""
        try:
            while jpeg := self._next():
                image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                if image is not None:  # else broken: the next may be whole
                    return image
        except (OSError, ValueError, http.client.HTTPException):
            pass  # lost: Capture opens it again and says so
        return None

    def _next(self) -> bytes:
        size = 0
        while line := self.response.readline(MOST):
            if line.lower().startswith(b"content-length:"):
                size = min(int(line[15:]), MOST)
            elif not line.strip() and size:
                return self.response.read(size)
            elif line.startswith(b"\xff\xd8"):  # no length given: up to the boundary
                lines = iter(lambda: self.response.readline(MOST), b"")
                return line + b"".join(takewhile(lambda line: not line.lstrip(b"-").startswith(self.mark), lines))
        return b""

    def close(self) -> None:
        """Let it go."""
        self.response.close()


class Slides:
    """The pictures of a folder, in the order of their names; those that can't be read are passed over, and said."""

    live, fps, found = False, 1 / SLIDE, None

    def __init__(self, folder: Path) -> None:
        try:
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        except OSError as error:
            raise UserError(f"can't look into {folder} ({error.strerror})") from error
        if not files:
            raise UserError(
                f"{folder} has no pictures in it; --source takes a camera's index, a video, a URL, a folder"
            )
        self.name, self.files = f"{len(files)} pictures in {folder}", iter(files)
        self.broken = 0

    def read(self) -> np.ndarray | None:
        """The next picture."""
        for file in self.files:
            try:
                return read_image(file)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                self.broken += 1
        return None

    def close(self) -> None:
        """Let it go."""
        self.files = iter(())


def open_source(source: str) -> Video | MotionJpeg | Slides:
    """Open a camera's index, a video file, a folder of pictures or a URL. UserError when it gives no picture."""
    if source.isdecimal():
        return _open_camera(int(source))
    shown = without_password(source)
    if "://" in source:
        stream = _open_motion_jpeg(source, shown) if source.lower().startswith(("http://", "https://")) else None
        if stream:
            return stream
        milliseconds = round(1000 * ANSWER_WITHIN)
        # one decoder thread: each further one holds a frame back, and on 16 cores that is half a second
        settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [*settings, cv2.CAP_PROP_N_THREADS, 1])
        if not capture.isOpened():
            raise UserError(f"{shown} doesn't open: {ASK_THE_PHONE}")
        return Video(capture, live=capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0, name=shown)
    try:
        folder, file = Path(source).is_dir(), Path(source).is_file()
    except (OSError, ValueError):  # too long, for one
        folder = file = False
    if folder:
        return Slides(Path(source))
    if not file:
        raise UserError(f"there is no video {source}; name a file, a folder of pictures, a URL or a camera's index")
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise UserError(f"{source} doesn't open: is it a video? broken, perhaps, or of a format that OpenCV can't play")
    return Video(capture, live=False, name=source)


def _open_motion_jpeg(source: str, shown: str) -> MotionJpeg | None:
    """The stream at an HTTP address; None when it is something else than a stream of JPEGs, a video file perhaps."""
    try:
        parts = urllib.parse.urlsplit(source)
        _ = parts.port  # a ValueError where there is none after a colon
    except ValueError as error:
        hint = "in a password write / as %2F, # as %23 and @ as %40"
        raise UserError(f"{shown} is no address; write http://192.168.1.20:8080/video, and {hint}") from error
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    address = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    passwords.add_password(None, address, user, password)
    kinds = (urllib.request.HTTPBasicAuthHandler, urllib.request.HTTPDigestAuthHandler) if user else ()
    opener = urllib.request.build_opener(*(kind(passwords) for kind in kinds))
    try:
        response = opener.open(address, timeout=ANSWER_WITHIN)
    except urllib.error.HTTPError as error:
        hint = "give them as http://USER:PASSWORD@..." if error.code == 401 else "is the address right?"
        raise UserError(f"{shown} doesn't open: it answers {error.code} {error.reason}; {hint}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{shown} doesn't open ({reason}): {ASK_THE_PHONE}") from error
    if response.headers.get_content_type() == "multipart/x-mixed-replace":
        return MotionJpeg(response, shown)
    response.close()
    return None


def _open_camera(index: int) -> Video:
    for back_end in BACK_ENDS.get(sys.platform, (cv2.CAP_ANY,)) if index < 1 << 31 else ():
        capture = cv2.VideoCapture(index, back_end)
        if capture.isOpened():
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, WIDTH)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, HEIGHT)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # frames waiting in the driver are old ones
            if capture.read()[0]:  # some back ends open a camera that they can't read
                return Video(capture, live=True, name=f"camera {index} ({capture.getBackendName()})")
        capture.release()
    raise UserError(
        f"camera {index} doesn't open: is it plugged in, free and allowed? "
        "another one: --source 1; a video: --source page.mp4"
    )


# ---- the thread that reads ------------------------------------------------------------------------------------------


class Capture:
    """Frames of a source, read in a thread. A lost camera or stream is opened again, until `retry` seconds pass."""

    def __init__(
        self,
        source: str,
        paced: bool = False,
        retry: float = 0.0,
        mirror: bool = False,
        rotate: int = 0,
        ahead: bool = False,
    ) -> None:
        """paced: hand over a file's frames at its own rate. rotate: degrees clockwise. ahead: of a video file find the
        digits as well. UserError: doesn't open.
        """
        self._where, self._retry, self._turned = source, retry, {"mirror": mirror, "rotate": rotate}
        self._source = open_source(source)
        if ahead and os.path.isfile(source) and not self._source.live:
            self._source, self._turned = Ahead(self._source, source, **self._turned), {}
        self.source = self._source  # as first opened
        self.name, self.live, self.fps = self._source.name, self._source.live, self._source.fps
        self._paced = paced and not self.live
        self.frames = self.dropped = self.losses = 0
        self.lost_since: float | None = None  # perf_counter, while the source is lost
        self.ended = False
        self._frame: Frame | None = None  # read, and not handed over yet
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        """All frames to the end of the source."""
        while not self.ended or self._frame is not None:
            frame = self.next(1.0)
            if frame is not None:
                yield frame

    def next(self, timeout: float) -> Frame | None:
        """The newest frame (a file's next one), each only once; None when there is none within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self.ended, timeout)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            return frame

    @property
    def silent_for(self) -> float:
        """Seconds since the last frame came."""
        return time.perf_counter() - self._last

    def close(self) -> None:
        """Stop reading and let the camera go. A read that hangs is left to its thread, which ends with the program."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        start = self._last = time.perf_counter()
        wait = FIRST_WAIT
        try:
            while not self._closing.is_set():
                image = self._source.read() if self._source else None
                now = time.perf_counter()
                if image is None:
                    if not self.live:
                        if self._paced:
                            self._keep_pace(start, now)  # the last picture is shown as long as the others
                        return
                    if not self._lost(now) or self._closing.wait(min(wait, self.lost_since + self._retry - now)):
                        return
                    wait = min(2 * wait, LONGEST_WAIT)
                    self._reopen()
                    continue
                self.lost_since, wait = None, FIRST_WAIT
                if self._paced:
                    start = max(start, now - self.frames / self.fps)  # late: go on from here, don't hurry
                    self._keep_pace(start, now)
                self._hand_over(finder.upright(image, **self._turned), start)
        finally:
            if self._source:
                self._source.close()
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _keep_pace(self, start: float, now: float) -> None:
        """Wait until a file's next frame is due."""
        self._closing.wait(max(0.0, start + self.frames / self.fps - now))

    def _lost(self, now: float) -> bool:
        """Note that no frame came; False when that has lasted too long."""
        if self.lost_since is None:
            self.lost_since, self.losses = now, self.losses + 1
        return now - self.lost_since < self._retry

    def _reopen(self) -> None:
        if self._source:
            self._source.close()
        try:
            self._source = open_source(self._where)
        except UserError:
            self._source = None  # tried again after the next wait

    def _hand_over(self, image: np.ndarray, start: float) -> None:
        with self._changed:
            if not self.live:
                self._changed.wait_for(lambda: self._frame is None or self._closing.is_set())
            self._last = now = time.perf_counter()
            self.dropped += self.live and self._frame is not None
            seconds = now - start if self.live else self.frames / self.fps
            self._frame = Frame(image, self.frames, now, seconds, self._source.found)
            self.frames += 1
            self._changed.notify_all()
