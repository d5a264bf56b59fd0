"""The program of the process that math-verify has to itself; see `TimeLimited`.

math-verify reads LaTeX and knows when equations, sets and intervals are the same. Whether two
values are is decided here: it rounds to 15 digits, so that to it 1/2006! equals 1/2004!.
"""

import contextlib
import math
import time
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, grader, parse, verify

# Units and boxes are taken away before; math-verify would also take letters that are no units.
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONFIG = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_NORMALIZATION)]
# Integers of so many decimal digits are written out, and other numbers computed to as many.
_MOST_EXACT_DIGITS = 4_000_000
_MOST_DIGITS = 20_000
# Two positive values and a negative one for every variable, none of them special.
_POINTS = ((137, 100), (29, 11), (-173, 70))


def answer(expected: list[list[str]], given: list[list[str]]) -> tuple[bool, float]:
    """Compares two expressions, each as alternatives of conditions, and counts the seconds."""
    start, same = time.monotonic(), False
    # What raises cannot be compared, and what is not read as exactly one expression is not equal.
    with contextlib.suppress(Exception):
        gold, found = _meaning(expected), _meaning(given)
        if _is_value(gold) and _is_value(found):
            same = _same_value(gold, found)
        elif gold is not None and found is not None:
            # An interval may be answered by the inequality that describes it.
            same = verify([gold], [found], allow_set_relation_comp=True, timeout_seconds=None)
    return bool(same), time.monotonic() - start


def _meaning(alternatives: list[list[str]]) -> Any:
    """The expression of a text, or the set that several relations describe; None without one."""
    read = [[_read(part) for part in parts] for parts in alternatives]
    flat = [part for parts in read for part in parts]
    if any(part is None for part in flat):
        return None
    if len(flat) == 1:
        return flat[0]
    if len({symbol for part in flat for symbol in part.free_symbols}) > 1:
        return None
    sets = [
        [part if isinstance(part, sympy.Set) else part.as_set() for part in parts] for parts in read
    ]
    return sympy.Union(*(sympy.Intersection(*parts) for parts in sets))


def _read(text: str) -> Any:
    """The one expression that math-verify reads in LaTeX; None for none or several."""
    found = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if len(found) == 1 else None


def _is_value(read: Any) -> bool:
    """Returns whether an expression is a number, a formula, or a matrix of them."""
    return isinstance(read, sympy.Expr | sympy.MatrixBase)


def _same_value(first: Any, second: Any, *_: Any) -> bool:
    """Returns whether two expressions have the same value, for all values of their variables."""
    if isinstance(first, sympy.MatrixBase) or isinstance(second, sympy.MatrixBase):
        same_shape = getattr(first, "shape", None) == getattr(second, "shape", None)
        return same_shape and all(map(_same_value, first.flat(), second.flat()))
    if not (_is_value(first) and _is_value(second)):
        return bool(first == second)
    if first == second or max(_digits(first), _digits(second)) > _MOST_EXACT_DIGITS:
        return bool(first == second) and not first.has(sympy.nan, sympy.zoo)
    # "i" is the imaginary unit, and every other variable real.
    meant = {
        symbol: sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True)
        for symbol in first.free_symbols | second.free_symbols
    }
    first, second = first.xreplace(meant), second.xreplace(meant)
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    if not names:
        return _same_number(first, second)
    # Most differences show at once; what does not is proved.
    for top, bottom in _POINTS:
        point = {one: sympy.Rational(top * (n + 7), bottom * 7) for n, one in enumerate(names)}
        values = [side.xreplace(point) for side in (first, second)]
        # Logarithms and roots of negative numbers are compared nowhere.
        small = max(map(_digits, values)) < 300
        real = not small or all(value.evalf(5).is_real for value in values)
        if (top > 0 or real) and not _same_number(values[0], values[1], 40):
            return False
    difference = first.doit() - second.doit()
    # The laws of logarithms hold where the logarithms exist.
    forms = (sympy.simplify, lambda it: sympy.simplify(sympy.expand_log(it, force=True)))
    return any(shape(difference).is_zero for shape in forms)


def _same_number(first: Any, second: Any, most_digits: int = _MOST_DIGITS) -> bool:
    """Compares two constants: exactly where they are fractions, else to many digits.

    These are more than in which unequal numbers of their size could agree.
    """
    size = _digits(first) + _digits(second)
    first, second = first.doit(), second.doit()
    infinite = any(side.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) for side in (first, second))
    if infinite or (first.is_Rational and second.is_Rational):
        return bool(first == second) and not first.has(sympy.nan, sympy.zoo)
    if size > _MOST_DIGITS:
        return False
    # What evalf says of its own accuracy is wrong of log(1 + 1/10^40).
    digits = min(most_digits, 100 + 8 * math.ceil(size))
    difference = first.evalf(digits) - second.evalf(digits)
    return bool(abs(difference) < sympy.Float(10, digits) ** (-digits // 2))


def _digits(value: Any) -> float:
    """About how many decimal digits the numbers in an expression take when they are written out."""
    if value.is_Integer:
        return abs(int(value)).bit_length() * math.log10(2) + 1
    if value.is_Rational:
        return _digits(sympy.Integer(value.p)) + _digits(sympy.Integer(value.q))
    if not value.args:
        return 1.0
    size = 1.0 + sum(map(_digits, value.args))
    if isinstance(value, sympy.Pow | sympy.exp | sympy.factorial | sympy.binomial):
        times = value.exp if isinstance(value, sympy.Pow | sympy.exp) else value.args[0]
        # A constant exponent counts by its value, unless that alone takes many digits.
        magnitude = 1.0
        if not times.free_symbols:
            magnitude = abs(complex(times.evalf(6))) if _digits(times) < 15 else math.inf
        size += _digits(value.args[0]) * magnitude
    return size


# Numbers that math-verify meets in sets, intervals and equations are compared here, too.
for _name, _function in {
    "sympy_numeric_eq": _same_value,
    "sympy_symbolic_eq": lambda *_: False,
}.items():
    if not hasattr(grader, _name):
        raise ImportError(f"this version of math-verify has no grader.{_name}")
    setattr(grader, _name, _function)
