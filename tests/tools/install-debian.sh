#!/usr/bin/env bash
# Puts prometheus and promtool into .tools/, from Debian's package, without root and without installing
# it. Does nothing when they are there, or when both are on PATH.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools=$PWD/.tools

if [[ -x $tools/prometheus && -x $tools/promtool ]]; then exit 0; fi
if command -v prometheus promtool >/dev/null; then exit 0; fi
if ! command -v apt-get dpkg-deb >/dev/null; then
    echo "install-promtool: this is no Debian: install prometheus and promtool 2.42 or later yourself" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "install-promtool: Debian's prometheus into .tools/"
# Lists of its own: the machine's may be missing or old, and only root may renew them.
mkdir -p "$scratch"/{lists,cache}/partial
apt=(apt-get -q -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=)
"${apt[@]}" update >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
(cd "$scratch" && "${apt[@]}" download prometheus >>"$scratch/log" 2>&1) || { cat "$scratch/log" >&2; exit 1; }
dpkg-deb --extract "$scratch"/prometheus_*.deb "$scratch/root"
mkdir -p "$tools"
for program in prometheus promtool; do
    # Under another name first, so that a run that is cut off leaves no half program.
    cp "$scratch/root/usr/bin/$program" "$tools/$program.part"
    mv "$tools/$program.part" "$tools/$program"
done
"$tools/promtool" --version | head -n 1
