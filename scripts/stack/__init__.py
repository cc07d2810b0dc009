"""Provisions and supervises Votemill on one machine: scripts/up, scripts/down, scripts/ctl.

``bring_up`` is the story, step by step, and ``stopping`` the way back. ``run_folder`` says where everything of one
stack lies, ``plan`` what it is made of, ``services/`` how each private server is made and recognised as ready,
``tiers`` how our own processes are started; ``supervision`` talks to supervisord, ``processes`` finds what a crash has
left behind.
"""
