"""Seconds of our attacks next to torchattacks' and the reference AutoAttack's, on the same images.

Both attack the same network on the same images of one dataset, one after the other in each round.
The attacks of the published set run as BEARD runs them (`rome-2025`: on normalised images, clamped
to [0,1], torchattacks called on the bare network); AutoAttack standard runs in pixel space, with
the network behind its normalisation. Each line also says what both left right, on how many images
their outcomes agree, and our passes an image.

    pip install --no-deps torchattacks==3.5.1 pyautoattack==0.2.0
    python -m benchmarks.attacks --quick                            digits, a minute
    python -m benchmarks.attacks --dataset cifar10 --data-root DATA --checkpoint F.pth --images 256
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._report import result
from rome_core import passes, weights
from rome_core.data import Dataset, load
from rome_core.evaluation.robustness import TestSet, face
from rome_core.evaluation.students import Student, TrainingSet
from rome_core.networks import Network
from rome_core.passes import Passes
from rome_core.randomness import generator
from rome_core.recipes.evaluate import Students
from rome_core.recipes.protocols import PROTOCOLS, Protocol, overridden

EPSILON, STEP = 8 / 255, 2 / 225  # the published step, misprint included
NEEDED = "pip install --no-deps torchattacks==3.5.1 pyautoattack==0.2.0"


Attack = Callable[[Tensor, Tensor], Tensor]
"""Images and labels to adversarial images."""


@dataclass(frozen=True)
class Rival:
    """One attack of ours and how others' code is asked for the same."""

    attack: str  # the protocol's name for it
    mode: str
    make: Callable[[nn.Module, int], Attack] | None = None  # the reference AutoAttack without
    protocol: str = "rome-2025@1"
    package: str = "torchattacks"


def torchattacks(name: str, **arguments: Any) -> Callable[[nn.Module, int], Attack]:
    def make(model: nn.Module, classes: int) -> Attack:
        module = import_module("torchattacks")
        more = {"n_classes": classes} if name == "AutoAttack" else {}
        attack = getattr(module, name)(model, **arguments, **more)
        return lambda x, labels: attack(x, labels)

    return make


RIVALS = (
    Rival("fgsm", "untargeted", torchattacks("FGSM", eps=EPSILON)),
    Rival(
        "pgd",
        "untargeted",
        torchattacks("PGD", eps=EPSILON, alpha=STEP, steps=10, random_start=False),
    ),
    Rival(
        "pgd-l2",
        "untargeted",
        torchattacks("PGDL2", eps=128 / 255, alpha=15 / 255, steps=10, random_start=False),
    ),
    Rival("cw", "untargeted", torchattacks("CW", c=1, kappa=0, steps=100, lr=0.01)),
    Rival("deepfool", "untargeted", torchattacks("DeepFool", steps=50, overshoot=0.02)),
    Rival("autoattack", "untargeted", torchattacks("AutoAttack", eps=EPSILON)),
    Rival("autoattack", "untargeted", None, "pixel@1", "pyautoattack"),
)


class Normalising(nn.Module):
    """A network behind its normalisation, as others' attacks in pixel space need it."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.float().view(-1, 1, 1))
        self.register_buffer("std", std.float().view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def main() -> None:
    parser = argparse.ArgumentParser(description="Our attacks beside others', same images.")
    parser.add_argument("--quick", action="store_true", help="digits, few images, small budgets")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--checkpoint", type=Path, help="weights; else a student is trained")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attacks", help="comma-separated; all by default")
    parser.add_argument("--epsilon", help="of AutoAttack in pixel space, such as 1/255")
    parser.add_argument("--queries", type=int, help="of its Square attack (both sides)")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.rounds = 32, 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    missing = [name for name in ("torchattacks", "pyautoattack") if not _there(name)]
    if missing:
        print(f"error: {', '.join(missing)} are not installed: {NEEDED}", file=sys.stderr)
        sys.exit(2)
    dataset = load(arguments.dataset, arguments.data_root)
    network = _network(dataset, arguments.checkpoint)
    wanted = arguments.attacks.split(",") if arguments.attacks else None
    for rival in RIVALS:
        if wanted is None or rival.attack in wanted:
            measure(rival, network, dataset, arguments)


def measure(
    rival: Rival, network: Network, dataset: Dataset, arguments: argparse.Namespace
) -> None:
    protocol = _protocol(rival, arguments)
    entry = protocol.entry(rival.attack)
    n = arguments.images
    test = TestSet(
        dataset.test_images[:n],
        dataset.test_labels[:n],
        torch.arange(n),
        dataset.classes,
        dataset.space,
    )
    modes: dict[str, Any] = {"auto": "auto", "on": "compiled", "off": "eager"}
    plan = passes.plan(
        mode=modes[arguments.compile],
        images=n * 200,
        network=network.spec,
        size=dataset.shape[1],
        threads=torch.get_num_threads(),
    )
    model = Passes(network, plan).bind(network.state_dict())
    model(dataset.normalise(test.pixels[:1]))  # compiled, if so, before the clock starts
    model.loss_gradient(dataset.normalise(test.pixels[:1]), lambda z, part: z[:, 0])
    pixel = rival.protocol == "pixel@1"
    bare: nn.Module = Normalising(network, dataset.mean, dataset.std) if pixel else network
    epsilon = float(_fraction(arguments.epsilon)) if pixel and arguments.epsilon else EPSILON
    if rival.make is None:
        attack = reference_autoattack(bare.eval(), epsilon, arguments.queries)
    else:
        attack = rival.make(bare.eval(), dataset.classes)
    x = test.pixels if pixel else dataset.normalise(test.pixels)
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        mine = face(model, test, protocol, entry, "untargeted", seed=0)
        middle = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            bare(x)  # ours looks at the images before and after, too
            with torch.enable_grad():
                made = attack(x, test.labels)
            right = bare(made).argmax(dim=1) == test.labels
        theirs.append(time.perf_counter() - middle)
        ours.append(middle - began)
    print(
        result(
            f"attack_{rival.attack}_{'pixel' if pixel else 'published'}",
            ours,
            theirs,
            unit=f"seconds for {n} images against {rival.package}, smaller is better",
            packages=["torch", rival.package],
            more={
                "setting": f"{protocol.id}, {entry.settings.model_dump(mode='json')}, "
                f"{network.spec.name}, {dataset.name}",
                "images_per_second": [round(n / min(ours), 2), round(n / min(theirs), 2)],
                "accuracy": [mine.faced.accuracy, float(right.double().mean())],
                "outcomes_agree": float((right == mine.faced.correct).double().mean()),
                "our_passes_per_image": round(
                    float((mine.faced.forwards + mine.faced.backwards).double().mean()), 2
                ),
                "compiled": plan.compiled,
                "threads": torch.get_num_threads(),
            },
        ),
        flush=True,
    )


def reference_autoattack(model: nn.Module, epsilon: float, queries: int | None) -> Attack:
    module = import_module("pyautoattack")

    def run(x: Tensor, labels: Tensor) -> Tensor:
        adversary = module.AutoAttack(model, norm="Linf", eps=epsilon, version="standard", seed=0)
        adversary.verbose = False
        if queries:
            adversary.square.n_queries = queries
        made, _ = adversary.run_standard_evaluation(x, labels, batch_size=len(x))
        return torch.as_tensor(made)

    return run


def _protocol(rival: Rival, arguments: argparse.Namespace) -> Protocol:
    changes: dict[str, Any] = {}
    if rival.protocol == "pixel@1":
        if arguments.epsilon:
            changes["epsilon"] = arguments.epsilon
        if arguments.queries:
            changes["queries"] = arguments.queries
    return overridden(PROTOCOLS[rival.protocol], {rival.attack: changes})


def _network(dataset: Dataset, checkpoint: Path | None) -> Network:
    """The given one, or a small student of real images."""
    channels, size, _ = dataset.shape
    if checkpoint is not None:
        return weights.load(
            checkpoint, channels=channels, size=size, classes=dataset.classes, network="convnet"
        )
    chosen = torch.randperm(len(dataset.train_images), generator=generator(0, "benchmark"))[:500]
    training = TrainingSet(
        dataset.normalise(dataset.train_images[chosen]),
        dataset.train_labels[chosen],
        dataset.classes,
        "none",
    )
    name = "convnet-d2-w32" if size < 16 else "convnet-w32"
    student = Student(training, Students(network=name, epochs=30), seed=0, number=0)
    for _ in student.train():
        pass
    return student.network


def _there(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def _fraction(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


if __name__ == "__main__":
    main()
