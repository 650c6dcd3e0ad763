"""Every plan against plain autograd through the module."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import passes
from rome_core.attacks import Budget, adapt, perturb, targets
from rome_core.attacks.gradient import Forward, explore, jacobian, loss_gradient
from rome_core.distillation.rome import Rome
from rome_core.errors import CoreError
from rome_core.networks import Network, build
from rome_core.passes import Passes, Plan, plan
from rome_core.randomness import generator
from rome_core.recipes.networks import parse
from rome_core.recipes.rome import RomeHyperparameters
from rome_core.space import Normalised
from tests.rome_core.distillation.conftest import tiny_dataset

EAGER = Plan(False, None, False, 1, "the plain way")
CHUNKED = Plan(False, 4 * 8 * 8 * 4 * 2, True, 1, "two images of 8x8 at width 4 a chunk")


needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)


# The compiler's own imports use what torch has deprecated.
deprecations = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def network(
    name: str = "convnet-d2-w4", dtype: torch.dtype = torch.float64, size: int = 8
) -> Network:
    made = build(name, channels=3, size=size, classes=5, generator=generator(1))
    with torch.no_grad():
        for value in made.parameters():  # norms start at one and zero, which would hide mistakes
            value += 0.1 * torch.randn(value.shape, generator=generator(2))
    return made.to(dtype)


def batch(n: int = 5, dtype: torch.dtype = torch.float64, size: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, size, size, generator=generator(3), dtype=dtype)
    return x, torch.randint(0, 5, (n,), generator=generator(4))


def plain_input_gradient(net: Network, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    loss = F.cross_entropy(net.eval()(leaf), y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def plain_train_gradient(net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    net.train()
    gradients = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    return dict(zip(dict(net.named_parameters()), gradients, strict=True))


NETWORKS = ["convnet-d2-w4"] + [
    f"convnet-d2-w4-{part}"
    for part in ("nonorm", "batch", "layer", "group", "swish", "leakyrelu", "max", "nopool")
]


SIZES = {"mlp": 8, "lenet": 16, "alexnet": 8, "vgg11": 32, "resnet18": 16}


@pytest.mark.parametrize("how", [EAGER, CHUNKED], ids=["whole", "chunked"])
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_are_plain_autograd(name: str, how: Plan):
    compare_with_plain_autograd(name, how, *batch())


@pytest.mark.parametrize(
    "name", ["mlp", "lenet", "alexnet", "vgg11", "vgg11-batch", "resnet18", "resnet18-batch-ap"]
)
def test_passes_over_any_family_are_plain_autograd(name: str):
    """In chunks of one image, in channels-last."""
    compare_with_plain_autograd(
        name, replace(CHUNKED, chunk_bytes=1), *batch(2, size=SIZES[name.split("-")[0]])
    )


def compare_with_plain_autograd(name: str, how: Plan, x: Tensor, y: Tensor) -> None:
    net, skeleton = (network(name, size=x.shape[-1]) for _ in range(2))
    made = Passes(skeleton, how)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    torch.testing.assert_close(made.input_gradient(state, x, y), plain_input_gradient(net, x, y))
    torch.testing.assert_close(made.logits(state, x), net.eval()(x))
    torch.testing.assert_close(made.embed(state, x), net.embed(x))
    gradients, logits = made.train_gradient(state, x, y)
    expected = plain_train_gradient(net, x, y)
    assert gradients.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(gradients[key], value)
    # Running statistics moved as the module's own did; nothing else did.
    for key, value in net.state_dict().items():
        torch.testing.assert_close(state[key], value)
    if "batch" not in name:
        torch.testing.assert_close(logits, net(x))


def plain_jacobian(net: Network, x: Tensor) -> Tensor:
    """(n, classes, c, h, w)."""
    leaf = x.clone().requires_grad_()
    totals = net.eval()(leaf).sum(dim=0)
    each = [torch.autograd.grad(z, leaf, retain_graph=True)[0] for z in totals]
    return torch.stack(each, dim=1)


def fallen(forward: Forward, images: Tensor, part: slice) -> tuple[Tensor, ...]:
    """The gradients of the first logit, then of the one that is the largest, and which that is."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = forward(leaf)
        first = logits.detach().argmax(dim=1)
        sums = logits[:, 0].sum(), logits.gather(1, first[:, None]).sum()
    one, other = (torch.autograd.grad(z, leaf, retain_graph=True)[0] for z in sums)
    return one, other, first, torch.arange(99)[part]


@pytest.mark.parametrize("domain", ["reference", "pixel"])
@pytest.mark.parametrize("how", [EAGER, CHUNKED], ids=["whole", "chunked"])
def test_gradients_of_any_logits_are_plain_autograd(how: Plan, domain: str):
    net, (x, y) = network(), batch()
    std = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    space = Normalised.of((0.1, 0.2, 0.3), std.flatten().tolist())
    seen = adapt(Passes(net, how).bind(net.state_dict()), domain, space)
    images = seen.from_normalised(x)
    expected = plain_jacobian(net, x) / (std if domain == "pixel" else 1)
    every, rows = torch.arange(5).expand(5, 5), torch.arange(5)
    logits, gradients = jacobian(seen.model, images, every)
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(gradients, expected)
    logits, losses, gradients = loss_gradient(
        seen.model, images, lambda z, part: z.gather(1, y[part, None])[:, 0] * 3
    )
    torch.testing.assert_close(losses, net(x)[rows, y] * 3)
    torch.testing.assert_close(gradients, 3 * expected[rows, y])
    one, other, first, which = explore(seen.model, images, fallen)
    assert torch.equal(first, net(x).argmax(dim=1))
    assert torch.equal(which, rows)
    torch.testing.assert_close(one, expected[:, 0])
    torch.testing.assert_close(other, expected[rows, first])


@pytest.mark.parametrize("images", [1, 2, 3, 4, 5, 6, 7, 99])
def test_any_chunk_gives_the_same_gradients(images: int):
    """Also a last one that is not full."""
    net, (x, y) = network(), batch(7)
    how = replace(CHUNKED, chunk_bytes=images * 4 * 8 * 8 * 4)
    bound = Passes(net, how).bind(net.state_dict())
    expected = plain_jacobian(net, x)
    classes = torch.stack([y, (y + 1) % 5], dim=1)  # others for each image
    logits, gradients = jacobian(bound, x, classes)
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(gradients, expected[torch.arange(7)[:, None], classes])
    weights = torch.arange(1.0, 8, dtype=torch.float64)
    _, losses, gradients = loss_gradient(
        bound, x, lambda z, part: weights[part] * F.cross_entropy(z, y[part], reduction="none")
    )
    torch.testing.assert_close(losses, weights * F.cross_entropy(net(x), y, reduction="none"))
    plain = plain_input_gradient(net, x, y)
    torch.testing.assert_close(gradients, weights.view(-1, 1, 1, 1) * plain)


class Memory:
    """Room for so many images a pass; remembers how many were asked for at a time."""

    def __init__(self, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.asked = room, list[int]()
        self.error = RuntimeError if room < 0 else torch.OutOfMemoryError
        made = passes._pass

        def make(kind: passes.Kind, skeleton: Network) -> passes.Pass:
            whole = made(kind, skeleton)

            def run(values: list[Tensor], x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
                self.asked.append(len(x))
                if len(x) > self.room:
                    raise self.error("no room for that")
                return whole(values, x, *more)

            return run

        monkeypatch.setattr(passes, "_pass", make)


ASKS: dict[str, Callable[[Passes, Network, Tensor, Tensor], Tensor]] = {
    "logits": lambda made, net, x, y: made.logits(net.state_dict(), x),
    "input gradient": lambda made, net, x, y: made.input_gradient(net.state_dict(), x, y),
    "loss gradient": lambda made, net, x, y: made.loss_gradient(
        net.state_dict(), x, lambda z, part: F.cross_entropy(z, y[part], reduction="none")
    )[2],
    "jacobian": lambda made, net, x, y: made.jacobian(net.state_dict(), x, y[:, None])[1],
    "explore": lambda made, net, x, y: made.explore(net.state_dict(), x, fallen)[1],
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_batches_shrink_to_what_memory_has_room_for(
    ask: Callable[[Passes, Network, Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
):
    net, (x, y) = network(), batch(11)
    expected = ask(Passes(net, EAGER), net, x, y)
    memory, made = Memory(3, monkeypatch), Passes(net, EAGER)
    torch.testing.assert_close(ask(made, net, x, y), expected)
    assert memory.asked == [11, 5, 2, 2, 2, 2, 2, 1]
    memory.asked.clear()
    torch.testing.assert_close(ask(made, net, x, y), expected)
    assert memory.asked == [2, 2, 2, 2, 2, 1]  # it knows


def test_without_room_for_one_image_there_is_no_way(monkeypatch: pytest.MonkeyPatch):
    net, (x, y) = network(), batch(3)
    Memory(0, monkeypatch)
    for ask in ASKS.values():
        with pytest.raises(torch.OutOfMemoryError):
            ask(Passes(net, EAGER), net, x, y)


def test_another_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    net, (x, y) = network(), batch(3)
    memory = Memory(-1, monkeypatch)
    for ask in ASKS.values():
        memory.asked.clear()
        with pytest.raises(RuntimeError, match="no room"):
            ask(Passes(net, EAGER), net, x, y)
        assert memory.asked == [3]


def test_a_step_of_training_is_never_cut(monkeypatch: pytest.MonkeyPatch):
    """Its gradient is of the whole batch: cut after some of it was added up, it would be wrong."""
    net, (x, y) = network(), batch(3)
    memory = Memory(2, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        Passes(net, EAGER).train_gradient(net.state_dict(), x, y)
    assert memory.asked == [3]


def test_the_weights_are_those_passed_in():
    made, (x, y) = Passes(network(), CHUNKED), batch()
    other = network("convnet-d2-w4")
    with torch.no_grad():
        other.classifier.weight.neg_()
    state = other.state_dict()
    assert torch.equal(made.logits(state, x), made.bind(state)(x))
    torch.testing.assert_close(made.logits(state, x), other(x))
    assert torch.equal(made.bind(state).input_gradient(x, y), made.input_gradient(state, x, y))
    assert not torch.allclose(made.logits(network().state_dict(), x), other(x))


def test_nothing_passed_in_is_changed_or_given_a_graph():
    made, (x, y), state = Passes(network(), CHUNKED), batch(), network().state_dict()
    before = {k: v.clone() for k, v in state.items()}
    kept = x.clone()
    results = [made.input_gradient(state, x, y), made.embed(state, x), made.logits(state, x)]
    gradients, logits = made.train_gradient(state, x, y)
    assert not any(r.requires_grad for r in (*results, logits, *gradients.values()))
    assert all(r.is_contiguous() for r in results)
    assert torch.equal(x, kept)
    assert all(torch.equal(v, before[k]) for k, v in state.items())


def test_pgd_through_passes_is_pgd_through_the_module():
    net, (x, y) = network(), batch()
    bound = Passes(network(), CHUNKED).bind(net.state_dict())
    aim, budget = targets("modC", y, 5), Budget.of(step="2/225")
    space = Normalised.of((0.5,) * 3, (0.2,) * 3)
    for domain in ("reference", "pixel"):
        ours, plain = (
            perturb(adapt(m, domain, space).model, x, y, budget, generator(5),
                targets=aim)
            for m in (bound, net)
        )  # fmt: skip
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "size", "images"),
    [
        *(("mlp", 32, 256), ("lenet", 32, 128), ("alexnet", 32, 8), ("vgg11", 32, 16)),
        *(("resnet18", 32, 16), ("convnet-w32", 28, 32), ("convnet-d2-w16", 8, 1024)),
    ],
)
def test_chunks_follow_the_largest_activation(name: str, size: int, images: int):
    """4 MiB of it."""
    net = build(name, channels=3, size=size, classes=10, generator=generator(0))
    assert Passes(net, plan(mode="eager", threads=1)).chunk == images


def test_chunks_fit_their_bytes():
    net = build("convnet", channels=3, size=32, classes=10, generator=generator(0))
    assert Passes(net, plan(mode="eager", threads=2)).chunk == 16
    assert Passes(net, plan(mode="eager", threads=1)).chunk == 8
    assert Passes(net, replace(EAGER, chunk_bytes=1)).chunk == 1
    assert Passes(net, EAGER).chunk is None


def test_no_images_are_refused():
    made, (x, y) = Passes(network(), EAGER), batch(0)
    with pytest.raises(ValueError, match="at least one image"):
        made.input_gradient(network().state_dict(), x, y)


def test_tiny_images_are_not_shared_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert plan(size=32).threads == 4
    assert plan(network=parse("convnet-d2-w32"), size=8).threads == 1
    assert plan(network=parse("convnet-d2-w32"), size=8, threads=2).threads == 2


def test_a_plan_can_be_written_down():
    assert plan(mode="eager", threads=3).as_dict() == {
        "compiled": False,
        "chunk_bytes": 3 * passes.CHUNK_BYTES,
        "channels_last": False,
        "threads": 3,
        "reason": "eager was asked for",
        "device": "cpu",
    }


def test_little_work_is_not_compiled():
    chosen = plan(images=1000)
    assert not chosen.compiled
    assert chosen.reason == "too little work to be worth compiling"


def test_work_is_weighed_by_the_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passes, "_compiler_failure", lambda device: None)
    images = 200_000
    assert plan(images=images).compiled
    assert not plan(images=images, size=8).compiled
    assert not plan(images=images, network=parse("convnet-w32")).compiled
    assert plan(images=images, network=parse("convnet-batch")).compiled


@pytest.mark.parametrize("name", ["mlp", "lenet", "alexnet", "vgg11", "resnet18"])
def test_other_families_are_compiled_only_where_that_is_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(passes, "_compiler_failure", lambda device: None)
    chosen = plan(images=10**9, network=parse(name))
    assert not chosen.compiled
    assert chosen.reason == "compiling pays for ConvNets alone"
    assert plan(mode="compiled", network=parse(name)).compiled


def test_a_plan_for_images_too_small_is_made_all_the_same():
    """A method without networks plans for the reference one."""
    assert plan(images=10, size=2).threads == 1


def test_without_a_compiler_passes_are_eager_and_say_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passes, "_compiler_failure", lambda device: "NoCompiler: no g++")
    chosen = plan(images=10**9)
    assert not chosen.compiled
    assert chosen.reason == "no working compiler: NoCompiler: no g++"
    with pytest.raises(CoreError, match="no g\\+\\+"):
        plan(mode="compiled")


def test_the_compiler_is_tried_on_the_device_of_the_run():
    with pytest.raises(CoreError, match="can't be compiled") as raised:
        plan(mode="compiled", images=10**9, device="cuda:99")  # nobody has a hundred
    assert raised.value.code == "no_compiler"


def test_nothing_is_compiled_unasked_where_its_worth_is_not_known():
    chosen = plan(images=10**9, device="cuda:99")
    assert not chosen.compiled
    assert "has not been measured" in chosen.reason
    assert chosen.device == "cuda:99"


@pytest.mark.long
@needs_compiler
@deprecations
def test_any_number_of_shapes_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that shrinks has a dozen; PyTorch compiles one function for eight at the most."""
    net = network("convnet-d1-w4", torch.float32)
    made = Passes(net, Plan(True, None, True, 1, "compiled"))
    monkeypatch.setattr(Passes, "chunk", property(lambda self: None))
    for n in range(1, 2**10, 97):
        x, y = batch(n, torch.float32)

        def loss(z: Tensor, part: slice, y: Tensor = y) -> Tensor:
            return F.cross_entropy(z, y[part], reduction="none")

        _, _, found = made.loss_gradient(net.state_dict(), x, loss)
        torch.testing.assert_close(found, plain_input_gradient(net, x, y), rtol=1e-3, atol=1e-5)


def nearly_constant() -> tuple[Tensor, Tensor]:
    """As the reference domain's clamp makes them: channels whose variance is all rounding."""
    x, y = batch(dtype=torch.float32)
    return 1e-3 * x, y


def error_of_nearly_constant_images(how: Plan) -> float:
    """The largest relative error of an image's float32 gradient."""
    (x, y), name = nearly_constant(), "convnet-d1-w4"
    net = network(name, torch.float32)
    found = Passes(net, how).input_gradient(net.state_dict(), x, y).double()
    true = plain_input_gradient(network(name), x.double(), y)
    return float(((found - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).max())


def test_channels_that_hardly_vary_keep_their_gradients():
    assert CHUNKED.channels_last
    assert error_of_nearly_constant_images(CHUNKED) < 1e-5  # 1e-3 by PyTorch's kernel


@needs_compiler
@deprecations
def test_compiled_passes_are_eager_ones():
    chosen = replace(plan(mode="compiled", threads=1), chunk_bytes=CHUNKED.chunk_bytes)
    assert chosen.compiled
    name = "convnet-d1-w4"
    net, (x, y) = network(name, torch.float32), batch(dtype=torch.float32)  # 5 images: one padded
    made, state = Passes(net, chosen), net.state_dict()
    double = network(name)
    gradient = made.input_gradient(state, x, y)
    torch.testing.assert_close(
        gradient.double(), plain_input_gradient(double, x.double(), y), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(gradient, made.input_gradient(state, x, y))
    assert error_of_nearly_constant_images(chosen) < 1.5e-6  # 3e-6 where centred but once
    gradients, logits = made.train_gradient(state, x, y)
    torch.testing.assert_close(logits.double(), double(x.double()), rtol=1e-4, atol=1e-5)
    for key, value in plain_train_gradient(double, x.double(), y).items():
        torch.testing.assert_close(gradients[key].double(), value, rtol=1e-4, atol=1e-5)


COMPILED = Plan(True, None, True, 1, "compiled")


def compare_compiled_with_plain_autograd(name: str) -> None:
    """In float64, where no activation is so near a kink that rounding decides on its side."""
    size = SIZES[name.split("-")[0]]
    net, (x, y) = network(name, size=size), batch(2, size=size)
    made, state = Passes(net, COMPILED), net.state_dict()
    torch.testing.assert_close(made.input_gradient(state, x, y), plain_input_gradient(net, x, y))
    gradients, logits = made.train_gradient(state, x, y)
    torch.testing.assert_close(logits, net(x))
    for key, value in plain_train_gradient(net, x, y).items():
        torch.testing.assert_close(gradients[key], value)
    _, (slopes,) = jacobian(made.bind(state), x[:1], torch.tensor([[0, 3]]))
    torch.testing.assert_close(slopes, plain_jacobian(net, x[:1])[0, [0, 3]])


@pytest.mark.parametrize("name", ["mlp", "lenet", "alexnet", "resnet18"])
def test_what_is_compiled_of_any_family_is_plain_autograd(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """The traced graphs themselves, which takes no compiler and a twentieth of the time."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, **_: bool) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", keep)
    monkeypatch.setattr(passes, "_compile", passes._compile.__wrapped__)
    compare_compiled_with_plain_autograd(name)
    assert len(graphs) == 3
    assert not any("group_norm" in graph.code for graph in graphs)  # spelt out, to be fused


@pytest.mark.long
@needs_compiler
@deprecations
@pytest.mark.parametrize("name", ["mlp", "lenet", "alexnet", "vgg11"])
def test_compiled_passes_over_other_families_are_eager_ones(name: str):
    compare_compiled_with_plain_autograd(name)


@pytest.mark.long
@needs_compiler
@deprecations
def test_compiled_gradients_through_a_resnet_are_eager_ones():
    """One kind of pass, for each takes a minute to compile."""
    net, (x, y) = network("resnet18", size=16), batch(2, size=16)
    gradient = Passes(net, COMPILED).input_gradient(net.state_dict(), x, y)
    torch.testing.assert_close(gradient, plain_input_gradient(net, x, y))


@needs_compiler
@deprecations
@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_compiled_gradients_of_any_logits_are_eager_ones(n: int):
    """With chunks of four: whole, padded, and so nearly empty that they run eager."""
    chosen = replace(plan(mode="compiled", threads=1), chunk_bytes=2 * CHUNKED.chunk_bytes)
    net, (x, _) = network("convnet-d1-w4", torch.float32), batch(n, torch.float32)
    bound = Passes(net, chosen).bind(net.state_dict())
    assert bound.passes.chunk == 4
    expected = plain_jacobian(network("convnet-d1-w4"), x.double())
    one, other, first, _ = explore(bound, x, fallen)
    torch.testing.assert_close(one.double(), expected[:, 0], rtol=1e-4, atol=1e-5)
    chosen_ones = expected[torch.arange(n), first]
    torch.testing.assert_close(other.double(), chosen_ones, rtol=1e-4, atol=1e-5)
    _, gradients = jacobian(bound, x, torch.arange(5).expand(n, 5))
    torch.testing.assert_close(gradients.double(), expected, rtol=1e-4, atol=1e-5)


@needs_compiler
@deprecations
def test_rome_under_a_compiled_plan_is_rome():
    """With the shapes of the test above, whose compiled code serves again."""
    settings = RomeHyperparameters(
        network="convnet-d1-w4",
        batch_real=3,
        batch_train=5,  # the last chunk is padded
        net_begin=1,
        net_num=2,
        fetch_net_num=1,
        model_train_steps=2,
        pgd_steps=2,
    )
    eager = replace(CHUNKED, reason="to compare with")
    images = []
    for how in (replace(eager, compiled=True), eager):
        dataset = tiny_dataset(classes=5, per_class=4)
        method = Rome(dataset, settings, ipc=1, seed=5, plan=how)
        start = method.images.clone()
        for _ in range(3):
            method.step()
        assert (method.images - start).abs().max() > 1e-3
        images.append(method.images)
    torch.testing.assert_close(*images, rtol=0, atol=2e-6)
