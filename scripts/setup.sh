#!/usr/bin/env bash
# Makes the virtual environment $1 and installs this package into it, editable, with the extras $2.
set -euo pipefail
venv=$1 extras=$2 python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

need() { echo "setup: $1" >&2; exit 1; }
command -v "$python" >/dev/null || need "python3 is missing: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || need "Python 3.11 or newer is needed"
"$python" -c 'import ensurepip, venv' 2>/dev/null || need "Python's venv is missing: apt-get install python3-venv"
command -v g++ >/dev/null || need "g++ is missing: apt-get install g++"

echo "== setting up $venv [$extras]"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/pip" --disable-pip-version-check -q)
mapfile -t requires < <("$venv/bin/python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
echo "== installing build requirements"
"${pip[@]}" install "${requires[@]}"
echo "== building and installing infiniop (a few minutes the first time)"
"${pip[@]}" install --no-build-isolation -c constraints.txt -e ".[$extras]"
