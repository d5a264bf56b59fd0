"""Corpora from files as TFDS builders: array_record, read and written without TensorFlow."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from partitionsel_jax.data.sources.files import (
    changed,
    content_digest,
    locate,
    source_files,
)
from partitionsel_jax.data.sources.layouts import SPLITS
from partitionsel_jax.data.sources.scanning import Places, spelt
from partitionsel_jax.data.sources.schemas import DOMAINS, Columns, domain_order, listed, schema_of
from partitionsel_jax.data.sources.splitting import Plan, Sizes, make_plan
from partitionsel_jax.data.sources.writing import opened, prepared, serialise

_TEXTS = ("question", "response", "answer", "messages", "entry", "place")
# Rows are read one by one, in any order. Snappy takes half the time of the default compression and
# half as much room again.
_OPTIONS = "group_size:1,snappy"


class FilesBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Rows of files, with a domain each, in splits that share no question (`Row.group`).

    Features: id (unique over all splits: the place among the source's good rows), domain, question,
    response, answer, messages (JSON of the conversation up to the response, where it is more than
    the question), entry (JSON of what else was published with the row), place (where it was read,
    such as "train.json row 17"). `builder.info.metadata` has the names of
    the "domains" and a "report" of what happened to every row.
    """

    VERSION = tfds.core.Version("1.4.0")
    # What the rows are written from, while they are, and the digest of its files.
    plan: Plan
    files_digest = ""
    # Nothing is downloaded. Looking for checksums, TFDS would import a package it does not require.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the features."""
        texts = {name: tfds.features.Text() for name in _TEXTS}
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"id": np.int64, "domain": np.int64, **texts}),
            metadata=tfds.core.MetadataDict(),
        )

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Writes the planned rows of all splits in one pass, and then what is known of them."""
        # TFDS's own writer keeps a split in memory before it writes it, and is five times as slow.
        plan, left_out = self.plan, Places()
        domain, names = plan.scan.domain, plan.scan.domains
        counts, sizes = np.zeros((len(SPLITS), len(names)), np.int64), [0] * len(SPLITS)
        templates = [self._get_filename_template(split_name=split) for split in SPLITS]
        with contextlib.ExitStack() as stack:
            paths = [t.sharded_filepath(shard_index=0, num_shards=1) for t in templates]
            writers = [ArrayRecordWriter(os.fspath(path), _OPTIONS) for path in paths]
            for writer in writers:
                stack.callback(writer.close)
            for split, place, number, row in plan.rows(left_out):
                numbers = {"id": number, "domain": int(domain[number])}
                record = serialise(numbers, {**row.texts, "place": spelt(place)})
                writers[split].write(record)
                sizes[split] += len(record)
                counts[split, numbers["domain"]] += 1
        if not all(f.path.exists() for f in plan.files) or (
            content_digest(plan.files) != self.files_digest
        ):
            raise changed()
        if empty := [name for name, rows in zip(names, counts[0], strict=True) if not rows]:
            raise ValueError(
                f"expected training rows of every domain, got none of {listed(empty)}: all of "
                "them are near-duplicates of validation or test rows; ask for fewer of those, or "
                f"leave the domain out by listing the others in {DOMAINS}"
            )
        self.info.metadata["domains"] = list(names)
        self.info.metadata["report"] = plan.report(counts, left_out)
        return [
            tfds.core.SplitInfo(
                name=split, shard_lengths=[rows], num_bytes=size, filename_template=template
            )
            for split, rows, size, template in zip(
                SPLITS, counts.sum(1).tolist(), sizes, templates, strict=True
            )
        ]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        """Not asked for: `_generate_splits` writes all splits in one pass."""
        raise NotImplementedError

    _generate_examples = _split_generators


class MetaMathQA(FilesBuilder):
    """MetaMathQA (Yu et al. 2023, arXiv 2309.12284): a domain for every kind of augmentation."""


class MolInstructions(FilesBuilder):
    """Mol-Instructions (Fang et al. 2023, arXiv 2306.08018): what answers with molecules."""


class Instructions(FilesBuilder):
    """Instructions and responses, or conversations, of a user's own files."""


BUILDERS = {
    "metamathqa": MetaMathQA,
    "mol_instructions": MolInstructions,
    "instructions": Instructions,
}


def prepare_files(
    kind: str,
    path: str | os.PathLike[str],
    *,
    validation: int,
    test: int,
    train: int = 0,
    seed: int,
    directory: str | os.PathLike[str],
    columns: Columns | None = None,
    domains: Sequence[str] = (),
) -> FilesBuilder:
    """Reads a source of files and writes it as a corpus, unless `directory` has it already.

    The source is read as a stream: memory grows by a few dozen bytes a row and with the validation
    and test rows, and all that were published for testing. The corpus has a place of its own for
    every choice of the arguments and every content of the files, so that it is prepared again when
    they change.

    Args:
      kind: one of `KINDS`.
      path: a file or a directory; where nothing is there, a hub's dataset repository as
        "owner/name"; "" for the one that the kind is published in.
      validation, test: rows per domain, each of another question.
      train: at most so many rows per domain; 0 for all the rest.
      seed: data seed.
      directory: TFDS data directory.
      columns: of instructions, the names of their columns; the default `Columns()`.
      domains: those wanted, in order; () for all that the kind has or the rows name. A row of
        another domain is passed over and counted, unless the kind does not have it: then it is a
        bad row.

    Returns:
      The builder, ready for `as_data_source` and `load`.

    Raises:
      ValueError: an unknown kind, domain or column; a source that is not there, damaged, changed
        while it was read, or has more than 1 % bad rows; a domain with fewer questions than its
        splits need; prepared records that were damaged since. Nothing is written then.
    """
    columns = Columns() if columns is None else columns
    sizes = Sizes(validation, test, train)
    if min(validation, test) < 1 or train < 0:
        raise ValueError(
            "expected at least 1 row per domain in validation and in test, and 0 (all) or more in "
            f"train, got {sizes}"
        )
    schema = schema_of(kind, columns)
    chosen = domain_order(kind, schema, domains)
    files = source_files(locate(path, schema.repository, schema.patterns), schema.leave_out)
    files_digest = content_digest(files)
    content = {
        "kind": kind,
        "columns": dataclasses.asdict(columns),
        "domains": chosen,
        "sizes": sizes._asdict(),
        "seed": int(seed),
        "builder": str(FilesBuilder.VERSION),
        "files": files_digest,
        # A README may name them, and is not among the files.
        "splits": [file.split for file in files],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    config = tfds.core.BuilderConfig(name=digest[:16])
    folder = os.fspath(epath.Path(directory) / kind / config.name)
    open_builder = functools.partial(BUILDERS[kind], data_dir=os.fspath(directory), config=config)
    if not opened(open_builder, folder).data_path.exists():
        plan = make_plan(files, schema, chosen, sizes, seed)

        def open_planned() -> FilesBuilder:
            builder = open_builder()
            builder.plan, builder.files_digest = plan, files_digest
            return builder

        prepared(open_planned, folder)
    # Without the plan, which holds texts, and which every worker that reads would be sent.
    return opened(open_builder, folder)
