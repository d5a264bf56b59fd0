"""The tiny golden tokenizers, as they are and with single things changed."""

import copy
import json
import pathlib

from hypothesis import strategies as st

from partitionsel_jax import data

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden"
VALUES = json.loads((GOLDEN / "tokenizers.json").read_text())
FAMILIES = ("qwen2", "llama3")

# Text that is rich in whole and in broken special tokens, and in what templates are made of.
_FRAGMENTS = (
    "<|im_end|> <|im_start|> <|eot_id|> <|begin_of_text|> <| |> < > | im_end im_ end eot_id"
)
_OTHERS = ["<|im_", "end|>", " ", "\n", "\u0338", "\ud800", "\U000f0000", "\U0010fffd", "{{", "'"]
TRICKY = st.lists(
    st.sampled_from([*_FRAGMENTS.split(), *_OTHERS]) | st.text(max_size=3), max_size=12
).map("".join)


def directory(family):
    """The golden checkpoint directory of a family."""
    return GOLDEN / "tokenizers" / family


def golden(family):
    """The tokenizer of a family as it is."""
    return data.load_tokenizer(directory(family))


def files(family):
    """file name -> content of the golden directory; JSON is parsed."""
    return {
        path.name: json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()
        for path in directory(family).iterdir()
    }


def write(folder, contents):
    """Writes files, JSON where the content is no text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def edited(folder, family, definition=None, generation=None, **config):
    """A directory like the golden one, with changed fields.

    `definition` changes fields of tokenizer.json, `config` those of tokenizer_config.json, and
    `generation` is the generation_config.json.
    """
    contents = copy.deepcopy(files(family))
    contents["tokenizer.json"] |= definition or {}
    contents["tokenizer_config.json"] |= config
    if generation is not None:
        contents["generation_config.json"] = generation
    return write(folder, contents)


def named(tokenizer, *texts):
    """The ids of special tokens."""
    return [i for text in texts for i in tokenizer.encode_markup(text)]
