"""Who is in the pool, how its networks learn, what its meters remember."""

from __future__ import annotations

import pytest
import torch

from rome_core.distillation.pool import Member, MovingAverage, Pool, SinceEvaluation
from rome_core.randomness import generator


def fresh(serial: int) -> Member:
    weights = {"w": torch.rand(3, generator=generator(0, "w", serial))}
    return Member(serial, weights, MovingAverage(0.9))


def serials(pool: Pool) -> list[int]:
    return [member.serial for member in pool.members]


def test_a_network_comes_at_iteration_zero_and_every_interval_and_the_oldest_leaves() -> None:
    pool = Pool(fresh, begin=3, limit=5, interval=2)
    history = []
    for iteration in range(7):
        pool.renew(iteration)
        history.append(serials(pool))
    assert history == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5, 6],
    ]


@pytest.mark.parametrize(
    ("begin", "limit", "interval", "full"), [(3, 100, 30, 2880), (3, 100, 5, 480)]
)
def test_the_published_pools_fill_when_they_should(
    begin: int, limit: int, interval: int, full: int
) -> None:
    pool = Pool(fresh, begin=begin, limit=limit, interval=interval)
    first = None
    for iteration in range(full + interval + 1):
        pool.renew(iteration)
        if first is None and len(pool) == limit:
            first = iteration
    assert first == full
    assert serials(pool)[0] == 1


def test_descending_is_torch_sgd() -> None:
    member = fresh(0)
    parameter = torch.nn.Parameter(member.weights["w"].clone())
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(4):
        gradient = torch.rand(3, generator=generator(1, step))
        parameter.grad = gradient.clone()
        sgd.step()
        member.descend({"w": gradient}, lr=0.1, momentum=0.9, decay=5e-4)
        torch.testing.assert_close(member.weights["w"], parameter.detach())


def test_the_released_meter_forgets_at_an_evaluation() -> None:
    meter = SinceEvaluation()
    assert meter.accuracy == 0
    meter.record(1, 4)
    meter.record(3, 4)
    assert meter.accuracy == 0.5
    meter.reset()
    assert meter.accuracy == 0


def test_the_moving_average_does_not_and_is_unbiased_from_the_start() -> None:
    meter = MovingAverage(0.9)
    assert meter.accuracy == 0
    meter.record(3, 4)
    meter.reset()
    assert meter.accuracy == 0.75
    meter.record(1, 4)
    assert meter.accuracy == pytest.approx((0.25 + 0.9 * 0.75) / 1.9)


def test_a_state_is_a_chunk_a_network_and_comes_back() -> None:
    pool = Pool(fresh, begin=2, limit=2, interval=1)
    pool.renew(0)
    pool.members[1].descend({"w": torch.ones(3)}, lr=0.1, momentum=0.9, decay=0)
    pool.members[1].meter.record(1, 2)
    state = pool.state_dict()
    assert sorted(state) == ["pool", "pool/1", "pool/2"]

    other = Pool(fresh, begin=2, limit=2, interval=1)
    other.load_state_dict(state)
    assert serials(other) == [1, 2]
    assert torch.equal(other.members[1].weights["w"], pool.members[1].weights["w"])
    assert torch.equal(other.members[1].velocity["w"], pool.members[1].velocity["w"])
    assert other.members[1].meter.accuracy == 0.5
    other.members[1].weights["w"].zero_()
    assert pool.members[1].weights["w"].any()
    other.renew(1)
    assert serials(other) == [2, 3]
