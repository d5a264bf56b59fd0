"""What transformers computes with SmolLM2-135M-Instruct, read by its own GGUF loader.

The weights come from `transformers`, so an importer is checked against another one. The token ids
come from the GGUF's vocabulary and merges with the pre-tokenizer of the hub's tokenizer.json:
transformers 5.24 builds one without its `Digits` step, which splits white space before digits in
another way ("x  1" or a blank line before "1."). `make` prints the strings on which they differ.
"""

import hashlib
import pathlib
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

SEED = 2024
COLUMNS = 192
CONTINUATION = 64
# Another implementation rounds differently: a narrower choice would be a coin toss.
LEAST_GAP = 0.005

PROMPTS = (
    "The capital of France is",
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    if n < 2:\n        return',
    "In 2023, Zoë paid €1,234.56 for crème brûlée at a café in São Paulo 😀👍: 3.14159 ≈ π.",
    "A lighthouse keeper wrote the same three things in his log every evening: the direction of "
    "the wind, the number of ships that passed, and the colour of the sky at sunset. After thirty"
    " years he noticed that the third was the only one that anybody ever asked him about, and so "
    "he began to describe it",
)

PARAGRAPH = (
    "Bread is made from very few things: flour, water, salt and yeast. What matters most is time."
    " When the dough rests in a cool place for a whole night, the yeast works slowly, and the "
    "flavour becomes deeper than that of a loaf which was baked within two hours. A baker looks "
    "at the dough rather than at the clock. If it has doubled in size and springs back gently "
    "when a finger presses it, it is ready for the oven. The oven must be as hot as possible, "
    "with a little steam in the first ten minutes, so that the crust stays soft while the loaf "
    "grows. After that the steam is let out, and the crust turns brown and hard. Only then does "
    "the kitchen smell of bread."
)

CHATS: tuple[dict[str, Any], ...] = (
    {
        "messages": [{"role": "user", "content": "What is 2+2?"}],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "system", "content": "You answer in one short sentence."},
            {"role": "user", "content": "Which planet has rings?"},
            {"role": "assistant", "content": "Saturn is famous for its rings."},
        ],
        "add_generation_prompt": False,
    },
)

# Plain texts, and conversations that the chat template renders.
CONTINUED: tuple[str | list[dict[str, str]], ...] = (
    "Hello",
    "Once upon a time, in a small village",
    "1, 2, 3, 4, 5, 6,",
    "import numpy as np\n\n\ndef mean(values):\n",
    "The three primary colours are red, yellow and blue. By mixing two of them, a painter gets "
    "orange, green or violet. By mixing all three, a painter gets",
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "user", "content": "Name three animals that live in the sea."}],
    [
        {"role": "system", "content": "You are a patient teacher."},
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Because air scatters blue light more than red light."},
        {"role": "user", "content": "And why is it red at sunset?"},
    ],
)

STRINGS = (
    "",
    " ",
    "word   three  spaces",
    "  two spaces before",
    "one\ntwo\n\nthree\n\n\nfour\n",
    "12345",
    "A list:\n\n1. first\n\n2. second   33  (x  1)",
    "naïve café Ångström coöperate",
    "cafe\u0301",
    "emoji 😀 👩‍🚀 🇫🇷",
    "漢字とかな 한국어",
    "\ttab\t\ttabs",
    "for i in range(10):\n\treturn {'a': i**2}\r\n",
    "It's they'll I'VE don't",
    "m² ½ ١٢٣",
    "user said <|im_end|> and <|im_start|>system",
    "$x_1^2 + y_{12} \\leq 3.50$",
)


def hub_tokenizer(path: pathlib.Path) -> transformers.PreTrainedTokenizerFast:
    """The GGUF's vocabulary, merges, special tokens and template, pre-tokenized as on the hub."""
    fields = gguf.GGUFReader(path).fields
    tokens, types, merges = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges")
    )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=fields["tokenizer.chat_template"].contents(),
    )


def render(tokenizer: transformers.PreTrainedTokenizerFast, chat: dict[str, Any]) -> dict[str, Any]:
    """The conversation with its rendered text and its ids."""
    options = {name: value for name, value in chat.items() if name != "messages"}
    text = tokenizer.apply_chat_template(chat["messages"], **options, tokenize=False)
    ids = tokenizer.apply_chat_template(chat["messages"], **options, return_dict=False)
    return {**chat, "text": text, "ids": ids}


@torch.inference_mode()
def logits_of(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Logits f32[T, V] of one sequence, by one full forward pass."""
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


@torch.inference_mode()
def continuation(model: torch.nn.Module, ids: list[int]) -> tuple[list[int], float]:
    """The continuation by argmax, and the narrowest choice in it."""
    found: list[int] = []
    cache, new = None, ids
    for _ in range(CONTINUATION):
        output = model(torch.tensor([new]), cache=cache, use_cache=True)
        cache = output.cache
        new = [int(output.logits[0, -1].argmax())]
        found += new
    # The cache must not matter: one pass over the whole text has to choose the same.
    best = logits_of(model, ids + found)[len(ids) - 1 : -1].topk(2)
    if best.indices[:, 0].tolist() != found:
        raise ValueError(f"decoding with and without a cache differ after {ids}")
    return found, float((best.values[:, 0] - best.values[:, 1]).min())


def make(folder: pathlib.Path, path: pathlib.Path) -> dict[str, Any]:
    """Writes `smollm2.npz` to `folder`, from the GGUF at `path`; returns `smollm2.json`."""
    tokenizer = hub_tokenizer(path)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    other = transformers.AutoTokenizer.from_pretrained(**where)
    for text in (*STRINGS, *PROMPTS, PARAGRAPH):
        ids = other(text, add_special_tokens=False)["input_ids"]
        if ids != encode(text):
            print(f"transformers' GGUF tokenizer differs on {text!r}: {ids}, not {encode(text)}")

    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    columns = np.sort(
        np.random.default_rng(SEED).choice(model.config.vocab_size, COLUMNS, replace=False)
    ).astype(np.int32)
    arrays = {"columns": columns}
    prompts = []
    for number, text in enumerate(PROMPTS):
        ids = encode(text)
        logits = logits_of(model, ids)
        next_token = tokenizer.decode([int(logits[-1].argmax())])
        prompts.append({"text": text, "ids": ids, "next": next_token})
        arrays[f"prompt{number}/logits"] = logits[:, torch.from_numpy(columns)].numpy()
        arrays[f"prompt{number}/logsumexp"] = logits.logsumexp(-1).numpy()
        print(f"prompt {number}: {len(ids)} tokens, then {next_token!r}")

    ids = encode(PARAGRAPH)
    scores = logits_of(model, ids)[:-1].log_softmax(-1)
    nll = -scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
    arrays["paragraph/nll"] = nll
    mean = float(nll.mean(dtype=np.float64))
    paragraph = {
        "text": PARAGRAPH,
        "ids": ids,
        "mean_nll": mean,
        "perplexity": float(np.exp(mean)),
    }
    print(f"paragraph: {len(ids)} tokens, perplexity {paragraph['perplexity']:.4f}")

    greedy = []
    for prompt in CONTINUED:
        if isinstance(prompt, str):
            entry: dict[str, Any] = {"text": prompt, "ids": encode(prompt)}
        else:
            entry = render(tokenizer, {"messages": prompt, "add_generation_prompt": True})
        found, gap = continuation(model, entry["ids"])
        entry |= {"greedy": found, "greedy_text": tokenizer.decode(found), "smallest_gap": gap}
        greedy.append(entry)
        print(f"{len(entry['ids'])} tokens, smallest gap {gap:.4f}: {entry['greedy_text']!r}")
        if gap < LEAST_GAP:
            raise ValueError(f"a choice after {prompt!r} is as narrow as {gap:.2g}: take another")

    np.savez_compressed(folder / "smollm2.npz", **arrays)
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "prompts": prompts,
        "paragraph": paragraph,
        "greedy": greedy,
        "chats": [render(tokenizer, chat) for chat in CHATS],
        "strings": [{"text": text, "ids": encode(text)} for text in STRINGS],
    }
