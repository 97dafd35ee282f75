#!/bin/sh
# A registry of images, as Debian has it. Installed, but not started: the suites start one of their own.
. "$(dirname -- "$0")/lib.sh"

program=/usr/bin/docker-registry
print_if_there "$program"
about_to_install "A registry of images"
print_if_there "$program"
without_services
apt install --no-install-recommends docker-registry
print_if_there "$program"
fail "Debian's package docker-registry has no $program"
