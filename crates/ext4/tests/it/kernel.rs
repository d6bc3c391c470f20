//! The kernel reads what was written: the same tree through a mount as through the walk.

use std::collections::BTreeMap;
use std::process::Stdio;

use ext4::{Change, Entry, EntryKind, NodeKind, Xattr};

use crate::fixture::*;
use crate::stress;

/// Packs the mounted tree with GNU tar inside a mount namespace of its own, so nothing stays
/// mounted whatever happens.
fn archive(image: &std::path::Path, mount: &std::path::Path, out: &std::path::Path) {
    const SCRIPT: &str = r#"mount -o ro,loop "$1" "$2" && tar --format=posix --xattrs --xattrs-include='*' --numeric-owner --sort=name -C "$2" -cf "$3" ."#;
    let output = tool("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            SCRIPT,
            "sh",
        ])
        .args([image, mount, out])
        .stdin(Stdio::null())
        .output()
        .expect("`unshare` is needed (package util-linux)");
    assert!(
        output.status.success(),
        "this test mounts a file system and needs root and a loop device: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

type Seen = (String, Option<ext4::Meta>, Vec<Xattr>);

fn from_walk(tree: BTreeMap<String, Entry>) -> BTreeMap<String, Seen> {
    let mut first_names: BTreeMap<u32, String> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for (path, entry) in tree {
        // GNU tar leaves sockets out.
        if entry.kind == EntryKind::Node(NodeKind::Socket) {
            continue;
        }
        if entry.kind != EntryKind::Directory
            && let Some(first) = first_names.get(&entry.inode)
        {
            seen.insert(path, (format!("link to {first}"), None, vec![]));
            continue;
        }
        first_names.insert(entry.inode, path.clone());
        let what = match entry.kind {
            EntryKind::Directory => String::from("directory"),
            EntryKind::File { size, .. } => format!("file of {size}"),
            EntryKind::Symlink { target } => {
                format!("symlink to {}", String::from_utf8_lossy(&target))
            }
            EntryKind::Node(kind) => format!("{kind:?}"),
        };
        seen.insert(path, (what, Some(entry.meta), entry.xattrs));
    }
    seen
}

fn from_changes(changes: Vec<Change>) -> BTreeMap<String, Seen> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for change in changes {
        let path = String::from_utf8_lossy(change.path()).into_owned();
        let entry = match change {
            Change::Dir { meta, .. } => (String::from("directory"), Some(meta), vec![]),
            Change::File {
                meta,
                content: ext4::Content::FileRange { length, .. },
                ..
            } => (format!("file of {length}"), Some(meta), vec![]),
            Change::Symlink { meta, target, .. } => (
                format!("symlink to {}", String::from_utf8_lossy(&target)),
                Some(meta),
                vec![],
            ),
            Change::Node { meta, kind, .. } => (format!("{kind:?}"), Some(meta), vec![]),
            Change::HardLink { target, .. } => (
                format!("link to {}", String::from_utf8_lossy(&target)),
                None,
                vec![],
            ),
            Change::Xattrs { mut xattrs, .. } => {
                xattrs.sort();
                seen.get_mut(&path).unwrap().2 = xattrs;
                continue;
            }
            other => panic!("{other:?}"),
        };
        seen.insert(path, entry);
    }
    seen
}

#[test]
fn the_kernel_sees_the_same_tree() {
    let folder = tempfile::tempdir().unwrap();
    let (image, mount, out) = (
        folder.path().join("image"),
        folder.path().join("mount"),
        folder.path().join("tar"),
    );
    std::fs::create_dir(&mount).unwrap();
    let mut device = blank(128);
    let mut records = stress::records(folder.path());
    // Its zeros would be written out in full by tar.
    records.push(remove("sparse"));
    applied(&mut device, records).unwrap();
    write_sparse(&image, device.bytes());
    archive(&image, &mount, &out);

    let ours = from_walk(tree(&mut device));
    let kernels = from_changes(ext4::from_tar(&out, i64::MAX).unwrap());
    for (path, seen) in &ours {
        assert_eq!(Some(seen), kernels.get(path), "{path}");
    }
    assert_eq!(ours.len(), kernels.len());

    // And the archive, written into a blank file system, gives the tree again.
    let mut copy = blank(128);
    applied(&mut copy, ext4::from_tar(&out, i64::MAX).unwrap()).unwrap();
    assert_clean(&copy);
    assert_eq!(from_walk(tree(&mut copy)), ours);
}
