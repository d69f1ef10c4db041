"""Lets a user of the brokers do something with a topic or group, and waits until it may. Prints one line of JSON."""

import argparse
import json
import os

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--user", required=True)
    parser.add_argument("--operation", required=True)
    parser.add_argument("--kind", required=True, choices=("topic", "group"))
    parser.add_argument("--name", required=True)
    options = parser.parse_args()
    admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
    acl = AclBinding(
        ResourceType[options.kind.upper()],
        options.name,
        ResourcePatternType.LITERAL,
        f"User:{options.user}",
        "*",
        AclOperation[options.operation.upper()],
        AclPermissionType.ALLOW,
    )
    for future in admin.create_acls([acl]).values():
        future.result()
    print(json.dumps({"user": options.user}))


if __name__ == "__main__":
    main()
