"""Labels as records hold them, and the weights of classes, against scikit-learn."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.class_weight import compute_class_weight

from beam_jobs import labels, rows
from beam_jobs.config import Label, parse_spec
from beam_jobs.errors import SpecError
from beam_jobs.sources import csv_files
from beam_jobs.sources.blocks import Unit
from beam_jobs.sources.listing import File

TAGS = Label(column="tags", type="multi_label", separator="; ")
TEXTS = ["b; a", "", "a; a; ö", "; ", "B", "ö; b; a; B", "b; a", "a;b"]
LISTS = [["b", "a"], [], ["a", "ö"], [], ["B"], ["ö", "b", "a", "B"], ["b", "a"], ["a;b"]]


@pytest.mark.feature(
    "sklearn MultiLabelBinarizer", "fit_transform", '`[label] type = "multi_label"`'
)
@pytest.mark.feature("sklearn MultiLabelBinarizer", "classes_", "`label.classes` in the manifest")
def test_lists_of_classes_against_scikit_learn():
    found = labels.classes_of(pa.array(TEXTS), TAGS)
    assert sorted(found) == sorted({"a", "b", "B", "ö", "a;b"}) and "" not in found
    classes = sorted(found, key=str.encode)
    stored = labels.stored(pa.array(TEXTS), TAGS, classes)
    assert stored.type == pa.list_(pa.int64())
    binarizer = MultiLabelBinarizer(classes=classes)
    hot = binarizer.fit_transform(LISTS)
    assert binarizer.classes_.tolist() == classes == ["B", "a", "a;b", "b", "ö"]
    assert stored.to_pylist() == [np.flatnonzero(row).tolist() for row in hot]
    assert labels.num_classes(pa.array(TEXTS), TAGS).tolist() == hot.sum(axis=1).tolist()
    assert labels.counts(stored) == dict(enumerate(hot.sum(axis=0).tolist()))


def test_texts_without_any_class():
    stored = labels.stored(pa.array(["", "; "]), TAGS, [])
    assert (stored.to_pylist(), labels.classes_of(pa.array(["", "; "]), TAGS)) == ([[], []], ())
    assert labels.stored(pa.array([], pa.string()), TAGS, ["a"]).to_pylist() == []


@pytest.mark.feature(
    "sklearn compute_class_weight", '"balanced"', "`label.class_weights` in the manifest"
)
@pytest.mark.parametrize("counts", [[3, 1, 7], [499, 769, 1206, 140], [10**9, 1], [5]])
def test_class_weights_against_scikit_learn(counts):
    small = [min(count, 1000) for count in counts]
    y = np.repeat(np.arange(len(small)), small)
    wanted = compute_class_weight("balanced", classes=np.arange(len(small)), y=y)
    assert labels.class_weights(small) == wanted.tolist()
    weights = labels.class_weights(counts)
    assert sum(w * c for w, c in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))


def test_a_class_that_is_not_in_train_has_no_weight_and_is_not_counted():
    wanted = compute_class_weight("balanced", classes=np.array([0, 2]), y=[0, 0, 0, 2])
    assert labels.class_weights([3, 0, 1]) == [wanted[0], 0.0, wanted[1]]


def _plan(**sections):
    said = {
        "name": "t",
        "source": {"format": "csv", "paths": ["t.csv"], "null_values": ["NA"]},
        "split": {"fractions": {"train": 1.0}},
        "features": {"x": {"dtype": "string"}},
    }
    return rows.plan(parse_spec(said | sections, "spec.toml"), ("x", "tags", "w", "n"))


def _read(text, of):
    unit = Unit((File("t.csv", "t.csv", len(text)),), ("x", "tags", "w", "n"), ())
    return rows.read_block(csv_files.parse(text.encode(), 2, unit, of.spec.source), of)


ROWS = """\
a,p|q,1,1
b,NA,1,1
c,,0,2
d,p,NA,1
e,p,-0.5,1
f,p,nan,1
g,p,inf,1
h,p,heavy,1
i,q|r,2.5,NA
j,r,1e-3,3
"""


def test_why_a_record_with_labels_and_a_weight_is_set_aside():
    said = {"tags": {"column": "tags", "type": "multi_label"}}
    said["n"] = {"column": "n", "type": "int64"}
    found = _read(ROWS, _plan(labels=said, weight={"column": "w"}))
    table = found.rejected
    why = zip(*(table[name].to_pylist() for name in ("position", "reason", "detail")), strict=True)
    assert list(why) == [
        (3, "no_label", "labels.tags"),
        (5, "no_weight", ""),
        (6, "negative_weight", ""),
        (7, "no_weight", ""),  # NaN is missing, as everywhere.
        (8, "non_finite_w", ""),
        (9, "unparsable_w", ""),
        (10, "no_label", "labels.n"),
    ]
    assert {name: of.to_pylist() for name, of in found.kept.beside.items()} == {
        "label/tags": ["p|q", "", "r"],
        "label/n": [1, 2, 3],
        "weight": [1.0, 0.0, np.float32(1e-3)],
    }
    assert {name: set(of) for name, of in found.classes.items()} == {"label/tags": set("pqr")}


def test_labels_and_weights_by_expression():
    said = {"far": {"expression": "n > 1", "type": "int64"}}
    said["tags"] = {"column": "tags"}
    said["n"] = {"expression": "TRY_CAST(n AS BIGINT) / 2", "type": "float32"}
    weight = {"expression": "TRY_CAST(w AS DOUBLE) * CASE WHEN x = 'j' THEN 1e300 ELSE 1 END * 2"}
    types = {"format": "csv", "paths": ["t.csv"], "null_values": ["NA"], "types": {"n": "int64"}}
    found = _read(ROWS.replace("j,r,1e-3", "j,r,1e300"), _plan(
        labels=said, weight=weight, source=types))  # fmt: skip
    table = found.rejected
    why = dict(zip(table["position"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert why == {
        3: "no_label",
        5: "no_weight",
        6: "negative_weight",
        7: "no_weight",
        8: "no_weight",
        9: "no_weight",
        10: "no_label",
        11: "no_weight",
    }
    assert {name: of.to_pylist() for name, of in found.kept.beside.items()} == {
        "label/far": [0, 1],
        "label/tags": ["p|q", ""],
        "label/n": [0.5, 1.0],
        "weight": [2.0, 0.0],
    }


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"label": {"column": "n"}, "labels": {"n": {"column": "n"}}},
            r"spec.toml: takes one \[label\], or several \[labels.NAME\], not both",
        ),
        (
            {"label": {"expression": "tags", "type": "multi_label"}},
            'label: type = "multi_label" takes a column, whose texts are lists',
        ),
        (
            {"label": {"column": "n", "separator": "|"}},
            'label: separator is for type = "multi_label"',
        ),
        (
            {"label": {"column": "tags", "type": "multi_label", "separator": ""}},
            "label.separator: must be String should have at least 1 character",
        ),
        ({"labels": {}}, "labels: must not be empty; name at least one"),
        ({"labels": {"a/b": {"column": "n"}}}, "labels.a/b"),
        ({"labels": {"x": {"column": "n"}}}, "x is a feature and a label"),
        ({"labels": {"n": {"pattern": "(?P<label>.)"}}}, "labels.n: takes a column or an expr"),
        ({"labels": {"n": {"column": "m"}}}, "labels.n.column: there is no column 'm'"),
        ({"labels": {"n": {"expression": "m"}}}, "labels.n.expression: there is no column 'm'"),
        (
            {"labels": {"n": {"column": "n"}}, "features": {"label/n": {"dtype": "string"}}},
            "a feature may not be called label/n: the target is stored under it",
        ),
        ({"weight": {}}, "weight: takes one of column and expression"),
        ({"weight": {"column": "w", "expression": "1"}}, "weight: takes one of column and expr"),
        ({"weight": {"column": "v"}}, "weight.column: there is no column 'v'"),
        ({"weight": {"expression": "sum(w)"}}, "weight.expression: .* looks at many records"),
        (
            {"weight": {"column": "w"}, "features": {"weight": {"dtype": "string"}}},
            "a feature may not be called weight: the weight is stored under it",
        ),
        (
            {"filter": [{"name": "no_weight", "where": "true"}]},
            "no_weight is a reason of headrace's own",
        ),
    ],
)  # fmt: skip
def test_a_wrong_section_is_one_line(sections, message):
    with pytest.raises(SpecError, match=message) as caught:
        _plan(**sections)
    assert "\n" not in str(caught.value)


def test_a_feature_may_be_called_weight_where_no_weight_is():
    features = {"weight": {"column": "w", "dtype": "float32"}}
    assert _plan(features=features).spec.beside_features == {}
