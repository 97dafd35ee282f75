#!/bin/sh
# Chromium, as Debian has it, and fonts: without any, a page has no text.
. "$(dirname -- "$0")/lib.sh"

print_if_there /usr/bin/chromium
about_to_install Chromium
apt install --no-install-recommends chromium fonts-dejavu-core
print_if_there /usr/bin/chromium
fail "Debian's package of Chromium has no /usr/bin/chromium"
