# shellcheck shell=bash
# Tools that must be installed, jars to download and certificates to make: each once, into the state folder.

PASSWORD=test-password                  # of every user and key store; nothing here is a secret

need() { # COMMAND:DEBIAN_PACKAGE...
  local pair missing='' packages=''
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || { missing+=" ${pair%%:*}"; packages+=" ${pair#*:}"; }
  done
  [ -z "$missing" ] || die "missing:$missing. On Debian: apt-get install$packages"
}

# Cassandra 5.0 runs on Java 17 and not on later ones, so all the JVM services use it.
find_jdk17() {
  local home found
  found=$(command -v javac || true)
  for home in "${JAVA_HOME:-}" "${found:+$(dirname "$(dirname "$(readlink -f "$found")")")}" /usr/lib/jvm/*17*; do
    if [ -x "$home/bin/javac" ] && grep -qs '^JAVA_VERSION="17\.' "$home/release"; then
      export JAVA_HOME=$home
      return
    fi
  done
  return 1
}

need_jdk17() {
  find_jdk17 || die "no JDK 17 found. On Debian: apt-get install openjdk-17-jdk-headless maven; or set JAVA_HOME to a JDK 17"
}

# Prints the Debian packages that the named services need and this machine lacks, one per line.
missing_packages() { # NAME...
  local i tools='python3:python3 openssl:openssl mvn:maven' pair
  expand "$@"
  for i in "${INSTANCES[@]}"; do [ "$i" != registry-go ] || tools+=' go:golang'; done
  for pair in $tools; do command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"; done
  find_jdk17 || echo openjdk-17-jdk-headless
  python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
}

pom_property() { sed -n "s:.*<$2>\(.*\)</$2>.*:\1:p" "$HERE/$1/pom.xml"; }

maven() { # SERVICE_FOLDER GOAL TARGET_FOLDER ARGUMENT...   once; Maven runs do not overlap
  local folder=$1 goal=$2 target=$3; shift 3
  [ ! -d "$target" ] || return 0
  need mvn:maven
  (
    flock 8
    [ ! -d "$target" ] || exit 0
    say "services: fetching $(basename "$target")"
    rm -rf "$target.part"
    mvn -B -q -f "$HERE/$folder/pom.xml" "dependency:$goal" -DoutputDirectory="$target.part" "$@" >"$STATE/maven.log" 2>&1 ||
      { tail -n 20 "$STATE/maven.log" >&2; die "Maven could not fetch $(basename "$target")"; }
    mv "$target.part" "$target"
    rm -f "$target"-*.jsa # the class archive of other jars: see lib.sh
  ) 8>"$STATE/lock/maven"
}

certificates() { # once
  [ ! -d "$STATE/tls" ] || return 0
  need openssl:openssl; need_jdk17
  (
    flock 8
    [ ! -d "$STATE/tls" ] || exit 0
    rm -rf "$STATE/tls.part"; mkdir -p "$STATE/tls.part"
    bash "$HERE/certificates.sh" "$STATE/tls.part" "$PASSWORD" "$JAVA_HOME/bin/keytool" >"$STATE/tls.log" 2>&1 ||
      { tail -n 20 "$STATE/tls.log" >&2; die "no certificates could be made"; }
    mv "$STATE/tls.part" "$STATE/tls"
  ) 8>"$STATE/lock/tls"
}
