"""demo_realtime.py with real parts: video files, an HTTP stream on loopback, a window on a virtual screen, a kill."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import ctypes.util
import http.server
import json
import os
import re
import shutil
import signal
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, start, wait_for

import demo_realtime
import options
import recognition
from capture import Ahead, Capture, open_source, without_password
from finder import SELDOM, Finder, is_blank
from options import DEFAULT_WEIGHTS
from utils import UserError, read_image, write_image
from viewer import Recorder

FRAME = ROOT / "samples" / "webcam.png"
TRUTH = next(
    image["lines"]
    for image in json.loads((ROOT / "samples" / "truth.json").read_text())["images"]
    if image["file"] == FRAME.name
)


def write_video(path, frames: int, picture: np.ndarray | None = None) -> None:
    """A video of that many frames of the sample page."""
    picture = read_image(FRAME) if picture is None else picture
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, picture.shape[1::-1])
    for _ in range(frames):
        writer.write(picture)
    writer.release()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "page.avi"
    write_video(path, 12)
    return path


def frames_of(path) -> int:
    """How many frames can be read from a video."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_a_video_is_read_recorded_and_logged(video, tmp_path, script, suffix):
    record, log = tmp_path / f"out{suffix}", tmp_path / "lines.jsonl"
    run = script("demo_realtime.py", "--source", video, "--headless", "--record", record, "--json", log)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(12)) and frames_of(record) == 12
    assert {"frame", "time", "width", "height", "lines", "digits", "error"} == set(rows[0])
    # MJPG changes a page's pixels a little: at most one of its 18 digits may be read otherwise than in the PNG
    for row in rows:
        read, truth = "".join(row["lines"]), "".join(TRUTH)
        assert len(read) == len(truth) and sum(a != b for a, b in zip(read, truth)) <= 1
    assert "12 frames" in run.stdout and str(record) in run.stdout


def test_max_frames(video, tmp_path, script):
    log = tmp_path / "l.jsonl"
    run = script("demo_realtime.py", "--source", video, "--headless", "--max_frames", 5, "--json", log)
    assert run.returncode == 0 and len(log.read_text().splitlines()) == 5


def test_a_source_that_doesn_t_open_is_said(tmp_path, script):
    (tmp_path / "no.avi").write_text("no video")
    headless = ("demo_realtime.py", "--headless", "--source")
    assert_one_line_error(script(*headless, 97), "camera 97 doesn't open")
    assert_one_line_error(script(*headless, tmp_path / "none.avi"), "none.avi")
    assert_one_line_error(script(*headless, tmp_path / "no.avi"), "doesn't open")
    run = script(*headless, "http://anna:geheim@127.0.0.1:9/video")
    assert_one_line_error(run, "127.0.0.1:9/video doesn't open")
    assert "geheim" not in run.stdout + run.stderr and "anna" not in run.stdout + run.stderr
    run = script(*headless, "http://anna:ge/heim@127.0.0.1:9/video")
    assert_one_line_error(run, "127.0.0.1:9/video", "%2F")
    assert "ge" not in (run.stdout + run.stderr).split() and "heim" not in run.stdout + run.stderr


@pytest.mark.parametrize("source", ["99999999999999", "a" * 300, "http://[fe80::1:8080/video"])
def test_no_source_is_too_odd_for_one_line(source):
    with pytest.raises(UserError, match=re.escape(source[:8])):
        open_source(source)


def test_passwords_are_not_shown():
    assert without_password("http://anna:geheim@10.0.0.3:8080/video") == "http://10.0.0.3:8080/video"
    assert without_password("http://10.0.0.3/v.cgi?user=anna&pwd=x&w=1") == "http://10.0.0.3/v.cgi?user=***&pwd=***&w=1"
    assert without_password("rtsp://a:b@c@10.0.0.3/a@b") == "rtsp://10.0.0.3/a@b"
    assert without_password("http://anna:ge/heim@10.0.0.3/video") == "http://10.0.0.3/video"
    assert without_password("rtsp://anna:ge#heim@10.0.0.3/video") == "rtsp://10.0.0.3/video"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says by DISPLAY whether it has a screen")
def test_without_a_screen_headless_is_offered(video, script):
    run = script("demo_realtime.py", "--source", video, DISPLAY="", WAYLAND_DISPLAY="")
    assert_one_line_error(run, "screen", "--headless")


def test_results_that_can_t_be_written_are_said(video, tmp_path, script):
    (tmp_path / "file").write_text("in the way")
    headless = ("demo_realtime.py", "--headless", "--source", video)
    assert_one_line_error(script(*headless, "--json", tmp_path / "file" / "x.jsonl"), "can't write")
    assert_one_line_error(script(*headless, "--record", tmp_path / "file" / "x.avi"), "can't write")
    assert_one_line_error(script(*headless, "--record", tmp_path / "x.unknown"), ".avi")
    assert_one_line_error(script(*headless, "--json", tmp_path), "can't write")


def test_no_file_is_read_and_written_at_once(tmp_path, script):
    video, other = tmp_path / "page.avi", tmp_path / "out.avi"
    write_video(video, 2)
    before = video.read_bytes()
    headless = ("demo_realtime.py", "--headless", "--source", video)
    assert_one_line_error(script(*headless, "--record", video), "page.avi is named twice")
    assert_one_line_error(script(*headless, "--json", tmp_path / "." / "page.avi"), "named twice")
    assert_one_line_error(script(*headless, "--record", other, "--json", other), "out.avi is named twice")
    assert video.read_bytes() == before and not other.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_said(video, script):
    run = script("demo_realtime.py", "--headless", "--source", video, "--json", "/dev/full")
    assert_one_line_error(run, "can't write", "No space left")


def test_a_recording_stops_before_the_disk_is_full(monkeypatch, tmp_path):
    recorder = Recorder(tmp_path / "a.avi", 25, keep_time=False)
    recorder.write(read_image(FRAME), 0.0)
    recorder.looked = -np.inf
    monkeypatch.setattr("viewer.SPARE", 1 << 62)
    with pytest.raises(UserError, match="full; the 1 frames"):
        recorder.write(read_image(FRAME), 0.04)
    recorder.close()
    assert frames_of(tmp_path / "a.avi") == 1


class Phone(http.server.ThreadingHTTPServer):
    """A phone's camera app on loopback. `plan`: what it does at each connection, then refuses more."""

    daemon_threads = True

    def __init__(self, *plan) -> None:
        super().__init__(("127.0.0.1", 0), PhoneHandler)
        self.plan, self.asked, self.ended = list(plan), [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/video"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class PhoneHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Phone = self.server
        server.asked.append(self.headers.get("Authorization"))
        if not server.plan:
            self.send_error(503)
            return
        with contextlib.suppress(OSError):  # the viewer has had enough
            server.plan.pop(0)(self)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()

    def send(self, picture: np.ndarray, with_length: bool = True) -> None:
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        length = f"Content-Length: {len(jpeg)}\r\n" if with_length else ""
        self.wfile.write(f"--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + jpeg + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


def frames(count: int, picture: np.ndarray | None = None, rate: float = 1000.0, **how):
    """A plan: so many frames, at that rate, then it breaks off."""

    def send(phone: PhoneHandler) -> None:
        phone.begin()
        for _ in range(count):
            phone.send(read_image(FRAME) if picture is None else picture, **how)
            phone.server.ended.wait(1 / rate)

    return send


def stall(phone: PhoneHandler) -> None:
    """A plan: it answers, and then nothing comes."""
    phone.begin()
    phone.server.ended.wait(60)


def test_a_phone_s_stream_is_read_and_its_loss_is_said(tmp_path, script):
    log = tmp_path / "l.jsonl"
    with Phone(frames(10)) as phone:
        run = script("demo_realtime.py", "--source", phone.url, "--headless", "--json", log, "--retry", 0)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    # they come faster than they are read: the newest is read, the others are counted
    assert rows[-1]["frame"] == 9 and len("".join(rows[0]["lines"])) == 18
    assert f"{10 - len(rows)} dropped" in run.stdout
    assert_one_line_error(run, "was lost after 10 frames")


def test_a_stream_that_stalls_drops_and_returns_in_another_size(monkeypatch):
    monkeypatch.setattr("capture.ANSWER_WITHIN", 0.5)
    small, large = np.full((24, 32, 3), 9, np.uint8), np.full((48, 32, 3), 200, np.uint8)
    both = (
        frames(3, small, rate=100),
        stall,
        frames(3, large, rate=100, with_length=False),
        frames(2, small, rate=100),
    )
    with Phone(*both) as phone:
        capture = Capture(phone.url, retry=2.0)
        shapes = [frame.image.shape for frame in capture]
        capture.close()
    assert shapes[0] == small.shape and large.shape in shapes and shapes[-1] == small.shape
    assert len(shapes) + capture.dropped == 8 and capture.losses == 3
    assert capture.ended and capture.lost_since is not None


def test_a_broken_jpeg_in_a_stream_is_passed_over():
    def plan(phone: PhoneHandler) -> None:
        phone.begin()
        phone.wfile.write(b"--frame\r\nContent-Length: 5\r\n\r\nhello\r\n")
        phone.send(np.full((8, 8, 3), 77, np.uint8))

    with Phone(plan) as phone:
        capture = Capture(phone.url)
        assert [frame.image.shape for frame in capture] == [(8, 8, 3)]


def test_user_and_password_reach_the_phone_and_nobody_else(script):
    def locked(phone: PhoneHandler) -> None:
        phone.send_response(401)
        phone.send_header("WWW-Authenticate", 'Basic realm="phone"')
        phone.end_headers()

    with Phone(locked, frames(2)) as phone:
        url = phone.url.replace("://", "://anna:gehe%21m@")
        run = script("demo_realtime.py", "--source", url, "--headless", "--retry", 0)
        assert phone.asked == [None, "Basic " + base64.b64encode(b"anna:gehe!m").decode()]
    assert_one_line_error(run, "was lost after 2 frames")
    assert "anna" not in run.stdout + run.stderr and "gehe" not in run.stdout + run.stderr
    with Phone(locked) as phone:
        assert_one_line_error(script("demo_realtime.py", "--source", phone.url, "--headless"), "401", "USER:PASSWORD")


class NetworkCamera(socketserver.StreamRequestHandler):
    """A network camera on loopback: RTSP (RFC 2326), its pictures as MPEG-TS in RTP packets on the same connection."""

    def handle(self) -> None:
        self.server.asked.append(None)
        while request := self.request_line():
            method, number, authorization = request
            if self.server.password and authorization is None:
                self.answer(number, "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"')
                continue
            self.server.asked[-1] = authorization
            if method == "DESCRIBE":
                self.answer(number, "200 OK", "Content-Type: application/sdp", body="v=0\r\nm=video 0 RTP/AVP 33\r\n")
            elif method == "SETUP":
                self.answer(number, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
            else:
                self.answer(number, "200 OK", "Session: 1")
            if method == "PLAY":
                self.play()
                return

    def request_line(self) -> tuple[str, str, str | None] | None:
        """A request's method, number and credentials."""
        lines = [line.decode().strip() for line in iter(self.rfile.readline, b"\r\n") if line]
        if not lines:
            return None
        fields = dict(line.split(": ", 1) for line in lines[1:])
        return lines[0].split()[0], fields["CSeq"], fields.get("Authorization")

    def answer(self, number: str, status: str, *fields: str, body: str = "") -> None:
        head = [f"RTSP/1.0 {status}", f"CSeq: {number}", *fields, f"Content-Length: {len(body)}"]
        self.wfile.write("\r\n".join([*head, "", body]).encode())

    def play(self) -> None:
        """The video at its pace, seven of its packets of 188 bytes in each of RTP's; then it breaks off."""
        video = self.server.video
        with contextlib.suppress(OSError):
            for k, at in enumerate(range(0, len(video), 7 * 188)):
                payload = video[at : at + 7 * 188]
                header = struct.pack(">BBHII", 0x80, 33, k, int(90_000 * at / len(video)), 7)
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(payload)) + header + payload)
                self.server.ended.wait(1.0 / (len(video) / 188 / 7))


@contextlib.contextmanager
def network_camera(folder: Path, password: str = ""):
    """A camera that shows the sample page for a second at each connection: `url`, and the credentials `asked`."""
    path = folder / "page.ts"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (640, 480))
    for _ in range(25):
        writer.write(cv2.resize(read_image(FRAME), (640, 480)))
    writer.release()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NetworkCamera) as server:
        server.daemon_threads = True
        server.video, server.password, server.asked, server.ended = path.read_bytes(), password, [], threading.Event()
        server.url = f"rtsp://{password}127.0.0.1:{server.server_address[1]}/live"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


def test_a_network_camera_is_read_and_its_password_kept(tmp_path, script):
    log = tmp_path / "l.jsonl"
    with network_camera(tmp_path, "anna:geheim@") as camera:
        run = script("demo_realtime.py", "--source", camera.url, "--headless", "--json", log, "--retry", 0)
    assert camera.asked == ["Basic " + base64.b64encode(b"anna:geheim").decode()]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) >= 3 and len("".join(rows[-1]["lines"])) == 18
    assert_one_line_error(run, "was lost after")
    assert "anna" not in run.stdout + run.stderr and "geheim" not in run.stdout + run.stderr


# ---- capture --------------------------------------------------------------------------------------------------------


def test_a_file_s_frames_come_all_and_in_order(video):
    capture = Capture(str(video))
    assert [frame.number for frame in capture] == list(range(12)) and capture.dropped == 0
    assert not capture.live and capture.fps == 25


def test_what_is_found_ahead_is_what_would_be_found_at_once(tmp_path):
    """A page on a table that is moved, a covered lens, a camera that hangs upside down."""
    page = cv2.copyMakeBorder(read_image(FRAME), 60, 60, 80, 80, cv2.BORDER_CONSTANT, value=(62, 70, 74))
    pictures = [np.roll(page, 2 * k, axis=1) for k in range(10)]
    pictures[6][:] = 0
    writer = cv2.VideoWriter(str(tmp_path / "moved.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, page.shape[1::-1])
    for picture in pictures:
        writer.write(cv2.flip(picture, 0))  # what --rotate 180 and --mirror make upright
    writer.release()
    readings = []
    for ahead in (True, False):
        reader = recognition.Recognizer(DEFAULT_WEIGHTS, "cpu", remember=True)
        with contextlib.closing(Capture(str(tmp_path / "moved.avi"), mirror=True, rotate=180, ahead=ahead)) as capture:
            readings.append([reader.read(frame.image, found=frame.found) for frame in capture])
            assert ahead == isinstance(capture.source, Ahead)
    assert readings[0] == readings[1]
    assert [len(reading.digits) > 15 for reading in readings[0]] == [k != 6 for k in range(10)]


def test_a_file_in_a_window_keeps_its_own_pace(video):
    capture = Capture(str(video), paced=True)
    came = [frame.came for frame in capture]
    assert came[-1] - came[0] >= 11 / 25 - 0.01


def test_the_newest_frame_of_a_stream_wins():
    numbered = [np.full((8, 8, 3), 20 * k, np.uint8) for k in range(10)]

    def plan(phone: PhoneHandler) -> None:
        phone.begin()
        for picture in numbered:
            phone.send(picture)
        phone.server.ended.wait(30)

    with Phone(plan) as phone:
        capture = Capture(phone.url)
        wait_for(lambda: capture.frames == 10)
        frame = capture.next(1.0)
        assert frame.number == 9 and frame.image.mean() == pytest.approx(180, abs=3) and capture.dropped == 9
        assert capture.next(0.05) is None  # no frame twice
    capture.close()


def test_a_folder_is_a_slide_show(tmp_path, capsys):
    for name, size in (("b.png", (10, 20)), ("a.png", (30, 40))):
        write_image(tmp_path / name, np.full(size, 255, np.uint8))
    (tmp_path / "broken.png").write_text("no picture")
    shapes = [frame.image.shape[:2] for frame in Capture(str(tmp_path), rotate=90)]
    assert shapes == [(40, 30), (20, 10)]
    assert "broken.png" in capsys.readouterr().err


def test_a_slide_show_is_recorded_and_what_is_broken_said(tmp_path, script):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, read_image(FRAME))
    (tmp_path / "c.png").write_text("no picture")
    record = tmp_path / "out.avi"
    run = script("demo_realtime.py", "--source", tmp_path, "--headless", "--record", record)
    assert run.returncode == 1 and "c.png" in run.stderr and "Traceback" not in run.stderr
    assert frames_of(record) == 2


def test_each_slide_is_shown_with_its_own_reading(tmp_path, monkeypatch, capsys, one_thread):
    """However slow reading is, and each as long as the others, the last one too."""
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name, read_image(FRAME))
    monkeypatch.setattr("capture.Slides.fps", 1 / 0.3)
    shown: list[tuple[int, int]] = []
    output = demo_realtime.Live.output
    monkeypatch.setattr(
        demo_realtime.Live,
        "output",
        lambda live, frame: shown.append((frame.number, live.latest.frame.number)) or output(live, frame),
    )
    started = time.perf_counter()
    in_process(monkeypatch, capsys, "--source", tmp_path, "--serve", "127.0.0.1:0", reading_takes=0.4)
    assert shown == [(0, 0), (1, 1), (2, 2)] and time.perf_counter() - started >= 3 * 0.3


def test_each_slide_is_read_for_itself(tmp_path, script):
    """As demo.py reads it: nothing of the picture before is known, and what is too uncertain is no digit."""
    files = sorted(FRAME.parent.glob("*.jpg"))[:8]
    for file in files:
        shutil.copy(file, tmp_path)
    log = tmp_path / "l.jsonl"
    run = script("demo_realtime.py", "--source", tmp_path, "--headless", "--json", log, "--min_confidence", 0.9)
    assert run.returncode == 0, run.stderr
    strict = recognition.Recognizer(DEFAULT_WEIGHTS, "cpu", min_confidence=0.9)
    rows = [json.loads(line)["lines"] for line in log.read_text().splitlines()]
    readings = [strict.read(read_image(file)) for file in files]
    assert rows == [reading.lines for reading in readings]
    assert any(reading.rejected for reading in readings)


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (1, 900)])
def test_a_covered_lens_is_known(size):
    noise = np.random.default_rng(0).normal(20, 8, (*size, 3)).clip(0, 255).astype(np.uint8)
    assert is_blank(np.zeros((*size, 3), np.uint8))
    assert size[0] == 1 or (is_blank(noise) and not is_blank(read_image(FRAME)))


def test_what_follows_another_page_is_found_as_if_it_came_first():
    """Of live pictures it is remembered whether their strokes are bright, and that they show anything."""
    page, finder = read_image(FRAME), Finder()
    board = cv2.bitwise_not(page)
    for picture in (page, board, page, board):
        found = [finder.find(picture) for _ in range(SELDOM)][-1]  # a quarter of a second
        anew = Finder().find(picture)
        assert np.array_equal(found.boxes(found.digits), anew.boxes(anew.digits)) and len(anew.digits) == 18
    finder.find(np.zeros_like(page))
    assert finder.find(np.zeros_like(page)) is None
    assert len(finder.find(page).digits) == 18


def test_mirror_and_rotate(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[0, 0] = 255
    write_image(tmp_path / "a.png", picture)
    for rotate, corner in ((0, (0, 5)), (90, (0, 0)), (180, (3, 0)), (270, (5, 3))):
        (frame,) = Capture(str(tmp_path), mirror=True, rotate=rotate)
        assert np.argwhere(frame.image[..., 0])[0].tolist() == list(corner), rotate


@pytest.fixture
def screen():
    """A virtual screen's DISPLAY."""
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("needs Xvfb and xdotool: apt-get install xvfb xdotool")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


class ClientMessage(ctypes.Structure):
    """Xlib's XClientMessageEvent, filled up to the size of an XEvent."""

    _fields_ = (
        *(("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int)),
        *(("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong)),
        *(("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("rest", ctypes.c_long * 12)),
    )


class Screen:
    """demo_realtime.py's window on a virtual screen, with keys and the cross in its corner."""

    def __init__(self, display: str, *arguments: object, cwd=None) -> None:
        self.environment = {**os.environ, "DISPLAY": display}
        command = [sys.executable, ROOT / "demo_realtime.py", *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=self.environment, cwd=cwd, **streams)
        found: list[str] = []

        def appeared() -> bool:
            found[:] = self.xdotool("search", "--onlyvisible", "--name", "LeNet-5").split()
            return bool(found) or self.process.poll() is not None

        wait_for(appeared)
        assert found, self.process.communicate()
        self.window = found[0]
        self.xdotool("windowfocus", self.window)

    def xdotool(self, *arguments: str) -> str:
        run = subprocess.run(["xdotool", *arguments], env=self.environment, capture_output=True, text=True)
        return run.stdout.strip()

    def press(self, key: str) -> None:
        self.xdotool("key", "--window", self.window, key)

    def press_until(self, key: str, happened) -> None:
        """Press a key, again after some seconds: a virtual screen loses one now and then."""
        for _ in range(5):
            self.press(key)
            with contextlib.suppress(AssertionError):
                wait_for(happened, 5)
                return
        raise AssertionError(f"the key {key} does nothing")

    def click_the_cross(self) -> None:
        """Ask the window to close as a window manager does, of which this screen has none."""
        x = ctypes.CDLL(ctypes.util.find_library("X11"))
        x.XOpenDisplay.restype = x.XInternAtom.restype = ctypes.c_void_p
        display = ctypes.c_void_p(x.XOpenDisplay(self.environment["DISPLAY"].encode()))
        protocols, delete = (x.XInternAtom(display, name, False) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
        message = ClientMessage(type=33, window=int(self.window), message_type=protocols, format=32)  # ClientMessage
        message.data[0] = delete
        x.XSendEvent(display, ctypes.c_ulong(int(self.window)), False, ctypes.c_long(0), ctypes.byref(message))
        x.XCloseDisplay(display)

    def end(self) -> str:
        """What it wrote to stdout, when it has ended well."""
        try:
            output, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        assert self.process.returncode == 0 and "Traceback" not in errors, errors
        return output


@pytest.mark.parametrize("end", ["q", "Escape", "cross"])
def test_the_window_ends_by_key_and_by_closing(screen, tmp_path, end):
    write_video(tmp_path / "long.avi", 3000, np.full((120, 160, 3), 255, np.uint8))
    window = Screen(screen, "--source", tmp_path / "long.avi")
    if end == "cross":
        window.click_the_cross()
    else:
        window.press(end)
    output = window.end()
    assert " frames in " in output and "3000 frames" not in output


def test_the_keys_of_the_window(screen, tmp_path):
    """Everything switched on and off, a picture saved, a recording begun and ended, freezing."""
    video, saved = tmp_path / "long.avi", tmp_path / "saved"
    write_video(video, 3000)
    window = Screen(screen, "--source", video, "--output", saved, "--json", tmp_path / "log.jsonl", "--mirror")
    wait_for(lambda: (tmp_path / "log.jsonl").read_text().count("\n") >= 3)

    def rows() -> int:
        return (tmp_path / "log.jsonl").read_text().count("\n")

    for key in ("h", "p", "f", "d", "d", "p", "f", "h"):
        before = rows()
        window.press(key)
        wait_for(lambda before=before: rows() >= before + 2)
    window.press_until("r", lambda: list(saved.glob("*.avi")))
    window.press_until("s", lambda: list(saved.glob("*.json")))
    counts: list[int] = []

    def still() -> bool:
        counts.append(rows())
        return len(counts) > 100 and len(set(counts[-100:])) == 1

    window.press_until("space", still)
    window.press_until("space", lambda: rows() > counts[-1])
    window.press("q")
    window.end()
    (record,) = saved.glob("*.avi")
    assert frames_of(record) > 3
    (row,) = json.loads(next(saved.glob("*.json")).read_text())["images"]
    assert (read_image(saved / row["file"]) == read_image(FRAME)[:, ::-1]).mean() > 0.1  # mirrored, but for MJPG's loss
    assert {path.suffix for path in saved.iterdir()} == {".avi", ".json", ".png"} and len(
        list(saved.glob("*.png"))
    ) == 2


# ---- slow reading, browser ------------------------------------------------------------------------------------------


def in_process(monkeypatch, capsys, *arguments: object, reading_takes: float = 0.0) -> str:
    """demo_realtime.py's summary when the reading of a frame takes so many seconds longer. It must end well."""
    read = recognition.Recognizer.read

    def slowly(self, *values, **named):
        time.sleep(reading_takes)
        return read(self, *values, **named)

    monkeypatch.setattr(recognition.Recognizer, "read", slowly)
    assert demo_realtime.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def one_thread():
    """demo_realtime.py in this process sets the number of torch's threads: set it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_shown_is_now_however_slow_reading_is(monkeypatch, capsys, one_thread):
    """A 30 fps stream, reading slowed to 200 ms: every picture is shown, at most 66 ms old."""
    with Phone(frames(120, rate=30)) as phone, contextlib.suppress(UserError):
        source = ("--source", phone.url, "--serve", "127.0.0.1:0", "--max_frames", "12")
        output = in_process(monkeypatch, capsys, *source, reading_takes=0.2)
    shown, read = (int(n) for n in re.search(r"(\d+) frames in .*, (\d+) read", output).groups())
    assert read == 12 and shown >= 4 * read
    assert float(re.search(r"latency (\d+) ms", output)[1]) <= 66


def test_every_frame_is_read_where_reading_is_faster_than_the_camera(monkeypatch, capsys, one_thread):
    """Also where it takes more than the half of a period that the picture waits for it."""
    with Phone(frames(30, rate=8)) as phone, contextlib.suppress(UserError):
        source = ("--source", phone.url, "--serve", "127.0.0.1:0", "--max_frames", "24")
        output = in_process(monkeypatch, capsys, *source, reading_takes=0.08)
    shown, read = (int(n) for n in re.search(r"(\d+) frames in .*, (\d+) read", output).groups())
    assert read == 24 and shown <= 26


def test_patches_lie_below_their_digits_on_a_small_picture_too(tmp_path, one_thread):
    """A camera of 160 x 120 pixels: the picture is drawn larger."""
    small = cv2.resize(read_image(FRAME), (160, 120), interpolation=cv2.INTER_AREA)
    write_image(tmp_path / "a.png", small)
    opt = options.parse(options.realtime_parser(), ["--source", str(tmp_path), "--serve", "127.0.0.1:0"])
    capture = Capture(opt.source)
    live = demo_realtime.Live(opt, capture, recognition.Recognizer(DEFAULT_WEIGHTS, "cpu", strings=None))
    try:
        frame = capture.next(10.0)
        live.latest = live.reader.read(frame, {"asked": True})
        plain = live.draw(frame)
        live.switches.add("p")
        changed = np.argwhere((live.draw(frame) != plain).any(axis=2))
        boxes = live.latest.stages["segments"].boxes * (plain.shape[1] // 160)
        assert plain.shape[1] >= 240 and len(boxes) > 10
        assert changed[:, 0].min() >= (boxes[:, 1] + boxes[:, 3]).min()
        assert changed[:, 1].max() >= boxes[:, 0].max(), "the rightmost digit has its patch"
    finally:
        live.close()


def test_the_layers_shown_are_of_the_digit_asked_for(one_thread):
    """Also while another thread reads with the same network."""
    reader = recognition.Recognizer(DEFAULT_WEIGHTS, "cpu", strings=None)
    patch = np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)
    alone, ended = reader.activations(patch), threading.Event()

    def read() -> None:
        while not ended.is_set():
            reader.classify(np.zeros((18, 28, 28), np.uint8))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(100):
            beside = reader.activations(patch)
            assert all((beside[name] == maps).all() for name, maps in alone.items())
    finally:
        ended.set()
        thread.join()


def test_a_browser_sees_the_picture_and_the_lines(video, tmp_path):
    write_video(tmp_path / "long.avi", 3000)
    command = [
        sys.executable,
        "-u",
        ROOT / "demo_realtime.py",
        "--source",
        tmp_path / "long.avi",
        "--serve",
        "127.0.0.1:0",
    ]
    with start(*command) as process:
        try:
            url = re.search(r"http://\S+", process.stdout.readline())[0]
            page = urllib.request.urlopen(url, timeout=20).read().decode()
            assert 'src="stream"' in page
            idle = urllib.request.urlopen(url + "stream", timeout=20)  # a viewer that takes nothing slows nobody
            with urllib.request.urlopen(url + "stream", timeout=20) as stream:
                for _ in range(5):
                    headers = [stream.readline() for _ in range(4)]
                    size = int(next(line for line in headers if line.lower().startswith(b"content-length")).split()[1])
                    picture = cv2.imdecode(np.frombuffer(stream.read(size), np.uint8), cv2.IMREAD_COLOR)
                    assert picture.shape == (480, 640, 3)
                    stream.readline()
            with urllib.request.urlopen(url + "lines", timeout=20) as lines:
                reading = json.loads(lines.readline().decode().removeprefix("data: "))
            assert len("".join(reading["lines"])) == 18 and "frames/s" in reading["state"]
            chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
            if chromium:
                flags = (
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-background-networking",
                    f"--user-data-dir={tmp_path / 'profile'}",
                )
                look = [chromium, *flags, "--timeout=4000", "--dump-dom", url]

                def shown() -> bool:
                    page = subprocess.run(look, capture_output=True, text=True, timeout=60).stdout
                    return "\n".join(reading["lines"]) in page

                wait_for(shown)
            idle.close()
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(url + "../etc/passwd", timeout=20)
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors


def test_what_was_read_is_kept_when_the_process_that_finds_is_killed(tmp_path):
    write_video(tmp_path / "long.avi", 3000)
    log = tmp_path / "l.jsonl"
    source = ("--source", tmp_path / "long.avi", "--headless", "--json", log)
    process = start(sys.executable, ROOT / "demo_realtime.py", *source)
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 40)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs Linux to know which process it is")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    rows = [json.loads(line)["frame"] for line in log.read_text().splitlines()]
    assert process.returncode == 1 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert 40 <= len(rows) < 3000 and rows == list(range(len(rows))) and f"{len(rows)} frames in" in output


def test_what_is_recorded_survives_ctrl_c_and_a_kill(tmp_path):
    write_video(tmp_path / "long.avi", 3000)
    for end, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        record, log = tmp_path / f"{end.name}.avi", tmp_path / f"{end.name}.jsonl"
        command = [sys.executable, ROOT / "demo_realtime.py", "--source", tmp_path / "long.avi", "--headless"]
        process = start(*command, "--record", record, "--json", log)
        wait_for(lambda log=log: log.exists() and log.read_text().count("\n") >= 40)
        process.send_signal(end)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in errors, errors
        assert frames_of(record) >= 20
        assert all(json.loads(line)["width"] == 640 for line in log.read_text().splitlines()[:40])
