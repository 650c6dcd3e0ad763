"""Seconds of training five students stacked by `vmap`, next to one after another.

Both make the same SGD steps on the same batches, without augmentation, in float32 with the same
threads, one after the other in each round; the weights they end with are compared. The ratio is
why `rome_core.evaluation.students` stacks nothing.

    python -m benchmarks.students --quick             8 pixels alone, seconds
    python -m benchmarks.students                     width 32, 8 and 32 pixels, about a minute
    python -m benchmarks.students --widths 32 128     wider networks too
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks._report import result
from rome_core.networks import Network, build
from rome_core.randomness import generator

STUDENTS, BATCH, RATE = 5, 100, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description="Students stacked and one after another.")
    parser.add_argument("--quick", action="store_true", help="8 pixels, one round")
    parser.add_argument("--widths", type=int, nargs="+", default=[32])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--steps", type=int, default=5, help="training steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.rounds = [8], 1
    torch.set_num_threads(arguments.threads)
    for width in arguments.widths:
        for size in arguments.sizes:
            measure(width, size, arguments)


def measure(width: int, size: int, arguments: argparse.Namespace) -> None:
    x = torch.randn(BATCH, 3, size, size, generator=generator(0, "benchmark images"))
    labels = torch.arange(BATCH) % 10
    stacked, alone = [], []
    networks = students(width, size)
    step_stacked(networks, x, labels, 1)  # the first step of each is not counted
    step_alone(networks, x, labels, 1)
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        one = step_stacked(students(width, size), x, labels, arguments.steps)
        middle = time.perf_counter()
        other = step_alone(students(width, size), x, labels, arguments.steps)
        stacked.append(middle - began)
        alone.append(time.perf_counter() - middle)
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    print(
        result(
            "students_stacked",
            stacked,
            alone,
            unit=f"seconds for {arguments.steps} steps of {STUDENTS} students, smaller is better",
            packages=["torch"],
            more={
                "setting": f"convnet-w{width}, {BATCH} images of 3x{size}x{size}",
                "threads": arguments.threads,
                "difference": float(f"{apart:.1e}"),  # largest, of any weight
            },
        )
    )


def students(width: int, size: int) -> list[Network]:
    return [
        build(
            f"convnet-w{width}", channels=3, size=size, classes=10, generator=generator(0, number)
        )
        for number in range(STUDENTS)
    ]


def step_stacked(
    networks: list[Network], x: Tensor, labels: Tensor, steps: int
) -> dict[str, Tensor]:
    skeleton = networks[0]

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, weights, (x,)), labels)

    weights, _ = stack_module_state(list(networks))
    weights = {name: value.detach().clone() for name, value in weights.items()}
    for _ in range(steps):
        for name, gradient in vmap(grad(loss))(weights).items():
            weights[name].sub_(gradient, alpha=RATE)
    return weights


def step_alone(networks: list[Network], x: Tensor, labels: Tensor, steps: int) -> dict[str, Tensor]:
    ends = []
    for network in networks:
        parameters = dict(network.named_parameters())
        for _ in range(steps):
            loss = F.cross_entropy(network(x), labels)
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            with torch.no_grad():
                for value, gradient in zip(parameters.values(), gradients, strict=True):
                    value.sub_(gradient, alpha=RATE)
        ends.append({name: value.detach() for name, value in parameters.items()})
    return {name: torch.stack([end[name] for end in ends]) for name in ends[0]}


if __name__ == "__main__":
    main()
