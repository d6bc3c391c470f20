//! Two trees of files side by side, path by path, and what of a tree counts where a machine wrote it. Pure: what is
//! compared was read before.

use std::cmp::Ordering;

use ext4::{Entry, EntryKind, FileTime};
use serde::{Deserialize, Serialize};

/// What must be the same again. It follows from what carried the customizers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Promise {
    /// What is stored still is the disk that the version names. Of what was brought here nothing else can be told.
    Bits,
    /// Every bit.
    Disk,
    /// The files: a machine has a clock, writes notes of its own, and lays files where there is room.
    Files,
}

/// A file that is not in both disks, or not the same in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Difference {
    pub path: String,
    pub change: Change,
}

/// What became of a file in the rebuilt disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    Added,
    Removed,
    Content,
    /// Owner, mode, time, links or extended attributes.
    Metadata,
}

/// What a running system notes for itself, whatever it was told to do. A path is here because two builds of the same
/// recipe were compared, or because its purpose is to say when or where something ran.
const NOTES: [&str; 14] = [
    "boot/grub/grubenv",
    "etc/.updated",
    "etc/adjtime",
    "etc/machine-id",
    "etc/resolv.conf",
    "lost+found",
    "var/.updated",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/daily_lock",
    "var/lib/dbus/machine-id",
    "var/lib/logrotate/status",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
    "var/log",
];
/// Folders that hold nothing but such notes.
const NOTES_BELOW: [&str; 15] = [
    "run/",
    "tmp/",
    "var/backups/",
    "var/cache/apt/",
    "var/cache/man/",
    "var/lib/apt/lists/",
    "var/lib/apt/periodic/",
    "var/lib/cloud/",
    "var/lib/dhclient/",
    "var/lib/dhcp/",
    "var/lib/private/systemd/",
    "var/lib/systemd/timers/",
    "var/lib/systemd/timesync/",
    "var/log/",
    "var/tmp/",
];
const HOST_KEY: &[u8] = b"etc/ssh/ssh_host_";
/// Files with a line for each user, whose third field is the day of the last change.
pub(super) const DATED: [&str; 2] = ["etc/shadow", "etc/shadow-"];
const DAY_FIELD: usize = 2;

/// Takes out of a tree what a machine noted for itself, and the times of everything.
pub(super) fn normalised(entries: Vec<Entry>) -> Vec<Entry> {
    let kept = entries.into_iter().filter(|entry| !is_note(&entry.path));
    kept.map(|mut entry| {
        entry.meta.mtime = FileTime::from_seconds(0);
        // It counts the folders in it, some of which do not count.
        if entry.kind == EntryKind::Directory {
            entry.links = 0;
        }
        entry
    })
    .collect()
}

fn is_note(path: &[u8]) -> bool {
    NOTES.iter().any(|note| note.as_bytes() == path)
        || NOTES_BELOW
            .iter()
            .any(|folder| path.starts_with(folder.as_bytes()))
        || path.starts_with(HOST_KEY)
}

/// The entry of a file of users as if no password had ever been changed.
pub(super) fn undated(entry: &mut Entry, text: &[u8]) {
    let lines = text.split(|byte| *byte == b'\n').map(|line| {
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        if let Some(day) = fields.get_mut(DAY_FIELD) {
            *day = b"";
        }
        fields.join(&b':')
    });
    let text = lines.collect::<Vec<_>>().join(&b'\n');
    entry.kind = EntryKind::File {
        size: text.len() as u64,
        hash: Some(*blake3::hash(&text).as_bytes()),
    };
}

/// What differs between two trees, which are in the order of their paths. Where files lie on the disk does not count.
pub(super) fn differences(before: &[Entry], after: &[Entry]) -> Vec<Difference> {
    let named = |entry: &Entry, change| Difference {
        path: format!("/{}", String::from_utf8_lossy(&entry.path)),
        change,
    };
    let mut found = Vec::new();
    let (mut left, mut right) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.path.cmp(&other.path),
        };
        match order {
            Ordering::Less => found.extend(left.next().map(|one| named(one, Change::Removed))),
            Ordering::Greater => found.extend(right.next().map(|one| named(one, Change::Added))),
            Ordering::Equal => {
                let pair = left.next().zip(right.next());
                found.extend(pair.and_then(|(one, other)| Some(named(one, change(one, other)?))));
            }
        }
    }
}

fn change(one: &Entry, other: &Entry) -> Option<Change> {
    if one.kind != other.kind {
        return Some(Change::Content);
    }
    let same = one.meta == other.meta && one.links == other.links && one.xattrs == other.xattrs;
    (!same).then_some(Change::Metadata)
}

#[cfg(test)]
mod tests {
    use ext4::{Meta, Xattrs};

    use super::*;

    fn entry(path: &str, text: &str, mtime: i64) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::File {
                size: text.len() as u64,
                hash: Some(*blake3::hash(text.as_bytes()).as_bytes()),
            },
            meta: Meta {
                uid: 0,
                gid: 0,
                mode: 0o644,
                mtime: FileTime::from_seconds(mtime),
            },
            links: 1,
            inode: 12,
            xattrs: Xattrs::default(),
        }
    }

    #[test]
    fn what_a_machine_notes_for_itself_does_not_count() {
        let before = [
            entry("etc/motd", "a", 1),
            entry("etc/ssh/ssh_host_rsa_key", "a", 1),
            entry("etc/ssh/sshd_config", "a", 1),
            entry("var/lib/cloud/seed", "a", 1),
            entry("var/log/lastlog", "a", 1),
        ];
        let after = [
            entry("etc/machine-id", "x", 9),
            entry("etc/motd", "a", 9),
            entry("etc/ssh/sshd_config", "b", 9),
            entry("opt/tool", "b", 9),
            entry("var/log/lastlog", "b", 9),
        ];
        let named = |path: &str, change| Difference {
            path: path.to_owned(),
            change,
        };
        assert_eq!(
            differences(&normalised(before.into()), &normalised(after.into())),
            [
                named("/etc/ssh/sshd_config", Change::Content),
                named("/opt/tool", Change::Added),
            ]
        );
    }

    #[test]
    fn the_day_of_a_password_does_not_count() {
        let check = |one: &str, other: &str, same: bool| {
            let undated = |text: &str| {
                let mut entry = entry("etc/shadow", text, 0);
                super::undated(&mut entry, text.as_bytes());
                entry
            };
            assert_eq!(undated(one) == undated(other), same, "{one} {other}");
        };
        check("root:*:20000:0:::::\n", "root:*:20001:0:::::\n", true);
        check("root:*:20000:0:::::\n", "root:$6$:20000:0:::::\n", false);
        check("root:*:20000:0:::::\n", "", false);
    }
}
