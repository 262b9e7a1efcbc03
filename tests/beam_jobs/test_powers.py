import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from beam_jobs import powers, stateless, tukey
from beam_jobs.counts import MAX_DISTINCT_NUMBERS, NumberCounts

RNG = np.random.default_rng(0)
SAMPLES = {
    "lognormal": RNG.lognormal(1, 1, 2000),
    "normal": RNG.normal(5, 2, 2000),
    "negative": -RNG.gamma(2, 2, 2000),
    "tails": RNG.standard_t(3, 2000) * 50,
    "years": RNG.integers(1950, 2020, 500).astype(np.float64),
    "tiny": RNG.normal(0, 1e-6, 200),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_lambda_is_that_of_the_greatest_likelihood(name):
    values = SAMPLES[name]
    counts = NumberCounts.of(values)
    ways = [(False, stats.yeojohnson_llf)]
    ways += [(True, stats.boxcox_llf)] * int(values.min() > 0)
    for of_positive, likelihood in ways:
        power = powers.learn(counts.values, counts.counts, of_positive)["lambda"]
        step = 1e-2 * max(1, abs(power))
        here, *beside = (likelihood(power + move, values) for move in (0, -step, step))
        if name == "years":  # SciPy's likelihood of them is noise.
            continue
        assert here > max(beside)
        # By the parabola through the three, the top is not further off than they can tell.
        off = step * (beside[0] - beside[1]) / (2 * (beside[0] + beside[1] - 2 * here))
        assert abs(off) < 5e-2 * step


def _scores(values, learned, of_positive=False) -> np.ndarray:
    power, center = (tf.constant(learned[key], tf.float64) for key in ("lambda", "center"))
    found = powers.apply(tf.constant(values), power, center, of_positive).numpy()
    return (found - learned["mean"]) / learned["std"]


@pytest.mark.parametrize("name", SAMPLES)
def test_z_scores_are_of_what_scipy_makes_of_the_values(name):
    values = SAMPLES[name]
    counts = NumberCounts.of(values)
    more = np.concatenate([values, -values, [0]])  # Also of the other sign.
    ways = [(False, stats.yeojohnson, more)]
    ways += [(True, stats.boxcox, values)] * int(values.min() > 0)
    for of_positive, transformed, asked in ways:
        learned = powers.learn(counts.values, counts.counts, of_positive)
        there = transformed(values, learned["lambda"])
        expected = (transformed(asked, learned["lambda"]) - there.mean()) / there.std()
        # SciPy's powers of years differ in their last digits only.
        tolerance = 1e-2 if name == "years" else 1e-7
        found = _scores(asked, learned, of_positive)
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_years_are_told_apart_whatever_the_power():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = rng.integers(1950, 2020, 500).astype(np.float64)
        counts = NumberCounts.of(values)
        for of_positive in (False, True):
            learned = powers.learn(counts.values, counts.counts, of_positive)
            found = _scores(values, learned, of_positive)
            assert abs(found.mean()) < 1e-9 and abs(found.std() - 1) < 1e-9
            power, moved = learned["lambda"], values + (not of_positive)
            near = _likelihood(moved, power)
            assert near > max(_likelihood(moved, power + off) for off in (-0.1, 0.1))


def _likelihood(values, power) -> float:
    """Box and Cox's, without the 1 that is taken from a power, so that nothing cancels."""
    logs = np.log(values.astype(np.longdouble))
    y = np.exp(power * (logs - logs.mean())) / power
    return power * logs.sum() - logs.size / 2 * np.log(y.var()) - logs.size * power * logs.mean()


def test_values_of_any_size_leave_lambda_finite():
    for values in ([1e-30, 3e30], [-3e38, 3e38, 0], [5.0, 5.0], [1e300, 2e300]):
        counts = NumberCounts.of(np.array(values, np.float64))
        for of_positive in (False, True)[: 1 + (min(values) > 0)]:
            learned = powers.learn(counts.values, counts.counts, of_positive)
            assert all(map(math.isfinite, learned.values())) and learned["std"] > 0
    assert powers.learn(np.array([5.0]), np.array([9]), True)["lambda"] == 1


@pytest.mark.parametrize("of_positive", [False, True])
def test_a_constant_is_0(of_positive):
    values = np.concatenate([RNG.lognormal(0, 20, 300), np.arange(1, 100) / 7])
    values = values if of_positive else np.concatenate([values, -values])
    for value in values:
        learned = powers.learn(np.array([value]), np.array([9]), of_positive)
        assert learned["lambda"] == 1 and _scores(np.array([value]), learned, of_positive) == [0]


def _inverse(values):
    return tukey.inverse(values, *_constants(0.3, 0.7))


def _constants(*numbers: float) -> list[tf.Tensor]:
    return [tf.constant(number, tf.float64) for number in numbers]


@pytest.mark.parametrize(
    "apply",
    [
        lambda values: stateless.apply(tf.abs(values), [("log",)]),
        lambda values: stateless.apply(tf.abs(values), [("sqrt",)]),
        lambda values: powers.apply(values, *_constants(0.37, 0.2), False),
        lambda values: powers.apply(tf.abs(values), *_constants(-0.2, 3.1), True),
        _inverse,
    ],
)
def test_a_value_has_the_same_bits_wherever_it_stands(apply):
    values = np.concatenate([10.0 ** RNG.uniform(-12, 12, 500), -RNG.lognormal(0, 3, 105)])
    assert values.size % 8  # A rest behind the SIMD packets.
    together = apply(tf.constant(values)).numpy()
    assert np.isfinite(together).all()
    alone = [apply(tf.constant(values[i : i + 1])).numpy()[0] for i in range(0, values.size, 3)]
    assert together[::3].tobytes() == np.array(alone).tobytes()
    for start in (1, 3, 7):
        assert apply(tf.constant(values[start:])).numpy().tobytes() == together[start:].tobytes()


def test_clip_keeps_the_sign_of_0():
    found = stateless.apply_numpy(np.array([-0.0, 0.0, -1, 2]), [("clip", 0, 1)])
    assert found.tolist() == [0, 0, 0, 1] and np.signbit(found[0])


def test_the_inverse_of_tukeys_distribution_is_by_lamberts_w():
    values = np.concatenate([RNG.standard_t(1, 500) * 20, [0, 1e-200, -1e8, 1e100]])
    tails = np.where(values < 0, 0.3, 0.7)
    expected = values * np.exp(-special.lambertw(tails * values * values).real / 2)
    np.testing.assert_allclose(_inverse(tf.constant(values)).numpy(), expected, rtol=1e-11)


def test_tails_that_are_not_heavier_than_normal_ones_are_0():
    assert tukey.parameters([3.0, 0.5, 0.0, 0.01])[2:] == (0, 0)
    assert tukey.parameters([3.0, 0.0, 0.0, 0.0]) == (3, 0, 0, 0)


@pytest.mark.parametrize("percent", [0, 25, 50, 75, 100, 33])
def test_percentiles_are_those_of_numpy(percent):
    for values in (SAMPLES["years"], SAMPLES["tails"], np.array([3.5]), np.array([1.0, 2.0])):
        found = NumberCounts.of(values).percentile(percent)
        assert float(found) == pytest.approx(np.percentile(values, percent), rel=1e-15)


def test_beyond_65536_values_quantiles_are_those_of_the_grid():
    values = RNG.normal(50, 20, MAX_DISTINCT_NUMBERS + 1)
    counts = NumberCounts.of(values)
    assert counts.is_grid
    for percent in (25, 50, 75):
        expected = np.percentile(values, percent)
        assert float(counts.percentile(percent)) == pytest.approx(expected, rel=2**-10)
    exact = NumberCounts(*np.unique(values, return_counts=True))
    found, wanted = (powers.learn(c.middles, c.counts, False) for c in (counts, exact))
    assert found["lambda"] == pytest.approx(wanted["lambda"], rel=1e-3)
    np.testing.assert_allclose(counts.l_moments(), exact.l_moments(), rtol=1e-3, atol=1e-2)
