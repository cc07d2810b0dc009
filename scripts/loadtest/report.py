"""The result of a run as one object, as text, and as an exit status; and the progress bar."""

import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scripts.loadtest.account import DOUBLED, MISSING, TOTALS, UNREADABLE, UNSENT, WRONG_OPTION, Account, Finding
from scripts.loadtest.crowd import Outcome, Progress, SocketSeen, add_counts
from scripts.loadtest.ledger import Tally

_FINDINGS_SHOWN = 20
_BAR_CELLS = 30


@dataclass(frozen=True)
class Latency:
    """Milliseconds from when a vote was due until its ack."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Updates:
    """``vote-update`` as the sockets saw it.

    ``final_seen_s``: seconds from a room's last ack until the last of its sockets had the final totals.
    ``stale_sockets`` never had them.
    """

    frames: int
    max_per_s: int
    final_seen_s: float
    stale_sockets: int
    went_back: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values, 0 without any."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2) if ordered else 0.0


def latency_of(samples_ms: Sequence["array[float]"]) -> Latency:
    """Over all processes' samples."""
    ordered = sorted(value for part in samples_ms for value in part)
    return Latency(
        percentile(ordered, 0.5), percentile(ordered, 0.95), percentile(ordered, 0.99), percentile(ordered, 1)
    )


def updates_of(sockets: Sequence[SocketSeen], account: Account, last_ack_at: dict[str, float]) -> Updates:
    """What all sockets saw, against the totals that REST told at the end."""
    final_seen_s, stale = 0.0, 0
    for seen in sockets:
        told = account.totals.get(seen.room)
        if told is None or seen.totals == told.votes:
            final_seen_s = max(final_seen_s, seen.totals_since - last_ack_at.get(seen.room, seen.totals_since))
        elif seen.totals is not None or any(told.votes):
            stale += 1
    return Updates(
        frames=sum(seen.frames for seen in sockets),
        max_per_s=max((seen.max_per_s for seen in sockets), default=0),
        final_seen_s=round(final_seen_s, 3),
        stale_sockets=stale,
        went_back=sum(seen.went_back for seen in sockets),
    )


def build_report(
    outcomes: Sequence[Outcome], account: Account, window_s: float, own_cpu_s: float, quiet: bool
) -> dict[str, Any]:
    """Everything a run found out, ready for JSON. ``quiet``: every vote was answered or given up in time."""
    tally = sum((ledger.tally() for outcome in outcomes for ledger in outcome.ledgers), Tally())
    counts = add_counts([outcome.counts for outcome in outcomes])
    last_ack_at: dict[str, float] = {}
    for outcome in outcomes:
        for room, at in outcome.last_ack_at.items():
            last_ack_at[room] = max(last_ack_at.get(room, 0.0), at)
    voting_cpu_s = sum(outcome.voting_cpu_s for outcome in outcomes)
    in_window = sum(outcome.acked_in_window for outcome in outcomes)
    kinds = {kind: account.count(kind) for kind in (MISSING, DOUBLED, WRONG_OPTION, UNSENT, TOTALS, UNREADABLE)}
    return {
        "clean": not account.findings and not counts.double_acks and not counts.identity_changes,
        **asdict(tally),
        "refusals": dict(counts.refusals),
        "rejections": dict(counts.rejections),
        "join_refusals": dict(counts.join_refusals),
        "recorded_events": counts.recorded,
        "seconds": window_s,
        "votes_per_s": round(in_window / window_s, 1),
        "overdue": sum(outcome.overdue for outcome in outcomes),
        "ack_latency": asdict(latency_of([outcome.latencies_ms for outcome in outcomes])),
        "updates": asdict(updates_of([seen for outcome in outcomes for seen in outcome.sockets], account, last_ack_at)),
        "reconnects": counts.reconnects,
        "failed_returns": counts.failed_returns,
        "longest_away_s": round(max((seen.away_s for outcome in outcomes for seen in outcome.sockets), default=0.0), 2),
        "gave_up": sum(outcome.gave_up for outcome in outcomes),
        "resent": counts.resent,
        "ack_timeouts": counts.ack_timeouts,
        "double_acks": counts.double_acks,
        "identity_changes": counts.identity_changes,
        "answers_complete": quiet,
        "account": {
            "participants": account.participants,
            "rows": account.rows,
            "rooms": len(account.totals),
            "settled_s": round(account.waited_s, 2),
            **{kind.replace(" ", "_"): count for kind, count in kinds.items()},
            "findings": [asdict(finding) for finding in account.findings[:_FINDINGS_SHOWN]],
        },
        "tool_cpu_s": round(sum(outcome.cpu_s for outcome in outcomes) + own_cpu_s, 2),
        "tool_cpu_us_per_vote": round(voting_cpu_s / in_window * 1e6, 1) if in_window else None,
        "problem": counts.problem,
    }


def with_acks(report: dict[str, Any], findings: Sequence[Finding], checked: dict[str, int]) -> dict[str, Any]:
    """The report, and what a host's acks were worth: ``checked`` says how many of each kind were held against it."""
    found = report["account"]["findings"] + [asdict(finding) for finding in findings]
    account = report["account"] | {"acks": checked, "untrue_acks": len(findings), "findings": found[:_FINDINGS_SHOWN]}
    return report | {"account": account, "clean": report["clean"] and not findings}


def exit_status(report: dict[str, Any]) -> int:
    """0 when the account is clean, else 1."""
    return 0 if report["clean"] else 1


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    latency, updates, account = report["ack_latency"], report["updates"], report["account"]
    lines = [
        f"{report['votes_per_s']:,.0f} votes/s acked over {report['seconds']:g} s"
        + (f" ({report['overdue']:,} overdue for want of an idle voter)" if report["overdue"] else ""),
        f"  ack latency   p50 {latency['p50_ms']:g} ms   p95 {latency['p95_ms']:g}   p99 {latency['p99_ms']:g}"
        f"   max {latency['max_ms']:g}",
        f"  votes         sent {report['sent']:,}   acked {report['acked']:,}   refused {report['refused']:,}"
        f"   rejected {report['rejected']:,}   unanswered {report['unanswered']:,}"
        f"   recorded events {report['recorded_events']:,}",
    ]
    for title, reasons in (("refused", "refusals"), ("rejected", "rejections"), ("joins refused", "join_refusals")):
        if report[reasons]:
            told = ", ".join(f"{code} {count:,}" for code, count in Counter(report[reasons]).most_common())
            lines.append(f"  {title:<13} {told}")
    lines += [
        f"  vote-update   {updates['frames']:,} frames, at most {updates['max_per_s']} a second on a socket,"
        f" final totals {updates['final_seen_s']:g} s after the last ack"
        + (f", {updates['stale_sockets']:,} sockets never saw them" if updates["stale_sockets"] else "")
        + (f", {updates['went_back']:,} older after newer" if updates["went_back"] else ""),
        f"  connections   {report['reconnects']:,} reconnects, at most {report['longest_away_s']:g} s away,"
        f" {report['failed_returns']:,} failed tries, {report['gave_up']:,} voters gave up,"
        f" {report['resent']:,} votes sent again,"
        f" {report['ack_timeouts']:,} acks given up",
        f"  the tool      {report['tool_cpu_s']:g} s CPU, {report['tool_cpu_us_per_vote'] or 0:g} µs a vote",
        *_acks(account),
        _verdict(report, account),
    ]
    lines += [f"    {finding['kind']}: {finding['room']} {finding['detail']}" for finding in account["findings"]]
    return "\n".join(lines)


def _acks(account: dict[str, Any]) -> list[str]:
    told = ", ".join(f"{count:,} {kind}" for kind, count in account.get("acks", {}).items())
    return [f"  acks checked  {told}"] if told else []


def _verdict(report: dict[str, Any], account: dict[str, Any]) -> str:
    against = f"{account['rows']:,} rows" if account["rows"] is not None else "REST totals only, no database was given"
    looked = f"{account['participants']:,} participants in {account['rooms']} rooms against {against}"
    if report["clean"]:
        return f"✓ the account is clean: {looked}, settled after {account['settled_s']:g} s"
    wrong = [f"{account[key]:,} {key.replace('_', ' ')}" for key in _WRONG if account.get(key)]
    wrong += [f"{report[key]:,} {key.replace('_', ' ')}" for key in ("double_acks", "identity_changes") if report[key]]
    return f"✗ the account is NOT clean: {', '.join(wrong)} ({looked})"


_WRONG = ("missing", "doubled", "wrong_option", "never_sent", "totals_disagree", "unreadable", "untrue_acks")


class ProgressBar:
    """One line on a terminal's stderr; nothing anywhere else."""

    def __init__(self, window_s: float) -> None:
        self._shown = sys.stderr.isatty()
        self._window_s = window_s

    def show(self, phase: str, share: float, progress: Progress) -> None:
        """``share`` from 0 to 1."""
        if self._shown:
            filled = int(min(max(share, 0.0), 1.0) * _BAR_CELLS)
            bar = "█" * filled + "·" * (_BAR_CELLS - filled)
            figures = f"{progress.joined:,} voters  {progress.acked:,} acked  {progress.refused:,} refused"
            sys.stderr.write(f"\r\x1b[K{bar} {phase}  {figures}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for the report."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
