"""Tokenizers with a learnt vocabulary, over the `tokenizers` package."""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from etils import epath

from partitionsel_jax.data.tokenizers.chat import ChatTemplate, Conversation

if TYPE_CHECKING:
    import tokenizers

# Stands for an assistant's message where the template's text behind it is looked for.
_ANSWER = "\U0010fffd"
_ASKED = {"role": "user", "content": "?"}
_UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


@dataclasses.dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """A tokenizer as a tokenizer.json describes it; `load_tokenizer` makes it.

    Guarantees:
      * `encode` gives no special id, whatever the text;
      * `decode(encode(text)) == text` for byte-level BPE without a normalizer, and text that UTF-8
        can hold (a lone surrogate becomes "?");
      * nothing is cut or filled up, and no token is added, whatever the description says;
      * safe to use from several threads.

    Tokens that are added to the vocabulary without being special, such as Qwen's "<tool_call>", are
    recognised in content too: they are vocabulary.

    Attributes:
      definition: the text of a tokenizer.json.
      eos_token: text of the token that ends a document.
      bos_token: text of the beginning token, if any; templates may write it.
      begins_rows: True if every row begins with it; None to do as the definition's post-processor.
      pad_token: text of the padding token; without it, or where the vocabulary lacks it, `eos_id`.
      special_tokens: tokens that are special beside those which the definition calls so.
      chat_template: the Jinja template of conversations.
      further_stops: ids that end an answer beside `eos_id` and `turn_end_id`.
      origin: the file, for errors.

    Raises:
      ValueError: a definition that cannot be read, or a bos or eos token that it does not have.
    """

    definition: str = dataclasses.field(repr=False)
    eos_token: str
    _: dataclasses.KW_ONLY
    bos_token: str | None = None
    begins_rows: bool | None = False
    pad_token: str | None = None
    special_tokens: Sequence[str] = ()
    chat_template: str | None = dataclasses.field(default=None, repr=False)
    further_stops: Sequence[int] = ()
    origin: str = "the tokenizer"

    def __post_init__(self) -> None:
        """Reads the definition, and checks what is said beside it."""
        if self.begins_rows and self.bos_token is None:
            raise ValueError(
                f"{self.origin}: rows are to begin with the bos token, and none is named; name a "
                "bos_token, or set add_bos_token to false"
            )
        for name in ("bos_token", "eos_token"):
            token = getattr(self, name)
            if token is not None and self._id_of(token) is None:
                raise ValueError(
                    f"{self.origin}: {name} {token!r} is not in the vocabulary; name one that is"
                )
        if self.begins_rows is None:
            object.__setattr__(self, "begins_rows", self._definition_adds_bos())

    def __getstate__(self) -> dict[str, object]:
        """Gives the fields alone: what is cached need not be picklable."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def eos_id(self) -> int:
        return self._markup.get_vocab()[self.eos_token]

    @functools.cached_property
    def bos_id(self) -> int | None:
        return self._id_of(self.bos_token) if self.begins_rows else None

    @functools.cached_property
    def pad_id(self) -> int:
        found = self._id_of(self.pad_token)
        return self.eos_id if found is None else found

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self._markup.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids that content never has, and that decoded text does not show."""
        added = self._markup.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @functools.cached_property
    def turn_end_id(self) -> int:
        """The first special token that the template writes behind an answer, or `eos_id`."""
        answered = {"role": "assistant", "content": _ANSWER}
        _, found, behind = self._rendered([_ASKED, answered], answer=False).rpartition(_ANSWER)
        ids = self.encode_markup(behind) if found else []
        return next((i for i in ids if i in self.special_ids), self.eos_id)

    @functools.cached_property
    def answer_start(self) -> str:
        asked, begun = (self._rendered([_ASKED], answer=answer) for answer in (False, True))
        return begun.removeprefix(asked) if begun.startswith(asked) else ""

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.eos_id, self.turn_end_id, *self.further_stops)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of all that decides ids and templates; not of where it was read."""
        fields = self.__getstate__() | {"origin": ""}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Encodes content: special tokens written in it are ordinary text, none is added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes texts as `encode` does; on all cores, and without the interpreter's lock."""
        clean = [_encodable(text) for text in texts]
        encodings = self._content.encode_batch_fast(clean, add_special_tokens=False)
        return [
            found.ids if self.special_ids.isdisjoint(found.ids) else self._spelt_out(text)
            for found, text in zip(encodings, clean, strict=True)
        ]

    def encode_markup(self, text: str) -> list[int]:
        """Encodes text whose special tokens are meant as such; none is added."""
        return self._markup.encode(_encodable(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special ones and those past the vocabulary are skipped."""
        shown = [int(i) for i in ids if 0 <= i < self.vocab_size and i not in self.special_ids]
        return self._markup.decode(shown, skip_special_tokens=False)

    def render(self, messages: Conversation, *, answer: bool = True) -> str:
        """Returns a conversation as the chat template writes it; see `chat_batch`."""
        return "".join(text for text, _ in self._chat.batch([messages], answer=answer)[0])

    def chat_batch(
        self, conversations: Sequence[Conversation], *, answer: bool = True
    ) -> list[list[int]]:
        """Encodes conversations, the beginning token included.

        Special tokens that a message quotes are ordinary text; where none does, the whole text is
        encoded at once, so that the ids are those of transformers' `apply_chat_template`. The
        beginning token is added where rows begin with it and the template does not write it.

        Args:
          conversations: turns with a "role" and a "content", and whatever the template knows.
          answer: True if the start of an answer is written behind them.

        Raises:
          ValueError: there is no chat template, or it refuses a conversation, or leaves out what
            such conversations say.
        """
        self._chat.check_spoken(conversations)
        written = self._chat.batch(conversations, answer=answer)
        markup = [_encodable(text) for pieces in written for text, quoted in pieces if not quoted]
        encodings = iter(self._markup.encode_batch_fast(markup, add_special_tokens=False))
        beginning = [] if self.bos_id is None else [self.bos_id]
        found = []
        for pieces in written:
            ids: list[int] = []
            for text, quoted in pieces:
                ids += self.encode(text) if quoted else next(encodings).ids
            found.append(ids if ids[:1] == beginning else beginning + ids)
        return found

    def chat(self, messages: Conversation, *, answer: bool = True) -> list[int]:
        """Encodes one conversation; see `chat_batch`."""
        return self.chat_batch([messages], answer=answer)[0]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the files of a hub's format, from which `load_tokenizer` makes an equal one.

        Other libraries add the beginning token by the post-processor: it follows the rule, too.

        Args:
          directory: one that exists; files of the same names in it are replaced.
        """
        definition = self.definition
        if self._definition_adds_bos() != self.begins_rows:
            from tokenizers.processors import TemplateProcessing

            backend, bos = self._read(), self.bos_token
            if self.begins_rows:
                backend.post_processor = TemplateProcessing(
                    single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, self.bos_id)]
                )
            definition = backend.to_str()
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.begins_rows,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "additional_special_tokens": list(self.special_tokens),
            "chat_template": self.chat_template,
            "clean_up_tokenization_spaces": False,
        }
        generation = {
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.stop_ids),
            "pad_token_id": self.pad_id,
        }
        folder = epath.Path(directory)
        (folder / "tokenizer.json").write_text(definition, encoding="utf-8")
        for name, content in (("tokenizer", config), ("generation", generation)):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{name}_config.json").write_text(text, encoding="utf-8")

    def _rendered(self, messages: Conversation, *, answer: bool) -> str:
        """Renders a conversation; empty without a template, or where `chat` will say why not."""
        try:
            return "" if self.chat_template is None else self.render(messages, answer=answer)
        except ValueError:
            return ""

    @functools.cached_property
    def _chat(self) -> ChatTemplate:
        if self.chat_template is None:
            raise ValueError(
                f"{self.origin} has no chat template; load an instruction-tuned checkpoint, or use "
                "another template than 'chat'"
            )
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        variables = {name: token for name, token in tokens.items() if token is not None}
        return ChatTemplate(self.chat_template, self.origin, variables, self._special_spans)

    def _special_spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Gives (start, end) of every special token that `encode_markup` would see in each text."""
        suspects = [_encodable(text) if self._may_hold_special(text) else "" for text in texts]
        return [
            [span for i, span in zip(e.ids, e.offsets, strict=True) if i in self.special_ids]
            for e in self._markup.encode_batch(suspects, add_special_tokens=False)
        ]

    @functools.cached_property
    def _may_hold_special(self) -> Callable[[str], bool]:
        """Returns whether tokenising a text could find a special token; cheaper than tokenising.

        A special token's text stands wherever one is found, unless other text could become it: by
        characters that vocabularies write in another way (a space as "Ġ", say), or by normalizers,
        of which Unicode's forms leave ASCII as it is.
        """
        added = self._markup.get_added_tokens_decoder().values()
        texts = [token.content for token in added if token.special]
        normalizer = self._markup.normalizer
        kept = normalizer is None or type(normalizer).__name__ in _UNICODE_FORMS
        if not kept or not re.fullmatch(r"[!-~]*", "".join(texts)):
            return lambda text: True
        search = re.compile("|".join(map(re.escape, texts))).search
        return lambda text: bool((normalizer is not None and not text.isascii()) or search(text))

    def _spelt_out(self, text: str) -> list[int]:
        """Encodes a text whose words happen to be special tokens, letter by letter there."""
        encoding = self._content.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            letters = text[start:end] if i in self.special_ids else ""
            spelt = [self._content.encode(c, add_special_tokens=False).ids for c in letters]
            ids += [j for part in spelt or [[i]] for j in part if j not in self.special_ids]
        return ids

    @functools.cached_property
    def _markup(self) -> "tokenizers.Tokenizer":
        return self._read()

    @functools.cached_property
    def _content(self) -> "tokenizers.Tokenizer":
        """A second instance: switching one to and fro would not be safe between threads."""
        backend = self._read()
        backend.encode_special_tokens = True
        return backend

    def _definition_adds_bos(self) -> bool:
        """Returns whether the definition's post-processor puts the beginning token in front."""
        begun = self._read(processed=True).encode("").ids[:1]
        return self.bos_token is not None and begun == [self._id_of(self.bos_token)]

    def _read(self, processed: bool = False) -> "tokenizers.Tokenizer":
        """Reads the definition, without whatever cuts, fills up or, unless asked for, adds."""
        import tokenizers

        try:
            _check_merges(self.definition)
            backend = tokenizers.Tokenizer.from_str(self.definition)
        except Exception as error:  # the package raises nothing more specific
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{self.origin} cannot be read ({reason}): it is damaged, or newer than the "
                "tokenizers package; fetch it again, or update the package"
            ) from None
        backend.no_truncation()
        backend.no_padding()
        if not processed:
            backend.post_processor = None
        # Some definitions have them as ordinary words; one that is missing must not get an id.
        named = (self.bos_token, self.eos_token, self.pad_token, *self.special_tokens)
        there = [token for token in named if token and backend.token_to_id(token) is not None]
        special = functools.partial(tokenizers.AddedToken, special=True, normalized=False)
        backend.add_special_tokens([special(token) for token in there])
        return backend

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._markup.token_to_id(token)


@functools.lru_cache(maxsize=4)
def _check_merges(definition: str) -> None:
    """Raises ValueError for merges at which the tokenizers package panics, or ends the process."""
    content = json.loads(definition)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary := model.get("vocab"), dict):
        return  # of another kind, or refused by the package
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges") or ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
            continue  # the package says so
        first, second = parts
        made = first + second.removeprefix(prefix)
        if not (second.startswith(prefix) and {first, second, made} <= vocabulary.keys()):
            raise ValueError(f"the merge {merge!r:.80} has to do with a token out of vocabulary")


def _encodable(text: str) -> str:
    """Puts "?" for lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
