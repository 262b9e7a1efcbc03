"""`[features.NAME]` of texts: what keras.layers.TextVectorization takes, by the same names."""

import functools
import hashlib
import math
import string
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from beam_jobs.config_base import Count, NonEmpty, Number, Section, float32
from beam_jobs.config_steps import Stateless
from beam_jobs.errors import SpecError

PADDING, UNKNOWN = "", "[UNK]"  # As Keras has them: never learned, and at the head of a vocabulary.
_WORDPIECE_PADDING = "[PAD]"
_Length = Annotated[StrictInt, Field(ge=1, le=1_000_000)]


class Text(Section):
    """A feature made of the tokens of a column's texts.

    The class variables are what a feature of a column says otherwise: no transform but its own.
    """

    dtype: ClassVar[str] = "string"
    transforms: ClassVar[tuple[str, ...]] = ()
    stateless_steps: ClassVar[tuple[Stateless, ...]] = ()
    options: ClassVar[tuple[object, ...]] = ()
    last_step: ClassVar[None] = None
    bound: ClassVar[None] = None
    key: ClassVar[None] = None
    indicator: ClassVar[bool] = False
    is_fill_learned: ClassVar[bool] = False

    type: Literal["text"] = "text"
    column: NonEmpty | None = None
    missing: StrictStr = "reject"
    replace: tuple[tuple[NonEmpty, StrictStr], ...] = ()
    standardize: Literal["lower_and_strip_punctuation", "lower", "strip_punctuation", "none"] = (
        "lower_and_strip_punctuation"
    )
    split: Literal["whitespace", "character", "none"] = "whitespace"
    separator: NonEmpty | None = None
    tokenizer: Literal["wordpiece", "sentencepiece"] | None = None
    model: NonEmpty | None = None
    ngrams: _Length | Annotated[tuple[_Length, ...], Field(min_length=1)] | None = None
    deduplicate: StrictBool = False
    vocabulary: NonEmpty | Annotated[tuple[StrictStr, ...], Field(min_length=1)] | None = None
    idf_weights: tuple[Number, ...] | None = None
    max_tokens: Count | None = None
    frequency_threshold: Count | None = None
    output_mode: Literal["int", "multi_hot", "count", "tf_idf"] = "int"
    output_sequence_length: _Length | None = None
    truncate: Literal["end", "start"] = "end"
    pad_to_max_tokens: StrictBool = False

    @property
    def is_sparse(self) -> bool:
        """Whether a record holds indices and values instead of a sequence."""
        return self.output_mode != "int"

    @property
    def output_dtype(self) -> str:
        """The dtype that is stored: of ids or of values."""
        return "float32" if self.is_sparse else "int64"

    @property
    def num_special(self) -> int:
        """The indices before the first token: padding, which only sequences have, and unknown."""
        return 1 if self.is_sparse else 2

    @property
    def ngram_widths(self) -> tuple[int, ...]:
        """The numbers of neighbors that are joined; empty where tokens stay as they are."""
        if isinstance(self.ngrams, int):
            return tuple(range(1, self.ngrams + 1))
        return self.ngrams or ()

    @property
    def is_of_words(self) -> bool:
        """Whether its tokens are what stands between white space, which needs no TensorFlow."""
        others = (self.separator, self.tokenizer, self.ngram_widths, self.deduplicate)
        return self.split == "whitespace" and not any(others)

    @property
    def has_empty_tokens(self) -> bool:
        """Whether a token may be the empty text, which is padding in a sequence, else nothing."""
        return self.split == "none" or self.separator is not None

    @property
    def is_counted(self) -> bool:
        """Whether the tokens of train must be counted."""
        has_weights = self.output_mode != "tf_idf" or self.idf_weights is not None
        is_given = self.vocabulary is not None or self.tokenizer is not None
        return not (is_given and has_weights)

    @functools.cached_property
    def given(self) -> tuple[str, ...] | None:
        """The tokens of `vocabulary`, special ones left out; None where train tells them.

        A file is read once, by the launcher: what it held goes with the feature to all workers.

        Raises:
          SpecError: The file cannot be read, or is no vocabulary.
        """
        if not isinstance(self.vocabulary, str):
            return None if self.vocabulary is None else _without_special(self.vocabulary)
        lines = _read(self.vocabulary).removesuffix(b"\n").split(b"\n")
        try:
            tokens = tuple(line.removesuffix(b"\r").decode() for line in lines)
        except UnicodeDecodeError as error:
            raise SpecError(f"{self.vocabulary}: is not UTF-8: {error}.") from error
        try:
            self._check_tokens(() if tokens == ("",) else tokens)
        except ValueError as error:
            raise SpecError(f"{self.vocabulary}: {error}. Give one token a line.") from error
        return tokens if self.tokenizer else _without_special(tokens)

    @functools.cached_property
    def model_bytes(self) -> bytes:
        """What the file of a SentencePiece model holds.

        Raises:
          SpecError: It cannot be read.
        """
        return _read(self.model or "")

    @property
    def paths(self) -> dict[str, str]:
        """The files that the feature names, by key."""
        named = {"vocabulary": self.vocabulary, "model": self.model}
        return {key: path for key, path in named.items() if isinstance(path, str)}

    @property
    def files_digest(self) -> str | None:
        """Sha256 over what its file holds; None where it names none."""
        if self.model is not None:
            return hashlib.sha256(self.model_bytes).hexdigest()
        if isinstance(self.vocabulary, str):
            return hashlib.sha256("\n".join(self.given or ()).encode()).hexdigest()
        return None

    def _says(self, name: str) -> bool:
        return getattr(self, name) != type(self).model_fields[name].default

    @model_validator(mode="before")
    @classmethod
    def _keep_items(cls, said: Any) -> Any:
        """Leaves the items of a list as they are, unless it is said how to standardize them."""
        is_list = isinstance(said, dict) and said.get("separator") is not None
        return {"standardize": "none"} | said if is_list else said

    @model_validator(mode="after")
    def _check_output(self) -> "Text":
        if not self.is_sparse and self.output_sequence_length is None:
            raise ValueError('output_mode = "int" needs output_sequence_length, the tokens stored')
        for name in ("output_sequence_length", "truncate"):
            if self.is_sparse and self._says(name):
                raise ValueError(f'{name} belongs to output_mode = "int"')
        if self.pad_to_max_tokens and (self.max_tokens is None or not self.is_sparse):
            raise ValueError("pad_to_max_tokens needs max_tokens, and an output_mode but int")
        if self.max_tokens is not None and self.max_tokens <= self.num_special:
            raise ValueError(
                f"max_tokens must be more than {self.num_special}, which are no tokens, "
                f"but is {self.max_tokens}"
            )
        if self.missing in ("token", "mean", "median", "mode"):
            raise ValueError(f'missing must be "reject" or a text, but is {self.missing!r}')
        return self

    @model_validator(mode="after")
    def _check_tokens_of(self) -> "Text":
        for pattern, replacement in self.replace:
            _check_regex(pattern, replacement)
        if self.ngrams is not None and self.split == "none":
            raise ValueError('ngrams join the tokens of a text: split = "none" leaves one')
        if self.separator is not None:
            self._check_separator(self.separator)
        if self.vocabulary is not None and self.frequency_threshold is not None:
            raise ValueError("frequency_threshold is for a vocabulary that train tells")
        if self.vocabulary is not None and self.max_tokens and not self.pad_to_max_tokens:
            raise ValueError("max_tokens is for a vocabulary that train tells")
        if self.tokenizer is not None:
            self._check_tokenizer(self.tokenizer)
        elif self.model is not None:
            raise ValueError('model belongs to tokenizer = "sentencepiece"')
        if isinstance(self.vocabulary, tuple):
            self._check_tokens(self.vocabulary)
        if self.idf_weights is not None:
            if self.output_mode != "tf_idf" or self.vocabulary is None:
                raise ValueError('idf_weights need output_mode = "tf_idf" and a vocabulary')
            for weight in self.idf_weights:
                if not math.isfinite(float32(weight)):
                    raise ValueError(f"idf_weights must fit float32, but hold {weight}")
        return self

    def _check_separator(self, separator: str) -> None:
        if self._says("split"):
            raise ValueError("separator splits a text, and so does split: leave out one")
        gets_lower = self.standardize.startswith("lower")
        is_stripped = self.standardize.endswith("strip_punctuation")
        if (gets_lower and separator.encode().lower() != separator.encode()) or (
            is_stripped and set(separator) & set(string.punctuation)
        ):
            raise ValueError(
                f"standardize = {self.standardize!r} comes before the split, and would change the "
                f'separator {separator!r}. Leave it out: "none" is the default of a list'
            )

    def _check_tokenizer(self, tokenizer: str) -> None:
        own = ("split", "separator", "ngrams", "max_tokens", "frequency_threshold")
        for name in (*own, "pad_to_max_tokens"):
            if self._says(name):
                raise ValueError(f"tokenizer brings its own tokens: leave out {name}")
        needed, other = ("vocabulary", "model")
        if tokenizer == "sentencepiece":
            needed, other = other, needed
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise ValueError(f"tokenizer = {tokenizer!r} takes {needed}, and no {other}")

    def _check_tokens(self, tokens: tuple[str, ...]) -> None:
        """Raises a ValueError unless the tokens, special ones included, are a vocabulary."""
        if self.tokenizer and (tokens[:1] != (_WORDPIECE_PADDING,) or UNKNOWN not in tokens):
            raise ValueError(
                f"the vocabulary of a tokenizer must begin with {_WORDPIECE_PADDING} and hold "
                f"{UNKNOWN}"
            )
        tokens = tokens if self.tokenizer else _without_special(tokens)
        if not tokens:
            raise ValueError("the vocabulary holds no token")
        if len(set(tokens)) < len(tokens):
            twice = _first_duplicate(tokens)
            raise ValueError(f"the vocabulary holds {twice!r} twice")
        if PADDING in tokens:
            raise ValueError("the vocabulary holds the empty text, which stands for padding")
        if self.max_tokens is not None and len(tokens) + self.num_special > self.max_tokens:
            raise ValueError(
                f"the vocabulary has {len(tokens)} tokens and {self.num_special} special ones, "
                f"more than max_tokens = {self.max_tokens}"
            )
        if self.idf_weights is not None and len(self.idf_weights) != len(tokens):
            raise ValueError(
                f"idf_weights must be as many as the {len(tokens)} tokens of the vocabulary, but "
                f"are {len(self.idf_weights)}"
            )


def _without_special(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the tokens without those that Keras' get_vocabulary puts before them."""
    for special in ((PADDING, UNKNOWN), (UNKNOWN,)):
        if tokens[: len(special)] == special:
            return tokens[len(special) :]
    return tokens


def _first_duplicate(tokens: tuple[str, ...]) -> str:
    seen: set[str] = set()
    for token in tokens:
        if token in seen:
            break
        seen.add(token)
    return token


def _check_regex(pattern: str, replacement: str) -> None:
    """Raises a ValueError unless RE2, which is TensorFlow's, too, takes both."""
    import pyarrow as pa  # Its RE2 is there in a fraction of TensorFlow's time.
    import pyarrow.compute as pc

    try:
        pc.replace_substring_regex(pa.nulls(1, pa.string()), pattern, replacement)
    except pa.ArrowInvalid as error:
        reason = str(error).partition(": ")[2].rstrip(".")
        raise ValueError(
            f"replace: {[pattern, replacement]} is no regular expression and its replacement: "
            f"{reason}"
        ) from error


def _read(path: str) -> bytes:
    from beam_jobs import files  # Beam, which a spec without files does not need.

    try:
        data = files.read(path)
    except Exception as error:  # Each file system raises its own.
        raise SpecError(f"{path}: cannot be read ({error}). Give the path of a file.") from error
    if data is None:
        raise SpecError(f"{path}: there is no such file. Give the path of one.")
    return data
