"""A real PostgreSQL cluster for `pg_scan.py`: made, filled by pgbench, vacuumed, and stopped. `make example-postgres`.

    python examples/pg_cluster.py FOLDER [--scale 20]

Needs Debian's `postgresql` (apt-get install postgresql). Its programs are not on PATH and refuse to run as root: they are
run as the user `postgres` then. In the end no server runs: what is left are files, and `relations.json`, which says of
each table where it lies and how many rows `SELECT count(*)` has found.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/usr/pgsql")
PROGRAMS = ("initdb", "pg_ctl", "pgbench", "psql")
TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")


class Failed(Exception):
    """What went wrong, in one line."""


def bin_folder() -> Path:
    folders = [initdb.parent for place in PLACES for initdb in sorted(Path(place).glob("**/bin/initdb"), reverse=True)]
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if all((folder / program).exists() for program in PROGRAMS):
            return folder
    raise Failed(f"{', '.join(PROGRAMS)} are not here: apt-get install postgresql")


class Cluster:
    """`data`: the cluster's folder. As root its programs run as `user`."""

    def __init__(self, folder: Path) -> None:
        self.bin = bin_folder()
        self.data, self.sockets = folder / "data", folder
        self.as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                raise Failed("initdb refuses root, and there is no user postgres") from None
            self.as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)

    def run(self, program: str, *arguments: object) -> str:
        command = [str(self.bin / program), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd="/", env={**os.environ, "LC_ALL": "C"}, **self.as_user
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise Failed(f"{program} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
        return str(done.stdout)

    def ask(self, query: str) -> list[list[str]]:
        said = self.run("psql", "-h", self.sockets, "-AtX", "-d", "postgres", "-c", query)
        return [line.split("|") for line in said.splitlines()]

    def make(self, scale: int) -> None:
        self.run("initdb", "-k", "-A", "trust", "-D", self.data)
        options = f"-c listen_addresses='' -c autovacuum=off -c fsync=off -k '{self.sockets}'"
        self.run("pg_ctl", "-D", self.data, "-w", "-l", self.sockets / "log", "-o", options, "start")
        try:
            self.run("pgbench", "-h", self.sockets, "-i", "-q", "-s", scale, "postgres")
            self.run("pgbench", "-h", self.sockets, "-t", "500", "-c", "2", "postgres")  # dead rows, and some history
            self.ask("VACUUM (FREEZE)")
            self.ask("CHECKPOINT")
            relations = []
            for table in TABLES:
                (count,) = self.ask(f"SELECT count(*) FROM {table}")
                (path,) = self.ask(f"SELECT pg_relation_filepath('{table}')")
                relations.append({"name": table, "path": path[0], "rows": int(count[0])})
        finally:
            self.run("pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")
        (self.data / "relations.json").write_text(json.dumps(relations, indent=1), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="pg_cluster", description="A PostgreSQL cluster for pg_scan.py to read.")
    parser.add_argument("folder", type=Path, help="where it is made; left alone if there is one already")
    parser.add_argument("--scale", type=int, default=20, help="pgbench's; 100,000 rows, 13 MB each (default: 20)")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if (folder / "data" / "relations.json").exists():
        print(f"{folder / 'data'}: there already")
        return 0
    try:
        if options.scale < 1:
            raise Failed(f"--scale {options.scale}: must be at least 1")
        folder.mkdir(parents=True, exist_ok=True)
        Cluster(folder).make(options.scale)
    except (Failed, OSError) as error:
        print(f"pg_cluster: {error}", file=sys.stderr)
        return 2
    print(f"{folder / 'data'}: made, filled and stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
