"""A change of settings at runtime: taken over as a whole or not at all."""

import pytest

from models.runtime.live_settings import Changes, LiveSettings, changed
from models.runtime.settings import Settings, SettingsError, load


@pytest.fixture
def settings(bare_environment: None) -> Settings:
    return load()


@pytest.mark.proves("FR-023", "SC-010")
def test_a_change_is_told_to_whoever_watches(settings: Settings) -> None:
    live, told = LiveSettings(settings), []
    live.watch(told.append)
    live.take_over(Changes(1, {"limits.joins_per_room.burst": 7, "log.level": "DEBUG"}))
    assert told == [live.current]
    assert (live.current.limits.joins_per_room.burst, live.current.log.level) == (7, "DEBUG")
    # And what isn't in the next set any more is as it was at the start
    live.take_over(Changes(2, {"log.level": "DEBUG"}))
    assert live.current.limits == settings.limits and live.current.log.level == "DEBUG"


def test_an_older_set_never_replaces_a_newer_one(settings: Settings) -> None:
    live = LiveSettings(settings)
    live.take_over(Changes(2, {"room.tick_s": 0.5}))
    live.take_over(Changes(1, {"room.tick_s": 0.9}))
    assert live.current.room.tick_s == 0.5


@pytest.mark.proves("FR-028")
def test_every_problem_of_a_change_is_named(settings: Settings) -> None:
    with pytest.raises(SettingsError) as error:
        changed(
            settings,
            {
                "node.port": 5000,
                "limits.unlimited": True,
                "limits.votes_per_sesion": 5,
                "room.tick_s": 0,
                "log.level": "LOUD",
                "shed.votes_lag_s": 0.1,
            },
        )
    assert error.value.problems == [
        "node.port: can't be changed at runtime",
        "limits.unlimited: can't be changed at runtime",
        "limits.votes_per_sesion: can't be changed at runtime; did you mean limits.votes_per_session?",
        "room.tick_s: expected a number, >0..3600; got 0",
        "log.level: expected one of DEBUG, ERROR, INFO, WARNING; got 'LOUD'",
        "shed.newcomers_lag_s: must not exceed shed.votes_lag_s: votes are shed last",
    ]


def test_a_set_with_one_unusable_value_changes_nothing(settings: Settings) -> None:
    live = LiveSettings(settings)
    live.watch(lambda _settings: pytest.fail("nothing has changed"))
    live.take_over(Changes(1, {"room.tick_s": 0.5, "of.tomorrow": 1}))
    assert live.current == settings
