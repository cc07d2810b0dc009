"""Questions to a primary or standby of a run folder that the application's role may not ask."""

from pathlib import Path
from typing import Any

import psycopg2

from scripts.stack.run_folder import RunFolder


def ask(run_dir: Path, url: str, sql: str, *parameters: Any) -> Any:
    """The first value of the first row that a statement gives; None when it gives no rows. Commits by itself."""
    password = RunFolder(run_dir).secret("database-admin-password")
    connection = psycopg2.connect(url, user="postgres", password=password, connect_timeout=5)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]
    finally:
        connection.close()
