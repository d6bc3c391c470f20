#!/bin/sh
# Hardening that every image of Example Corp carries. Runs once, as root, while the image is built.
# Everything is written as a drop-in file, so that a package upgrade never asks about a changed
# configuration, and running the script again changes nothing.
set -eu

# Remote login: keys only, never root.
install -d -m 0755 /etc/ssh/sshd_config.d
cat > /etc/ssh/sshd_config.d/10-hardening.conf <<'EOF'
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
X11Forwarding no
MaxAuthTries 3
Banner /etc/issue.net
EOF
chmod 0600 /etc/ssh/sshd_config.d/10-hardening.conf

# Kernel: hide addresses and logs from users, refuse to be routed around.
cat > /etc/sysctl.d/60-hardening.conf <<'EOF'
kernel.dmesg_restrict = 1
kernel.kptr_restrict = 2
fs.protected_fifos = 2
fs.protected_regular = 2
net.ipv4.conf.all.accept_redirects = 0
net.ipv4.conf.default.accept_redirects = 0
net.ipv4.conf.all.send_redirects = 0
net.ipv6.conf.all.accept_redirects = 0
net.ipv6.conf.default.accept_redirects = 0
EOF
chmod 0644 /etc/sysctl.d/60-hardening.conf

# New files of users are not readable by others.
sed -i 's/^UMASK[[:space:]].*/UMASK           027/' /etc/login.defs
grep -q '^UMASK[[:space:]]*027$' /etc/login.defs
