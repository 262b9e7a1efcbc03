"""The four specs with their paths left open, and what their SQL means in plain Python."""

import json
import tomllib
from fractions import Fraction

ADULT = """\
name = "adult"

[source]
format = "csv"
paths = @PATHS@
header = false
columns = ["age", "workclass", "fnlwgt", "education", "education_num", "marital_status",
           "occupation", "relationship", "race", "sex", "capital_gain", "capital_loss",
           "hours_per_week", "native_country", "income"]
trim = true                     # spaces around values
null_values = ["?", ""]

[split]
key = "*"                       # all columns: equal rows fall into the same split
fractions = { train = 0.8, validation = 0.1, test = 0.1 }

[[filter]]
name = "working_age"
where = "age BETWEEN 17 AND 89 AND hours_per_week > 1"

[features]
age            = { dtype = "float32", transform = "scale_to_z_score" }
age_bucket     = { column = "age", dtype = "float32", transform = "bucketize", num_buckets = 10 }
workclass      = { dtype = "string", transform = "compute_and_apply_vocabulary", missing = "token" }
education      = { dtype = "string", transform = "compute_and_apply_vocabulary" }
education_num  = { dtype = "float32", transform = "scale_to_0_1" }
marital_status = { dtype = "string", transform = "compute_and_apply_vocabulary" }
occupation     = { dtype = "string", transform = "compute_and_apply_vocabulary", \
missing = "token", top_k = 12, num_oov_buckets = 1 }
relationship   = { dtype = "string", transform = "compute_and_apply_vocabulary" }
race           = { dtype = "string", transform = "compute_and_apply_vocabulary" }
sex            = { dtype = "string", transform = "compute_and_apply_vocabulary" }
capital_gain   = { dtype = "float32", transform = ["log1p", "scale_to_z_score"] }
capital_loss   = { dtype = "float32", transform = "center" }
hours_per_week = { dtype = "float32", transform = "scale_to_z_score" }
native_country = { dtype = "string", transform = "hash_strings", hash_buckets = 64, \
missing = "token" }

[label]
column = "income"
type = "class"                  # index into the sorted names of all classes that remain

[output]
num_shards = 4                  # per split; or shard_mb = 128
compression = "gzip"            # or "none"
"""

TAXI = """\
name = "taxi"

[source]
format = "csv"
paths = @PATHS@
header = true
types = { tips = "float64", fare = "float64", trip_seconds = "float64", trip_start_month = "int64" }

[split]
column = "trip_start_month"     # by a column: no month stands in two splits
values = { train = [1, 2, 3, 4, 5, 6, 7, 8, 9], validation = [10], test = [11, 12] }

[[filter]]
name = "paid"
where = "fare > 0 AND trip_seconds > 0"

[features]
fare              = { dtype = "float32", transform = ["log1p", "scale_to_z_score"] }
trip_miles        = { dtype = "float32", transform = "scale_to_z_score" }
trip_seconds      = { dtype = "float32", transform = "scale_to_z_score" }
trip_start_hour   = { dtype = "int64" }
trip_start_timestamp = { dtype = "int64", transform = "scale_to_0_1" }
pickup_latitude   = { dtype = "float32", transform = "bucketize", num_buckets = 10, \
missing = "median" }
dropoff_latitude  = { dtype = "float32", transform = "scale_to_z_score", missing = "mean", \
indicator = true }
dropoff_longitude = { dtype = "float32", transform = "bucketize", num_buckets = 10, \
missing = "median", indicator = true }
payment_type      = { dtype = "string", transform = "compute_and_apply_vocabulary" }
company           = { dtype = "string", transform = "compute_and_apply_vocabulary", \
missing = "token", frequency_threshold = 10, num_oov_buckets = 2 }

[label]
expression = "CAST(tips > fare * 0.2 AS BIGINT)"
type = "int64"

[output]
shard_mb = 64
compression = "none"
"""

CIFAR10 = """\
name = "cifar10"

[source]
format = "images"
paths = @PATHS@

[split]
directory = true                        # the first folder names the split
carve = { validation = 0.1, of = "train" }   # by hash of the key

[[filter]]
name = "no_truck"                       # conditions see: path, label, width, height, ...
where = "label <> 'truck'"

[features.image]
size = [32, 32]
channels = 3
rescale = 0.00392156862745098           # 1/255, before the statistics
featurewise_center = true               # one mean per channel over the whole of train
featurewise_std_normalization = true
store = "uint8"

[label]
from = "directory"                      # the folder's name; nine classes are left here
type = "class"

[output]
num_shards = 8
compression = "none"
"""

PHOTOS = """\
name = "photos"

[source]
format = "images"
paths = @PATHS@

[split]
fractions = { train = 0.8, test = 0.2 }

[features.image]
size = [224, 224]
method = "bilinear"
antialias = true
crop = "center"                         # keep the aspect ratio, cut the middle
featurewise_center = true
store = "float32"                       # normalised values in the records

[label]
pattern = 'n\\d+_(?P<label>.+)\\.JPEG$'
type = "class"

[output]
num_shards = 4
compression = "none"
"""

# What only the made tables ask for: the other policies, chains and number types.
MADE_ADULT_FILTER = """\
[[filter]]
name = "known_sex"
where = "sex <> 'Other'"

"""
MADE_ADULT_FEATURES = """\
weight         = { column = "fnlwgt", dtype = "float32", missing = 0 }
weight_share   = { column = "fnlwgt", dtype = "float32", transform = "scale_to_0_1", \
missing = -1.5, indicator = true }
weight_score   = { column = "fnlwgt", dtype = "float32", transform = "scale_to_z_score", \
missing = "mean" }
weight_log     = { column = "fnlwgt", dtype = "float32", transform = ["log1p", "scale_to_0_1"], \
missing = "median" }
education_text = { column = "education", dtype = "string" }
country        = { column = "native_country", dtype = "string", \
transform = "compute_and_apply_vocabulary", missing = "nowhere", frequency_threshold = 3, \
top_k = 5, num_oov_buckets = 3 }
"""
MADE_TAXI_FEATURES = """\
day_score         = { column = "trip_start_day", dtype = "int64", transform = "scale_to_z_score" }
hour_bucket       = { column = "trip_start_hour", dtype = "int64", transform = "bucketize", \
num_buckets = 5 }
area              = { column = "pickup_community_area", dtype = "int64", \
transform = "scale_to_0_1" }
area_score        = { column = "pickup_community_area", dtype = "int64", \
transform = "scale_to_z_score" }
miles_log         = { column = "trip_miles", dtype = "float32", \
transform = ["log1p", "center"] }
seconds_log       = { column = "trip_seconds", dtype = "float32", transform = "log1p" }
company_text      = { column = "company", dtype = "string", missing = "unknown" }
"""


def with_paths(spec: str, paths) -> str:
    """The text of a spec that reads these paths."""
    return spec.replace("@PATHS@", json.dumps([str(path) for path in paths]))


def made_adult() -> str:
    """The adult spec with more features and a second filter."""
    text = ADULT.replace("[features]", MADE_ADULT_FILTER + "[features]")
    return text.replace("\n[label]", MADE_ADULT_FEATURES + "\n[label]")


def made_taxi() -> str:
    """The taxi spec with more features and smaller shards."""
    text = TAXI.replace("\n[label]", MADE_TAXI_FEATURES + "\n[label]")
    return text.replace("shard_mb = 64", "shard_mb = 1")


def parse(text: str) -> dict:
    """The spec as a dict, every number with a point an exact fraction of its decimal text."""
    return tomllib.loads(text, parse_float=Fraction)


def _all(*terms: bool | None) -> bool | None:
    """SQL's AND."""
    if any(term is False for term in terms):
        return False
    return None if any(term is None for term in terms) else True


def _known(value, condition) -> bool | None:
    return None if value is None else condition(value)


def _tipped(row) -> int | None:
    if row["tips"] is None or row["fare"] is None:
        return None
    return int(row["tips"] > row["fare"] * 0.2)


# Name -> (the columns that it reads, what it says of a row: True, False or None).
CONDITIONS = {
    "working_age": (
        ("age", "hours_per_week"),
        lambda row: _all(
            _known(row["age"], lambda age: 17 <= age <= 89),
            _known(row["hours_per_week"], lambda hours: hours > 1),
        ),
    ),
    "known_sex": (("sex",), lambda row: _known(row["sex"], lambda sex: sex != "Other")),
    "paid": (
        ("fare", "trip_seconds"),
        lambda row: _all(
            _known(row["fare"], lambda fare: fare > 0),
            _known(row["trip_seconds"], lambda seconds: seconds > 0),
        ),
    ),
    "no_truck": (("label",), lambda image: image["label"] != "truck"),
}
EXPRESSIONS = {"CAST(tips > fare * 0.2 AS BIGINT)": (("tips", "fare"), _tipped)}
