"""Identifiers: a prefix that names the noun and 26 characters that sort by time.

Owns their form. An identifier orders rows made by one clock roughly by age; nothing may rely on
the order for correctness, that is what `created_at` is for.
"""

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
TIME_BITS, RANDOM_BITS = 48, 80  # as in a ULID: milliseconds, then chance
LENGTH = (TIME_BITS + RANDOM_BITS + 4) // 5


def new(prefix: str) -> str:
    """`new("job")` -> `job_` and 26 lower-case base-32 characters."""
    milliseconds = time.time_ns() // 1_000_000
    number = milliseconds << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
    digits = [ALPHABET[number >> 5 * place & 31] for place in reversed(range(LENGTH))]
    return f"{prefix}_{''.join(digits)}"
