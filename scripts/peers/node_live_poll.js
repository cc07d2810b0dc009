// A live poll as most teams would build it: Socket.IO for Node.js, straight to PostgreSQL. Measured against, never shipped.
//
//   DATABASE_URL=postgresql://... node node_live_poll.js MODE PORT [prepared]
//
//   noop    acks at once and stores nothing: the floor of Socket.IO for Node.js
//   insert  one upsert per vote over a pool of 20; nobody is shown any totals
//   tick    insert, and for a changed poll one COUNT and one broadcast every 200 ms: tuned by hand
//   full    insert, then one COUNT and one broadcast per vote: what most tutorials do
//
// With "prepared" the statements are named, so that PostgreSQL parses each once per connection: pg's documentation has it
// as an option that few use, and it makes insert and tick a good deal faster.
//
// Everybody is in one room. Events: submit-vote {participantId, optionIndex} -> {success}, and broadcast -> {success},
// which shows everybody some totals. Prints "ready" when it listens, and ends with its parent (its stdin).
'use strict';

const { createServer } = require('node:http');
const { Pool } = require('pg');
const { Server } = require('socket.io');

const MODES = ['noop', 'insert', 'tick', 'full'];
const POLL = 1;
const ROOM = 'poll';
const OPTIONS = 4;
const TICK_MS = 200;
const BACKLOG = 4096; // as Votemill's nodes

const table = (mode) => `peer_votes_${mode}`; // several modes may run at once
const create = (mode) => `
  DROP TABLE IF EXISTS ${table(mode)};
  CREATE TABLE ${table(mode)} (
    poll_id bigint, participant_id uuid, option_index smallint NOT NULL, submitted_at timestamptz DEFAULT now(),
    PRIMARY KEY (poll_id, participant_id))`;
const upsert = (mode) => ({
  text: `INSERT INTO ${table(mode)} (poll_id, participant_id, option_index) VALUES ($1, $2, $3)
    ON CONFLICT (poll_id, participant_id) DO UPDATE SET option_index = excluded.option_index, submitted_at = now()`,
});
const count = (mode) => ({
  text: `SELECT option_index, count(*)::int AS votes FROM ${table(mode)} WHERE poll_id = $1 GROUP BY option_index`,
});

class LivePoll {
  constructor(mode, prepared, io, pool) {
    this.mode = mode;
    this.io = io;
    this.pool = pool;
    this.upsert = { ...upsert(mode), name: prepared ? 'upsert' : undefined };
    this.count = { ...count(mode), name: prepared ? 'count' : undefined };
    this.changed = false;
  }

  async vote({ participantId, optionIndex }) {
    if (this.mode === 'noop') return;
    await this.pool.query({ ...this.upsert, values: [POLL, participantId, optionIndex] });
    this.changed = true;
    if (this.mode === 'full') await this.showTotals();
  }

  async showTotals() {
    const { rows } = await this.pool.query({ ...this.count, values: [POLL] });
    const votes = new Array(OPTIONS).fill(0);
    for (const row of rows) votes[row.option_index] = row.votes;
    this.broadcast(votes);
  }

  broadcast(votes) {
    const total = votes.reduce((sum, count) => sum + count, 0);
    const percentages = votes.map((count) => (total ? Math.round((count * 100) / total) : 0));
    this.io.to(ROOM).emit('vote-update', { votes, percentages, total, timestamp: new Date().toISOString() });
  }

  async tick() {
    if (!this.changed) return;
    this.changed = false;
    try {
      await this.showTotals();
    } catch (error) {
      console.error(error.message);
    }
  }
}

function answerWith(action) {
  return async (payload, ack) => {
    try {
      await action(payload);
      ack({ success: true });
    } catch (error) {
      ack({ success: false, error: error.message });
    }
  };
}

async function main() {
  const [mode, port, prepared] = process.argv.slice(2);
  if (!MODES.includes(mode)) throw new Error(`mode must be one of ${MODES.join(', ')}`);
  const http = createServer();
  const io = new Server(http, { perMessageDeflate: false });
  const pool = mode === 'noop' ? null : new Pool({ connectionString: process.env.DATABASE_URL, max: 20 });
  if (pool) await pool.query(create(mode));

  const poll = new LivePoll(mode, prepared === 'prepared', io, pool);
  io.on('connection', (socket) => {
    socket.join(ROOM);
    socket.on('submit-vote', answerWith((vote) => poll.vote(vote)));
    socket.on('broadcast', answerWith(() => poll.broadcast([1000, 2000, 3000, 4000])));
  });
  if (mode === 'tick') setInterval(() => poll.tick(), TICK_MS);

  process.stdin.resume().on('end', () => process.exit(0));
  http.listen(Number(port), '127.0.0.1', BACKLOG, () => console.log('ready'));
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
