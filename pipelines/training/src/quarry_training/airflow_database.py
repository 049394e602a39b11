"""Makes Airflow's user and database in MLflow's PostgreSQL: `python3 -m quarry_training.airflow_database` in MLflow's pod, which has the instance's own user.

It reads on stdin the secret that terraform/modules/database writes (k8s/README.md, Airflow). Run again, it gives the user the password that the secret
has now.
"""

import contextlib
import json
import sys

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

DATABASE = "airflow"  # as the connection says in k8s/components/airflow
SECONDS = 5


def make(user: str, password: str) -> None:
    """User and database, each unless it is there. The instance is libpq's: PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE.

    Raises:
        psycopg2.Error: PostgreSQL cannot be reached, or refuses.
    """
    with contextlib.closing(psycopg2.connect("", connect_timeout=SECONDS)) as connection:
        connection.autocommit = True  # no database is made in a transaction
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (user,))
            verb = "ALTER" if cursor.rowcount else "CREATE"
            kept = encrypt_password(password, user, connection, "scram-sha-256")  # what the server may log
            cursor.execute(sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(user), sql.Literal(kept)))
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
            if not cursor.rowcount:
                # RDS's user is no superuser, and gives a database only to a role that it is a member of.
                cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(user)))
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(user)))


def main() -> int:
    """Exit code 2 and a line on stderr for what is no such secret, 1 when PostgreSQL refuses."""
    try:
        secret = json.load(sys.stdin)
        user, password = str(secret["username"]), str(secret["password"])
    except (ValueError, KeyError, TypeError):
        print("on stdin there is no secret with username and password", file=sys.stderr)
        return 2
    try:
        make(user, password)
    except psycopg2.Error as error:
        print(str(error).strip(), file=sys.stderr)
        return 1
    print(f"{user} may use the database {DATABASE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
