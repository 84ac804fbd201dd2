#!/bin/sh
# Installs ussfc into a virtual environment of its own, in steps, so that an image gets a layer for each of them:
#
#   install.sh system                       what Debian or Ubuntu has to give, where it is lacking; wants root
#   install.sh dependencies SOURCE TARGET   every library; of SOURCE only pyproject.toml and constraints.txt are read
#   install.sh program SOURCE TARGET        ussfc itself; nothing is downloaded
#
# Environment of the second step:
#   EXTRAS       optional dependencies, with commas between them: s3,kubernetes
#   TORCH_INDEX  address of a package index that torch alone comes from; empty: from where everything comes from
set -eu

fail() {
    echo "install.sh: $*" >&2
    exit 2
}

has_venv() {
    python3 -c 'import ensurepip, venv' 2> /dev/null
}

check_python() {
    has_venv || fail "python3 with venv not found; run the step system first"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version) found, Python 3.11 or newer expected; take a newer base image"
}

# The requirements in pyproject.toml: those of every installation, of the extras, and of the build, for which the
# step program downloads nothing.
requirements() {
    python3 - "$1/pyproject.toml" "$2" << 'PYTHON'
import sys
import tomllib

file, extras = sys.argv[1:]
with open(file, "rb") as opened:
    loaded = tomllib.load(opened)
project = loaded["project"]
optional = project["optional-dependencies"]


def of_extra(extra):
    if extra not in optional:
        sys.exit(f"install.sh: extra {extra!r} not found in {file}; known: {', '.join(optional)}")
    for line in optional[extra]:
        if line.startswith(project["name"] + "["):
            for inner in line[line.index("[") + 1 : line.index("]")].split(","):
                yield from of_extra(inner.strip())
        else:
            yield line


lines = [*project["dependencies"], *loaded["build-system"]["requires"]]
for extra in filter(None, (part.strip() for part in extras.split(","))):
    lines += of_extra(extra)
print("\n".join(lines))
PYTHON
}

step=${1:-}
case $step in
    system)
        # rasterio's wheels leave libexpat to the system.
        set -- ca-certificates libexpat1
        has_venv || set -- "$@" python3 python3-venv
        # Triton builds its kernels for the GPU it finds, at the first start, against Python's headers.
        [ ! -d /usr/local/cuda ] || set -- "$@" gcc libc6-dev python3-dev
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "$@" > /dev/null
        rm -rf /var/lib/apt/lists/*
        check_python
        ;;
    dependencies)
        [ $# -eq 3 ] || fail "expected: install.sh dependencies SOURCE TARGET"
        check_python
        chosen=$(mktemp)
        trap 'rm -f "$chosen"' EXIT
        requirements "$2" "${EXTRAS:-}" > "$chosen"
        python3 -m venv "$3"
        if [ -n "${TORCH_INDEX:-}" ]; then
            # Alone and first: such an index need not have the other libraries in the versions of constraints.txt.
            "$3/bin/pip" install --no-cache-dir -q --no-deps --index-url "$TORCH_INDEX" \
                "$(grep '^torch==' "$2/constraints.txt")"
        fi
        "$3/bin/pip" install --no-cache-dir -q -c "$2/constraints.txt" -r "$chosen"
        "$3/bin/pip" check
        ;;
    program)
        [ $# -eq 3 ] || fail "expected: install.sh program SOURCE TARGET"
        [ -x "$3/bin/pip" ] || fail "$3: no virtual environment; run the step dependencies first"
        "$3/bin/pip" install --no-cache-dir -q --no-deps --no-index --no-build-isolation "$2/"
        ;;
    *)
        fail "step ${step:-''} not known; expected: system, dependencies or program"
        ;;
esac
