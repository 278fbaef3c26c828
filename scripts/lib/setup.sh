# Sourced: makes .venv ready. Usage: set_up PROFILE, where PROFILE is node, dev or bench.
# Does nothing, quickly, where it is ready already.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; install it, or name it with PYTHON=..." >&2
  return 1
}

set_up() {
  local profile="$1" python stamp want
  cd "$root"
  python="$(find_python)"
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "error: Python's venv module is missing; on Debian: apt-get install python3-venv" >&2
    return 1
  fi
  want="$(cat requirements/*.txt pyproject.toml | cksum | tr ' ' -)-$root"
  stamp=".venv/.set-up-$profile"
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
  mkdir -p .venv
  (
    flock 9
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && exit 0
    echo "setting up .venv ($profile), once: about half a minute" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
      -r requirements/bootstrap.txt
    echo "  installing $(grep -c '^[a-z].*==' "requirements/$profile.txt") packages" >&2
    .venv/bin/uv pip install -q --python .venv/bin/python --require-hashes \
      -r "requirements/$profile.txt"
    .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
    echo "$want" >"$stamp"
  ) 9>.venv/.set-up.lock  # Not .lock, which is uv's own.
}
