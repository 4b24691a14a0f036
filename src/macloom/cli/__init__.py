"""The command line: `macloom VERB ...`.

Data goes to stdout, as text or with `--json` as JSON; notes, progress and errors go to stderr. The
exit status is 0 when the verb did its work, 1 after a failure of macloom itself or where `verify` found a
difference, 2 after bad input.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence

from macloom.cli.console import Console
from macloom.cli.parser import build_parser
from macloom.errors import MacloomError

# Operating-system errors that name something the user gave: a path that is not there or not allowed.
_BAD_PATH = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has printed the help, the version or the error
        return stop.code if isinstance(stop.code, int) else 2
    console = Console(json=options.json, verbosity=options.verbosity, seed=options.seed)
    begun = time.perf_counter()
    try:
        status = options.run(options, console) or 0
        sys.stdout.flush()
    except MacloomError as error:
        return _fail(2, str(error), options.verbosity)
    except _BAD_PATH as error:
        return _fail(2, f"{error.filename}: {error.strerror}" if error.filename else str(error), options.verbosity)
    except KeyboardInterrupt:
        return _fail(130, "interrupted", 0)
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; point stdout elsewhere, because Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        advice = "" if options.verbosity > 0 else " (-v shows where)"
        return _fail(1, f"macloom failed: {type(error).__name__}: {error}{advice}", options.verbosity)
    console.note(f"took {time.perf_counter() - begun:.1f} s", detail=True)
    return status


def _fail(status: int, message: str, verbosity: int) -> int:
    """Print one line on stderr, after the traceback if `-v` asked for it, and return `status`."""
    if verbosity > 0:
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
