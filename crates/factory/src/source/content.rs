//! What an installed tree lacks to be an image, and what it must lose: identities of one machine,
//! traces of the installation, and a way to start. Pure; the same tree gives the same changes.

use std::collections::HashSet;

use ext4::{Change, Content, FileTime, Links, Meta};
use uuid::Uuid;

use super::{Pin, SourceError};

/// Without these the disk would start to nothing.
const NEEDED: [&str; 2] = ["usr/sbin/sshd", "usr/bin/cloud-init"];
/// Links to the newest kernel and its initrd.
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd.img";
/// Where a distribution has them: Debian in the root, Ubuntu in `boot/`.
const KERNEL_FOLDERS: [&str; 2] = ["", "boot/"];
/// Of `ifupdown`, which not every distribution has.
const NETWORK_FOLDER: &str = "etc/network";
const INTERFACES_FILE: &str = "etc/network/interfaces";
pub(super) const DEBIAN: &str = "Debian GNU/Linux";

/// Belongs to one machine or one installation, not to an image.
const DROPPED: [&str; 9] = [
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list.d/0000sources.list",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/resolv.conf",
    "var/cache/apt/archives/lock",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/lock",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
];
/// The same, by how the path starts.
const DROPPED_PREFIXES: [&str; 2] = ["etc/ssh/ssh_host_", "run/"];

/// The seed's own data source first; nothing is asked of the network. grub-dpkg would look for a
/// GRUB package, and the image has none: it starts from files that the disk was laid out with.
const CLOUD_CONFIG: &str = "\
datasource_list: [NoCloud, None]
grub_dpkg: {enabled: false}
locale: C.UTF-8
manage_etc_hosts: localhost
ssh_genkeytypes: [ed25519, ecdsa]
";

const INTERFACES: &str = "\
auto lo
iface lo inet loopback

source /etc/network/interfaces.d/*
";

const HOSTS: &str = "\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
";

/// No two machines may share host keys, so the image has none. Where cloud-init does not bring
/// them, they are made at the first start.
const KEY_UNIT: &str = "\
[Unit]
Description=Host keys for the SSH server
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
After=cloud-init.service
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
";

/// Identifiers that end up in the image, the same for every version of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageIds {
    pub root: Uuid,
    /// The FAT volume's number.
    pub esp: u32,
    pub partitions: disk::layout::PartitionIds,
}

impl ImageIds {
    pub(crate) fn of(product: &str) -> ImageIds {
        let part = |name: &str| {
            Uuid::new_v5(
                &Uuid::NAMESPACE_URL,
                format!("bullion:image:{product}:{name}").as_bytes(),
            )
        };
        let volume = part("esp-volume").as_u128();
        ImageIds {
            root: part("root-file-system"),
            esp: (volume & u128::from(u32::MAX)) as u32,
            partitions: disk::layout::PartitionIds {
                disk: part("disk"),
                bios_boot: part("bios-boot"),
                esp: part("esp"),
                root: part("root"),
            },
        }
    }

    fn esp_text(&self) -> String {
        format!("{:04X}-{:04X}", self.esp >> 16, self.esp & 0xffff)
    }
}

/// The changes that make the image's tree out of the installed one.
pub(crate) fn image_tree(
    installed: Vec<Change>,
    pin: &Pin,
    ids: &ImageIds,
) -> Result<Vec<Change>, SourceError> {
    let paths: HashSet<&[u8]> = installed.iter().map(Change::path).collect();
    let has = |path: &str| paths.contains(path.as_bytes());
    let lacking = |path: &str| SourceError::Incomplete {
        path: format!("/{path}"),
    };
    if let Some(needed) = NEEDED.iter().find(|needed| !has(needed)) {
        return Err(lacking(needed));
    }
    let folder = KERNEL_FOLDERS
        .into_iter()
        .find(|folder| has(&format!("{folder}{KERNEL}")));
    let folder = folder.ok_or_else(|| lacking(KERNEL))?;
    let initrd = format!("{folder}{INITRD}");
    if !has(&initrd) {
        return Err(lacking(&initrd));
    }
    let mut added = additions(pin, ids, folder);
    if !has(NETWORK_FOLDER) {
        added.retain(|change| change.path() != INTERFACES_FILE.as_bytes());
    }
    let replaced: HashSet<&[u8]> = added
        .iter()
        .filter(|change| !matches!(change, Change::Dir { .. }))
        .map(Change::path)
        .collect();
    let mut tree: Vec<Change> = installed
        .into_iter()
        .filter(|change| !is_dropped(change) && !replaced.contains(change.path()))
        .collect();
    tree.extend(added.iter().cloned());
    Ok(tree)
}

fn is_dropped(change: &Change) -> bool {
    let path = change.path();
    let log = path.starts_with(b"var/log/")
        && matches!(change, Change::File { .. })
        && (path.ends_with(b".log") || path.starts_with(b"var/log/apt/"));
    let package = path.starts_with(b"var/cache/apt/") && path.ends_with(b".deb");
    log || package
        || DROPPED.iter().any(|dropped| path == dropped.as_bytes())
        || DROPPED_PREFIXES
            .iter()
            .any(|prefix| path.starts_with(prefix.as_bytes()))
}

fn additions(pin: &Pin, ids: &ImageIds, kernel_folder: &str) -> Vec<Change> {
    let meta = |mode| Meta {
        uid: 0,
        gid: 0,
        mode,
        mtime: FileTime::from_seconds(pin.epoch),
    };
    let dir = |path: &str| Change::Dir {
        path: path.into(),
        meta: meta(0o755),
    };
    let private = |path: &str| Change::Dir {
        path: path.into(),
        meta: meta(0o700),
    };
    let file = |path: &str, text: String| Change::File {
        path: path.into(),
        meta: meta(if path == "etc/machine-id" {
            0o444
        } else {
            0o644
        }),
        content: Content::Bytes(text.into_bytes()),
        links: Links::Break,
    };
    let wanted_by = "etc/systemd/system/multi-user.target.wants/bullion-ssh-keys.service";
    vec![
        dir("boot/grub"),
        file("boot/grub/grub.cfg", grub_config(pin, ids, kernel_folder)),
        file("etc/apt/sources.list", pin.sources_list()),
        file(
            "etc/cloud/cloud.cfg.d/90_bullion.cfg",
            CLOUD_CONFIG.to_owned(),
        ),
        file("etc/default/locale", "LANG=C.UTF-8\n".to_owned()),
        file("etc/fstab", mounts(ids)),
        file("etc/hostname", "localhost\n".to_owned()),
        file("etc/hosts", HOSTS.to_owned()),
        file("etc/machine-id", String::new()),
        file(INTERFACES_FILE, INTERFACES.to_owned()),
        dir("boot/efi"),
        // Whose these are depends on what apt's own user could reach during the installation; apt
        // sets it right when it runs.
        private("var/cache/apt/archives/partial"),
        private("var/lib/apt/lists/partial"),
        file(
            "etc/systemd/system/bullion-ssh-keys.service",
            KEY_UNIT.to_owned(),
        ),
        Change::Symlink {
            path: wanted_by.into(),
            meta: meta(0o777),
            target: "/etc/systemd/system/bullion-ssh-keys.service".into(),
        },
    ]
}

/// Starts whatever kernel the distribution's own links point to, so that a child image with a new
/// kernel needs no other configuration.
fn grub_config(pin: &Pin, ids: &ImageIds, folder: &str) -> String {
    let (root, described) = (ids.root, pin.described.as_ref());
    let name = described.map_or(DEBIAN, |other| other.name.as_str());
    format!(
        "set default=0\nset timeout=0\nmenuentry \"{name}\" {{\n  \
         linux /{folder}{KERNEL} root=UUID={root} ro console=tty0 console=ttyS0,115200\n  \
         initrd /{folder}{INITRD}\n}}\n"
    )
}

fn mounts(ids: &ImageIds) -> String {
    format!(
        "UUID={} / ext4 defaults,errors=remount-ro 0 1\nUUID={} /boot/efi vfat umask=0077,noauto 0 0\n",
        ids.root,
        ids.esp_text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        let image = "Debian:debian-12:12-gen2:12.15.20261118".parse().unwrap();
        Pin::new(image, "Debian".to_owned(), Vec::new(), Vec::new())
    }

    fn file(path: &str) -> Change {
        Change::File {
            path: path.into(),
            meta: Meta {
                uid: 0,
                gid: 0,
                mode: 0o644,
                mtime: FileTime::from_seconds(1),
            },
            content: Content::Bytes(Vec::new()),
            links: Links::Break,
        }
    }

    /// What must be there, with the kernel in `folder`.
    fn bare(folder: &str) -> Vec<Change> {
        let kernel = [KERNEL, INITRD].map(|name| format!("{folder}{name}"));
        let needed = NEEDED.into_iter().chain(kernel.iter().map(String::as_str));
        needed.map(file).collect()
    }

    #[track_caller]
    fn check(path: &str, stays: bool) {
        let mut installed = bare("");
        installed.push(file(path));
        let ids = ImageIds::of("a:b:c");
        let tree = image_tree(installed, &pin(), &ids).unwrap();
        let count = tree
            .iter()
            .filter(|change| change.path() == path.as_bytes())
            .count();
        assert_eq!(count, usize::from(stays), "{path}");
    }

    #[test]
    fn identities_and_traces_go() {
        check("etc/ssh/ssh_host_rsa_key", false);
        check("etc/ssh/sshd_config", true);
        check("etc/apt/apt.conf.d/99mmdebstrap", false);
        check("etc/resolv.conf", false);
        check("var/log/dpkg.log", false);
        check("var/log/wtmp", true);
        check("var/cache/apt/archives/a_1_all.deb", false);
        check("usr/share/a.deb", true);
    }

    #[test]
    fn what_is_added_is_there_once() {
        check("etc/fstab", true);
        check("etc/machine-id", true);
    }

    #[test]
    fn a_tree_that_cannot_start_is_refused() {
        for lacking in ["usr/sbin/sshd", "vmlinuz", "initrd.img"] {
            let mut tree = bare("");
            tree.retain(|change| change.path() != lacking.as_bytes());
            let error = image_tree(tree, &pin(), &ImageIds::of("a:b:c")).unwrap_err();
            let SourceError::Incomplete { path } = error else {
                panic!("{lacking}: {error}");
            };
            assert_eq!(path, format!("/{lacking}"));
        }
    }

    #[test]
    fn the_boot_loader_finds_the_kernel_where_it_is() {
        let check = |folder: &str, name: Option<&str>, parts: &[&str]| {
            let mut pin = pin();
            pin.described = name.map(|name| super::super::Described {
                name: name.to_owned(),
                packages: Vec::new(),
            });
            let tree = image_tree(bare(folder), &pin, &ImageIds::of("a:b:c")).unwrap();
            let text = tree.iter().find_map(|change| match change {
                Change::File {
                    path,
                    content: Content::Bytes(text),
                    ..
                } if path == b"boot/grub/grub.cfg" => Some(String::from_utf8_lossy(text)),
                _ => None,
            });
            let text = text.unwrap();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            let network = tree
                .iter()
                .any(|change| change.path() == INTERFACES_FILE.as_bytes());
            assert!(!network, "there is no ifupdown");
        };
        check(
            "",
            None,
            &[
                "\"Debian GNU/Linux\"",
                "linux /vmlinuz ",
                "initrd /initrd.img\n",
            ],
        );
        let other = [
            "\"Ubuntu\"",
            "linux /boot/vmlinuz ",
            "initrd /boot/initrd.img\n",
        ];
        check("boot/", Some("Ubuntu"), &other);
    }
}
