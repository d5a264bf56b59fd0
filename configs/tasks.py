"""The reasoning-gym domains that configs train on.

The byte-level configs have eight tasks from five categories, in rows of 96 bytes. Every task has
at least 2,500 distinct questions, and its prompt and response fit in 96 tokens of the byte
tokenizer with nothing cut. The answers are short and regular: a 0.4M-parameter model has learnt
letter counts, the form of the numbers and most of the worked steps after a few hundred updates of 8
rows, and has only begun with sums, probabilities and reversed words. Bytes are those of a whole
row, special tokens included.

| task               | category    | typical row: prompt -> response                  | mean | max |
|--------------------|-------------|--------------------------------------------------|------|-----|
| basic_arithmetic   | arithmetic  | Calculate ( 6 + -4 ) - 3. -> -1                  |   28 |  47 |
| complex_arithmetic | algebra     | Add the ...: (6.0 - 7.0i) + ... -> -5.00i        |   68 |  77 |
| spell_backward     | algorithmic | Spell ... backward (...): heritor -> rotireh     |   64 |  67 |
| letter_counting    | algorithmic | How many times does ... "r" appear in ... -> 1   |   73 |  96 |
| chain_sum          | arithmetic  | State the final answer to ...: 89 - 55 = -> 34   |   74 |  75 |
| count_bits         | arithmetic  | How many 1 bits ... 342? -> 101010110 #### 5     |   94 |  96 |
| number_sequence    | cognition   | 9, 1, -7, -15, ? -> -23                          |   26 |  40 |
| coin_flip          | probability | ... at least 20 heads in 38 ...? -> 0.4357073397 |   90 |  93 |

`count_bits` is the one with worked steps (the binary digits, then their count); its `max_n` is
about as large as rows of 96 allow. gsm_symbolic, the only task of reasoning-gym with written-out
steps, has rows of 500 to 1,000 bytes.
"""

from typing import Any

QUICKSTART_TASKS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "basic_arithmetic",
        {"min_terms": 2, "max_terms": 3, "max_digits": 1, "operators": ["+", "-"]},
    ),
    ("complex_arithmetic", {"operations": ["+", "-"], "operations_weights": [0.5, 0.5]}),
    ("spell_backward", {"max_word_len": 8}),
    ("letter_counting", {"min_words": 1, "max_words": 3}),
    ("chain_sum", {"min_terms": 2, "max_terms": 2, "max_digits": 2}),
    ("count_bits", {"max_n": 2550}),
    ("number_sequence", {"max_terms": 6, "max_complexity": 1}),
    ("coin_flip", {"min_trials": 2, "max_trials": 50}),
)
