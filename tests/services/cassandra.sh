# shellcheck shell=bash
# Apache Cassandra, as the CQL database: `cassandra`, `cassandra-tls` (TLS, client certificate, password), `cassandra-2dc` (dc1 and dc2).

register cassandra cassandra 1 cassandra
register cassandra cassandra-tls 1 cassandra-tls
register cassandra cassandra-2dc 1 cassandra-2dc-1 cassandra-2dc-2      # one after the other: the second joins the first

cassandra_settings() {
  ADDRESS=127.0.0.1 SEED=127.0.0.1 DATACENTER=dc1 CLUSTER=$NAME
  setting VERSION CASSANDRA_VERSION "$(pom_property cassandra cassandra.version)"
  case $NAME in
    cassandra) setting PORT CASSANDRA_PORT 19042; setting HEAP CASSANDRA_HEAP 1g; setting AUTH CASSANDRA_AUTH none ;;
    cassandra-tls) setting PORT CASSANDRA_TLS_PORT 19043; setting HEAP CASSANDRA_HEAP 768m; setting AUTH CASSANDRA_TLS_AUTH password
                   setting CLIENT_CERTIFICATE CASSANDRA_TLS_CLIENT_CERTIFICATE true ;;
    *) # drivers expect one port on every node, so the nodes differ in address
       setting PORT CASSANDRA_2DC_PORT 19042; setting HEAP CASSANDRA_HEAP 768m; AUTH=none
       SEED=127.0.0.2 ADDRESS=127.0.0.$((${NAME##*-} + 1)) DATACENTER=dc${NAME##*-} CLUSTER=cassandra-2dc ;;
  esac
  setting JVM_OPTIONS CASSANDRA_JVM_OPTIONS ''    # -XX:TieredStopAtLevel=1: starts with less CPU, and runs slower
  setting COMMITLOG_SYNC CASSANDRA_COMMITLOG_SYNC periodic     # batch: a killed node loses no acknowledged write; slower
  LIB=$STATE/lib/cassandra-$VERSION
}
storage_port() { echo $((PORT - 2042)); }     # 17000 for 19042

cassandra_ports() { echo "$ADDRESS:$PORT" "$ADDRESS:$(storage_port)"; }

cassandra_install() {
  need python3:python3; need_jdk17
  maven cassandra copy-dependencies "$LIB" "-Dcassandra.version=$VERSION"
  [ "$NAME" != cassandra-tls ] || certificates
}

cassandra_yaml() {
  local authenticator=AllowAllAuthenticator authorizer=AllowAllAuthorizer
  [ "$AUTH" = none ] || authenticator=PasswordAuthenticator authorizer=CassandraAuthorizer
  cat <<Y
cluster_name: '$CLUSTER'
num_tokens: 4
allocate_tokens_for_local_replication_factor: 1
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: GossipingPropertyFileSnitch
listen_address: $ADDRESS
rpc_address: $ADDRESS
storage_port: $(storage_port)
start_native_transport: true
native_transport_port: $PORT
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "$SEED"
data_file_directories: ["$DIR/data"]
commitlog_directory: "$DIR/commitlog"
saved_caches_directory: "$DIR/saved_caches"
hints_directory: "$DIR/hints"
cdc_raw_directory: "$DIR/cdc_raw"
commitlog_sync: $COMMITLOG_SYNC
$([ "$COMMITLOG_SYNC" != periodic ] || echo 'commitlog_sync_period: 10000ms')
commitlog_segment_size: 16MiB
commitlog_total_space: 512MiB
memtable_allocation_type: heap_buffers
memtable_heap_space: 256MiB
memtable_offheap_space: 256MiB
key_cache_size: 32MiB
row_cache_size: 0MiB
counter_cache_size: 1MiB
file_cache_size: 64MiB
networking_cache_size: 32MiB
native_transport_max_frame_size: 16MiB
concurrent_reads: 16
concurrent_writes: 16
concurrent_counter_writes: 4
concurrent_compactors: 1
compaction_throughput: 64MiB/s
disk_access_mode: mmap_index_only
disk_failure_policy: stop
commit_failure_policy: stop
hinted_handoff_enabled: true
dynamic_snitch: false
read_request_timeout: 5000ms
range_request_timeout: 10000ms
write_request_timeout: 5000ms
request_timeout: 10000ms
auto_snapshot: false
snapshot_before_compaction: false
uuid_sstable_identifiers_enabled: true
storage_compatibility_mode: NONE
sstable:
  selected_format: bti
memtable:
  configurations:
    skiplist:
      class_name: SkipListMemtable
    trie:
      class_name: TrieMemtable
    default:
      inherits: trie
authenticator: $authenticator
authorizer: $authorizer
role_manager: CassandraRoleManager
user_defined_functions_enabled: false
materialized_views_enabled: true
batch_size_warn_threshold: 64KiB
batch_size_fail_threshold: 640KiB
unlogged_batch_across_partitions_warn_threshold: 100
Y
  [ "$NAME" != cassandra-tls ] || cat <<Y
client_encryption_options:
  enabled: true
  optional: false
  keystore: "$STATE/tls/server.p12"
  keystore_password: $PASSWORD
  truststore: "$STATE/tls/ca.p12"
  truststore_password: $PASSWORD
  store_type: PKCS12
  protocol: TLS
  accepted_protocols: ["TLSv1.2", "TLSv1.3"]
  require_client_auth: $CLIENT_CERTIFICATE
Y
}

cassandra_launch() {
  local flags options command=()
  mkdir -p "$DIR/data"
  cassandra_yaml >"$DIR/cassandra.yaml"
  printf 'dc=%s\nrack=rack1\nprefer_local=false\n' "$DATACENTER" >"$DIR/cassandra-rackdc.properties"
  mapfile -t flags <"$HERE/cassandra/jvm17.flags"
  read -ra options <<<"$JVM_OPTIONS"
  class_archive
  # As root, Cassandra's mlockall() would succeed and touch the whole heap and code cache, which takes seconds and gigabytes. Prevented here.
  ulimit -l 64 2>/dev/null || true
  if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then command=(setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock); fi
  # A node killed between the two words of a sync marker (position, then checksum) would end at its next start unless replay errors are ignored. That is
  # safe: what follows such a marker was never acknowledged.
  # The other flags avoid waits that a slowly forming cluster needs. (Not unsafesystem: with it, a killed node forgets its schema and data.)
  spawn "${command[@]}" "$JAVA_HOME/bin/java" "${flags[@]}" -Xms256m "-Xmx$HEAP" -XX:MaxDirectMemorySize=1g -XX:ActiveProcessorCount=2 "${options[@]}" \
    -XX:+UnlockDiagnosticVMOptions -XX:+AllowArchivingWithJavaAgent "${ARCHIVE[@]}" "${MAKE_ARCHIVE[@]}" \
    "-javaagent:$(echo "$LIB"/jamm-*.jar)" "-Djava.io.tmpdir=$DIR/tmp" "-XX:ErrorFile=$DIR/hs_err.log" \
    "-Dcassandra.config=file://$DIR/cassandra.yaml" "-Dcassandra-rackdc.properties=file://$DIR/cassandra-rackdc.properties" \
    "-Dlogback.configurationFile=$HERE/cassandra/logback.xml" "-Dcassandra.logdir=$DIR" "-Dcassandra.storagedir=$DIR" \
    -Dcassandra.available_processors=2 -Dcassandra-foreground=yes -Dcassandra.commitlog.ignorereplayerrors=true \
    -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=1000 -Dcassandra.superuser_setup_delay_ms=0 \
    -Dcassandra.shutdown_announce_in_ms=0 \
    -cp "$LIB/*" org.apache.cassandra.service.CassandraDaemon
}

cassandra_probe() { # [OTHER_NODES]
  local a=(cql "$ADDRESS" "$PORT" "${1:-0}" "" "")
  [ "$AUTH" = none ] || a=(cql "$ADDRESS" "$PORT" "${1:-0}" cassandra cassandra)
  [ "$NAME" != cassandra-tls ] || a+=("$STATE/tls/ca.pem" "$STATE/tls/client.crt" "$STATE/tls/client.key")
  probe "${a[@]}"
}

cassandra_together() { # SERVICE   each node knows the other
  local i
  [ "$1" = cassandra-2dc ] || return 0
  for i in ${MEMBERS[$1]}; do
    select_instance "$i"
    cassandra_probe 1 || die "$i does not know the other node"
  done
}

cassandra_env() {
  case $NAME in
    cassandra) echo "SCYLLA_NODES=$ADDRESS:$PORT" ;;
    cassandra-tls) echo "SCYLLA_TLS_NODES=$ADDRESS:$PORT" ;;
    *) echo "SCYLLA_2DC_NODES=127.0.0.2:$PORT,127.0.0.3:$PORT" ;;
  esac
  case $AUTH:$NAME in
    none:*) ;;
    *:cassandra) printf 'SCYLLA_%s=cassandra\n' USERNAME PASSWORD ;;
    *:cassandra-tls) printf 'SCYLLA_TLS_%s=cassandra\n' USERNAME PASSWORD ;;
  esac
}
