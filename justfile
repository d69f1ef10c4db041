# Short names for what is done often; each is one command that can be typed as well.

default:
    @just --list

# all tests, on real services (./test --long, ./test --no-services)
test *ARGS:
    ./test {{ARGS}}

# what a change must pass
ci:
    .ci/run

# the three pipelines on an embedded Kafka, registry and SQLite
demo *ARGS:
    cargo run --release --locked -- demo {{ARGS}}

fmt:
    cargo fmt --all

# measures anew and prints one JSON line (benches/figures without a name lists the names)
figures NAME:
    benches/figures {{NAME}}
