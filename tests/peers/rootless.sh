#!/bin/sh
# What a Docker engine needs that a plain user runs, Debian's packages: user namespaces with many users in them, and a network
# made in user space. Prints rootlesskit, slirp4netns and newuidmap. The engine itself is engine.sh's.
. "$(dirname -- "$0")/lib.sh"

# As a plain user.
try='unshare --user true'
[ "$(id -u)" != 0 ] || try="setpriv --reuid=65534 --regid=65534 --clear-groups $try"
$try 2>/dev/null || fail "this machine lets no plain user make a user namespace"
[ -e /dev/net/tun ] || fail "this machine has no /dev/net/tun"

print_it() {
    print_if_there /usr/bin/rootlesskit /usr/bin/slirp4netns /usr/bin/newuidmap
}
print_it
about_to_install rootlesskit
print_it
without_services
apt install --no-install-recommends rootlesskit slirp4netns uidmap
print_it
fail "Debian's packages rootlesskit, slirp4netns and uidmap lack one of these programs"
