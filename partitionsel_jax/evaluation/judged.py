"""The one place through which every judgement of an output passes: none of them ends an evaluation.

An output is any text, and a scorer is other people's code: whatever it raises over an output counts
as a wrong answer, and a warning names the row.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from partitionsel_jax.evaluation.scoring import BadReference
from partitionsel_jax.file_errors import one_line
from partitionsel_jax.time_limited import NotStarted

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
# What no output has brought about: it would be the same for every answer.
_NOT_OF_AN_OUTPUT = (BadReference, ImportError, NotStarted)


def judged(judge: Callable[[], T], wrong: Callable[[], T], row: str) -> T:
    """What a judge says of an output, or what is wrong where it raises.

    Args:
      judge: judges one output.
      wrong: gives the judgement of a wrong answer.
      row: what the warning calls the output.

    Raises:
      BadReference, ImportError, NotStarted: no answer at all could be judged.
    """
    try:
        return judge()
    except _NOT_OF_AN_OUTPUT:
        raise
    except Exception as error:
        _LOG.warning("%s: the scorer failed (%s); it counts as wrong", row, one_line(error))
        return wrong()
