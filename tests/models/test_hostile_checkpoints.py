"""Files that are damaged, or made to do harm, are one line that names them, soon and cheaply."""

import copy
import json
import os
import random
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_checkpoints import write_adapter, write_gguf

from partitionsel_jax import models
from partitionsel_jax.models import pretrained
from partitionsel_jax.models.pretrained import adapters

pytestmark = pytest.mark.timeout(60)
SHARD, INDEX = "model-00002-of-00003.safetensors", "model.safetensors.index.json"
ODD = (
    None,
    [],
    {},
    -1,
    10**30,
    float("inf"),
    float("nan"),
    "x",
    True,
    0,
    1.5,
    [[]],
    "\ud800",
    "\n",
)


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint with every small file that there may be."""
    folder = shutil.copytree(pretrained.locate("tiny-llama3.2"), tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 260]}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|eot_id|>"}}')
    return folder


@pytest.fixture
def adapter(tmp_path):
    """The reader of an adapter, and its folder."""
    config = pretrained.describe(pretrained.locate("tiny-llama3.2"))
    write_adapter(tmp_path / "a", config, "owner/name")
    return (lambda folder: adapters.read(folder, config)), tmp_path / "a"


def opened(path):
    """Everything but the weights; the tokenizer is used, too."""
    checkpoint = pretrained.Checkpoint.open(path)
    if checkpoint.has_tokenizer:
        tokenizer = checkpoint.tokenizer
        ids = tokenizer.encode("A <|eot_id|> é\n12")
        assert tokenizer.decode(ids) is not None and tokenizer.stop_ids and tokenizer.pad_id >= 0
    return checkpoint


def loaded(path):
    return opened(path).parameters("float32")


def read_or_refused(read, path):
    """True where a file was read, False where one line said why not."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        assert str(path) in str(error) and "\n" not in str(error), str(error)
        return False
    return True


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def swapped(content, path, value):
    if not path:
        return value
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


def swap_all(read, folder, file, most):
    content = json.loads((folder / file).read_text())
    found = list(places(content))
    outcomes = set()
    for path in random.Random(0).sample(found, min(most, len(found))):
        for value in ODD:
            text = json.dumps(swapped(content, path, value)).replace("Infinity", "1e999")
            (folder / file).write_text(text)
            outcomes.add(read_or_refused(read, folder))
    assert False in outcomes


@pytest.mark.parametrize(
    ("file", "most"),
    [
        ("config.json", 40),
        (INDEX, 8),
        ("tokenizer.json", 12),
        ("tokenizer_config.json", 20),
        ("generation_config.json", 9),
        ("special_tokens_map.json", 9),
    ],
)
def test_any_value_in_any_place_of_a_json_file_is_read_or_refused(tiny, file, most):
    swap_all(opened, tiny, file, most)


def test_any_value_in_any_place_of_an_adapter_s_config_is_read_or_refused(adapter):
    read, folder = adapter
    swap_all(read, folder, "adapter_config.json", 12)


def damage(whole, rng):
    """Bytes changed, cut off, put in, or replaced by what would be a huge or a negative number."""
    data, kind = bytearray(whole), rng.randrange(4)
    place = rng.randrange(min(len(data), 4000))  # where headers are
    if kind == 0:
        data[place] = rng.randrange(256)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    elif kind == 2:
        data[place:place] = rng.randbytes(rng.randrange(1, 9))
    else:
        data[place : place + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << 60)])
    return bytes(data)


@pytest.mark.parametrize("file", [SHARD, INDEX, "config.json", "tokenizer.json", "model.gguf"])
def test_a_damaged_file_is_read_or_refused_by_name(tiny, file):
    path = tiny / file
    if file == "model.gguf":
        write_gguf(path, pretrained.locate("tiny-llama3.2"))
    whole, rng = path.read_bytes(), random.Random(1)
    model = path if file == "model.gguf" else tiny
    outcomes = set()
    for _ in range(60):
        path.write_bytes(damage(whole, rng))
        outcomes.add(read_or_refused(loaded, model))
    assert False in outcomes


def gguf(*fields, tensors=0, count=None):
    """The header of a GGUF file: fields as (name, bytes behind it)."""
    body = b"".join(struct.pack("<Q", len(name)) + name + rest for name, rest in fields)
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(fields) if count is None else count) + body


ARCHITECTURE = (b"general.architecture", struct.pack("<IQ", 8, 5) + b"llama")
NESTED = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000


@pytest.mark.parametrize(
    "content",
    [
        gguf(ARCHITECTURE, (b"x" * 20, struct.pack("<IIQ", 9, 0, 1 << 60))),
        gguf(ARCHITECTURE, (b"x" * 20, struct.pack("<IIQ", 9, 8, 1 << 60))),
        gguf(ARCHITECTURE, (b"x", struct.pack("<IIQ", 9, 8, 1 << 20))),
        gguf(ARCHITECTURE, (b"x", NESTED)),
        gguf(ARCHITECTURE, (b"x", struct.pack("<IQ", 8, 1 << 63))),
        gguf(ARCHITECTURE, (b"x", struct.pack("<I", 77))),
        gguf(ARCHITECTURE, ARCHITECTURE),
        gguf(ARCHITECTURE, count=1 << 60),
        gguf(ARCHITECTURE, tensors=1 << 60),
        gguf(ARCHITECTURE, tensors=1) + struct.pack("<Q1sIIQ", 1, b"t", 0, 0, 0),
        gguf(ARCHITECTURE, tensors=1) + struct.pack("<Q1sI", 1, b"t", 1 << 31),
        gguf(ARCHITECTURE, tensors=1) + struct.pack("<Q1sI4QIQ", 1, b"t", 4, *[1 << 62] * 4, 0, 0),
        gguf(ARCHITECTURE, tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 0, 1 << 63),
        gguf(ARCHITECTURE, tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 999, 0),
    ],
    ids=range(14),
)
def test_a_gguf_header_that_lies_is_refused_at_once(tmp_path, content):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.gguf cannot be read"):
        models.load(path)


def test_a_sparse_gguf_file_that_holds_its_long_list_takes_no_time(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(ARCHITECTURE, (b"x", struct.pack("<IIQ", 9, 0, 1 << 36))))
    os.truncate(path, 1 << 37)
    with pytest.raises(ValueError, match=r"m\.gguf cannot be read .*more than 4194304 values"):
        models.load(path)


@pytest.mark.parametrize("layers", [10**9, 10**15])
def test_layers_are_counted_against_the_files_before_anything_is_made_for_them(tiny, layers):
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    for read in (models.load, pretrained.shape_of):
        with pytest.raises(ValueError, match=f"said to have {layers} layers, and holds 20 tensors"):
            read(tiny)


def test_layers_of_a_gguf_file_are_counted_too(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", pretrained.locate("tiny-llama3.2"))
    name = b"llama.block_count" + struct.pack("<I", 4)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(name + b"\2\0\0\0", name + b"\2\0\x08\0"))
    with pytest.raises(ValueError, match=r"m\.gguf is said to have 524290 layers"):
        models.load(path)


@pytest.mark.parametrize("file", ["config.json", INDEX, "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply|no valid JSON"),
        ('{"a":' * 100_000, "nested too deeply|no valid JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "cannot be read"),
    ],
    ids=["lists", "objects", "integers"],
)
def test_absurd_json_is_one_line(tiny, file, text, message):
    (tiny / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file} .*({message})"):
        opened(tiny)


def test_a_json_file_of_gigabytes_is_not_read(tiny):
    os.truncate(tiny / "config.json", 1 << 40)
    with pytest.raises(ValueError, match=r"config\.json has 1099511627776 bytes"):
        opened(tiny)


@pytest.mark.parametrize(
    "file",
    ["config.json", INDEX, SHARD, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
     "generation_config.json"],
)  # fmt: skip
def test_a_pipe_in_a_checkpoint_is_refused_instead_of_waited_for(tiny, file):
    (tiny / file).unlink(missing_ok=True)
    os.mkfifo(tiny / file)
    with pytest.raises(ValueError, match=f"{file} to be a file, got a named pipe"):
        opened(tiny)


def safetensors(header, size=0, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * size


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"{}", length=1 << 62),
        safetensors(b"{}", length=90_000_000),
        safetensors(b"[" * 100_000),
        safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12),
        safetensors({"a": entry([2], 8, 16)}, 16),
        safetensors({"a": entry([2], 0, 8)}, 4),
        safetensors({"a": entry([1 << 62, 1 << 62], 0, 8)}, 8),
        safetensors({"a": entry([2], 8, 0)}, 8),
        safetensors({"a": entry([-2], 0, 8)}, 8),
        safetensors({"a": entry([2], 0, 8, "F99")}, 8),
        b"",
    ],
    ids=range(11),
)
def test_a_safetensors_header_that_lies_is_refused(tiny, content):
    (tiny / SHARD).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{SHARD} cannot be read") as caught:
        loaded(tiny)
    assert "\n" not in str(caught.value)


def test_a_tensor_without_dimensions_is_named(tiny):
    tensors = load_file(tiny / SHARD)
    name = next(iter(sorted(tensors)))
    header, start = {}, 0
    for tensor, values in tensors.items():
        shape = [] if tensor == name else list(values.shape)
        stop = start + 4 * int(np.prod(shape, dtype=int))
        header[tensor] = entry(shape, start, stop)
        start = stop
    (tiny / SHARD).write_bytes(safetensors(header, start))
    with pytest.raises(ValueError, match=rf"{SHARD}: {name} has shape \[\] where the config"):
        loaded(tiny)


@pytest.mark.parametrize(
    ("prefix", "merge"), [("x", ["a", "Ġ"]), (None, ["a", "b"]), ("", ["a", "nothing"])]
)
def test_merges_that_would_end_the_process_are_refused(tiny, prefix, merge):
    """The tokenizers package aborts where a prefix is cut out of a letter of several bytes."""
    content = json.loads((tiny / "tokenizer.json").read_text())
    content["model"] |= {"continuing_subword_prefix": prefix, "merges": [merge]}
    (tiny / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read .*out of vocabulary"):
        opened(tiny)
