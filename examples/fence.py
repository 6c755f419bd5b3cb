"""fence DATABASE SESSION TEXT [COMMAND [ARG]...]

Publishes TEXT in an SQLite database, after COMMAND has run with the lock of SESSION held. Whoever has lost the
lock meanwhile without knowing is refused by the database itself, by the fencing token: that of a later holder is
larger.

Exit status: 0; 1 if the database has refused.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from typing import List

from session_lock import LockStale, SessionLock


def publish(database: sqlite3.Connection, text: str, token: int) -> bool:
    """In one statement: nobody comes between the comparison and the change."""
    done = database.execute(
        "UPDATE page SET text = ?, token = ? WHERE token < ?", (text, token, token)
    )
    return done.rowcount == 1


def main(path: str, session: str, text: str, command: List[str]) -> int:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(
        "CREATE TABLE IF NOT EXISTS page (id INTEGER PRIMARY KEY, text TEXT, token INTEGER)"
    )
    database.execute("INSERT OR IGNORE INTO page VALUES (1, '', 0)")
    published = False
    try:
        with SessionLock(session, timeout=None) as lock:
            if command:
                subprocess.run(command, check=True)
            # lock.check() here would end most of such cases earlier; but the lock can be lost after it.
            published = publish(database, text, lock.token)
    except LockStale:
        pass  # The database has the last word.
    if not published:
        print(f"fence: {session}: refused: a later holder has published", file=sys.stderr)
    return 0 if published else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
