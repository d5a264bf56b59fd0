"""A model that answers in text: what a run has learnt, or a checkpoint, adapted or not."""

import dataclasses
import os
from collections.abc import Collection, Sequence
from typing import Any

from partitionsel_jax import data, models
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.generation import distinct_entries
from partitionsel_jax.models import pretrained as checkpoints
from partitionsel_jax.step.state import fingerprint
from partitionsel_jax.training import starts


@dataclasses.dataclass(frozen=True, eq=False)
class Answering:
    """A decoder (its parameters with adapters), its tokenizer, and one of `data.TEMPLATES`.

    Answers are greedy.
    """

    model: models.Model
    parameters: dict[str, Any] = dataclasses.field(repr=False)
    tokenizer: data.Tokenizer
    template: str

    @property
    def identity(self) -> dict[str, Any]:
        """Describes all that decides its answers, by content: the same wherever its files lie."""
        return {
            "weights": int(fingerprint(self.parameters)),
            "tokenizer": self.tokenizer.fingerprint,
            "template": self.template,
            "dtype": self.model.config.dtype,
        }

    def fits(self, prompt: str, new_tokens: int) -> bool:
        """Returns whether the model's context holds a prompt and an answer of so many tokens."""
        context = self.model.config.context
        return not context or len(self._ids(prompt)) + new_tokens <= context

    def answers(self, prompts: Sequence[str], new_tokens: int) -> list[str]:
        """Answers of at most `new_tokens` tokens; special tokens are not part of them."""
        ids, stops = [self._ids(prompt) for prompt in prompts], self.tokenizer.stop_ids
        written = models.generate(
            self.model, self.parameters, ids, new_tokens=new_tokens, stops=stops
        )
        return [self.tokenizer.decode(ids) for ids in written]

    def _ids(self, prompt: str) -> list[int]:
        return data.TEMPLATES[self.template](prompt, self.tokenizer)


def of_run(workdir: str | os.PathLike[str], name: str, template: str = "") -> Answering:
    """The model that a finished run ended with.

    Args:
      workdir: the run's folder.
      name: what errors call it.
      template: another one than the run's own.

    Raises:
      ValueError: no finished run, a template that its tokenizer does not have, or files that are
        damaged or were changed.
    """
    settings = starts.settings_of(workdir, name)
    tokenizer, template = starts.tokenizer(settings), template or settings.data.template
    data.check_template(template, tokenizer)
    parameters = starts.load_finished(workdir, name).parameters
    return Answering(models.Model(settings.model, settings.lora), parameters, tokenizer, template)


def of_model(
    source: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    *,
    template: str = "",
    dtype: str = "float32",
) -> Answering:
    """A pretrained model, with an adapter or as it is; see `models.load`.

    Args:
      template: "chat" where the tokenizer has a chat template and "plain" where not, if empty.

    Raises:
      ValueError: what `models.load` raises, no tokenizer, or a template that it does not have.
    """
    tokenizer = checkpoints.Checkpoint.open(checkpoints.locate(source)).tokenizer
    template = template or ("chat" if tokenizer.chat_template else "plain")
    data.check_template(template, tokenizer)
    loaded = models.load(source, dtype, adapter=adapter)
    return Answering(loaded.model, loaded.parameters, tokenizer, template)


def seen_questions(settings: Settings, tasks: Collection[str]) -> frozenset[str]:
    """The questions of the named reasoning-gym tasks that a run's corpus holds, in any split."""
    chosen = settings.data
    rows = chosen.train + chosen.validation + chosen.test
    return frozenset(
        entry["question"]
        for name, arguments in chosen.task_list
        if name in tasks
        for entry in distinct_entries((name, arguments), rows, chosen.seed)
    )
