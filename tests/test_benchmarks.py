"""benchmarks/: what they switch off is what the program has."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation

import mnist
import pages
import paper


@pytest.fixture(scope="module")
def pictures():
    """A line of digits, strings of digits that touch, letters among digits."""
    images, labels = mnist.load_subset()
    rng = np.random.default_rng(0)
    line = paper.pick(rng, images, labels, "3141592")
    strings = [pages.string_page(rng, images, labels, 3)[0].picture for _ in range(4)]
    signs = np.stack([*line[0][:4], *(pages.no_digit(rng, images, labels) for _ in range(4))])
    mixed = signs, [*line[1][:4], *[pages.NOT_A_DIGIT] * 4]
    lines = [paper.write_lines(rng, [some], paper.sheet(rng, (500, 160))).picture for some in (line, mixed)]
    return [*lines, *strings]


@pytest.mark.parametrize("stage", ablation.STAGES)
def test_every_stage_can_be_switched_off(stage, pictures, reader):
    switched = ablation.STAGES[stage]
    with patch.object(*switched) if switched else nullcontext():
        read = ["".join(reader.read(picture).lines) for picture in pictures]
    assert read[0] == "3141592"  # an easy line needs none of them
