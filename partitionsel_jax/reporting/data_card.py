"""A data card as text for a terminal, and as one page that needs nothing else."""

import dataclasses
import os
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TextIO

import pandas as pd

from partitionsel_jax.data.card import SPLITS, Card, Piece, ShownRow
from partitionsel_jax.data.sources.scanning import Survey
from partitionsel_jax.reporting import labels, page, tables

_BAR, _COLUMNS = 40, 100
_SHOWN = "Some training rows"
_DIM, _COLOUR, _FRAME, _PLAIN = "\x1b[2m", "\x1b[36m", "\x1b[7m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class _Table:
    """A table of text cells, the heading above it, and how its numbers were counted."""

    heading: str
    note: str
    cells: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class _Content:
    """The content of a card: a title, tables, and rows with a caption each."""

    title: str
    tables: Sequence[_Table]
    shown: Sequence[tuple[str, Sequence[Piece]]]


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
    content = _content(card)
    parts = [*_wrapped(f"Problem: {_line(problem)}"), ""] if problem else []
    parts += [content.title, ""]
    for part in content.tables:
        cells = part.cells.map(lambda cell: _printable(cell, kept=""))
        parts += [part.heading, *_wrapped(part.note), tables.text(cells), ""]
    parts += [_SHOWN, _legend(colours), ""]
    for caption, pieces in content.shown:
        parts += [caption, _row_text(pieces, colours), ""]
    return "\n".join(parts)


def as_html(card: Card | Survey, problem: str = "") -> str:
    """The card as a whole document, for desk and phone, light and dark; see `as_text`."""
    content = _content(card)
    parts = [f'<p class="row"><b>Problem:</b> {escape(_line(problem))}</p>'] if problem else []
    parts.append(f"<h1>{escape(content.title)}</h1>")
    for part in content.tables:
        note = f'<p class="facts">{escape(part.note)}</p>' if part.note else ""
        cells = page.table(part.cells.map(_printable))
        parts.append(f"<h2>{escape(part.heading)}</h2>{note}{cells}")
    parts.append(
        f'<h2>{_SHOWN}</h2><p class="facts">'
        '<span class="prompt">Grey: prompt, without a loss.</span> '
        '<span class="learnt">Underlined: learnt.</span> '
        '<span class="marker">Framed</span>: tokens without text.</p>'
    )
    for caption, pieces in content.shown:
        spans = "".join(map(_span, pieces))
        parts.append(f'<p>{escape(caption)}</p>\n<div class="row">{spans}</div>')
    return page.document(content.title, "\n".join(parts))


def _content(card: Card | Survey) -> _Content:
    if isinstance(card, Survey):
        return _of_survey(card)
    domains = f"{len(card.domains)} domain{'' if len(card.domains) == 1 else 's'}"
    return _Content(
        f"Data: {sum(card.rows['train']):,} training rows of at most {card.length} tokens, "
        f"{domains}, template {card.template}",
        [
            _rows_per_split(card),
            _histogram(card),
            _lengths_per_domain(card),
            _repeats(card),
            _left_out(card),
            *([_counts(card.report)] if card.report else []),
        ],
        [(_caption(row), row.pieces) for row in card.shown],
    )


def _of_survey(found: Survey) -> _Content:
    """The content of a source that is no corpus yet."""
    domains = pd.DataFrame(
        {"domain": name, "rows": f"{count:,}"} for name, count in found.domains.items()
    )
    columns = pd.DataFrame(
        {"file": file, "columns": ", ".join(names)} for file, names in found.columns.items()
    )
    parts = [
        _Table("Good rows of each domain", "", domains),
        _Table("Columns", "", columns),
        _counts(found.tally.report(), found.stopped),
    ]
    return _Content(
        f"Data: {sum(found.domains.values()):,} good rows, of which no corpus was made",
        [part for part in parts if len(part.cells)],
        [
            (
                _printable(f"{row.domain}, {place}", kept=""),
                (Piece(f"{row.question}\n", False), Piece(row.response, True)),
            )
            for place, row in found.shown
        ],
    )


def _rows_per_split(card: Card) -> _Table:
    counts = pd.DataFrame({split: card.rows[split] for split in SPLITS}, list(card.domains))
    corrupted = card.corrupted / max(sum(card.rows["train"]), 1)
    note = (
        f"{card.corrupted:,} of the training rows ({tables.percent(corrupted)}) are corrupted on "
        "purpose."
    )
    if len(counts) > 1:
        counts = pd.concat([counts, counts.sum().to_frame("all").T])
    cells = counts.map("{:,}".format).rename_axis("domain").reset_index()
    return _Table("Rows of each split", note if card.corrupted else "", cells)


def _histogram(card: Card) -> _Table:
    most = max(1, card.histogram["rows"].max())
    cells = pd.DataFrame(
        {
            "tokens": f"{part.first}–{part.last}",
            "rows": f"{part.rows:,}",
            "": "█" * round(_BAR * part.rows / most),
        }
        for part in card.histogram.itertuples()
    )
    note = f"{_read(card, 'train')} Prompt, response and closing token; padding left out."
    return _Table("Tokens of a row", note, cells)


def _lengths_per_domain(card: Card) -> _Table:
    parts = card.lengths
    if len(parts) > 1:
        total = parts.agg({"rows": "sum", "tokens": "sum", "learnt": "sum", "longest": "max"})
        parts = pd.concat([parts, total.to_frame("all").T])
    cells = pd.DataFrame(
        {
            "domain": part.Index,
            "rows read": f"{part.rows:,}",
            "tokens, mean": f"{part.tokens / part.rows:.1f}" if part.rows else tables.NOTHING,
            "longest": f"{part.longest:,}" if part.rows else tables.NOTHING,
            "learnt, mean": f"{part.learnt / part.rows:.1f}" if part.rows else tables.NOTHING,
            "label share": tables.percent(part.learnt / part.tokens if part.rows else None),
        }
        for part in parts.itertuples()
    )
    note = f"{_read(card, 'train')} Label share: tokens with a loss, of all that are no padding."
    return _Table("Tokens that are learnt", note, cells)


def _repeats(card: Card) -> _Table:
    partial = [split for split in SPLITS if card.read[split] < sum(card.rows[split])]
    notes = ["Rows whose text stands in another row too, white space and case aside."]
    notes += [_read(card, split) for split in partial]
    if partial:
        notes.append("Rows that were not read may hold more.")
    cells = pd.DataFrame(
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
    return _Table("Duplicates", " ".join(notes), cells)


def _left_out(card: Card) -> _Table:
    refused = {split: rows for split, rows in card.refused.items() if rows.rows}
    cells = pd.DataFrame(
        {
            "split": split,
            f"left out: over {card.length} tokens": str(card.left_out[split]),
            "prompt cut from the left": str(card.cut[split]),
            "left out: refused by the template": str(refused.get(split, 0)),
        }
        for split in card.left_out
    )
    if not refused:
        cells = cells.iloc[:, :-1]
    note = "".join(f"First refused of {s}: {rows.reason}. " for s, rows in refused.items())
    return _Table("Left out or cut", note, cells)


def _counts(report: Mapping[str, Any], note: str = "") -> _Table:
    """The counts that were made when the files were read; a list is one cell."""
    cells = pd.DataFrame(
        {"what": key.replace(".", " · "), "count": _cell(value)}
        for key, value in labels.flatten(report)
    )
    return _Table("When the files were read", note, cells)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read(card: Card, split: str) -> str:
    read, total = card.read[split], sum(card.rows[split])
    if read == total:
        return f"All {total:,} rows of {split}."
    return f"{read:,} rows of {split} at random, of {total:,}."


def _legend(colours: bool) -> str:
    if not colours:
        return "Learnt text stands between ⟦ and ⟧, tokens without text between ⟨ and ⟩."
    marker = f"{_FRAME}inverted{_PLAIN}"
    return f"{_DIM}Prompt{_PLAIN}, {_COLOUR}learnt{_PLAIN}, {marker}: tokens without text."


def _caption(row: ShownRow) -> str:
    corrupted = ", corrupted" if row.corrupted else ""
    domain = _printable(row.domain, kept="")
    return f"{domain}, id {row.id}: {row.tokens} tokens, {row.learnt} of them learnt{corrupted}"


def _row_text(pieces: Sequence[Piece], colours: bool) -> str:
    text, is_learnt = "", False
    for piece in pieces:
        shown = _printable(piece.text)
        if colours:
            frame = _FRAME if piece.is_marker else ""
            text += f"{_COLOUR if piece.is_learnt else _DIM}{frame}{shown}{_PLAIN}"
            continue
        if piece.is_learnt != is_learnt:
            text += "⟦" if piece.is_learnt else "⟧"
            is_learnt = piece.is_learnt
        text += f"⟨{shown}⟩" if piece.is_marker else shown
    return text + ("⟧" if is_learnt else "")


def _span(piece: Piece) -> str:
    kind = ("learnt" if piece.is_learnt else "prompt") + " marker" * piece.is_marker
    return f'<span class="{kind}">{escape(_printable(piece.text))}</span>'


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
