"""Networks trained on digits in a blink, and test sets of a few images."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from rome_core.data import Dataset, load
from rome_core.evaluation.evaluation import test_set
from rome_core.evaluation.robustness import TestSet
from rome_core.evaluation.subjects import Subject
from rome_core.networks import Network, build
from rome_core.passes import Bound, Passes, Plan
from rome_core.randomness import generator

PLAN = Plan(False, None, False, 1, "eager, whole batches")
NETWORK = "convnet-d1-w8"


@cache
def digits(classes: int = 10) -> Dataset:
    """8x8 images of one channel, taken for as many classes. To be read only, as all here."""
    data = load("digits", Path())
    return replace(
        data,
        classes=classes,
        class_names=data.class_names[:classes],
        train_labels=data.train_labels % classes,
        test_labels=data.test_labels % classes,
    )


@cache
@torch.enable_grad()
def trained(seed: int = 1, name: str = NETWORK, classes: int = 10) -> Network:
    """A network that is right on most digits, in evaluation mode."""
    data = digits(classes)
    mean, std = data.mean.view(1, -1, 1, 1), data.std.view(1, -1, 1, 1)
    x, y = ((data.train_images - mean) / std).float(), data.train_labels
    made = build(name, channels=1, size=8, classes=classes, generator=generator(seed, "tests"))
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
    for step in range(40):
        rows = torch.randperm(len(x), generator=generator(seed, "rows", step))[:64]
        loss = F.cross_entropy(made(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return made.eval().requires_grad_(False)


def bound(network: Network, plan: Plan = PLAN) -> Bound:
    return Passes(network, plan).bind(network.state_dict())


def some(n: int = 24, *, seed: int = 3) -> TestSet:
    """Some of the test images of digits."""
    data = digits()
    return test_set(data, n, seed, data.space, "cpu")


def subject(name: str = "model", seed: int = 1, classes: int = 10) -> Subject:
    return Subject(name, trained(seed, classes=classes), source=name, digest=f"digest of {name}")
