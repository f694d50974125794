#!/usr/bin/env bash
# Runs the sample with stores on this machine and shows what the service promises: any proposer takes
# a request, the learners learn the same values in the same order, the stores have them on disks of
# their own, and when the leader is killed the next proposal commits. On a terminal the cluster stays up with its live table until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-target/debug}
BASE=${PORT_BASE:-8000}
DATA=$(mktemp -d)
say() { printf '\n== %s\n' "$*"; }
fail() { echo "demo failed: $*" >&2; exit 1; }
proposer() { echo "http://127.0.0.1:$((BASE + $1))"; }
store() { echo "http://127.0.0.1:$((BASE + 300 + $1))"; }
learner() { echo "http://127.0.0.1:$((BASE + 200 + $1))"; }
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }
leader() {
  for id in 1 2 3 4 5; do
    if curl -sf -m 1 "$(proposer $id)/leader-status" >/dev/null; then echo $id; return; fi
  done
}
propose() { # proposer, resource, data, request
  curl -sS -m 10 --retry 20 --retry-delay 0 --retry-connrefused --retry-max-time 10 \
    "$(proposer "$1")/propose?wait=true" -d \
    "{\"clientId\":\"demo\",\"timestamp\":$(date +%s%3N),\"requestId\":\"$4\",\"operation\":\"WRITE\",\"resource\":\"$2\",\"data\":\"$3\"}"
}

say "starting 5 proposers, 5 acceptors, 2 learners and 3 stores on ports from $((BASE + 1))"
"$BIN/paxos-operator" local -f crds/samples/store.yaml --data-dir "$DATA" --port-base "$BASE" >"$DATA/local.log" 2>&1 &
LOCAL=$!
trap 'kill -TERM $LOCAL 2>/dev/null || true; wait $LOCAL 2>/dev/null || true; rm -rf "$DATA"' EXIT
for _ in $(seq 150); do
  kill -0 $LOCAL 2>/dev/null || { cat "$DATA/local.log" >&2; fail "the cluster did not start"; }
  grep -q '^15/15 ready, .* leads' "$DATA/local.log" && break
  sleep 0.2
done
grep '^15/15 ready' "$DATA/local.log" || { cat "$DATA/local.log" >&2; fail "not ready within 30 s"; }

say "five values, each through another proposer"
for id in 1 2 3 4 5; do
  answer=$(propose $id "colour-$id" "value $id" "first-$id")
  echo "proposer $id answers $answer"
  [ "$(echo "$answer" | field status)" = COMMITTED ] || fail "not committed"
done

same_order() {
  for _ in $(seq 50); do
    one=$(curl -sf "$(learner 1)/log?follow=false"); two=$(curl -sf "$(learner 2)/log?follow=false")
    [ "$one" = "$two" ] && [ "$(echo "$one" | grep -c COMMITTED)" -ge "$1" ] && return
    sleep 0.1
  done
  fail "the learners' logs differ"
}
same_order 5
say "both learners have learned the same values in the same order"
paste -d '|' <(curl -sf "$(learner 1)/log?follow=false" | sed -n 's/.*\("instanceId":[0-9]*\).*\("data":"[^"]*"\).*/learner 1: \1 \2 /p') \
             <(curl -sf "$(learner 2)/log?follow=false" | sed -n 's/.*\("instanceId":[0-9]*\).*\("data":"[^"]*"\).*/ learner 2: \1 \2/p')

say "each store has a value that was written a moment ago, and what it read is linearizable"
for id in 1 2 3; do
  answer=$(curl -sf -m 10 "$(store $id)/resource/colour-$id") || fail "no answer"
  echo "store $id answers $answer"
  [ "$(echo "$answer" | field data)" = "value $id" ] || fail "the store has another value"
done

old=$(leader); [ -n "$old" ] || fail "no leader"
say "killing the leader, proposer $old, with SIGKILL"
started=$(date +%s%3N)
kill -9 "$(cat "$DATA"/*-proposer-"$old"/pid)"
other=$((old % 5 + 1))
answer=$(propose $other after-the-kill survived after)
took=$(($(date +%s%3N) - started))
echo "proposer $other answers $answer"
[ "$(echo "$answer" | field status)" = COMMITTED ] || fail "not committed after the kill"
echo "the next proposal was committed $took ms after the kill; now proposer $(leader) leads"
same_order 6
answer=$(curl -sf -m 10 "$(store 1)/resource/after-the-kill") || fail "no answer"
[ "$(echo "$answer" | field data)" = survived ] || fail "the store lacks the last value"
echo "store 1 has it too: $answer"
echo "both learners agree: $(curl -sf "$(learner 1)/log?follow=false" | grep -c COMMITTED) values committed, none lost"

if [ -t 1 ]; then
  kill -TERM $LOCAL; wait $LOCAL || true
  "$BIN/paxos-operator" local -f crds/samples/store.yaml --data-dir "$DATA" --port-base "$BASE"
  exit 0
fi
say "stopping"
kill -TERM $LOCAL
wait $LOCAL || fail "the cluster did not end cleanly"
tail -2 "$DATA/local.log"
