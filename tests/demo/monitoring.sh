#!/usr/bin/env bash
# Runs the sample with stores on this machine and Prometheus with the chart's alerts beside it, until
# Ctrl-C: http://localhost:9090/alerts, and /graph for the queries of charts/paxos-operator/dashboards.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-target/debug}
BASE=${PORT_BASE:-8000}
PORT=${PROMETHEUS_PORT:-9090}
DATA=$(mktemp -d)
PROMETHEUS=$(command -v "$PWD/.tools/prometheus" || command -v prometheus)
cp -r charts/paxos-operator/rules "$DATA/rules"
"$BIN/paxos-operator" local -f crds/samples/store.yaml --data-dir "$DATA" --port-base "$BASE" >"$DATA/local.log" 2>&1 &
LOCAL=$!
trap 'kill -TERM $LOCAL ${SCRAPER:-} 2>/dev/null || true; wait || true; rm -rf "$DATA"' EXIT
trap 'exit 0' INT TERM
until [ -f "$DATA/prometheus.yml" ]; do
  kill -0 $LOCAL 2>/dev/null || { cat "$DATA/local.log" >&2; exit 1; }
  sleep 0.1
done
"$PROMETHEUS" --config.file="$DATA/prometheus.yml" --storage.tsdb.path="$DATA/tsdb" \
  --web.listen-address="127.0.0.1:$PORT" >"$DATA/prometheus.log" 2>&1 &
SCRAPER=$!
echo "The cluster is on ports from $((BASE + 1)), Prometheus on http://localhost:$PORT/alerts; Ctrl-C stops both."
echo "To see an alert fire, stop three acceptors:"
echo "  for pid in \$(cat $DATA/*-acceptor-[123]/pid); do kill -STOP \$pid; done"
wait -n $LOCAL $SCRAPER
