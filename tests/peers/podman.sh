#!/bin/sh
# Podman, as Debian has it: its service speaks Docker's API. Installed, but not started: the suites start one of their own.
. "$(dirname -- "$0")/lib.sh"

program=/usr/bin/podman
print_if_there "$program"
about_to_install Podman
print_if_there "$program"
without_services
apt install --no-install-recommends podman
print_if_there "$program"
fail "Debian's package podman has no $program"
