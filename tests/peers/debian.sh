#!/bin/sh
# Debian 12 as an archive to make images of: what the Dockerfile wants to be built in, Rust apart, and a busybox.
. "$(dirname -- "$0")/lib.sh"

# Another name for another content: whoever has this one need not make it again.
archive=$PEERS/debian-12-1.tar
print_if_readable() {
    [ -r "$archive" ] || return 0
    echo "$archive"
    exit 0
}
print_if_readable
about_to_install "Debian 12"
print_if_readable
root=$PEERS/debian-12.new
make_debian "$root" gcc,libc6-dev,ca-certificates,tzdata,busybox-static
tar -C "$root" --numeric-owner -cf "$archive.new" .
rm -rf "$root"
mv "$archive.new" "$archive"
print_if_readable
