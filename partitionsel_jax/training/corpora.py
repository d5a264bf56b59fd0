"""Corpora of runs: prepared when they are not yet, and opened as the settings say."""

import dataclasses
import logging
import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax import data, evaluation
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.data_section import REASONING_GYM, DataSettings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.fitting import Named
from partitionsel_jax.data.sources.scanning import Survey, spelt
from partitionsel_jax.data.sources.scanning import survey as read_survey
from partitionsel_jax.training import starts

_LOG = logging.getLogger(__name__)

# What answers to the questions of each kind of file are judged by.
_SCORERS = {"metamathqa": "mathematics", "mol_instructions": "molecules", "instructions": "text"}

# What was loaded last: most runs of an ablation have the same corpus as the run before.
_LOADED: dict[Hashable, data.Corpus] = {}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a configuration's paths mean the same anywhere, and notes the domains of its files.

    Which domains there are is only known once the files are prepared. They are noted as `found`:
    `domains` stays what was asked for, which decides what is prepared.

    Raises:
      ValueError: data settings that do not fit, or files that `data.prepare_files` refuses.
    """
    section = dict(config["data"])
    for field in ("path", "anchors_path"):
        path = os.path.expanduser(section.get(field) or "")
        if path and os.path.exists(path):
            section[field] = os.path.abspath(path)
    settings = run_settings.build(DataSettings, section, "data")
    if settings.source != REASONING_GYM and not settings.domains:
        section["found"] = list(prepare(settings).info.metadata["domains"])
    return {**config, "data": section}


def check(settings: Settings) -> None:
    """Makes sure that answers can be judged, and that a step's anchors can be drawn.

    Raises:
      ValueError: a package is missing that answers are judged with, or there are too few anchors
        even if every domain has the validation rows that are asked for.
    """
    chosen, anchors = settings.data, settings.selection.anchors
    if chosen.source != REASONING_GYM:
        evaluation.check_scorer(_scorer_name(chosen))
    drawn = not (chosen.anchors_path or settings.selection.recorded)
    most = round(chosen.validation / 2) * len(chosen.targets)
    if drawn and anchors > most:
        raise ValueError(
            f"selection.anchors={anchors} exceeds the {most} rows that anchors are drawn from, "
            f"half of the data.validation={chosen.validation} rows of each of "
            f"{len(chosen.targets)} domains: enlarge data.validation or take fewer anchors"
        )


def prepare(settings: DataSettings) -> Any:
    """Returns the TFDS builder of the corpus, written when it is not there yet."""
    directory = settings.directory or epath.Path("~/.cache/partitionsel_jax").expanduser()
    sizes = {split: getattr(settings, split) for split in data.SPLITS}
    if settings.source == REASONING_GYM:
        return data.prepare(settings.task_list, **sizes, seed=settings.seed, directory=directory)
    return data.prepare_files(
        settings.source,
        settings.path,
        **sizes,
        seed=settings.seed,
        directory=directory,
        columns=settings.columns,
        domains=settings.domains,
    )


def survey(config: Mapping[str, Any]) -> Survey | None:
    """Surveys the files of a configuration, whether or not a corpus can be made of them.

    Returns None where there are no files, or no settings to read them by.
    """
    try:
        settings = run_settings.build(DataSettings, dict(config["data"]), "data")
        if settings.source == REASONING_GYM:
            return None
        return read_survey(settings.source, settings.path, settings.columns)
    except (ValueError, OSError):
        return None


def load(settings: Settings) -> data.Corpus:
    """Opens the corpus of a run, prepared when it is not yet, corrupted as asked."""
    chosen = settings.data
    anchors = own_anchors(chosen)
    if anchors is not None:
        _check_foreign(settings, anchors.foreign)
    builder, tokenizer = prepare(chosen), starts.tokenizer(settings)
    own = None if anchors is None else anchors.fingerprint
    # A builder's name holds a digest of its content.
    content = builder.info.full_name, str(builder.data_dir), tokenizer.fingerprint, own
    key = *content, chosen.length, chosen.seed, chosen.template, chosen.noise
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = data.load(
            builder,
            tokenizer,
            chosen.length,
            chosen.seed,
            template=chosen.template,
            noise_kind=chosen.noise.kind,
            noise_share=chosen.noise.share,
            anchors=anchors,
        )
    corpus = _LOADED[key]
    _tell(corpus, chosen.length)
    if chosen.target_domains:
        corpus = corpus.held_out_of(chosen.targets)
    if anchors is not None:
        _check_anchors(settings, corpus)
    if chosen.train_on == "rows":
        return corpus
    rows = () if chosen.train_on == "anchors" else (corpus.train,)
    corpus = dataclasses.replace(corpus, train=data.joined("train", *rows, corpus.anchors))
    if settings.selection.pool > len(corpus.train):
        raise ValueError(
            f"selection.pool={settings.selection.pool} exceeds the {len(corpus.train)} rows that "
            f"data.train_on={chosen.train_on!r} leaves: shrink the pool, or enlarge data.validation"
        )
    return corpus


def own_anchors(settings: DataSettings) -> data.OwnAnchors | None:
    """Reads the rows of `anchors_path`, where there is one.

    Raises:
      ValueError: what `data.read_anchors` refuses.
    """
    if not settings.anchors_path:
        return None
    return data.read_anchors(
        "instructions" if settings.source == REASONING_GYM else settings.source,
        settings.anchors_path,
        columns=settings.columns,
        domains=settings.names,
    )


def _tell(corpus: data.Corpus, length: int) -> None:
    """Logs what of the files is not in the corpus."""
    report = corpus.report
    if "read" in report:
        duplicates = sum(report["duplicates"]["train"].values())
        skipped, bad = (
            sum(reason["rows"] for reason in report[what].values()) for what in ("skipped", "bad")
        )
        _LOG.info(
            f"corpus  {len(corpus.train)} training rows in {len(corpus.domains)} domains of "
            f"{report['read']} rows read, {skipped} of other domains, {bad} bad; {duplicates} left "
            "out because validation or test rows nearly ask the same"
        )
        _tell_places("bad rows", report["bad"])
        _tell_places("rows passed over", report["skipped"])
        _tell_places("ignored", report.get("ignored", {}))
        if unread := report.get("unread"):
            _LOG.info("columns that are not read: %s", ", ".join(map(repr, unread)))
        if report["left_out"]:
            _LOG.info("rows left out: %s", report["left_out"])
    if anchors := report.get("anchors"):
        _tell_places("bad anchors", anchors["bad"])
        _LOG.info(
            f"anchors  {len(corpus.anchors)} of data.anchors_path; {anchors['scored elsewhere']} "
            f"left out because validation or test rows ask them, and {anchors['training rows']} "
            "training rows because these anchors do"
        )
    for split, rows in corpus.refused.items():
        if rows.rows:
            _LOG.warning("rows of %s that the template refuses: %s: %s", split, rows, rows.reason)
    for what, counts in (
        ("left out, since their responses do not fit", corpus.left_out),
        ("with a prompt cut from the left", corpus.cut),
    ):
        if found := [f"{split} {rows}" for split, rows in counts.items() if rows.rows]:
            _LOG.warning("rows %s in data.length=%d: %s", what, length, "; ".join(found))


def _tell_places(what: str, places: Mapping[str, Any]) -> None:
    for reason, rows in places.items():
        named = Named(rows["rows"], tuple(map(spelt, rows["first"])))
        _LOG.warning("%s: %s: %s", what, reason, named)


def _check_anchors(settings: Settings, corpus: data.Corpus) -> None:
    """Raises ValueError if a step wants more anchors of the user's own than there are."""
    chosen, found = settings.selection, corpus.report["anchors"]
    counts = np.bincount(corpus.anchors.domains, minlength=len(corpus.domains))
    balanced = chosen.anchor_balance
    most = int(counts.min() * len(counts) if balanced else counts.sum())
    if chosen.anchors <= most:
        return
    each = zip(counts, corpus.domains, strict=True)
    have = ", ".join(f"{count} of {name}" for count, name in each) if balanced else str(most)
    remedies = [f"selection.anchors to at most {most}"] if most or not balanced else []
    remedies += ["selection.anchor_balance=False"] if balanced else []
    remedy = f"set {', or '.join(remedies)}"
    raise ValueError(
        f"expected selection.anchors={chosen.anchors} rows"
        f"{', as many of each domain,' if balanced else ''} in "
        f"data.anchors_path={settings.data.anchors_path!r}, got {have}, of {found['read']} rows "
        f"read: {corpus.left_out['anchors'].rows} do not fit into "
        f"data.length={settings.data.length}, {found['scored elsewhere']} ask what "
        f"validation or test rows ask; {remedy}, or name a file that holds more"
    )


def _check_foreign(settings: Settings, foreign: int) -> None:
    """Raises ValueError if something wants to know the domains of anchors that have none here."""
    chosen = settings.selection
    wanting = {
        "selection.anchor_balance=True": chosen.anchor_balance,
        "selection.anchor_mean='balanced'": chosen.anchor_mean == "balanced",
        "selection.budgets='curriculum'": chosen.budgets == "curriculum",
        "selection.budgets='anchors'": chosen.budgets == "anchors",
        f"data.train_on={settings.data.train_on!r}": settings.data.train_on != "rows",
    }
    asked = [name for name, wants in wanting.items() if wants]
    if foreign and asked:
        raise ValueError(
            f"{foreign} rows of data.anchors_path={settings.data.anchors_path!r} are of none of "
            f"the domains {', '.join(settings.data.names)}, and {' and '.join(asked)} go by them: "
            "change that, or give the rows domains"
        )


def scorers(settings: Settings) -> dict[str, evaluation.Scorer]:
    """Returns the scorer of each domain's answers, in order."""
    chosen = settings.data
    if chosen.source == REASONING_GYM:
        return {task[0]: evaluation.task_scorer(task) for task in chosen.task_list}
    return dict.fromkeys(chosen.names, evaluation.SCORERS[_scorer_name(chosen)])


def _scorer_name(settings: DataSettings) -> str:
    return settings.scorer or _SCORERS[settings.source]
