import numpy as np
import pytest
from scipy.stats import binom

from anoseg_engines.errors import DataError
from anoseg_trainer.confidence_bound import describe_rejected_share, rejected_share, upper_bound


@pytest.mark.parametrize(("rejected", "n"), [(0, 1), (0, 299), (1, 10), (5, 100), (37, 400), (3000, 10000), (9, 10)])
def test_bound_is_clopper_and_pearsons(rejected, n):
    """At the bound, so few rejected are seen in just 5 % of all trials, which defines it; all rejected bound nothing."""
    assert binom.cdf(rejected, n, upper_bound(rejected, n)) == pytest.approx(0.05, rel=1e-9)
    assert upper_bound(n, n) == 1


@pytest.mark.parametrize("n", [1, 59, 298, 299, 473, 2000])
def test_the_allowed_count_is_the_largest_whose_bound_meets_the_request(n):
    """One more rejected image than allowed has a bound above the request."""
    allowed = rejected_share(0, n, 0.01).allowed
    assert allowed < 0 or upper_bound(allowed, n) <= 0.01
    assert upper_bound(allowed + 1, n) > 0.01


@pytest.mark.parametrize(("n", "share"), [(60, 0.01), (120, 0.03), (120, 0.2), (400, 0.01), (1000, 0.002)])
def test_bound_covers_the_true_share(n, share):
    """Over many simulated calibrations, the bound is below the true share no more often than once in twenty."""
    rejected = np.random.default_rng(4).binomial(n, share, 20000)
    bounds = np.array([upper_bound(k, n) for k in range(rejected.max() + 1)])
    missed = np.mean(bounds[rejected] < share)
    assert missed <= 0.05 + 3 * np.sqrt(0.05 / 20000)  # three standard errors
    assert bounds[0] < 3.1 / n  # and it is not wide for nothing: the rule of three


def test_a_target_for_rules_is_met_or_the_needed_images_are_named():
    """299 images without a reject show 1 %, 298 do not; of 473, one may be rejected, but not two."""
    assert rejected_share(0, 299, 0.01).met
    few = rejected_share(0, 298, 0.01)
    assert (few.met, few.allowed, few.needed) == (False, -1, 299)
    assert "0.01 was asked for, which needs 299 held-out good images" in describe_rejected_share(few, 0.01, images=298)
    assert [rejected_share(k, 473, 0.01).met for k in (0, 1, 2)] == [True, True, False]
    assert "allows 1 rejected of 473" in describe_rejected_share(rejected_share(2, 473, 0.01), 0.01, images=473)
    assert "0 of 298 good parts on 900 images" in describe_rejected_share(few, 0.01, images=900)
    unknown = describe_rejected_share(few, 0.01, images=298, parts_known=False)
    assert unknown.startswith("nothing is promised")
    assert "at most" not in unknown
    with pytest.raises(DataError):
        rejected_share(0, 0, 0.01)
