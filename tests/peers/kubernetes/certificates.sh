#!/bin/sh
# The keys of a cluster and who holds them, as `sh certificates.sh FOLDER`: its authority, the API server, and a kubeconfig for
# each client. Good for two days.
set -eu
cd "$1"

# certificate NAME SUBJECT EXTENSION
certificate() {
    openssl req -x509 -CA ca.crt -CAkey ca.key -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 \
        -subj "$2" -addext "$3" -addext basicConstraints=CA:FALSE -keyout "$1.key" -out "$1.crt" 2>/dev/null
}

# client NAME SUBJECT
client() {
    certificate "$1" "$2" extendedKeyUsage=clientAuth
    cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://198.18.0.2:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
YAML
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=test \
    -addext keyUsage=critical,keyCertSign,digitalSignature -keyout ca.key -out ca.crt 2>/dev/null
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out accounts.key
openssl pkey -in accounts.key -pubout -out accounts.pub
certificate apiserver /CN=kube-apiserver \
    "subjectAltName=IP:198.18.0.2,IP:198.18.2.1,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
# The same server under another name, which nobody here calls it by: whose certificate that has can change.
certificate renamed /CN=kube-apiserver "subjectAltName=DNS:renamed.test"
client admin /O=system:masters/CN=admin
client apiserver-kubelet-client /O=system:masters/CN=kube-apiserver
client controller-manager /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy
client kubelet /O=system:nodes/CN=system:node:node1
