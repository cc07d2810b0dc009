"""Votemill against a peer of the same job and against itself, turn by turn in one run; ratios, and what an event costs.

``stage`` brings up a stack of its own and reads how durable it is, ``peer`` runs Socket.IO for Node.js beside it on the
same PostgreSQL; ``crowd`` (processes of ``voter``) loads both with the same client, ``meters`` reads what the servers
used of the machine; each file in ``lines`` is one benchmark; ``results`` pairs the turns, ``costs`` and ``capacity``
make figures for an audience out of them.
"""
