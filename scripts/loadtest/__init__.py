"""A load of voters that keeps its own ledger, vote by vote, and afterwards demands every acked vote back.

The vote's way through it: ``schedule`` says when, ``voter`` casts it over a ``connection`` (bytes by ``codec``), the
answer goes into the ``ledger``; ``crowd`` holds the voters of one process, ``fleet`` the processes; at the end
``account`` compares the ledger with the votes table and with what REST tells, and ``report`` prints it.
"""
