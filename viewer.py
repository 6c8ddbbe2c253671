"""Where live pictures go: a window, a browser's page, a video file.

A file of its own because each has its own ways to fail (no screen, a slow viewer, a kill), and demo_realtime.py should
read as what it does: frame in, reading, picture out.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

from utils import UserError, prepare_folder, put_text

SPARE = 50_000_000  # bytes left free on the recording's disk: a full one would cut the file in the middle of a frame
LONGEST_STILL = 1.0  # seconds that the recording stands still where the source was lost for longer
WHITE = (255, 255, 255)
QUALITY = 85  # of the browser's JPEGs


class Window:
    """A window that takes keys and knows where the pointer is."""

    def __init__(self, title: str) -> None:
        self.title, self.pointer = title, None
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(title, self._moved)
        self.size = None

    def _moved(self, event: int, x: int, y: int, flags: int, data: object) -> None:
        self.pointer = x, y

    def show(self, picture: np.ndarray) -> None:
        """Show a picture; the window takes the first one's size."""
        if self.size != picture.shape[1::-1]:
            self.size = picture.shape[1::-1]
            cv2.resizeWindow(self.title, *self.size)
        cv2.imshow(self.title, picture)

    def key(self, milliseconds: int = 1) -> str:
        """The key pressed within that time, '' for none, 'q' when the window was closed. Keeps the window alive."""
        code = cv2.waitKey(milliseconds)
        try:
            closed = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:  # Qt: the last window has gone
            closed = True
        if closed:
            return "q"
        return "" if code == -1 else chr(code & 0xFF)

    def close(self) -> None:
        """Close it."""
        cv2.destroyAllWindows()


class Recorder:
    """A video file that plays as fast as the frames came. .avi and .mkv can be played even after a kill."""

    def __init__(self, path: Path, fps: float, keep_time: bool) -> None:
        """keep_time: repeat or leave out frames so that the file's time is the clock's. UserError: can't be written."""
        if path.suffix.lower() not in (".avi", ".mkv", ".mp4"):
            raise UserError(f"can't write the video {path}; choose a name that ends in .avi, .mkv or .mp4")
        prepare_folder(path.parent)
        self.path, self.fps, self.keep_time = path, fps, keep_time
        self.size = self.start = None
        self.frames, self.looked = 0, -np.inf
        self.encoder = ThreadPoolExecutor(1, "encoder")  # half of a frame's time, which the next one needn't wait for
        self.encoding: Future | None = None

    def write(self, picture: np.ndarray, seconds: float) -> None:
        """Add a picture, taken at that time; one of another size than the first is scaled, for a writer would drop it.

        UserError when the disk is nearly full; what is recorded can be played.
        """
        if self.size is None:
            self.size, self.start = picture.shape[1::-1], seconds
            code = "mp4v" if self.path.suffix.lower() == ".mp4" else "MJPG"
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*code), self.fps, self.size)
            if not self.writer.isOpened():
                raise UserError(f"can't write the video {self.path}; see that the folder is writable")
        if time.monotonic() - self.looked > 1.0:
            self.looked = time.monotonic()
            if shutil.disk_usage(self.path.parent).free < SPARE:
                self.close()
                raise UserError(f"the disk of {self.path} is full; the {self.frames} frames recorded can be played")
        if picture.shape[1::-1] != self.size:
            picture = cv2.resize(picture, self.size, interpolation=cv2.INTER_AREA)
        due = round((seconds - self.start) * self.fps) + 1 if self.keep_time else self.frames + 1
        longest = max(1, round(LONGEST_STILL * self.fps))  # a slide show has less than a frame a second
        if due - self.frames > longest:
            self.start += (due - self.frames - longest) / self.fps
            due = self.frames + longest
        if self.encoding:
            self.encoding.result()
        self.encoding = self.encoder.submit(self._encode, picture, max(0, due - self.frames))
        self.frames = max(due, self.frames)

    def _encode(self, picture: np.ndarray, times: int) -> None:
        for _ in range(times):
            self.writer.write(picture)

    def close(self) -> None:
        """Finish the file."""
        self.encoder.shutdown(wait=True)
        if self.size is not None:
            self.writer.release()


PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>LeNet-5 reads</title>
<meta name="viewport" content="width=device-width">
<style>
body { margin: 0; background: #16181c; color: #eee; font: 16px system-ui, sans-serif; display: flex; flex-wrap: wrap }
img { max-width: 100%; max-height: 100vh } main { padding: 1em 2em }
pre { font: 2em/1.3 monospace; white-space: pre-wrap; margin: 0 } p { color: #999 }
</style>
<img src="stream" alt="the camera's picture with the digits that are read">
<main><pre id="lines"></pre><p id="state">waiting for a picture</p></main>
<script>
new EventSource("lines").onmessage = event => {
  const reading = JSON.parse(event.data);
  document.getElementById("lines").textContent = reading.lines.join("\\n");
  document.getElementById("state").textContent = reading.state;
};
</script>"""


class Broadcast:
    """The picture in any number of browsers: one newest JPEG that each viewer takes when it is ready for it."""

    def __init__(self, host: str, port: int) -> None:
        """Serve at once, in threads. UserError when the address can't be used."""
        self.fresh = threading.Condition()
        self.jpeg, self.number, self.message, self.viewers, self.closed = b"", 0, "", 0, False
        broadcast = self

        class Handler(_Handler):
            source = broadcast

        try:
            self.server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"can't serve at {host}:{port} ({error}); try another port: --serve {host}:0") from error
        self.server.daemon_threads = True
        self.address = "http://{}:{}/".format(*self.server.server_address[:2])
        threading.Thread(target=self.server.serve_forever, name="serve", daemon=True).start()

    def show(self, picture: np.ndarray, lines: list[str], state: str) -> None:
        """Offer a new picture; it is encoded once, and only when somebody looks."""
        jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes() if self.viewers else b""
        with self.fresh:
            self.jpeg, self.number = jpeg, self.number + 1
            self.message = json.dumps({"lines": lines, "state": state})
            self.fresh.notify_all()

    def close(self) -> None:
        """Let the viewers go."""
        with self.fresh:
            self.closed = True
            self.fresh.notify_all()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """/ the page, /stream its picture, /lines what is read."""

    source: Broadcast
    timeout = 20  # seconds that a viewer may take for one frame; its connection is closed then

    def do_GET(self) -> None:
        """Answer a browser."""
        pages = {"/": self._page, "/stream": self._stream, "/lines": self._lines}
        try:
            if self.path in pages:
                pages[self.path]()
            else:
                self.send_error(404)
        except OSError:  # the viewer has gone, or takes nothing any more
            self.close_connection = True

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _page(self) -> None:
        self._head("text/html; charset=utf-8")
        self.wfile.write(PAGE.encode())

    def _stream(self) -> None:
        self._head("multipart/x-mixed-replace; boundary=frame")
        self.wfile.write(b"--frame\r\n")
        source, number = self.source, -1
        with source.fresh:
            source.viewers += 1
        try:
            while True:
                with source.fresh:
                    source.fresh.wait_for(lambda n=number: source.closed or (source.number != n and source.jpeg))
                    if source.closed:
                        return
                    number, jpeg = source.number, source.jpeg
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                # the boundary now, not with the next frame: a browser shows a picture when it sees its end
                self.wfile.write(head.encode() + jpeg + b"\r\n--frame\r\n")
        finally:
            with source.fresh:
                source.viewers -= 1

    def _lines(self) -> None:
        self._head("text/event-stream")
        source, sent = self.source, None
        while True:
            with source.fresh:
                source.fresh.wait_for(lambda s=sent: source.closed or source.message != s)
                if source.closed:
                    return
                sent = source.message
            self.wfile.write(f"data: {sent}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Say nothing: requests are no news."""


# ---- what is drawn over a live picture ------------------------------------------------------------------------------


def draw_status(picture: np.ndarray, lines: Iterable[str], state: str) -> np.ndarray:
    """Write the lines that are read along the picture's bottom and the state along its top, in place."""
    height, width = picture.shape[:2]
    size, margin = max(9.0, height / 40), max(2, height // 60)
    put_text(picture, state, margin, margin + size, size, WHITE)
    text = " / ".join(lines)
    if text:
        least = 22 * 0.9 * width / cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1, 1)[0][0]
        put_text(picture, text, margin, height - 2 * margin, min(height / 16, least), WHITE)
    return picture


def draw_help(picture: np.ndarray, lines: Iterable[str]) -> None:
    """Write lines of text over the picture, darkened, in place."""
    height = picture.shape[0]
    picture //= 3
    for row, line in enumerate(lines):
        put_text(picture, line, height // 20, height * (0.2 + 0.07 * row), height / 30, WHITE)


def draw_patches(picture: np.ndarray, boxes: np.ndarray, patches: np.ndarray) -> None:
    """Put each 28 x 28 patch below its box (N x 4: x, y, w, h), half as high, in place."""
    for (x, y, w, h), patch in zip(boxes, patches):
        side = max(14, int(h) // 2)
        left = max(0, int(x + w / 2 - side / 2))
        target = picture[y + h : y + h + side, left : left + side]
        small = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
        target[:] = small[: target.shape[0], : target.shape[1], None]


def draw_features(picture: np.ndarray, patch: np.ndarray, layers: dict[str, np.ndarray]) -> np.ndarray:
    """The picture with a strip below it: the patch and what each layer makes of it, as in LeCun's 1993 demo.

    patch: 28 x 28 uint8. layers: their maps C x H x W or values C, in order, the ten classes' logits last. In the maps
    grey is zero, brighter positive, darker negative.
    """
    tiles = {"input": patch[None].astype(np.float32), **layers}
    width = picture.shape[1]
    side = max(48, width // len(tiles))
    strip = np.full((side + side // 4, max(width, side * len(tiles)), 3), 40, np.uint8)
    for number, (name, maps) in enumerate(tiles.items()):
        tile = _classes(maps, side - 4) if number == len(tiles) - 1 else _mosaic(maps, side - 4)
        x = number * side + 2
        strip[2 : 2 + tile.shape[0], x : x + tile.shape[1]] = tile[..., None]
        put_text(strip, name, x, side + side // 6, side / 8, WHITE)
    if strip.shape[1] > width:
        picture = cv2.copyMakeBorder(picture, 0, 0, 0, strip.shape[1] - width, cv2.BORDER_CONSTANT)
    return np.vstack([picture, strip])


def _mosaic(maps: np.ndarray, side: int) -> np.ndarray:
    """All maps C x H x W (or values C) of a layer as one grey picture of at most side x side pixels."""
    maps = maps.reshape(len(maps), *maps.shape[1:3] or (1, 1))
    _, h, w = maps.shape
    columns = math.ceil(math.sqrt(len(maps) * h / w))
    rows = math.ceil(len(maps) / columns)
    gap = 0 if h == 1 or rows == 1 else 1
    sheet = np.zeros((rows, h + gap, columns, w + gap), np.float32)
    for k, one in enumerate(maps):
        sheet[k // columns, :h, k % columns, :w] = one
    sheet = sheet.reshape(rows * (h + gap), columns * (w + gap))
    grey = np.uint8(127.5 + 127.5 * sheet / max(1e-9, float(np.abs(sheet).max())))
    scale = side / max(grey.shape)
    size = [max(1, int(n * scale)) for n in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA)


def _classes(logits: np.ndarray, side: int) -> np.ndarray:
    """The classes' probabilities as bars, grey, side x side."""
    chart = np.full((side, side, 3), 40, np.uint8)
    chances = np.exp(logits - logits.max())
    step = side / len(logits)
    for label, chance in enumerate(chances / chances.sum()):
        top, bottom = round(step * label), round(step * (label + 1)) - 1
        cv2.rectangle(chart, (side // 4, top), (side // 4 + round(0.7 * side * float(chance)), bottom - 1), WHITE, -1)
        put_text(chart, str(label), 1, bottom, 0.8 * step, WHITE)
    return chart[..., 0]
