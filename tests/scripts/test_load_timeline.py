"""A load run second by second, put together from its processes, and drawn."""

from array import array

import pytest

from scripts.loadtest import timeline
from scripts.loadtest.__main__ import parse_arguments
from scripts.loadtest.crowd import Look, Outcome
from scripts.loadtest.voter import Counts


def outcome(latencies_ms: list[float], *looks: Look) -> Outcome:
    return Outcome([], array("f", latencies_ms), list(looks), Counts(), [], {}, 0, 0, 0, 0.0, 0.0)


def test_answers_are_counted_in_the_second_in_which_they_came():
    # Given two processes, of which one began a little later, and a second in which nothing was answered
    one = outcome([1, 2, 3, 4], Look(100.0, 0, 0), Look(100.9, 2, 0), Look(102.1, 3, 1), Look(103.2, 4, 1))
    other = outcome([10, 20], Look(100.3, 0, 0), Look(100.5, 2, 0), Look(103.4, 2, 0))
    seconds = timeline.seconds_of([one, other])
    # Then a look's answers stand where the one before it was taken
    assert [(each["at_s"], each["acked"], each["refused"]) for each in seconds] == [(0, 5, 1), (1, 0, 0), (2, 1, 0)]
    assert (seconds[0]["p50_ms"], seconds[0]["max_ms"]) == (3, 20)
    assert seconds[1]["max_ms"] == 0
    assert sum(each["acked"] for each in seconds) == 6


def test_a_run_that_never_voted_has_no_seconds():
    assert timeline.seconds_of([outcome([])]) == []


@pytest.mark.parametrize(("name", "begins"), [("run.svg", b"<?xml"), ("run.png", b"\x89PNG")])
def test_a_picture_is_drawn_with_what_happened(tmp_path, name, begins):
    run = outcome([1, 2], Look(0.0, 0, 0), Look(0.5, 1, 0), Look(1.5, 2, 4))
    report = {"timeline": timeline.seconds_of([run]), "events": [{"at_s": 0.4, "text": "freeze node-1 for 2.0 s"}]}
    timeline.draw(report, tmp_path / name, "2 voters")
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(begins)
    if name.endswith("svg"):
        assert all(text in drawn for text in (b"2 voters", b"freeze node-1", b"p95", b"acked"))


def test_a_run_without_answers_is_drawn_as_well(tmp_path):
    timeline.draw({"timeline": []}, tmp_path / "run.svg", "nobody")
    assert (tmp_path / "run.svg").stat().st_size > 0


def test_another_format_is_refused_before_the_run(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["--voters", "1", "--seconds", "1", "--draw", "run.pdf"])
    assert "does not end with .svg or .png" in capsys.readouterr().err
