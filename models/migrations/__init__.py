"""Numbered, reversible changes of the tables, applied by ``python -m models.migrations``."""
