"""Shows what a config's data is: numbers, and rows with the tokens that are learnt.

python -m experiments.data --config=configs/quickstart.py --html=data.html
"""

import sys

from absl import app, flags
from etils import epath
from ml_collections import config_flags

from experiments import console

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file under configs/.")
_HTML = flags.DEFINE_string("html", None, "Where to write the same as one page.")
_ROWS = flags.DEFINE_integer(
    "rows", 5_000, "Rows of each split that lengths and duplicates are read from; 0 for all."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; fields are --config.section.field=")
    console.start()
    # Imported late, so that a mistyped flag answers at once.
    from partitionsel_jax.data.card import gather
    from partitionsel_jax.reporting import data_card
    from partitionsel_jax.training import corpora, expand, settings

    with console.one_line_errors(ValueError, OSError):
        # Methods and repeats of one config share their data.
        run = expand(_CONFIG.value.to_dict())[0]
        card = gather(corpora.load(settings.parse(run.config)), rows=_ROWS.value)
        print(data_card.as_text(card, colours=data_card.wants_colours(sys.stdout)))
        if _HTML.value:
            epath.Path(_HTML.value).write_text(data_card.as_html(card), encoding="utf-8")
            print(f"page: {_HTML.value}")


if __name__ == "__main__":
    console.run(main)
