# Installs the servers that the tests start for themselves, where it can: `sh tools/servers.sh`. Called
# by `make test` alone.
#
# Debian's packages, and only as root; no service of theirs is started. What is missing is said, with
# what will not be tested; with CI=true that is a failure. Amazon SQS needs nothing: moto is a package
# of Python's.
set -eu

missing() {
    command -v redis-server >/dev/null 2>&1 || echo redis-server
    command -v rabbitmq-server >/dev/null 2>&1 || [ -x /usr/sbin/rabbitmq-server ] || echo rabbitmq-server
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || echo postgresql
    command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ] || echo pgbouncer
}

wanted=$(missing)
[ -n "$wanted" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing" $wanted
    # A file in the place of init scripts: the packages must not start servers of their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM  # the file must not stay, whatever ends this
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    { apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted; } >/dev/null || true
    wanted=$(missing)
fi

for server in $wanted; do
    echo "$server is not installed, so what needs it is not tested: apt install $server" >&2
done
[ -z "$wanted" ] || [ "${CI:-}" != true ]
