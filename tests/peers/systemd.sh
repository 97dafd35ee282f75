#!/bin/sh
# systemd-nspawn, Debian's package, and a root file system of Debian 12 with its certificates, whose systemd it boots.
. "$(dirname -- "$0")/lib.sh"

nspawn=/usr/bin/systemd-nspawn
root=$PEERS/debian-12-systemd-ca
print_if_there "$nspawn" "$root"
about_to_install "A systemd to boot"
print_if_there "$nspawn" "$root"
# Nothing of it starts by itself.
apt install --no-install-recommends systemd-container
make_debian "$root.new" systemd,systemd-sysv,dbus,ca-certificates
echo '127.0.0.1 localhost' >"$root.new/etc/hosts"
# What units write is seen from outside.
mkdir -p "$root.new/etc/systemd/journald.conf.d"
printf '[Journal]\nForwardToConsole=yes\n' >"$root.new/etc/systemd/journald.conf.d/console.conf"
mv "$root.new" "$root"
print_if_there "$nspawn" "$root"
fail "Debian's package systemd-container has no $nspawn"
