# shellcheck shell=bash
# AxonOps Schema Registry: a second, independent server of the Confluent Schema Registry API, at the root of its URL. In memory.

register registry_go registry-go 1 registry-go

registry_go_settings() {
  ADDRESS=127.0.0.1
  VERSION=$(sed -n 's/^require .* v//p' "$HERE/registry-go/go.mod")
  setting PORT REGISTRY_GO_PORT 18082
  setting COMPATIBILITY REGISTRY_COMPATIBILITY BACKWARD
  BINARY=$STATE/lib/registry-go-$VERSION/schema-registry
}

registry_go_ports() { echo "$ADDRESS:$PORT"; }

registry_go_install() {
  need python3:python3
  [ ! -x "$BINARY" ] || return 0
  command -v go >/dev/null || die 'Go 1.26 is missing (1.21 or later fetches it by itself). On Debian: apt-get install golang, from backports'
  say "services: building registry-go $VERSION"
  local module build=$STATE/lib/registry-go-$VERSION.part
  module=$(sed -n 's/^require \(.*\) v.*/\1/p' "$HERE/registry-go/go.mod")
  rm -rf "$build"; mkdir -p "$build"
  cp "$HERE/registry-go/go.mod" "$build/"         # a copy: Go adds the indirect requirements to it
  (cd "$build" && go build -mod=mod -o schema-registry "$module/cmd/schema-registry" >&2) || die "registry-go could not be built"
  mv "$build" "${BINARY%/*}"
}

registry_go_launch() {
  cat >"$DIR/config.yaml" <<Y
server: {host: "127.0.0.1", port: $PORT}
storage: {type: memory}
compatibility: {default_level: $COMPATIBILITY}
logging: {level: warn, format: json}
Y
  spawn "$BINARY" -config "$DIR/config.yaml"
}

registry_go_probe() { probe http "http://127.0.0.1:$PORT/subjects"; }

registry_go_env() { echo "REGISTRY_GO_URL=http://127.0.0.1:$PORT"; }
