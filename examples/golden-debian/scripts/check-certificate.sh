#!/bin/sh
# The company's root certificate is part of the bundle that programs trust.
set -eu
bundle=/etc/ssl/certs/ca-certificates.crt
wanted='MIIB0jCCAXmgAwIBAgIUG7Wz9t9gIboFdDCp8LbGgS801K8wCgYIKoZIzj0EAwIwNjEVMBMGA1UECgwMRXhhbXBsZSBDb3JwMR0wGwYDVQQDDBRFeGFtcGxlIENvcnAg'
test -s "$bundle"
if ! tr -d '\n' < "$bundle" | grep -qF "$wanted"; then
    echo "Example Corp Root CA is not in $bundle" >&2
    exit 1
fi
