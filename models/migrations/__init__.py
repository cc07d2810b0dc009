"""Numbered, reversible changes of the tables, applied by ``python -m models.migrations``.

The version in service goes on while they run and afterwards, so they only expand: what one version stops using
(``RETIRED`` in models/tables.py) a later one takes away. None holds a lock for long: lock_timeout ends the wait for it,
and what reads or writes a whole table runs outside of a transaction (``atomic = False``) with CONCURRENTLY, or in small
batches. ``scripts/migration-check`` refuses the rest, unless the migration says why it may:

    EXCUSES = {"contract": "the table has never been written to"}

with ``contract`` for taking away or narrowing what the version before uses, ``lock`` for blocking it, and ``loss`` for
a way down that throws away what has been stored since.
"""
