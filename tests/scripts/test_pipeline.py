"""scripts/pipeline runs its stages in order, to their ends, and tells what happened; workflows run nothing else."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from scripts.release import __main__ as pipeline
from scripts.release import checkout, notify
from scripts.release.stages import UNASKED, Stage, chosen, lacking, stages
from scripts.stack.run_folder import ROOT
from tests.stages import stage_of

pytestmark = pytest.mark.proves("FR-025", "FR-026")
BY_NAME = {"push", "deploy"}


def shell(name: str, script: str, limit_s: float = 20, **more: str) -> Stage:
    return Stage(name, (("sh", "-c", script),), limit_s, **more)  # type: ignore[arg-type]


def outcomes(folder: Path) -> dict[str, str]:
    """Of each stage in the report, with what is said of it."""
    report = json.loads((folder / pipeline.REPORT).read_text())
    return {stage["stage"]: f"{stage['outcome']} {stage['why']}".strip() for stage in report["stages"]}


@pytest.mark.proves("US4.1")
def test_a_failing_stage_keeps_the_next_from_beginning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wanted = [shell("first", "echo seen"), shell("second", "exit 7"), shell("third", "true")]
    assert pipeline.run(wanted, tmp_path) == 1
    assert outcomes(tmp_path) == {"first": "passed", "second": "failed sh ended with 7"}
    assert (tmp_path / "first.log").read_text() == "seen\n" and "seen\n" in capfd.readouterr().out


def test_a_stage_that_hangs_is_ended_and_may_put_things_in_order(tmp_path: Path) -> None:
    hanging = "trap 'echo tidied; exit 1' TERM; sleep 60 & wait"
    assert pipeline.run([shell("hanging", hanging, limit_s=0.5)], tmp_path) == 1
    assert outcomes(tmp_path) == {"hanging": "failed not done within 0.5 s"}
    assert (tmp_path / "hanging.log").read_text() == "tidied\n"


def test_who_ends_the_pipeline_ends_the_stage_that_runs(tmp_path: Path) -> None:
    ended = "trap 'echo tidied; exit 1' TERM; kill -TERM $PPID; sleep 60 & wait"
    assert pipeline.run([shell("ended", ended), shell("next", "true")], tmp_path) == 130
    assert outcomes(tmp_path) == {"ended": "failed interrupted"}
    assert (tmp_path / "ended.log").read_text() == "tidied\n"


@pytest.mark.proves("SC-005")
def test_what_cant_be_asked_fails_unless_that_is_allowed(tmp_path: Path) -> None:
    unasked = shell("audit", f"exit {UNASKED}", asks="the databases")
    assert pipeline.run([unasked], tmp_path) == 1
    assert outcomes(tmp_path) == {"audit": "failed the databases could not be asked"}
    assert pipeline.run([unasked, shell("next", "true")], tmp_path, without_advisories=True) == 0
    assert outcomes(tmp_path) == {"audit": "unasked the databases could not be asked", "next": "passed"}
    # A finding fails everywhere, and so does a stage that asks nobody
    for stage in (shell("audit", "exit 1", asks="the databases"), shell("lint", f"exit {UNASKED}")):
        assert pipeline.run([stage], tmp_path, without_advisories=True) == 1


def test_a_resumed_run_leaves_out_what_has_passed_for_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    wanted = [shell("first", f"echo x >>{ran}"), shell("second", f"test -e {ran}.mended")]
    assert pipeline.run(wanted, tmp_path) == 1
    Path(f"{ran}.mended").touch()
    assert pipeline.run(wanted, tmp_path, resume=True) == 0
    assert outcomes(tmp_path) == {"first": "skipped passed before, for the same files", "second": "passed"}
    assert ran.read_text() == "x\n"
    # With other files everything runs
    monkeypatch.setattr(checkout, "tree", lambda: "another")
    assert pipeline.run(wanted, tmp_path, resume=True) == 0
    assert ran.read_text() == "x\nx\n"


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was told."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.proves("US4.4")
def test_a_failure_is_told_to_the_team(
    tmp_path: Path, webhook: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, told = webhook
    monkeypatch.setenv("NOTIFY_URL", url)
    monkeypatch.setenv("RUN_URL", "https://ci.example/7")
    assert pipeline.run([shell("fine", "true")], tmp_path) == 0
    assert told == []
    assert pipeline.run([shell("deploy", "exit 1")], tmp_path) == 1
    assert re.fullmatch(r"Votemill .+: deploy failed: sh ended with 1 https://ci\.example/7", told[0])


def test_a_webhook_that_is_away_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(notify, "_PAUSE_S", 0)
    assert pipeline.run([shell("deploy", "exit 1")], tmp_path) == 1
    assert capsys.readouterr().out.count("nobody was notified") == 3


def test_what_is_deployed_has_passed_everything_before() -> None:
    every = stages({})
    names = [stage.name for stage in every]
    assert names[-2:] == ["push", "deploy"] and {stage.name for stage in every if stage.by_name} == BY_NAME
    assert [stage.name for stage in chosen(every, "deploy", [])] == names
    assert [stage.name for stage in chosen(every, "", [])] == names[:-2]
    assert [stage.name for stage in chosen(every, "unit", [])] == names[: names.index("unit") + 1]
    assert [stage.name for stage in chosen(every, "", ["types", "lint"])] == ["lint", "types"]
    for stage in every:
        for command in stage.commands:
            assert (ROOT / command[0]).exists(), command


@pytest.mark.proves("SC-009")
def test_a_deployment_needs_the_pipelines_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (deploy,) = chosen(stages({}), "", ["deploy"])
    assert lacking(deploy, dict.fromkeys(deploy.needs, "given")) == []
    monkeypatch.delenv("NOMAD_TOKEN", raising=False)
    monkeypatch.setattr("sys.argv", ["pipeline", "--only", "deploy", "--environment", "production", "--image", "x:1"])
    assert pipeline.main() == 2
    assert "NOMAD_TOKEN" in capsys.readouterr().err


@pytest.mark.proves("US4.1", "SC-009")
def test_the_workflows_run_every_stage_and_nothing_beside_them() -> None:
    ran: list[str] = []
    for file in ("pipeline.yaml", "deploy.yaml"):
        for job in yaml.safe_load((ROOT / ".github" / "workflows" / file).read_text())["jobs"].values():
            for step in job.get("steps", ()):
                for command in re.findall(r"scripts/\S+.*", step.get("run", "")):
                    only = re.match(r"scripts/pipeline --only (\S+)", command)
                    assert only, command
                    ran += only[1].split(",")
    assert sorted(ran) == sorted(stage.name for stage in stages({}))


def test_a_test_belongs_to_the_stage_whose_servers_it_needs() -> None:
    here = Path(__file__)
    assert stage_of(here, {"tmp_path", "capsys"}) == "unit"
    assert stage_of(here, {"rest", "base_url"}) == "contract"
    assert stage_of(here, {"database_url"}) == "integration"
    assert stage_of(here, {"chromium_path", "base_url"}) == "browser"
    assert stage_of(here.parents[1] / "web" / "test_assets.py", set()) == "browser"
