//! What belongs to one machine and not to an image: keys, ids, logs, leases, and the state of the first start.

use disk::ReadAt;
use ext4::{Change, Content, EntryKind, FileTime, Links, Meta, Tree};

use super::error::BuildError;

/// Raised whenever the same tree would become another one.
pub const GENERALISE_FORMAT: u32 = 1;
const LOG_DEPTH_MAX: usize = 8;
const ENTRIES_MAX: usize = 100_000;

/// The same inside a running guest, whose last act it is. Like Azure's builder, it leaves all of it to a script of the
/// image's own where there is one. The argument is the login of the build.
pub(super) const SCRIPT: &str = r#"set -u
if [ -f /tmp/DeprovisioningScript.sh ]; then
  sh /tmp/DeprovisioningScript.sh && rm -f /tmp/DeprovisioningScript.sh
  exit
fi
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /etc/sudoers.d/90-cloud-init-users
rm -rf /var/lib/cloud/* /var/lib/dhcp/*.leases /var/lib/dhclient/* /var/lib/systemd/random-seed
rm -rf /var/log/journal/* /var/log/cloud-init*.log /var/log/apt/*.log /var/log/*.gz /var/log/*.1
find /var/log -type f -exec truncate -s 0 {} +
rm -f /etc/network/interfaces.d/50-cloud-init /etc/netplan/50-cloud-init.yaml /root/.bash_history
rm -rf /tmp/* /var/tmp/* /root/.ssh /var/cache/apt/archives/*.deb
[ -L /etc/resolv.conf ] || rm -f /etc/resolv.conf
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id
echo localhost > /etc/hostname
sync
userdel -f -r "$1" 2> /dev/null
exit 0
"#;

/// Files that go, wherever they are found.
const REMOVED: [&str; 7] = [
    "etc/sudoers.d/90-cloud-init-users",
    "etc/network/interfaces.d/50-cloud-init",
    "etc/netplan/50-cloud-init.yaml",
    "root/.bash_history",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/log/cloud-init.log",
];
/// Folders that become empty.
const EMPTIED: [&str; 4] = [
    "var/lib/cloud",
    "var/lib/dhcp",
    "var/log/journal",
    "var/tmp",
];

/// Where Windows says what state its setup is in, and what it says once sysprep has taken away what belongs to one machine.
const SETUP: [&str; 5] = ["Microsoft", "Windows", "CurrentVersion", "Setup", "State"];
const SYSPREPPED: &str = "IMAGE_STATE_GENERALIZE_RESEAL_TO_";

/// Refuses a Windows that does not say that it was generalized: only Windows itself can do that.
pub fn check_sysprep(disk: &dyn ReadAt) -> Result<(), BuildError> {
    unsysprepped(disk)?.map_or(Ok(()), |state| Err(BuildError::NotSysprepped { state }))
}

/// Refuses a Windows whose next start is not one of Setup, which is our way in.
pub fn check_way_in(disk: &dyn ReadAt) -> Result<(), BuildError> {
    unsysprepped(disk)?.map_or(Ok(()), |state| Err(BuildError::NoWayIn { state }))
}

/// The state of a Windows that was not generalized.
fn unsysprepped(disk: &dyn ReadAt) -> Result<Option<String>, BuildError> {
    let texts = windisk::System::find(disk)?.software()?.texts(&SETUP)?;
    let state = texts.and_then(|mut texts| texts.remove("ImageState"));
    let state = state.unwrap_or_else(|| "unknown".to_owned());
    let plain = || state.chars().filter(|char| !char.is_control()).take(100);
    Ok((!state.starts_with(SYSPREPPED)).then(|| plain().collect()))
}

/// The records that take it away from a tree; none where nothing is there.
pub fn records(tree: &mut Tree<'_>, epoch: i64) -> Result<Vec<Change>, BuildError> {
    let mut records = Vec::new();
    let remove = |path: Vec<u8>| Change::Remove { path };
    for path in REMOVED {
        if tree.entry(path.as_bytes())?.is_some() {
            records.push(remove(path.into()));
        }
    }
    for folder in EMPTIED {
        if !is_folder(tree, folder.as_bytes())? {
            continue;
        }
        for name in tree.names(folder.as_bytes())? {
            records.push(remove([folder.as_bytes(), b"/", &name].concat()));
        }
    }
    if is_folder(tree, b"etc/ssh")? {
        for name in tree.names(b"etc/ssh")? {
            if name.starts_with(b"ssh_host_") {
                records.push(remove([b"etc/ssh/".as_slice(), &name].concat()));
            }
        }
    }
    let id = tree.read(b"etc/machine-id", 64)?;
    if id.is_some_and(|id| !id.is_empty()) {
        records.push(empty(b"etc/machine-id", 0o444, epoch));
    }
    logs(
        tree,
        b"var/log".to_vec(),
        LOG_DEPTH_MAX,
        epoch,
        &mut records,
    )?;
    records.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(records)
}

fn empty(path: &[u8], mode: u32, epoch: i64) -> Change {
    Change::File {
        path: path.to_vec(),
        meta: Meta {
            uid: 0,
            gid: 0,
            mode,
            mtime: FileTime::from_seconds(epoch),
        },
        content: Content::Bytes(Vec::new()),
        links: Links::Break,
    }
}

/// Logs that hold lines become empty; who may write them stays.
fn logs(
    tree: &mut Tree<'_>,
    folder: Vec<u8>,
    depth: usize,
    epoch: i64,
    records: &mut Vec<Change>,
) -> Result<(), BuildError> {
    if depth == 0 || records.len() > ENTRIES_MAX || !is_folder(tree, &folder)? {
        return Ok(());
    }
    for name in tree.names(&folder)? {
        let path = [folder.as_slice(), b"/", &name].concat();
        if records.iter().any(|record| record.path() == path) || path == b"var/log/journal" {
            continue;
        }
        let Some(entry) = tree.entry(&path)? else {
            continue;
        };
        match entry.kind {
            EntryKind::Directory => logs(tree, path, depth - 1, epoch, records)?,
            EntryKind::File { size, .. } if size > 0 => records.push(Change::File {
                path,
                meta: Meta {
                    mtime: FileTime::from_seconds(epoch),
                    ..entry.meta
                },
                content: Content::Bytes(Vec::new()),
                links: Links::Break,
            }),
            _ => {}
        }
    }
    Ok(())
}

fn is_folder(tree: &mut Tree<'_>, path: &[u8]) -> Result<bool, BuildError> {
    let entry = tree.entry(path)?;
    Ok(entry.is_some_and(|entry| entry.kind == EntryKind::Directory))
}
