"""Coresets as methods: whose images are chosen by which features, packing, resuming."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from rome_core import augment, networks
from rome_core.data import Dataset
from rome_core.distillation import coreset_rules as rules
from rome_core.distillation.coresets import Coreset, Forgetting, Herding, KCenter, KMeans
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import Experts
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.randomness import generator
from rome_core.recipes.coresets import (
    ForgettingHyperparameters,
    HerdingHyperparameters,
    KCenterHyperparameters,
    KMeansHyperparameters,
)
from tests.rome_core.distillation import naive_coresets as naive
from tests.rome_core.distillation.conftest import tiny_dataset

NETWORK = "convnet-d2-w8"


@dataclass
class InMemory:
    """As much of a file of experts as coresets read."""

    network: networks.Network
    epochs: tuple[int, ...] = (0, 3)
    forgetting: Tensor | None = None

    def state(self, expert: int, epoch: int) -> dict[str, Tensor]:
        assert (expert, epoch) == (0, 3)  # the trained one, and its last weights
        return dict(self.network.state_dict())


def some_network(name: str = "trained") -> networks.Network:
    return networks.build(NETWORK, channels=3, size=8, classes=3, generator=generator(0, name))


def experts(network: networks.Network | None = None, **given: Any) -> Experts:
    return cast(Experts, InMemory(network or some_network(), **given))


METHODS: dict[str, tuple[Any, Any]] = {
    "herding": (Herding, HerdingHyperparameters),
    "k_center": (KCenter, KCenterHyperparameters),
    "k_means": (KMeans, KMeansHyperparameters),
}


def make(name: str, dataset: Dataset, *, ipc: int = 3, seed: int = 5, **changes: Any) -> Any:
    method, hyperparameters = METHODS[name]
    hp = hyperparameters(**{"network": NETWORK, "features": "pixels", **changes})
    return method(
        dataset,
        hp,
        ipc=ipc,
        seed=seed,
        plan=plan(mode="eager"),
        experts=experts() if hp.features == "trained" else None,
        dtype=torch.float64,
    )


def done(method: Any) -> Any:
    for _ in range(method.iterations):
        method.step()
    return method


def features_by_hand(dataset: Dataset, kind: str) -> list[Tensor]:
    """What a class's images are compared by, image by image."""
    x = dataset.normalise(dataset.train_images.double())
    network = some_network()
    if kind == "random":
        network = networks.build(
            NETWORK, channels=3, size=8, classes=3, generator=Draws(5).network(0)
        )
    network = network.double().eval()
    with torch.no_grad():
        each = [one.flatten() if kind == "pixels" else network.embed(one[None])[0] for one in x]
    stacked = torch.stack(each)
    return [stacked[dataset.train_labels == label] for label in range(dataset.classes)]


@pytest.mark.parametrize("kind", ["trained", "random", "pixels"])
@pytest.mark.parametrize("name", list(METHODS))
def test_choices_are_the_naive_ones(tiny: Dataset, name: str, kind: str) -> None:
    start = {"start": "random"} if name == "k_center" and kind == "random" else {}
    method = done(make(name, tiny, features=kind, **start))
    for label, z in enumerate(features_by_hand(tiny, kind)):
        made = [Draws(5).coreset(label, restart) for restart in range(3)]
        if name == "herding":
            wanted = naive.herding(z, 3)
        elif name == "k_means":
            wanted = naive.k_means(z, 3, made, 100)
        else:
            drawn = int(torch.randint(len(z), (1,), generator=made[0]))
            wanted = naive.k_center(z, 3, drawn if start else rules.nearest_to_mean(z))
        members = torch.nonzero(tiny.train_labels == label).flatten()
        assert method.chosen[label].tolist() == members[wanted].tolist()


@pytest.mark.parametrize("name", list(METHODS))
def test_the_set_holds_the_chosen_images_class_by_class(tiny: Dataset, name: str) -> None:
    method = done(make(name, tiny))
    synthetic = method.synthetic_set()
    positions = torch.cat(method.chosen)
    assert torch.equal(synthetic.images, tiny.normalise(tiny.train_images[positions]))
    assert synthetic.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(tiny.train_labels[positions], synthetic.labels)
    assert (synthetic.method, synthetic.ipc, synthetic.factor) == (name, 3, 1)
    assert len(set(positions.tolist())) == 9


def test_four_choices_in_a_row_are_packed_into_one(tiny: Dataset) -> None:
    plain = done(make("herding", tiny, ipc=8))
    packed = done(make("herding", tiny, ipc=2, factor=2))
    assert torch.equal(torch.cat(plain.chosen), torch.cat(packed.chosen))
    images = packed.synthetic_set().images
    assert images.shape == (6, 3, 8, 8)
    chosen = tiny.normalise(tiny.train_images[plain.chosen[1]])  # eight images of class 1
    half = torch.nn.functional.avg_pool2d(chosen, 2)
    corners = [images[2, :, r : r + 4, c : c + 4] for c in (0, 4) for r in (0, 4)]
    for corner, one in zip(corners, half[:4], strict=True):
        torch.testing.assert_close(corner, one)
    decoded, _ = augment.expand(images)
    assert decoded.shape == (24, 3, 8, 8)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_half_done_choice_goes_on_as_if_undisturbed(tiny: Dataset, name: str) -> None:
    whole = done(make(name, tiny))
    first = make(name, tiny)
    first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(name, tiny)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        second.step()
    assert torch.equal(whole.synthetic_set().images, second.synthetic_set().images)
    assert torch.equal(torch.cat(whole.chosen), torch.cat(second.chosen))


def test_a_class_knows_nothing_of_others(tiny: Dataset) -> None:
    """Other images in another class change its choice no more than their order does."""
    changed = tiny_dataset()
    changed.train_images[changed.train_labels == 2] = 0.5
    for name in METHODS:
        before, after = make(name, tiny), make(name, changed)
        for _ in range(2):
            before.step()
            after.step()
        assert torch.equal(torch.cat(before.chosen), torch.cat(after.chosen))


def test_the_seed_decides_what_is_left_to_chance(tiny: Dataset) -> None:
    def chosen(name: str, seed: int, **changes: Any) -> list[int]:
        positions: Tensor = torch.cat(done(make(name, tiny, seed=seed, **changes)).chosen)
        return positions.tolist()

    assert chosen("herding", 1) == chosen("herding", 2)
    assert chosen("k_center", 1) == chosen("k_center", 2)
    assert chosen("k_center", 1, start="random") != chosen("k_center", 2, start="random")
    assert chosen("k_means", 1, restarts=1) != chosen("k_means", 2, restarts=1)
    assert chosen("k_means", 3) == chosen("k_means", 3)


def test_whitened_images_are_chosen_among_in_their_own_units(tiny: Dataset) -> None:
    whitened = tiny.whitened()
    method = done(make("k_means", whitened, whitening="zca"))
    z = whitened.normalise(tiny.train_images.double())[tiny.train_labels == 0].flatten(1)
    made = [Draws(5).coreset(0, restart) for restart in range(3)]
    members = torch.nonzero(tiny.train_labels == 0).flatten()
    assert method.chosen[0].tolist() == members[rules.k_means(z, 3, made, 100)].tolist()


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"ipc": 13}, "class_too_small", "ipc"),
        ({"ipc": 4, "factor": 2}, "class_too_small", "ipc"),
        ({"features": "random", "network": "convnet-d4"}, "network_too_deep", "network"),
    ],
)
def test_what_a_dataset_cannot_serve_is_an_error(
    tiny: Dataset, changes: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(CoreError) as caught:
        make("herding", tiny, **changes)
    assert (caught.value.code, caught.value.field) == (code, field)


def forgetting(
    dataset: Dataset, counts: Tensor | None, *, ipc: int, seed: int = 5, count: int = 2
) -> Forgetting:
    return Forgetting(
        dataset,
        ForgettingHyperparameters(network=NETWORK, net_count=count),
        ipc=ipc,
        seed=seed,
        experts=experts(forgetting=counts),
    )


def test_the_most_forgotten_images_of_a_table_of_right_and_wrong(tiny: Dataset) -> None:
    """Two networks of five epochs: what each had right (1) of class 0 after each epoch.

    Its twelve images stand in the training set's rows 0, 3, 6 and so on; those of others are never
    forgotten.
    """
    table = [
        # one network      the other       forgotten by each
        ("11111", "11111"),  # 0 and 0
        ("10101", "11110"),  # 2 and 1
        ("01110", "01010"),  # 1 and 2
        ("00000", "11111"),  # never learned: 6 and 0
        ("10111", "11111"),  # 1 and 0
        *[("01111", "00111")] * 7,  # 0 and 0
    ]

    def forgotten(right: str) -> int:
        return right.count("10") if "1" in right else len(right) + 1

    counts = torch.zeros(2, 36, dtype=torch.int32)
    for row, both in enumerate(table):
        counts[:, 3 * row] = torch.tensor([forgotten(one) for one in both])
    runs = [done(forgetting(tiny, counts, ipc=4, seed=seed)) for seed in range(12)]
    for run in runs:
        assert run.chosen[0].tolist()[0] == 9
        assert set(run.chosen[0].tolist()[1:3]) == {3, 6}
        assert run.chosen[0].tolist()[3] == 12
    # Two are equal: a draw of the seed's decides. And classes without events are drawn at random.
    assert {run.chosen[0].tolist()[1] for run in runs} == {3, 6}
    assert len({tuple(run.chosen[1].tolist()) for run in runs}) > 6
    assert runs[0].synthetic_set().method == "forgetting"


def test_experts_without_counts(tiny: Dataset) -> None:
    with pytest.raises(CoreError) as caught:
        forgetting(tiny, None, ipc=1)
    assert (caught.value.code, caught.value.field) == ("artifact_mismatch", "experts")


def test_only_as_many_networks_as_were_asked_for_count(tiny: Dataset) -> None:
    counts = torch.zeros(2, 36, dtype=torch.int32)
    counts[0, 6], counts[1, 9] = 1, 5
    chosen = [done(forgetting(tiny, counts, ipc=1, count=n)).chosen[0].tolist() for n in (1, 2)]
    assert chosen == [[6], [9]]


def test_circumstances_say_how_images_were_embedded(tiny: Dataset) -> None:
    method: Coreset[Any] = make("herding", tiny)
    assert method.circumstances["device"] == "cpu"
    assert method.step() == {"images": 12.0}
