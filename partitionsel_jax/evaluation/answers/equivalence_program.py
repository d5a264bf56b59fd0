"""What runs in the process that math-verify has to itself; see `TimeLimited`."""

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

# Units and boxes are taken away before; math-verify would also take letters that are no units.
_CONFIG = [
    LatexExtractionConfig(
        boxed_match_priority=-1,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        ),
    )
]


def answer(expected: str, given: str) -> bool:
    """Whether two expressions are equal; False where either is not read as exactly one."""
    gold, found = _read(expected), _read(given)
    if not len(gold) == len(found) == 1:
        return False
    # An interval may be answered by the inequality that describes it.
    return verify(gold, found, allow_set_relation_comp=True, timeout_seconds=None)


def _read(text: str) -> list:
    return parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
