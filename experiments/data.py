"""Shows what a config's data is: numbers, and rows with the tokens that are learnt.

python -m experiments.data --config=configs/quickstart.py --html=data.html
python -m experiments.data --config=configs/quickstart.py --jsonl=DIR
"""

import contextlib
import sys
from typing import Any

from absl import flags
from etils import epath

from experiments import console

_CONFIG = console.define_config_flag()
_HTML = flags.DEFINE_string("html", None, "Where to write the same as one page.")
_ROWS = flags.DEFINE_integer(
    "rows", 5_000, "Rows of each split that lengths and duplicates are read from; 0 for all."
)
_JSONL = flags.DEFINE_string(
    "jsonl", None, "A folder to write the rows of every split to, as JSON Lines."
)
flags.mark_flag_as_required("config")


def main() -> None:
    from partitionsel_jax.reporting import data_card

    if _JSONL.value:
        _write(_CONFIG.value.to_dict(), _JSONL.value)
        return
    card, problem = _card(_CONFIG.value.to_dict(), _ROWS.value)
    colours = data_card.wants_colours(sys.stdout)
    print(data_card.as_text(card, colours=colours, problem=problem))
    if _HTML.value:
        page = data_card.as_html(card, problem)
        epath.Path(_HTML.value).write_text(page, encoding="utf-8")
        print(f"page: {_HTML.value}")


def _write(config: dict[str, Any], folder: str) -> None:
    """Writes the rows of a config's corpus."""
    from partitionsel_jax.config import settings
    from partitionsel_jax.data.exporting import write_rows
    from partitionsel_jax.training import corpora, expand

    write_rows(corpora.load(settings.parse(expand(config)[0].config)), folder)
    print(f"rows: {folder}")


def _card(config: dict[str, Any], rows: int) -> tuple[Any, str]:
    """The card of a config's data, and what is wrong with the config or the data; or empty.

    Where no corpus can be made as asked, it is tried without the domains that have too few rows, or
    none since they are misspelt; else the card shows what the files hold.

    Raises:
      ValueError, OSError: there is nothing to show.
    """
    from partitionsel_jax.config import settings
    from partitionsel_jax.data.card import gather
    from partitionsel_jax.training import corpora, expand

    def gathered(config: dict[str, Any]) -> Any:
        # Methods and repeats of one config share their data.
        return gather(corpora.load(settings.parse(expand(config)[0].config)), rows=rows)

    try:
        return gathered(config), ""
    except (ValueError, OSError) as error:
        problem, found = error, corpora.survey(config)
    if found is None:
        raise problem
    data = config["data"]
    asked, least = data["domains"] or list(found.domains), data["validation"] + data["test"]
    usable = [name for name in asked if found.domains.get(name, 0) > least]
    if 0 < len(usable) < len(asked):
        with contextlib.suppress(ValueError, OSError):
            return gathered({**config, "data": {**data, "domains": usable}}), str(problem)
    return found, str(problem)


if __name__ == "__main__":
    console.run(main)
