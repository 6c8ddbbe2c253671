"""train.py, test.py and checkpoints, on real digits and through the command line."""

from __future__ import annotations

import csv
import itertools
import json
import math
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, start
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import mnist
import options
import train
from LeNet_5 import LeNet_5, build, spelled, string_losses
from options import DEFAULT_WEIGHTS
from test import probabilities, reliability
from utils import CHECKPOINT_FORMAT, UserError, load_checkpoint, load_model, save_checkpoint, write_atomically

LAYERS_OF_1998 = ("c1", "s2", "c3", "s4", "c5", "f6")
QUICK = ("--batch_size", "16", "--validation", "100", "--lr", "0.003")


@pytest.fixture(scope="module")
def subset_png(tmp_path_factory):
    """A PNG data folder made of the subset: 1,000 training and 500 test digits, so that runs take seconds."""
    import convert_mnist

    folder = tmp_path_factory.mktemp("png")
    images, labels = mnist.load_subset()
    order = np.random.default_rng(0).permutation(len(images))
    for name, rows in (("mnist_train", order[:1000]), ("mnist_test", order[1000:1500])):
        convert_mnist.convert(images[rows], labels[rows], folder / name)
    return folder


@pytest.fixture(scope="module")
def run_of_two(subset_png, tmp_path_factory, script):
    """A finished run of two epochs."""
    runs = tmp_path_factory.mktemp("runs")
    done = script("train.py", "--data", subset_png, "--epochs", 2, "--name", "two", "--runs_dir", runs, *QUICK)
    assert done.returncode == 0, done.stderr
    assert f"python test.py --weights {runs / 'two' / 'best.pt'}" in done.stdout.splitlines()[-1]
    return runs / "two"


def test_the_articles_network_has_its_parameters_and_shapes():
    model = build("article")
    assert sum(p.numel() for p in model.parameters()) == 431_080
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    # no activation after the convolutions: doubling the input doubles what reaches the first dense layer
    for layer in (model.conv1, model.conv2):
        torch.nn.init.zeros_(layer.bias)
    x = torch.rand(2, 1, 28, 28)
    features = model.pool2(model.conv2(model.pool1(model.conv1(x))))
    assert torch.allclose(model.pool2(model.conv2(model.pool1(model.conv1(2 * x)))), 2 * features, atol=1e-5)


def test_the_original_has_its_parameters_and_connections():
    model = build("1998")
    layers = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in LAYERS_OF_1998}
    assert layers == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164}  # 1998, section II.B
    assert sum(layers.values()) == 60_000
    below = torch.rand(1, 6, 14, 14)
    changed = below.clone()
    changed[:, 3] += 1  # the fourth map of S2
    difference = (model.c3(changed) - model.c3(below)).abs().sum((0, 2, 3)) > 0
    connected = [1, 2, 3, 6, 7, 8, 9, 12, 14, 15]  # Table I, row 3
    assert difference.nonzero().flatten().tolist() == connected


@pytest.mark.parametrize("arch, outputs", [("1998", 10), ("modern", 10), ("reader", 11)])
def test_every_network_takes_a_batch(arch, outputs):
    model = build(arch)
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, outputs)
    assert sum(p.numel() for p in model.parameters()) <= 1_000_000


def test_a_network_that_reads_strings_sees_the_same_wherever_it_stands():
    model = build("strings").eval()
    ink = torch.rand(2, 1, 28, 40)
    with torch.inference_mode():
        near, far = (model(functional.pad(ink, (left, 100 - left))) for left in (40, 46))
    assert near.shape == (2, (140 - 34) // 2, 12)
    assert torch.allclose(near[:, :-3], far[:, 3:], atol=1e-5)  # three columns on, and no edge makes a difference


def test_strings_are_spelled_without_repetitions():
    columns = torch.tensor([[11, 1, 1, 11, 1, 2, 2], [11] * 7, [10, 3, 3, 3, 11, 11, 3]])
    logits = functional.one_hot(columns, 12).float()
    assert [[sign for sign in row if sign != 11] for row in spelled(logits).tolist()] == [[1, 1, 2], [], [10, 3, 3]]
    right = train.hits_of(logits, torch.tensor([[1, 1, 2], [11, 11, 11], [10, 3, 11]]))
    assert right.tolist() == [True, True, False]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 10), min_size=1, max_size=3))
def test_a_strings_probability_is_that_of_all_ways_to_write_it(seed, text):
    logits = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(seed))
    shares = torch.softmax(logits[0], 1)
    ways = itertools.product(sorted({*text, 11}), repeat=4)  # what each of the four columns says
    spelt = ((way, [sign for sign, _ in itertools.groupby(way) if sign != 11]) for way in ways)
    total = sum(shares[range(4), way].prod() for way, signs in spelt if signs == text)
    label = torch.tensor([text + [11] * (3 - len(text))])
    assert string_losses(logits, label).neg().exp().item() == pytest.approx(float(total), rel=1e-3, abs=1e-9)


def test_confidences_are_calibrated():
    torch.manual_seed(0)
    labels = torch.randint(10, (4000,))
    logits = torch.randn(4000, 10) + 3 * functional.one_hot(labels, 10)
    chance = train.fit_temperature(logits, labels)
    assert train.fit_temperature(5 * logits, labels) == pytest.approx(5 * chance, rel=0.05)
    model = build("article").eval()
    x = torch.rand(4, 1, 28, 28)
    before = model(x)
    model.load_state_dict(train.cooled(model, 2.5))
    assert torch.allclose(model(x), before / 2.5, atol=1e-5)
    right = np.array([True] * 90 + [False] * 10)
    table, error = reliability(np.full(100, 0.95), right)
    assert error == pytest.approx(0.05) and table[9].tolist() == pytest.approx([0.95, 0.9, 100])


def test_the_reader_learns_from_pages_too(subset_png, script, tmp_path):
    arguments = ("--arch", "reader", "--pages", 8, "--epochs", 1, "--runs_dir", tmp_path, "--data", subset_png)
    done = script("train.py", *arguments, "--name", "r", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "8 pages" in done.stdout and len(list(tmp_path.glob("written-*.npz"))) == 2  # training's and validation's
    saved = load_checkpoint(tmp_path / "r")
    assert saved["arch"] == "reader" and saved["data"]["train"] > 867 + 8 * 10
    assert saved["model"]["fc2.bias"].shape == (11,) and 0.1 <= saved["temperature"] <= 10
    tested = script("test.py", "--weights", tmp_path / "r", "--data", subset_png, "--output", tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert "none" in tested.stdout and "calibration error" in tested.stdout
    assert (tmp_path / "reliability.png").stat().st_size > 1000


def test_a_network_learns_to_read_strings(subset_png, script, tmp_path):
    arguments = ("--arch", "strings", "--pages", 4, "--epochs", 1, "--runs_dir", tmp_path, "--data", subset_png)
    done = script("train.py", *arguments, "--name", "s", *QUICK)
    assert done.returncode == 0, done.stderr
    saved = load_checkpoint(tmp_path / "s")
    assert saved["arch"] == "strings" and 3 * 40 < saved["data"]["train"] <= 4 * 40
    tested = script("test.py", "--weights", tmp_path / "s", "--data", subset_png, "--output", tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert "none" in tested.stdout and "misses of" in tested.stdout
    assert_one_line_error(script("train.py", *arguments[:2], "--pages", 0, "--data", subset_png), "--pages")


def test_a_reader_that_is_resumed_is_the_one_that_it_would_have_been(subset_png, script, tmp_path):
    arguments = ("--arch", "reader", "--pages", 4, "--data", subset_png, "--runs_dir", tmp_path, *QUICK)
    assert script("train.py", *arguments, "--epochs", 2, "--name", "whole").returncode == 0
    assert script("train.py", *arguments, "--epochs", 1, "--name", "parts").returncode == 0
    resumed = script("train.py", "--resume", tmp_path / "parts", "--epochs", 2)
    assert resumed.returncode == 0, resumed.stderr
    models = [load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "parts")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_what_is_read_well_takes_part_seldom():
    opt = options.parse(options.train_parser(), ["--arch", "reader", "--device", "cpu"])
    opt.follow_recipe()
    trainer = train.Trainer(opt, torch.device("cpu"))
    assert len(trainer.choose(2000)) == 2000  # none has been seen
    target = torch.full((11,), 0.05 / 11)
    target[0] += 0.95
    surest = functional.cross_entropy(target.log()[None], torch.tensor([0]), label_smoothing=0.05)
    trainer.losses[:1000] = surest
    trainer.losses[1000:] = surest + 0.2
    chosen = trainer.choose(2000)
    assert (chosen >= 1000).sum() == 1000 and 100 < (chosen < 1000).sum() < 200
    opt.easy = 1.0
    assert len(trainer.choose(2000)) == 2000


def test_a_run_folder_holds_what_the_contract_says(run_of_two):
    assert {"options.json", "log.csv", "last.pt", "best.pt"} <= {file.name for file in run_of_two.iterdir()}
    saved = json.loads((run_of_two / "options.json").read_text())
    assert saved["epochs"] == 2 and saved["batch_size"] == 16
    assert saved["precision"] in ("fp32", "bf16")  # what auto was: on another machine it may be the other
    with (run_of_two / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    best = load_checkpoint(run_of_two)
    assert best["arch"] == "article" and best["options"]["epochs"] == 2
    assert best["data"] == {"source": "MNIST train, PNG", "train": 867, "validation": 96}
    assert max(float(row["validation_accuracy"]) for row in rows) == pytest.approx(best["accuracy"], abs=1e-5)


def test_two_epochs_equal_one_and_one_resumed(run_of_two, subset_png, script):
    runs = run_of_two.parent
    one = script("train.py", "--data", subset_png, "--epochs", 1, "--name", "one", "--runs_dir", runs, *QUICK)
    assert one.returncode == 0, one.stderr
    resumed = script("train.py", "--resume", runs / "one", "--EPOCH", 2)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("best.pt", "last.pt"):
        straight, parts = load_checkpoint(run_of_two / name), load_checkpoint(runs / "one" / name)
        assert straight["epoch"] == parts["epoch"] and straight["accuracy"] == parts["accuracy"]
        assert all(torch.equal(straight["model"][key], parts["model"][key]) for key in straight["model"])
    columns = slice(0, 6)  # without the seconds
    logs = [[line.split(",")[columns] for line in (runs / n / "log.csv").read_text().split()] for n in ("one", "two")]
    assert logs[0] == logs[1]


def test_a_finished_run_says_how_to_go_on(run_of_two, script):
    assert_one_line_error(script("train.py", "--resume", run_of_two), "--epochs 3")
    assert_one_line_error(script("train.py", "--resume", run_of_two, "--epochs", 3, "--lr", 1), "--lr")
    assert_one_line_error(script("train.py", "--resume", run_of_two / "best.pt", "--epochs", 3), "no training state")
    assert_one_line_error(
        script("train.py", "--name", run_of_two.name, "--runs_dir", run_of_two.parent), "exists", "--resume"
    )


def test_a_run_folder_gives_the_articles_table(run_of_two, subset_png, script, tmp_path):
    result = script(
        "test.py", "--weights", run_of_two, "--data", subset_png, "--json", tmp_path / "t.json", "--output", tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "epoch  accuracy  misses" in result.stdout
    figures = json.loads((tmp_path / "t.json").read_text())
    assert figures["images"] == 500 and figures["misses"] == round(500 * (1 - figures["accuracy"]))
    assert f"accuracy {100 * figures['accuracy']:.2f} %, {figures['misses']} misses of 500" in result.stdout
    assert figures["accuracy"] > 0.75  # two epochs on 900 images
    assert [row["epoch"] for row in figures["checkpoints"]] == [2, 2]
    assert (tmp_path / "confusion.png").stat().st_size > 1000 and (tmp_path / "misread.png").stat().st_size > 1000


def test_results_are_kept_when_nobody_listens(run_of_two, subset_png, tmp_path):
    """As in `python test.py | head -1`."""
    arguments = ("--weights", run_of_two, "--data", subset_png, "--output", tmp_path, "--json", tmp_path / "t.json")
    process = start(sys.executable, ROOT / "test.py", *arguments)
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(60)
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    assert (tmp_path / "t.json").exists() and (tmp_path / "misread.png").exists()


def test_the_article_s_option_names_work(run_of_two, subset_png, script, tmp_path):
    arguments = ("--model_load_path", run_of_two, "--model_load_name", "last.pt", "--test_data_path", subset_png)
    result = script("test.py", *arguments, "--output", tmp_path)
    assert result.returncode == 0 and "last.pt" in result.stdout
    opt = options.parse(
        options.train_parser(),
        ["--EPOCH", "3", "--train_data_path", "a", "--model_save_path", "b", "--batch_size", "9"],
    )
    assert (opt.epochs, opt.data, str(opt.runs_dir), opt.batch_size) == (3, "a", "b", 9)


def test_save_every_keeps_dated_epochs(subset_png, script, tmp_path):
    done = script(
        "train.py",
        "--data",
        subset_png,
        "--epochs",
        2,
        "--save_every",
        1,
        "--name",
        "r",
        "--runs_dir",
        tmp_path,
        *QUICK,
    )
    assert done.returncode == 0, done.stderr
    kept = sorted(file.name for file in (tmp_path / "r").glob("epoch*.pt"))
    assert [name[:9] for name in kept] == ["epoch001_", "epoch002_"] and kept[0][9:13].isdigit()


def test_ctrl_c_saves_and_says_how_to_go_on(subset_png, tmp_path):
    command = [sys.executable, "-u", ROOT / "train.py", "--data", subset_png, "--epochs", "1000", "--name", "r"]
    process = start(*command, "--runs_dir", tmp_path)
    for line in process.stdout:
        if line.startswith("epoch 2"):
            process.send_signal(signal.SIGINT)
            break
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert f"python train.py --resume {tmp_path / 'r'}" in output
    assert load_checkpoint(tmp_path / "r" / "last.pt")["epoch"] >= 2


def test_a_rate_that_is_too_high_is_said(subset_png, script, tmp_path):
    run = script("train.py", "--data", subset_png, "--lr", "1e3", "--epochs", 60, "--runs_dir", tmp_path)
    assert_one_line_error(run, "learning rate is too high", "--lr")


def test_a_run_that_failed_at_once_can_be_begun_anew(subset_png, script, tmp_path):
    begin = ("train.py", "--data", subset_png, "--runs_dir", tmp_path, "--name", "a", "--epochs", 1)
    assert script(*begin, "--lr", "1e30").returncode == 1
    run = script(*begin)
    assert run.returncode == 0, run.stderr
    assert_one_line_error(script(*begin), "exists", "--resume")  # but not what has been trained


def test_a_run_is_not_resumed_with_other_digits(subset_png, script, tmp_path):
    """Without the $MNIST_DIR that it was begun with, and without a network, the subset would be found."""
    begin = ("train.py", "--runs_dir", tmp_path, "--name", "a", "--epochs", 1, *QUICK)
    assert script(*begin, MNIST_DIR=str(subset_png)).returncode == 0
    run = script("train.py", "--resume", tmp_path / "a", "--epochs", 2, cwd=tmp_path, MNIST_DIR="")
    assert_one_line_error(run, "was trained on MNIST train, PNG", "embedded subset", "--data")


def test_a_loss_that_stays_at_guessing_is_said():
    with pytest.raises(UserError, match="no better than guessing"):
        train.check_loss(2.30, 500, 0.1)
    with pytest.raises(UserError, match="loss is nan"):
        train.check_loss(float("nan"), 7, 0.1)
    train.check_loss(0.3, 500, 0.1)


def test_dry_run_writes_nothing(subset_png, script, tmp_path):
    run = script("train.py", "--data", subset_png, "--dry_run", cwd=tmp_path)
    assert run.returncode == 0 and "nothing is written" in run.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("augment", ["affine", "elastic", "none"])
def test_training_is_the_same_for_the_same_seed(subset_png, augment):
    digits = mnist.load(subset_png, train=True).take(torch.arange(256))

    def weights(seed: int) -> torch.Tensor:
        opt = options.parse(options.train_parser(), ["--augment", augment, "--seed", str(seed)])
        opt.follow_recipe()
        torch.manual_seed(seed)
        trainer = train.Trainer(opt, torch.device("cpu"))
        trainer.train_epoch(digits)
        return trainer.network.fc2.weight.detach().clone()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    "name, arch", [("article", "article"), ("lenet1998", "1998"), ("reader", "reader"), ("strings", "strings")]
)
def test_the_weights_that_come_along_read_digits_that_no_training_saw(name, arch):
    model, checkpoint = load_model(ROOT / "weights" / f"{name}.pt")
    assert checkpoint["arch"] == arch
    images, labels = mnist.load_subset()
    rows = mnist.sample_indices()
    read = probabilities(model, torch.from_numpy(images[rows]), 200).argmax(1).numpy()
    assert (read != labels[rows]).sum() <= 5  # of 200


def test_the_weights_are_small():
    assert sum(file.stat().st_size for file in (ROOT / "weights").glob("*.pt")) < 6e6  # bytes


# ---- checkpoints that can't be used ---------------------------------------------------------------------------------


def _bad_checkpoints(folder):
    good = {"arch": "article", "model": build().state_dict()}
    truncated, whole, other, newer, bare, text = (
        folder / f"{n}.pt" for n in ("cut", "whole", "other", "new", "bare", "text")
    )
    save_checkpoint(truncated, good)
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    torch.save(LeNet_5(), whole)
    save_checkpoint(other, {**good, "arch": "transformer"})
    torch.save({"format": CHECKPOINT_FORMAT + 1, **good}, newer)
    torch.save(build().state_dict(), bare)
    text.write_text("no checkpoint at all")
    misfit = folder / "misfit.pt"
    save_checkpoint(misfit, {"arch": "article", "model": {"conv1.weight": torch.zeros(3)}})
    return {
        folder / "missing.pt": "no such file",
        folder: "no best.pt",
        truncated: "can't be read",
        whole: "pickled",
        other: "unknown here",
        newer: "update the program",
        bare: "not a checkpoint of this project",
        text: "text.pt",
        misfit: "don't fit",
    }


def test_bad_checkpoints_are_refused_in_one_line(tmp_path):
    for file, words in _bad_checkpoints(tmp_path).items():
        with pytest.raises(UserError, match=words) as caught:
            load_model(file)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("change", [{"format": "1"}, {"format": None}, {"arch": ["article"]}, {"model": None}])
def test_checkpoints_with_odd_fields_are_refused(tmp_path, change, checkpoint):
    torch.save({**torch.load(checkpoint, weights_only=True), **change}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "odd.pt")


def test_weights_that_are_damaged_are_refused(tmp_path, checkpoint):
    content = bytearray(DEFAULT_WEIGHTS.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 2000):
        content[place] ^= 1
    (tmp_path / "bent.pt").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / "bent.pt")
    state = torch.load(checkpoint, weights_only=True)
    next(iter(state["model"].values())).fill_(math.nan)
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(UserError, match="no numbers"):
        load_model(tmp_path / "nan.pt")


def test_a_pickle_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for name, dump in (("torch.pt", torch.save), ("plain.pt", lambda bomb, f: f.write_bytes(pickle.dumps(bomb)))):
        dump({"format": 1, "arch": "article", "model": Bomb()}, tmp_path / name)
        with pytest.raises(UserError):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_scripts_refuse_bad_checkpoints_and_devices(tmp_path, script):
    assert_one_line_error(script("test.py", "--weights", tmp_path / "none.pt"), "none.pt", "train.py")
    if not torch.cuda.is_available():
        assert_one_line_error(script("train.py", "--device", "cuda"), "cuda", "--device cpu")
    assert_one_line_error(script("train.py", "--device", "abacus"), "abacus", "--device cpu")
    assert_one_line_error(script("train.py", "--epochs", "many"), "--epochs", status=2)
    assert_one_line_error(script("train.py", "--arch", "abacus"), "abacus", "article")


# ---- files that can't be written ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    """A file size limit of the process stands in for the full disk: writes fail half-way in the same manner."""
    file = tmp_path / "best.pt"
    save_checkpoint(file, {"arch": "article", "model": build().state_dict(), "epoch": 1})
    before = file.read_bytes()
    code = (
        "import resource, signal; from utils import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "new = dict(arch='article', model=build().state_dict(), epoch=2)\n"
        f"raise SystemExit(run_script(lambda: save_checkpoint({str(file)!r}, new)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert_one_line_error(done, "best.pt", "disk not full")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_can_t_be_made_is_said(tmp_path, subset_png, script):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't write"):
        write_atomically(tmp_path / "file" / "x", lambda beside: beside.write_text("x"))
    run = script("train.py", "--data", subset_png, "--epochs", 1, "--runs_dir", tmp_path / "file", *QUICK)
    assert_one_line_error(run, "can't write")
