"""Texts to tokens, and tokens to indices or counts: the same TF ops in every pass.

What they do, and what they are called, is keras.layers.TextVectorization's.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from beam_jobs import words
from beam_jobs.config import Spec, Text
from beam_jobs.config_text import UNKNOWN
from beam_jobs.counts import MAX_DISTINCT_TOKENS, TokenCounts
from beam_jobs.errors import DataError, SpecError

# 2**62, so that a fingerprint fits into int64. Tokens are found by binary search over fingerprints:
# TFT cannot save a lookup table that an analyzer fills, and tables are slow to trace.
FINGERPRINTS = 2**62
PIECE_BYTES = 2 << 20  # Of texts that are worked on together; their tokens take 10 times as much.
_PUNCTUATION = r'[!"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~\']'  # As in Keras.
_UNIGRAM = 1  # sentencepiece.TrainerSpec.ModelType

Known = Mapping[str, tf.Tensor]


def check(spec: Spec) -> None:
    """Reads the files that texts name, for this process and all that it sends the spec to.

    Raises:
      SpecError: One cannot be read or is not what it must be, or tensorflow-text is not there.
    """
    for name, feature in spec.texts.items():
        try:
            if feature.tokenizer is not None:
                tokenizer(feature)
            elif feature.given is not None and len(feature.given) > MAX_DISTINCT_TOKENS:
                raise SpecError(f"vocabulary: has more than {MAX_DISTINCT_TOKENS} tokens. Cut it.")
        except SpecError as error:
            raise SpecError(f"features.{name}: {error}") from error


def load_ops(spec: Spec) -> None:
    """Makes a process know the ops of tokenizers, before a transform_fn is loaded that has them.

    Raises:
      SpecError: tensorflow-text is not there.
    """
    if any(feature.tokenizer for feature in spec.texts.values()):
        _tensorflow_text()


def tokens(texts: tf.Tensor, feature: Text, most: int = -1) -> tf.RaggedTensor:
    """Returns the tokens of each text: string (num_texts, None); a tokenizer's ids, int64.

    Args:
      texts: string (num_texts,), UTF-8.
      feature: What the spec says of them.
      most: Where no more than these are wanted, what comes behind need not be split: -1 for all.
    """
    for pattern, replacement in feature.replace:
        texts = tf.strings.regex_replace(texts, pattern, replacement)
    if feature.standardize.startswith("lower"):
        texts = tf.strings.lower(texts)
    if feature.standardize.endswith("strip_punctuation"):
        texts = tf.strings.regex_replace(texts, _PUNCTUATION, "")
    found = _pieces_of(texts, feature, -1 if feature.ngram_widths or feature.deduplicate else most)
    if feature.ngram_widths:
        found = tf.strings.ngrams(found, feature.ngram_widths, separator=" ")
    return _distinct(found) if feature.deduplicate else found


def _pieces_of(texts: tf.Tensor, feature: Text, most: int) -> tf.RaggedTensor:
    if feature.tokenizer is not None:
        return tokenizer(feature).tokenize(texts).with_row_splits_dtype(tf.int64)
    if feature.split == "none":
        return tf.RaggedTensor.from_row_splits(texts, tf.range(tf.size(texts, tf.int64) + 1))
    if feature.split == "character":
        return tf.strings.unicode_split(texts, "UTF-8")
    return tf.strings.split(texts, feature.separator, maxsplit=most)


def _distinct(found: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns of each text the first of equal tokens, in their order.

    It is tft.deduplicate_tensor_per_row without its loop over the texts.
    """
    listed, codes = tf.unique(found.flat_values, tf.int64)
    size = tf.maximum(tf.size(listed, tf.int64), 1)
    pairs, _ = tf.unique(found.value_rowids() * size + codes)
    return tf.RaggedTensor.from_value_rowids(
        tf.gather(listed, pairs % size), pairs // size, found.nrows(), validate=False
    )


def tokenizer(feature: Text) -> Any:
    """Returns the tokenizer of tensorflow-text that a feature names.

    Raises:
      SpecError: tensorflow-text is not there, or does not take the model.
    """
    with tf.init_scope():  # It is kept for the next graph, too.
        if feature.tokenizer == "wordpiece":
            return _wordpiece(feature.given or ())
        return _sentencepiece(feature.model_bytes)


def num_ids(feature: Text) -> int:
    """Returns how many ids the feature's tokenizer knows."""
    if feature.tokenizer == "wordpiece":
        return len(feature.given or ())
    return int(tokenizer(feature).vocab_size())


def unknown_id(feature: Text) -> int:
    """Returns the id that the feature's tokenizer gives to what it does not know."""
    if feature.tokenizer == "wordpiece":
        return (feature.given or ()).index(UNKNOWN)
    return [*_parts(_trainer(feature.model_bytes), 40), 0][0]  # TrainerSpec.unk_id


@functools.lru_cache(maxsize=8)
def _wordpiece(vocabulary: tuple[str, ...]) -> Any:
    return _tensorflow_text().FastWordpieceTokenizer(list(vocabulary), token_out_type=tf.int64)


@functools.lru_cache(maxsize=8)
def _sentencepiece(model: bytes) -> Any:
    # The fast one keeps its model in a constant; TFT cannot save the resource of the other. It
    # takes all models for unigram ones.
    make = _tensorflow_text().FastSentencepieceTokenizer
    with contextlib.suppress(RuntimeError, ValueError, DecodeError):
        made = make(model)
        if made.vocab_size() and [*_parts(_trainer(model), 3), _UNIGRAM][0] == _UNIGRAM:
            return made
    raise SpecError("model: is no unigram model of SentencePiece. Give the .model file of one.")


def _trainer(model: bytes) -> bytes:
    """Returns the sentencepiece.TrainerSpec of a model."""
    return b"".join(_parts(model, 2))


def _parts(message: bytes, number: int) -> list[Any]:
    """Returns the values of one field of a protocol buffer."""
    fields = UnknownFieldSet(Empty.FromString(message))
    return [field.data for field in fields if field.field_number == number]


def _tensorflow_text() -> Any:
    try:
        import tensorflow_text
    except ImportError as error:
        raise SpecError(
            f"tokenizer: needs tensorflow-text ({error}). Install headrace with its extra `text`."
        ) from error
    return tensorflow_text


def count(column: pa.StringArray, feature: Text) -> TokenCounts:
    """Counts the tokens of a column, and for tf-idf the texts that each is in; nulls do not count.

    Args:
      column: string (num_records,).
      feature: What the spec says of it.
    """
    counts = []
    for piece in pieces(column):
        found, splits = _split(piece.drop_null(), feature)
        owners = np.repeat(np.arange(splits.size - 1), np.diff(splits))
        counts.append(TokenCounts.of(found, owners if feature.output_mode == "tf_idf" else None))
    return TokenCounts.sum(counts)


def _split(texts: pa.StringArray, feature: Text) -> tuple[pa.StringArray, np.ndarray]:
    """Returns the tokens of texts, and the splits of the rows: int64 (num_texts + 1,)."""
    if feature.is_of_words:
        return words.split(texts, feature)
    ragged = tokens(tf.constant(texts.to_pylist(), tf.string), feature)
    return _to_arrow(ragged.flat_values), ragged.row_splits.numpy()


def pieces(column: pa.Array | pa.RecordBatch, size_bytes: int = PIECE_BYTES) -> Iterator[Any]:
    """Cuts a column or batch into pieces of about that many bytes; at least one."""
    step = max(1, size_bytes * len(column) // max(column.nbytes, 1))
    for start in range(0, max(len(column), 1), step):
        yield column.slice(start, step)


def _to_arrow(flat: tf.Tensor) -> pa.StringArray:
    """Returns tokens without making a Python object of each; ids as texts: string (num_tokens,)."""
    if flat.dtype != tf.string:
        return pa.array(flat.numpy()).cast(pa.string())
    joined = tf.strings.reduce_join(flat).numpy()
    ends = np.cumsum(tf.strings.length(flat).numpy(), dtype=np.int32)
    buffers = [None, pa.py_buffer(np.append(np.int32(0), ends)), pa.py_buffer(joined)]
    return pa.StringArray.from_buffers(len(ends), *buffers[1:])


def vectorized(texts: tf.Tensor, feature: Text, known: Known) -> tf.Tensor | tf.SparseTensor:
    """Returns what is stored of texts.

    Args:
      texts: string (num_texts,).
      feature: What the spec says of them.
      known: Of the vocabulary `tokens`, `fingerprints` and `indices`, see `find`; `idf` float32
        (depth,) for tf-idf.

    Returns:
      int64 (num_texts, output_sequence_length), padded with 0; for the other modes a SparseTensor,
      float32 (num_texts, depth), its indices in order.
    """
    most = feature.output_sequence_length if feature.truncate == "end" else None
    found = _truncated(tokens(texts, feature, most=most or -1), feature)
    if not feature.tokenizer:
        found = found.with_flat_values(_ids(found.flat_values, feature, known))
    return _stored(tf.cast(found, tf.int64), feature, known)


def _truncated(found: tf.RaggedTensor, feature: Text) -> tf.RaggedTensor:
    """Returns what may be kept of each text; what is cut off at the end, `_stored` leaves out."""
    if feature.output_sequence_length is None or feature.truncate == "end":
        return found
    return found[:, -feature.output_sequence_length :]


def _stored(ids: tf.RaggedTensor, feature: Text, known: Known) -> tf.Tensor | tf.SparseTensor:
    length = feature.output_sequence_length
    if length is None:
        return _counted(ids, feature, known)
    return tf.ensure_shape(ids.to_tensor(0, shape=[None, length]), [None, length])


def _ids(flat: tf.Tensor, feature: Text, known: Known) -> tf.Tensor:
    """Returns the index of each token: int64 (num_tokens,), -1 for what is none."""
    index = find(flat, known)
    ids = tf.where(index >= 0, index + feature.num_special, feature.num_special - 1)
    if not feature.has_empty_tokens:
        return ids
    return tf.where(tf.equal(flat, ""), tf.constant(-feature.is_sparse, tf.int64), ids)


def _counted(ids: tf.RaggedTensor, feature: Text, known: Known) -> tf.SparseTensor:
    if feature.has_empty_tokens:
        ids = tf.ragged.boolean_mask(ids, ids >= 0)
    counts = tf.sparse.bincount(ids, axis=-1, binary_output=feature.output_mode == "multi_hot")
    values = tf.cast(counts.values, tf.float32)
    if feature.output_mode == "tf_idf":
        values *= tf.gather(known["idf"], counts.indices[:, 1])
    shape = tf.stack([ids.nrows(tf.int64), tf.cast(known["depth"], tf.int64)])
    return tf.SparseTensor(counts.indices, values, shape)


@functools.lru_cache(maxsize=8)
def by_fingerprint(vocabulary: tuple[bytes, ...]) -> dict[str, np.ndarray]:
    """Returns the `tokens`, `fingerprints` and `indices` of a vocabulary, by fingerprint.

    Raises:
      DataError: Two tokens have one fingerprint.
    """
    listed = np.array([*vocabulary], dtype=object)
    hashed = tf.strings.to_hash_bucket_fast(tf.constant(listed, tf.string), FINGERPRINTS).numpy()
    order = np.argsort(hashed, kind="stable")
    if np.unique(hashed).size != hashed.size:
        raise DataError("two tokens of a vocabulary have one 62-bit fingerprint. Use hash_strings.")
    return {
        "tokens": listed[order],
        "fingerprints": hashed[order],
        "indices": order.astype(np.int64),
    }


def find(values: tf.Tensor, known: Known) -> tf.Tensor:
    """Returns the position of each text in a vocabulary, -1 where it is not there: int64.

    Args:
      values: string (num_values,).
      known: What `by_fingerprint` returned, as tensors.
    """
    # A sentinel behind the end, so that an empty vocabulary can be gathered from too.
    listed = tf.concat([known["tokens"], [""]], 0)
    indices = tf.concat([known["indices"], [-1]], 0)
    hashed = tf.strings.to_hash_bucket_fast(values, FINGERPRINTS)
    # It is tf.searchsorted less a dozen ops, which a table of many columns is traced with.
    found = tf.raw_ops.LowerBound(
        sorted_inputs=tf.expand_dims(known["fingerprints"], 0), values=tf.expand_dims(hashed, 0)
    )
    position = tf.squeeze(found, 0)
    is_there = tf.equal(tf.gather(listed, position), values)
    return tf.where(is_there, tf.gather(indices, position), tf.constant(-1, tf.int64))


def word_lists(
    column: pa.StringArray,
    feature: Text,
    vocabulary: tuple[bytes, ...],
    depth: int | None,
    idf: np.ndarray | None,
) -> dict[str, pa.ListArray]:
    """Returns `to_lists` of `vectorized` for a feature that `is_of_words`.

    Args:
      column: string (num_texts,), without nulls.
      feature: What the spec says of it.
      vocabulary: Its tokens in order.
      depth: How many values a text has, where they are stored sparse.
      idf: For tf-idf: float32 (depth,).
    """
    found, splits = zip(*(words.split(piece, feature) for piece in pieces(column)), strict=True)
    # Of all pieces at once: Arrow hashes the vocabulary each time.
    positions = pc.index_in(pa.chunked_array(found), _as_arrow(vocabulary))
    ids = pc.fill_null(positions, -1).to_numpy().astype(np.int64) + feature.num_special
    parts = np.split(ids, np.cumsum([*map(len, found)])[:-1])
    if feature.is_sparse:
        stored = map(functools.partial(_word_counts, feature, int(depth or 0), idf), parts, splits)
    else:
        stored = map(functools.partial(_word_ids, feature), parts, splits)
    lists = list(stored)
    return {ending: pa.concat_arrays([of[ending] for of in lists]) for ending in lists[0]}


@functools.lru_cache(maxsize=8)
def _as_arrow(vocabulary: tuple[bytes, ...]) -> pa.StringArray:
    return pa.array(vocabulary, pa.binary()).cast(pa.string())


def _word_ids(feature: Text, ids: np.ndarray, splits: np.ndarray) -> dict[str, pa.ListArray]:
    ragged = tf.RaggedTensor.from_row_splits(ids, splits, validate=False)
    return to_lists(_stored(_truncated(ragged, feature), feature, {}))


def _word_counts(
    feature: Text, depth: int, idf: np.ndarray | None, ids: np.ndarray, splits: np.ndarray
) -> dict[str, pa.ListArray]:
    """Returns `to_lists` of `_counted`: NumPy sorts, where TensorFlow fills a map for each text."""
    rows = np.arange(splits.size - 1)
    owners = np.repeat(rows, np.diff(splits))
    pairs, counts = np.unique(owners * depth + ids, return_counts=True)
    owners, columns = np.divmod(pairs, depth)
    if feature.output_mode == "multi_hot":
        counts = np.ones_like(counts)
    values = counts.astype(np.float32)
    if idf is not None:
        values *= idf[columns]
    return _sparse_lists(owners, columns, values, rows.size)


def to_lists(stored: tf.Tensor | tf.SparseTensor) -> dict[str, pa.ListArray]:
    """Returns what `vectorized` gave as Arrow lists, by the endings of the names they get."""
    if not isinstance(stored, tf.SparseTensor):
        rows, length = stored.shape
        offsets = np.arange(rows + 1, dtype=np.int32) * length
        return {"": _lists(offsets, stored.numpy().ravel())}
    owners, columns = np.ascontiguousarray(stored.indices.numpy().T)
    return _sparse_lists(owners, columns, stored.values.numpy(), int(stored.dense_shape[0]))


def _sparse_lists(
    owners: np.ndarray, columns: np.ndarray, values: np.ndarray, num_rows: int
) -> dict[str, pa.ListArray]:
    counts = np.bincount(owners, minlength=num_rows)
    offsets = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))
    return {"/indices": _lists(offsets, columns), "/values": _lists(offsets, values)}


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def with_missing(counts: TokenCounts, fill: str, missing: int, feature: Text) -> TokenCounts:
    """Adds the tokens of the text that stands in for missing ones, as often as it does."""
    once = count(pa.array([fill], pa.string()), feature)
    documents = None if once.documents is None else pc.multiply(once.documents, missing)
    return counts + TokenCounts(once.tokens, pc.multiply(once.counts, missing), documents)
