"""Moments to parts of the calendar and places in its cycles, in TF ops.

The calendar is the proleptic Gregorian one, in UTC; the arithmetic of whole days is Howard
Hinnant's (https://howardhinnant.github.io/date_algorithms.html).
"""

import math

import tensorflow as tf

from beam_jobs import stateless
from beam_jobs.config_dates import Date

_MICROSECONDS_A_DAY = 86_400_000_000
_DAYS_AN_ERA = 146_097  # The calendar repeats after 400 years.
# From 0000-03-01, where years begin so that a leap day ends one, to 1970-01-01.
_DAYS_BEFORE_1970 = 719_468


def features(moments: tf.Tensor, date: Date) -> dict[str, tf.Tensor]:
    """Returns what is stored of moments, by the ending of its name.

    Args:
      moments: int64 (batch_size,), microseconds since 1970-01-01 00:00 UTC.
      date: What the spec asks for.

    Returns:
      int64 (batch_size,) for a part, as pandas has it: dayofweek 0 is a Monday, week is ISO's. Of a
      cycle float32 (batch_size,), sine and cosine of the share of it that has passed.
    """
    day = tf.math.floordiv(moments, _MICROSECONDS_A_DAY)
    moment = moments - day * _MICROSECONDS_A_DAY  # Within the day.
    year, month, day_of_month = _civil(day)
    day_of_year = day - _first_day(year)
    day_of_week = tf.math.floormod(day + 3, 7)
    thursday = day - day_of_week + 3  # Its year is the year of the week.
    week = (thursday - _first_day(_civil(thursday)[0])) // 7 + 1
    parts = {
        "year": year,
        "quarter": (month + 2) // 3,
        "month": month,
        "week": week,
        "day": day_of_month,
        "dayofyear": day_of_year + 1,
        "dayofweek": day_of_week,
        "hour": moment // 3_600_000_000,
        "minute": moment // 60_000_000 % 60,
        "second": moment // 1_000_000 % 60,
    }
    found = {f"_{part}": parts[part] for part in date.parts}
    following = tf.where(tf.equal(month, 12), _first_day(year + 1), _days(year, month + 1))
    passed = {  # Days behind, and days in all.
        "year": (day_of_year, _first_day(year + 1) - _first_day(year)),
        "month": (day_of_month - 1, following - _days(year, month)),
        "week": (day_of_week, tf.constant(7, tf.int64)),
        "day": (tf.zeros_like(day), tf.constant(1, tf.int64)),
    }
    for cycle in date.cycles:
        if cycle == "hour":
            behind, length = moment % 3_600_000_000, tf.constant(3_600_000_000, tf.int64)
        else:
            days, num_days = passed[cycle]
            behind, length = days * _MICROSECONDS_A_DAY + moment, num_days * _MICROSECONDS_A_DAY
        angle = tf.cast(behind, tf.float64) / tf.cast(length, tf.float64) * (2 * math.pi)
        for ending, op in (("sin", tf.math.sin), ("cos", tf.math.cos)):
            found[f"_{cycle}_{ending}"] = tf.cast(stateless.padded(op, angle), tf.float32)
    return found


def _civil(day: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns year, month and day of the month of days since 1970: int64 (batch_size,)."""
    day = day + _DAYS_BEFORE_1970
    era = tf.math.floordiv(day, _DAYS_AN_ERA)
    of_era = day - era * _DAYS_AN_ERA
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153  # 0 is March.
    day_of_month = of_year - (153 * month + 2) // 5 + 1
    is_next = tf.cast(month >= 10, tf.int64)
    return year + era * 400 + is_next, month + 3 - 12 * is_next, day_of_month


def _days(year: tf.Tensor, month: tf.Tensor) -> tf.Tensor:
    """Returns the days from 1970 to the first of a month."""
    year = year - tf.cast(month <= 2, tf.int64)
    era = tf.math.floordiv(year, 400)
    of_era = year - era * 400
    of_year = (153 * tf.math.floormod(month - 3, 12) + 2) // 5
    of_era = of_era * 365 + of_era // 4 - of_era // 100 + of_year
    return era * _DAYS_AN_ERA + of_era - _DAYS_BEFORE_1970


def _first_day(year: tf.Tensor) -> tf.Tensor:
    return _days(year, tf.ones_like(year))
