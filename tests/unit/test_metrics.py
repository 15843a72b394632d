"""The catalogue of metrics, the page made of it, and histograms filled many at a time."""

from bisect import bisect_left
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from deploy.local.layout import CHECKOUT
from shared.histogram import SECONDS, Histogram
from shared.metrics import all_metrics, page


def test_the_page_of_metrics_is_up_to_date() -> None:
    path = CHECKOUT / "docs" / "metrics.md"

    assert path.read_text("utf-8") == page(), "python -m shared.metrics > docs/metrics.md"


def test_names_differ_and_no_label_has_as_many_values_as_there_are_customers() -> None:
    metrics = list(all_metrics())

    assert len({each.name for each in metrics}) == len(metrics)
    labels = {label for each in metrics for label in each.labels}
    assert labels == {
        *("shard", "outcome", "state", "reason", "of"),
        *("http.request.method", "http.route", "http.response.status_code"),
    }


@given(st.lists(st.integers(0, 20_000_000), min_size=1), st.integers(0, 30_000_000))
def test_ages_are_counted_as_one_by_one(ages_ms: Sequence[int], now_ms: int) -> None:
    moments = [now_ms - age for age in ages_ms]
    one_by_one = [0] * (len(SECONDS) + 1)
    for age in ages_ms:
        one_by_one[bisect_left([bound * 1000 for bound in SECONDS], age)] += 1
    histogram = Histogram()

    histogram.observe_ages(moments, now_ms)

    assert histogram.counts == one_by_one
    assert histogram.total == sum(ages_ms) / 1000
    assert (histogram.lowest, histogram.highest) == (min(ages_ms) / 1000, max(ages_ms) / 1000)
