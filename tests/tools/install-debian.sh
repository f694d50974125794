#!/usr/bin/env bash
# install-debian.sh PACKAGE PROGRAM...: puts programs of a Debian package into .tools/, without root and
# without installing it. Does nothing when all of them are there, or on PATH.
set -euo pipefail
package=$1
shift

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools=$PWD/.tools

missing=()
for program in "$@"; do
    [[ -x $tools/$program ]] || command -v "$program" >/dev/null || missing+=("$program")
done
if [[ ${#missing[@]} == 0 ]]; then exit 0; fi
if ! command -v apt-get dpkg-deb >/dev/null; then
    echo "install-debian: this is no Debian: install ${missing[*]} yourself" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "install-debian: ${missing[*]} of Debian's $package into .tools/"
# Its own lists: the machine's may be missing or old, and only root may renew them.
mkdir -p "$scratch"/{lists,cache}/partial
apt=(apt-get -q -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=)
"${apt[@]}" update >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
(cd "$scratch" && "${apt[@]}" download "$package" >>"$scratch/log" 2>&1) || { cat "$scratch/log" >&2; exit 1; }
# Whole, since a program may need what lies beside it.
rm -rf "$tools/debian/$package" && mkdir -p "$tools/debian"
dpkg-deb --extract "$scratch"/"$package"_*.deb "$scratch/root"
mv "$scratch/root" "$tools/debian/$package"
for program in "${missing[@]}"; do
    ln -sf "debian/$package/usr/bin/$program" "$tools/$program"
done
