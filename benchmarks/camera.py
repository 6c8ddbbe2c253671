"""What demo_realtime.py costs in the long run, and how old the picture is that it shows. Linux or macOS.

    python benchmarks/camera.py                        memory over 20,000 frames, a covered lens, latency
    xvfb-run -a python benchmarks/camera.py            the latency in a window, on a machine without a screen
    python benchmarks/camera.py --frames 2000          sooner

Memory: the most that a run over a tenth of the frames takes, and one over all. The lens: processor time of a
black frame. Latency: of a 30 fps stream on loopback, in a window where there is a screen and else in the browser's
page, from the frame's arrival until it is shown; at full speed and with reading slowed to 200 ms.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import live
import numpy as np
from test_realtime import Phone

from utils import run_script

ROOT = Path(__file__).parent.parent
SIZE = 320, 240  # of the long video: memory is what is asked for
SLOWED = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
import demo_realtime, recognition
read = recognition.Recognizer.read
recognition.Recognizer.read = lambda *a, **k: (time.sleep({seconds}), read(*a, **k))[1]
sys.exit(demo_realtime.main(sys.argv[1:]))
"""


def run(*arguments: object) -> tuple[float, float]:
    """The most memory in MB and the processor time in seconds that demo_realtime.py takes."""
    command = [sys.executable, ROOT / "demo_realtime.py", "--headless", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"demo_realtime.py ended with status {status}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), usage.ru_utime + usage.ru_stime


def stream(pictures: list[np.ndarray], count: int) -> Phone:
    """A camera on the network that sends so many frames, 30 a second."""

    def send(phone) -> None:
        phone.begin()
        began = time.monotonic()
        for k in range(count):
            phone.send(pictures[k % len(pictures)])
            phone.server.ended.wait(max(0.0, began + (k + 1) / live.FPS - time.monotonic()))

    return Phone(send)


def latency(pictures: list[np.ndarray], seconds: float, count: int) -> str:
    """What demo_realtime.py says of a 30 fps stream when reading takes so much longer."""
    where = [] if os.environ.get("DISPLAY") else ["--serve", "127.0.0.1:0"]
    with stream(pictures, count) as phone:
        command = [sys.executable, "-c", SLOWED.format(seconds=seconds), ROOT, "--source", phone.url, "--retry", "0"]
        output = subprocess.run([*map(str, command), *where], capture_output=True, text=True).stdout
    return re.search(r"\d+ frames in .*", output)[0]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--frames", type=int, default=20_000, metavar="N", help="of the long run (default: %(default)s)"
    )
    opt = parser.parse_args(argv)

    def body() -> None:
        small = [page.picture for page in live.clip(200, SIZE)]
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "long.avi"
            for count in (opt.frames // 10, opt.frames):
                live.write(video, islice(cycle([*small, *small[::-1]]), count))
                log, record = Path(folder) / "log.jsonl", Path(folder) / "out.avi"
                peak, _ = run("--source", video, "--json", log, "--record", record)
                print(f"{count} frames, with --json and --record: {peak:.0f} MB at most", flush=True)
        times = []
        for count in (60, 660):
            with stream([np.zeros((480, 640, 3), np.uint8)], count + live.FPS) as phone:
                times.append(run("--source", phone.url, "--max_frames", count)[1])
        share = (times[1] - times[0]) / 600 * live.FPS
        print(f"a covered lens: {100 * share:.1f} % of one processor at {live.FPS} frames a second", flush=True)
        pictures = [page.picture for page in live.clip(150)]
        print(f"{'window' if os.environ.get('DISPLAY') else 'page'}, {latency(pictures, 0.0, 300)}")
        print(f"the same, reading slowed by 200 ms: {latency(pictures, 0.2, 300)}")

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
