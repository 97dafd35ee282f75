#!/bin/sh
# A current Docker engine (API 1.56, images kept by containerd) and its runc, built with Go from engine/, beside Debian's much
# older one (docker.sh). Prints dockerd and runc. It is not started: the suites start one of their own.
. "$(dirname -- "$0")/lib.sh"

version=2026-11
folder=$PEERS/engine-$version
print_if_there "$folder/dockerd" "$folder/runc"
about_to_install "A current Docker engine"
print_if_there "$folder/dockerd" "$folder/runc"
without_services
command -v containerd >/dev/null || apt install --no-install-recommends containerd
need_go
rm -rf "$folder.new"
mkdir "$folder.new"
cd "$here/engine"
build() {
    GOFLAGS='-buildvcs=false -mod=readonly' go build -trimpath -ldflags '-s -w' -o "$folder.new/$1" "$2" >&2 ||
        fail "$1 cannot be built with $(go env GOVERSION); it needs Go 1.26, which Go 1.21 can get"
}
build dockerd github.com/moby/moby/v2/cmd/dockerd
# Debian's is too old for this engine.
build runc github.com/opencontainers/runc
mv "$folder.new" "$folder"
print_if_there "$folder/dockerd" "$folder/runc"
fail "the engine is not where it was built"
