"""Breaks a running stack on purpose, under load, and asks afterwards for every acked vote.

``stack`` knows the processes of a run folder, ``victim`` kills, freezes and holds down one of them, ``links`` leave
connections half-dead, ``load`` is a crowd of voters with its account, ``hosts`` a host with another one, ``guest`` a
single browser that is asked questions, ``toll`` what our processes use. On them stand ``chaos`` (random faults),
``everything`` (all at once), ``cluster`` (three brokers) and the tests in tests/outages.
"""
