"""How much memory some work takes. Must not keep time.

Both counts are of tensors alone: what a kernel takes for itself, or the process besides, is none
of it. So they are exact and repeat to the byte, which the size of a process does not.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """Most that PyTorch's allocator on the CPU held during some work, above what it held before.

    Compiled code takes its memory from the same allocator and is counted too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or each profile writes two lines of its own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()
    changes: list[tuple[int, int]] = [
        (e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"
    ]
    changes.sort(key=lambda change: change[0])  # taken is above 0, given back below
    return max(accumulate((size for _, size in changes), initial=0))


class Kept:
    """Bytes that graphs keep for going back, now and at most; what several nodes keep counts once.

    Weights are among them, as far as a gradient needs them.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self._holders: Counter[int] = Counter()  # of each storage, by its address

    @contextmanager
    def counting(self) -> Iterator[None]:
        """While this lasts, on one thread and outside `torch.func`, which has no such hooks."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        held = tensor.detach()  # a tensor of its own, whose end is that of the graph's
        storage = held.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if not self._holders[address]:
            self.now += size
            self.most = max(self.most, self.now)
        self._holders[address] += 1
        weakref.finalize(held, self._release, address, size)
        return held

    def _release(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            self.now -= size
