# syntax=docker/dockerfile:1
# The binary on a distroless image: no shell, no package manager, not root. How to build it: docs/operations.md, "Image".
# BUILDER and RUNTIME can be put in place by the build, for mirrors.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

# What writes the bill of materials. Without optimization: it runs for a second, and would take minutes more to build.
FROM ${BUILDER} AS bill
RUN cargo install cargo-cyclonedx --version 0.5.9 --locked --debug --root /bill

FROM ${BUILDER} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
# Line tables are three quarters of the binary. Functions keep their names in backtraces.
ENV CARGO_PROFILE_RELEASE_DEBUG=false
# The dependencies first, in a layer of their own: it stays as long as Cargo.lock does.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
RUN mkdir -p src benches/avro benches/compare benches/tail_latency examples/geo \
    && echo 'fn main() {}' | tee src/main.rs benches/avro/main.rs benches/compare/data.rs benches/tail_latency/deferred.rs examples/geo/main.rs >/dev/null \
    && touch src/lib.rs && cargo build --release --locked --bin messina && rm -r src
COPY src src
# What `explain` and `schema` print.
COPY docs/findings.md docs/configuration.md docs/
COPY --from=bill /bill/bin/cargo-cyclonedx /usr/local/bin/
# Behind the dependencies, which are the same in another revision.
ARG REVISION=unknown
ENV MESSINA_REVISION=${REVISION}
# Cargo judges by times, and those of the copy are older than the stand-ins'.
RUN find src -name '*.rs' -exec touch {} + && cargo build --release --locked --bin messina && cp target/release/messina /messina \
    && cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename messina.cdx && mv messina.cdx.json /

FROM ${RUNTIME}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="messina" \
      org.opencontainers.image.description="Enriches Kafka streams from ScyllaDB and MongoDB" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /messina /usr/local/bin/messina
# The bill of materials: each crate with its version, licence and hash, those that bring C libraries (librdkafka, OpenSSL) among them.
COPY --from=build /messina.cdx.json /usr/share/messina/
COPY LICENSE-MIT LICENSE-APACHE /usr/share/messina/
USER 65532:65532
# The health check goes by it too. It wins over files, which `check` and `run` say where one differs.
ENV MESSINA__HTTP__LISTEN=0.0.0.0:9090
EXPOSE 9090
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["/usr/local/bin/messina", "health"]
ENTRYPOINT ["/usr/local/bin/messina"]
CMD ["run", "--config", "/etc/messina/messina.toml"]
