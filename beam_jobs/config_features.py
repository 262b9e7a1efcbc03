"""`[features.NAME]`: what becomes an input of a model."""

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from beam_jobs.config_base import Count, NonEmpty, Number, Pixels, Section, float32
from beam_jobs.config_dates import Date
from beam_jobs.config_steps import OPTIONS, STEPS, Bound, Stateless, Transform, bound
from beam_jobs.config_text import Text
from beam_jobs.config_vectors import Sparse, Vector

MISSING_TOKEN = "[MISSING]"
LEARNED_FILLS = ("mean", "median", "mode")  # What stands in for missing values, of train.


class Column(Section):
    """A feature made of one column of a table."""

    type: Literal["column"] = "column"
    column: NonEmpty | None = None
    expression: NonEmpty | None = None
    dtype: Literal["float32", "int64", "string"]
    transform: Transform | tuple[Transform, ...] = ()
    missing: StrictStr | Number = "reject"
    indicator: StrictBool = False
    clip_min: Number | None = None
    clip_max: Number | None = None
    output_min: Number | None = None
    output_max: Number | None = None
    boundaries: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    key: NonEmpty | None = None
    num_buckets: Annotated[StrictInt, Field(ge=2, le=1_000_000)] | None = None
    top_k: Count | None = None
    num_oov_buckets: Count | None = None
    frequency_threshold: Count | None = None
    rank_by: Literal["frequency", "mutual_information"] | None = None
    hash_buckets: Count | None = None
    output_mode: Literal["int", "one_hot"] = "int"

    @property
    def transforms(self) -> tuple[str, ...]:
        """The chain, left to right."""
        return (self.transform,) if isinstance(self.transform, str) else self.transform

    @property
    def stateless_steps(self) -> tuple[Stateless, ...]:
        """The steps before the one that learns: they need nothing but the value."""
        names = self.transforms
        end = len(names) if self.last_step is None else names.index(self.last_step)
        return tuple(map(self._stateless, names[:end]))

    @property
    def later_steps(self) -> tuple[Stateless, ...]:
        """The stateless steps behind the one that learns."""
        if self.last_step is None:
            return ()
        behind = self.transforms[self.transforms.index(self.last_step) + 1 :]
        return tuple(map(self._stateless, behind))

    def _stateless(self, name: str) -> Stateless:
        return (name, *(getattr(self, option) for option in STEPS[name].may_have))

    @property
    def last_step(self) -> str | None:
        """The step that is not a stateless one; only clip may follow it."""
        return next((name for name in self.transforms if not STEPS[name].is_stateless), None)

    @property
    def options(self) -> tuple[object, ...]:
        """The options of the transforms, in one order for all features."""
        return tuple(getattr(self, option) for option in OPTIONS)

    @property
    def is_counted(self) -> bool:
        """Whether the statistical step learns from how often each value occurs."""
        return self.last_step is not None and STEPS[self.last_step].is_counted

    @property
    def bound(self) -> Bound | None:
        """Which raw values the transforms can take; None for all."""
        last = () if self.last_step is None else ((self.last_step,),)
        return bound((*self.stateless_steps, *last))

    @property
    def is_sparse(self) -> bool:
        """Whether a record holds indices and values instead of a scalar."""
        return self.output_mode == "one_hot"

    @property
    def is_ranked_by_class(self) -> bool:
        """Whether its vocabulary depends on the classes of records."""
        return self.rank_by == "mutual_information"

    @property
    def output_dtype(self) -> str:
        """The dtype that it is stored with: float32, int64 or string."""
        if self.is_sparse:
            return "float32"
        if not self.transforms:
            return self.dtype
        return "float32" if self.last_step is None else STEPS[self.last_step].gives

    @property
    def output_range(self) -> tuple[float, float]:
        """The ends that scale_by_min_max scales to."""
        least, most = self.output_min, self.output_max
        return 0 if least is None else least, 1 if most is None else most

    @property
    def is_fill_learned(self) -> bool:
        """Whether train says what stands in for a missing value."""
        return self.missing in LEARNED_FILLS

    @property
    def oov_buckets(self) -> int:
        """The number of indices after the vocabulary."""
        return 1 if self.num_oov_buckets is None else self.num_oov_buckets

    @model_validator(mode="after")
    def _check_transforms(self) -> "Column":
        self._check_order()
        for name in self.transforms:
            takes = STEPS[name].takes
            if self.dtype not in takes:
                raise ValueError(
                    f"transform: {name} takes {' or '.join(takes)}, but dtype is {self.dtype}"
                )
            for option in STEPS[name].needs:
                if getattr(self, option) is None:
                    raise ValueError(f"transform = {name!r} needs {option}")
        for option in OPTIONS:
            owners = [n for n, of in STEPS.items() if option in (*of.needs, *of.may_have)]
            if getattr(self, option) is not None and not {*owners} & {*self.transforms}:
                raise ValueError(
                    f"{option} belongs to transform = {' or '.join(map(repr, owners))}"
                )
        self._check_options()
        return self

    def _check_order(self) -> None:
        last = self.last_step
        later = [name for name, *_ in self.later_steps]
        if last is not None and STEPS[last].gives != "float32" and later:
            raise ValueError(
                f"transform: {last} must be the last of its chain, but is followed by {later[0]}"
            )
        if last is not None and later not in ([], ["clip"]):
            raise ValueError(
                f"transform: {last} may be followed by clip, but is followed by {later[-1]}"
            )

    def _check_options(self) -> None:
        if self.transforms.count("clip") > 1:
            raise ValueError(
                "transform: clip stands there twice, but has one clip_min and clip_max"
            )
        if "clip" in self.transforms and self.clip_min is None and self.clip_max is None:
            raise ValueError("transform = 'clip' needs clip_min, clip_max or both")
        least, most = self.clip_min, self.clip_max
        if least is not None and most is not None and least > most:
            raise ValueError(f"clip_min must not be above clip_max, but is {least} and {most}")
        least, most = self.output_range
        if least >= most:
            raise ValueError(f"output_min must be less than output_max, but is {least} and {most}")
        if any(low >= high for low, high in itertools.pairwise(self.boundaries or ())):
            raise ValueError(f"boundaries must ascend, but are {list(self.boundaries or ())}")
        for option in ("clip_min", "clip_max", "output_min", "output_max", "boundaries"):
            self._check_float32(option)
        indexing = [name for name, step in STEPS.items() if step.gives == "int64"]
        if self.is_sparse and self.last_step not in indexing:
            raise ValueError(
                'output_mode = "one_hot" needs an index: transform = '
                f"{' or '.join(map(repr, indexing))}"
            )
        _ = self.bound  # Raises where the chain takes no value at all.

    @model_validator(mode="after")
    def _check_origin(self) -> "Column":
        if self.column is not None and self.expression is not None:
            raise ValueError("takes column or expression, not both")
        return self

    @model_validator(mode="after")
    def _check_missing(self) -> "Column":
        text = isinstance(self.missing, str)
        if self.dtype == "string" and not text:
            raise ValueError(f'missing must be "reject", "token" or a text, but is {self.missing}')
        if self.dtype == "string" and self.missing in ("mean", "median"):
            raise ValueError(f"missing = {self.missing!r} needs numbers, but dtype is string")
        if self.dtype == "int64" and (
            isinstance(self.missing, float) or (text and self.missing not in ("reject", "mode"))
        ):
            raise ValueError(
                'missing must be "reject", "mode" or a whole number for int64, '
                f"but is {self.missing!r}; "
                "mean and median take dtype = 'float32'"
            )
        if self.dtype == "float32" and text and self.missing not in ("reject", *LEARNED_FILLS):
            raise ValueError(
                'missing must be "reject", "mean", "median", "mode" or a number for float32, '
                f"but is {self.missing!r}"
            )
        if not isinstance(self.missing, str):
            self._check_constant(self.missing)
        if self.indicator and self.missing == "reject":
            raise ValueError("indicator needs a missing policy that keeps the record")
        return self

    def _check_float32(self, option: str) -> None:
        said = getattr(self, option)
        for number in said if isinstance(said, tuple) else (said,):
            if number is not None and not math.isfinite(float32(number)):
                raise ValueError(f"{option} must fit float32, but holds {number}")

    def _check_constant(self, number: int | float) -> None:
        stored = float32(number) if self.dtype == "float32" else number
        is_int64 = -(2**63) <= number < 2**63
        if not (math.isfinite(stored) if self.dtype == "float32" else is_int64):
            raise ValueError(f"missing must fit {self.dtype}, but is {number}")
        if self.bound is not None and self.bound.excludes(stored):
            raise ValueError(
                f"missing must be {self.bound.rule} for {self.bound.step}, but is {number}"
            )


class Cross(Section):
    """A feature made of others: a category for each combination of theirs, by hash."""

    type: Literal["cross"] = "cross"
    of: Annotated[tuple[NonEmpty, ...], Field(min_length=2)]
    hash_buckets: Count


Method = Literal[
    "bilinear",
    "nearest",
    "bicubic",
    "area",
    "lanczos3",
    "lanczos5",
    "gaussian",
    "mitchellcubic",
]
Size = tuple[Pixels, Pixels]
_ENCODED = ("jpeg", "png")
_FLOATS = ("float32", "bfloat16")
_MAX_WHITENED = 64 * 64 * 3  # Values of an image: their covariances are 1.2 GB.
_MAX_SAMPLEWISE = 1 << 24  # Values of an image, of which int64 holds every sum of products.


class Image(Section):
    """A feature made of an image file."""

    type: Literal["image"] = "image"
    column: NonEmpty | None = None
    size: Size | None = None
    channels: Literal[1, 3, 4] = 3
    method: Method = "bilinear"
    antialias: StrictBool = True
    crop_size: Size | None = None
    crop: Literal["none", "center"] = "none"
    pad_to_aspect_ratio: StrictBool = False
    pad_value: Annotated[StrictInt, Field(ge=0, le=255)] | None = None
    preprocessing_function: NonEmpty | None = None
    rescale: Annotated[Number, Field(ge=1e-9, le=1e9)] = 1
    statistics: Literal["channel", "pixel"] = "channel"
    featurewise_center: StrictBool = False
    featurewise_std_normalization: StrictBool = False
    samplewise_center: StrictBool = False
    samplewise_std_normalization: StrictBool = False
    zca_whitening: StrictBool = False
    zca_epsilon: Annotated[Number, Field(ge=0, le=1e9)] | None = None
    data_format: Literal["channels_last", "channels_first"] = "channels_last"
    store: Literal["uint8", "float32", "bfloat16", "jpeg", "png"] = "uint8"
    quality: Annotated[StrictInt, Field(ge=1, le=100)] | None = None

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of what is stored; None where images keep their own size."""
        return (*(self.size or self.crop_size or (None, None)), self.channels)

    @property
    def num_values(self) -> int:
        """How many values an image of fixed size has."""
        return math.prod(side or 0 for side in self.shape)

    @property
    def stored_shape(self) -> tuple[int | None, int | None, int] | tuple[int, int, int]:
        """The shape in the records, where `data_format` has its say."""
        height, width, channels = self.shape
        is_first = self.data_format == "channels_first"
        return (channels, height, width) if is_first else self.shape  # type: ignore[return-value]

    def is_too_small(self, height: int, width: int) -> bool:
        """Whether an image lacks pixels of the box that is to be cut out of it."""
        return self.crop_size is not None and (
            height < self.crop_size[0] or width < self.crop_size[1]
        )

    @property
    def is_encoded(self) -> bool:
        """Whether the records hold image files."""
        return self.store in _ENCODED

    @property
    def is_featurewise(self) -> bool:
        """Whether the statistics of train change the values."""
        return self.featurewise_center or self.featurewise_std_normalization

    @property
    def is_samplewise(self) -> bool:
        """Whether an image's own statistics change its values."""
        return self.samplewise_center or self.samplewise_std_normalization

    @property
    def is_normalized(self) -> bool:
        """Whether the records hold what a model takes, so that it has nothing to normalize."""
        return self.store in _FLOATS

    @model_validator(mode="after")
    def _check_geometry(self) -> "Image":
        if self.size is None and self.crop_size is None and not self.is_encoded:
            raise ValueError(
                f"store = {self.store!r} needs size; images of their own sizes are stored as "
                '"jpeg" or "png"'
            )
        if self.size is None and (self.crop == "center" or self.pad_to_aspect_ratio):
            raise ValueError("crop and pad_to_aspect_ratio need size, whose ratio they bring about")
        if self.crop == "center" and self.pad_to_aspect_ratio:
            raise ValueError('takes crop = "center" or pad_to_aspect_ratio, not both')
        if self.pad_value is not None and not self.pad_to_aspect_ratio:
            raise ValueError("pad_value belongs to pad_to_aspect_ratio = true")
        return self

    @model_validator(mode="after")
    def _check_store(self) -> "Image":
        if self.quality is not None and self.store != "jpeg":
            raise ValueError('quality belongs to store = "jpeg"')
        if self.store == "jpeg" and self.channels == 4:
            raise ValueError('store = "jpeg" takes 1 or 3 channels; "png" takes 4, too')
        if self.is_encoded and self.data_format == "channels_first":
            raise ValueError(f'a {self.store} has no data_format; store "uint8" or "float32"')
        return self

    @model_validator(mode="after")
    def _check_statistics(self) -> "Image":
        if self.statistics == "pixel" and not self.is_featurewise:
            raise ValueError(
                'statistics = "pixel" belongs to featurewise_center and '
                "featurewise_std_normalization"
            )
        if self.statistics == "pixel" and None in self.shape:
            raise ValueError('statistics = "pixel" needs size: pixels must have the same places')
        if self.is_samplewise and (self.is_featurewise or self.zca_whitening):
            raise ValueError(
                "takes samplewise_* or featurewise_*, not both: what is centered by itself has "
                "not the dataset's statistics any more"
            )
        if self.is_samplewise and self.num_values > _MAX_SAMPLEWISE:
            raise ValueError(
                f"samplewise_* takes images of at most {_MAX_SAMPLEWISE:,} values, but size has "
                f"{self.num_values:,}"
            )
        return self

    @model_validator(mode="after")
    def _check_whitening(self) -> "Image":
        if self.zca_epsilon is not None and not self.zca_whitening:
            raise ValueError("zca_epsilon belongs to zca_whitening = true")
        if not self.zca_whitening:
            return self
        if not self.featurewise_center:
            raise ValueError("zca_whitening needs featurewise_center = true")
        if not self.is_normalized:
            raise ValueError(
                'zca_whitening needs store = "float32" or "bfloat16": whitened values are no pixels'
            )
        if self.num_values > _MAX_WHITENED:
            raise ValueError(
                f"zca_whitening takes images of at most {_MAX_WHITENED:,} values, 64x64x3, but "
                f"size has {self.num_values:,}"
            )
        return self

    @model_validator(mode="after")
    def _check_function(self) -> "Image":
        if self.preprocessing_function is None:
            return self
        if not self.is_normalized:
            raise ValueError(
                'preprocessing_function needs store = "float32" or "bfloat16": its values are no '
                "pixels"
            )
        if self.rescale != 1 or self.is_featurewise or self.is_samplewise or self.zca_whitening:
            raise ValueError(
                "preprocessing_function excludes rescale, featurewise_*, samplewise_* and "
                "zca_whitening: do it in the function"
            )
        return self


class Mask(Section):
    """A feature made of an image whose pixels are the classes of another one's pixels."""

    type: Literal["mask"] = "mask"
    of: NonEmpty
    column: NonEmpty | None = None
    pad_value: Annotated[StrictInt, Field(ge=0, le=255)] = 0


class Boxes(Section):
    """A feature made of a text: where the objects of an image are."""

    type: Literal["boxes"] = "boxes"
    of: NonEmpty
    column: NonEmpty | None = None
    max_boxes: Annotated[StrictInt, Field(ge=1, le=10_000)]
    classes: StrictBool = False


Tabular = Column | Date | Sparse | Text  # Those that are made of one column of a table.
Feature = Column | Cross | Date | Vector | Sparse | Image | Mask | Boxes | Text
FEATURE_TYPES: dict[str, type[Feature]] = {
    "column": Column,
    "cross": Cross,
    "date": Date,
    "vector": Vector,
    "sparse": Sparse,
    "image": Image,
    "mask": Mask,
    "boxes": Boxes,
    "text": Text,
}
