"""Messages between our own processes and the names they travel under. Imports nothing else of ours.

During a deployment two versions one apart work side by side. Each understands the other by these rules:

- **Fields.** Whoever reads ignores what it doesn't know. A new field has a default that means "as before"; in an
  ``array_like`` struct it comes last. It may be missing as long as the version before runs, which may also store its
  own over what a new process has stored. No field changes its meaning, its type or its range.
- **Commands** (AMQP): ``format`` rises only when a worker of the version before must not apply the command. That worker
  makes a dead letter of it (``newer_format``; a new kind of command ends there as well), which ``scripts/dead-letters``
  puts back later. So workers are deployed before nodes, and taken back after them.
- **Notices** (AMQP) of an unknown kind are passed over: what waits for one must do without. One that no longer means
  the same is a new kind.
- **Emits** (Redis, Socket.IO manager) carry what browsers see, where fields are only added (wire contract). An event
  that a node doesn't know goes to the room as it is.
- **Redis**: snapshots and roles are structs as above. Whatever else stands there (``names``) keeps its form; something
  new gets a key or a field of its own. A changed setting that a process doesn't know changes nothing there.
- **Tokens** (``models.runtime.tokens``) live for a month: they are read by position, and new parts come last.
- **Taking away** needs two releases: in the first nobody reads it, or expects the enumeration's value, any more; in the
  second nobody sends it. A queue, key or event is renamed by having both for a release.

tests/models/wire/messages holds messages of each kind as they were sent. Later code must go on understanding them all.
"""
