"""Train a network on MNIST: `python train.py` gives runs/<date and time>/best.pt.

The result of the defaults stands in README.md, with the command that measured it. Two things differ from most scripts
of this kind: the data set is one tensor on the device, so an epoch is arithmetic only; and the learning rate depends on
the steps done, never on the epochs asked for, so that a run which is resumed, or made longer, is the run that it would
have been.

MNIST's test set is not looked at: best.pt is chosen on images kept apart from the training set.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import mnist
import options
import pages
from LeNet_5 import ARCHITECTURES, NOT_A_DIGIT, NOTHING, build, spelled, string_losses, to_input
from utils import (
    UserError,
    faster_in_bf16,
    find_checkpoint,
    keep_freed_memory,
    load_checkpoint,
    pick_device,
    predict,
    run_script,
    save_checkpoint,
    seed_everything,
    write_text,
)

AUGMENT = {  # arguments of mnist.augment
    "affine": {},
    "elastic": {"shear": 0.15, "elastic": 0.8, "thickness": 0.5, "untouched": 0.3},
    "strip": {"degrees": 4, "shear": 0.2, "untouched": 0.4},
}
SUBSET_TIMES = 10  # as many epochs of the embedded subset, unless --epochs says so: one is a 15th of MNIST's
PLAIN = 3  # times that each plain image is in an epoch with pages: else pages outweigh MNIST
# Odds of "not a digit" on paper, of those in training: half of all there is letters, signs and bad cuts, and six in ten
# of the strings of one sign.
RARER, RARER_STRINGS = 0.3, 0.2
VALIDATION_PAGES = 0.06  # of --pages, written with the validation digits
WARM_UP = 100  # steps over which the rate rises from 0: Adam's first steps are large, and here they kill units
AN_EPOCH = 60_000  # images; the schedule counts images seen, so it is the same for data sets of any size
EASY = 0.1  # nats: how far from its target (Kullback-Leibler) the answer to an image may be that is read well
CHECK_EVERY = 100  # steps between looks at the loss; looking at each would make a GPU wait
GUESSING = math.log(10)  # the loss of a network that says "each digit, one in ten"
# What may be said anew on --resume: where and how far a run goes on, not what it is.
RESUME_CHANGES = {"data", "epochs", "device", "resume", "model_load_name", "save_every", "dry_run"}


def learning_rate(step: int, batch_size: int, highest: float, decay: float) -> float:
    """The rate of step 0, 1, ...: a linear warm-up, and throughout a fall by the factor `decay` per 60,000 images."""
    return highest * min(1.0, (step + 1) / WARM_UP) * decay ** (step * batch_size / AN_EPOCH)


def moving_average(keep: float) -> Callable:
    """AveragedModel's rule: an exponential moving average, short at first so that early weights are soon forgotten."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor) -> None:
        n = int(count)
        torch._foreach_lerp_(averages, weights, 1 - min(keep, (n + 1) / (n + 10)))

    return update


def losses_of(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """N losses: the cross-entropy of logits N x classes, or a sign's share of the CTC loss of strips' N x T x 12."""
    if logits.dim() == 2:
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return string_losses(logits, labels) / (labels != NOTHING).sum(1)


def hits_of(logits: Tensor, labels: Tensor) -> Tensor:
    """N bools: which are read exactly right."""
    if logits.dim() == 2:
        return logits.argmax(1) == labels
    signs = spelled(logits)
    return (signs == functional.pad(labels, (0, signs.shape[1] - labels.shape[1]), value=NOTHING)).all(1)


def check_loss(loss: float, step: int, rate: float, guessing: float = GUESSING) -> None:
    """UserError when the loss says that training has failed: the article's lesson about rates set too high."""
    advice = f"the learning rate is too high; start again with, say, --lr {rate / 10:.0e}"
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss} after {step} steps: {advice}")
    if step >= 1.5 * CHECK_EVERY and loss > 0.95 * guessing:
        raise UserError(f"after {step} steps the loss is still {loss:.2f}, no better than guessing: {advice}")


class Trainer:
    """What training carries from step to step; `state()` and `restore()` make it go on exactly where it was."""

    def __init__(self, opt: options.Options, device: torch.device) -> None:
        self.opt, self.device, self.epoch, self.step = opt, device, 0, 0
        if opt.precision == "auto":  # from now on the run's own, wherever it goes on
            opt.precision = "bf16" if faster_in_bf16(device) else "fp32"
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[opt.precision]
        self.model = build(opt.arch).to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=moving_average(opt.ema))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=opt.lr, weight_decay=opt.weight_decay, fused=device.type in ("cpu", "cuda")
        )
        self.random = torch.Generator().manual_seed(opt.seed)  # shuffling and augmentation: on the CPU, one for all
        self.losses: Tensor | None = None  # of each image when it was seen last

    def choose(self, count: int) -> Tensor:
        """Which of so many images take part in the next epoch: what was read well when it was seen last seldom does.

        A. H. Jiang et al., "Accelerating deep learning by focusing on the biggest losers", 2019 (StaleSB).
        """
        if self.losses is None or len(self.losses) != count:
            self.losses = torch.full((count,), math.inf, device=self.device)
        if self.opt.easy == 1:
            return torch.arange(count)
        target = torch.full((self.model.outputs,), self.opt.label_smoothing / self.model.outputs)
        target[0] += 1 - self.opt.label_smoothing
        least = torch.distributions.Categorical(target).entropy()  # the loss of an answer that is the target
        odds = ((self.losses.cpu() - least) / EASY).clamp(self.opt.easy, 1)
        return (torch.rand(count, generator=self.random) < odds).nonzero()[:, 0]

    def train_batch(self, images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """One step on uint8 images n x 28 x 28 and labels n. Returns n losses and the number of hits, on the device."""
        x = to_input(images)
        if self.opt.augment != "none":
            x = mnist.augment(x, self.random, **AUGMENT[self.opt.augment])
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            logits = self.model(x)
            losses = losses_of(logits, labels, self.opt.label_smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        losses.mean().backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return losses.detach(), hits_of(logits.detach(), labels).sum()

    def train_epoch(self, digits: mnist.Digits) -> tuple[float, float]:
        """One pass over the digits. Returns mean loss and accuracy (0..1). UserError when training has failed."""
        self.model.train()
        chosen = self.choose(len(digits))
        indices = list(mnist.batches(len(chosen), self.opt.batch_size, self.random))
        losses, hits = torch.zeros(2, device=self.device)
        bar = tqdm(indices, desc=f"epoch {self.epoch + 1}/{self.opt.epochs}", unit="batch", leave=False)
        for done, index in enumerate(bar, 1):
            rate = learning_rate(self.step, self.opt.batch_size, self.opt.lr, self.opt.lr_decay)
            index = chosen[index].to(self.device)
            theirs, right = self.train_batch(digits.images[index], digits.labels[index], rate)
            self.losses[index] = theirs
            losses += theirs.mean()
            hits += right
            self.step += 1
            if done % CHECK_EVERY == 0 or done == len(indices):
                mean = losses.item() / done
                check_loss(mean, self.step, self.opt.lr, math.inf if self.opt.arch == "strings" else GUESSING)
                accuracy = hits.item() / (done * len(index))
                bar.set_postfix_str(f"loss {mean:.4f}, accuracy {100 * accuracy:.2f} %, rate {rate:.1e}")
        self.epoch += 1
        return losses.item() / len(indices), hits.item() / sum(map(len, indices))

    @property
    def network(self) -> nn.Module:
        """The network to be used and judged: the weights' moving average."""
        return self.average.module if self.opt.ema else self.model

    def state(self) -> dict:
        """All that `restore` needs, as tensors and numbers."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "random": self.random.get_state(),
            "random_cpu": torch.get_rng_state(),
        }

    def restore(self, epoch: int, state: dict) -> None:
        """Go on after `epoch` epochs from what `state` returned then."""
        self.epoch, self.step = epoch, state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        losses = state.get("losses")  # runs from before --easy have none
        self.losses = None if losses is None else losses.to(self.device)
        self.random.set_state(state["random"])
        torch.set_rng_state(state["random_cpu"])


def start_or_resume(opt: options.Options, given: set[str]) -> tuple[options.Options, Path, dict | None]:
    """The run's options, its folder, and the checkpoint that it goes on from (None: from the start).

    `given`: the options that stand on the command line. UserError: unknown network, run that exists, nothing to resume.
    """
    if opt.arch not in ARCHITECTURES:
        raise UserError(f"--arch {opt.arch} is unknown; known: {', '.join(ARCHITECTURES)}")
    if opt.resume is None:
        run = opt.runs_dir / (opt.name or time.strftime("%Y-%m-%d_%H-%M-%S"))
        last = run / "last.pt"
        # One without an epoch done failed at once, and may be begun anew.
        if not opt.dry_run and last.exists() and load_checkpoint(last).get("epoch") != 0:
            raise UserError(f"{run} exists: go on with --resume {run}, or choose another --name")
        return opt, run, None
    source = opt.resume / opt.model_load_name if opt.model_load_name else opt.resume
    file = find_checkpoint(source, "last.pt")
    checkpoint = load_checkpoint(file)
    if not {"training", "best", "options"} <= checkpoint.keys():
        raise UserError(f"{file} has weights only and no training state; --resume needs a run's last.pt")
    if given - RESUME_CHANGES:
        fixed = " ".join(sorted(f"--{name}" for name in given - RESUME_CHANGES))
        raise UserError(f"--resume goes on with the run's own options; leave out {fixed}, or start a new run")
    saved = options.Options(**{**vars(opt), **checkpoint["options"]})
    saved.runs_dir = Path(saved.runs_dir)  # plain values are all that a checkpoint has
    for name in given | {"resume", "dry_run"}:
        setattr(saved, name, getattr(opt, name))
    if checkpoint["epoch"] >= saved.epochs:
        done = checkpoint["epoch"]
        raise UserError(f"{file} has its {done} epochs done; --epochs is the total: say --epochs {done + 1} or more")
    return saved, file.parent, checkpoint


def written(digits: mnist.Digits, count: int, seed: int, opt: options.Options, plain: int = 1) -> mnist.Digits:
    """The digits, `plain` times each, and after them what segmentation cuts out of `count` pages written with them.

    Of a network that reads strings, strips alone. What is no digit is left out for a network without an output for it.
    UserError when the cache can't be written.
    """
    images, labels = digits.images.numpy(), digits.labels.numpy()
    make = pages.write_strips if opt.arch == "strings" else pages.cut_pages
    if opt.dry_run:
        patches, truth = make(range(4), images, labels, seed)
    else:
        patches, truth = pages.written(count, images, labels, seed, opt.runs_dir, make)
    source = f"{digits.source}, and {count} pages"
    if opt.arch == "strings":
        return mnist.Digits(torch.from_numpy(patches), torch.from_numpy(truth), source)
    known = truth < ARCHITECTURES[opt.arch].outputs
    images, labels = torch.from_numpy(patches[known]), torch.from_numpy(truth[known])
    images = torch.cat((*(digits.images,) * plain, images))
    labels = torch.cat((*(digits.labels,) * plain, labels))
    return mnist.Digits(images, labels, source)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """What the logits (N x classes) have to be divided by for their softmax to be right as often as it says.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017, section 4.2.
    """
    candidates = torch.logspace(-1, 1, 201)
    losses = [losses_of(logits / float(t), labels).mean().item() for t in candidates]
    return float(candidates[losses.index(min(losses))])


def cooled(network: nn.Module, temperature: float) -> dict[str, Tensor]:
    """The network's state as it is used: its last layer divided by the temperature, and so its logits.

    "Not a digit" is made as much less likely as it is rarer on paper than in training (Bayes: the odds are multiplied).
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    last = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    for name in (f"{last}.weight", f"{last}.bias"):
        state[name] /= temperature
    rarer = RARER_STRINGS if network.outputs > NOTHING else RARER
    state[f"{last}.bias"][NOT_A_DIGIT : NOT_A_DIGIT + 1] += math.log(rarer)
    return state


def append_log(file: Path, row: dict) -> None:
    """Add an epoch's row to log.csv; rows of the same and later epochs, from before a resume, go."""
    rows = []
    if file.exists():
        with file.open(newline="") as old:
            rows = [r for r in csv.DictReader(old) if r["epoch"].isdecimal() and int(r["epoch"]) < row["epoch"]]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    write_text(file, text.getvalue())


def train(opt: options.Options, given: set[str]) -> None:
    """Train as the options say (`given`: those on the command line).

    UserError: data, device, checkpoint, disk, or a loss that doesn't fall.
    """
    began = time.perf_counter()
    opt, run, checkpoint = start_or_resume(opt, given)
    device = pick_device(opt.device)
    seed_everything(opt.seed)
    keep_freed_memory()
    digits = mnist.load(opt.data, train=True)
    trained_on = checkpoint["data"].get("source", digits.source) if checkpoint else digits.source
    if "data" not in given and not trained_on.startswith(digits.source):
        raise UserError(f"{run} was trained on {trained_on}; here is {digits.source}: name its data with --data")
    asked = opt.epochs is not None
    opt.follow_recipe()
    if not asked and not opt.pages and "subset" in digits.source:  # with pages an epoch is long enough
        opt.epochs *= SUBSET_TIMES
    print(opt.describe(options.train_parser()))
    if opt.arch == "strings" and not opt.pages:
        raise UserError("--arch strings learns from strings on pages alone: let --pages be 1 or more")
    training, validation = mnist.split_validation(digits, opt.validation)
    if opt.pages:
        training = written(training, opt.pages, opt.seed, opt, PLAIN)
        if len(validation):  # the same pages for every run
            validation = written(validation, max(1, round(VALIDATION_PAGES * opt.pages)), 1998, opt)
    trainer = Trainer(opt, device)
    best = 0.0
    if checkpoint:
        try:
            trainer.restore(checkpoint["epoch"], checkpoint["training"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{run}: the training state in last.pt is damaged ({error!r}); start a new run") from error
        best = checkpoint["best"]
    print(
        f"{training.source}: {len(training)} images to train on, {len(validation)} to validate; "
        f"{opt.arch} in {str(trainer.dtype).split('.')[1]} on {device}"
    )
    training, validation = training.to(device), validation.to(device)

    if opt.dry_run:
        loss, _ = trainer.train_epoch(training.take(torch.randperm(len(training))[: 3 * opt.batch_size]))
        predict(trainer.network, validation.images[:500])
        print(f"dry run: three steps (loss {loss:.2f}) and a validation batch went well; nothing is written")
        return

    temperature = 1.0

    def save(name: str, accuracy: float, **more: object) -> None:
        save_checkpoint(
            run / name,
            {
                "arch": opt.arch,
                "model": cooled(trainer.network, temperature),
                "epoch": trainer.epoch,
                "accuracy": accuracy,
                "temperature": temperature,
                "options": opt.as_dict(),
                "data": {"source": training.source, "train": len(training), "validation": len(validation)},
                **more,
            },
        )

    write_text(run / "options.json", json.dumps(opt.as_dict(), indent=2) + "\n")
    if not checkpoint:
        save("last.pt", 0.0, best=best, training=trainer.state())
    try:
        while trainer.epoch < opt.epochs:
            start = time.perf_counter()
            loss, accuracy = trainer.train_epoch(training)
            seconds = time.perf_counter() - start
            row = {"epoch": trainer.epoch, "train_loss": f"{loss:.5f}", "train_accuracy": f"{accuracy:.5f}"}
            judged = accuracy
            if len(validation):
                logits = predict(trainer.network, validation.images)
                temperature = fit_temperature(logits, validation.labels)
                validation_loss = losses_of(logits / temperature, validation.labels).mean().item()
                misses = int((~hits_of(logits, validation.labels)).sum())
                judged = 1 - misses / len(validation)
                row |= {"validation_loss": f"{validation_loss:.5f}", "validation_accuracy": f"{judged:.5f}"}
                row["validation_misses"] = misses
            row |= {"learning_rate": f"{trainer.optimizer.param_groups[0]['lr']:.2e}", "seconds": f"{seconds:.1f}"}
            is_best = not len(validation) or judged >= best  # of equals, the later
            best = max(best, judged)
            append_log(run / "log.csv", row)
            if is_best:
                save("best.pt", judged)
            if opt.save_every and trainer.epoch % opt.save_every == 0:
                save(f"epoch{trainer.epoch:03d}_{time.strftime('%Y-%m-%d_%H-%M-%S')}.pt", judged)
            save("last.pt", judged, best=best, training=trainer.state())
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    except KeyboardInterrupt:
        print(f"\nstopped after {trainer.epoch} whole epochs, saved; go on with: python train.py --resume {run}")
        raise
    print(f"done in {time.perf_counter() - began:.0f} s; now: python test.py --weights {run / 'best.pt'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; the exit status."""
    parser = options.train_parser()
    opt, given = options.parse(parser, argv), options.given(parser, argv)
    return run_script(lambda: train(opt, given))


if __name__ == "__main__":
    sys.exit(main())
