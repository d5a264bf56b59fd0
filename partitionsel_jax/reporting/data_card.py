"""A data card as text for a terminal, and as one page that needs nothing else."""

import os
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, TextIO

import pandas as pd

from partitionsel_jax.config.essentials import flatten
from partitionsel_jax.data.card import SPLITS, Card, Piece, ShownRow
from partitionsel_jax.data.sources.scanning import Survey
from partitionsel_jax.reporting import page, tables

_BAR, _COLUMNS = 40, 100
_SHOWN = "Some training rows"
_DIM, _COLOUR, _FRAME, _PLAIN = "\x1b[2m", "\x1b[36m", "\x1b[7m", "\x1b[0m"


class _Table(NamedTuple):
    """A heading, a table of text cells, and how its numbers were counted."""

    heading: str
    cells: pd.DataFrame
    note: str = ""


# Title, tables, and rows with a caption each.
_Content = tuple[str, Sequence[_Table], Sequence[tuple[str, Sequence[Piece]]]]


def wants_colours(stream: TextIO) -> bool:
    """True if text for a stream may hold ANSI colours: a terminal, without NO_COLOR.

    Source: https://no-color.org.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR")


def as_text(card: Card | Survey, *, colours: bool, problem: str = "") -> str:
    """The card for a terminal.

    Args:
      card: as `card.gather` makes it, or a survey's findings where no corpus can be made.
      colours: True to show the loss mask by colours (prompt dim, response in colour, tokens
        without text inverted); otherwise learnt text stands between ⟦ and ⟧.
      problem: stands on top; empty for none.
    """
    title, parts, rows = _content(card)
    lines = [*_wrapped(f"Problem: {_line(problem)}"), ""] if problem else []
    lines += [title, ""]
    for part in parts:
        cells = part.cells.map(lambda cell: _printable(cell, kept=""))
        lines += [part.heading, *_wrapped(part.note), tables.text(cells), ""]
    legend = "Learnt text stands between ⟦ and ⟧, tokens without text between ⟨ and ⟩."
    if colours:
        marker = f"{_FRAME}inverted{_PLAIN}"
        legend = f"{_DIM}Prompt{_PLAIN}, {_COLOUR}learnt{_PLAIN}, {marker}: tokens without text."
    lines += [_SHOWN, legend, ""]
    for caption, pieces in rows:
        lines += [caption, (_coloured if colours else _bracketed)(pieces), ""]
    return "\n".join(lines)


def as_html(card: Card | Survey, problem: str = "") -> str:
    """The card as a whole document, for desk and phone, light and dark; see `as_text`."""
    title, parts, rows = _content(card)
    lines = [f'<p class="row"><b>Problem:</b> {escape(_line(problem))}</p>'] if problem else []
    lines.append(f"<h1>{escape(title)}</h1>")
    for part in parts:
        note = f'<p class="facts">{escape(part.note)}</p>' if part.note else ""
        cells = page.table(part.cells.map(_printable))
        lines.append(f"<h2>{escape(part.heading)}</h2>{note}{cells}")
    lines.append(
        f'<h2>{_SHOWN}</h2><p class="facts">'
        '<span class="prompt">Grey: prompt, without a loss.</span> '
        '<span class="learnt">Underlined: learnt.</span> '
        '<span class="marker">Framed</span>: tokens without text.</p>'
    )
    for caption, pieces in rows:
        spans = "".join(
            f'<span class="{"learnt" if piece.is_learnt else "prompt"}'
            f'{" marker" * piece.is_marker}">{escape(_printable(piece.text))}</span>'
            for piece in pieces
        )
        lines.append(f'<p>{escape(caption)}</p>\n<div class="row">{spans}</div>')
    return page.document(title, "\n".join(lines))


def _content(card: Card | Survey) -> _Content:
    if isinstance(card, Survey):
        return _of_survey(card)
    domains = f"{len(card.domains)} domain{'' if len(card.domains) == 1 else 's'}"
    title = (
        f"Data: {sum(card.rows['train']):,} training rows of at most {card.length} tokens, "
        f"{domains}, template {card.template}"
    )
    return title, list(_tables(card)), [(_caption(row), row.pieces) for row in card.shown]


def _of_survey(found: Survey) -> _Content:
    """The content of a source that is no corpus yet."""
    domains = _cells(
        {"domain": name, "rows": f"{count:,}"} for name, count in found.domains.items()
    )
    columns = _cells(
        {"file": file, "columns": ", ".join(names)} for file, names in found.columns.items()
    )
    parts = [_Table("Good rows of each domain", domains), _Table("Columns", columns)]
    parts.append(_counts(found.tally.report(), found.stopped))
    rows = [
        (
            _printable(f"{row.domain}, {place}", kept=""),
            (Piece(f"{row.question}\n", False), Piece(row.response, True)),
        )
        for place, row in found.shown
    ]
    title = f"Data: {sum(found.domains.values()):,} good rows, of which no corpus was made"
    return title, [part for part in parts if len(part.cells)], rows


def _tables(card: Card) -> Iterator[_Table]:
    counts = pd.DataFrame({split: card.rows[split] for split in SPLITS}, list(card.domains))
    share = tables.percent(card.corrupted / max(sum(card.rows["train"]), 1))
    note = f"{card.corrupted:,} of the training rows ({share}) are corrupted on purpose."
    if len(counts) > 1:
        counts = pd.concat([counts, counts.sum().to_frame("all").T])
    cells = counts.map("{:,}".format).rename_axis("domain").reset_index()
    yield _Table("Rows of each split", cells, note if card.corrupted else "")

    most = max(1, card.histogram["rows"].max())
    cells = _cells(
        {
            "tokens": f"{part.first}–{part.last}",
            "rows": f"{part.rows:,}",
            "": "█" * round(_BAR * part.rows / most),
        }
        for part in card.histogram.itertuples()
    )
    note = f"{_read(card, 'train')} Prompt, response and closing token; padding left out."
    yield _Table("Tokens of a row", cells, note)

    lengths = card.lengths
    if len(lengths) > 1:
        total = lengths.agg({"rows": "sum", "tokens": "sum", "learnt": "sum", "longest": "max"})
        lengths = pd.concat([lengths, total.to_frame("all").T])
    cells = _cells(
        {
            "domain": part.Index,
            "rows read": f"{part.rows:,}",
            "tokens, mean": f"{part.tokens / part.rows:.1f}" if part.rows else tables.NOTHING,
            "longest": f"{part.longest:,}" if part.rows else tables.NOTHING,
            "learnt, mean": f"{part.learnt / part.rows:.1f}" if part.rows else tables.NOTHING,
            "label share": tables.percent(part.learnt / part.tokens if part.rows else None),
        }
        for part in lengths.itertuples()
    )
    note = f"{_read(card, 'train')} Label share: tokens with a loss, of all that are no padding."
    yield _Table("Tokens that are learnt", cells, note)

    partial = [split for split in SPLITS if card.read[split] < sum(card.rows[split])]
    notes = ["Rows whose text stands in another row too, white space and case aside."]
    notes += [_read(card, split) for split in partial]
    notes += ["Rows that were not read may hold more."] * bool(partial)
    cells = _cells(
        {
            "rows": f"{second[0]}, also in {first}" if second else f"within {first}",
            "read": f"{part.rows:,}",
            "same prompt": f"{part.prompts:,}",
            "same response": f"{part.responses:,}",
            "both": f"{part.both:,}",
        }
        for part in card.repeats.itertuples()
        for first, *second in (part.splits,)
    )
    yield _Table("Duplicates", cells, " ".join(notes))

    refused = {split: rows for split, rows in card.refused.items() if rows.rows}
    cells = _cells(
        {
            "split": split,
            f"left out: over {card.length} tokens": str(card.left_out[split]),
            "prompt cut from the left": str(card.cut[split]),
            **(
                {"left out: refused by the template": str(refused.get(split, 0))} if refused else {}
            ),
        }
        for split in card.left_out
    )
    note = "".join(f"First refused of {s}: {rows.reason}. " for s, rows in refused.items())
    yield _Table("Left out or cut", cells, note)
    if card.report:
        yield _counts(card.report)


def _counts(report: Mapping[str, Any], note: str = "") -> _Table:
    """The counts that were made when the files were read; a list is one cell."""

    def cell(value: object) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(
                " ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value
            )
        return f"{value:,}" if isinstance(value, int) else str(value)

    cells = _cells(
        {"what": key.replace(".", " · "), "count": cell(value)}
        for key, value in flatten(report).items()
        if value != {}
    )
    return _Table("When the files were read", cells, note)


def _cells(lines: Iterable[Mapping[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(list(lines))


def _read(card: Card, split: str) -> str:
    read, total = card.read[split], sum(card.rows[split])
    if read == total:
        return f"All {total:,} rows of {split}."
    return f"{read:,} rows of {split} at random, of {total:,}."


def _caption(row: ShownRow) -> str:
    corrupted = ", corrupted" if row.corrupted else ""
    domain = _printable(row.domain, kept="")
    return f"{domain}, id {row.id}: {row.tokens} tokens, {row.learnt} of them learnt{corrupted}"


def _coloured(pieces: Sequence[Piece]) -> str:
    return "".join(
        f"{_COLOUR if piece.is_learnt else _DIM}{_FRAME if piece.is_marker else ''}"
        f"{_printable(piece.text)}{_PLAIN}"
        for piece in pieces
    )


def _bracketed(pieces: Sequence[Piece]) -> str:
    text, is_learnt = "", False
    for piece in pieces:
        if piece.is_learnt != is_learnt:
            text += "⟦" if piece.is_learnt else "⟧"
            is_learnt = piece.is_learnt
        shown = _printable(piece.text)
        text += f"⟨{shown}⟩" if piece.is_marker else shown
    return text + ("⟧" if is_learnt else "")


def _line(text: str) -> str:
    return _printable(" ".join(text.split()))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, break_on_hyphens=False)


def _printable(text: str, kept: str = "\n\t") -> str:
    """The text with its control characters replaced: data must not steer a terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) == "Cc" and character not in kept
        else character
        for character in text
    )
