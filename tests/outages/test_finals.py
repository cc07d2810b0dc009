"""Final means final: no time that passes makes up for votes that may be on their way."""

from __future__ import annotations

import time
from contextlib import closing

import psycopg2

from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.breakable import second_stack

pytestmark = second_stack
_LONGER_THAN_ANY_WAIT_S = 22.0  # a killed node may have published until 15 s after it was last heard of
_TOLD = """
SELECT count(*) FROM audit_log WHERE room_code = %s
AND event IN ('poll_final', 'late_straggler_counted', 'final_without_all_batches')
"""


def told(dsn: str, room: rest.Room) -> int:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(_TOLD, (room.code,))
        return int(cursor.fetchone()[0])


def test_votes_of_a_killed_node_that_hung_workers_hold_are_waited_for(stack: RunningStack) -> None:
    # Given acked votes, of two nodes, that no worker gets to, and one of the nodes is killed
    room = rest.open_room(stack.nodes[0], 3, 3)
    guests = [Guest(node) for node in stack.nodes for _ in range(2)]
    for number, guest in enumerate(guests):
        assert guest.join(room.code, f"Guest {number}").success
    for worker in stack.of_kind("worker"):
        worker.freeze()
    for guest in guests:
        assert guest.vote(room.code, 1).success
    stack.of_kind("node")[1].kill()
    # When the poll is closed
    rest.change_state(stack.nodes[0], room, "closed")
    # Then nothing is called final for as long as it takes
    ends_at = time.monotonic() + _LONGER_THAN_ANY_WAIT_S
    while time.monotonic() < ends_at:
        assert not rest.totals(stack.nodes[0], room.code).final
        time.sleep(0.5)
    # But once the workers go on, and then with all votes, once
    thawed = time.monotonic()
    for worker in stack.of_kind("worker"):
        worker.thaw()
    wait_until(lambda: rest.totals(stack.nodes[0], room.code).final, 90, "the totals did not become final")
    print(f"final {time.monotonic() - thawed:.1f} s after the workers went on")
    assert rest.totals(stack.nodes[0], room.code).votes == (0, len(guests), 0)
    assert told(stack.dsn, room) == 1
    for guest in guests[:2]:
        guest.close()
