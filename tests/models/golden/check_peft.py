"""Checks an adapter that we wrote, and the model that it was merged into, against HF peft.

    pip install torch==2.14.1 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0 \\
        safetensors==0.8.0 numpy==2.4.6 absl-py==2.5.1
    HF_HUB_OFFLINE=1 python tests/models/golden/check_peft.py \\
        --base=DIR --adapter=DIR --merged=DIR --expected=FILE.npz

The file holds `tokens` i32[B, T] and our `logits` f32[B, T, V] of the adapted model. The exit
status is 1 if peft's logits, or those of the merged checkpoint, are further than --atol from ours,
or if a parameter of a checkpoint or of the adapter is missing or left over.
"""

import sys

import numpy as np
import peft
import safetensors.numpy
import torch
import transformers
from absl import app, flags

_BASE = flags.DEFINE_string("base", None, "checkpoint directory of the base model", required=True)
_ADAPTER = flags.DEFINE_string("adapter", None, "directory of the adapter", required=True)
_MERGED = flags.DEFINE_string("merged", None, "directory of the merged model", required=True)
_EXPECTED = flags.DEFINE_string("expected", None, "npz of tokens and logits", required=True)
_ATOL = flags.DEFINE_float("atol", 1e-4, "largest absolute difference allowed")


def load(directory: str) -> torch.nn.Module:
    """A checkpoint in float32; raises if it does not fit its config."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise ValueError(f"{directory}: {kind} {sorted(info[kind])}")
    return model.eval()


def main(argv: list[str]) -> None:
    del argv
    transformers.logging.disable_progress_bar()
    expected = np.load(_EXPECTED.value)
    tokens = torch.from_numpy(expected["tokens"]).long()

    base = load(_BASE.value)
    with torch.inference_mode():
        plain = base(tokens, use_cache=False).logits.numpy()
    adapted = peft.PeftModel.from_pretrained(base, _ADAPTER.value).eval()
    # peft only warns of weights that it misses or cannot place.
    written = set(safetensors.numpy.load_file(f"{_ADAPTER.value}/adapter_model.safetensors"))
    wanted = set(peft.get_peft_model_state_dict(adapted))
    if written != wanted:
        raise ValueError(f"{_ADAPTER.value}: in one of file and model: {sorted(written ^ wanted)}")

    worst = 0.0
    for name, model in (("adapter", adapted), ("merged", load(_MERGED.value))):
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits.numpy()
        if logits.shape != expected["logits"].shape:
            raise ValueError(f"{name}: {logits.shape}, expected {expected['logits'].shape}")
        difference = float(np.abs(logits - expected["logits"]).max())
        # The comparison shows nothing unless the adapter itself does something.
        effect = float(np.abs(logits - plain).max())
        print(f"{name}: max difference {difference:.3g} (the adapter changes {effect:.3g})")
        # Written so that a NaN fails too.
        worst = difference if not difference <= worst else worst
    if not worst <= _ATOL.value:
        print(f"further than {_ATOL.value:g} from ours")
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
