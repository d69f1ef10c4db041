# shellcheck shell=bash
# A stand-in for MongoDB: mongo-java-server, in memory, with change streams and SCRAM of our own (mongo/*.java).

register mongo mongo 1 mongo

mongo_settings() {
  ADDRESS=127.0.0.1
  setting VERSION MONGO_VERSION "$(pom_property mongo mongo.version)"
  setting PORT MONGO_PORT 17017
  setting TLS_PORT MONGO_TLS_PORT $((PORT + 1))   # the same data over TLS
  setting REPLICA_SET MONGO_REPLICA_SET rs0       # none: a standalone server, where watch() is refused
  setting USER_PASSWORD MONGO_AUTH ''             # user:password to require SCRAM
  setting WIRE MONGO_WIRE_VERSION 21              # 21: MongoDB 7.0
  setting OPLOG MONGO_OPLOG 100000                # how many changes a change stream can go back
  setting HEAP MONGO_HEAP 512m
  LIB=$STATE/lib/mongo-$VERSION
}

mongo_ports() { echo "$ADDRESS:$PORT" "$ADDRESS:$TLS_PORT"; }

mongo_install() {
  local classes=$LIB/classes
  need python3:python3; need_jdk17
  maven mongo copy-dependencies "$LIB" "-Dmongo.version=$VERSION"
  certificates
  if [ ! -d "$classes" ] || [ -n "$(find "$HERE/mongo" -name '*.java' -newer "$classes")" ]; then
    rm -rf "$classes" "$classes.part"
    "$JAVA_HOME/bin/javac" -proc:none -cp "$LIB/*" -d "$classes.part" "$HERE"/mongo/*.java
    mv "$classes.part" "$classes"
    touch "$classes"
  fi
}

mongo_launch() {
  local set=$REPLICA_SET user='' password=''
  [ "$set" != none ] || set=
  if [ -n "$USER_PASSWORD" ]; then user=${USER_PASSWORD%%:*} password=${USER_PASSWORD#*:}; fi
  spawn "$JAVA_HOME/bin/java" -Xms32m "-Xmx$HEAP" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dorg.slf4j.simpleLogger.defaultLogLevel=${MONGO_LOG_LEVEL:-warn}" \
    "-Djava.io.tmpdir=$DIR/tmp" -cp "$LIB/classes:$LIB/*" StandIn "host=$ADDRESS" "port=$PORT" "wire=$WIRE" "replicaSet=$set" \
    "user=$user" "password=$password" "oplog=$OPLOG" \
    "tlsPort=$TLS_PORT" "key=$STATE/tls/server.key" "certificate=$STATE/tls/server.crt" "ca=$STATE/tls/ca.pem"
}

mongo_probe() { probe mongo "$ADDRESS" "$PORT"; }

mongo_env() {
  local who='' set=replicaSet=$REPLICA_SET
  [ -z "$USER_PASSWORD" ] || who=$USER_PASSWORD@
  [ "$REPLICA_SET" != none ] || set=directConnection=true
  echo "MONGO_URI=mongodb://$who$ADDRESS:$PORT/?$set"
  # The replica set names its plain address, so a TLS client must not follow it.
  echo "MONGO_TLS_URI=mongodb://${who}localhost:$TLS_PORT/?directConnection=true&tls=true&tlsCAFile=$STATE/tls/ca.pem"
}
