#!/bin/sh
# kubeconform 0.8.0, built with Go, and strict schemas of the oldest and the newest Kubernetes that the chart is for and of the
# Prometheus Operator 0.85.0, made by schemas.py from what each publishes in its Go module. Prints the program, then the folder of
# schemas for each of the two.
. "$(dirname -- "$0")/lib.sh"

oldest=1.20.15
newest=1.36.3
programs=$PEERS/kubeconform-0.8.0
schemas=$PEERS/schemas
done_if_there() {
    [ ! -d "$schemas-$oldest" ] || [ ! -d "$schemas-$newest" ] || [ ! -x "$programs/kubeconform" ] || {
        printf '%s\n' "$programs/kubeconform" "$schemas-$oldest" "$schemas-$newest"
        exit 0
    }
}

done_if_there
about_to_install kubeconform
done_if_there
[ -x "$programs/kubeconform" ] || build_with_go github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 "$programs"
need_go
/usr/bin/python3 -c 'import yaml' 2>/dev/null || apt install --no-install-recommends python3-yaml
# module NAME@VERSION: where Go keeps it.
module() {
    go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}
operator=$(module github.com/prometheus-operator/prometheus-operator@v0.85.0)
for version in $oldest $newest; do
    kubernetes=$(module "k8s.io/kubernetes@v$version")
    rm -rf "$schemas-$version.new" "$schemas-$version"
    /usr/bin/python3 "$here/schemas.py" "$kubernetes/api/openapi-spec/swagger.json" "$operator/example/prometheus-operator-crd" \
        "$schemas-$version.new" >&2 || fail "the schemas of Kubernetes $version cannot be made"
    mv "$schemas-$version.new" "$schemas-$version"
done
done_if_there
fail "kubeconform is not where it was built"
