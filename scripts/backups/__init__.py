"""Backups by pgBackRest: made, restored, and proved to be of use.

backup.py     the database's files, the broker's definitions and the settings
restore.py    the database as it was at a moment, in place or beside
drill.py      votes, a disaster, a restore, and the account: how much was lost, how long it took
"""
