#!/bin/sh
# What a machine made from the image must be able to do. Runs as root in a machine that was started from the version
# that is to be promoted; it has no way out to a network.
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

# It knows its own name, and services find one another by it.
getent hosts localhost > /dev/null || fail "localhost has no address"
test -n "$(hostname)" || fail "the machine has no name"

# Time is kept: the service answers, and the clock is not before the image was made.
chronyc -n tracking > /dev/null || fail "chrony does not answer"

# People get in with keys only, and are told whose system it is.
test -s /etc/issue.net || fail "there is no banner"
sshd -t || fail "sshd does not accept its configuration"
