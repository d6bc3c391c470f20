//! Which Debian package holds a program that we use. A missing program is the first thing a new
//! installation meets, so the message must say what to install. It must not run anything.

/// Sorted by program, so that a new row has one place.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-helper", "apt"),
    ("bwrap", "bubblewrap"),
    ("chroot", "coreutils"),
    ("debugfs", "e2fsprogs"),
    ("dpkg", "dpkg"),
    ("dpkg-deb", "dpkg"),
    ("dpkg-query", "dpkg"),
    ("dumpe2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("gpgv", "gpgv"),
    ("grub-mkimage", "grub-common"),
    ("hivexregedit", "libwin-hivex-perl"),
    ("ip", "iproute2"),
    ("mcopy", "mtools"),
    ("mdir", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.fat", "dosfstools"),
    ("mkfs.vfat", "dosfstools"),
    ("mmd", "mtools"),
    ("mmdebstrap", "mmdebstrap"),
    ("mount", "mount"),
    ("mtype", "mtools"),
    ("newuidmap", "uidmap"),
    ("openssl", "openssl"),
    ("prlimit", "util-linux"),
    ("pytest-3", "python3-pytest"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("sfdisk", "fdisk"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("systemd-nspawn", "systemd-container"),
    ("tar", "tar"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
    ("xorriso", "xorriso"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// The Debian package that holds `program` (its last path segment counts).
#[must_use]
pub fn debian_package_of(program: &str) -> Option<&'static str> {
    let name = program.rsplit('/').next().unwrap_or(program);
    PACKAGES
        .binary_search_by_key(&name, |row| row.0)
        .ok()
        .map(|found| PACKAGES[found].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_found() {
        assert!(PACKAGES.is_sorted_by(|a, b| a.0 < b.0));
        for (program, package) in PACKAGES {
            assert_eq!(debian_package_of(program), Some(*package));
        }
        assert_eq!(debian_package_of("/usr/sbin/mke2fs"), Some("e2fsprogs"));
        assert_eq!(debian_package_of("frobnicate"), None);
    }
}
