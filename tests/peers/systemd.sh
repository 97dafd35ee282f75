#!/bin/sh
# systemd-nspawn, Debian's package, and a root file system of Debian 12 whose systemd it boots.
. "$(dirname -- "$0")/lib.sh"

nspawn=/usr/bin/systemd-nspawn
root=$PEERS/debian-12-systemd
print_if_there "$nspawn" "$root"
about_to_install "A systemd to boot"
print_if_there "$nspawn" "$root"
# Nothing of it starts by itself.
apt install --no-install-recommends debootstrap systemd-container
rm -rf "$root.new"
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$root.new" >&2 ||
    fail "debootstrap cannot make a Debian 12"
echo '127.0.0.1 localhost' >"$root.new/etc/hosts"
# What units write is seen from outside.
mkdir -p "$root.new/etc/systemd/journald.conf.d"
printf '[Journal]\nForwardToConsole=yes\n' >"$root.new/etc/systemd/journald.conf.d/console.conf"
rm -rf "$root.new/var/cache/apt/archives" "$root.new/var/lib/apt/lists"
mv "$root.new" "$root"
print_if_there "$nspawn" "$root"
fail "Debian's package systemd-container has no $nspawn"
