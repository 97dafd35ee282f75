#!/bin/sh
# grafana-check FILE: holds a dashboard's JSON against Grafana's own types, since Grafana is no package of Debian, npm or Go. Built
# from the npm package @grafana/schema.
. "$(dirname -- "$0")/lib.sh"

folder=$PEERS/grafana-schema-13.2.3
print_if_there "$folder/grafana-check"
about_to_install grafana-check
print_if_there "$folder/grafana-check"
command -v npm >/dev/null || apt install --no-install-recommends nodejs npm
rm -rf "$folder.new" "$folder"
mkdir "$folder.new"
cd "$folder.new"
echo '{"private": true, "type": "module"}' >package.json
npm install --no-fund --no-audit --ignore-scripts --save-exact @grafana/schema@13.2.3 typescript@5.9.3 >&2 ||
    fail "npm cannot install @grafana/schema"
cp "$here/grafana-check" .
mv "$folder.new" "$folder"
print_if_there "$folder/grafana-check"
fail "grafana-check is not where it was made"
