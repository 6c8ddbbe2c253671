"""The options of every script, each flag defined once. Nothing happens here but reading the command line.

A script calls its own function, for example `opt = train_options(argv)`. Flags are written with underscores. The names
that the blog article's scripts used (--EPOCH, --train_data_path, ...) are aliases of today's; the help texts say so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "reader.pt"
DEFAULT_STRINGS = DEFAULT_WEIGHTS.with_name("strings.pt")
RECIPE = "epochs", "augment", "batch_size", "lr", "lr_decay", "label_smoothing", "ema", "pages", "easy", "precision"
# What train.py does with each network unless the command line says otherwise (how it was found: docs/NETWORKS.md).
RECIPES = {
    arch: dict(zip(RECIPE, values))
    for arch, values in {
        "article": (6, "affine", 128, 3e-3, 0.5, 0.05, 0.995, 0, 1.0, "auto"),
        "1998": (20, "affine", 128, 3e-3, 0.8, 0.05, 0.995, 0, 1.0, "fp32"),
        "modern": (60, "elastic", 128, 3e-3, 0.92, 0.05, 0.999, 0, 1.0, "auto"),
        "reader": (14, "elastic", 128, 3e-3, 0.93, 0.05, 0.999, 3000, 0.15, "auto"),
        "strings": (14, "strip", 64, 2e-3, 0.9, 0.0, 0.999, 4500, 0.15, "auto"),
    }.items()
}
SAMPLES = Path(__file__).parent / "samples"


class Options(argparse.Namespace):
    """The options of one run: an attribute each, and `describe()` to print them."""

    def as_dict(self) -> dict:
        """Every option as plain JSON values."""
        return json.loads(json.dumps(vars(self), default=str))

    def describe(self, parser: argparse.ArgumentParser) -> str:
        """One line an option; those changed from their defaults are marked."""
        rows = []
        recipe = RECIPES.get(getattr(self, "arch", None), {})
        for name, value in vars(self).items():
            default = recipe.get(name, parser.get_default(name))
            rows.append(f"  {name:16s} {value}" + ("" if value == default else f"   [changed, default {default}]"))
        return "\n".join(rows)

    def follow_recipe(self) -> None:
        """Give what the command line left open the value of the network's recipe."""
        for name, value in RECIPES[self.arch].items():
            if getattr(self, name) is None:
                setattr(self, name, value)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line (exit status 2)."""

    def error(self, message: str) -> None:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser(script: str, does: str, examples: str) -> Parser:
    return Parser(
        prog=script,
        description=does,
        epilog="examples:\n" + "\n".join("  " + line.strip() for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


# ---- what a value may be --------------------------------------------------------------------------------------------


def _number(kind: Callable, least: float, most: float, what: str) -> Callable:
    def read(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return read


positive_int = _number(int, 1, sys.maxsize, "a whole number of at least 1")
count = _number(int, 0, sys.maxsize, "a whole number of at least 0")
seed_number = _number(int, 0, 2**63 - 1, "a whole number from 0 to 2^63 - 1")
positive = _number(float, sys.float_info.min, sys.float_info.max, "a number above 0")
fraction = _number(float, 0.0, 1.0, "a number from 0 to 1")
seconds = _number(float, 0.0, sys.float_info.max, "a number of at least 0")


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, or one of them alone."""
    host, colon, port = text.rpartition(":")
    if not colon and not text.isdecimal():
        host, port = text, "8000"
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8000")
    return host or "127.0.0.1", int(port)


# ---- flags that several scripts share -------------------------------------------------------------------------------


def _add_data(parser: Parser, alias: str) -> None:
    parser.add_argument(
        "--data",
        alias,
        metavar="DIR",
        help="folder with MNIST's four IDX files (.gz or not, also in MNIST/raw below it) or with the PNG folders "
        f"mnist_train/ and mnist_test/ that convert_mnist.py writes; {alias} is an alias. Without it: $MNIST_DIR, then "
        "data/mnist, then a download to data/mnist, then the 5,000 images that come with the project",
    )


def _add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps (default: auto)",
    )


def _add_weights(parser: Parser, many: bool = False) -> None:
    parser.add_argument(
        "--weights",
        "--model_load_path",
        nargs="+" if many else None,
        default=[DEFAULT_WEIGHTS] if many else DEFAULT_WEIGHTS,
        type=Path,
        metavar="FILE_OR_RUN",
        help="checkpoint file, or run folder (its best.pt"
        + ("; alone, every checkpoint in it is listed" if many else "")
        + f"); --model_load_path is an alias (default: {_shown(DEFAULT_WEIGHTS)})",
    )
    _add_load_name(parser, "--weights")


def _add_load_name(parser: Parser, folder: str) -> None:
    parser.add_argument(
        "--model_load_name", metavar="FILE", help=f"name of a checkpoint inside the folder {folder}, as in the article"
    )


def path_or_none(text: str) -> Path | None:
    """A path; None for the word none."""
    return None if text == "none" else Path(text)


def _add_reading(parser: Parser) -> None:
    _add_weights(parser)
    parser.add_argument(
        "--strings",
        type=path_or_none,
        default=DEFAULT_STRINGS,
        metavar="FILE_OR_RUN",
        help="checkpoint of the network that reads touching digits as one string; none: they are only cut apart "
        f"(default: {_shown(DEFAULT_STRINGS)})",
    )
    parser.add_argument(
        "--min_confidence",
        type=fraction,
        default=0.4,
        metavar="X",
        help="probability from 0 to 1 below which a box is drawn grey and not read (default: %(default)s)",
    )
    _add_device(parser)


def _add_json(parser: Parser, what: str) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write {what} to FILE as JSON")


def _recipes(name: str) -> str:
    return "(default: " + ", ".join(f"{arch} {recipe[name]}" for arch, recipe in RECIPES.items()) + ")"


def _shown(path: Path) -> str:
    return os.path.relpath(path, Path(__file__).parent)


# ---- a function a script --------------------------------------------------------------------------------------------


def convert_parser() -> Parser:
    """convert_mnist.py's options."""
    parser = _parser(
        "convert_mnist.py",
        "Write MNIST's IDX files as PNG pictures, a folder a digit: <output>/mnist_train/7/00042.png",
        """python convert_mnist.py --download
        python convert_mnist.py --source ~/Downloads/mnist --output data/mnist_png""",
    )
    parser.add_argument("--source", metavar="DIR", help="folder with the IDX files (default: as for train.py --data)")
    parser.add_argument(
        "--output", type=Path, default=Path("data/mnist_png"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch the IDX files first (11 MB, to --source or data/mnist)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="fill up an --output folder that an interrupted run left half-filled"
    )
    return parser


def train_parser() -> Parser:
    """train.py's options."""
    parser = _parser(
        "train.py",
        "Train a network on MNIST. Writes runs/<name>/: options.json, log.csv, last.pt, best.pt.",
        """python train.py
        python train.py --epochs 20 --seed 1 --name longer
        python train.py --resume runs/longer --epochs 30""",
    )
    data = parser.add_argument_group("data")
    _add_data(data, "--train_data_path")
    data.add_argument(
        "--validation",
        type=count,
        default=5000,
        metavar="N",
        help="training images kept apart to choose best.pt; at most a tenth of all; 0: none, best.pt is the last "
        "(default: %(default)s)",
    )
    data.add_argument(
        "--augment",
        choices=("affine", "elastic", "strip", "none"),
        help="how each batch is varied; affine: turned, scaled, moved; elastic: also slanted, bent, strokes thicker "
        f"and thinner; strip: as affine, but turned less, and slanted {_recipes('augment')}",
    )
    data.add_argument(
        "--pages",
        type=count,
        metavar="N",
        help="pages that training digits are written on and cut out of again by segmentation.py, to train on as well; "
        f"made once (about 50 ms each on two processors) and kept in --runs_dir {_recipes('pages')}",
    )
    learning = parser.add_argument_group("learning")
    learning.add_argument(
        "--arch",
        default="article",
        metavar="NAME",
        help=f"network: {', '.join(RECIPES)}; reader also knows what is not a digit, strings reads touching digits "
        "as one string (default: %(default)s)",
    )
    learning.add_argument(
        "--epochs",
        "--EPOCH",
        type=positive_int,
        metavar="N",
        help="passes over the training set, in all; --EPOCH is an alias; ten times as many of the embedded subset "
        f"without pages {_recipes('epochs')}",
    )
    learning.add_argument(
        "--batch_size", type=positive_int, metavar="N", help=f"images a step {_recipes('batch_size')}"
    )
    learning.add_argument("--lr", type=positive, metavar="RATE", help=f"AdamW's highest learning rate {_recipes('lr')}")
    learning.add_argument(
        "--lr_decay",
        type=fraction,
        metavar="X",
        help=f"the rate falls smoothly by this factor per 60,000 images {_recipes('lr_decay')}",
    )
    learning.add_argument(
        "--weight_decay", type=fraction, default=0.01, metavar="X", help="AdamW's weight decay (default: %(default)s)"
    )
    learning.add_argument(
        "--label_smoothing",
        type=fraction,
        metavar="X",
        help="share of the target spread over all classes, against overconfidence; 0: off; strings know none "
        f"{_recipes('label_smoothing')}",
    )
    learning.add_argument(
        "--easy",
        type=fraction,
        metavar="X",
        help="odds that an image which was read well when seen last takes part in an epoch; 1: all images do "
        f"{_recipes('easy')}",
    )
    learning.add_argument(
        "--ema",
        type=fraction,
        metavar="X",
        help=f"moving average of the weights, share kept a step; 0: off {_recipes('ema')}",
    )
    learning.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="of everything random (default: %(default)s)"
    )
    machine = parser.add_argument_group("machine")
    _add_device(machine)
    machine.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help=f"arithmetic; auto: bf16 where that is faster, else fp32 {_recipes('precision')}",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--name", metavar="NAME", help="of the run's folder (default: date and time)")
    run.add_argument(
        "--runs_dir",
        "--model_save_path",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where run folders are made; --model_save_path is an alias (default: %(default)s)",
    )
    run.add_argument(
        "--resume",
        "--model_load_path",
        type=Path,
        metavar="RUN_OR_FILE",
        help="go on with a run (its folder, or its last.pt); the run's own options hold, but --epochs may be raised; "
        "--model_load_path is an alias",
    )
    _add_load_name(run, "--resume")
    run.add_argument(
        "--save_every",
        type=count,
        default=0,
        metavar="N",
        help="also keep a checkpoint every N epochs, its name with date and time; 0: none (default: %(default)s)",
    )
    run.add_argument("--dry_run", action="store_true", help="three steps and one validation batch, nothing is written")
    return parser


def test_parser() -> Parser:
    """test.py's options."""
    parser = _parser(
        "test.py",
        "Accuracy on MNIST's 10,000 test images, confusion matrix, and a picture of every misread digit.",
        """python test.py
        python test.py --weights runs/longer
        python test.py --weights a.pt b.pt --json accuracy.json""",
    )
    _add_weights(parser, many=True)
    _add_data(parser, "--test_data_path")
    parser.add_argument(
        "--batch_size", type=positive_int, default=500, metavar="N", help="images at once (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/test"),
        metavar="DIR",
        help="folder for confusion.png, reliability.png and misread.png (default: %(default)s)",
    )
    _add_json(parser, "the figures")
    _add_device(parser)
    return parser


def demo_parser() -> Parser:
    """demo.py's options."""
    parser = _parser(
        "demo.py",
        "Read the handwritten digits in pictures. Writes results.json, results.csv and an annotated copy of each.",
        """python demo.py
        python demo.py ~/Pictures/notes --output results/notes
        python demo.py 'scans/*.jpg' photo.png --min_confidence 0.8
        python demo.py one_digit.png --single --show""",
    )
    parser.add_argument(
        "sources",
        nargs="*",
        default=[str(SAMPLES)],
        metavar="SOURCE",
        help="image, folder (with its subfolders) or glob (default: samples/). In a folder hidden files and .json, "
        ".csv, .md and .py files are passed over; any other file that is no picture is reported",
    )
    parser.add_argument("--output", type=Path, default=Path("results/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--single", action="store_true", help="each picture is one digit, however it is broken up")
    parser.add_argument(
        "--show", action="store_true", help="show each picture in a window; any key: next, Esc or q: end"
    )
    parser.add_argument(
        "--debug",
        type=Path,
        metavar="DIR",
        help="also save every stage of each picture as one contact sheet in DIR, under its own name with .png added",
    )
    _add_reading(parser)
    return parser


def realtime_parser() -> Parser:
    """demo_realtime.py's options."""
    parser = _parser(
        "demo_realtime.py",
        "Read handwritten digits live from a camera, a video, a URL or a folder of pictures.\n\n"
        "keys: Esc or q end, Space freeze, s save picture and JSON, r record, d stages of the segmentation,\n"
        "      p patches that the network sees, f what its layers make of one, h these keys",
        """python demo_realtime.py
        python demo_realtime.py --source 1 --mirror
        python demo_realtime.py --source http://192.168.1.20:8080/video
        python demo_realtime.py --source page.mp4 --headless --json lines.jsonl --record out.avi
        python demo_realtime.py --serve 0.0.0.0:8000""",
    )
    source = parser.add_argument_group("source")
    source.add_argument(
        "--source",
        default="0",
        metavar="0|FILE|URL|DIR",
        help="camera index, video file, a phone camera's HTTP or RTSP address, or a folder of pictures (a slide show) "
        "(default: %(default)s)",
    )
    source.add_argument(
        "--retry",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long a camera or stream that was lost is tried again (default: %(default)g)",
    )
    source.add_argument("--mirror", action="store_true", help="left and right swapped, for a camera that mirrors")
    source.add_argument(
        "--rotate", type=int, choices=(0, 90, 180, 270), default=0, help="degrees clockwise (default: %(default)s)"
    )
    source.add_argument(
        "--max_frames", type=count, default=0, metavar="N", help="end after N frames; 0: never (default: %(default)s)"
    )
    shown = parser.add_argument_group("where the reading goes")
    where = shown.add_mutually_exclusive_group()
    where.add_argument("--headless", action="store_true", help="no window: for servers, with --record or --json")
    where.add_argument(
        "--serve",
        nargs="?",
        const="127.0.0.1:8000",
        type=address,
        metavar="HOST:PORT",
        help="no window: the picture in a browser (default address: 127.0.0.1:8000; 0.0.0.0:8000 lets the whole "
        "network look)",
    )
    shown.add_argument(
        "--record", type=Path, metavar="FILE", help="save the annotated video; .avi and .mkv survive even a kill"
    )
    _add_json(shown, "one line a frame")
    shown.add_argument(
        "--output",
        type=Path,
        default=Path("results/live"),
        metavar="DIR",
        help="where the keys s and r save (default: %(default)s)",
    )
    _add_reading(parser)
    return parser


def parse(parser: Parser, argv: Sequence[str] | None = None) -> Options:
    """The options on the command line (`argv` without the script's name; None: sys.argv). Exits with 2 on a bad one."""
    return parser.parse_args(argv, namespace=Options())


def given(parser: Parser, argv: Sequence[str] | None = None) -> set[str]:
    """The names of the options that stand on the command line, whatever their values."""
    unset = object()
    marked = argparse.Namespace(**{action.dest: unset for action in parser._actions})  # so no default is filled in
    parser.parse_args(argv, namespace=marked)
    return {name for name, value in vars(marked).items() if value is not unset}


def weights_paths(opt: Options) -> list[Path]:
    """The checkpoint files or run folders that --weights and --model_load_name name."""
    paths = opt.weights if isinstance(opt.weights, list) else [opt.weights]
    return [path / opt.model_load_name if opt.model_load_name else path for path in paths]
