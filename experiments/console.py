"""What the commands share: a quiet screen with this project's own lines, and one-line errors."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from absl import app, flags
from absl import logging as absl_logging

if TYPE_CHECKING:
    from partitionsel_jax.reporting import Report


def show_progress() -> None:
    """Prints this project's log lines as they are; of the libraries, warnings and errors only."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("partitionsel_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def run(main: Callable[[list[str]], None]) -> None:
    """`app.run` for a command: a flag that is no field of the config is one clear line too."""
    app.run(main, flags_parser=_parse_flags)


# What reading flags can raise, all of it over what was typed: config fields that do not exist are
# KeyErrors and AttributeErrors.
_FLAG_ERRORS = (flags.Error, ValueError, KeyError, AttributeError, TypeError, OSError)


def _parse_flags(arguments: list[str]) -> list[str]:
    with one_line_errors(*_FLAG_ERRORS):
        return flags.FLAGS(arguments)


@contextlib.contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Ends the program with code 1 and one line where an error of these kinds is raised."""
    try:
        yield
    except kinds as error:
        # Config files report through a whole traceback in the message; its last line says it.
        lines = str(error).replace("\\n", "\n").replace("\\", "").strip().splitlines()
        what = lines[-1].strip(" '\"") if lines else type(error).__name__
        where = "config field: " if isinstance(error, KeyError | AttributeError) else ""
        print(f"error: {where}{what}", file=sys.stderr)
        sys.exit(1)


def show_report(report: "Report") -> None:
    """The headline table, what to keep in mind, and where the page is."""
    print(report.table)
    for caveat in report.caveats:
        print(f"note: {caveat}")
    print(f"report: {report.page}")
