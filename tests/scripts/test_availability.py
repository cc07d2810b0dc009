"""Outages, gaps and shares of time, and what the report makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from datetime import time as day_time
from pathlib import Path
from typing import Any

import pytest

from scripts.probing import availability
from scripts.probing.outages import Span, business_hours
from scripts.probing.outages import availability as available
from scripts.probing.record import PARTS, Record, RecordTaken, read

pytestmark = pytest.mark.proves("SC-001", "SC-008")


def rounds(spans: str, every_s: float = 5, begins: float = 0) -> list[dict[str, Any]]:
    """One letter a round: ``o`` is ok, ``x`` failed, ``l`` limited, ``.`` a round that nobody made. Each takes 1 s."""
    outcomes = {"o": "ok", "x": "failed", "l": "limited"}
    return [
        {
            "at": begins + place * every_s,
            "every_s": every_s,
            "outcome": outcomes[letter],
            "took_ms": 1000,
            "step": "vote",
        }
        for place, letter in enumerate(spans)
        if letter != "."
    ]


def test_without_a_failure_all_of_the_time_is_up() -> None:
    found = available(rounds("o" * 20), [Span(0, 100)])
    assert (found.percent, found.known_percent, found.outages, found.recovery_s) == (100, 100, (), 0)


def test_an_outage_lasts_until_something_is_seen_to_work() -> None:
    # Given rounds at 0, 5, ... of which those at 50 and 55 fail
    found = available(rounds("o" * 10 + "xx" + "o" * 8), [Span(0, 100)])
    # Then it lasts from 50 to the end of the round at 60
    (outage,) = found.outages
    assert (outage.span, outage.step, outage.over) == (Span(50, 61), "vote", True)
    assert (found.percent, found.down_s, found.recovery_s) == (89, 11, 11)


def test_the_time_to_recovery_is_the_mean_of_all_outages() -> None:
    found = available(rounds("oxooxxxoo"), [Span(0, 45)])
    assert [outage.lasted_s for outage in found.outages] == [6, 16]
    assert found.recovery_s == 11


def test_an_outage_that_goes_on_is_counted_so_far() -> None:
    found = available(rounds("ooxx"), [Span(0, 20)])
    (outage,) = found.outages
    assert (outage.span, outage.over) == (Span(10, 16), False)


def test_time_without_rounds_is_neither_up_nor_down() -> None:
    # Given a probe that stood still between 20 and 100, and that a round failed long after
    found = available(rounds("oooo" + "." * 16 + "oooox" + "o" * 5), [Span(0, 150)])
    # Then this is named, and the share is of the rest
    assert found.unknown == (Span(16, 100),)
    assert (found.known_s, found.down_s) == (66, 6)
    assert found.percent == pytest.approx(100 * 60 / 66)
    assert found.known_percent == pytest.approx(44)


def test_rounds_that_the_limits_refused_tell_nothing() -> None:
    found = available(rounds("ooo" + "l" * 10 + "ooo"), [Span(0, 80)])
    assert (found.unknown, found.outages) == ((Span(11, 65),), ())


def test_a_gap_in_an_outage_is_a_part_of_it() -> None:
    for after in "xo":
        found = available(rounds("oox" + "." * 20 + after + "ooo"), [Span(0, 135)])
        assert (found.unknown, found.known_s) == ((), 135)
        assert found.outages[0].span.begins == 10
        assert found.outages[0].span.ends == {"x": 121, "o": 116}[after]


def test_what_lies_before_and_after_the_rounds_is_not_known() -> None:
    found = available(rounds("o" * 10, begins=100), [Span(0, 300)])
    assert found.unknown == (Span(0, 100), Span(146, 300))


def test_rounds_of_a_clock_that_was_set_back_are_put_in_order() -> None:
    found = available(reversed(rounds("ooxxo")), [Span(0, 25)])
    assert [outage.span for outage in found.outages] == [Span(10, 21)]


def test_only_business_hours_are_asked_about() -> None:
    # Given a week from a Saturday on
    saturday = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
    week = Span(saturday, saturday + 7 * 86_400)
    windows = list(business_hours(week, day_time(8), day_time(18), UTC))
    assert [(window.begins - saturday) / 3600 for window in windows] == [24 * day + 8 for day in range(2, 7)]
    assert {window.ends - window.begins for window in windows} == {36_000}
    # When the service is down from Monday 17:30 to Tuesday 08:30
    down_s = (2 * 24 + 17.5) * 3600, (3 * 24 + 8.5) * 3600
    told: Iterable[dict[str, Any]] = (
        line | {"outcome": "failed" if down_s[0] <= line["at"] - saturday < down_s[1] else "ok"}
        for line in rounds("o" * (7 * 24 * 60), every_s=60, begins=saturday)
    )
    found = available(told, windows)
    # Then an hour of it counts, and the whole is what it took to recover
    assert found.down_s == pytest.approx(3600, abs=2)
    assert found.percent == pytest.approx(98, abs=0.01)
    assert found.recovery_s == pytest.approx(15 * 3600, abs=62)


def written(folder: Path, spans: str, **more: float) -> Path:
    file = folder / "probe-1.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in rounds(spans, **more)))
    return file


@pytest.mark.parametrize(
    ("spans", "until", "status"),
    [
        ("o" * 2000, 10_000, 0),
        ("o" * 1000 + "x" + "o" * 999, 10_000, 0),  # 6 s of 10 000 s
        ("o" * 1000 + "xx" + "o" * 998, 10_000, 1),  # 11 s
        ("o" * 1000 + "x" * 1000 + "o" * 2_000_0, 110_000, 1),
        ("o" * 2000, 12_000, 3),  # a sixth isn't known
        ("l" * 2000, 10_000, 3),
    ],
)
def test_the_exit_status_says_whether_the_aims_are_met(tmp_path: Path, spans: str, until: int, status: int) -> None:
    file = written(tmp_path, spans)
    since = ["--since", "1970-01-01T00:00:00Z", "--until", datetime.fromtimestamp(until, UTC).isoformat()]
    assert availability.main([str(file), *since]) == status
    assert availability.main([str(file), *since, "--json"]) == status


def test_mean_recoveries_of_half_an_hour_are_too_long(tmp_path: Path) -> None:
    # Given a single outage of 31 minutes in a month, of rounds a minute apart
    file = written(tmp_path, "o" * 20_000 + "x" * 31 + "o" * 20_000, every_s=60)
    until = datetime.fromtimestamp(40_031 * 60, UTC).isoformat()
    assert availability.main([str(file), "--until", until]) == 1


def test_the_report_names_outages_and_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "ooxx" + "o" * 6 + "." * 30 + "oo")
    assert availability.main([str(file), "--until", "1970-01-01T00:03:30Z"]) == 1
    told = capsys.readouterr().out
    assert "down     1970-01-01 00:00:10Z  1970-01-01 00:00:21Z        11.0 s  vote: " in told
    assert "unknown  1970-01-01 00:00:46Z  1970-01-01 00:03:20Z" in told
    assert "✗ SC-001: available 80.357 %" in told and "✓ SC-008: 1 outage, recovered after 11.0 s" in told


def test_without_a_record_there_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert availability.main([str(tmp_path / "no.jsonl")]) == 2
    (tmp_path / "empty.jsonl").touch()
    assert availability.main([str(tmp_path / "empty.jsonl")]) == 2
    assert capsys.readouterr().out == ""


def line(number: int) -> dict[str, Any]:
    return {"at": number, "every_s": 5, "outcome": "ok", "took_ms": 1}


def test_a_record_stays_bounded_and_keeps_the_newest_rounds(tmp_path: Path) -> None:
    file = tmp_path / "probe" / "a.jsonl"
    record = Record(file, 10_000)
    for number in range(2000):
        record.add(line(number))
    record.close()
    parts = list(file.parent.glob("a.jsonl*"))
    assert sum(part.stat().st_size for part in parts) <= 10_000
    assert len(parts) == PARTS + 1  # and the lock
    kept = [told["at"] for told in read(file)]
    assert kept == list(range(kept[0], 2000)) and len(kept) > 100


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(line(1)) + "\n" + json.dumps(line(2))[:9])
    record = Record(file, 10_000)
    record.add(line(3))
    record.close()
    assert [told["at"] for told in read(file)] == [1, 3]


def test_two_probes_never_share_a_record(tmp_path: Path) -> None:
    first = Record(tmp_path / "a.jsonl", 10_000)
    with pytest.raises(RecordTaken, match="of its own"):
        Record(tmp_path / "a.jsonl", 10_000)
    first.close()
    Record(tmp_path / "a.jsonl", 10_000).close()
