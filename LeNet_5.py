"""The networks. Each maps a batch of 28x28 digits to ten scores (logits), one a class.

`LeNet_5` is the network of the blog article (Wenretium, 2021) that this project grew from; it is Caffe's take on
LeNet-5: 431,080 parameters, max-pooling, one ReLU, and no activation after the convolutions. Trained by train.py's
defaults it reads 99.5 % of MNIST's test set (see README.md).

The original: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, section II.B.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet_5(nn.Module):
    """The article's network: N x 1 x 28 x 28 floats (paper 0, ink 1) to N x 10 logits."""

    parameters_expected = 431_080

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5)
        self.pool1 = nn.MaxPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.pool2 = nn.MaxPool2d(kernel_size=2)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(500, 10)

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


# Every network that --arch can name. Each class states in `parameters_expected` what its source says that it has.
ARCHITECTURES: dict[str, type[nn.Module]] = {"article": LeNet_5}
DEFAULT_ARCHITECTURE = "article"


def build(arch: str = DEFAULT_ARCHITECTURE) -> nn.Module:
    """A new network of the architecture of that name, its parameter count checked. KeyError for an unknown name."""
    model = ARCHITECTURES[arch]()
    count = sum(p.numel() for p in model.parameters())
    assert count == model.parameters_expected, f"{arch} has {count} parameters, not {model.parameters_expected}"
    return model


def to_input(patches: Tensor) -> Tensor:
    """uint8 patches N x 28 x 28 (paper 0, ink 255) to the networks' input, N x 1 x 28 x 28 floats in 0..1.

    The one place where pixels become network input: training, test and both demos call it.
    """
    return patches.unsqueeze(1).to(torch.float32).div_(255)
