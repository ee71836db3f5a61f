# Makes the virtual environment: `sh tools/setup.sh .venv`. Called by the Makefile alone.
#
# Takes the first interpreter that really runs and is new enough; uv does the work where it is
# installed, venv and pip otherwise. Never installs anything that requirements/dev.txt does not lock.
set -eu
venv=$1

runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_uv() { command -v uv >/dev/null 2>&1; }

python= without_venv=
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    runs "$candidate" || continue
    if has_uv || has_venv "$candidate"; then
        python=$candidate
        break
    fi
    without_venv=${without_venv:-$candidate}
done

if [ -z "$python" ] && [ -n "$without_venv" ]; then
    echo "$without_venv is here, but without its venv module." >&2
    echo "On Debian and Ubuntu: apt install python3-venv. Or install uv, which needs no such module." >&2
    exit 1
elif [ -z "$python" ]; then
    echo "dibs needs Python 3.11 or newer, and none was found that runs." >&2
    echo "Install one, or name it: make setup PYTHON=/path/to/python3" >&2
    exit 1
fi

if ! runs "$venv/bin/python"; then
    echo "making $venv with $("$python" --version)"
    rm -rf "$venv"
    if has_uv; then uv venv --quiet --python "$("$python" -c 'import sys; print(sys.executable)')" "$venv"
    else "$python" -m venv "$venv"; fi
fi

echo "installing requirements/dev.txt into $venv"
if has_uv; then
    uv pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements/dev.txt
    uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --require-hashes -r requirements/dev.txt
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --no-build-isolation -e .
fi

# As an installation does: the tests start dibs thousands of times, and some environments forbid the
# interpreter to keep what it compiles.
"$venv/bin/python" -m compileall -q src tests
