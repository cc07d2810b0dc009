"""The private servers of a stack: one file each, with its program, its first-time set-up and its readiness."""
