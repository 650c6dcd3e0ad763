"""First-order passes over one kind of network: input gradients, embeddings, weight gradients.

Owns how a pass is run, compiled or eager, in which memory format and in what chunks, and never what
it computes: every plan gives plain autograd's values within rounding, and the same plan on the same
machine gives the same bits. A network's weights are passed in, so that a pool of a hundred networks
shares one skeleton and its compiled code.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from rome_core.attacks.gradient import (
    LogitLoss,
    Work,
    differentiate,
    differentiate_each,
    joined,
)
from rome_core.errors import CoreError
from rome_core.networks import Network, blank, footprint, make_fusible, operations
from rome_core.recipes.networks import NetworkSpec

State = Mapping[str, Tensor]
"""Parameters and buffers of a network by name, as `state_dict()` gives them."""

Kind = Literal["outputs", "input_gradient", "train_gradient", "graph"]

Pass = Callable[..., tuple[Tensor, ...]]
"""One chunk's work: (values of the state, x and what else the kind takes) to its results."""

CHUNK_BYTES = 4 * 2**20
"""Of one layer's activations, a thread. A chunk's few tensors of this size stay in the last-level
cache, and none is so large that its memory goes back to the system and is faulted in again."""

WORTH_COMPILING = 2e13
"""Floating-point operations. Compiling takes some 20 s and saves about a third of the time of eager
chunks, which do 0.2e12 operations a second on two cores: below this it does not pay. Nor does it
for other families than ConvNets: a ResNet18 takes 30 to 100 s and is no faster then, LeNet and MLP
are slower, AlexNet and VGG11 within 10 % of eager."""

MANY = 1 << 30
"""Images: no bound."""

WORTH_SHARING = 1e6
"""Floating-point operations of an image. Below this, threads wait for one another longer than they
work: on 8x8 images two of them beside other load took ten times as long as one."""


@dataclass(frozen=True)
class Plan:
    """How passes are run. Part of provenance and checkpoints: the same plan, the same bits."""

    compiled: bool
    chunk_bytes: int | None  # of activations a chunk on the CPU, None for the whole batch at once
    channels_last: bool
    threads: int
    reason: str  # why it is compiled or eager
    device: str = "cpu"

    def as_dict(self) -> dict[str, bool | int | str | None]:
        return asdict(self)


def plan(
    *,
    mode: Literal["auto", "eager", "compiled"] = "auto",
    images: int = 0,
    threads: int | None = None,
    network: NetworkSpec | None = None,
    size: int = 32,
    device: torch.device | str = "cpu",
) -> Plan:
    """Choose how to run.

    `images` is how many the run will pass through networks altogether, forward and backward, and
    `network` and `size` say how much work an image is: by default the reference network at 32x32.
    `auto` compiles where that pays, on the CPU, if a compiler works; `compiled` compiles any
    network, and raises CoreError where none works. Networks with batch normalisation run eager
    under any plan. Unless told, `threads` are PyTorch's, or one where images are too small to
    share.
    """
    network = network or NetworkSpec()
    an_image = operations(network, size)
    threads = threads or (torch.get_num_threads() if an_image >= WORTH_SHARING else 1)
    work = 2 * images * an_image
    compiled = False
    if mode == "eager":
        reason = "eager was asked for"
    elif mode == "auto" and torch.device(device).type != "cpu":
        reason = "what compiling is worth on a GPU has not been measured"
    elif mode == "auto" and network.family != "convnet":
        reason = "compiling pays for ConvNets alone"
    elif mode == "auto" and work < WORTH_COMPILING:
        reason = "too little work to be worth compiling"
    else:
        failure = _compiler_failure(str(device))
        if failure and mode == "compiled":
            raise CoreError(
                "no_compiler",
                f"Passes can't be compiled here: {failure}.",
                "Install a C++ compiler such as g++, or leave the choice to compile: auto.",
                field="compile",
            )
        compiled = failure is None
        reason = f"no working compiler: {failure}" if failure else "worth compiling"
    if mode == "compiled":
        reason = "compiled was asked for"
    # Eager group normalisation wants contiguous images: in channels-last every layer is copied
    # twice, and a gradient took 1.4 to 1.6 times as long.
    return Plan(compiled, CHUNK_BYTES * threads, compiled, threads, reason, str(device))


class Passes:
    """Passes over networks shaped like `skeleton`, whose own weights are not used."""

    def __init__(self, skeleton: Network, plan: Plan) -> None:
        self.plan = plan
        self._skeleton = skeleton
        # Such images are never cut into chunks in training, nor are others added to them.
        self._coupled = skeleton.spec.couples_images
        self._fits = MANY  # images a pass that memory has had room for

    @property
    def chunk(self) -> int | None:
        """Images a call on the CPU, a power of two; None for the whole batch at once."""
        if self.plan.chunk_bytes is None:
            return None
        skeleton = self._skeleton
        an_image = footprint(skeleton.spec, channels=skeleton.channels, size=skeleton.size)
        images = self.plan.chunk_bytes // (4 * an_image.largest)
        return 1 << max(0, images.bit_length() - 1)

    def input_gradient(self, state: State, x: Tensor, labels: Tensor) -> Tensor:
        """Gradient by x of the summed cross-entropy in evaluation mode: (n, c, h, w)."""
        chunks = self._run("input_gradient", state, x, labels)
        return torch.cat([gradient for (gradient,) in chunks]).contiguous()

    def embed_and_logits(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in evaluation mode, without a graph: (n, c, h, w) -> (n, d), (n, classes)."""
        embeddings, logits = zip(*self._run("outputs", state, x), strict=True)
        return torch.cat(embeddings), torch.cat(logits)

    def embed(self, state: State, x: Tensor) -> Tensor:
        """Embeddings in evaluation mode, without a graph: (n, c, h, w) -> (n, d)."""
        return self.embed_and_logits(state, x)[0]

    def logits(self, state: State, x: Tensor) -> Tensor:
        """Logits in evaluation mode, without a graph: (n, c, h, w) -> (n, classes)."""
        return self.embed_and_logits(state, x)[1]

    def loss_gradient(
        self, state: State, x: Tensor, loss: LogitLoss
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses and each image's gradient of its own loss, in evaluation mode."""
        logits, losses, gradient = self._differentiate(
            state, x, lambda forward, images, part: differentiate(forward, images, loss, part)
        )
        return logits, losses, gradient

    def jacobian(self, state: State, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and gradients by x of those in `classes` (n, k): (n, k, c, h, w)."""
        logits, gradients = self._differentiate(
            state,
            x,
            lambda forward, images, part: differentiate_each(forward, images, classes[part]),
        )
        return logits, gradients

    def explore(self, state: State, x: Tensor, work: Work) -> tuple[Tensor, ...]:
        """What `work` makes of a forward pass in evaluation mode, chunk by chunk."""
        return self._differentiate(state, x, work)

    def train_gradient(
        self, state: State, x: Tensor, labels: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the mean cross-entropy in training mode, and the logits (n, classes).

        Running statistics in `state`, where there are any, are updated in place.
        """
        names = [name for name, _ in self._skeleton.named_parameters()]
        share = torch.full((len(x),), 1 / len(x), dtype=x.dtype, device=x.device)
        total: list[Tensor] = []
        logits: list[Tensor] = []
        for *gradients, some in self._run("train_gradient", state, x, labels, share):
            logits.append(some)
            if total:
                torch._foreach_add_(total, gradients)
            else:
                total = gradients
        return dict(zip(names, total, strict=True)), torch.cat(logits)

    def bind(self, state: State) -> "Bound":
        """One network of the pool as a model that attacks can use."""
        return Bound(self, state)

    def _differentiate(self, state: State, x: Tensor, work: Work) -> tuple[Tensor, ...]:
        """What `work` makes of a differentiable forward pass, chunk by chunk, in as much as fits.

        Compiled code has one shape, so it sees padded images and `work` only the logits of real
        ones; a chunk that would be half padding or more runs eager, which takes less time than
        compiled padding. Where memory is short, chunks are halved until they fit, from then on.
        """
        if len(x) == 0:
            raise ValueError("a pass needs at least one image")
        layout, values = self._layout, self._values(state)
        compiled = self.plan.compiled and not self._coupled
        self._skeleton.train(False)
        done: list[tuple[Tensor, ...]] = []
        start = 0
        while start < len(x):
            size = min(self._fits, (x.device.type == "cpu" and self.chunk) or self._fits)
            images = x[start : start + size].detach().contiguous(memory_format=layout)
            count = len(images)

            def forward(leaf: Tensor, count: int = count, size: int = size) -> Tensor:
                shape = min(size, 1 << (count - 1).bit_length()) if size == self._fits else size
                if not compiled or 2 * count <= shape:
                    return _pass("outputs", self._skeleton)(values, leaf)[1]
                padded = F.pad(leaf, (0, 0) * 3 + (0, shape - count))
                padded = padded.contiguous(memory_format=layout)
                return self._compiled("graph", [padded])(values, padded)[0][:count]

            try:
                # A Jacobian goes back through one forward pass many times: nothing is donated.
                with functorch_config.patch(donated_buffer=False):
                    done.append(work(forward, images, slice(start, start + count)))
            except RuntimeError as error:
                if size == 1 or not _out_of_memory(error):
                    raise
                self._fits = max(1, count // 2)
                continue
            start += count
        return joined(done)

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.plan.channels_last else torch.contiguous_format

    def _values(self, state: State) -> list[Tensor]:
        values = [state[name].detach() for name in _names(self._skeleton)]
        return [v.contiguous(memory_format=self._layout) if v.dim() == 4 else v for v in values]

    @torch.no_grad()
    def _run(self, kind: Kind, state: State, *batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The results chunk by chunk. Each of `batch` has one row an image; x comes first."""
        n, training = len(batch[0]), kind == "train_gradient"
        if n == 0:
            raise ValueError("a pass needs at least one image")
        layout, values = self._layout, self._values(state)
        chunk = self.chunk if batch[0].device.type == "cpu" else None
        whole = chunk is None or (training and self._coupled)
        compiled = self.plan.compiled and not self._coupled
        self._skeleton.train(training)
        start = 0
        while start < n:
            size = n if training and whole else min(self._fits, n if whole else chunk or n)
            rows = [b[start : start + size].detach() for b in batch]
            count = len(rows[0])
            # Compiled code has one shape, so chunks are padded to a whole one, and whole batches,
            # which shrink as attacked images leave, to a power of two.
            shape = size if not whole or training else 1 << (count - 1).bit_length()
            if compiled and count < shape:
                # The images added here are independent of the others: they weigh nothing in a sum
                # and their own results are cut off.
                rows = [torch.cat([r, r.new_zeros(shape - count, *r.shape[1:])]) for r in rows]
            rows[0] = rows[0].contiguous(memory_format=layout)
            try:
                if compiled:
                    made = self._compiled(kind, rows)(values, *rows)
                else:
                    made = _pass(kind, self._skeleton)(values, *rows)
            except RuntimeError as error:
                if training or size == 1 or not _out_of_memory(error):
                    raise
                self._fits = max(1, count // 2)
                continue
            start += count
            yield (*made[:-1], made[-1][:count]) if training else tuple(m[:count] for m in made)

    def _compiled(self, kind: Kind, rows: list[Tensor]) -> Pass:
        skeleton, x = self._skeleton, rows[0]
        shape = (skeleton.channels, skeleton.size, skeleton.classes)
        return _compile(
            kind, skeleton.spec, shape, len(x), x.dtype, x.device, self.plan.channels_last
        )


@dataclass(frozen=True, eq=False)
class Bound:
    """Passes with the weights of one network: a model from normalised images to logits."""

    passes: Passes
    state: State

    def __call__(self, x: Tensor) -> Tensor:
        return self.passes.logits(self.state, x)

    def input_gradient(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.passes.input_gradient(self.state, x, labels)

    def loss_gradient(self, x: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor, Tensor]:
        return self.passes.loss_gradient(self.state, x, loss)

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        return self.passes.jacobian(self.state, x, classes)

    def explore(self, x: Tensor, work: Work) -> tuple[Tensor, ...]:
        return self.passes.explore(self.state, x, work)


class _Both(nn.Module):
    """A network whose forward pass gives embeddings as well, for `functional_call`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.embed_and_logits(x)


def _pass(kind: Kind, skeleton: Network) -> Pass:
    """One kind of pass as a function of tensors alone."""
    names = _names(skeleton)
    parameters = [name for name, _ in skeleton.named_parameters()]
    both = _Both(skeleton)

    def outputs(values: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
        state = {f"network.{name}": value for name, value in zip(names, values, strict=True)}
        made: tuple[Tensor, Tensor] = functional_call(both, state, (x,), tie_weights=False)
        return made

    def input_gradient(values: list[Tensor], x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = outputs(values, leaf)[1]
            return torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), leaf)

    def train_gradient(
        values: list[Tensor], x: Tensor, labels: Tensor, share: Tensor
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [
                value.detach().requires_grad_() if name in parameters else value
                for name, value in zip(names, values, strict=True)
            ]
            logits = outputs(leaves, x)[1]
            loss = (share * F.cross_entropy(logits, labels, reduction="none")).sum()
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            return *torch.autograd.grad(loss, wanted), logits.detach()

    passes: dict[Kind, Pass] = {
        "outputs": outputs,
        "input_gradient": input_gradient,
        "train_gradient": train_gradient,
    }
    return passes[kind]


@cache
def _compile(
    kind: Kind,
    spec: NetworkSpec,
    shape: tuple[int, int, int],
    n: int,
    dtype: torch.dtype,
    device: torch.device,
    channels_last: bool,
) -> Pass:
    """The compiled pass, once a process for all networks and plans of a shape.

    Forward and backward are traced into one graph first, so that the compiler sees both and keeps
    only what the results need.
    """
    channels, size, classes = shape
    skeleton = blank(spec, channels=channels, size=size, classes=classes)
    make_fusible(skeleton)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    state = skeleton.state_dict()
    values = [torch.zeros(state[k].shape, dtype=dtype, device=device) for k in _names(skeleton)]
    values = [v.contiguous(memory_format=layout) if v.dim() == 4 else v for v in values]
    x = torch.zeros(n, channels, size, size, dtype=dtype, device=device)
    labels = torch.zeros(n, dtype=torch.int64, device=device)
    rows = [x.contiguous(memory_format=layout), labels, torch.zeros_like(x[:, 0, 0, 0])]
    if kind == "graph":
        return _differentiable(skeleton, values, rows[0])
    takes = {"outputs": 1, "input_gradient": 2, "train_gradient": 3}[kind]
    graph = make_fx(_pass(kind, skeleton))(values, *rows[:takes])
    made: Pass = torch.compile(graph, dynamic=False, fullgraph=True)
    return made


def _differentiable(skeleton: Network, values: list[Tensor], example: Tensor) -> Pass:
    """Logits alone, compiled so that any loss of them can be differentiated by x, repeatedly.

    Traced first: each shape then has code of its own, and no limit on compiling one code anew.
    """
    outputs = _pass("outputs", skeleton)

    def logits(values: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
        return outputs(values, x)[1:]

    graph = make_fx(logits)(values, example)
    compiled: Pass = torch.compile(graph, dynamic=False, fullgraph=True)

    def quiet(values: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
        # The compiler looks at x.grad and is told there is none, for x is not a leaf: it's padded.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not")
            return compiled(values, x)

    return quiet


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _names(module: nn.Module) -> list[str]:
    """Parameters, then buffers."""
    return [n for n, _ in module.named_parameters()] + [n for n, _ in module.named_buffers()]


@cache
def _compiler_failure(device: str) -> str | None:
    """Why nothing can be compiled for a device, found by compiling something small, or None."""
    try:
        torch.compile(torch.neg, fullgraph=True)(torch.ones(8, device=device))
    except Exception as problem:  # whatever a broken toolchain raises, eager works without it
        what = str(problem).strip().split("\n\n")[0]
        return f"{type(problem).__name__}: {' '.join(what.split())}"
    return None
