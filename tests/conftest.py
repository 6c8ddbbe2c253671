"""What the tests share: the scripts as subprocesses, MNIST (full or embedded), a small checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mnist
from LeNet_5 import build
from options import DEFAULT_WEIGHTS
from recognition import Recognizer
from utils import save_checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def reader() -> Recognizer:
    """The demos' reader as they use it."""
    return Recognizer(DEFAULT_WEIGHTS, "cpu", min_confidence=0.4)


@pytest.fixture(scope="session")
def script():
    """Call a script as a user does: script("test.py", "--weights", file, cwd=...) -> CompletedProcess with text."""

    def call(name: str, *arguments: object, cwd: Path = ROOT, timeout: float = 300, **environment: str):
        # A proxy on a closed port: no test may find the internet, on whatever machine it runs.
        offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
        return subprocess.run(
            [sys.executable, str(ROOT / name), *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **offline, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the full MNIST; tests that need it are skipped without it."""
    folder = os.environ.get("MNIST_DIR")
    if not folder:
        pytest.skip("needs the full MNIST: set MNIST_DIR to the folder of its four IDX files")
    return Path(folder)


@pytest.fixture(scope="session")
def unseen_digits() -> mnist.Digits:
    """MNIST's test digits, or the subset's held-out ones where MNIST_DIR isn't set."""
    if os.environ.get("MNIST_DIR"):
        return mnist.load(None, train=False)
    images, labels = mnist.load_subset()
    rows = mnist._split_subset()[1]
    return mnist.Digits(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]).long(), "held out")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint file with untrained weights."""
    file = tmp_path / "untrained.pt"
    torch.manual_seed(0)
    save_checkpoint(
        file, {"arch": "article", "model": build().state_dict(), "epoch": 3, "accuracy": 0.1, "options": {}, "data": {}}
    )
    return file


def assert_one_line_error(run: subprocess.CompletedProcess, *words: str, status: int = 1) -> None:
    """The run failed with that status, and its last line is an error that has these words. No traceback."""
    assert run.returncode == status, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, run.stderr
    for word in words:
        assert word in errors[0], errors[0]


def wait_for(happened: Callable[[], object], seconds: float = 120) -> None:
    """Return as soon as it has happened; fail when it hasn't within that time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def start(*command: object, **options: object) -> subprocess.Popen:
    """A process with its output as text in pipes, that Ctrl-C reaches even where the tests run in the background."""
    if os.name == "posix":  # a shell's background jobs ignore SIGINT, and so would what they start
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
