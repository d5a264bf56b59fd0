"""The program that math-verify runs in: started by path, so that it imports nothing else of ours.

One request a line on standard input, which is a socket: [expected, given, seconds] as JSON. One
byte back: b"1" where the two are equal, b"0" where not or where either cannot be read.
"""

import contextlib
import json
import logging
import resource
import signal
import socket

# More than SymPy needs for anything that is an answer; 10^10^10 would take gigabytes.
_MOST_MEMORY = 2 << 30


def main() -> None:
    """Answers requests until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    logging.disable(logging.CRITICAL)
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Units and boxes are taken away before; math-verify would also take letters that are no units.
    config = [
        LatexExtractionConfig(
            boxed_match_priority=-1,
            normalization_config=NormalizationConfig(
                basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
            ),
        )
    ]

    def read(text: str) -> list:
        return parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)

    with socket.socket(fileno=0) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"!")
        for line in lines:
            expected, given, seconds = json.loads(line)
            # If the asking process is gone, nobody else would end a long computation.
            signal.setitimer(signal.ITIMER_REAL, seconds + 1)
            equal = False
            with contextlib.suppress(Exception):
                gold, answer = read(expected), read(given)
                if len(gold) == len(answer) == 1:
                    # An interval may be answered by the inequality that describes it.
                    equal = verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(b"1" if equal else b"0")


if __name__ == "__main__":
    main()
