"""Raw and stored records through a SavedModel, in a process that has only TensorFlow.

`python -I only_tensorflow.py JOB.json`: nothing of this repository, Beam, TFT or Keras can be
imported here. Prints JSON: how many records, and in how many the predictions of the raw record,
of a tf.train.Example of it and of the stored one differ in a bit.
"""

import importlib.machinery
import json
import math
import os
import pickle
import sys

HIDDEN = (
    "apache_beam beam_jobs headrace keras tensorflow_transform tf_keras tfx_bsl trainer"
).split()


class _Finder(importlib.machinery.PathFinder):
    """As if the hidden packages were not installed."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)


def main(job: dict) -> dict:
    import tensorflow as tf

    loaded = tf.saved_model.load(job["saved_model"])
    raw = pickle.loads(open(job["raw"], "rb").read())  # Name -> one value a record, None: missing.
    stored = {name: [] for name in job["features"]}
    for shard in job["shards"]:
        records = tf.data.TFRecordDataset(shard, "GZIP" if shard.endswith(".gz") else "")
        for record in records.batch(4096):
            for name, values in _parsed(tf, record, job["features"]).items():
                stored[name].append(values)
    stored = {name: tf.concat(parts, 0) for name, parts in stored.items()}
    num_records = len(next(iter(raw.values())))
    given = {name: _dense(tf, values, job["missing"].get(name)) for name, values in raw.items()}
    examples = [_example(tf, {n: raw[n][i] for n in raw}, given) for i in range(num_records)]
    different = {"raw": 0, "examples": 0}
    outputs = []
    for start in range(0, num_records, job["batch_size"]):
        part = slice(start, start + job["batch_size"])
        wanted = loaded.signatures["stored_features"](**{n: v[part] for n, v in stored.items()})
        found = {
            "raw": loaded.signatures["serving_default"](**{n: v[part] for n, v in given.items()}),
            "examples": loaded.signatures["serialized_examples"](
                examples=tf.constant(examples[part])
            ),
        }
        for way, predictions in found.items():
            different[way] += _num_different(predictions, wanted)
        outputs.append({name: value.numpy().tolist() for name, value in wanted.items()})
    hidden = [name for name in sys.modules if name.split(".")[0] in HIDDEN]
    with open(job["predictions"], "wb") as file:
        pickle.dump({n: [v for o in outputs for v in o[n]] for n in outputs[0]}, file)
    return {
        "records": num_records,
        "stored": int(next(iter(stored.values())).shape[0]),
        "different": different,
        "imported": hidden,
    }


def _parsed(tf, records, features: dict) -> dict:
    """The stored features of serialized examples; raw bytes as arrays."""
    kinds = {"float_list": tf.float32, "int64_list": tf.int64, "bytes_list": tf.string}
    spec = {}
    for name, feature in features.items():
        shape = [] if feature["stored_as"] == "raw" else feature["shape"]
        spec[name] = tf.io.FixedLenFeature(shape, kinds.get(feature["stored_as"], tf.string))
        if feature["stored_as"] == "sparse":
            keys = f"{name}/indices", f"{name}/values"
            spec[name] = tf.io.SparseFeature(*keys, tf.float32, shape[0])
    values = tf.io.parse_example(records, spec)
    for name, feature in features.items():
        if feature["stored_as"] == "sparse":
            values[name] = tf.sparse.to_dense(values[name])
        if feature["stored_as"] == "raw":
            flat = tf.io.decode_raw(values[name], feature["dtype"])
            assert flat.shape[1] in (None, math.prod(feature["shape"]))
            values[name] = tf.reshape(flat, (-1, *feature["shape"]))
    return values


def _dense(tf, values: list, missing):
    """One tensor a column; what the description calls missing stands for None."""
    if missing == "NaN":
        missing = math.nan
    filled = [missing if value is None else value for value in values]
    first = next(value for value in values if value is not None)
    dtypes = {float: tf.float32, int: tf.int64}
    return tf.constant(filled, dtypes.get(type(first), tf.string))


def _example(tf, record: dict, given: dict) -> bytes:
    """A tf.train.Example of a raw record, without what is missing."""
    features = tf.train.Features()
    for name, value in record.items():
        if value is None:
            continue
        if given[name].dtype == tf.string:
            value = value.encode() if isinstance(value, str) else value
            features.feature[name].bytes_list.value.append(value)
        elif given[name].dtype == tf.int64:
            features.feature[name].int64_list.value.append(value)
        else:
            features.feature[name].float_list.value.append(value)
    return tf.train.Example(features=features).SerializeToString()


def _num_different(found: dict, wanted: dict) -> int:
    """In how many records any output has other bits."""
    import numpy as np

    assert set(found) == set(wanted)
    is_different = False
    for name, tensor in wanted.items():
        one, other = found[name].numpy(), tensor.numpy()
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype != object:
            one, other = one.view(np.int32), other.view(np.int32)
        rows = (one != other).reshape(len(one), -1).any(axis=1)
        is_different = rows | is_different
    return int(np.sum(is_different))


if __name__ == "__main__":
    sys.meta_path = [f for f in sys.meta_path if f is not importlib.machinery.PathFinder]
    sys.meta_path.append(_Finder)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with open(sys.argv[1]) as file:
        print(json.dumps(main(json.load(file))))
