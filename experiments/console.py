"""What the commands share: a quiet screen that shows this project's own lines, and exit codes."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

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


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with code 1 and the message alone where a user's input is at fault."""
    try:
        yield
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def show_report(report: "Report") -> None:
    """The headline table, what to keep in mind, and where the page is."""
    print(report.table)
    for caveat in report.caveats:
        print(f"note: {caveat}")
    print(f"report: {report.page}")
