"""One spelling for what LaTeX, Markdown and Unicode spell in many ways."""

import re

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2008\u3000\t\r", " "),
        # Thin spaces separate thousands, as LaTeX's \, does.
        **dict.fromkeys("\u2009\u202f", r"\,"),
        **dict.fromkeys("\u200b\u200c\u200d\ufeff`", ""),
        **dict.fromkeys("‘’′", "'"),
        **dict.fromkeys("“”", '"'),
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "⁄": "/",
        "∕": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "√": r"\sqrt ",
        "±": r"\pm ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "°": r"^\circ ",
        "²": "^2",
        "³": "^3",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "％": "%",
        "\x00": " ",
    }
)
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # First, so that no later pattern meets a long run of spaces.
        (r"\s+", " "),
        # GSM8K's calculator notes.
        (r"<<[^<>]*>>", ""),
        # Bold type, but not the power of x**2: its stars stand at no operand's outer side.
        (r"(?<![\w)\]}])\*\*(?=[^\s*])((?:(?!\*\*).)+?)\*\*(?![\w(\\])", r"\1"),
        (r"\*\*", "^"),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits|boldsymbol|mathbf)(?![A-Za-z])", ""),
        (r"(?<=[0-9])\s*+(?:,\\!|\\[,!]|\{,\})\s*+(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\!", ""),
        (r"(?:(?<!\\)\\[,:;> ]|\\(?:quad|qquad|thinspace|enspace)(?![A-Za-z])|~|\s)+", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:mathrm|textbf|textit|textrm|textsf|textnormal|mbox|emph|rm|bf)\s*\{", r"\\text{"),
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
        (r"\\frac ?\{ ?([^{}]*?) ?\} ?\{ ?([^{}]*?) ?\}", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", " degrees "),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:boxed|fbox)(?![A-Za-z])", ""),
        (r"(?<!\\)\\([%#])", r"\1"),
        (r"\\?\$|(?<!\\)\\[()\[\]]", ""),
        (r"\s+", " "),
    )
)
# "1 000 000", where a number can begin: elsewhere two numbers may stand beside each other.
_SPACED = re.compile(
    r"((?:^|[=:(\[] ?|, |\band )-?)([1-9][0-9]{0,2}(?: [0-9]{3})++)(?!,?[0-9]| ?[0-9/\\])"
)
_ENDS = " .,;:'\"*_\\"


def tidy(text: str) -> str:
    """Brings an answer into the spelling that every later rule reads.

    Plain minus signs and spaces, `\\frac{1}{2}`, `^` for powers, `\\text` for every kind of upright
    type, " degrees", and no `$`, bold type, sizes of brackets, or full stops around the answer.
    """
    text = text.translate(_CHARACTERS).strip(" *\n")
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _without_outer_braces(text.lstrip(" :;*_\"'").rstrip(_ENDS))
    return _SPACED.sub(lambda found: found[1] + found[2].replace(" ", ","), text)


def untexted(text: str) -> str:
    """Takes upright type out of its `\\text{...}`."""
    return re.sub(r"\s+", " ", re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)).strip()


def matching(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`, of any kind; -1 without one."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
            if depth == 0:
                return place
    return -1


def _without_outer_braces(text: str) -> str:
    """Takes away groups around the whole answer."""
    while text.startswith("{") and matching(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text
