"""One answer in many forms of each kind, with the references that it must not be right for.

`VARIANTS` has the forms that say the answer, `REFUSED` those that look like it and do not.
"""

from typing import NamedTuple


class Variants(NamedTuple):
    """Outputs that give one answer.

    Attributes:
      benchmark: a name of `ANSWER_KINDS`.
      reference: the answer.
      tempting: references of other answers, all wrong for every output.
      outputs: what models write.
    """

    benchmark: str
    reference: str
    tempting: tuple[str, ...]
    outputs: list[str]


def boxed(*contents):
    """Each in a box."""
    return [f"\\boxed{{{content}}}" for content in contents]


def filled(forms, values):
    """Every form with every value for its @."""
    return [form.replace("@", value) for form in forms for value in values]


_SIGNS = ("x", "X", "×", "\\times ", "*", "·", "\\cdot ", "✕", "∗", "⋅")
_APPROXIMATE = ("=", "= ", "==", "≈", "≈ ", "\\approx ", "~", "∼", "\\sim ", "≅", "\\simeq ", "＝")
_ARROWS = ("->", "=>", "→ ", "\\Rightarrow ", "about ", "approximately ", "roughly ", "around ")
_TURN_ENDS = (
    *("</s>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<eos>", "<end_of_turn>", "<|end|>"),
    *("<｜end▁of▁sentence｜>", "<|end_of_text|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "<|eot|>"),
    *("<|eom_id|>", "[EOS]", " [end of text]", "[|endofturn|]", "<|user|>", "<pad>", "</s></s>"),
    "<|im_end|>\n<|im_start|>user\nAnd 3 + 4?<|im_end|>\n<|im_start|>assistant\n7",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThe answer is C. Or 7?",
)
_OPENINGS = (
    *("<s>", "<bos>", "<|begin_of_text|>", "<|im_start|>assistant\n", "<start_of_turn>model\n"),
    *(
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<｜Assistant｜>",
        "<think>7\n</think>\n",
    ),
    "<|channel|>analysis<|message|>Is it 7? C?<|end|><|start|>assistant<|channel|>final<|message|>",
)
_ASIDES = (
    *("(9*2=18)", "(= 9 * 2)", "(9 × 2 = 18)", "(9 x 2 = 18)", "(since 9 * 2 = 18)", "(=9*2)"),
    *(
        "(9 eggs x $2 = $18)",
        "(i.e. 9 * 2 = 18)",
        "(16 - 7 = 9, 9 * 2 = 18)",
        "(= $18)",
        "(x = 18)",
    ),
    *("(= 12 + 6)", "(= 2 * (4 + 5))", "(= 2 × 9 eggs)", "(36 ÷ 2 = 18)", "(≈ 18)", "(= 36/2)"),
)
_HELD = (
    *("@", " @ ", "\n@\n", "The answer is @.", "\\boxed{@}", "**@**", "Answer: @", "#### @", "$@$"),
    *("Final answer: $@$", "\\[ @ \\]", "So it is:\n\\boxed{\\boxed{@}}"),
)
_TAGGED = (
    *(
        "<answer>@</answer>",
        "<think>20? A?</think><answer>@</answer>",
        "<answer>@</answer><|im_end|>",
    ),
    *("My answer is in <answer> tags.\n<ANSWER>@</ANSWER>", "<answer>C</answer><answer>@</answer>"),
)
_BASE_TWO = (
    *("1010_2", "1010_{2}", "1010_{\\text{2}}", "1010_{\\mathrm{two}}", "(1010)_2", "1010_{(2)}"),
    *(
        "1010\\,_2",
        "1010\\;_{2}",
        "1010\\text{ (base 2)}",
        "1010 \\text{ base } 2",
        "\\text{1010}_2",
    ),
    *("1010 in base 2", "{1010}_{2}", "1010₂", "01010_2", "x=1010_2", "10_{10}=1010_2", "0b1010"),
    *("\\left(1010\\right)_2", "1010_\\text{two}", "1010_{ 2 }", "1010 (binary)"),
)
_BASE_SIXTEEN = (
    *("2A_{16}", "2\\text{A}_{16}", "\\text{2A}_{16}", "2\\mathrm{A}_{16}", "2a_{16}", "0x2A"),
    *("\\mathrm{2A}_{16}", "2A_{\\text{sixteen}}", "(2A)_{16}", "2A\\text{ (base 16)}"),
)
_CHINESE = (
    *(
        "答案是@",
        "答案是@。",
        "答案为@",
        "答案：@",
        "所以答案是@。",
        "因此，答案为@。",
        "正确答案是@",
    ),
    *(
        "最终答案：@",
        "故答案为：@",
        "答案应该是@。",
        "答案是：@",
        "答案為@",
        "所以，答案是**@**。",
        "【答案】@",
    ),
    *(
        "答案是 \\boxed{@}。",
        "答えは@です。",
        "정답은 @입니다.",
        "La respuesta es @.",
        "Antwort: @",
    ),
    *("Die richtige Antwort ist @.", "La bonne réponse est @.", "Ответ: @", "A resposta é @"),
)
_CHINESE_LETTERS = (
    *(
        "选@",
        "故选@",
        "故选：@",
        "应选@",
        "所以选@",
        "所以选择 @。",
        "因此选择@",
        "选择@选项",
        "我选@",
    ),
    *(
        "选项@正确",
        "@是正确的",
        "@正确",
        "正确选项是@",
        "故选（@）",
        "答案选@",
        "故选$@$",
        "故選@",
        "不选A，选@",
    ),
    *("A太小，C太大，所以选@", "A错误，@正确。", "答案是@，因为A太小", "故正确答案为 @. 12"),
)
_LETTERS = (
    *(
        "b) 12",
        "b. 4",
        "(b) 12",
        "b: 12",
        "b)12",
        "B)12",
        "b",
        "The answer is b) 12 cm",
        "#### b) 12",
    ),
    *("The answer is b. 12", "b) None of these", "b) 12\n\nExplanation: a) is too small.", "[B]"),
    *("I would pick B — because it fits", "I would pick B – it fits", "I'd go with B", "[[B]]"),
    *(
        "I'd go with option B",
        "I would go with (B).",
        "I pick B because it fits",
        "I pick B - it fits",
    ),
    *(
        "I think it's B.",
        "I think it is B",
        "It's B.",
        "My pick is B",
        "My final choice: B",
        "B - 12",
    ),
    *("I'd say B.", "I opt for B.", "We settle on B.", "Going with B.", "I mark B.", "B — it fits"),
    *("Option 2", "The answer is option 2", "The second option", "I choose option 2.", "Choice 2"),
    *("Option two", "Option #2", "Option (2)", "**Option 2**", "the second choice", "<b>B</b>"),
    *("Final verdict: [[B]]", "Answer: B\nConfidence: 90%", "Ans: B", "\\boxed{\\mathbf{(B)}}"),
)
_OPTIONS = (
    *(
        "(Option 2)",
        "Option two",
        "Option #2",
        "Option (2)",
        "option number 2",
        "the second option",
    ),
    *("\\boxed{\\text{Option 2}}", "I choose Option 2.", "I'd go with Option 2", "Option 2: 12 cm"),
    *("Choice 2", "I would pick Option 2 — because it is heavier", "<answer>Option 2</answer>"),
)
_DOZEN = (
    *(
        "a dozen, 12",
        "12, a dozen",
        "a dozen (12)",
        "12 (a dozen)",
        "twelve, 12",
        "a dozen, i.e. 12",
    ),
    *("a dozen or 12", "a dozen — 12", "a dozen, that is, 12", "a dozen: 12", "one dozen, 12"),
    *("a dozen eggs, 12", "a dozen, or 12 eggs", "a dozen, namely 12", "a dozen = 12"),
)
_UNION = (
    *(
        "x<-2 \\text{ or } x>2",
        "x < -2 or x > 2",
        "x>2 \\text{ or } x<-2",
        "|x|>2",
        "x<-2 \\lor x>2",
    ),
    *("x \\in (-\\infty,-2)\\cup(2,\\infty)", "x < -2 \\quad\\text{or}\\quad x > 2"),
    "(-\\infty,-2) \\text{ or } (2,\\infty)",
)
_SEVEN = (
    *("\\color{red}{7}", "{\\color{red}7}", "\\textcolor{blue}{7}", "\\bm{7}", "\\underline{7}"),
    *("\\mathit{7}", "\\boldsymbol{7}", "𝟕", "７"),
)
_GSM8K = ("#### 20", "#### 1", "#### 9", "#### 2", "#### -18", "#### 7")

VARIANTS = {
    "times signs": Variants(
        "gsm8k",
        "#### 18",
        _GSM8K,
        filled(
            [
                "The answer is 9 @ 2 = 18.",
                "#### 9@2 = 18",
                "The answer is 9 eggs @ 2 dollars = 18 dollars.",
                "She makes 9 @ 2 = $18 a day.",
                "The answer is (4 + 5) @ 2 = 18",
                "The answer is 1.5 @ 12 = 18",
            ],
            _SIGNS,
        ),
    ),
    "leading signs": Variants(
        "gsm8k",
        "#### 18",
        _GSM8K,
        filled(["#### @18", "The answer is @18.", "@18"], _APPROXIMATE + _ARROWS),
    ),
    "leading signs of expressions": Variants(
        "math",
        "2\\sqrt{3}",
        ("2\\sqrt{5}", "3\\sqrt{2}", "-2\\sqrt{3}"),
        boxed(*filled(["@2\\sqrt{3}"], _APPROXIMATE)),
    ),
    "asides in brackets": Variants(
        "gsm8k",
        "#### 18",
        _GSM8K,
        filled(["#### 18 @", "The answer is $18 @.", "**Answer: 18 dollars @**"], _ASIDES),
    ),
    "ends of turns": Variants(
        "gsm8k",
        "#### 18",
        _GSM8K,
        filled(["#### 18@", "The answer is 18.@", "She has 18 @", "\\boxed{18}\n@"], _TURN_ENDS),
    ),
    "ends of turns behind letters": Variants(
        "aqua", "B", ("A", "C"), filled(["Answer: B@", "(B) 12 @", "B@"], _TURN_ENDS)
    ),
    "starts of turns": Variants("aqua", "B", ("A", "C"), [opening + "B" for opening in _OPENINGS]),
    "answer tags around numbers": Variants(
        "gsm8k", "#### 18", _GSM8K, filled(filled(_TAGGED, _HELD), ["18"])
    ),
    "answer tags around fractions": Variants(
        "math",
        "\\frac12",
        ("\\frac13", "2", "20"),
        filled(filled(_TAGGED, _HELD), ["\\frac{1}{2}"]),
    ),
    "answer tags around letters": Variants(
        "aqua", "B", ("A", "C"), filled(filled(_TAGGED, _HELD), ["B", "\\text{(B)}"])
    ),
    "answers in Chinese and other languages": Variants(
        "gsm8k",
        "#### 18",
        _GSM8K,
        [*filled(_CHINESE, ["18", "１８", "18个苹果", "$18$"]), "答案是十八个。"],
    ),
    "letters in Chinese and other languages": Variants(
        "aqua", "B", ("A", "C"), filled(_CHINESE + _CHINESE_LETTERS, ["B", "Ｂ"])
    ),
    "full-width characters": Variants(
        "gsm8k", "#### -1200.5", ("#### 1200.5", "#### -1200", "#### 5"), ["#### －１，２００．５"]
    ),
    "letters": Variants("mmlu_math", "B", ("A", "C", "D"), list(_LETTERS)),
    "options by number": Variants("numglue", "Option 2", ("Option 1", "2"), list(_OPTIONS)),
    "numbers said twice": Variants(
        "gsm8k",
        "#### 12",
        ("#### 1", "#### 13", "#### 24", "#### 144"),
        filled(["The answer is @.", "#### @"], _DOZEN),
    ),
    "base 2": Variants("math", "1010_{2}", ("1011_2", "1010_3", "1010", "10"), boxed(*_BASE_TWO)),
    "base 16": Variants("math", "2\\text{A}_{16}", ("2B_{16}", "42", "2A"), boxed(*_BASE_SIXTEEN)),
    "unions": Variants(
        "math",
        "(-\\infty, -2) \\cup (2, \\infty)",
        ("(-2, 2)", "(-\\infty, -2] \\cup (2, \\infty)", "(2, \\infty)"),
        boxed(*_UNION),
    ),
    "markup": Variants("math", "7", ("8", "77"), boxed(*_SEVEN)),
    "imaginary unit": Variants(
        "math",
        "3+2i",
        ("3-2i", "3", "2+3i", "5i"),
        boxed("3+2\\mathrm{i}", "3+2\\text{i}", "2\\operatorname{i}+3", "3+2{\\rm i}", "5-2(1-i)"),
    ),
    "Euler's number": Variants(
        "math",
        "\\frac{e-1}{2}",
        ("\\frac{e+1}{2}", "\\frac{1}{2}", "e-1"),
        boxed(
            "\\frac{\\mathrm{e}-1}{2}", "\\frac{\\text{e}-1}{2}", "\\frac{1}{2}(\\mathrm{e} - 1)"
        ),
    ),
    "logarithms": Variants(
        "math",
        "3\\ln 2",
        ("3\\ln 3", "\\ln 6", "3\\log 2", "3", "\\ln 2"),
        boxed(
            "\\ln 8", "\\mathrm{ln}\\,8", "\\operatorname{ln}(8)", "\\ln 2 + \\ln 4", "{\\rm ln} 8"
        ),
    ),
    "logarithms to a base": Variants(
        "math",
        "\\log_2 3",
        ("\\log_3 2", "\\ln 3", "\\log 3"),
        boxed("\\frac{\\ln 3}{\\ln 2}", "\\mathrm{log}_2 3", "\\log_{2}{3}", "\\log_4 9"),
    ),
    "values that are not worked out": Variants(
        "math",
        "10",
        ("11", "73", "2", "5"),
        boxed("7+3", "2\\cdot 5", "\\binom{5}{2}", "3^2+1", "\\frac{5!}{12}", "\\sqrt{100}")
        + boxed("\\log_2 1024", "x = 7 + 3", "10e^0", "2 x 5"),
    ),
}

# Benchmark, reference, outputs that are all wrong.
REFUSED = {
    "bounds and denials with signs": (
        "gsm8k",
        "#### 18",
        filled(
            ["#### @18", "The answer is @18.", "\\boxed{@18}"],
            ["\\ge ", "≥", "<", "≠", "±", "more than ", "at least ", "up to ", "-", "not ", "<= "],
        ),
    ),
    "products": (
        "gsm8k",
        "#### 18",
        ["#### 9 x 2", "#### 9X2", "#### 2X = 18", "#### 18x", "9 × 2"],
    ),
    "factors": ("gsm8k", "#### 2", ["#### 9 x 2", "The answer is 9 x 2.", "She makes 9 x 2"]),
    "asides that say another value": (
        "gsm8k",
        "#### 18",
        [
            f"#### 18 {aside}"
            for aside in (
                "(9*3=27)",
                "(= 9 * 3)",
                "(= 20)",
                "(or 9*2 = 20)",
                "(= 18 or 20)",
                "(x = 20)",
            )
        ],
    ),
    "answer tags around something else": (
        "gsm8k",
        "#### 18",
        [
            *("<answer></answer>", "18 <answer>20</answer>", "<answer>20</answer> or 18"),
            *("<answer>5 or 18</answer>", "<answer>not 18</answer>", "<answer>12+6</answer>"),
        ],
    ),
    "other answers in Chinese": (
        "gsm8k",
        "#### 18",
        [
            "答案不是18",
            "答案是5或18",
            "答案是大于18",
            "答案是至少18",
            "答案不是18，是20",
            "答案是18多",
        ],
    ),
    "articles": (
        "aqua",
        "A",
        [
            *(
                "The answer is a 12 cm rod",
                "a 12 cm rod",
                "A rod of 12 cm",
                "A 12 cm rod",
                "a dozen",
            ),
            *("I'd go with a 12 cm rod", "It's a 12 cm rod.", "I would pick a red one", "e.g. 12"),
            *("The answer is a dozen", "Answer: a 12 cm rod", "I'd say a dozen.", "12 a.m."),
        ],
    ),
    "letters that are denied, listed or left open": (
        "aqua",
        "B",
        [
            *(
                "I would not pick B.",
                "I wouldn't pick B — it is too small",
                "If I pick B, it is 3.",
            ),
            *(
                "a) or b)",
                "b) or c)",
                "a) 5\nb) 6\nc) 7",
                "(a) 5 (b) 6",
                "不选B",
                "答案是A或B",
                "B错误",
            ),
            *("a) Compute 9*2.\nb) Then add 3 to it.", "选A或B", "选项B不对", "Don't choose B."),
        ],
    ),
    "numbers that are no options": (
        "aqua",
        "B",
        ["2", "(2)", "Option 1 or 2", "Option 2 or 3", "Not option 2", "Option 22", "Option 2.5"],
    ),
    "two numbers": (
        "gsm8k",
        "#### 12",
        ["The answer is a dozen, 13", "#### a dozen or 10", "#### two dozen, 12", "#### 12, 13"],
    ),
    "other bases": (
        "math",
        "1010_2",
        boxed("1010", "10", "1010_3", "1011_2", "-1010_2", "10100_2", "12_8", "1010_2+1"),
    ),
    "other sets": (
        "math",
        "(-\\infty, -2) \\cup (2, \\infty)",
        boxed(
            "x<-2", "x\\le -2 \\text{ or } x>2", "x<-2 \\text{ and } x>2", "x<-2 \\text{ or } y>2"
        ),
    ),
    "other values that are not worked out": (
        "math",
        "5",
        boxed(
            "2x = 10",
            "x+5",
            "5x",
            "10/0",
            "7+3",
            "5:1",
            "5!",
            "5 5",
            "2^{5}",
            "5+",
            "2(3)",
            "(2)(3)",
            "{2}3",
        ),
    ),
    "sums where the protocol is exact match": ("deepmind", "18", ["36/2", "9*2", "12 + 6", "18/1"]),
    "sums where the protocol reads one number": (
        "gsm8k",
        "#### 18",
        ["#### 9*2", "#### 12+6", "#### 2^4+2"],
    ),
}

# Values that differ by less than a double can say, each pair wrong both ways.
CLOSE = [
    ("\\frac{1}{2006!}", "\\frac{1}{2004!}"),
    ("\\frac{30!}{28!}", "\\frac{30!}{29!}"),
    ("(5/6)^{200}", "(5/6)^{201}"),
    ("e^{-50}", "e^{-60}"),
    ("1-2^{-98}", "1-2^{-99}"),
    ("10^{-20}", "10^{-21}"),
    ("\\frac{1}{10^{20}}", "0"),
    ("\\binom{100}{50}/2^{100}", "\\binom{100}{49}/2^{100}"),
    ("\\sqrt{2}+2^{-3000}", "\\sqrt2"),
    ("\\pi+10^{-40}", "\\pi"),
    ("e^{\\pi\\sqrt{163}}", "262537412640768744"),
    ("\\ln(1+10^{-40})", "0"),
    ("\\cos(10^{-40})", "1"),
    ("\\sqrt{1+10^{-60}}", "1"),
    ("\\arctan(10^{50})", "\\frac{\\pi}{2}"),
    ("100!+1", "100!"),
    ("3^{400}", "3^{401}"),
    ("10^{10^{10}}+1", "10^{10^{10}}"),
    ("x+10^{-30}", "x"),
    ("(x+1)(x+10^{-30})", "x(x+1)"),
    ("(5/6)^{200}x", "(5/6)^{201}x"),
    ("y=x+10^{-30}", "y=x"),
    ("x>10^{-30}", "x>0"),
    ("(0,10^{-20})", "(0,10^{-21})"),
    ("(0,e^{-50})", "(0,e^{-60})"),
    ("\\{1+e^{-50}, 7\\}", "\\{1+e^{-60}, 7\\}"),
    ("x>e^{-50}", "x>e^{-60}"),
    ("y=e^{-50}x", "y=e^{-60}x"),
    ("\\{10^{-20}, 1\\}", "\\{10^{-21}, 1\\}"),
    ("\\begin{pmatrix}10^{-30}\\\\0\\end{pmatrix}", "\\begin{pmatrix}0\\\\0\\end{pmatrix}"),
    ("0.1+0.2", "0.30000000000000004"),
]
# Values that are equal, each pair right both ways.
EQUAL = [
    ("\\frac{1}{2006!}", "\\frac{1}{2006\\cdot 2005!}"),
    ("\\frac{30!}{28!}", "870"),
    ("2^{1000000}", "4^{500000}"),
    ("e^{-50}", "\\frac{1}{e^{50}}"),
    ("\\sqrt{3+2\\sqrt2}", "1+\\sqrt2"),
    ("\\frac{1+\\sqrt5}{4}", "\\cos\\frac{\\pi}{5}"),
    ("\\frac{n!}{(n-2)!}", "n^2-n"),
    ("\\ln(x^2)", "2\\ln x"),
    ("1+2i-1", "2i"),
    ("i^2+x", "x-1"),
    ("\\sqrt{x^2}", "|x|"),
    ("1024", "2^{10}"),
    ("120", "5!"),
]
