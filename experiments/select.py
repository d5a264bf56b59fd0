"""Selects from features that were computed elsewhere, however many there are.

python -m experiments.select --features=F.npy --domains=D.npy --anchors=A.npy --size=1000

Several processes share the rows where SLURM, Open MPI or a TPU pod has started them, or where flags
say so; all of them see the files.
"""

from absl import flags

from experiments import console

_FEATURES = flags.DEFINE_string(
    "features",
    None,
    "Gradient features of the candidates, float[N, M]: F.npy, F.safetensors:TENSOR or "
    "F.parquet:COLUMN.",
    required=True,
)
_ANCHORS = flags.DEFINE_string(
    "anchors", None, "Those of the validation examples to match, float[A, M], the same."
)
_DOMAINS = flags.DEFINE_string(
    "domains",
    None,
    "The candidates' domains, D.npy, integers [N] from 0, or F.parquet:COLUMN, which may be texts. "
    "One if not given.",
)
_IDS = flags.DEFINE_string(
    "ids", None, "Ids of the candidates, I.npy or F.parquet:COLUMN; those picked go to ids.json."
)
_SIZE = flags.DEFINE_integer("size", None, "How many to pick.", required=True)
_BUDGETS = flags.DEFINE_string(
    "budgets",
    "proportional",
    "Picks per domain: proportional, uniform, temperature:0.5, fixed:0.7,0.3 (shares) or "
    "counts:10,6 (exactly).",
)
_UTILITY = flags.DEFINE_string(
    "utility",
    "gradient_matching",
    "gradient_matching, taylor, alignment, grad_norm, facility_location or random.",
)
_COUPLING = flags.DEFINE_string("coupling", "joint", "joint, independent or agnostic.")
_SCALING = flags.DEFINE_string(
    "scaling", "unit", "unit scales features and anchors to unit norm; none leaves them alone."
)
_RIDGE = flags.DEFINE_float("ridge", 0.0, "Ridge of gradient_matching.")
_STEP_SCALE = flags.DEFINE_float("step_scale", 1.0, "Step of taylor.")
_BLOCK = flags.DEFINE_integer(
    "block",
    None,
    "Most picks that match the anchors together, by gradient_matching; half of M is usual where "
    "--size is above it. All if not given.",
)
_REFERENCES = flags.DEFINE_integer(
    "references", 1024, "Rows, at random, that the picks of facility_location are to resemble."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of random and of references.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory to write; NAME.selection beside NAME.npy if not given."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier selection there.")
_CHUNK_ROWS = flags.DEFINE_integer("chunk_rows", None, "Rows read at a time; 16 MiB of them.")
_SHORTLIST_ROWS = flags.DEFINE_integer(
    "shortlist_rows", None, "Rows kept in memory between passes; 32 MiB of them."
)
console.define_process_flags()


def main() -> None:
    from partitionsel_jax import distributed, offline

    console.join_processes()
    with distributed.processes.ending_together():
        offline.select_files(
            _FEATURES.value,
            anchors=_ANCHORS.value,
            domains=_DOMAINS.value,
            ids=_IDS.value,
            size=_SIZE.value,
            budgets=_BUDGETS.value,
            output=_OUTPUT.value,
            overwrite=_OVERWRITE.value,
            reading=offline.Reading(_CHUNK_ROWS.value, _SHORTLIST_ROWS.value),
            utility=_UTILITY.value,
            coupling=_COUPLING.value,
            scaling=_SCALING.value,
            ridge=_RIDGE.value,
            step_scale=_STEP_SCALE.value,
            block=_BLOCK.value,
            references=_REFERENCES.value,
            seed=_SEED.value,
        )


if __name__ == "__main__":
    console.run(main)
