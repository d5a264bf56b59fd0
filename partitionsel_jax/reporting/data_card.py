"""A data card as text for a terminal, and as one page that needs nothing else."""

import dataclasses
import os
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from html import escape
from typing import TextIO

from partitionsel_jax.data.card import SPLITS, Card, Lengths, Piece, ShownRow
from partitionsel_jax.data.sources.scanning import Survey
from partitionsel_jax.reporting import labels
from partitionsel_jax.reporting.html import table
from partitionsel_jax.reporting.page import document
from partitionsel_jax.reporting.tables import NOTHING
from partitionsel_jax.text_table import aligned

_BAR, _COLUMNS = 40, 100
_SHOWN, _PROBLEM = "Some training rows", "Problem"
_DIM, _COLOUR, _FRAME, _PLAIN = "\x1b[2m", "\x1b[36m", "\x1b[7m", "\x1b[0m"
_STYLE = """
.row{white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0 1.4rem;padding:.6rem .8rem;
border:1px solid var(--grid);border-radius:4px;
font:.85rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.prompt{color:var(--muted)}
.learnt{color:var(--ink);border-bottom:2px solid var(--blue)}
.marker{border:1px solid var(--grid);border-radius:3px;padding:0 .25rem;font-size:.8em}
.learnt.marker{border-color:var(--blue)}
.bars td:last-child{width:100%;min-width:6rem;vertical-align:middle}
.bars td:first-child{min-width:0;white-space:nowrap}
.bar{display:block;height:.8rem;border-radius:2px;background:var(--blue)}
"""


@dataclasses.dataclass(frozen=True)
class _Table:
    """A table of the card.

    Attributes:
      heading: above it.
      note: what its numbers were counted on.
      columns: their headings.
      lines: their cells.
      bars: a length in [0, 1] for each line, for a chart; empty for none.
    """

    heading: str
    note: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


def wants_colours(stream: TextIO) -> bool:
    """Whether text for a stream may hold ANSI colours: a terminal, without NO_COLOR.

    Source: https://no-color.org.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR")


@dataclasses.dataclass(frozen=True)
class _Page:
    """What a card shows: a title, tables, and rows with a caption each."""

    title: str
    tables: Sequence[_Table]
    shown: Sequence[tuple[str, Sequence[Piece]]]


def as_text(card: Card | Survey, *, colours: bool, problem: str = "") -> str:
    """The card for a terminal.

    Args:
      card: as `card.gather` makes it, or what a survey has found where no corpus can be made.
      colours: whether the loss mask is shown by colours (prompt dim, response in colour, tokens
        without text inverted); otherwise what is learnt stands between ⟦ and ⟧.
      problem: stands on top; empty for none.
    """
    page = _page(card)
    parts = [page.title, ""]
    if problem:
        said = _printable(" ".join(problem.split()))
        parts = [
            *textwrap.wrap(f"{_PROBLEM}: {said}", _COLUMNS, break_on_hyphens=False),
            "",
            *parts,
        ]
    for part in page.tables:
        lines = [part.columns, *part.lines]
        if part.bars:
            full = ["", *("█" * round(_BAR * bar) for bar in part.bars)]
            lines = [[*line, bar] for line, bar in zip(lines, full, strict=True)]
        printed = [[_printable(cell, kept="") for cell in line] for line in lines]
        parts += [part.heading, *textwrap.wrap(part.note, _COLUMNS), aligned(printed), ""]
    parts += [_SHOWN, _legend(colours), ""]
    for caption, pieces in page.shown:
        parts += [caption, _row_text(pieces, colours), ""]
    return "\n".join(parts)


def as_html(card: Card | Survey, problem: str = "") -> str:
    """The card as a whole document, for desk and phone, light and dark; see `as_text`."""
    page = _page(card)
    title = escape(page.title)
    said = escape(_printable(" ".join(problem.split())))
    parts = [f'<p class="row"><b>{_PROBLEM}:</b> {said}</p>'] if problem else []
    parts.append(f"<h1>{title}</h1>")
    for part in page.tables:
        lines = [[escape(_printable(cell)) for cell in line] for line in part.lines]
        columns = [escape(column) for column in part.columns]
        if part.bars:
            columns.append("")
            for line, bar in zip(lines, part.bars, strict=True):
                line.append(f'<span class="bar" style="width:{100 * bar:.1f}%"></span>')
        note = f'<p class="facts">{escape(part.note)}</p>' if part.note else ""
        body = table(columns, lines)
        parts += [
            f"<h2>{escape(part.heading)}</h2>{note}",
            f'<div class="bars">{body}</div>' if part.bars else body,
        ]
    parts.append(
        f'<h2>{_SHOWN}</h2><p class="facts">'
        '<span class="prompt">Grey: prompt, without a loss.</span> '
        '<span class="learnt">Underlined: learnt.</span> '
        '<span class="marker">Framed</span>: tokens without text.</p>'
    )
    for caption, pieces in page.shown:
        spans = "".join(map(_span, pieces))
        parts.append(f'<p>{escape(caption)}</p>\n<div class="row">{spans}</div>')
    return document(title, "\n".join(parts), _STYLE)


def _page(card: Card | Survey) -> _Page:
    if isinstance(card, Survey):
        return _of_survey(card)
    return _Page(_title(card), _tables(card), [(_caption(row), row.pieces) for row in card.shown])


def _of_survey(found: Survey) -> _Page:
    """What there is to see of a source that is no corpus yet."""
    domains = [(name, f"{count:,}") for name, count in found.domains.items()]
    columns = [(file, ", ".join(names)) for file, names in found.columns.items()]
    counts = [(key.replace(".", " · "), _cell(value)) for key, value in _flat(found)]
    tables = [
        _Table("Good rows of each domain", "", ("domain", "rows"), domains),
        _Table("Columns", "", ("file", "columns"), columns),
        _Table("When the files were read", found.stopped, ("what", "count"), counts),
    ]
    return _Page(
        f"Data: {sum(found.domains.values()):,} good rows, of which no corpus was made",
        [part for part in tables if part.lines],
        [
            (
                _printable(f"{row.domain}, {place}", kept=""),
                (Piece(f"{row.question}\n", False), Piece(row.response, True)),
            )
            for place, row in found.shown
        ],
    )


def _flat(found: Survey) -> list[tuple[str, object]]:
    return list(labels.flatten(found.tally.report()))


def _title(card: Card) -> str:
    total = sum(card.rows["train"])
    return (
        f"Data: {total:,} training rows of at most {card.length} tokens, "
        f"{len(card.domains)} domain{'' if len(card.domains) == 1 else 's'}, "
        f"template {card.template}"
    )


def _tables(card: Card) -> list[_Table]:
    makers: list[Callable[[Card], _Table]] = [
        _rows_per_split,
        _histogram,
        _lengths_per_domain,
        _repeats,
        _left_out,
        *([_report] if card.report else []),
    ]
    return [make(card) for make in makers]


def _rows_per_split(card: Card) -> _Table:
    counts = [[card.rows[split][i] for split in SPLITS] for i in range(len(card.domains))]
    lines = [
        (name, *(f"{count:,}" for count in line))
        for name, line in zip(card.domains, counts, strict=True)
    ]
    total = ("all", *(f"{sum(card.rows[split]):,}" for split in SPLITS))
    corrupted = card.corrupted / max(sum(card.rows["train"]), 1)
    note = (
        f"{card.corrupted:,} of the training rows ({_percent(corrupted)}) are corrupted on purpose."
    )
    return _Table(
        "Rows of each split",
        note if card.corrupted else "",
        ("domain", *SPLITS),
        _with_total(lines, total),
    )


def _histogram(card: Card) -> _Table:
    most = max(part.rows for part in card.histogram)
    return _Table(
        "Tokens of a row",
        f"{_read(card, 'train')} Prompt, response and closing token; padding left out.",
        ("tokens", "rows"),
        [(f"{part.first}–{part.last}", f"{part.rows:,}") for part in card.histogram],
        [part.rows / max(most, 1) for part in card.histogram],
    )


def _lengths_per_domain(card: Card) -> _Table:
    lines = [
        _lengths_line(name, part) for name, part in zip(card.domains, card.lengths, strict=True)
    ]
    return _Table(
        "Tokens that are learnt",
        f"{_read(card, 'train')} Label share: tokens with a loss, of all that are no padding.",
        ("domain", "rows read", "tokens, mean", "longest", "learnt, mean", "label share"),
        _with_total(lines, _lengths_line("all", card.total)),
    )


def _lengths_line(name: str, part: Lengths) -> tuple[str, ...]:
    if not part.rows:
        return (name, "0", *[NOTHING] * 4)
    return (
        name,
        f"{part.rows:,}",
        f"{part.tokens / part.rows:.1f}",
        f"{part.longest:,}",
        f"{part.learnt / part.rows:.1f}",
        _percent(part.label_share),
    )


def _repeats(card: Card) -> _Table:
    partial = [split for split in SPLITS if card.read[split] < sum(card.rows[split])]
    notes = ["Rows whose text stands in another row too, white space and case aside."]
    notes += [_read(card, split) for split in partial]
    if partial:
        notes.append("Rows that were not read may hold more.")
    lines = [
        (
            _between(part.splits),
            f"{part.rows:,}",
            *(f"{count:,}" for count in (part.prompts, part.responses, part.both)),
        )
        for part in card.repeats
    ]
    return _Table(
        "Duplicates",
        " ".join(notes),
        ("rows", "read", "same prompt", "same response", "both"),
        lines,
    )


def _between(splits: Sequence[str]) -> str:
    first, *second = splits
    return f"{second[0]}, also in {first}" if second else f"within {first}"


def _left_out(card: Card) -> _Table:
    columns = ["split", f"left out: over {card.length} tokens", "prompt cut from the left"]
    lines = [[split, str(card.left_out[split]), str(card.cut[split])] for split in card.left_out]
    refused = {split: rows for split, rows in card.refused.items() if rows.rows}
    if refused:
        columns.append("left out: refused by the template")
        for line in lines:
            line.append(str(refused.get(line[0], 0)))
    note = "".join(f"Of the first of {s}: {rows.reason}. " for s, rows in refused.items())
    return _Table("Left out or cut", note, columns, lines)


def _report(card: Card) -> _Table:
    """What reading the files counted; a list is one cell."""
    lines = [(key.replace(".", " · "), _cell(value)) for key, value in labels.flatten(card.report)]
    return _Table("When the files were read", "", ("what", "count"), lines)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _with_total(lines: Sequence[Sequence[str]], total: Sequence[str]) -> list[Sequence[str]]:
    return [*lines, total] if len(lines) > 1 else list(lines)


def _read(card: Card, split: str) -> str:
    read, total = card.read[split], sum(card.rows[split])
    if read == total:
        return f"All {total:,} rows of {split}."
    return f"{read:,} rows of {split} at random, of {total:,}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _legend(colours: bool) -> str:
    if not colours:
        return "What is learnt stands between ⟦ and ⟧, tokens without text between ⟨ and ⟩."
    marker = f"{_FRAME}inverted{_PLAIN}"
    return f"{_DIM}Prompt{_PLAIN}, {_COLOUR}learnt{_PLAIN}, {marker}: tokens without text."


def _caption(row: ShownRow) -> str:
    corrupted = ", corrupted" if row.corrupted else ""
    domain = _printable(row.domain, kept="")
    return f"{domain}, id {row.id}: {row.tokens} tokens, {row.learnt} of them learnt{corrupted}"


def _row_text(pieces: Sequence[Piece], colours: bool) -> str:
    if colours:
        return "".join(map(_coloured, pieces))
    text, is_learnt = "", False
    for piece in pieces:
        if piece.is_learnt != is_learnt:
            text += "⟦" if piece.is_learnt else "⟧"
            is_learnt = piece.is_learnt
        text += f"⟨{piece.text}⟩" if piece.is_marker else _printable(piece.text)
    return text + ("⟧" if is_learnt else "")


def _coloured(piece: Piece) -> str:
    colour = _COLOUR if piece.is_learnt else _DIM
    if piece.is_marker:
        return f"{colour}{_FRAME}{piece.text}{_PLAIN}"
    return f"{colour}{_printable(piece.text)}{_PLAIN}"


def _span(piece: Piece) -> str:
    name = "learnt" if piece.is_learnt else "prompt"
    kind = f"{name} marker" if piece.is_marker else name
    return f'<span class="{kind}">{escape(_printable(piece.text))}</span>'


def _printable(text: str, kept: str = "\n\t") -> str:
    """The text with its control characters replaced: data must not steer a terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) == "Cc" and character not in kept
        else character
        for character in text
    )
