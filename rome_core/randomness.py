"""Where every random number comes from: one seed and the name of the draw.

Owns the only way to make a generator. Nothing in the core reads the clock or the global generator,
and no generator is stored: it is made anew where it is used, so a resumed run draws what an
undisturbed one draws.
"""

import hashlib
import json

import torch


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Make the CPU generator of one draw.

    Its seed is the first 63 bits of SHA-256 over the JSON list `[seed, *path]`, so neighbouring
    seeds and paths are unrelated, and `1` and `"1"` are different steps of a path. Raises TypeError
    for any other type.

    PyTorch's CPU engine, a Mersenne Twister, starts from the low 32 bits of that number: two paths
    of one run may share a stream by chance, but neither can be told from the other's name.
    """
    for step in (seed, *path):
        if isinstance(step, bool) or not isinstance(step, str | int):
            raise TypeError(f"a seed path holds str and int, not {type(step).__name__}: {step!r}")
    encoding = json.dumps([seed, *path], separators=(",", ":")).encode()
    number = int.from_bytes(hashlib.sha256(encoding).digest()[:8], "big") >> 1
    made = torch.Generator(device="cpu")
    made.manual_seed(number)
    return made
