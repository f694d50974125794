#!/usr/bin/env bash
# Throws generated requests at every role's /openapi.json with every check of schemathesis: CASES of
# them for each role, from SEED on, within SECONDS for each role. A failure prints how to repeat it.
# ROLES="proposer learner" names some alone. Starts its own cluster on ports from PORT_BASE on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
VERSION=4.32.5
BIN=${BIN:-target/debug}
BASE=${PORT_BASE:-26000}
CASES=${CASES:-5000}
SECONDS_EACH=${SECONDS_EACH:-600}
SEED=${SEED:-1}
ROLES=${ROLES:-proposer acceptor learner store}

if [[ ! -x .tools/schemathesis/bin/schemathesis ]]; then
  echo "schemathesis: $VERSION into .tools/"
  python3 -m venv .tools/schemathesis
  .tools/schemathesis/bin/pip install --quiet "schemathesis==$VERSION"
fi
SCHEMATHESIS=$PWD/.tools/schemathesis/bin/schemathesis
CONFIG=$PWD/tests/tools/schemathesis.toml

DATA=$(mktemp -d)
{ cat crds/samples/small.yaml; printf '  store:\n    enabled: true\n    replicas: 1\n'; } >"$DATA/cluster.yaml"
start() {
  rm -rf "$DATA/nodes"
  "$BIN/paxos-operator" local -f "$DATA/cluster.yaml" --data-dir "$DATA/nodes" --port-base "$BASE" >"$DATA/local.log" 2>&1 &
  LOCAL=$!
  for _ in $(seq 300); do
    kill -0 $LOCAL 2>/dev/null || break
    grep -Eq '^([0-9]+)/\1 ready, .* leads' "$DATA/local.log" && return
    sleep 0.2
  done
  cat "$DATA/local.log" >&2
  echo "schemathesis: the cluster did not start" >&2
  exit 1
}
stop() { kill -TERM $LOCAL 2>/dev/null || true; wait $LOCAL 2>/dev/null || true; }
trap 'stop; rm -rf "$DATA"' EXIT

failed=0
for role in $ROLES; do
  case $role in
    proposer) port=$((BASE + 1)) ;;
    acceptor) port=$((BASE + 101)) ;;
    learner) port=$((BASE + 201)) ;;
    store) port=$((BASE + 301)) ;;
  esac
  # Generated votes and heartbeats are as good as real ones: each role gets a fresh cluster.
  start
  url=http://127.0.0.1:$port
  total=0 seed=$SEED until=$((SECONDS + SECONDS_EACH))
  while ((total < CASES && SECONDS < until)); do
    out=$DATA/$role-$seed
    if ! (cd "$DATA" && "$SCHEMATHESIS" --config-file "$CONFIG" run "$url/openapi.json" \
      --seed "$seed" --max-time $((until - SECONDS))) >"$out" 2>&1; then
      failed=1
      cat "$out" >&2
      echo "schemathesis: $role failed; again: ROLES=$role SEED=$seed CASES=1 tests/tools/schemathesis.sh" >&2
      break
    fi
    cases=$(sed -n 's/^ *\([0-9,]*\) generated.*/\1/p' "$out" | tr -d ,)
    total=$((total + ${cases:-0}))
    seed=$((seed + 1))
    [[ ${cases:-0} -gt 0 ]] || { cat "$out" >&2; failed=1; break; }
  done
  curl -sf "$url/health" >/dev/null || { echo "schemathesis: $role no longer answers" >&2; failed=1; }
  if grep -hE 'panicked|server error' "$DATA"/nodes/*-"$role"-*/logs/*_important.log >&2; then failed=1; fi
  echo "schemathesis: $role: $total cases, seeds $SEED to $((seed - 1))"
  stop
done
exit $failed
