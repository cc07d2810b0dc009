"""Percentages, and times as browsers see them."""

from hypothesis import given
from hypothesis import strategies as st

from models.wire.polls import iso_time, percentages


def test_the_largest_remainders_get_what_is_left_over() -> None:
    assert percentages([1, 1, 1]) == [34, 33, 33]
    assert percentages([2, 1]) == [67, 33]
    assert percentages([1, 2, 4, 0]) == [14, 29, 57, 0]
    assert percentages([1, 0, 199]) == [1, 0, 99]
    assert percentages([7]) == [100]


def test_without_votes_all_are_zero() -> None:
    assert percentages([0, 0, 0]) == [0, 0, 0]


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=5))
def test_percentages_sum_to_100_and_are_within_one_of_the_share(votes: list[int]) -> None:
    shares = percentages(votes)
    total = sum(votes)
    assert sum(shares) == (100 if total else 0)
    for count, share in zip(votes, shares, strict=True):
        assert abs(share * total - count * 100) < max(total, 1)


def test_times_are_utc_with_milliseconds() -> None:
    assert iso_time(1_767_323_045_678_999) == "2026-01-02T03:04:05.678Z"
    assert iso_time(0) == "1970-01-01T00:00:00.000Z"
