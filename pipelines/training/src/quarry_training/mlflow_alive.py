"""Whether MLflow's server can go on with what it was started with: `python3 -m quarry_training.mlflow_alive`, its liveness probe in k8s/components/mlflow.

It cannot once it no longer answers, or once PostgreSQL refuses its password: RDS has changed that since, and only a restarted container reads the
new one. A database that is away, starting or full is no reason: a restart brings it back no sooner.
"""

import argparse
import http.client
import sys
import urllib.request
from collections.abc import Sequence

import psycopg2

REFUSED = "password authentication failed"  # psycopg2 has no SQLSTATE of a connection that was not made; these are PostgreSQL's words for 28P01
SECONDS = 5


def wrong(health: str) -> str | None:
    """Why MLflow has to be restarted, if it has. The database is libpq's: PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE."""
    try:
        urllib.request.urlopen(health, timeout=SECONDS).close()
    except (OSError, http.client.HTTPException) as error:
        return f"{health} does not answer: {error}"
    try:
        psycopg2.connect("", connect_timeout=SECONDS).close()
    except psycopg2.OperationalError as error:
        if REFUSED in str(error):
            return "the database refuses the password that MLflow was started with"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1, and why in a line on stderr, when it has to be restarted."""
    parser = argparse.ArgumentParser(description="Whether MLflow's server can go on with what it was started with.")
    parser.add_argument("health", help="address of its own health check")
    if reason := wrong(parser.parse_args(argv).health):
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
