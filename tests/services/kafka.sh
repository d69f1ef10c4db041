# shellcheck shell=bash
# Apache Kafka, KRaft, each node broker and controller at once: `kafka` (plaintext), `kafka-secure` (TLS, SASL), `kafka-cluster` (3 nodes).

register kafka kafka 1 kafka
register kafka kafka-secure 1 kafka-secure
register kafka kafka-cluster 3 kafka-cluster-1 kafka-cluster-2 kafka-cluster-3

kafka_settings() {
  ADDRESS=127.0.0.1 NODE=1
  setting VERSION KAFKA_VERSION "$(pom_property kafka kafka.version)"
  setting EXTRA_PROPERTIES KAFKA_EXTRA_PROPERTIES ''    # a file, appended to server.properties
  case $NAME in
    kafka) setting PORT KAFKA_PORT 19092; setting HEAP KAFKA_HEAP 1g ;;
    kafka-secure) setting PORT KAFKA_SECURE_PORT 19093; setting HEAP KAFKA_HEAP 512m
                  setting ACLS KAFKA_ACLS 0 ;;          # 1: everything is denied to users without an ACL, except admin
    *) NODE=${NAME##*-}
       setting BASE KAFKA_CLUSTER_PORT 19192; setting HEAP KAFKA_HEAP 512m
       PORT=$(cluster_port "$NODE") ;;
  esac
  setting JVM_OPTIONS KAFKA_JVM_OPTIONS ''        # -XX:TieredStopAtLevel=1: starts with less CPU, and runs slower
  LIB=$STATE/lib/kafka-$VERSION
}
cluster_port() { echo $((BASE + ($1 - 1) * 10)); }
controller_port() { echo $(($1 > 55535 ? $1 - 10000 : $1 + 10000)); }

# kafka-secure listens for SASL_SSL on PORT, and on the ports that follow from it:
mtls_port() { echo $((PORT + 1)); }
sasl_plaintext_port() { echo $((PORT + 2)); }
internal_port() { echo $((PORT + 100)); }

kafka_ports() {
  printf "$ADDRESS:%s\n" "$PORT" "$(controller_port "$PORT")"
  [ "$NAME" != kafka-secure ] || printf "$ADDRESS:%s\n" "$(mtls_port)" "$(sasl_plaintext_port)" "$(internal_port)"
}

kafka_install() {
  need python3:python3; need_jdk17
  maven kafka copy-dependencies "$LIB" "-Dkafka.version=$VERSION"
  [ "$NAME" != kafka-secure ] || certificates
}

kafka_java() { # XMX CLASS ARGUMENT...
  local xmx=$1 class=$2 options; shift 2
  read -ra options <<<"$JVM_OPTIONS"
  COMMAND=("$JAVA_HOME/bin/java" -server "-Xmx$xmx" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 "${ARCHIVE[@]}" "${options[@]}" -Djava.awt.headless=true
    "-Dlog4j2.configurationFile=$HERE/kafka/log4j2.xml" "-Dkafka.loglevel=${KAFKA_LOG_LEVEL:-INFO}" -cp "$LIB/*" "$class" "$@")
}

kafka_listeners() {
  if [ "$NAME" != kafka-secure ]; then
    cat <<P
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$(controller_port "$PORT")
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
P
    return
  fi
  local mtls plain internal l user plain_users=''
  mtls=$(mtls_port) plain=$(sasl_plaintext_port) internal=$(internal_port)
  for user in $KAFKA_USERS; do plain_users+=" user_$user=\"$PASSWORD\""; done
  cat <<P
listeners=SASL_SSL://127.0.0.1:$PORT,SSL://127.0.0.1:$mtls,SASL_PLAINTEXT://127.0.0.1:$plain,INTERNAL://127.0.0.1:$internal,CONTROLLER://127.0.0.1:$(controller_port "$PORT")
advertised.listeners=SASL_SSL://localhost:$PORT,SSL://localhost:$mtls,SASL_PLAINTEXT://127.0.0.1:$plain,INTERNAL://127.0.0.1:$internal
inter.broker.listener.name=INTERNAL
listener.security.protocol.map=SASL_SSL:SASL_SSL,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=$STATE/tls/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$STATE/tls/ca.pem
ssl.enabled.protocols=TLSv1.2,TLSv1.3
listener.name.ssl.ssl.client.auth=requested
listener.name.sasl_ssl.ssl.client.auth=none
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER
P
  for l in sasl_ssl sasl_plaintext; do cat <<P
listener.name.$l.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.$l.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.$l.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required$plain_users;
listener.name.$l.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="admin";
P
  done
  if [ "$ACLS" = 1 ]; then cat <<P
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
allow.everyone.if.no.acl.found=false
P
  fi
}
KAFKA_USERS='messina other admin'

kafka_properties() {
  local voters partitions=1 replicas=1 in_sync=1 i
  voters=1@127.0.0.1:$(controller_port "$PORT")
  if [[ $NAME == kafka-cluster-* ]]; then
    voters=; for i in 1 2 3; do voters+="${voters:+,}$i@127.0.0.1:$(controller_port "$(cluster_port "$i")")"; done
    partitions=3 replicas=3 in_sync=2
    echo "broker.rack=rack$NODE"
    echo "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector"
  fi
  cat <<P
process.roles=broker,controller
node.id=$NODE
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
log.dirs=$DIR/data
auto.create.topics.enable=true
num.partitions=$partitions
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=8
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=8
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.retention.hours=24
P
  # Half of the defaults or less, so that tests do not wait too long for killed brokers. `kafka` itself is never killed.
  if [ "$NAME" != kafka ]; then cat <<P
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=5000
P
  fi
  kafka_listeners
  [ -z "$EXTRA_PROPERTIES" ] || cat "$EXTRA_PROPERTIES"
}

kafka_launch() {
  local user users=() cluster
  kafka_properties >"$DIR/server.properties"
  class_archive
  if [ ! -f "$DIR/data/meta.properties" ]; then
    case $NAME in # 16 bytes in base64, another for each cluster
      kafka) cluster=bWVzc2luYS1rYWZrYS0wMQ ;;
      kafka-secure) cluster=bWVzc2luYS1rYWZrYS0wMg
        for user in $KAFKA_USERS; do
          users+=(--add-scram "SCRAM-SHA-512=[name=$user,password=$PASSWORD]" --add-scram "SCRAM-SHA-256=[name=$user,password=$PASSWORD]")
        done ;;
      *) cluster=bWVzc2luYS1rYWZrYS0wMw ;;
    esac
    KAFKA_LOG_LEVEL=WARN kafka_java 128m kafka.tools.StorageTool format -t "$cluster" -c "$DIR/server.properties" "${users[@]}"
    "${COMMAND[@]}" >"$DIR/log" 2>&1 || fail_with_log "could not format its storage"
  fi
  kafka_java "$HEAP" kafka.Kafka "$DIR/server.properties"
  spawn "${COMMAND[0]}" "${MAKE_ARCHIVE[@]}" "${COMMAND[@]:1}"
}

kafka_probe() {
  if [ "$NAME" = kafka-secure ]; then probe kafka localhost "$(internal_port)" 1 "$PORT" "$STATE/tls/ca.pem"
  else probe kafka "$ADDRESS" "$PORT" "${1:-$NODE}"; fi
}

kafka_together() { # SERVICE   every node lists the three
  local i
  [ "$1" = kafka-cluster ] || return 0
  for i in ${MEMBERS[$1]}; do
    select_instance "$i"
    kafka_probe 1,2,3 || die "$i does not list the three nodes"
  done
}

kafka_env() {
  case $NAME in
    kafka) echo "KAFKA_BROKERS=127.0.0.1:$PORT" ;;
    kafka-secure) cat <<P
KAFKA_SECURE_BROKERS=localhost:$PORT
KAFKA_MTLS_BROKERS=localhost:$(mtls_port)
KAFKA_SASL_PLAINTEXT_BROKERS=127.0.0.1:$(sasl_plaintext_port)
KAFKA_USERNAME=messina
KAFKA_PASSWORD=$PASSWORD
P
      ;;
    *) echo "KAFKA_CLUSTER_BROKERS=127.0.0.1:$(cluster_port 1),127.0.0.1:$(cluster_port 2),127.0.0.1:$(cluster_port 3)" ;;
  esac
}
