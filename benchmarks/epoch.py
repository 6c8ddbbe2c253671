"""One epoch of the article's way against one of train.py's way: same network, images, machine and run.

    python benchmarks/epoch.py --png data/mnist_png        (written by: python convert_mnist.py)

The article's way: an ImageFolder of PNGs, grey, ToTensor, a shuffling DataLoader, batches of 1024, Adam, fp32.
train.py's way: its defaults, augmentation and weight average included; timed over as many images. Each epoch runs in a
process of its own, so that neither's settings reach the other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import mnist
import options
from LeNet_5 import LeNet_5
from train import Trainer
from utils import keep_freed_memory, pick_device, run_script


def article_epoch(folder: Path, device: torch.device) -> float:
    """Seconds of one epoch as in the article."""
    transform = transforms.Compose([transforms.Grayscale(num_output_channels=1), transforms.ToTensor()])
    loader = DataLoader(ImageFolder(str(folder), transform=transform), batch_size=1024, shuffle=True)
    model = LeNet_5().to(device)
    criterion, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.001)
    start = time.perf_counter()
    for images, labels in loader:
        loss = criterion(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # the article prints it
    return time.perf_counter() - start


def our_epoch(folder: Path, device: torch.device) -> float:
    """Seconds of one epoch of train.py's defaults."""
    keep_freed_memory()  # as train.py does
    images, labels = mnist.load_png(folder)
    digits = mnist.Digits(torch.from_numpy(images), torch.from_numpy(labels).long(), "PNG").to(device)
    opt = options.parse(options.train_parser(), [])
    opt.follow_recipe()
    trainer = Trainer(opt, device)
    start = time.perf_counter()
    trainer.train_epoch(digits)
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Time both in turn; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", default="data/mnist_png", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs of epochs (default: %(default)s)")
    opt = parser.parse_args(argv)

    def body() -> None:
        device, folder = pick_device(), Path(opt.png) / "mnist_train"
        mnist.png_files(folder)  # says what is missing before anything is timed
        print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {device}")
        ratios = []
        for _ in range(opt.rounds):
            seconds = []
            for epoch in (article_epoch, our_epoch):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds.append(pool.apply(epoch, (folder, device)))
            ratios.append(seconds[0] / seconds[1])
            print(f"article's way {seconds[0]:.1f} s, train.py's {seconds[1]:.1f} s: {ratios[-1]:.2f} times as fast")
        print(f"median: {statistics.median(ratios):.2f} times as fast")

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
