"""From rows, anchors and a model to the chosen rows: every stage goes on where it was stopped."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from partitionsel_jax import __version__, data, offline
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.data.own_anchors import OwnAnchors, read_anchors
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients import Scope
from partitionsel_jax.json_files import write_json
from partitionsel_jax.step import programs
from partitionsel_jax.step.state import fingerprint
from partitionsel_jax.subset import features as feature_files
from partitionsel_jax.subset import writing
from partitionsel_jax.subset.choosing import Request, check, choose, held_out, held_out_share
from partitionsel_jax.subset.describing import describe
from partitionsel_jax.subset.features import Extractor, Joined, Kept, Matrix, Shards
from partitionsel_jax.subset.loading import Chooser, Loaded, load
from partitionsel_jax.subset.table import Files, Table, read_table
from partitionsel_jax.subset.warming import warm_up
from partitionsel_jax.training import workdir

_LOG = logging.getLogger(__name__)

SUMMARY = "summary.json"
# Below the output: what is kept, so that another size or utility takes seconds.
_WORK = "work"
# Share of the rows that adapters are trained on first.
WARMUP = 0.05
# Batches are as wide as the longest row, or these shares of it.
_WIDTHS = (0.25, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Reader:
    """How rows become tokens.

    Attributes:
      kind: of the source, one of `data.sources.KINDS`.
      columns: fields of `data.sources.Columns` that the user has named.
      length: tokens of a row; longer prompts lose their beginning.
      template: one of `data.TEMPLATES`; "auto" for the tokenizer's chat template if it has one.
    """

    kind: str = "instructions"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    length: int = 512
    template: str = "auto"


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Which gradients are compared, and how they become features.

    Attributes:
      dim: of the sketch.
      last_layers: those that are differentiated, 0: all. None: with an adapter all, else two.
      microbatch: rows in one backward pass.
      seed: of the sketch.
    """

    dim: int = 1024
    last_layers: int | None = None
    microbatch: int = 16
    seed: int = 0

    def settings(self, loaded: Loaded) -> FeatureSettings:
        """The same for a model: of one with an adapter, the adapter's parameters alone."""
        adapted, layers = loaded.model.lora.rank > 0, self.last_layers
        return FeatureSettings(
            parameters="lora" if adapted else "full",
            last_layers=min(0 if adapted else 2, loaded.model.config.layers)
            if layers is None
            else layers,
            family="two_sided",
            dim=self.dim,
            microbatch=self.microbatch,
            seed=self.seed,
            normalize=False,
        )


def make(
    choosers: Sequence[Chooser],
    rows: str,
    anchors: str,
    request: Request,
    output: str,
    *,
    reader: Reader = Reader(),
    gradients: Gradients = Gradients(),
    warmup: float = WARMUP,
    part: tuple[int, int] = (1, 1),
    form: str = "jsonl",
    overwrite: bool = False,
) -> Path | None:
    """Chooses rows of files to train on, and writes them as they were.

    What is computed on the way is kept under `output/work`: after a stop the same call goes on, and
    another request with `overwrite` takes what there is. The outcome is the same either way.

    Args:
      choosers: whose gradients are compared; of several, cosines are added up.
      rows: a file or directory of rows, or a hub's repository.
      anchors: a file or directory of what the model is to get good at; or a share such as "10%",
        of every domain's rows, which are then not chosen.
      request: how many, and how.
      output: a directory, new or of earlier work.
      reader: how rows become tokens.
      gradients: which, and the sketch.
      warmup: share of the rows, at random, that adapters are trained on before their gradients are
        taken, see `warm_up`; 0 to take the model's own. A model with an adapter and a finished run
        have had theirs.
      part: (I, N) computes the Ith of N parts of the features alone, I from 1.
      form: of the chosen rows, see `writing.write`.
      overwrite: whether an earlier choice may be replaced.

    Returns:
      The file or directory of the chosen rows; None for a part.

    Raises:
      ValueError: whatever does not fit, before it costs time where that can be known.
    """
    for name, path in (("data", rows), ("anchors", anchors), ("output", output)):
        if "://" in path:
            raise ValueError(f"{name}: expected a path on this machine, got {path!r}")
    if form not in writing.FORMS:
        raise ValueError(f"unknown form {form!r}; choose one of {', '.join(writing.FORMS)}")
    began, folder = time.perf_counter(), Path(output)
    if not overwrite and (folder / SUMMARY).exists():
        raise ValueError(
            f"output: {folder} holds a choice of rows; choose another directory, or pass "
            "--overwrite to replace it"
        )
    share = held_out_share(anchors)
    files = Files.find(rows, reader.kind, reader.columns)
    writing.check_free(files.files)
    _LOG.info("columns  %s", _spelt(files))
    (folder / _WORK).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Parts are of one output on purpose.
        if part == (1, 1):
            stack.enter_context(workdir.locked(folder / _WORK, "choosing rows", "--output"))
        own = None if share else _own_anchors(anchors, reader)
        inputs = _Inputs(files, own, share, reader)
        seen = []
        for number, chooser in enumerate(choosers):
            work = folder / _WORK / f"model-{number}"
            seen.append(_see(chooser, inputs, request, gradients, warmup, work, part))
        if part != (1, 1):
            _LOG.info("part %d of %d is done: run it without --shard once all are there", *part)
            return None
        about = {
            "request": dataclasses.asdict(request),
            "reader": dataclasses.asdict(reader),
            "choosers": [dataclasses.asdict(chooser) for chooser in choosers],
            "gradients": dataclasses.asdict(gradients),
            "warmup": warmup,
        }
        written = _finish(folder, seen, inputs, request, gradients.dim, form, about)
    _LOG.info("%.1f s: %s", time.perf_counter() - began, written)
    return written


class _Inputs(NamedTuple):
    """Files that are read, and how.

    Attributes:
      files: of the rows.
      own: the files of anchors, and what they ask; None where some of the rows are anchors.
      share: of the rows that are anchors; 0.0 where these have files of their own.
      reader: how rows become tokens.
    """

    files: Files
    own: tuple[Files, OwnAnchors] | None
    share: float
    reader: Reader


class _Seen(NamedTuple):
    """Rows and anchors as a model reads them.

    Attributes:
      loaded: the model, while its features are computed; then None.
      template: one of `data.TEMPLATES`.
      table: of the rows.
      anchor_table: of anchors of their own; None where some of the rows are anchors.
    """

    loaded: Any
    template: str
    table: Table
    anchor_table: Table | None


class _Pool(NamedTuple):
    """Rows that can be chosen, and anchors.

    Attributes:
      table: of all rows.
      rows: i64[N], those of them that can be chosen.
      held_out: i64[H], those that are anchors.
      anchor_domains: i32[A], of all anchors, places in the table's names; -1 for others.
    """

    table: Table
    rows: np.ndarray
    held_out: np.ndarray
    anchor_domains: np.ndarray


def _own_anchors(path: str, reader: Reader) -> tuple[Files, OwnAnchors]:
    """The files of anchors, and what they ask."""
    files = Files.find(path, reader.kind, reader.columns)
    return files, read_anchors(reader.kind, path, columns=files.columns, domains=())


def _see(
    chooser: Chooser,
    inputs: _Inputs,
    request: Request,
    gradients: Gradients,
    warmup: float,
    work: Path,
    part: tuple[int, int],
) -> _Seen:
    """Lets a model read rows and anchors, and computes the features that are not there yet."""
    seen = _read(chooser, inputs, work)
    pool = _pool(seen, inputs.share, request.seed)
    check(request, pool.table.domains[pool.rows], pool.table.names, pool.anchor_domains)
    if warmup and seen.loaded.checkpoint:
        loaded = warm_up(
            *(seen.loaded, inputs.files, pool.table, pool.rows, warmup),
            *(inputs.reader.length, seen.template, request.seed, work / "warm-up"),
        )
        seen = seen._replace(loaded=loaded)
    _compute(seen, _manifests(seen, chooser, inputs), gradients, work, part)
    return seen._replace(loaded=None)


def _finish(
    folder: Path,
    seen: Sequence[_Seen],
    inputs: _Inputs,
    request: Request,
    dim: int,
    form: str,
    about: Mapping[str, Any],
) -> Path:
    """Chooses and writes; where the chosen rows are."""
    if len({len(each.table) for each in seen}) > 1:
        raise ValueError(
            f"the models read {', '.join(str(len(each.table)) for each in seen)} rows, since some "
            "do not fit into --length by one tokenizer: enlarge it, or leave the longest rows out"
        )
    pool = _pool(seen[0], inputs.share, request.seed)
    table, files = pool.table, inputs.files
    features, anchors = _matrices(seen, pool, dim, folder / _WORK)
    domains = table.domains[pool.rows]
    picked = choose(request, features, anchors, domains, table.names, pool.anchor_domains)
    names = tuple(file.name for file in files.files)
    picks = writing.picks_of(
        pool.rows[picked.indices],
        *(picked.weights, picked.gains, table.files, table.numbers, names),
    )
    path = writing.write(folder, writing.chosen_rows(files.files, picks), form)
    described = describe(picked, features, anchors, table, pool.rows, files, request.seed)
    columns = {"columns": dataclasses.asdict(files.columns)}
    summary = {**_summary(pool, picked), **described._asdict(), **columns, **about}
    write_json(folder / SUMMARY, summary)
    _LOG.info("%d of %d rows chosen", len(picked.indices), len(pool.rows))
    return path


def _read(chooser: Chooser, inputs: _Inputs, work: Path) -> _Seen:
    """Loads a model, and reads rows and anchors as it does."""
    loaded = load(chooser)
    context, length = loaded.model.config.context, inputs.reader.length
    if context and length > context:
        raise ValueError(
            f"length={length} exceeds the context of {chooser.model}, {context} tokens: shorten it"
        )
    template = _template(inputs.reader.template, loaded.tokenizer)
    how, anchor_table, asked = (loaded.tokenizer, length, template), None, None
    # Anchors first: they are few, and what is wrong with them shows at once.
    if inputs.own is not None:
        files, asked = inputs.own
        anchor_table = read_table(files, *how, None, str(work / "anchors"))
    table = read_table(inputs.files, *how, asked, str(work / "rows"))
    return _Seen(loaded, template, table, anchor_table)


def _manifests(seen: _Seen, chooser: Chooser, inputs: _Inputs) -> dict[str, dict[str, Any]]:
    """Gives for "rows" and "anchors" everything that their features depend on but the sketch."""
    # No paths: machines that share the work may have the same things in other places.
    both = {
        "dtype": chooser.dtype,
        "weights": int(fingerprint(seen.loaded.parameters)),
        "tokenizer": seen.loaded.tokenizer.fingerprint,
        "length": inputs.reader.length,
        "template": seen.template,
    }
    found, asked = {}, ""
    if inputs.own is not None:
        files, anchors = inputs.own
        found, asked = {"anchors": {**both, **files.about}}, anchors.fingerprint
    return found | {"rows": {**both, **inputs.files.about, "without what these ask": asked}}


def _compute(
    seen: _Seen,
    manifests: Mapping[str, Mapping[str, Any]],
    gradients: Gradients,
    work: Path,
    part: tuple[int, int],
) -> None:
    """Computes the features that are not there yet."""
    loaded, settings = seen.loaded, gradients.settings(seen.loaded)
    layout = spmd.Layout(tuple(jax.devices()), "pmap", False)
    parameters = layout.place(loaded.parameters)
    scope = Scope(settings.parameters, settings.last_layers, loaded.model.config.layers)
    # How many rows go through the model at a time decides the time alone.
    about = {**dataclasses.asdict(settings), "microbatch": None}
    tables = {"anchors": seen.anchor_table, "rows": seen.table}
    found = {what: table for what, table in tables.items() if table is not None}
    longest = max(int(table.lengths.max()) for table in found.values())
    widths = tuple(sorted({max(2, math.ceil(longest * share)) for share in _WIDTHS}))
    extractor = Extractor(loaded.model, parameters, scope, settings, layout, widths)
    programs.make_room()
    for what, table in found.items():
        manifest, pad = {**manifests[what], "features": about}, loaded.tokenizer.pad_id
        feature_files.compute(work / what, table, extractor, manifest, pad, what, part)


def _pool(seen: _Seen, share: float, seed: int) -> _Pool:
    """All rows, without those that are held out as anchors."""
    table, rows = seen.table, np.arange(len(seen.table))
    if seen.anchor_table is None:
        is_anchor = held_out(table, share, seed)
        return _Pool(table, rows[~is_anchor], rows[is_anchor], table.domains[is_anchor])
    places = {name: place for place, name in enumerate(table.names)}
    domains = np.array([places.get(name, -1) for name in seen.anchor_table.names], np.int32)
    return _Pool(table, rows, rows[:0], domains[seen.anchor_table.domains])


def _matrices(seen: Sequence[_Seen], pool: _Pool, dim: int, work: Path) -> tuple[Matrix, Matrix]:
    """Features of what can be chosen, and of the anchors."""

    def joined(what: str, count: int) -> Matrix:
        parts = [Shards(work / f"model-{number}" / what, count, dim) for number in range(len(seen))]
        return parts[0] if len(parts) == 1 else Joined(parts)

    rows = joined("rows", len(pool.table))
    if seen[0].anchor_table is None:
        return Kept(rows, pool.rows), Kept(rows, pool.held_out)
    return rows, joined("anchors", len(seen[0].anchor_table))


def _summary(pool: _Pool, picked: offline.OfflineSelection) -> dict[str, Any]:
    table, domains = pool.table, len(pool.table.names)
    known = pool.anchor_domains[pool.anchor_domains >= 0]
    return {
        "rows": len(table),
        "reasons": table.counts,
        "candidates": len(pool.rows),
        "anchors": len(pool.anchor_domains),
        "domains": list(table.names),
        "rows_per_domain": np.bincount(table.domains[pool.rows], minlength=domains).tolist(),
        "anchors_per_domain": np.bincount(known, minlength=domains).tolist(),
        "budgets": picked.budgets.tolist(),
        "picks_per_domain": picked.picks_per_domain.tolist(),
        "picked": len(picked.indices),
        "picks_with_weight": int(np.sum(picked.weights > 0)),
        "utility_reached": picked.utility if math.isfinite(picked.utility) else None,
        "dropped": picked.dropped,
        "versions": {"partitionsel_jax": __version__}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
    }


def _spelt(files: Files) -> str:
    return ", ".join(
        f"{field} = {name!r}" for field, name in dataclasses.asdict(files.columns).items() if name
    )


def _template(name: str, tokenizer: data.Tokenizer) -> str:
    if name != "auto":
        data.check_template(name, tokenizer)
        return name
    try:
        data.check_template("chat", tokenizer)
    except ValueError:
        return "plain"
    return "chat"
