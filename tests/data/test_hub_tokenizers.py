"""The rule of beginning and end, family by family, and the files that cannot be read."""

import json
import sys

import pytest

from partitionsel_jax import data
from tests.data import checkpoints

BEGIN, EOT, TEXT_END = "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"
IM_START, IM_END, END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TEMPLATE_PROCESSING = checkpoints.files("llama3")["tokenizer.json"]["post_processor"]["processors"][
    1
]
NO_TURN_END = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


def ids(text):
    return {"content": text, "lstrip": False, "normalized": False, "special": True}


# What is changed, then: the token that begins rows, the one that closes a response, the one that
# closes a turn, and all the stops.
RULE = {
    "qwen2": ("qwen2", {}, (None, IM_END, IM_END, [IM_END])),
    "qwen2 base": ("qwen2", {"eos_token": END}, (None, END, IM_END, [END, IM_END])),
    "add_bos_token false": (
        "qwen2",
        {"bos_token": END, "add_bos_token": False},
        (None, IM_END, IM_END, [IM_END]),
    ),
    "add_bos_token true": (
        "qwen2",
        {"bos_token": END, "add_bos_token": True},
        (END, IM_END, IM_END, [IM_END]),
    ),
    "a token as an object": (
        "qwen2",
        {"bos_token": ids(END), "eos_token": ids(IM_END), "add_bos_token": True},
        (END, IM_END, IM_END, [IM_END]),
    ),
    "llama3": ("llama3", {}, (BEGIN, EOT, EOT, [EOT])),
    "the config against the post-processor": (
        "llama3",
        {"add_bos_token": False},
        (None, EOT, EOT, [EOT]),
    ),
    "add_bos_token null": ("llama3", {"add_bos_token": None}, (BEGIN, EOT, EOT, [EOT])),
    "a post-processor without bos": (
        "llama3",
        {"definition": {"post_processor": {"type": "Sequence", "processors": []}}},
        (None, EOT, EOT, [EOT]),
    ),
    "no post-processor": (
        "llama3",
        {"definition": {"post_processor": None}},
        (None, EOT, EOT, [EOT]),
    ),
    "a bare post-processor": (
        "llama3",
        {"definition": {"post_processor": TEMPLATE_PROCESSING}},
        (BEGIN, EOT, EOT, [EOT]),
    ),
    "a post-processor with another token": ("llama3", {"bos_token": "<|eom_id|>"}, (None,)),
    "only the special tokens' map": (
        "llama3",
        {"bos_token": None, "eos_token": None},
        (BEGIN, EOT, EOT, [EOT]),
    ),
    "llama3 with generation_config": (
        "llama3",
        {"generation": {"eos_token_id": [368, 372, 373]}},
        (BEGIN, EOT, EOT, [EOT, TEXT_END, "<|eom_id|>"]),
    ),
    "a single stop in generation_config": (
        "llama3",
        {"eos_token": TEXT_END, "generation": {"eos_token_id": 372}},
        (BEGIN, TEXT_END, EOT, [TEXT_END, EOT, "<|eom_id|>"]),
    ),
    "generation_config without stops": (
        "qwen2",
        {"generation": {"eos_token_id": None}},
        (None, IM_END, IM_END, [IM_END]),
    ),
    "a template without turn ends": (
        "qwen2",
        {"chat_template": NO_TURN_END},
        (None, IM_END, IM_END, [IM_END]),
    ),
    "no template": (
        "qwen2",
        {"chat_template": None, "eos_token": END},
        (None, END, END, [END]),
    ),
    "named templates": (
        "qwen2",
        {
            "eos_token": END,
            "chat_template": [
                {"name": "tool_use", "template": NO_TURN_END},
                {"name": "default", "template": NO_TURN_END.replace("\n", IM_END)},
            ],
        },
        (None, END, IM_END, [END, IM_END]),
    ),
    "a template that cannot be rendered": (
        "qwen2",
        {"chat_template": "{{ raise_exception('no') }}", "eos_token": END},
        (None, END, END, [END]),
    ),
}


@pytest.mark.parametrize("case", RULE)
def test_rows_begin_and_end_by_the_rule(tmp_path, case):
    family, changes, expected = RULE[case]
    tokenizer = data.load_tokenizer(checkpoints.edited(tmp_path, family, **changes))
    begin, *ends = expected
    assert tokenizer.bos_id == (begin and checkpoints.named(tokenizer, begin)[0])
    plain = data.encode_prompt("ab", tokenizer, 30)
    assert plain == checkpoints.named(tokenizer, begin or "") + tokenizer.encode("ab\n")
    if ends:
        end, turn_end, stops = ends
        assert [tokenizer.eos_id] == checkpoints.named(tokenizer, end)
        assert [tokenizer.turn_end_id] == checkpoints.named(tokenizer, turn_end)
        assert list(tokenizer.stop_ids) == checkpoints.named(tokenizer, *stops)


@pytest.mark.parametrize(
    ("family", "changes", "pad"),
    [
        ("qwen2", {}, END),
        ("qwen2", {"pad_token": None}, IM_END),
        ("qwen2", {"pad_token": ids(IM_START)}, IM_START),
        ("qwen2", {"pad_token": "[PAD]"}, IM_END),
        ("llama3", {}, EOT),
    ],
)
def test_padding_falls_back_to_the_end(tmp_path, family, changes, pad):
    tokenizer = data.load_tokenizer(checkpoints.edited(tmp_path, family, **changes))
    assert [tokenizer.pad_id] == checkpoints.named(tokenizer, pad)
    assert tokenizer.vocab_size == checkpoints.golden(family).vocab_size


def test_a_file_of_its_own_is_the_chat_template_before_the_config(tmp_path):
    folder = checkpoints.edited(tmp_path, "llama3", chat_template="other")
    assert data.load_tokenizer(folder).chat_template == checkpoints.golden("llama3").chat_template


def without(name):
    return lambda folder: (folder / name).unlink()


def holding(name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda folder: (folder / name).write_text(text)


def changing(name, **fields):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | fields))

    return change


def as_sentencepiece(folder):
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def cut_short(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])


CONFIG = "tokenizer_config.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("tokenizer.json"), r"tokenizer\.json is missing; save the tokenizer as"),
        (as_sentencepiece, r"tokenizer\.json is missing; .*tokenizer\.model is a SentencePiece"),
        (cut_short, r"tokenizer\.json is no valid JSON .*fetch it again"),
        (holding("tokenizer.json", [1]), r"tokenizer\.json: expected a JSON object, got list"),
        (
            changing("tokenizer.json", post_processor={}),
            r"tokenizer\.json cannot be read \(data did",
        ),
        (holding("tokenizer.json", {}), r"tokenizer\.json cannot be read \(Model missing"),
        (holding(CONFIG, "{"), r"tokenizer_config\.json is no valid JSON"),
        (without(CONFIG), r"tokenizer_config\.json names no eos_token"),
        (changing(CONFIG, eos_token=None), r"tokenizer_config\.json names no eos_token"),
        (changing(CONFIG, eos_token=7), r"tokenizer_config\.json: expected a token's text, got 7"),
        (changing(CONFIG, eos_token="<e>"), r"tokenizer\.json: eos_token '<e>' is not in the voc"),
        (changing(CONFIG, bos_token="<b>"), r"tokenizer\.json: bos_token '<b>' is not in the voc"),
        (changing(CONFIG, add_bos_token=True), "begin with the bos token, and none is named"),
        (changing(CONFIG, add_bos_token="yes"), r"config\.json: expected add_bos_token .* 'yes'"),
        (changing(CONFIG, chat_template=7), r"config\.json: expected chat_template .* got 7"),
        (holding("special_tokens_map.json", "nul"), r"special_tokens_map\.json is no valid JSON"),
        (
            changing(CONFIG, additional_special_tokens=7),
            r"config\.json: expected a list of special tokens, got 7",
        ),
        (
            changing(CONFIG, chat_template=[{"name": ["x"]}, {"name": "default", "template": 3}]),
            r"config\.json: expected chat_template to be text, got 3",
        ),
        (holding(CONFIG, "[" * 100_000), r"tokenizer_config\.json cannot be read .*too deeply"),
        (holding(CONFIG, "9" * 5000), r"tokenizer_config\.json cannot be read"),
        (
            holding("generation_config.json", {"eos_token_id": "2"}),
            r"generation_config\.json: expected eos_token_id to be token ids, got '2'",
        ),
    ],
)
def test_files_that_are_missing_or_damaged_are_refused_by_name(tmp_path, damage, message):
    folder = checkpoints.edited(tmp_path, "qwen2")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        data.load_tokenizer(folder)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    folder = checkpoints.edited(tmp_path, "qwen2")
    (folder / CONFIG).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no text"):
        data.load_tokenizer(folder)


def test_a_bucket_without_the_package_that_reads_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=r"^gs://bucket/model cannot be read .*install gcsfs.*$"):
        data.load_tokenizer("gs://bucket/model")


def test_another_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got '.*nowhere', which does not exist"):
        data.load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "vocab.txt").touch()
    (tmp_path / "m.gguf").touch()
    with pytest.raises(ValueError, match=r"got '.*m\.gguf', .*models\.load reads GGUF files"):
        data.load_tokenizer(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match=r"got '.*vocab\.txt', which is no directory"):
        data.load_tokenizer(str(tmp_path / "vocab.txt"))
