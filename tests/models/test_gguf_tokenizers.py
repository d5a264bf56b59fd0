"""Tokenizers of GGUF files against the same ones in a tokenizer.json."""

import json

import gguf
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from partitionsel_jax import data
from partitionsel_jax.models.pretrained import gguf_conversion, gguf_header
from partitionsel_jax.models.pretrained.description import Fields
from tests.data import checkpoints

PRE = {"qwen2": "qwen2", "llama3": "llama-bpe"}
TEXTS = [entry["text"] for entry in checkpoints.VALUES["qwen2"]["strings"]]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def vocabulary(family):
    """tokens, their types and merges of a golden tokenizer, as a converter writes them."""
    definition = checkpoints.files(family)["tokenizer.json"]
    ids = dict(definition["model"]["vocab"])
    kinds = dict.fromkeys(ids.values(), gguf.TokenType.NORMAL)
    for token in definition["added_tokens"]:
        ids[token["content"]] = token["id"]
        special = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        kinds[token["id"]] = special
    merges = [m if isinstance(m, str) else " ".join(m) for m in definition["model"]["merges"]]
    # The embedding is wider than the vocabulary, and converters fill it up.
    ids |= {f"[PAD{i}]": i for i in range(len(ids), len(ids) + 4)}
    tokens = sorted(ids, key=ids.__getitem__)
    return tokens, [kinds.get(i, gguf.TokenType.UNUSED) for i in range(len(tokens))], merges


def write(path, family="qwen2", pre=None, leave_out=(), **fields):
    """A GGUF file with the golden vocabulary of a family, and fields changed or left out."""
    tokens, kinds, merges = vocabulary(family)
    known = {
        "model": "gpt2",
        "pre": pre or PRE[family],
        "tokens": tokens,
        "token_type": [int(kind) for kind in kinds],
        "merges": merges,
        "eos_token_id": tokens.index(checkpoints.golden(family).eos_token),
        "bos_token_id": tokens.index(checkpoints.golden(family).bos_token or "<|endoftext|>"),
    } | fields
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in known.items():
        if name in leave_out:
            continue
        key = "tokenizer.chat_template" if name == "chat_template" else f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def load(path):
    """The tokenizer that a file's conversion has."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    gguf_conversion.write_tokenizer(Fields(gguf_header.read(path)[0], str(path)), folder)
    return data.load_tokenizer(folder)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("family", PRE)
def test_ids_are_those_of_the_tokenizer_json(path, family):
    expected = checkpoints.golden(family)
    template = expected.chat_template
    tokenizer = load(write(path, family, chat_template=template))
    for text in TEXTS:
        assert tokenizer.encode(text) == expected.encode(text)
        assert tokenizer.encode_markup(text) == expected.encode_markup(text)
        assert tokenizer.decode(expected.encode_markup(text)) == expected.decode(
            expected.encode_markup(text)
        )
    messages = [{"role": "user", "content": "a <|im_end|>, a <|eot_id|>"}]
    assert tokenizer.chat(messages) == expected.chat(messages)
    for name in ("bos_id", "eos_id", "turn_end_id", "stop_ids", "special_ids", "vocab_size"):
        assert getattr(tokenizer, name) == getattr(expected, name)


@pytest.mark.parametrize(
    ("pre", "steps"),
    [
        ("smollm", [pre_tokenizers.Digits(individual_digits=True)]),
        ("gpt-2", []),
        ("default", []),
    ],
)
def test_text_is_split_as_the_family_does(path, pre, steps):
    tokens, _, merges = vocabulary("qwen2")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]
        )
    )
    expected.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    expected.decoder = decoders.ByteLevel()
    tokenizer = load(write(path, pre=pre))
    for text in TEXTS:
        if "tool_call" not in text:
            assert tokenizer.encode(text) == expected.encode(text).ids
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_families_split_text_in_ways_that_can_be_told_apart(tmp_path):
    """Merges that only one of the splits allows show which one it was."""
    tokens, kinds, merges = vocabulary("qwen2")
    new = ["12", "123", "'S", "Ġ1"]
    tokens += new
    kinds += [gguf.TokenType.NORMAL] * len(new)
    merges += ["1 2", "12 3", "' S", "Ġ 1"]
    fields = {"tokens": tokens, "token_type": [int(k) for k in kinds], "merges": merges}
    found = {}
    for pre in ("smollm", "llama-bpe", "qwen2", "gpt-2"):
        path = write(tmp_path / f"{pre}.gguf", pre=pre, add_bos_token=False, **fields)
        tokenizer = load(path)
        parts = ([tokenizer.decode([i]) for i in tokenizer.encode(t)] for t in ("1234", "'S", " 1"))
        found[pre] = tuple("|".join(part) for part in parts)
    assert found == {
        "smollm": ("1|2|3|4", "'|S", " |1"),
        "llama-bpe": ("123|4", "'S", " |1"),
        "qwen2": ("1|2|3|4", "'S", " |1"),
        "gpt-2": ("123|4", "'|S", " 1"),
    }


# What is changed in a file of either family, then: whether rows begin with the bos token, and the
# tokens that end answers.
RULE = {
    "qwen2": ("qwen2", {}, False, ["<|im_end|>"]),
    "qwen2 with bos": ("qwen2", {"add_bos_token": True}, True, ["<|im_end|>"]),
    "smollm": ("qwen2", {"pre": "smollm"}, False, ["<|im_end|>"]),
    "llama-bpe": ("llama3", {}, True, ["<|eot_id|>"]),
    "llama-bpe without bos": ("llama3", {"add_bos_token": False}, False, ["<|eot_id|>"]),
    "a base model with a template": (
        "qwen2",
        {"eos_token_id": 366, "chat_template": CHATML},
        False,
        ["<|endoftext|>", "<|im_end|>"],
    ),
    "an end of turn": (
        "llama3",
        {"eos_token_id": 368, "eot_token_id": 373},
        True,
        ["<|end_of_text|>", "<|eot_id|>"],
    ),
}


@pytest.mark.parametrize("case", RULE)
def test_rows_begin_and_end_by_the_rule(path, case):
    family, fields, begins, stops = RULE[case]
    tokenizer = load(write(path, family, **fields))
    bos = checkpoints.named(tokenizer, checkpoints.golden(family).bos_token or "<|endoftext|>")
    assert tokenizer.bos_id == (bos[0] if begins else None)
    assert list(tokenizer.stop_ids) == checkpoints.named(tokenizer, *stops)


def test_padding_is_the_files_or_the_end(tmp_path):
    for number, fields in enumerate(({}, {"padding_token_id": 366})):
        tokenizer = load(write(tmp_path / f"{number}.gguf", **fields))
        assert tokenizer.pad_id == fields.get("padding_token_id", tokenizer.eos_id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, r"tokenizer\.ggml\.model='llama' is not supported \(expected gpt2\)"),
        (
            {"pre": "deepseek-llm"},
            r"tokenizer\.ggml\.pre='deepseek-llm' is not supported \(expected gpt-2,",
        ),
        ({"leave_out": ["pre"]}, r"tokenizer\.ggml\.pre=None is not supported"),
        ({"leave_out": ["model"]}, r"tokenizer\.ggml\.model=None is not supported"),
        ({"leave_out": ["tokens"]}, r"lacks tokenizer\.ggml\.tokens"),
        ({"leave_out": ["merges"]}, r"lacks tokenizer\.ggml\.merges"),
        ({"leave_out": ["eos_token_id"]}, r"lacks tokenizer\.ggml\.eos_token_id"),
        ({"eos_token_id": 10_000}, r"tokenizer\.ggml\.eos_token_id=10000 is not one of the 376"),
        ({"add_bos_token": 1}, r"tokenizer\.ggml\.add_bos_token=1 where a value .* bool"),
        ({"token_type": [1, 1]}, "expected 376 token types, got 2"),
        ({"merges": [1]}, r"expected tokenizer\.ggml\.merges to hold values of type str"),
        ({"merges": ["Ġ nothing"]}, "cannot be read .*out of vocabulary"),
        (
            {"add_bos_token": True, "leave_out": ["bos_token_id"]},
            "begin with the bos token, and none is named",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_file_and_value(path, changes, message):
    with pytest.raises(ValueError, match=rf"model.*{message}"):
        load(write(path, **changes))


def test_damaged_files_are_refused_by_name(path):
    with pytest.raises(ValueError, match=r"model\.gguf is missing"):
        load(path)
    whole = write(path).read_bytes()
    for damaged in (whole[:1000], b"", b"text", json.dumps({}).encode()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.gguf cannot be read .*fetch it again"):
            load(path)
