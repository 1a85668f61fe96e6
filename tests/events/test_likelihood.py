import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pauca.errors import ConfigError
from pauca.events import Contrast, NegativeBinomial
from pauca.events.likelihood import tabulate


def test_integer_counts_are_scipys_negative_binomial():
    model = NegativeBinomial(r=0.1, beta=1.59)
    counts = np.arange(50.0)
    np.testing.assert_allclose(model.value(counts), stats.nbinom.logpmf(counts, 0.1, 1.59 / 2.59), rtol=1e-9)


@given(count=st.floats(0.01, 1e4), r=st.floats(0.01, 0.99), beta=st.floats(0.1, 10))
def test_slope_is_the_derivative(count, r, beta):
    model, step = NegativeBinomial(r, beta), 1e-5 * count
    difference = np.diff(model.value(np.array([count - step, count + step])))[0] / (2 * step)
    assert model.slope(np.array([count]))[0] == pytest.approx(difference, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("r", [0.0, 1.0, 5.0, -0.1, np.nan])
def test_r_outside_its_range_is_refused_with_the_reason(r):
    with pytest.raises(ConfigError, match="no longer rewards events that fall together"):
        NegativeBinomial(r=r)


def test_beta_must_be_positive():
    with pytest.raises(ConfigError, match="beta"):
        NegativeBinomial(beta=0.0)


def test_the_likelihood_is_convex_below_r_of_one():
    """The reason for r < 1: only a convex score rewards events that fall together."""
    counts = np.linspace(0, 20, 2001)
    assert np.all(np.diff(NegativeBinomial(r=0.9).value(counts), 2) > 0)


@pytest.mark.parametrize("score", [NegativeBinomial(), NegativeBinomial(r=0.02), NegativeBinomial(r=0.7), Contrast()])
def test_table_follows_the_function(score):
    table = tabulate(score)
    counts = np.concatenate([[0.0], np.geomspace(1e-4, 1e6, 5000)]).astype(np.float32)
    bits = (counts + table.offset).astype(np.float32).view(np.int32)
    segment, fraction = (bits >> 16) - table.first, (bits & 0xFFFF) / 65536
    value, value_step, slope, slope_step = table.segments[segment].T.astype(float)
    k, nothing = counts.astype(float), np.zeros(1)
    expected = score.value(k) - score.value(nothing) - score.slope(nothing) * k
    # float32 keeps (k + offset) to 6e-8, which the steep start of the function multiplies.
    np.testing.assert_allclose(value + fraction * value_step, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(
        slope + fraction * slope_step, score.slope(k) - score.slope(nothing), rtol=2e-5, atol=2e-3 / score.scale / 10
    )
    assert value[0] == 0
    assert slope[0] == 0


def test_sum_of_squares_orders_images_as_their_variance_does():
    rng = np.random.default_rng(3)
    images = rng.exponential(size=(20, 100))
    images /= images.sum(axis=1, keepdims=True)
    scores = Contrast().value(images).sum(axis=1)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(images.var(axis=1)))


def test_slope_of_contrast_is_its_derivative():
    assert Contrast().slope(np.array([3.0]))[0] == 6.0
