"""One attack on one model: what is said of every image, against looking at each by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rome_core.evaluation import robustness
from rome_core.evaluation.robustness import (
    Block,
    Faced,
    Measure,
    TestSet,
    block_size,
    face,
    measures,
)
from rome_core.recipes.attacks import MODES, Mode
from rome_core.recipes.protocols import PROTOCOLS, Protocol, crafting, overridden
from tests.rome_core.evaluation.conftest import PLAN, bound, digits, some, trained

QUICK, PIXEL, PUBLISHED = (PROTOCOLS[name] for name in ("quick@1", "pixel@1", "rome-2025@1"))
FEW: dict[str, Any] = {"steps": 3, "queries": 10, "samples": 4, "binary_search_steps": 2}


def short(protocol: Protocol, **changes: dict[str, Any]) -> Protocol:
    """The protocol with few steps, and what else is asked."""
    few = {
        entry.name: {
            name: min(value, getattr(entry.settings, name))
            for name, value in FEW.items()
            if name in type(entry.settings).model_fields
        }
        for entry in protocol.entries
    }
    for name, own in changes.items():
        few[name.replace("_", "-")] |= own
    return overridden(protocol, few)


def faced(
    protocol: Protocol,
    attack: str,
    mode: Mode | None,
    *,
    model: Callable[[Tensor], Tensor] | None = None,
    test: TestSet | None = None,
    **more: Any,
) -> Block:
    return face(
        bound(trained()) if model is None else model,
        some() if test is None else test,
        protocol,
        protocol.entry(attack),
        mode,
        **{"seed": 5, **more},
    )


def normalised(test: TestSet) -> Tensor:
    mean, std = digits().mean, digits().std
    return ((test.pixels - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)).float()


def every(protocol: Protocol) -> list[tuple[str, Mode | None]]:
    return [(what.attack, what.mode) for what in measures(protocol, protocol.entries, MODES)]


def test_clean_and_clamp_are_what_they_say() -> None:
    net, test = trained(), some(100)
    x = normalised(test)
    for attack, images in (("clean", x), ("clamp", x.clamp(0, 1))):
        done = faced(PUBLISHED, attack, None, test=test)
        guesses = net(images).argmax(dim=1)
        assert torch.equal(done.faced.prediction, guesses)
        assert torch.equal(done.faced.correct, guesses == test.labels)
        assert torch.equal(done.faced.clean_correct, net(x).argmax(dim=1) == test.labels)
        torch.testing.assert_close(done.images, images, rtol=0, atol=1e-6)
        torch.testing.assert_close(done.faced.linf, (images - x).abs().amax(dim=(1, 2, 3)))
    clean, clamp = (faced(PUBLISHED, name, None, test=test).faced for name in ("clean", "clamp"))
    assert clean.accuracy > clamp.accuracy  # the flaw of the published protocol
    assert (clean.linf == 0).all()


def naive_fgsm(net: nn.Module, x: Tensor, y: Tensor, mode: Mode, spread: Tensor) -> Tensor:
    """One image at a time; `spread` says what a step of one is in normalised units."""
    made = []
    for image, label in zip(x, y, strict=True):
        leaf = image[None].clone().requires_grad_()
        aim = (label + 1) % 10 if mode == "targeted" else label
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), aim[None]), leaf)
        sign = -1 if mode == "targeted" else 1
        made.append(image + sign * 8 / 255 / spread * gradient[0].sign())
    return torch.stack(made)


@pytest.mark.parametrize("mode", ["targeted", "untargeted"])
@pytest.mark.parametrize("name", ["quick@1", "rome-2025@1"])
def test_every_column_is_what_looking_at_each_image_says(name: str, mode: Mode) -> None:
    net, test, protocol = trained(), some(60), PROTOCOLS[name]
    x, pixel = normalised(test), protocol.name != "rome-2025"
    mean, std = digits().mean.float(), digits().std.float()
    moved = naive_fgsm(net, x, test.labels, mode, std if pixel else torch.ones(1))
    clean = net(x).argmax(dim=1) == test.labels
    before = test.pixels if pixel else x
    after = (moved * std + mean if pixel else moved).clamp(0, 1)
    if pixel:  # what is wrong already is left alone
        after = torch.where(clean.view(-1, 1, 1, 1), after, before)
    logits = net((after - mean) / std if pixel else after)
    guesses, targets = logits.argmax(dim=1), (test.labels + 1) % 10
    if mode == "untargeted":
        targets = torch.full_like(targets, -1)

    done = faced(protocol, "fgsm", mode, test=test)
    seen = done.faced
    torch.testing.assert_close(done.images, after.float(), rtol=0, atol=1e-5)
    assert torch.equal(seen.prediction, guesses)
    assert torch.equal(seen.target, targets)
    assert torch.equal(seen.clean_correct, clean)
    assert torch.equal(seen.correct, guesses == test.labels)
    assert torch.equal(seen.hit, guesses == targets)
    own = logits.gather(1, test.labels[:, None])[:, 0]
    others = logits.scatter(1, test.labels[:, None], -torch.inf).amax(dim=1)
    torch.testing.assert_close(seen.margin, own - others, rtol=1e-3, atol=1e-4)
    change = (after - before).float().flatten(1)
    torch.testing.assert_close(seen.linf, change.abs().amax(dim=1), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.l2, change.norm(dim=1), rtol=0, atol=1e-4)
    asked = clean if pixel else torch.ones_like(clean)
    looked = int(pixel)  # who is at stake takes a look at everyone; the last one is nobody's cost
    assert torch.equal(seen.forwards, 2 * asked + looked)
    assert torch.equal(seen.backwards, 1 * asked)
    reached = (guesses == targets if mode == "targeted" else guesses != test.labels) & asked
    assert torch.equal(seen.queries, torch.where(reached, 2, -1))


def wrongly_labelled(test: TestSet, net: nn.Module) -> TestSet:
    """Every other image is taken for another class than it is called."""
    guesses = net(normalised(test)).argmax(dim=1)
    return replace(test, labels=(guesses + torch.arange(len(test)) % 2) % 10)


@pytest.mark.parametrize("attack", [entry.name for entry in QUICK.entries if entry.modes])
def test_what_is_wrong_already_is_left_alone_unless_everything_is_attacked(attack: str) -> None:
    test = wrongly_labelled(some(12), trained())
    protocol = short(QUICK)
    seen = faced(protocol, attack, "untargeted", test=test).faced
    assert torch.equal(seen.clean_correct, torch.arange(12) % 2 == 0)
    alone = ~seen.clean_correct
    assert (seen.forwards[alone] == 1).all()  # the look that told
    assert (seen.backwards[alone] == 0).all()
    assert (seen.linf[alone] == 0).all()
    assert (seen.queries[alone] == -1).all()
    assert not seen.correct[alone].any()
    assert (seen.forwards[~alone] > 0).all()
    every = faced(replace(protocol, attacks_everything=True), attack, "untargeted", test=test).faced
    assert (every.forwards > 0).all()
    assert torch.equal(seen.forwards[~alone], every.forwards[~alone] + 1)
    for name in ("prediction", "backwards", "queries"):
        one, other = (getattr(one, name)[~alone] for one in (seen, every))
        assert torch.equal(one, other), name


def test_an_attack_costs_at_least_what_classifying_does() -> None:
    """Else attacks of a model that errs often would seem cheaper than none: AE below zero."""
    test = wrongly_labelled(some(12), trained())
    clean = faced(QUICK, "clean", None, test=test).faced
    assert (clean.forwards == 1).all()
    for attack in ("fgsm", "pgd", "square"):
        seen = faced(short(QUICK), attack, "untargeted", test=test).faced
        assert (seen.forwards >= clean.forwards).all()


def test_where_nobody_is_at_stake_only_the_look_is_paid() -> None:
    test = some(5)
    guesses = trained()(normalised(test)).argmax(dim=1)
    seen = faced(QUICK, "pgd", "untargeted", test=replace(test, labels=(guesses + 1) % 10)).faced
    assert seen.accuracy == 0
    assert (int(seen.forwards.sum()), int(seen.backwards.sum())) == (5, 0)


def test_an_image_that_is_not_broken_may_be_kept_as_it_was() -> None:
    """Square's and AutoAttack's published form: no clamp for what they fail on."""
    test = some(30)
    assert PUBLISHED.entry("square").keeps_original
    protocol = short(PUBLISHED, square={"epsilon": "1/2", "queries": 30})
    kept = faced(protocol, "square", "untargeted", test=test)
    broken = kept.faced.queries > 0
    assert 0 < int(broken.sum()) < len(test)
    x = normalised(test)
    torch.testing.assert_close(kept.images[~broken], x[~broken], rtol=0, atol=1e-6)
    assert (kept.faced.linf[~broken] == 0).all()
    assert kept.images[broken].amin() >= 0
    assert kept.images[broken].amax() <= 1
    entry = replace(protocol.entry("square"), keeps_original=False)
    lost = face(bound(trained()), test, protocol, entry, "untargeted", seed=5)
    assert lost.images.amin() >= 0
    assert torch.equal(lost.images[broken], kept.images[broken])


@pytest.mark.parametrize(
    ("protocol", "attack", "mode"),
    [
        (protocol, attack, mode)
        for protocol in (short(PIXEL), short(PUBLISHED))
        for attack, mode in every(protocol)
        # It stops a batch as one, which is why it has the published batch.
        if (protocol.name, attack) != ("rome-2025", "cw")
    ],
    ids=lambda part: getattr(part, "name", str(part)),
)
def test_the_batch_changes_nothing(protocol: Protocol, attack: str, mode: Mode | None) -> None:
    test = some(7)
    whole = faced(protocol, attack, mode, test=test).faced
    parts = [faced(protocol, attack, mode, test=test.part(rows)).faced for rows in test.blocks(4)]
    joined = Faced.joined([part.state_dict() for part in parts])
    backwards = replace(
        test,
        pixels=test.pixels.flip(0),
        labels=test.labels.flip(0),
        numbers=test.numbers.flip(0),
    )
    turned = faced(protocol, attack, mode, test=backwards).faced
    for name, column in whole.state_dict().items():
        for other in (joined.state_dict()[name], turned.state_dict()[name].flip(0)):
            if column.is_floating_point():
                torch.testing.assert_close(other, column, rtol=1e-3, atol=1e-4)
            else:
                assert torch.equal(other, column), name


def test_only_the_attack_that_looks_at_its_batch_has_the_published_one() -> None:
    for protocol in (QUICK, PIXEL, PUBLISHED):
        for entry in protocol.entries:
            published = (protocol, entry.name) == (PUBLISHED, "cw")
            assert block_size(entry, "cpu") == (256 if published else 250)
            assert block_size(entry, "cuda:1") == (256 if published else 2500)


@pytest.mark.parametrize("chunk_bytes", [1, 5 * 8 * 8 * 8 * 4])
def test_chunks_change_nothing(chunk_bytes: int) -> None:
    """One image a pass, and a power of two with a partial last chunk."""
    net, protocol = trained(), short(QUICK)
    chunked = bound(net, replace(PLAN, chunk_bytes=chunk_bytes))
    for attack in ("clean", "pgd", "square", "autoattack", "deepfool"):
        mode: Mode | None = None if attack == "clean" else "untargeted"
        one, other = (
            faced(protocol, attack, mode, model=model, test=some(11)).faced
            for model in (bound(net), chunked)
        )
        for name, column in one.state_dict().items():
            if column.is_floating_point():
                torch.testing.assert_close(other.state_dict()[name], column, rtol=1e-3, atol=1e-4)
            else:
                assert torch.equal(other.state_dict()[name], column), (attack, name)


def test_every_model_faces_the_same_draws_and_every_seed_others() -> None:
    """A constant model breaks nothing, so that the images show the draws alone."""

    def constant(x: Tensor) -> Tensor:
        return (
            F.one_hot(torch.zeros(len(x), dtype=torch.int64), 10)
            + 0 * x.sum(dim=(1, 2, 3))[:, None]
        )

    def twice(x: Tensor) -> Tensor:
        return 2 * constant(x)

    test = replace(some(6), labels=torch.zeros(6, dtype=torch.int64))
    starts = [
        faced(QUICK, "pgd", "untargeted", model=model, test=test, seed=seed).images
        for model, seed in ((constant, 5), (twice, 5), (constant, 6))
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], test.pixels)
    targeted = faced(QUICK, "pgd", "targeted", model=constant, test=test).images
    assert not torch.equal(targeted, starts[0])


@pytest.mark.parametrize("name", ["quick@1", "rome-2025@1"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("mode", ["targeted", "untargeted"])
def test_an_attack_of_no_strength_is_the_clamp(name: str, attack: str, mode: Mode) -> None:
    none = {"epsilon": "0"} if attack == "fgsm" else {"epsilon": "0", "step": "0"}
    protocol, test = overridden(PROTOCOLS[name], {attack: none}), some(60)
    seen = faced(protocol, attack, mode, test=test).faced
    what = "clamp" if "clamp" in protocol.names() else "clean"  # pixels lie in [0, 1] already
    assert torch.equal(seen.correct, faced(protocol, what, None, test=test).faced.correct)


def test_stronger_attacks_do_more_harm() -> None:
    test, wide = some(100), {"epsilon": "16/255"}
    for protocol in (QUICK, PUBLISHED):
        strong = overridden(protocol, {"fgsm": wide, "pgd": wide | {"step": "4/255"}})
        clean, targeted, fgsm, pgd = (
            faced(strong, attack, mode, test=test).faced.accuracy
            for attack, mode in (
                ("clean", None),
                ("pgd", "targeted"),
                ("fgsm", "untargeted"),
                ("pgd", "untargeted"),
            )
        )
        assert pgd <= fgsm < clean
        assert pgd < targeted <= clean


def test_the_same_epsilon_harms_more_in_pixels() -> None:
    """A step of 8/255 in normalised units is a third of that in pixels (std 0.37)."""
    test = some(200)
    seen = {
        protocol.name: faced(protocol, "fgsm", "untargeted", test=test).faced.accuracy
        for protocol in (QUICK, PUBLISHED)
    }
    assert seen["quick"] < seen["rome-2025"]


def test_crafting_attacks_all_images_with_all_steps() -> None:
    test = wrongly_labelled(some(12), trained())
    protocol = crafting(QUICK)
    seen = faced(protocol, "pgd", "untargeted", test=test).faced
    assert (seen.forwards == 11).all()
    assert (seen.backwards == 10).all()


def test_measures_are_in_the_protocols_order_without_what_means_nothing() -> None:
    entries = [PUBLISHED.entry(name) for name in ("clean", "clamp", "pgd", "deepfool")]
    names = [what.name for what in measures(PUBLISHED, entries, ["untargeted", "targeted"])]
    assert names == ["clean", "clamp", "pgd/untargeted", "pgd/targeted", "deepfool/untargeted"]
    few = measures(PUBLISHED, entries, ["targeted"])
    assert [what.name for what in few] == ["clean", "clamp", "pgd/targeted"]
    assert few[0] == Measure("rome-2025@1", "clean", None)


class Interrupted(Exception):
    """What a poll raises to end an attack."""


def test_an_attack_is_interrupted_between_two_passes() -> None:
    asked = 0

    def poll() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        faced(short(QUICK), "pgd", "untargeted", poll=poll)
    assert asked == 4


class Clock:
    """A second passes with every forward or backward pass, and otherwise none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.stop_at = 0.0, float("inf")
        monkeypatch.setattr(robustness.time, "perf_counter", lambda: self.now)

    def __call__(self) -> None:
        if self.now >= self.stop_at:
            raise Interrupted
        self.now += 1


def test_a_block_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert faced(short(QUICK), "pgd", "untargeted", poll=clock).seconds == clock.now > 1


@pytest.mark.parametrize("stop_at", [0, 1, 4, 5, 6, 11, 30, 50, 60])
def test_a_cascade_goes_on_after_its_last_whole_stage(
    stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same images, same counts; and time is counted once: of stages kept, not of those repeated."""
    clock, protocol = Clock(monkeypatch), short(QUICK)
    whole = faced(protocol, "autoattack", "untargeted", poll=clock, cascade={})
    assert whole.seconds == clock.now > 60
    clock.now, clock.stop_at, held = 0, stop_at, dict[str, Any]()
    with pytest.raises(Interrupted):
        faced(protocol, "autoattack", "untargeted", poll=clock, cascade=held)
    clock.stop_at = float("inf")
    resumed = faced(protocol, "autoattack", "untargeted", poll=clock, cascade=held)
    assert torch.equal(resumed.images, whole.images)
    for name, column in whole.faced.state_dict().items():
        assert torch.equal(resumed.faced.state_dict()[name], column), name
    assert resumed.seconds == whole.seconds


def test_blocks_cover_the_images_once() -> None:
    test = some(10)
    blocks = list(test.blocks(4))
    assert [len(test.part(rows)) for rows in blocks] == [4, 4, 2]
    assert torch.equal(torch.cat([test.part(rows).numbers for rows in blocks]), test.numbers)
    assert [len(test.part(rows)) for rows in test.blocks(4, 3)] == [4, 3]
    assert next(iter(test.blocks(4, 3))) == slice(3, 7)
    assert list(test.blocks(4, 10)) == []
