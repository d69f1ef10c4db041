"""Makes the keyspace and tables of the three pipelines and loads the profiles of all users; --fresh drops the keyspace first.

Prints one JSON line. Nothing is done twice: profiles that are there stay.
"""

import argparse
import time

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import DCAwareRoundRobinPolicy
from cassandra.query import tuple_factory

import pipelines
import profiles


def connect(datacenter="dc1"):
    """(cluster, session); rows come as tuples."""
    hosts, port = pipelines.contact()
    profile = ExecutionProfile(DCAwareRoundRobinPolicy(datacenter), request_timeout=120, row_factory=tuple_factory)
    cluster = Cluster(hosts, port=port, execution_profiles={EXEC_PROFILE_DEFAULT: profile}, protocol_version=4)
    return cluster, cluster.connect()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keyspace", default="e2e")
    parser.add_argument("--datacenter", default="dc1", help="of the nodes, and of the keyspace's one replica (dc1)")
    parser.add_argument("--fresh", action="store_true", help="drop the keyspace first")
    options = parser.parse_args()
    began = time.monotonic()
    cluster, session = connect(options.datacenter)
    space = options.keyspace
    if options.fresh:
        session.execute(f"DROP KEYSPACE IF EXISTS {space}")
    replication = f"{{'class': 'NetworkTopologyStrategy', '{options.datacenter}': 1}}"
    session.execute(f"CREATE KEYSPACE IF NOT EXISTS {space} WITH replication = {replication}")
    tables = {"profiles": pipelines.PROFILES_DDL, pipelines.LATEST: pipelines.LATEST_DDL}
    tables |= {p.table.name: p.table.ddl for p in pipelines.PIPELINES}
    for name, columns in tables.items():
        session.execute(f"CREATE TABLE IF NOT EXISTS {space}.{name} ({columns})")
    users = map(profiles.user_id, range(1, pipelines.USERS + 1))
    rows = [(user, *profile) for user in users if (profile := profiles.profile(user))]
    found = session.execute(f"SELECT count(*) FROM {space}.profiles").one()[0]
    if found != len(rows):
        insert = session.prepare(f"INSERT INTO {space}.profiles (user_id, segment, score, country) VALUES (?, ?, ?, ?)")
        execute_concurrent_with_args(session, insert, rows, concurrency=100, raise_on_first_error=True)
    cluster.shutdown()
    pipelines.report({"keyspace": space, "profiles": len(rows), "loaded": found != len(rows), "seconds": round(time.monotonic() - began, 1)})


if __name__ == "__main__":
    main()
