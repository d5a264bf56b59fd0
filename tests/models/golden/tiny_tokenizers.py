"""Tiny tokenizers laid out as those of Qwen2.5-Instruct and Llama-3.2-Instruct are on the hub.

Only the vocabulary is small: the regular expressions, normaliser, decoder, post-processor, special
tokens and the text that the chat templates render are those of the families (without tools). Each
directory stores things in one of the ways that the hub has: Qwen keeps the template in
tokenizer_config.json and its merges as strings; Llama keeps it in chat_template.jinja, its merges
as pairs, and has a first token that both the template and the post-processor add.
"""

import json
import pathlib
import shutil
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

MERGES = 110

TEXT = (
    """
A minibatch is a small set of examples, and the gradient of a minibatch is the mean of theirs. Which
examples should the next minibatch have? The simplest answer is to draw them at random, and that is
hard to beat: random examples are unbiased, and they cost nothing to choose. Another answer is to
look at a larger pool, to compute something about every example in the pool, and to keep those whose
gradients together match the gradient of the pool. The user asks a question and the assistant gives
an answer; the system says what kind of answer is wanted. You are a helpful assistant. Thank you!
It's the first of the month, and they'll be here by 10:30. I don't know what you've seen, but we're
sure that 2 + 2 = 4, that 12 * 12 = 144, and that 100 is larger than 99. In 1969 people walked on
the moon; in 2024 the price was 3.50 for one, or 1,234.00 for all of them.

    def add(first, second):
        return first + second

    for number in range(10):
        print(add(number, number + 1))

The café in the old town has crème brûlée, and naïve visitors think that it is the only one there.
The weather is nice when the sun is shining, and the water is warm in the summer. Reading is the
best way of learning how other people think, and writing is the best way of learning how you think.
"""
    * 2
)

# What the hub's files have, except that Llama counts digits in threes.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

QWEN_TEMPLATE = (
    "{%- set default = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}\n"
    "{%- if messages[0]['role'] != 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + default + '<|im_end|>\\n' }}\n"
    "{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)

# Between two blocks no white space is left only where trim_blocks and lstrip_blocks are on, as they
# are in transformers.
LLAMA_TEMPLATE = """{{- bos_token -}}
{% if date_string is not defined %}
    {% if strftime_now is defined %}
        {% set date_string = strftime_now("%d %b %Y") %}
    {% else %}
        {% set date_string = "26 Jul 2024" %}
    {% endif %}
{% endif %}
{% if messages[0]['role'] == 'system' %}
    {% set instruction = messages[0]['content'] | trim %}
    {% set rest = messages[1:] %}
{% else %}
    {% set instruction = "" %}
    {% set rest = messages %}
{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" -}}
{{- "Cutting Knowledge Date: December 2023\\n" -}}
{{- "Today Date: " + date_string + "\\n\\n" -}}
{{- instruction + "<|eot_id|>" -}}
{% for message in rest %}
    {% if message['role'] not in ('user', 'assistant', 'system') %}
        {{- raise_exception("This template has no role " + message['role']) -}}
    {% endif %}
    {{- "<|start_header_id|>" + message['role'] + "<|end_header_id|>\\n\\n" -}}
    {{- message['content'] | trim + "<|eot_id|>" -}}
{% endfor %}
{% if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" -}}
{% endif %}
"""

# name -> is it "special", that is: left out of decoded text.
QWEN_ADDED = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<|object_ref_start|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
}
LLAMA_ADDED = dict.fromkeys(
    (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ),
    True,
)
# No merge makes this one: it is found only by a look-up before the merges ("ignore_merges").
WHOLE = "Ġmatroid"

CHATS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "What is 2+2?"}], "add_generation_prompt": True},
    {"messages": [{"role": "user", "content": "What is 2+2?"}], "add_generation_prompt": False},
    {
        "messages": [
            {"role": "system", "content": "You answer in one word."},
            {"role": "user", "content": "Which month comes after the 31st of January 2024?"},
            {"role": "assistant", "content": "February"},
        ],
        "add_generation_prompt": False,
    },
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi! How can I help?\n\n1. This\n2. That"},
            {"role": "user", "content": "I don't know; naïve cafe\u0301 😀 12345"},
        ],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "  white space on both sides \n\n"},
        ],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "user", "content": "Ignore this: <|im_end|> <|eot_id|> <tool_call>"},
            {"role": "assistant", "content": ""},
        ],
        "add_generation_prompt": True,
    },
)
# Llama's template writes today's date where none is given.
OPTIONS = {"qwen2": {}, "llama3": {"date_string": "26 Jul 2024"}}

STRINGS = (
    "",
    " ",
    "The gradient of a minibatch",
    " leading and trailing ",
    "word   three  spaces",
    "one\ntwo\n\nthree\n\n\nfour\n",
    "a\r\nb \r\n\r\n c",
    "12345 1234567 1,234.50 x12y",
    "It's THEY'LL I'VE don't 'S'tis",
    "naïve café crème brûlée",
    "cafe\u0301 A\u030angstro\u0308m",
    "½ m² ١٢٣",
    "漢字とかな 한국어 Привет",
    "emoji 😀 👩‍🚀 🇫🇷",
    "\ttab\t\ttabs\u00a0nbsp\u2003em",
    "for i in range(10):\n\treturn {'a': i**2}  # done\n",
    "a matroid, the matroids; matroid",
    "said <|im_end|>and<|im_start|> user <|eot_id|> <|begin_of_text|>x",
    "<tool_call>\n{}\n</tool_call>",
    "$x_1^2 + y_{12} \\leq 3.50$",
    "well , spaced ' punctuation ' is n't !",
)


def base(pattern: str) -> tokenizers.Tokenizer:
    """A byte-level BPE over `TEXT`, without special tokens, pre-tokenized by the pattern."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MERGES,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def added(tokenizer: tokenizers.Tokenizer, tokens: dict[str, bool]) -> dict[str, dict[str, Any]]:
    """Adds the tokens after the vocabulary; returns tokenizer_config's added_tokens_decoder."""
    for content, special in tokens.items():
        token = tokenizers.AddedToken(content, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        str(tokenizer.token_to_id(content)): {"content": content, **flags, "special": special}
        for content, special in tokens.items()
    }


def write(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def save_qwen2(directory: pathlib.Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which holds the template."""
    tokenizer = base(PATTERN.replace("DIGITS", ""))
    tokenizer.normalizer = normalizers.NFC()
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    tokenizer.decoder = decoders.ByteLevel()
    table = added(tokenizer, QWEN_ADDED)
    content = json.loads(tokenizer.to_str())
    # The flags of the hub's file; these two classes cannot be told.
    for part in (content["pre_tokenizer"]["pretokenizers"][1], content["decoder"]):
        part |= byte_level
    model = content["model"]
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    del model["ignore_merges"]
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    write(directory / "tokenizer.json", content)
    special = [name for name, is_special in QWEN_ADDED.items() if is_special]
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": table,
        "additional_special_tokens": special[1:],
        "bos_token": None,
        "chat_template": QWEN_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write(directory / "tokenizer_config.json", config)


def save_llama3(directory: pathlib.Path) -> None:
    """Writes tokenizer.json, two configs and chat_template.jinja."""
    tokenizer = base(PATTERN.replace("DIGITS", "{1,3}"))
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"][WHOLE] = len(content["model"]["vocab"])
    content["model"]["ignore_merges"] = True
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    table = added(tokenizer, LLAMA_ADDED)
    first = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{first} $A",
                pair=f"{first} $A {first}:1 $B:1",
                special_tokens=[(first, tokenizer.token_to_id(first))],
            ),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    write(directory / "tokenizer.json", json.loads(tokenizer.to_str()))
    config = {
        "added_tokens_decoder": table,
        "bos_token": first,
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write(directory / "tokenizer_config.json", config)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = {name: {"content": config[name], **flags} for name in ("bos_token", "eos_token")}
    write(directory / "special_tokens_map.json", special)
    (directory / "chat_template.jinja").write_text(LLAMA_TEMPLATE)


def golden(directory: pathlib.Path, options: dict[str, Any]) -> dict[str, Any]:
    """What transformers renders and encodes with a tokenizer directory."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    chats = []
    for chat in CHATS:
        arguments = {"add_generation_prompt": chat["add_generation_prompt"], **options}
        render = tokenizer.apply_chat_template
        text = render(chat["messages"], tokenize=False, **arguments)
        ids = render(chat["messages"], return_dict=False, **arguments)
        chats.append({**chat, "text": text, "ids": ids})
    strings = []
    for text in STRINGS:
        plain, special = (
            tokenizer(text, add_special_tokens=special)["input_ids"] for special in (False, True)
        )
        # By the tokenizers library: transformers would tidy the spaces before punctuation.
        decoded = tokenizer.backend_tokenizer.decode(special, skip_special_tokens=True)
        strings.append(
            {"text": text, "ids": plain, "ids_with_special_tokens": special, "decoded": decoded}
        )
    return {"template_options": options, "chats": chats, "strings": strings}


def make(folder: pathlib.Path) -> dict[str, Any]:
    """Writes `tokenizers/` under `folder`; returns `tokenizers.json`."""
    content = {}
    for name, save in (("qwen2", save_qwen2), ("llama3", save_llama3)):
        directory = folder / "tokenizers" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        save(directory)
        content[name] = golden(directory, OPTIONS[name])
        size = sum(path.stat().st_size for path in directory.iterdir())
        lengths = [len(chat["ids"]) for chat in content[name]["chats"]]
        print(f"{name}: {size} bytes, chats of {lengths} tokens")
    return content
