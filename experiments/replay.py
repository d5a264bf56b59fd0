"""Uses a run's records again: its picks, its problems, or the update that it failed at.

python -m experiments.replay --run=DIR --workdir=NEW
    trains the run's model on exactly the picks of its selections.jsonl, selecting nothing, and says
    whether the parameters came out the same.
python -m experiments.replay --run=DIR --workdir=NEW --score=taylor,alignment
    says what other utilities would have picked from the pools that the run saw, with the parameters
    that it had then. --change=selection.coupling=agnostic (more than once) changes how;
    --change=selection.proxy=DIR lets another model select, and says how far the two agree.
python -m experiments.replay --failure=DIR/failure/NUMBER
    makes an update again that stopped a run because it was not finite, and prints its record.

DIR is the folder that holds a run's config.json.
"""

import ast
import json
from typing import Any

from absl import flags

from experiments import console

_FAILURE = flags.DEFINE_string("failure", None, "WORKDIR/failure/NUMBER of a run.")
_RUN = flags.DEFINE_string("run", None, "The folder of a recorded run.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write what comes of --run.")
_SCORE = flags.DEFINE_list("score", None, "Utilities that look at the run's problems.")
_CHANGE = flags.DEFINE_multi_string("change", [], "FIELD=VALUE, how --score selects.")
_EVERY = flags.DEFINE_integer("every", 1, "Steps from one that --score looks at to the next.", 1)


def main() -> None:
    _check_flags()

    if _FAILURE.value:
        _replay_failure()
    elif _SCORE.value:
        _score()
    else:
        _train_again()


def _check_flags() -> None:
    """Raises ValueError unless the flags ask for one thing."""
    if bool(_FAILURE.value) == bool(_RUN.value):
        raise ValueError("give either --run or --failure: the folder of what is replayed")
    if _RUN.value and not _WORKDIR.value:
        raise ValueError("--run needs --workdir: where to write what comes of it")
    if _FAILURE.value and (_WORKDIR.value or _SCORE.value):
        raise ValueError("--failure writes nothing: leave out --workdir and --score")
    if _CHANGE.value and not _SCORE.value:
        raise ValueError(
            "--change is for --score; to train on recorded picks with another config, set its "
            "selection.recorded to the run and use experiments.train"
        )


def _replay_failure() -> None:
    from partitionsel_jax import training
    from partitionsel_jax.training.records import plain

    for name, value in plain(training.replay(_FAILURE.value)).items():
        print(f"{name}: {json.dumps(value)}")


def _train_again() -> None:
    from partitionsel_jax import distributed, sweeps

    with distributed.stopping.listening() as stop:
        summary = sweeps.train_again(_RUN.value, _WORKDIR.value, stop)
    print(f"validation loss {summary['validation_loss']:.4f}")
    if summary["same"] is None:
        print(f"{_RUN.value} has no summary.json to compare with")
    elif summary["same"]:
        print(f"the parameters are those of {_RUN.value}, bit for bit")
    else:
        print(
            f"the parameters are not those of {_RUN.value} bit for bit: other devices or versions "
            "round differently"
        )


def _score() -> None:
    from partitionsel_jax import sweeps
    from partitionsel_jax.text_table import aligned

    changes = dict(map(_parsed, _CHANGE.value))
    found = sweeps.score(_RUN.value, _WORKDIR.value, _SCORE.value or [], changes, _EVERY.value)
    columns = list(dict.fromkeys(name for means in found.values() for name in means))
    rows = [
        [utility, *(f"{means[name]:.4g}" if name in means else "–" for name in columns)]
        for utility, means in found.items()
    ]
    print(aligned([["utility", *columns], *rows]))


def _parsed(change: str) -> tuple[str, Any]:
    """ "a.b=1" -> ("a.b", 1); what is no Python literal is text."""
    field, given, text = change.partition("=")
    if not given:
        raise ValueError(f"--change={change}: expected FIELD=VALUE, e.g. selection.ridge=0.1")
    try:
        return field, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return field, text


if __name__ == "__main__":
    console.run(main)
