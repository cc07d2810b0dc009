/** The rules of the browser client that need no browser: versions, the ballot's way, the outbox. Run by node --test. */
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";
import { Backoff } from "../../socket_tier/web/assets/client/backoff.js";
import { Ballot } from "../../socket_tier/web/assets/client/ballot.js";
import { Membership } from "../../socket_tier/web/assets/client/membership.js";
import { Outbox } from "../../socket_tier/web/assets/client/outbox.js";
import { PollView, voteTotal } from "../../socket_tier/web/assets/client/poll-view.js";
import { Refusal } from "../../socket_tier/web/assets/client/refusal.js";
import { Signals } from "../../socket_tier/web/assets/client/signals.js";

globalThis.crypto ??= webcrypto; // browsers have it; Node 18, which Debian 12 ships, only as a module

const openPoll = {
  roomCode: "ABC234", question: "Q", options: ["a", "b"], state: "open", participantCount: 1,
  votes: [0, 0], percentages: [0, 0], version: 10, final: false,
};
const update = (version, votes, more = {}) => ({ roomCode: "ABC234", version, votes, percentages: [0, 0], ...more });

let rooms = 0;
const freshBallot = () => new Ballot(`ROOM${rooms++}`, "participant-1");
const turnOfTheLoop = () => new Promise((resolve) => setTimeout(resolve, 5));
const quick = () => new Backoff({ minMs: 1, maxMs: 2 });

test("an older version never replaces a newer one", () => {
  const view = new PollView();
  view.adopt(openPoll);
  view.totals(update(12, [2, 1]));
  view.totals(update(11, [1, 1]));
  assert.deepEqual(view.poll.votes, [2, 1]);
});

test("a snapshot older than the totals brings the question, not its totals", () => {
  const view = new PollView();
  view.totals(update(12, [2, 1]));
  view.adopt(openPoll);
  assert.equal(view.poll.question, "Q");
  assert.deepEqual(view.poll.votes, [2, 1]);
});

test("a repeated final version does not close a poll that was opened again", () => {
  const view = new PollView();
  view.adopt(openPoll);
  view.totals(update(12, [2, 1], { final: true }));
  assert.equal(view.poll.state, "closed");
  view.stateChanged({ newState: "open" });
  view.totals(update(12, [2, 1], { final: true }));
  assert.equal(view.poll.state, "open");
  assert.equal(view.poll.final, false);
});

test("hidden totals are revealed by the same version, and not hidden again by it", () => {
  const view = new PollView();
  view.adopt({ ...openPoll, hidden: true, voteCount: 3 });
  assert.equal(voteTotal(view.poll), 3);
  view.totals(update(10, [2, 1]));
  assert.deepEqual([view.poll.hidden, view.poll.votes, voteTotal(view.poll)], [false, [2, 1], 3]);
  view.totals(update(10, [0, 0], { hidden: true, voteCount: 3 }));
  assert.deepEqual([view.poll.hidden, view.poll.votes], [false, [2, 1]]);
});

test("the time that is left is the server's, whatever this browser's clock says", () => {
  const view = new PollView();
  view.adopt(openPoll);
  view.stateChanged({ newState: "open", timestamp: "2020-01-01T00:00:00.000Z", closesAt: "2020-01-01T00:01:00.000Z" });
  const leftMs = view.poll.closesAtMs - Date.now();
  assert.ok(leftMs > 59_000 && leftMs <= 60_000, String(leftMs));
  view.stateChanged({ newState: "closed", timestamp: "2020-01-01T00:01:00.000Z", closesAt: null });
  assert.equal(view.poll.closesAtMs, null);
});

test("an unanswered vote is sent again with the same commandId until it is accepted", async () => {
  const ballot = freshBallot();
  const sent = [];
  const outbox = new Outbox(ballot, async (vote) => {
    sent.push(vote.commandId);
    if (sent.length < 3) throw Refusal.unheard();
  }, quick());
  ballot.choose(1);
  outbox.open();
  while (ballot.vote.state === "sending") await turnOfTheLoop();
  assert.equal(ballot.vote.state, "accepted");
  assert.equal(sent.length, 3);
  assert.equal(new Set(sent).size, 1);
});

test("while the line is down only the latest choice is kept", async () => {
  const ballot = freshBallot();
  const sent = [];
  const outbox = new Outbox(ballot, async (vote) => sent.push(vote.optionIndex), quick());
  ballot.choose(0);
  ballot.choose(1);
  outbox.open();
  await turnOfTheLoop();
  assert.deepEqual(sent, [1]);
});

test("a newer choice waits out the pause that the server asked for", async () => {
  const ballot = freshBallot();
  const sent = [];
  const outbox = new Outbox(ballot, async (vote) => {
    sent.push(vote.optionIndex);
    if (sent.length === 1) throw Refusal.fromAnswer({ error: "Slow down", retryAfter: 0.05 });
  }, quick());
  ballot.choose(0);
  outbox.open();
  await turnOfTheLoop();
  ballot.choose(1);
  outbox.deliver();
  assert.deepEqual(sent, [0]);
  while (ballot.vote.state === "sending") await turnOfTheLoop();
  assert.deepEqual(sent, [0, 1]);
});

test("a vote that will never be valid is dropped, and the earlier choice stands again", async () => {
  const ballot = freshBallot();
  ballot.resumed(0);
  ballot.choose(1);
  const outbox = new Outbox(ballot, async () => {
    throw Refusal.fromAnswer({ success: false, error: "Voting is not open", correlationId: "c-1" });
  }, quick());
  outbox.open();
  await turnOfTheLoop();
  assert.equal(ballot.unsent, null);
  assert.deepEqual([ballot.vote.state, ballot.vote.optionIndex], ["refused", 0]);
  assert.equal(ballot.vote.correlationId, "c-1");
});

test("counted may be heard before accepted and is not taken back by it", () => {
  const ballot = freshBallot();
  ballot.choose(1);
  const { commandId } = ballot.vote;
  ballot.recorded({ commandId, optionIndex: 1 });
  ballot.accepted({ commandId, optionIndex: 1 });
  assert.equal(ballot.vote.state, "counted");
});

test("a choice that was accepted is uncounted until it is told, and after a reload too", () => {
  const ballot = new Ballot("UNCOUNTED", "participant-1");
  ballot.choose(1);
  assert.equal(ballot.uncounted, null);
  ballot.accepted(ballot.vote);
  const { commandId } = ballot.vote;
  assert.equal(new Ballot("UNCOUNTED", "participant-1").uncounted.commandId, commandId);
  ballot.resumed(0); // by a node that has not heard of it
  assert.equal(ballot.uncounted.commandId, commandId);
  ballot.recorded({ commandId, optionIndex: 1 });
  assert.equal(ballot.uncounted, null);
});

test("a room whose poll is gone is not entered again: its code may stand for another poll", async () => {
  const line = new Signals();
  const asked = [];
  Object.assign(line, { isConnected: true, open() {}, request: async (event) => asked.push(event) });
  const membership = new Membership(line);
  await membership.enter("join-room", () => ({}));
  membership.end(new Refusal("Poll not found", { code: "poll_not_found" }));
  line.emit("state", { phase: "connected" });
  await turnOfTheLoop();
  assert.deepEqual([membership.state.phase, membership.state.refusal.code], ["refused", "poll_not_found"]);
  assert.deepEqual(asked, ["join-room"]);
});

test("what a dead node's worker says of a vote reaches the choice that is meant", () => {
  const ballot = freshBallot();
  ballot.choose(1);
  ballot.accepted(ballot.vote);
  ballot.rejected({ optionIndex: 0, error: "late" });
  assert.equal(ballot.vote.state, "accepted");
  ballot.rejected({ optionIndex: 1, error: "late" });
  ballot.pollIsFinal();
  assert.equal(ballot.vote.state, "refused");
});

test("an accepted choice gives way to the server's where it can't be asked about again", () => {
  const ballot = freshBallot();
  ballot.choose(1);
  ballot.accepted(ballot.vote);
  ballot.resumed(0, true);
  assert.equal(ballot.vote.optionIndex, 1);
  ballot.stands(0); // the answer when it was asked about
  assert.deepEqual([ballot.vote.optionIndex, ballot.uncounted], [0, null]);
  ballot.choose(1);
  ballot.accepted(ballot.vote);
  ballot.resumed(0, false);
  ballot.pollIsFinal();
  assert.deepEqual([ballot.vote.optionIndex, ballot.vote.state], [0, "counted"]);
});

test("news about an older choice does not touch the newer one", () => {
  const ballot = freshBallot();
  ballot.choose(0);
  const older = ballot.vote.commandId;
  ballot.choose(1);
  ballot.recorded({ commandId: older, optionIndex: 0 });
  ballot.refused(older, { message: "late" });
  assert.deepEqual([ballot.vote.state, ballot.vote.optionIndex], ["sending", 1]);
});

test("a choice that got through stands again when the newer one is refused", () => {
  const ballot = freshBallot();
  ballot.choose(0);
  const older = ballot.vote;
  ballot.choose(1);
  ballot.accepted(older);
  ballot.refused(ballot.vote.commandId, { message: "Voting is not open" });
  assert.deepEqual([ballot.vote.state, ballot.vote.optionIndex], ["refused", 0]);
});

test("a reload finds the choice that was not sent yet, another participant does not", () => {
  const first = new Ballot("RELOAD", "participant-1");
  first.choose(1);
  assert.equal(new Ballot("RELOAD", "participant-1").unsent.commandId, first.vote.commandId);
  assert.equal(new Ballot("RELOAD", "participant-2").unsent, null);
});

test("a server's retryAfter is never undercut", () => {
  const backoff = new Backoff({ random: () => 0 });
  assert.equal(backoff.nextMs(3), 3000);
});
