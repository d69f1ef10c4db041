"""Lets a user of the brokers do something with a topic or group, or takes that right away. Prints one line of JSON."""

import argparse
import json
import os

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--user", required=True)
    parser.add_argument("--operation", required=True)
    parser.add_argument("--kind", required=True, choices=("topic", "group"))
    parser.add_argument("--name", required=True)
    parser.add_argument("--remove", action="store_true")
    options = parser.parse_args()
    admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
    acl = (AclBindingFilter if options.remove else AclBinding)(
        ResourceType[options.kind.upper()],
        options.name,
        ResourcePatternType.LITERAL,
        f"User:{options.user}",
        "*",
        AclOperation[options.operation.upper()],
        AclPermissionType.ALLOW,
    )
    change = admin.delete_acls if options.remove else admin.create_acls
    for future in change([acl]).values():
        future.result()
    print(json.dumps({"user": options.user}))


if __name__ == "__main__":
    main()
