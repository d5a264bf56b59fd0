"""Chooses the rows of a file to train on, and writes them to a file as they were.

python -m experiments.subset --model=smollm2-135m --data=rows.jsonl --anchors=dev.jsonl --size=5% \
    --budgets=anchors --output=DIR

Gradients of every row are compared with those of the anchors, rows of what the model is to get
good at. DIR/selected.jsonl then holds the chosen rows with all their fields and one more,
"partitionsel": weight, rank, gain, and where the row was read. A command that was stopped goes on
where it was.
"""

from absl import flags

from experiments import console

_MODEL = flags.DEFINE_list(
    "model",
    None,
    'Checkpoint, preset, "owner/name" or a finished run; of several, cosines are added up.',
    required=True,
)
_ADAPTER = flags.DEFINE_list("adapter", [], "A PEFT directory for each model; none if not given.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights.")
_DATA = flags.DEFINE_string(
    "data", None, 'A file or directory of rows, or "owner/name" of a hub.', required=True
)
_ANCHORS = flags.DEFINE_string(
    "anchors",
    None,
    "A file of what the model is to get good at; or 10% of every domain's rows.",
    required=True,
)
_SIZE = flags.DEFINE_string("size", None, "Rows to choose, or a share: 5%.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "A directory.", required=True)
_BUDGETS = flags.DEFINE_string(
    "budgets",
    "proportional",
    "Picks per domain: proportional, uniform, anchors (the shares of the anchors' domains), "
    "temperature:0.5, fixed:0.7,0.3 (shares) or counts:10,6 (exactly).",
)
_UTILITY = flags.DEFINE_string(
    "utility",
    "gradient_matching",
    "gradient_matching, taylor, alignment, grad_norm, facility_location or random.",
)
_COUPLING = flags.DEFINE_string("coupling", "joint", "joint, independent or agnostic.")
_BLOCK = flags.DEFINE_integer(
    "block", None, "Most picks that match the anchors together; half of --dim if not given."
)
_SOURCE = flags.DEFINE_string("source", "instructions", "The kind of files, as data.source.")
_COLUMNS = {
    field: flags.DEFINE_string(
        field, None, f"The column of {what}, or none; found by its usual names if not given."
    )
    for field, what in (
        ("prompt", "the prompt"),
        ("input", "what an instruction is about"),
        ("response", "the response"),
        ("domain", "the domain"),
        ("messages", "conversations"),
    )
}
_LENGTH = flags.DEFINE_integer("length", 512, "Tokens of a row.", 2)
_TEMPLATE = flags.DEFINE_string(
    "template", "auto", "How prompts are put; auto: the tokenizer's chat template if it has one."
)
_DIM = flags.DEFINE_integer("dim", 1024, "Dimension of the features.", 1)
_LAST_LAYERS = flags.DEFINE_integer(
    "last_layers",
    None,
    "Last layers that are differentiated, 0: all; if not given all with an adapter, otherwise 2.",
)
_MICROBATCH = flags.DEFINE_integer("microbatch", 16, "Rows in one backward pass.", 1)
_WARMUP = flags.DEFINE_float(
    "warmup",
    0.05,
    "Share of the rows, at random, that adapters are trained on before their gradients are taken; "
    "0: none, and the model's own gradients. A model with --adapter and a run have had theirs.",
    0,
    1,
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the sketch, of held-out anchors and random rows.", 0)
_SHARD = flags.DEFINE_string("shard", None, "I/N: only the Ith of N parts of the features.")
_FORMAT = flags.DEFINE_enum(
    "format",
    "jsonl",
    ["jsonl", "parquet", "datasets"],
    "Of the chosen rows; datasets: a directory for datasets.load_from_disk.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier choice in --output.")


def main() -> None:
    from partitionsel_jax import subset, sweeps
    from partitionsel_jax.reporting import subset_page

    adapters = _ADAPTER.value or [""] * len(_MODEL.value)
    if len(adapters) != len(_MODEL.value):
        raise ValueError(
            f"expected an adapter for each of {len(_MODEL.value)} models, got {len(adapters)}"
        )
    part = sweeps.Shard.parse(_SHARD.value) if _SHARD.value else sweeps.Shard()
    given = {
        field: "" if flag.value == "none" else flag.value
        for field, flag in _COLUMNS.items()
        if flag.value is not None
    }
    written = subset.make(
        [subset.Chooser(*pair, _DTYPE.value) for pair in zip(_MODEL.value, adapters, strict=True)],
        _DATA.value,
        _ANCHORS.value,
        subset.Request(
            size=_SIZE.value,
            budgets=_BUDGETS.value,
            utility=_UTILITY.value,
            coupling=_COUPLING.value,
            block=_BLOCK.value,
            seed=_SEED.value,
        ),
        _OUTPUT.value,
        reader=subset.Reader(_SOURCE.value, given, _LENGTH.value, _TEMPLATE.value),
        gradients=subset.Gradients(_DIM.value, _LAST_LAYERS.value, _MICROBATCH.value, _SEED.value),
        warmup=_WARMUP.value,
        part=(part.number, part.count),
        form=_FORMAT.value,
        overwrite=_OVERWRITE.value,
    )
    if written:
        print(f"report: {subset_page.build(written.parent)}")


if __name__ == "__main__":
    console.run(main)
