"""The lines between supervisor and child: one JSON object a line, UTF-8; the table is in
docs/architecture.md.

Owns the encoding and the few constants both ends need. Imports nothing heavy: the child reads it
before torch.
"""

from __future__ import annotations

import json
import signal
from typing import Any

Message = dict[str, Any]

STACK_DUMP_SIGNAL = signal.SIGUSR1
"""A child that gets it writes the stacks of all its threads to its log and goes on."""


def encode(message: Message) -> bytes:
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
