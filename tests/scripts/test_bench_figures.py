"""scripts/bench: pairs, medians and verdicts, and what is read out of logs and /proc."""

import os
import time

import pytest

from scripts.benchmarks.lines.statements import durations_by_statement
from scripts.benchmarks.meters import Meter, ProcessGone
from scripts.benchmarks.results import Aim, Row, percentile, table


def test_ratios_are_of_pairs_and_their_median_counts():
    row = Row("votes", "votes", "1/s", [10, 20, 90], [10, 10, 10], "peer", (Aim("ratio", ">=", 2),))
    assert row.ratios == [1, 2, 9]
    assert row.verdict == "met"
    assert "2 (1..9)" in table([row])


def test_every_aim_must_be_met():
    assert Row("a", "b", "µs", [20], [30], "noop", (Aim("ours", "<=", 25), Aim("ratio", "<=", 1))).verdict == "met"
    assert Row("a", "b", "µs", [26], [30], "noop", (Aim("ours", "<=", 25), Aim("ratio", "<=", 1))).verdict == "MISSED"


def test_without_a_peer_a_ratio_is_neither_met_nor_missed():
    assert Row("a", "b", "µs", [26], aims=(Aim("ratio", "<=", 1),)).verdict == ""


def test_percentiles_are_nearest_ranks():
    assert percentile(range(100), 95) == 95
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == 0.0


def test_statements_of_a_log_are_told_apart_without_their_values():
    lines = [
        "2026-01-01 10:00:00.000 UTC [1] votemill LOG:  duration: 1.500 ms  statement: \n",
        "\tINSERT INTO t VALUES (1, 'x')\n",
        "2026-01-01 10:00:01.000 UTC [1] votemill LOG:  duration: 2.5 ms  statement: INSERT INTO t VALUES (9, '')\n",
        "2026-01-01 10:00:02.000 UTC [1] votemill LOG:  duration: 0.1 ms  statement: COMMIT\n",
        "2026-01-01 10:00:03.000 UTC [1] votemill ERROR:  nothing to see\n",
    ]
    assert durations_by_statement(lines) == {"INSERT INTO t VALUES (?, ?)": [1.5, 2.5], "COMMIT": [0.1]}


def test_a_meter_counts_what_a_process_and_its_children_use():
    meter = Meter(os.getpid())
    before, until = meter.cpu_s(), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert 0.03 <= meter.cpu_s() - before < 2
    assert meter.rss_kb() > 1000


def test_a_meter_of_a_dead_process_fails_instead_of_measuring_nothing():
    with pytest.raises(ProcessGone):
        Meter(2**22 + 1).cpu_s()
