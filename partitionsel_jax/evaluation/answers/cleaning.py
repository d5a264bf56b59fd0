"""What an output looks like before its answer is looked for: one turn, one answer, plain signs.

Chat models write tokens that end a turn, tags around their thoughts and their answer, full-width
characters, and announce answers in the question's language.
"""

import re
import unicodedata
from decimal import Decimal

# Full-width forms, and the bold and upright letters and digits of mathematics.
_PLAIN = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (*range(0xFF01, 0xFF5F), *range(0xFFE0, 0xFFE7), *range(0x1D400, 0x1D800))
    if chr(code) != "，"
} | {ord(sign): f"{plain} " for sign, plain in zip("。、；：", ".,;:", strict=True)}
_PLAIN |= {
    ord(sign): "[" if place % 2 == 0 else "]" for place, sign in enumerate("【】「」『』〖〗")
}
# Patterns that ignore case take these for ASCII letters.
_PLAIN |= {ord("ſ"): "s", ord("\u212a"): "K", ord("İ"): "I", ord("ı"): "i"}
# The characters of the patterns below in their traditional form.
_PLAIN |= {
    ord(traditional): simplified
    for traditional, simplified in zip(
        "選為應該錯誤對確項萬億個與於約過終擇則還負",
        "选为应该错误对确项万亿个与于约过终择则还负",
        strict=True,
    )
}
_WANTED = r"(?=\W{0,6}(?:boxed\W{0,2}|text\W{0,2})?[A-E](?![A-Za-z]))"
_SCRIPT = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
_ABROAD_WORDS = ("respuesta", "réponse", "antwort", "risposta", "resposta", "ответ")
_ABROAD = (
    rf"\b(?:{'|'.join(_ABROAD_WORDS)})\b"
    r"(?:\s+(?:correcta|correcte|corretta|correta|final|finale))?"
)
# Longer words first: "不是" before "是".
_ANNOUNCED_ABROAD = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (rf"{_ABROAD}\s+(?:no|non|não|не|n')\s?(?:es|è|é|est)?\b", "the answer is not "),
        (
            rf"{_ABROAD}\s*(?::|—|\b(?:es|est|ist|è|é)\b)(?:\s+(?:nicht|pas)\b)",
            "the answer is not ",
        ),
        (rf"{_ABROAD}\s*(?::|—|\b(?:es|est|ist|è|é)\b)\s*:?", "the answer is "),
    )
)
_CHINESE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
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
    r"<[|｜](?:start_header_id|im_start|start|start_of_role)[|｜]>\s*assistant\s*"
    r"(?:<[|｜](?:end_header_id|im_sep|end_of_role)[|｜]>)?"
    r"|<start_of_turn>\s*model\b|<[|｜](?:assistant|CHATBOT_TOKEN|channel|message|begin[a-z▁_]*"
    r"|startoftext|im_sep)[|｜]>(?:\s*(?:analysis|commentary)\s*<[|｜]message[|｜]>)?"
    r"|\A\s*<s>|<(?:bos|pad|unk)>|\[PAD\]",
    re.IGNORECASE,
)
_FINAL_CHANNEL = "<|channel|>final<|message|>"
_TURN_END = re.compile(
    rf"<[|｜]{_NAME}[|｜]>|\[\|{_NAME}\|\]"
    r"|</s>|<(?:eos|eod|eot|eoa|eom|end|EOS|EOT|end_of_turn|end_of_utterance|start_of_turn)>"
    r"|\[(?:EOS|/?INST|end of text)\]"
)
_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_MARKUP = re.compile(r"<(b|strong|em|i|u)>([^<>]{0,200})</\1>")
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*+)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)


def last_turn(text: str) -> str:
    """What the model says in its turn, behind what it thinks, up to the token that ends the turn.

    Text behind such a token is another turn, which the model made up.
    """
    if _FINAL_CHANNEL in text:
        text = text.rpartition(_FINAL_CHANNEL)[2]
    text = _OPENING.sub("\n", text)
    text = next((part for part in _TURN_END.split(text) if part.strip()), "")
    *_, said = _THOUGHT.split(text)
    return _MARKUP.sub(r"\2", said if said.strip() else text)


def tagged(text: str) -> str | None:
    """What the last `<answer>...</answer>` of a text holds; None without one."""
    held = _ANSWER.findall(text)
    return held[-1].strip() if held else None


def plain(text: str) -> str:
    """A text without full-width characters, whose announcements of an answer are in English.

    Chinese is read for what says whether something is the answer, and for its numbers; other
    languages for "the answer is" alone.
    """
    if not text.isascii():
        text = text.translate(_PLAIN)
        for pattern, replacement in _CHINESE:
            text = pattern.sub(replacement, text)
        text = _MYRIAD.sub(_written_out, _NUMERAL.sub(_in_digits, text))
        text = _COUNTED.sub("", text)
        text = _BETWEEN_SCRIPTS.sub(" ", text)
    lower = text.lower()
    if any(word in lower for word in _ABROAD_WORDS):
        for pattern, replacement in _ANNOUNCED_ABROAD:
            text = pattern.sub(replacement, text)
    return text


def _written_out(found: re.Match[str]) -> str:
    """The number of "1.5万"."""
    return f"{Decimal(found[1].replace(',', '')) * _MYRIADS[found[2]]:f}"


def _in_digits(found: re.Match[str]) -> str:
    """The number of "十八"."""
    total = digit = 0
    for character in found[0].strip():
        if character in _DIGITS:
            digit = _DIGITS[character]
        else:
            total, digit = total + (digit or 1) * _TENS[character], 0
    return str(total + digit)
