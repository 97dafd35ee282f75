#!/bin/sh
# Helm 3.22.0, built with Go.
. "$(dirname -- "$0")/lib.sh"

programs=$PEERS/helm-3.22.0
print_if_there "$programs/helm"
about_to_install Helm
print_if_there "$programs/helm"
build_with_go helm.sh/helm/v3/cmd/helm@v3.22.0 "$programs"
print_if_there "$programs/helm"
