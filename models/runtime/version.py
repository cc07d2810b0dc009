"""The version of what runs, as setup.cfg has it."""

VERSION = "0.1.0"
