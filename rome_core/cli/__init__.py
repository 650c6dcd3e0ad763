"""The core's own command line: the same recipes, progress, checkpoints and resume, no service.

Owns arguments, exit codes and what a person reads. Must not own a step of the work: that is
`rome_core.runner`'s. It is the only part of the core that reads an environment variable, the
default of --data-root.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from rome_core.cli.arguments import parse
from rome_core.errors import CoreError
from rome_core.recipes import SpecError

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 bad input, 130 stopped."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    from rome_core.progress import Stopped

    try:
        _command(arguments.command)(arguments)
    except SpecError as error:
        for problem in error.problems:
            print(f"error: {problem.field}: {problem.message}. {problem.remedy}", file=sys.stderr)
        return BAD_INPUT
    except CoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT if error.field else FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from its last checkpoint.", file=sys.stderr)
        return STOPPED
    except Stopped as stop:
        print(f"{stop}; the same command goes on from there.", file=sys.stderr)
        return STOPPED
    return DONE


def _command(name: str) -> Callable[[Namespace], None]:
    """The command's function, imported late: torch takes seconds, and what needs none should not.

    So --help, bad arguments and `metrics` answer at once.
    """
    if name == "metrics":
        from rome_core.cli.metrics import metrics

        return metrics
    from rome_core.cli.commands import COMMANDS

    return COMMANDS[name]
