"""Slow clients, beside which honest voters are timed: see ``scripts/slow-clients --help``. Loopback only."""
