"""The networks. Each maps a batch of 28x28 digits to scores (logits), one a class.

`LeNet_5` is the network of the blog article (Wenretium, 2021) that this project grew from; it is Caffe's take on
LeNet-5: 431,080 parameters, max-pooling, one ReLU, and no activation after the convolutions. `LeNet_5_1998` is the
original. `LeNet_5_Reader` and `LeNet_5_Modern` keep the skeleton of both (two stages of 5x5 convolution and pooling,
two dense layers) with what has been learnt since: the first has an eleventh output, "not a digit", and is the demos';
the other convolves twice in each stage. `LeNet_5_Strings` is the reader laid out along a strip: it reads digits that
touch without being told where each ends. What each of them reaches stands in README.md.

The original: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, section II.B.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DIGITS = 10
NOT_A_DIGIT = 10  # the class of the eleventh output, in networks that have one
NOTHING = 11  # the class of the twelfth, of a network that reads strings: nothing new here


class LeNet_5(nn.Module):
    """The article's network: N x 1 x 28 x 28 floats (paper 0, ink 1) to N x 10 logits."""

    outputs = DIGITS
    parameters_expected = 431_080

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5)
        self.pool1 = nn.MaxPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.pool2 = nn.MaxPool2d(kernel_size=2)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(500, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch."""
        # N x 1 x 28 x 28
        x = self.conv1(x)  # N x 20 x 24 x 24
        x = self.pool1(x)  # N x 20 x 12 x 12
        x = self.conv2(x)  # N x 50 x 8 x 8
        x = self.pool2(x)  # N x 50 x 4 x 4
        x = x.flatten(1)  # N x 800
        x = self.relu1(self.fc1(x))  # N x 500
        return self.fc2(x)  # N x 10


class ScaledTanh(nn.Module):
    """f(a) = 1.7159 tanh(2/3 a), so that f(1) = 1 and f(-1) = -1 (1998, appendix A)."""

    def forward(self, a: Tensor) -> Tensor:
        """Elementwise."""
        return 1.7159 * torch.tanh(2 / 3 * a)


class SubSampling(nn.Module):
    """The sum of each 2x2 neighbourhood times a trainable coefficient, plus a trainable bias: two a map (S2, S4)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((maps,), 0.25))  # starts as the average
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        """N x maps x H x W to N x maps x H/2 x W/2."""
        return 4 * functional.avg_pool2d(x, 2) * self.coefficient[:, None, None] + self.bias[:, None, None]


class PartialConvolution(nn.Module):
    """C3: 5x5 convolutions, each map connected to some of the six below only (1998, Table I): 1,516 parameters."""

    TABLE = (
        *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),  # three neighbours
        *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),  # four neighbours
        *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),  # four, not all neighbours
        (0, 1, 2, 3, 4, 5),
    )

    def __init__(self) -> None:
        super().__init__()
        connections = [6 * number + below for number, maps in enumerate(self.TABLE) for below in maps]
        inputs = torch.tensor([25 * len(maps) for maps in self.TABLE for _ in maps])
        self.register_buffer("places", torch.tensor(connections), persistent=False)
        self.weight = nn.Parameter((2 * torch.rand(len(connections), 25) - 1) * 2.4 / inputs[:, None])
        self.bias = nn.Parameter(torch.zeros(len(self.TABLE)))

    def forward(self, x: Tensor) -> Tensor:
        """N x 6 x 14 x 14 to N x 16 x 10 x 10."""
        kernels = self.weight.new_zeros(16 * 6, 25).index_copy(0, self.places, self.weight)
        return functional.conv2d(x, kernels.view(16, 6, 5, 5), self.bias)


class LeNet_5_1998(nn.Module):
    """The original: N x 1 x 28 x 28 floats (paper 0, ink 1) to N x 10 logits.

    60,000 trainable parameters up to F6, as published. The paper's output units tell how far F6 is from a code w of
    each class, |f - w|^2, where the codes are drawn by hand. Here the codes are learnt: the softmax of -|f - w|^2 is
    that of 2 w f - |w|^2, for |f|^2 is the same for all classes, and that is a dense layer of 850 parameters.
    """

    outputs = DIGITS
    parameters_expected = 60_000 + 850

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, kernel_size=5)
        self.s2 = SubSampling(6)
        self.c3 = PartialConvolution()
        self.s4 = SubSampling(16)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, self.outputs)
        self.squash = ScaledTanh()
        for layer in (self.c1, self.c5, self.f6, self.output):
            bound = 2.4 / layer.weight[0].numel()  # the paper's: evenly within 2.4 / inputs of a unit
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch."""
        # N x 1 x 28 x 28, in the paper's levels (paper -0.1, ink 1.175: mean about 0, variance about 1) and margin
        x = functional.pad(1.275 * x - 0.1, (2, 2, 2, 2), value=-0.1)  # N x 1 x 32 x 32
        x = self.squash(self.c1(x))  # N x 6 x 28 x 28
        x = self.squash(self.s2(x))  # N x 6 x 14 x 14
        x = self.squash(self.c3(x))  # N x 16 x 10 x 10
        x = self.squash(self.s4(x))  # N x 16 x 5 x 5
        x = self.squash(self.c5(x))  # N x 120 x 1 x 1
        x = self.squash(self.f6(x.flatten(1)))  # N x 84
        return self.output(x)  # N x 10


class LeNet_5_Reader(nn.Module):
    """The same skeleton today: N x 1 x 28 x 28 floats (paper 0, ink 1) to N x 11 logits, the last for "not a digit".

    Wider, ReLU everywhere, batch norm after each pooling (a quarter of the work that it is before), dropout.
    """

    outputs = DIGITS + 1
    parameters_expected = 870_443

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=5, bias=False)  # batch norm has the bias
        self.pool1 = nn.MaxPool2d(kernel_size=2)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 96, kernel_size=5, bias=False)
        self.pool2 = nn.MaxPool2d(kernel_size=2)
        self.norm2 = nn.BatchNorm2d(96)
        self.fc1 = nn.Linear(96 * 4 * 4, 512)
        self.dropout = nn.Dropout(0.3)
        self.fc2 = nn.Linear(512, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch."""
        # N x 1 x 28 x 28
        x = functional.relu(self.norm1(self.pool1(self.conv1(x))))  # N x 32 x 12 x 12
        x = functional.relu(self.norm2(self.pool2(self.conv2(x))))  # N x 96 x 4 x 4
        x = functional.relu(self.fc1(x.flatten(1)))  # N x 512
        return self.fc2(self.dropout(x))  # N x outputs


class LeNet_5_Modern(LeNet_5_Reader):
    """The reader with two 5x5 convolutions a stage, the first of which keeps the size: N x 1 x 28 x 28 to N x 10.

    It reads MNIST better and takes twice the time, which the demos don't have (docs/NETWORKS.md, "The modern variant").
    """

    outputs = DIGITS
    parameters_expected = 901_402

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(1, 8, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 32, kernel_size=5, bias=False),
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(32, 32, kernel_size=5, padding=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 96, kernel_size=5, bias=False),
        )


class LeNet_5_Strings(nn.Module):
    """A LeNet-5 for every second column of a strip: N x 1 x 28 x W floats to N x T x 12 logits, T = (W - 34) // 2.

    A strip shows a few signs side by side, touching or not. What it says are the likeliest classes from left to right,
    repetitions told once and NOTHING left out. The paper's "space displacement neural network" (1998, section VII):
    convolutions share nearly all of the work of neighbouring columns. Here the second pooling is of rows only, or a 1
    would be narrower than its columns; each column sees two neighbours on either side as well, 36 pixels in all; and it
    is trained without being told where the signs stand: A. Graves, S. Fernández, F. Gomez, J. Schmidhuber,
    "Connectionist temporal classification", ICML 2006. Nothing is padded: a column that knew that it is the last would
    learn to tell the last sign there.
    """

    outputs = NOTHING + 1
    parameters_expected = 420_204

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=5, bias=False)
        self.pool1 = nn.MaxPool2d(kernel_size=2)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 96, kernel_size=5, bias=False)
        self.pool2 = nn.MaxPool2d(kernel_size=(2, 1))
        self.norm2 = nn.BatchNorm2d(96)
        self.fc1 = nn.Conv2d(96, 96, kernel_size=(4, 8))  # a dense layer at every place
        self.beside = nn.Conv2d(96, 96, kernel_size=(1, 5))
        self.dropout = nn.Dropout(0.2)
        self.fc2 = nn.Linear(96, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch."""
        # N x 1 x 28 x W
        x = functional.relu(self.norm1(self.pool1(self.conv1(x))))  # N x 32 x 12 x (W - 4) / 2
        x = functional.relu(self.norm2(self.pool2(self.conv2(x))))  # N x 96 x 4 x (W - 12) / 2
        x = functional.relu(self.fc1(x))  # N x 96 x 1 x T + 4
        x = functional.relu(self.beside(self.dropout(x)))  # N x 96 x 1 x T
        return self.fc2(self.dropout(x.squeeze(2).transpose(1, 2)))  # N x T x outputs


# Every network that --arch can name. Each class states its `outputs`, and in `parameters_expected` what its source says
# that it has.
ARCHITECTURES: dict[str, type[nn.Module]] = {
    "article": LeNet_5,
    "1998": LeNet_5_1998,
    "modern": LeNet_5_Modern,
    "reader": LeNet_5_Reader,
    "strings": LeNet_5_Strings,
}


def build(arch: str = "article") -> nn.Module:
    """A new network of the architecture of that name, its parameter count checked. KeyError for an unknown name."""
    model = ARCHITECTURES[arch]()
    count = sum(p.numel() for p in model.parameters())
    assert count == model.parameters_expected, f"{arch} has {count} parameters, not {model.parameters_expected}"
    return model


def spelled(logits: Tensor) -> Tensor:
    """What strips say whose logits are N x T x 12: N x T classes, signs from the left and NOTHING after the last."""
    best = logits.argmax(2)
    new = (best != NOTHING) & (best != functional.pad(best, (1, 0), value=NOTHING)[:, :-1])
    order = (~new).to(torch.uint8).argsort(dim=1, stable=True)
    return torch.where(new, best, NOTHING).gather(1, order)


def string_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """N: minus the log probability that strips whose logits are N x T x 12 say N x L classes, NOTHING after the last.

    The sum over all ways to place the signs among the T columns (Graves et al. 2006).
    """
    signs = (labels != NOTHING).sum(1)
    steps = torch.full_like(signs, logits.shape[1])
    log_shares = functional.log_softmax(logits.float(), 2).transpose(0, 1)
    return functional.ctc_loss(log_shares, labels, steps, signs, blank=NOTHING, reduction="none")


def to_input(patches: Tensor) -> Tensor:
    """uint8 patches N x 28 x W (paper 0, ink 255) to the networks' input, N x 1 x 28 x W floats in 0..1.

    The one place where pixels become network input: training, test and both demos call it.
    """
    return patches.unsqueeze(1).to(torch.float32).div_(255)
