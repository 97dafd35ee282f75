#!/bin/sh
# A Docker engine and its client, as Debian has them. Installed, but not started: the suites start one of their own.
. "$(dirname -- "$0")/lib.sh"

print_if_there /usr/sbin/dockerd /usr/bin/docker
about_to_install Docker
print_if_there /usr/sbin/dockerd /usr/bin/docker
without_services
apt install --no-install-recommends docker.io iptables iproute2
print_if_there /usr/sbin/dockerd /usr/bin/docker
fail "Debian's package docker.io has no /usr/sbin/dockerd"
