#!/bin/sh
# helm-unittest 1.1.2, built with Go from helm-unittest/: its own manifest replaces a module, which `go install` refuses.
. "$(dirname -- "$0")/lib.sh"

program=$PEERS/helm-unittest-1.1.2
print_if_there "$program"
about_to_install helm-unittest
print_if_there "$program"
need_go
cd "$here/helm-unittest"
CGO_ENABLED=0 GOFLAGS='-buildvcs=false -mod=readonly' go build -trimpath -ldflags '-s -w' -o "$program.new" \
    github.com/helm-unittest/helm-unittest/cmd/helm-unittest >&2 || fail "helm-unittest cannot be built with $(go env GOVERSION)"
mv "$program.new" "$program"
print_if_there "$program"
