"""One spelling for what models, LaTeX, Markdown and Unicode spell in many ways.

`last_turn` and `plain` clean a whole output; `tidy` brings an answer into the one notation that
every later rule reads.
"""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

_Rules = Sequence[tuple[re.Pattern[str], str]]


def _compiled(*rules: tuple[str, str]) -> _Rules:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


# Full-width forms, and the bold and upright letters and digits of mathematics.
_PLAIN: dict[int, Any] = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (*range(0xFF01, 0xFF5F), *range(0xFFE0, 0xFFE7), *range(0x1D400, 0x1D800))
    if chr(code) != "，"
} | {ord(sign): f"{plain} " for sign, plain in zip("。、；：", ".,;:", strict=True)}
_PLAIN |= str.maketrans("【】「」『』〖〗", "[]" * 4)
# Patterns that ignore case take these for ASCII letters.
_PLAIN |= str.maketrans("ſ\u212aİı", "sKIi")
# The characters of the patterns below in their traditional form.
_PLAIN |= str.maketrans(
    "選為應該錯誤對確項萬億個與於約過終擇則還負", "选为应该错误对确项万亿个与于约过终择则还负"
)
_WANTED = r"(?=\W{0,6}(?:boxed\W{0,2}|text\W{0,2})?[A-E](?![A-Za-z]))"
_SCRIPT = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
_ABROAD_WORDS = ("respuesta", "réponse", "antwort", "risposta", "resposta", "ответ")
_ABROAD = (
    rf"\b(?:{'|'.join(_ABROAD_WORDS)})\b"
    r"(?:\s+(?:correcta|correcte|corretta|correta|final|finale))?"
)
# Longer words first: "不是" before "是".
_ANNOUNCED_ABROAD = _compiled(
    (rf"(?i){_ABROAD}\s+(?:no|non|não|не|n')\s?(?:es|è|é|est)?\b", "the answer is not "),
    (rf"(?i){_ABROAD}\s*(?::|—|\b(?:es|est|ist|è|é)\b)\s+(?:nicht|pas)\b", "the answer is not "),
    (rf"(?i){_ABROAD}\s*(?::|—|\b(?:es|est|ist|è|é)\b)\s*:?", "the answer is "),
)
_CHINESE = _compiled(
    (r"，(?=[0-9])(?<=[0-9]，)", ","),
    (r"，", ", "),
    (
        r"(?<=[A-E)])\s?(?:选项|项)?(?:是|显然|明显)?"
        r"(?:不正确|错误?|不对|不符合?(?:题意|条件|要求)?|不成立)的?",
        " is wrong ",
    ),
    (r"答案\s?(?=\[[A-E]\])", " the answer is "),
    (r"百分之\s*([0-9.]+)", r"\1%"),
    (rf"选项(?:应该|应)?[是为]\s?:?{_WANTED}", " the answer is "),
    (r"(?<![0-9])([0-9]{1,20})\s?分之\s?([0-9]{1,20})", r"\2/\1"),
    (r"(?:负|零下)\s?(?=[0-9])", "-"),
    (r"选项", " option "),
    (r"答案?(?:应该|应当|应)?不(?:应该|可能|会|能)?(?:是|为)", " the answer is not "),
    (
        r"不(?:认为|觉得|相信)\s?(?:正确)?(?:答案|选项)?(?:应该|应当|应)?(?:是|为|选)",
        " the answer is not ",
    ),
    (
        r"(?:不(?:能|可以|应该|应|该)?选择?|排除|非|除了?|别选)(?=\W{0,3}[A-E](?![A-Za-z]))",
        " not ",
    ),
    (r"不(?:能|可以|应该|应|该)?选择?", " not "),
    (r"(?<=, )而?不是|而不是|而非", " not "),
    (r"并不是|不是|并非|不等于", " is not "),
    (
        r"(?:答案|答え|正解|解答|정답|답|答)(?:应该|应当|应|就|则){0,2}\s?(?:是|为|选择?|は|은|:)\s?:?",
        " the answer is ",
    ),
    (
        rf"(?:应该|应当|可以|应|故|我|可|就|要|该)?选[择取用]?(?:的?是)?\s?:?{_WANTED}",
        " the answer is ",
    ),
    (r"(?<=[A-E)\s])是?(?:正确|对)(?:的|答案)?", " is correct "),
    (r"或者?|还是", " or "),
    (r"(?<!总)和|以及|与", " and "),
    (r"因为|由于", " because "),
    (r"所以|因此|于是|从而", " so "),
    (r"约等于|等于", " = "),
    (r"大约|约", " about "),
    (r"大于|超过|多于", " more than "),
    (r"小于|少于|不到", " less than "),
    (r"至少", " at least "),
    (r"至多|最多", " at most "),
    (r"不", " not "),
)
_COUNTED = re.compile(
    rf"(?<=[0-9A-E)%$*])\s?(?![多以十百千万亿]){_SCRIPT}{{1,12}}(?=[\s.,;!?)}}*$]|$)"
)
# Between scripts there is no word boundary.
_BETWEEN_SCRIPTS = re.compile(rf"(?<={_SCRIPT})(?=[0-9A-Za-z$\\(])|(?<=[A-Za-z])(?={_SCRIPT})")
_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_TENS = {"十": 10, "百": 100, "千": 1000}
_NUMERAL = re.compile(rf"(?:\A|(?<=the answer is ))\s?[{''.join(_DIGITS)}十百千]{{1,9}}")
_MYRIADS = {"万": 10**4, "亿": 10**8}
# Not of "1万1万...", which would make one number of all.
_MYRIAD = re.compile(r"(?<![0-9万亿])([0-9][0-9,]{0,20}(?:\.[0-9]{1,9})?)\s?([万亿])(?![0-9])")
_NAME = r"[A-Za-z][A-Za-z0-9_▁-]{2,40}"
# Where a turn of the model begins; what is before the final channel was thought, not said.
_OPENING = re.compile(
    r"(?i)<[|｜](?:start_header_id|im_start|start|start_of_role)[|｜]>\s*assistant\s*"
    r"(?:<[|｜](?:end_header_id|im_sep|end_of_role)[|｜]>)?"
    r"|<start_of_turn>\s*model\b|<[|｜](?:assistant|CHATBOT_TOKEN|channel|message|begin[a-z▁_]*"
    r"|startoftext|im_sep)[|｜]>(?:\s*(?:analysis|commentary)\s*<[|｜]message[|｜]>)?"
    r"|\A\s*<s>|<(?:bos|pad|unk)>|\[PAD\]"
)
_FINAL_CHANNEL = "<|channel|>final<|message|>"
_TURN_END = re.compile(
    rf"<[|｜]{_NAME}[|｜]>|\[\|{_NAME}\|\]"
    r"|</s>|<(?:eos|eod|eot|eoa|eom|end|EOS|EOT|end_of_turn|end_of_utterance|start_of_turn)>"
    r"|\[(?:EOS|/?INST|end of text)\]"
)
_THOUGHT = re.compile(r"(?i)</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷")
_MARKUP = re.compile(r"<(b|strong|em|i|u)>([^<>]{0,200})</\1>")
_ANSWER = re.compile(r"(?is)<answer>((?:(?!</?answer>).)*+)(?:</answer>|\Z)")

_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
_COMMANDS = "pi infty sqrt pm le ge ne cup cap in emptyset"
_CHARACTERS = str.maketrans(
    {sign: f"\\{name} " for sign, name in zip("π∞√±≤≥≠∪∩∈∅", _COMMANDS.split(), strict=True)}
    | {
        sign: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", sign).split("⁄"))
        for sign in _FRACTIONS
    }
    | {
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2008\u3000\t\r\x00", " "),
        # Thin spaces separate thousands, as LaTeX's \, does.
        **dict.fromkeys("\u2009\u202f", r"\,"),
        **dict.fromkeys("\u200b\u200c\u200d\ufeff`", ""),
        **dict.fromkeys("‘’′", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("×✕✖⨯⨉∗", r"\times "),
        **dict.fromkeys("·⋅∙", r"\cdot "),
        **dict.fromkeys("÷⁄∕", "/"),
        **dict.fromkeys("≈≅≃∼≒≐≑", r"\approx "),
        **dict.fromkeys("→⇒⟹⟶➜➡∴", r"\to "),
        "°": r"^\circ ",
    }
)
_RULES = _compiled(
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
# "1 000 000", where a number can begin: elsewhere two numbers may stand beside each other.
_SPACED = re.compile(
    r"((?:^|[=:(\[] ?|, |\band )-?)([1-9][0-9]{0,2}(?: [0-9]{3})++)(?!,?[0-9]| ?[0-9/\\])"
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ₀₁₂₃₄₅₆₇₈₉", "0123456789-n0123456789")
# "= 18", "about 18" and "→ 18" say 18.
_LEADING = re.compile(
    r"(?:[ :;*_\"']|=+>?|-+>"
    r"|\\(?:approx|sim|to|(?:long)?rightarrow|Rightarrow|implies|therefore)(?![A-Za-z]))++"
)
_ENDS = " .,;:'\"*_\\"


def last_turn(text: str) -> str:
    """Cuts out the model's turn, from the end of its thoughts to the token that ends the turn.

    Text behind such a token is another turn, which the model made up.
    """
    text = _OPENING.sub("\n", text.rpartition(_FINAL_CHANNEL)[2])
    text = next((part for part in _TURN_END.split(text) if part.strip()), "")
    *_, said = _THOUGHT.split(text)
    return _MARKUP.sub(r"\2", said if said.strip() else text)


def tagged(text: str) -> str | None:
    """Gives the content of the last `<answer>...</answer>` of a text; None without one."""
    held = _ANSWER.findall(text)
    return held[-1].strip() if held else None


def plain(text: str) -> str:
    """A text without full-width characters, whose announcements of an answer are in English.

    Chinese is read for what says whether something is the answer, and for its numbers; other
    languages for "the answer is" alone.
    """
    if not text.isascii():
        text = text.translate(_PLAIN)
        text = _rewritten(text, _CHINESE)
        text = _MYRIAD.sub(
            lambda found: f"{Decimal(found[1].replace(',', '')) * _MYRIADS[found[2]]:f}",
            _NUMERAL.sub(_in_digits, text),
        )
        text = _COUNTED.sub("", text)
        text = _BETWEEN_SCRIPTS.sub(" ", text)
    if any(word in text.lower() for word in _ABROAD_WORDS):
        text = _rewritten(text, _ANNOUNCED_ABROAD)
    return text


def _rewritten(text: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _in_digits(found: re.Match[str]) -> str:
    """The number of "十八"."""
    total = digit = 0
    for character in found[0].strip():
        if character in _DIGITS:
            digit = _DIGITS[character]
        else:
            total, digit = total + (digit or 1) * _TENS[character], 0
    return str(total + digit)


def tidy(text: str) -> str:
    """Brings an answer into the spelling that every later rule reads.

    Plain minus signs and spaces, `\\frac{1}{2}`, `^` for powers, `\\text` for every kind of upright
    type, " degrees", and no `$`, bold type, sizes of brackets, or full stops around the answer.
    """
    text = re.sub("[⁰¹²³⁴-⁹⁻ⁿ]+", lambda run: _raised("^", run[0]), text)
    text = re.sub("[₀-₉]+", lambda run: _raised("_", run[0]), text)
    text = _rewritten(text.translate(_CHARACTERS).strip(" *\n"), _RULES)
    leading = _LEADING.match(text)
    text = text[leading.end() if leading else 0 :].rstrip(_ENDS)
    while text.startswith("{") and matching(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
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
    """Writes a power or an index, in braces where it is longer than one digit."""
    plain = digits.translate(_RAISED)
    return f"{sign}{plain}" if len(plain) == 1 else f"{sign}{{{plain}}}"
