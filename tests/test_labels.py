"""Several labels, lists of classes and sample weights, from a table to what a model predicts."""

import csv
import json
import shutil

import google_crc32c
import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import records
from oracle.command import headrace
from sklearn import metrics
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.class_weight import compute_class_weight

from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError
from beam_jobs.run import run
from beam_jobs.verify import verify
from headrace import cli
from trainer import dataset_info, evaluate, export, train
from trainer.errors import DatasetError, UsageError
from trainer.input_pipeline import Options, load

TAGS = ["Blue", "green", "red", "ö"]  # As their UTF-8 bytes are sorted.
LABELS = {
    "tags": {"column": "tags", "type": "multi_label"},
    "kind": {"column": "kind"},
    "size": {"column": "size", "type": "float32"},
    "large": {"expression": "CAST(size AS DOUBLE) > 45", "type": "int64"},
}
_NUM_ROWS = 1200


def _rows():
    """Rows whose labels follow from x, more or less, and one of each kind that is set aside."""
    rng = np.random.default_rng(5)
    rows = []
    for number in range(_NUM_ROWS):
        x = rng.normal()
        chances = zip(TAGS, [0.2, x > 0, x < -0.5, 0.03], strict=True)
        tags = [tag for tag, chance in chances if rng.random() < chance]
        rng.shuffle(tags)
        tags += tags[:1] if number % 3 == 0 else []  # One of them twice.
        kind = "c" if number % 40 == 7 else "ab"[int(x + rng.normal() * 0.2 > 0.8)]
        size = f"{40 + 10 * x + rng.normal():.3f}"
        weight = ["0", "1", "2.5"][rng.integers(3)]
        rows.append([number, f"{x:.6f}", "|".join(tags), kind, size, weight])
    rows[11][2], rows[12][3], rows[13][5], rows[14][5] = "NA", "NA", "-1", "NA"
    return rows


SET_ASIDE = {11: "no_label", 12: "no_label", 13: "negative_weight", 14: "no_weight"}


def _said(path, **sections):
    return {
        "name": "made",
        "source": {"format": "csv", "paths": [str(path)], "null_values": ["NA"]},
        "split": {"key": "id", "fractions": {"train": 0.7, "validation": 0.1, "test": 0.2}},
        "features": {
            "id": {"dtype": "int64"},
            "x": {"dtype": "float32", "transform": "scale_to_z_score"},
        },
        "weight": {"column": "weight"},
        "output": {"num_shards": 2, "max_rejected": 0.5},
    } | sections


@pytest.fixture(scope="module", name="table")
def fixture_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "x", "tags", "kind", "size", "weight"])
        writer.writerows(_rows())
    return folder / "table.csv"


def _run(table, name, **sections):
    out = table.parent / name
    spec = parse_spec(_said(table, **sections), str(table.parent / "spec.toml"))
    run(spec, str(out), block_mb=0.005, num_threads=2)
    return out


@pytest.fixture(scope="module", name="several")
def fixture_several(table):
    return _run(table, "several", labels=LABELS)


@pytest.fixture(scope="module", name="lists")
def fixture_lists(table):
    return _run(table, "lists", label={"column": "tags", "type": "multi_label"})


def _manifest(folder):
    return json.loads((folder / "dataset_info.json").read_text())


def _examples(folder, split):
    """The records of a split, each a dict of lists, read by protobuf."""
    found = []
    for shard in _manifest(folder)["splits"][split]["shards"]:
        for data in records.frames(records.stream(folder / shard["file"])):
            features = tf.train.Example.FromString(data).features.feature
            kinds = {name: of.WhichOneof("kind") for name, of in features.items()}
            found.append({n: list(getattr(features[n], kind).value) for n, kind in kinds.items()})
    return found


def _wanted(number):
    """What the record of a row must hold beside its features."""
    _, _, tags, kind, size, weight = _rows()[number]
    return {
        "label/tags": sorted({TAGS.index(tag) for tag in tags.split("|") if tag}),
        "label/kind": ["abc".index(kind)],
        "label/size": [np.float32(size)],
        "label/large": [int(float(size) > 45)],
        "weight": [np.float32(weight)],
    }


def test_records_hold_what_the_table_says(several):
    found = [
        example for split in _manifest(several)["splits"] for example in _examples(several, split)
    ]
    numbers = [example.pop("id")[0] for example in found]
    assert sorted(numbers) == sorted(set(range(_NUM_ROWS)) - set(SET_ASIDE))
    assert {len(example["label/tags"]) for example in found} >= {0, 1, 2}
    for number, example in zip(numbers, found, strict=True):
        del example["x"]
        assert example == _wanted(number)


def test_a_list_alone_is_stored_as_label(lists, several):
    wanted = {each["id"][0]: each["label/tags"] for each in _examples(several, "train")}
    found = {each["id"][0]: each["label"] for each in _examples(lists, "train")}
    assert found == found | wanted and len(found) - len(wanted) < 3  # It asks for no other label.
    assert set(_examples(lists, "train")[0]) == {"id", "x", "label", "weight"}


def test_why_records_are_set_aside(several):
    lines = [line for file in sorted(several.glob("rejected/*")) for line in file.open()]
    found = {entry["position"] - 2: entry["reason"] for entry in map(json.loads, lines)}
    assert found == SET_ASIDE
    manifest = _manifest(several)
    assert manifest["rejected"] == {"negative_weight": 1, "no_label": 2, "no_weight": 1}
    written = sum(split["num_examples"] for split in manifest["splits"].values())
    assert manifest["read"] == _NUM_ROWS == written + 4


def test_the_manifest_counts_classes_and_weighs_them(several):
    manifest = _manifest(several)
    train_examples = _examples(several, "train")
    kinds = np.array([example["label/kind"][0] for example in train_examples])
    weights = compute_class_weight("balanced", classes=np.unique(kinds), y=kinds)
    described = manifest["labels"]
    assert described["kind"]["classes"] == ["a", "b", "c"]
    assert described["kind"]["class_weights"] == weights.tolist()
    assert "class_weights" not in described["tags"]
    hot = MultiLabelBinarizer(classes=range(4)).fit_transform(
        [example["label/tags"] for example in train_examples]
    )
    counts = manifest["splits"]["train"]["label_class_counts"]
    assert counts["tags"] == dict(zip(TAGS, hot.sum(axis=0).tolist(), strict=True))
    assert list(counts["kind"].values()) == np.bincount(kinds, minlength=3).tolist()
    sizes = np.array([example["label/size"][0] for example in train_examples], np.float64)
    of_size = described["size"]["statistics"]
    np.testing.assert_allclose([of_size["mean"], of_size["std"]], [sizes.mean(), sizes.std()])
    own = np.array([example["weight"][0] for example in train_examples])
    of_weight = manifest["weight"]["statistics"]
    assert (of_weight["min"], of_weight["max"], of_weight["count"]) == (0, 2.5, len(own))
    np.testing.assert_allclose(of_weight["mean"], own.mean())


def test_the_schema_reads_the_records(several):
    """As TF Transform makes a feature spec of it."""
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata import schema_utils

    schema = text_format.Parse((several / "schema.pbtxt").read_text(), schema_pb2.Schema())
    spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    (shard, _) = _manifest(several)["splits"]["test"]["shards"]
    data = records.frames(records.stream(several / shard["file"]))
    parsed = tf.io.parse_example(tf.constant(data), spec)
    assert isinstance(spec["label/tags"], tf.io.VarLenFeature)
    examples = _examples(several, "test")[: len(data)]
    flat = [index for example in examples for index in example["label/tags"]]
    assert parsed["label/tags"].values.numpy().tolist() == flat
    assert parsed["weight"].numpy().tolist() == [example["weight"][0] for example in examples]


def test_the_same_bytes_for_other_blocks_and_workers(table, several):
    spec = parse_spec(_said(table, labels=LABELS), str(table.parent / "spec.toml"))
    other = table.parent / "other"
    run(spec, str(other), num_threads=1)
    for split in _manifest(several)["splits"].values():
        for shard in split["shards"]:
            assert (several / shard["file"]).read_bytes() == (other / shard["file"]).read_bytes()
    assert _manifest(several)["labels"] == _manifest(other)["labels"]


def test_no_record_with_a_class_is_an_error(table):
    label = {"column": "tags", "type": "multi_label", "separator": ","}
    where = {"name": "bare", "where": "tags = ''"}
    with pytest.raises(DataError, match="label: no record has a class. Look at its column and"):
        _run(table, "bare", label=label, filter=[where])


def _rewritten(folder, target, name, values):
    """Copies a dataset, in whose first record of train a feature is another."""
    shutil.copytree(folder, target)
    manifest = _manifest(target)
    shard = manifest["splits"]["train"]["shards"][0]
    frames = records.frames(records.stream(target / shard["file"]))
    example = tf.train.Example.FromString(frames[0])
    feature = example.features.feature[name]
    of = getattr(feature, feature.WhichOneof("kind") or "int64_list").value
    del of[:]
    of.extend(values)
    with tf.io.TFRecordWriter(str(target / shard["file"])) as writer:
        for frame in [example.SerializeToString(deterministic=True), *frames[1:]]:
            writer.write(frame)
    data = (target / shard["file"]).read_bytes()
    crc = f"{google_crc32c.value(data):08x}"
    shard |= {"bytes": len(data), "crc32c": crc, "crc32c_uncompressed": crc, "index": ""}
    (target / "dataset_info.json").write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("label/tags", [2, 1], "feature 'label/tags' must have rising indices, but 1 follows 2"),
        ("label/tags", [1, 1], "feature 'label/tags' must have rising indices, but 1 follows 1"),
        ("label/tags", [0, 4], "feature 'label/tags' must be from 0 to 3, but is 4"),
        ("label/kind", [3], "feature 'label/kind' must be from 0 to 2, but is 3"),
        (
            "label/kind",
            [0, 0],
            "feature 'label/kind' must be int64_list of 1, but is int64_list of",
        ),
        ("weight", [-0.5], "feature 'weight' must be at least 0, but is -0.5"),
        ("weight", [float("nan")], "feature 'weight' must be finite, but holds nan"),
        ("weight", [], "feature 'weight' must be float_list of 1, but is float_list of 0"),
    ],
)
def test_verify_finds_wrong_labels_and_weights(several, tmp_path, name, values, problem):
    folder = _rewritten(several, tmp_path / "damaged", name, values)
    assert problem in verify(str(folder))[0]


def test_verify_finds_wrong_counts_and_weights_of_classes(several, tmp_path):
    assert verify(str(several)) == []
    folder = shutil.copytree(several, tmp_path / "damaged")
    manifest = _manifest(folder)
    counts = manifest["splits"]["test"]["label_class_counts"]["tags"]
    counts["red"] += 1
    manifest["labels"]["kind"]["class_weights"][1] = 1.5
    (folder / "dataset_info.json").write_text(json.dumps(manifest))
    weights, classes = verify(str(folder))
    assert "class_weights of label/kind must be [" in weights and ", 1.5, " in weights
    must = f"must be {counts['red'] - 1}, as in the records, but is {counts['red']}"
    assert f"splits.test.label_class_counts.tags of 'red' {must}" in classes


def test_inspect_shows_labels_behind_the_features(several):
    done = headrace("inspect", several, "--split", "test", "-n", "1")
    example = _examples(several, "test")[0]
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()[1:]]
    assert [name for name, *_ in lines] == [
        "id", "x", "label/tags", "label/kind", "label/size", "label/large", "weight"
    ]  # fmt: skip
    shown = dict(lines)
    names = ", ".join(TAGS[index] for index in example["label/tags"])
    indices = " ".join(map(str, example["label/tags"]))
    assert shown["label/tags"] == (f"{indices} ({names})" if names else "[] (of 4)")
    assert shown["label/kind"] == f"{example['label/kind'][0]} ({'abc'[example['label/kind'][0]]})"


@pytest.mark.feature("keras.Model.fit", "y: several outputs", "`[labels.NAME]`")
@pytest.mark.feature("keras.Model.fit", "sample_weight", "`[weight]`")
def test_the_loader_gives_a_dict_of_targets_and_weights(several):
    examples = _examples(several, "test")
    (batch,) = load(several, "test", 10**4)
    _, target, weight = batch
    hot = MultiLabelBinarizer(classes=range(4)).fit_transform(
        [example["label/tags"] for example in examples]
    )
    assert list(target) == ["tags", "kind", "size", "large"]
    np.testing.assert_array_equal(target["tags"], hot)
    assert (target["tags"].dtype, target["tags"].shape) == (tf.float32, (len(examples), 4))
    for name in ("kind", "size", "large"):
        assert target[name].numpy().tolist() == [each[f"label/{name}"][0] for each in examples]
    assert weight.numpy().tolist() == [example["weight"][0] for example in examples]


def test_weights_are_0_where_a_batch_is_filled_up(lists):
    examples = _examples(lists, "test")
    batches = list(load(lists, "test", 50, Options(remainder="pad")))
    weights = np.concatenate([weight for _, _, weight in batches])
    own = [example["weight"][0] for example in examples]
    assert weights.size == -(-len(own) // 50) * 50 > len(own)
    assert weights.tolist() == own + [0.0] * (weights.size - len(own))
    assert all(target.shape == (50, 4) for _, target, _ in batches)


def test_a_class_that_there_is_not(lists, tmp_path):
    folder = _rewritten(lists, tmp_path / "damaged", "label", [1, 4])
    with pytest.raises(tf.errors.InvalidArgumentError, match="label 4, but there are 4 classes"):
        list(load(folder, "train", 64))
    with pytest.raises(DatasetError, match="list under label holds the label 4, but there are 4"):
        train.train(folder, tmp_path / "model", epochs=1, verbose=False)


@pytest.fixture(scope="module", name="models")
def fixture_models(several, lists, tmp_path_factory):
    """Models of both datasets, trained for some epochs."""
    made = {}
    for dataset in (several, lists):
        made[dataset.name] = tmp_path_factory.mktemp(dataset.name)
        train.train(dataset, made[dataset.name], epochs=4, verbose=False, class_weights="none")
    return made


def _predicted(model, dataset, split="test"):
    """Keras' predictions, targets and weights of a split, in float64."""
    network = keras.models.load_model(model / "model.keras")
    ((features, target, weight),) = load(dataset, split, 10**4, Options(training=False))
    given = {name: features[name].numpy() for name in network.input}
    found = network.predict(given, verbose=0, batch_size=256)
    double = lambda of: np.asarray(of, np.float64)  # noqa: E731
    target = tf.nest.map_structure(lambda of: of.numpy(), target)
    return (
        {n: double(v) for n, v in found.items()} if isinstance(found, dict) else double(found),
        target,
        double(weight),
    )


def _check_lists(result, probabilities, target, weight):
    """Metrics of a multi_label, against scikit-learn's with the same weights."""
    predicted = probabilities > 0.5
    p, r, f, s = metrics.precision_recall_fscore_support(
        target, predicted, sample_weight=weight, zero_division=0
    )
    for index, name in enumerate(TAGS):
        found = result["classes"][name]
        wanted = {"precision": p[index], "recall": r[index], "f1": f[index], "support": s[index]}
        assert found == pytest.approx(wanted)
    wanted = metrics.f1_score(
        target, predicted, average="macro", sample_weight=weight, zero_division=0
    )
    assert result["macro"]["f1"] == pytest.approx(wanted)
    assert result["subset_accuracy"] == pytest.approx(
        metrics.accuracy_score(target, predicted, sample_weight=weight)
    )
    assert result["binary_accuracy"] == pytest.approx(
        1 - metrics.hamming_loss(target, predicted, sample_weight=weight)
    )
    of_each = [
        metrics.log_loss(t, q, labels=[0, 1]) for t, q in zip(target, probabilities, strict=True)
    ]
    assert result["loss"] == pytest.approx((weight * of_each).mean())


def test_weighted_metrics_of_lists_against_scikit_learn_and_keras(lists, models):
    result = evaluate.evaluate(models["lists"], lists, batch_size=37)
    _check_lists(result, *_predicted(models["lists"], lists))
    network = keras.models.load_model(models["lists"] / "model.keras")
    of_keras = network.evaluate(load(lists, "test", 37), return_dict=True, verbose=0)
    assert of_keras == pytest.approx({name: result[name] for name in of_keras}, rel=1e-4)
    assert set(of_keras) == {"loss", "binary_accuracy", "auc"}


def test_weighted_metrics_of_several_labels_against_scikit_learn_and_keras(several, models):
    result = evaluate.evaluate(models["several"], several, batch_size=37)
    predicted, target, weight = _predicted(models["several"], several)
    found = result["labels"]
    assert list(found) == list(LABELS) and result["num_examples"] == len(weight)
    _check_lists(found["tags"], predicted["tags"], target["tags"], weight)
    best = predicted["kind"].argmax(axis=1)
    confusion = metrics.confusion_matrix(
        target["kind"], best, labels=range(3), sample_weight=weight
    )
    np.testing.assert_allclose(found["kind"]["confusion_matrix"], confusion)
    assert found["kind"]["accuracy"] == pytest.approx(
        metrics.accuracy_score(target["kind"], best, sample_weight=weight)
    )
    apart = predicted["size"][:, 0] - target["size"]
    assert found["size"] == pytest.approx(
        {"loss": (weight * apart**2).mean(), "mae": np.average(np.abs(apart), weights=weight)}
    )
    is_large = predicted["large"][:, 0] > 0.5
    assert found["large"]["accuracy"] == pytest.approx(
        metrics.accuracy_score(target["large"], is_large, sample_weight=weight)
    )
    network = keras.models.load_model(models["several"] / "model.keras")
    # In one batch: the loss of each output is Keras' mean over batches, however small they are.
    of_keras = network.evaluate(load(several, "test", 10**4), return_dict=True, verbose=0)
    named = {f"{label}_{n}": value for label, of in found.items() for n, value in of.items()}
    for name in sorted(set(of_keras) - {"loss", "tags_auc"}):
        assert named[name] == pytest.approx(of_keras[name], rel=1e-4), name
    assert result["tags_auc"] == pytest.approx(of_keras["tags_auc"])
    # One sum, in which the unit of size does not count.
    scale = _manifest(several)["labels"]["size"]["statistics"]["std"] ** 2
    parts = [found[name]["loss"] / (scale if name == "size" else 1) for name in LABELS]
    assert sum(parts) == pytest.approx(of_keras["loss"], rel=1e-4)


def test_what_is_learnt(models, several):
    """Each label better than its mean or its most frequent class."""
    found = evaluate.evaluate(models["several"], several)["labels"]
    assert found["size"]["mae"] < 3 and found["large"]["accuracy"] > 0.8
    assert found["kind"]["accuracy"] > 0.8 and found["tags"]["binary_accuracy"] > 0.75


@pytest.mark.feature("keras.Model.fit", "class_weight", "`--class-weights balanced`")
def test_class_weights_of_several_labels_times_the_weight(several):
    from trainer.checkpoints import Position
    from trainer.distribution import Spread
    from trainer.training_data import TrainingData

    info = dataset_info.read(several)
    config = train.resolve(
        info, Spread(), epochs=1, steps=None, batch_size=64, learning_rate=None,
        schedule="cosine", class_weights="balanced", accumulate=1, patience=None, crop=None,
        augmentation=None, mixed_precision="none", seed=0, deterministic=False, model="m",
    )  # fmt: skip
    data = TrainingData(info, config, Spread(), None, None)
    by_number = {example["id"][0]: example["weight"][0] for example in _examples(several, "train")}
    of_class = np.array(_manifest(several)["labels"]["kind"]["class_weights"])
    features, target, weight = next(iter(data.training(Position(), 1)))
    own = np.array([by_number[number] for number in features["id"].numpy()])
    assert set(own) == {0, 1, 2.5}
    np.testing.assert_array_equal(weight["size"], own)
    np.testing.assert_array_equal(weight["tags"], own)
    np.testing.assert_allclose(weight["kind"], own * of_class[target["kind"]], rtol=1e-6)


def test_a_training_with_weights_of_classes_and_examples_goes_on(several, tmp_path):
    """Also on another backend, Keras takes weights by label; a resume has the same metrics."""
    history = train.train(several, tmp_path, steps=12, class_weights="balanced", verbose=False)
    assert np.isfinite(history["epochs"][-1]["loss"])
    assert history["dataset"]["classes"] == {
        "tags": TAGS, "kind": ["a", "b", "c"], "size": [], "large": []
    }  # fmt: skip


def test_predictions_are_those_of_the_exported_model(several, models, table, tmp_path):
    done = headrace("predict", models["several"], table, "--output", tmp_path / "found.jsonl",
                    "--probabilities")  # fmt: skip
    assert done.returncode == 0, done.stdout
    answers = [json.loads(line) for line in (tmp_path / "found.jsonl").open()]
    export.export(models["several"], tmp_path / "saved")
    signature = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    xs = np.array([float(row[1]) for row in _rows()], np.float32)
    ids = np.arange(_NUM_ROWS)
    named = {"x": tf.constant(xs), "id": tf.constant(ids, tf.int64)}
    _, inputs = signature.structured_input_signature
    found = signature(**{name: named[name] for name in inputs})
    assert set(found) == {
        "tags_class", "tags_probabilities", "kind_class", "kind_probabilities", "kind_score",
        "size_value", "large_value",
    }  # fmt: skip
    assert len(answers) == _NUM_ROWS
    tags = found["tags_probabilities"].numpy()
    for number, answer in enumerate(answers):
        assert answer["line"] == number + 2
        chosen = [tag for tag, p in zip(TAGS, tags[number], strict=True) if p > 0.5]
        assert found["tags_class"].numpy()[number].decode() == "|".join(chosen)
        assert answer["kind_class"] == found["kind_class"].numpy()[number].decode()
        assert answer["size_value"] == pytest.approx(float(found["size_value"][number]), rel=1e-4)
        assert list(answer["tags_probabilities"]) == TAGS
        assert sum(answer["kind_probabilities"].values()) == pytest.approx(1, abs=1e-5)
    description = json.loads((tmp_path / "saved" / "assets.extra" / "headrace.json").read_text())
    assert description["labels"]["tags"] == {"type": "multi_label", "classes": TAGS}


def test_predictions_as_csv_of_rows_without_labels(lists, models, tmp_path):
    (tmp_path / "new.csv").write_text("id,x\n1,0.5\n2,nonsense\n")
    done = headrace("predict", models["lists"], tmp_path / "new.csv", "--format", "csv",
                    "--probabilities", "--output", tmp_path / "found.csv")  # fmt: skip
    assert done.returncode == 0, done.stdout
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert list(rows[0]) == ["source", "line", "class", *(f"p:{tag}" for tag in TAGS), "reason",
                             "detail"]  # fmt: skip
    chosen = [tag for tag in TAGS if float(rows[0][f"p:{tag}"]) > 0.5]
    assert rows[0]["class"] == "|".join(chosen)
    assert (rows[1]["reason"], rows[1]["p:red"]) == ("unparsable_x", "")


def test_the_commands_of_the_trainer(several, models, tmp_path, capsys):
    report = tmp_path / "report"
    assert (
        cli.main(["evaluate", str(models["several"]), str(several), "--output", str(report)]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test: ") and "examples, tags_auc" in lines[0]
    for name in LABELS:
        assert any(line.startswith(f"  {name}, loss ") for line in lines)
    assert sorted(path.name for path in report.iterdir()) == [
        "confusion-test-kind.png", "confusion-test-large.png", "evaluation.json"
    ]  # fmt: skip


def test_a_model_is_not_evaluated_on_other_labels(table, models):
    fewer = _run(table, "fewer", labels={name: LABELS[name] for name in ("tags", "kind")})
    with pytest.raises(UsageError, match="the model was trained for the classes .*, but .* has"):
        evaluate.evaluate(models["several"], fewer)


def _of_one(info):
    inputs = {"x": keras.Input((), name="x")}
    x = keras.layers.Reshape((1,))(inputs["x"])
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def _of_another(info):
    inputs = {"x": keras.Input((), name="x")}
    x = keras.layers.Reshape((1,))(inputs["x"])
    heads = {name: keras.layers.Dense(1, name=name)(x) for name in ("tags", "kind", "size")}
    return keras.Model(inputs, heads)


@pytest.mark.parametrize("build", [_of_one, _of_another])
def test_a_network_must_have_an_output_for_each_label(several, tmp_path, build):
    with pytest.raises(UsageError, match="output is a dict of tags, kind, size, large"):
        train.train(several, tmp_path, epochs=1, model=build, verbose=False)


def test_what_is_for_one_label_is_refused(several, lists, tmp_path):
    with pytest.raises(UsageError, match="this is for one label, but it has 4: tags, kind, size"):
        load(several, "train", 32, Options(sampling="balanced"))
    with pytest.raises(UsageError, match="has no classes in split 'train' to draw by"):
        load(lists, "train", 32, Options(sampling="balanced"))
    with pytest.raises(UsageError, match="its label has no classes that could be weighted"):
        train.train(lists, tmp_path, class_weights="balanced", verbose=False)


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_regression_from_the_table_to_the_prediction(table, tmp_path, kind):
    """Weighted squares and distances, against NumPy; the mean alone is off by some 8."""
    said = {"column": "size", "type": "float32"}
    if kind == "int64":
        said = {"expression": "CAST(CAST(size AS DOUBLE) * 10 AS BIGINT)", "type": "int64"}
    folder = _run(table, f"regression-{kind}", label=said)
    train.train(folder, tmp_path / "model", epochs=4, verbose=False)
    result = evaluate.evaluate(tmp_path / "model", folder)
    predicted, target, weight = _predicted(tmp_path / "model", folder)
    apart = predicted[:, 0] - target
    assert result["loss"] == pytest.approx((weight * apart**2).mean())
    assert result["mae"] == pytest.approx(np.average(np.abs(apart), weights=weight))
    assert result["mae"] < (3 if kind == "float32" else 30)
    done = headrace("predict", tmp_path / "model", table)
    assert done.returncode == 0, done.stdout
    first = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert set(first) == {"source", "line", "value"}
