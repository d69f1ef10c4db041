"""Gives a user of the brokers a SCRAM password, old or new, and waits until it is theirs. Prints one line of JSON."""

import argparse
import json
import os

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--user", required=True)
    parser.add_argument("--password", required=True)
    options = parser.parse_args()
    admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(options.user, how, options.password.encode())
    for future in admin.alter_user_scram_credentials([change]).values():
        future.result()
    print(json.dumps({"user": options.user}))


if __name__ == "__main__":
    main()
