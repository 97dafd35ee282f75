# For the scripts beside it. Each installs one peer that the suites need and prints the paths of its programs, one a
# line. Nothing is asked, a second run changes nothing, and two at once wait for each other. The last line on standard
# error says why a peer cannot be had.
#
# PEERS names the folder for what is not installed by a package manager; default: the user's cache.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
PEERS=${PEERS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/oz-worker-peers}
mkdir -p "$PEERS"

# fail WHY
fail() {
    echo "$1" >&2
    exit 1
}

# print_if_there PROGRAM…: ends the script when nothing is left to do.
print_if_there() {
    for program in "$@"; do
        [ -x "$program" ] || return 0
    done
    printf '%s\n' "$@"
    exit 0
}

# about_to_install WHAT: goes on for root on Debian only, where the rest is known to work, and once at a time.
about_to_install() {
    [ "$(id -u)" = 0 ] || fail "$1 is not installed, and only root can install it"
    [ -e /etc/debian_version ] || fail "$1 is not installed, and tests/peers can install it on Debian only"
    exec 9>"$PEERS/$(basename "$0").lock"
    flock 9
}

# apt COMMAND…: apt-get without questions; an image that has no lists yet gets them.
apt() {
    exec 8>"$PEERS/apt.lock"
    flock 8
    apt_get "$@" || { apt_get update && apt_get "$@"; } || fail "apt-get $* has failed"
    exec 8>&-
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root "$@" \
        </dev/null >&2
}

# without_services: what is installed from here on is not started by its package.
without_services() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
}

need_go() {
    command -v go >/dev/null || apt install --no-install-recommends golang-go
}

# build_with_go PACKAGE@VERSION FOLDER: the folder is there only when its program is whole.
build_with_go() {
    need_go
    rm -rf "$2.new"
    CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOBIN=$2.new go install -trimpath -ldflags '-s -w' "$1" >&2 ||
        fail "$1 cannot be built with $(go env GOVERSION)"
    mv "$2.new" "$2"
}

# make_debian FOLDER PACKAGE,…: a Debian 12 with these packages.
make_debian() {
    command -v debootstrap >/dev/null || apt install --no-install-recommends debootstrap
    rm -rf "$1"
    debootstrap --variant=minbase --include="$2" bookworm "$1" </dev/null >&2 || fail "debootstrap has failed: $1/debootstrap"
    rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/usr/share/doc "$1"/usr/share/man
}
