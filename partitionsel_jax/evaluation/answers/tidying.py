"""One spelling for what LaTeX, Markdown and Unicode spell in many ways."""

import re
import unicodedata

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2008\u3000\t\r", " "),
        # Thin spaces separate thousands, as LaTeX's \, does.
        **dict.fromkeys("\u2009\u202f", r"\,"),
        **dict.fromkeys("\u200b\u200c\u200d\ufeff`", ""),
        **dict.fromkeys("‘’′", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("×✕✖⨯⨉∗", r"\times "),
        **dict.fromkeys("·⋅∙", r"\cdot "),
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
        **dict.fromkeys("≈≅≃∼≒≐≑", r"\approx "),
        **dict.fromkeys("→⇒⟹⟶➜➡∴", r"\to "),
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "°": r"^\circ ",
        **{
            sign: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", sign).split("⁄"))
            for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
        },
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
        (
            r"\\(?:displaystyle|textstyle|limits|boldsymbol|mathbf|bm|pmb|mathit|mathnormal"
            r"|underline)(?![A-Za-z])|\\(?:text)?color\s*\{[^{}]*\}",
            "",
        ),
        # The spacing of 4{:}3.
        (r"\{([:;=])\}", r"\1"),
        (r"(?<=[0-9])\s*+(?:,\\!|\\[,!]|\{,\})\s*+(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\!", ""),
        (r"(?:(?<!\\)\\[,:;> ]|\\(?:quad|qquad|thinspace|enspace)(?![A-Za-z])|~|\s)+", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (
            r"\\(?:mathrm|textbf|textit|textrm|textsf|textnormal|mbox|emph|rm|bf|mathsf|texttt"
            r"|operatorname\*?|mathop)\s*\{",
            r"\\text{",
        ),
        (r"\{\s*\\(?:rm|bf|it|sf)\s+([^{}]*)\}", r"\\text{\1}"),
        # Upright variables and functions; upright g, h, l, m and s are units.
        (r"\\text\s*\{([a-fi-kn-rt-z])\}", r"\1"),
        (r"\\text\s*\{\s*(ln|log|exp|sin|cos|tan|cot|arcsin|arccos|arctan)\s*\}", r"\\\1 "),
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
        (r"\\(?:simeq|cong|approxeq|thickapprox|doteq)(?![A-Za-z])", r"\\approx"),
        # The letter as a times sign; 0x begins a number in base 16.
        (r"(?<=[0-9)}%])(?<!\b0)\s*[xX]\s*(?=[0-9])", r" \\times "),
        (
            r"(?:(?<=[0-9)}%])|(?<=[a-z][a-z]))\s[xX]\s(?=[0-9]|\([-+*/.0-9 ]{1,40}\))",
            r" \\times ",
        ),
        (r"\s+", " "),
    )
)
# "1 000 000", where a number can begin: elsewhere two numbers may stand beside each other.
_SPACED = re.compile(
    r"((?:^|[=:(\[] ?|, |\band )-?)([1-9][0-9]{0,2}(?: [0-9]{3})++)(?!,?[0-9]| ?[0-9/\\])"
)
_SUPERSCRIPTS = dict(zip(map(ord, "⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ"), "0123456789-n", strict=True))
_SUBSCRIPTS = dict(zip(map(ord, "₀₁₂₃₄₅₆₇₈₉"), "0123456789", strict=True))
# "= 18", "about 18" and "→ 18" say 18.
_LEADING = re.compile(
    r"(?:[ :;*_\"']|=+>?|-+>"
    r"|\\(?:approx|sim|to|(?:long)?rightarrow|Rightarrow|implies|therefore)(?![A-Za-z]))++"
)
_ENDS = " .,;:'\"*_\\"


def tidy(text: str) -> str:
    """Brings an answer into the spelling that every later rule reads.

    Plain minus signs and spaces, `\\frac{1}{2}`, `^` for powers, `\\text` for every kind of upright
    type, " degrees", and no `$`, bold type, sizes of brackets, or full stops around the answer.
    """
    text = re.sub("[⁰¹²³⁴-⁹⁻ⁿ]+", lambda run: _raised("^", run[0].translate(_SUPERSCRIPTS)), text)
    text = re.sub("[₀-₉]+", lambda run: _raised("_", run[0].translate(_SUBSCRIPTS)), text)
    text = text.translate(_CHARACTERS).strip(" *\n")
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    leading = _LEADING.match(text)
    text = _without_outer_braces(text[leading.end() if leading else 0 :].rstrip(_ENDS))
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


def _raised(sign: str, digits: str) -> str:
    """A power or an index, in braces where it is longer than one digit."""
    return f"{sign}{digits}" if len(digits) == 1 else f"{sign}{{{digits}}}"


def _without_outer_braces(text: str) -> str:
    """Takes away groups around the whole answer."""
    while text.startswith("{") and matching(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text
