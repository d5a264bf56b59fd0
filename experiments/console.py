"""The commands' common ground: a quiet screen with this project's own lines, one-line errors."""

import contextlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

from experiments import flag_checks
from partitionsel_jax.machine_errors import lack

if TYPE_CHECKING:
    from partitionsel_jax.reporting import Report


def start() -> None:
    """Prints this project's log lines as they are, and keeps compiled programs between commands.

    Of the libraries, warnings and errors are shown. A compilation cache that the user has set
    (JAX_COMPILATION_CACHE_DIR) is left as it is.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().addFilter(_is_news)
    threading.excepthook = _in_thread
    sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("partitionsel_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = epath.Path("~/.cache/partitionsel_jax/compiled").expanduser()
        jax.config.update("jax_compilation_cache_dir", os.fspath(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _is_news(record: logging.LogRecord) -> bool:
    """Returns whether a library's line says more than a lack that this code reports itself.

    Checkpoints are written by threads, each of which reports a full disk by a traceback of its own.
    """
    error = record.exc_info[1] if record.exc_info else None
    return lack(error) is None and lack(Exception(record.getMessage())) is None


def _in_thread(failed: threading.ExceptHookArgs) -> None:
    """Reports a thread that has failed as usual, but for what is said elsewhere."""
    if lack(failed.exc_value) is None:
        threading.__excepthook__(failed)


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    """Reports an error that nobody can catch as usual, but for the remains of a failed save.

    What was still to be written tells an event loop that has ended by then, or never began.
    """
    if not re.search("Event loop is closed|EventLoop' object has no", str(failed.exc_value)):
        sys.__unraisablehook__(failed)


def define_config_flag(default: str | None = None, what: str = "A file under configs/.") -> Any:
    """The flag --config, with its fields; a default is read as soon as it is defined."""
    with one_line_flag_errors():
        return config_flags.DEFINE_config_file("config", default, what)


def define_process_flags() -> None:
    """The flags of a command that several processes may run together."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where there are several.")
    flags.DEFINE_integer("processes", None, "How many processes there are.", 1, 2**31 - 1)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.", 0, 2**31 - 1)
    flags.DEFINE_float("patience", 90, "Seconds to wait for the others at the start.", 1, 10**6)


def join_processes() -> None:
    """Meets the other processes, if there are any; only the first goes on logging progress.

    Raises:
      ValueError: flags or an environment that make no sense, or processes that did not come.
    """
    from partitionsel_jax.distributed import clusters, processes

    values = flags.FLAGS
    found = clusters.find(
        coordinator=values.coordinator,
        processes=values.processes,
        process=values.process,
    )
    if found is None:
        return
    processes.join(found, values.patience)
    log = logging.getLogger("partitionsel_jax")
    if processes.is_first():
        log.info("%d processes, as %s say", found.processes, found.source)
    else:
        log.setLevel(logging.WARNING)


def run(main: Callable[[], None]) -> None:
    """`app.run` for a command, and the place where what ends it early becomes one line.

    Refusals, files that cannot be used and what the machine lacks are one line, and exit code 1.
    Anything else is a fault of this code, and shows its traceback. What a command uses is imported
    in its `main`, so that a mistyped flag answers at once.
    """

    def guarded(arguments: list[str]) -> None:
        with one_line_errors():
            if arguments[1:]:
                raise app.UsageError(f"unexpected arguments {arguments[1:]}: use --name=value")
            start()
            main()

    app.run(guarded, flags_parser=_parse_flags)


# Ways to ask for help, and what absl calls them.
_HELP = {"-h": "--help", "-?": "--help"} | {
    f"{dashes}{name}": f"--{name}"
    for name in ("help", "helpshort", "helpfull", "helpxml")
    for dashes in ("-", "--")
}
# Characters of an error that are shown: at most, and of one beside what the machine lacks.
_LONGEST, _SHORT = 2000, 200
# Packages whose absence is a fault of this code.
_OURS = ("configs", "experiments", "partitionsel_jax")


def _parse_flags(arguments: list[str]) -> list[str]:
    for argument in arguments[1:]:
        if argument in _HELP:
            with contextlib.suppress(SystemExit):  # absl ends with code 1
                flags.FLAGS([arguments[0], _HELP[argument]])
            sys.exit(0)
    with one_line_errors(flags.Error):
        flag_checks.check_configs(arguments)
    with one_line_flag_errors():
        rest = flags.FLAGS(arguments)
    with one_line_errors():
        flag_checks.check_values(flags.FLAGS)
    return rest


@contextlib.contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Ends the program with code 1 and one line where something is refused or cannot be had.

    Args:
      *kinds: further errors whose text is all there is to say.
    """
    try:
        yield
    except Exception as error:
        lacking = lack(error)
        if not (lacking or isinstance(error, kinds) or _is_said(error)):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        if lacking and lacking.remedy not in what:
            what = f"{lacking.what} ({what[:_SHORT]}): {lacking.remedy}"
        _end(what)


def _is_said(error: Exception) -> bool:
    """Returns whether an error's text is all there is to say."""
    if isinstance(error, (app.UsageError, ValueError, OSError)):
        return True
    if isinstance(error, ImportError):  # of a package that an extra brings
        return (error.name or "").partition(".")[0] not in _OURS
    from partitionsel_jax.time_limited import NotStarted
    from partitionsel_jax.training import NonFiniteUpdate

    return isinstance(error, (NotStarted, NonFiniteUpdate))


@contextlib.contextmanager
def one_line_flag_errors() -> Iterator[None]:
    """The same for whatever reading flags and config files can raise, all over what was typed."""
    try:
        yield
    except Exception as error:
        # Config files report through a whole traceback in the message; its last line says it.
        lines = str(error).replace("\\n", "\n").replace("\\", "").strip().splitlines()
        what = _unquoted(lines[-1].strip()) if lines else type(error).__name__
        where = "config field: " if isinstance(error, KeyError | AttributeError) else ""
        _end(f"{where}{what}")


def _end(what: str) -> NoReturn:
    shown = what if len(what) <= _LONGEST else f"{what[:_LONGEST]} ..."
    print(f"error: {shown}", file=sys.stderr)
    sys.exit(1)


def _unquoted(line: str) -> str:
    """Without quotes around it, or without what is left of them; those inside stay."""
    for quote in "'\"":
        if line.count(quote) == 2 and line[0] == line[-1] == quote:
            line = line[1:-1]
        while line.endswith(quote) and line.count(quote) % 2:
            line = line[:-1].rstrip()
    return line


def show_report(report: "Report") -> None:
    """The headline table, what to keep in mind, and where the page is."""
    print(report.table)
    for caveat in report.caveats:
        print(f"note: {caveat}")
    print(f"report: {report.page}")
