"""Read handwritten digits live: `python demo_realtime.py` with a webcam; --source: a video, a phone's URL, a folder.

Three things run side by side, so that what is seen is now: a thread reads the camera and keeps its newest frame
(capture.py), a thread finds and reads the digits of one frame at a time, and the main loop below shows every frame,
with the reading of that very frame where it is there in time and with the last one otherwise (viewer.py). What is
shown, printed, recorded and written is the steady reading (tracking.py). Without a screen: --serve; or --headless, and
every frame is read at once.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import torch
from threadpoolctl import threadpool_limits

import options
from capture import Capture, Frame, Slides
from finder import silence_opencv
from recognition import Reading, Recognizer
from segmentation import Segments, contact_sheet
from tracking import Tracker
from utils import (
    UserError,
    draw_reading,
    prepare_folder,
    put_text,
    require_display,
    run_script,
    write_image,
    write_text,
)
from viewer import Broadcast, Recorder, Window, draw_features, draw_help, draw_patches, draw_status

TITLE = "LeNet-5 reads - h: keys, q: end"
PATIENCE = 0.5  # of a frame's period: how long a picture waits for its own reading before it is shown with the last one
SILENT = 2.0  # seconds without a frame after which the picture says so
RED = 60, 60, 255
KEYS = {
    "q": "Esc, q  end",
    " ": "Space  freeze",
    "s": "s  save picture and JSON",
    "r": "r  record",
    "d": "d  stages of the segmentation",
    "p": "p  what the network sees",
    "f": "f  what its layers make of it",
    "h": "h  these keys",
}


@dataclass
class LiveReading:
    """What was read of a frame, and what it was read from."""

    frame: Frame
    reading: Reading
    stages: dict = field(default_factory=dict)


class LiveReader:
    """Reads frames one at a time: in a thread of its own for those who look, or at once."""

    def __init__(self, recognizer: Recognizer, tracker: Tracker | None) -> None:
        """tracker: None where each frame is a picture for itself."""
        self.recognizer, self.tracker = recognizer, tracker
        self.pool = ThreadPoolExecutor(1, "reader")

    def start(self, frame: Frame, stages: bool) -> Future[LiveReading]:
        """Begin to read a frame; `stages`: keep what the segmentation made."""
        return self.pool.submit(self.read, frame, {} if stages else None)

    def read(self, frame: Frame, stages: dict | None = None) -> LiveReading:
        """Read a frame; `stages` is filled with what the segmentation made."""
        reading = self.recognizer.read(frame.image, stages=stages, found=frame.found)
        if self.tracker:
            reading = self.tracker.update(reading, frame.time)
        return LiveReading(frame, reading, stages or {})

    def close(self) -> None:
        """End the thread."""
        self.pool.shutdown(wait=True, cancel_futures=True)


class Live:
    """The main loop's state: what is shown, recorded and counted."""

    def __init__(self, opt: options.Options, capture: Capture, recognizer: Recognizer) -> None:
        self.opt, self.capture, self.recognizer = opt, capture, recognizer
        self.still = isinstance(capture.source, Slides)  # each frame is another picture: nothing to be followed
        self.tracker = None if self.still else Tracker(opt.min_confidence)
        if self.still:
            recognizer.remember, recognizer.min_confidence = False, opt.min_confidence
        self.reader = LiveReader(recognizer, self.tracker)
        self.window = Window(TITLE) if not opt.headless and not opt.serve else None
        self.broadcast: Broadcast | None = None
        self.recorder: Recorder | None = None
        self.log: TextIO | None = None
        self.latest: LiveReading | None = None
        self.pending: Future[LiveReading] | None = None
        self.switches: set[str] = set()  # of the keys that switch something on: " ", d, p, f, h
        self.lines: list[str] | None = None
        self.begun = self.read = self.shown = 0
        self.latencies: deque[float] = deque(maxlen=1000)
        self.times: deque[float] = deque(maxlen=1000)  # when the last frames were shown
        self.picture: np.ndarray | None = None

    @property
    def looked_at(self) -> bool:
        """Whether anybody sees the picture."""
        return self.window is not None or self.broadcast is not None

    def open_outputs(self) -> None:
        """Begin what the options ask for. UserError before any frame is read."""
        if self.opt.record:
            self.recorder = Recorder(self.opt.record, self.capture.fps, keep_time=self.capture.live)
        if self.opt.json:
            prepare_folder(self.opt.json.parent)
            try:
                self.log = self.opt.json.open("w", encoding="utf-8")
            except OSError as error:
                raise UserError(f"can't write {self.opt.json} ({error.strerror}); name another file") from error
        if self.opt.serve:
            self.broadcast = Broadcast(*self.opt.serve)
            print(f"serving at {self.broadcast.address} (Ctrl-C ends it)")

    def run(self) -> None:
        """Until the source ends, --max_frames, or a key. UserError: the source is lost for good, a disk is full."""
        while not self.opt.max_frames or self.begun < self.opt.max_frames:
            frame = self.capture.next(timeout=0.02 if self.looked_at else 1.0)
            if frame is None:
                if self.capture.ended:
                    break
                self.say_silence()
            elif " " not in self.switches:
                self.take(frame)
            if self.window and not self.obey(self.window.key()):
                return
        self.finish()
        if (self.capture.live and self.capture.ended) or self.capture.frames == 0:
            count = self.capture.frames
            what = f"was lost after {count} frames" if count else "gave no frame"
            now = "look at its plug, power or network and start again" if self.capture.live else "is the file whole?"
            raise UserError(f"{self.capture.name} {what}; {now}")

    def take(self, frame: Frame) -> None:
        """Have a frame read, and show it."""
        if not self.looked_at:
            self.begun += 1
            self.collect(self.reader.read(frame))
            self.output(frame)
            return
        self.collect_finished()
        self.pending = self.pending or self.begin(frame)
        wait([self.pending], timeout=None if self.still else PATIENCE / self.capture.fps)  # each slide with its own
        self.collect_finished()
        self.output(frame)

    def begin(self, frame: Frame) -> Future[LiveReading]:
        """Begin to read a frame."""
        self.begun += 1
        return self.reader.start(frame, bool(self.switches & {"d", "p", "f"}))

    def collect_finished(self) -> None:
        """Keep the reading that was begun last, if it is there."""
        if self.pending and self.pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the reading that was begun last."""
        if self.pending:
            reading, self.pending = self.pending.result(), None
            self.collect(reading)

    def output(self, frame: Frame) -> None:
        """Draw a frame for whoever wants it."""
        if self.looked_at or self.recorder:
            self.picture = self.draw(frame)
            self.put_out(self.picture, frame)
        self.latencies.append(time.perf_counter() - frame.came)
        self.times.append(time.perf_counter())
        self.shown += 1

    def collect(self, latest: LiveReading) -> None:
        """Keep a new reading: the log's row, and a line on the terminal when what is read has changed."""
        self.latest, self.read = latest, self.read + 1
        if self.log:
            row = {"frame": latest.frame.number, "time": round(latest.frame.time, 4), **latest.reading.as_dict()}
            try:
                self.log.write(json.dumps(row) + "\n")
                self.log.flush()
            except OSError as error:
                raise UserError(
                    f"can't write {self.opt.json} ({error.strerror}); its rows up to here are kept"
                ) from error
        if latest.reading.lines != self.lines:
            self.lines = latest.reading.lines
            print(f"{latest.frame.time:8.2f} s  {' / '.join(self.lines) or 'no digit'}", flush=True)

    def draw(self, frame: Frame) -> np.ndarray:
        """The frame with the last reading, and what the keys switched on."""
        if self.latest is None:
            return draw_status(frame.image.copy(), [], self.state())
        reading, stages = self.latest.reading, self.latest.stages
        if "d" in self.switches and "segments" in stages:
            return contact_sheet(self.latest.frame.image, stages["segments"], stages)
        picture = draw_reading(frame.image, reading)
        segments: Segments | None = stages.get("segments")
        boxes = np.zeros((0, 4), int) if segments is None else segments.boxes
        boxes = boxes * (picture.shape[1] // frame.image.shape[1])  # a small picture is drawn larger
        if "p" in self.switches and len(boxes):
            draw_patches(picture, boxes, segments.patches)
        draw_status(picture, reading.lines, self.state())
        if "h" in self.switches:
            draw_help(picture, KEYS.values())
        if "f" in self.switches and len(boxes):
            patch = segments.patches[self.pointed_at(boxes)]
            picture = draw_features(picture, patch, self.recognizer.activations(patch))
        return picture

    def pointed_at(self, boxes: np.ndarray) -> int:
        """Which box the pointer is nearest to; the largest where no pointer has been."""
        if self.window is None or self.window.pointer is None:
            return int((boxes[:, 2] * boxes[:, 3]).argmax())
        return int(np.linalg.norm(boxes[:, :2] + boxes[:, 2:] / 2 - self.window.pointer, axis=1).argmin())

    def state(self) -> str:
        """Frame rate, latency and drops."""
        times = list(self.times)[-30:]
        rate = (len(times) - 1) / max(1e-9, times[-1] - times[0]) if len(times) > 1 else 0.0
        latency = 1000 * statistics.median(list(self.latencies)[-30:]) if self.latencies else 0.0
        text = f"{rate:.0f} frames/s  {latency:.0f} ms  {self.capture.dropped} dropped"
        return text + ("  recording" if self.recorder else "")

    def put_out(self, picture: np.ndarray, frame: Frame | None) -> None:
        """Give a picture to whoever wants it."""
        if self.recorder and frame:
            self.recorder.write(picture, frame.time)
        if self.window:
            self.window.show(picture)
        if self.broadcast:
            self.broadcast.show(picture, self.lines or [], self.state())

    def say_silence(self) -> None:
        """When no frame has come for a while: say so on the picture (the terminal says it once a loss)."""
        lost = self.capture.lost_since is not None
        if not lost and (self.still or not self.capture.live or self.capture.silent_for < SILENT):
            return
        self.collect_finished()
        if self.tracker and self.pending is None:  # what comes next may be another page
            self.tracker.clear()
            self.latest = None
        picture = np.zeros((480, 640, 3), np.uint8) if self.picture is None else self.picture // 3
        text = "camera lost, trying again" if lost else f"no picture for {self.capture.silent_for:.0f} s"
        put_text(picture, text, picture.shape[1] // 20, picture.shape[0] // 2, picture.shape[0] / 18, RED)
        self.put_out(picture, None)

    def obey(self, key: str) -> bool:
        """Do what a key says; False to end."""
        if key in ("q", "\x1b"):
            return False
        if key == "s" and self.latest:
            self.save()
        elif key == "r":
            self.switch_recording()
        elif key and key in KEYS:
            self.switches ^= {key}
        return True

    def save(self) -> None:
        """Save the frame, the annotated picture and the reading."""
        stem = self.opt.output / time.strftime("%Y-%m-%d_%H-%M-%S")
        write_image(stem.with_suffix(".png"), self.latest.frame.image)
        write_image(stem.with_name(stem.name + "_read.png"), draw_reading(self.latest.frame.image, self.latest.reading))
        row = {"file": stem.name + ".png", **self.latest.reading.as_dict()}
        write_text(stem.with_suffix(".json"), json.dumps({"model": self.recognizer.card, "images": [row]}, indent=1))
        print(f"saved: {stem}.png, _read.png and .json")

    def switch_recording(self) -> None:
        """Begin a recording, or end it."""
        if self.recorder:
            self.recorder.close()
            print(f"saved: {self.recorder.path}")
            self.recorder = None
        else:
            path = self.opt.output / time.strftime("%Y-%m-%d_%H-%M-%S.avi")
            self.recorder = Recorder(path, self.capture.fps, keep_time=True)

    def close(self) -> None:
        """End everything, whatever happened: the recording can be played, the log is whole."""
        self.capture.close()
        self.reader.close()
        if self.recorder:
            self.recorder.close()
        if self.log:
            with contextlib.suppress(OSError):  # each row was flushed; what a full disk didn't take has been said
                self.log.close()
        if self.broadcast:
            self.broadcast.close()
        if self.window:
            self.window.close()

    def summary(self, seconds: float) -> str:
        """What was done, in a line or two."""
        text = f"{self.shown} frames in {seconds:.1f} s ({self.shown / max(seconds, 1e-9):.0f} a second"
        if len(self.times) > 1:  # without the start, and what takes long now and then
            text += f", median {1 / max(1e-9, np.median(np.diff(self.times))):.0f}"
        text += f"), {self.read} read, {self.capture.dropped} dropped"
        if self.capture.losses:
            text += f", source lost {self.capture.losses} times"
        if self.latencies:
            ordered = sorted(self.latencies)
            text += f"; latency {1000 * statistics.median(ordered):.0f} ms"
            text += f" (95 %: {1000 * ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms)"
        if self.recorder and self.recorder.size:
            text += f"\nsaved: {self.recorder.path}"
        return text + (f"\nsaved: {self.opt.json}" if self.log else "")


def check_files(opt: options.Options) -> None:
    """UserError where one file would be read and written, or written twice."""
    files = [Path(opt.source).resolve()] if "://" not in opt.source else []
    for path in filter(None, (opt.record, opt.json)):
        if path.resolve() in files:
            raise UserError(f"{path} is named twice, and would be overwritten; give --record and --json other names")
        files.append(path.resolve())


def demo_realtime(opt: options.Options) -> int:
    """Read live as the options say; 1 where not all of a folder or video could be read.

    UserError: source, screen, checkpoint, files that can't be written, lost camera.
    """
    check_files(opt)
    if not opt.headless and not opt.serve:
        try:
            require_display("the window")
        except UserError as error:
            raise UserError(f"{error}; say --serve to look with a browser, or --headless with --json FILE") from error
    # Batches are small and three threads share the processor: a second one for the network would only be waited for.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threadpool_limits(1, "blas")  # numpy's second thread waits busily
    recognizer = Recognizer(options.weights_paths(opt)[0], opt.device, remember=True, strings=opt.strings)
    # A video that nobody looks at is read as fast as two processors can.
    capture = Capture(opt.source, not opt.headless, opt.retry, opt.mirror, opt.rotate, ahead=opt.headless)
    live = Live(opt, capture, recognizer)
    started = time.perf_counter()
    try:
        live.open_outputs()
        live.run()
    finally:
        live.close()
        print(live.summary(time.perf_counter() - started))
    return int(capture.source.broken > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Read live; the exit status."""
    opt = options.parse(options.realtime_parser(), argv)
    silence_opencv()
    return run_script(lambda: demo_realtime(opt))


if __name__ == "__main__":
    sys.exit(main())
