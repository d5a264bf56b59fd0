"""Makes a small model out of a large one's own weights, to select in its stead.

python -m experiments.compress --model=smollm2-135m --layers=6 --output=DIR
python -m experiments.compress --run=RUN --rank=16 --output=DIR

`--layers` keeps the first ones, with the final norm and the head: a checkpoint like any other.
`--rank` keeps of every matrix the nearest of that rank, as two factors: a format of our own. DIR is
then named by `selection.proxy`, or by `checkpoint` to train it further first.
"""

from absl import flags

from experiments import console

_MODEL = flags.DEFINE_string("model", None, 'A pretrained model: path, preset or "owner/name".')
_RUN = flags.DEFINE_string("run", None, "The folder of a finished run, in a model's stead.")
_LAYERS = flags.DEFINE_integer("layers", 0, "Layers to keep, from the lowest; 0 for all.", 0)
_RANK = flags.DEFINE_integer("rank", 0, "Rank of the matrices; 0 for whole ones.", 0)
_OUTPUT = flags.DEFINE_string("output", None, "A new directory.", required=True)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights.")


def main() -> None:
    from partitionsel_jax.training import compressing

    compressing.compress(
        _OUTPUT.value,
        model=_MODEL.value or "",
        run=_RUN.value or "",
        layers=_LAYERS.value,
        rank=_RANK.value,
        dtype=_DTYPE.value,
    )


if __name__ == "__main__":
    console.run(main)
