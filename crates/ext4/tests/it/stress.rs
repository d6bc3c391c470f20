//! Everything at once, shrunk from what a real system holds: twice with the same bytes, clean,
//! and read back equal. Its digest is fixed: a change of allocation policy is a new writer format.

use std::os::unix::fs::FileExt;
use std::path::Path;

use ext4::{Change, Content, EntryKind, FileTime, Links, MemoryDevice, Meta, NodeKind};

use crate::fixture::*;

/// More than the image holds.
const SPARSE_BYTES: u64 = 300 << 20;
const SPARSE_TAIL: &[u8] = b"the end";

fn meta_at(seconds: i64, nanoseconds: u32) -> Meta {
    Meta {
        uid: 70_000,
        gid: 4_000_000_000,
        mode: 0o4755,
        mtime: FileTime {
            seconds,
            nanoseconds,
        },
    }
}

/// POSIX ACL version 2 as the kernel gives it: user::rw-, user:1234:r--, group::r--, mask::r--, other::---
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 1234),
        (4, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

pub fn records(folder: &Path) -> Vec<Change> {
    let sparse = folder.join("sparse");
    let source = std::fs::File::create(&sparse).unwrap();
    source.set_len(SPARSE_BYTES).unwrap();
    source
        .write_all_at(b"middle", SPARSE_BYTES / 2 + 77)
        .unwrap();
    source
        .write_all_at(SPARSE_TAIL, SPARSE_BYTES - SPARSE_TAIL.len() as u64)
        .unwrap();

    let node = |path: &str, kind| Change::Node {
        path: path.into(),
        meta: meta(0o640),
        kind,
    };
    let xattrs = |path: &str, xattrs| Change::Xattrs {
        path: path.into(),
        xattrs,
    };
    let raw = |path: &[u8]| Change::File {
        path: path.to_vec(),
        meta: meta(0o600),
        content: Content::Bytes(b"odd name".to_vec()),
        links: Links::Break,
    };
    let mut records = vec![dir("many")];
    records.extend((0..3000).map(|index| {
        file(
            &format!("many/a-rather-long-name-{index:05}"),
            format!("{index}"),
        )
    }));
    records.extend([
        Change::File {
            path: "sparse".into(),
            meta: meta_at(-5, 123_456_789),
            content: Content::File(sparse),
            links: Links::Break,
        },
        Change::Meta {
            path: "many".into(),
            meta: meta_at(1 << 33, 999_999_999),
        },
        dir("links"),
        symlink("links/59", vec![b'a'; 59]),
        symlink("links/60", vec![b'b'; 60]),
        symlink("links/100", vec![b'c'; 100]),
        symlink("links/3000", vec![b'd'; 3000]),
        file("links/file", "linked"),
        hard_link("links/other", "links/file"),
        hard_link("links/symlink", "links/100"),
        dir("nodes"),
        node(
            "nodes/char",
            NodeKind::Char {
                major: 4,
                minor: 64,
            },
        ),
        node(
            "nodes/block",
            NodeKind::Block {
                major: 259,
                minor: 70_000,
            },
        ),
        node("nodes/fifo", NodeKind::Fifo),
        node("nodes/socket", NodeKind::Socket),
        dir("attributes"),
        file("attributes/capability", "ping"),
        xattrs(
            "attributes/capability",
            vec![xattr(
                "security.capability",
                [
                    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ],
            )],
        ),
        file("attributes/many", "x"),
        xattrs(
            "attributes/many",
            vec![
                xattr("trusted.t", "1"),
                xattr("user.empty", ""),
                xattr("user.large", vec![3; 3000]),
            ],
        ),
        symlink("attributes/link", "many"),
        xattrs("attributes/link", vec![xattr("trusted.onlink", "2")]),
        dir("attributes/acl"),
        xattrs(
            "attributes/acl",
            vec![
                xattr("system.posix_acl_access", acl()),
                xattr("system.posix_acl_default", acl()),
            ],
        ),
        raw(b"new\nline"),
        raw(b"not utf8 \xff\xfe"),
        raw(b"quote\" 'and' `tick` $x \\ %20"),
        raw(&[b'n'; 255]),
        dir("swap"),
        file("swap/x", vec![1; 300_000]),
        dir("swap/y"),
        file("swap/y/inner", "1"),
        symlink("swap/z", "y"),
    ]);
    records
}

/// A second step over the first: replacement, removal, holes in a linked file.
fn second() -> Vec<Change> {
    let mut punched = vec![5_u8; 20 * 4096];
    punched[2 * 4096..9 * 4096].fill(0);
    let mut records = vec![
        dir("swap/x"),
        file("swap/y", "now a file"),
        file("swap/z", "and this"),
        Change::File {
            path: "links/file".into(),
            meta: meta(0o644),
            content: Content::Bytes(punched),
            links: Links::Keep,
        },
        remove("nodes"),
        dir("moved"),
    ];
    records.extend(
        (0..1500).map(|index| remove(&format!("many/a-rather-long-name-{:05}", index * 2))),
    );
    records.extend((0..500).map(|index| file(&format!("moved/{index}"), vec![index as u8; 5000])));
    records
}

fn both_steps(folder: &Path) -> MemoryDevice {
    let mut device = blank(128);
    applied(&mut device, records(folder)).unwrap();
    assert_clean(&device);
    applied(&mut device, second()).unwrap();
    device
}

#[test]
fn everything_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut device = both_steps(folder.path());
    assert_clean(&device);
    let tree = tree(&mut device);

    assert_eq!(
        tree.keys().filter(|path| path.starts_with("many/")).count(),
        1500
    );
    assert_eq!(tree["many"].meta, meta_at(1 << 33, 999_999_999));
    assert_eq!(tree["sparse"].meta, meta_at(-5, 123_456_789));
    let EntryKind::File {
        size,
        hash: Some(hash),
    } = &tree["sparse"].kind
    else {
        panic!("{:?}", tree["sparse"])
    };
    assert_eq!(*size, SPARSE_BYTES);
    assert_eq!(*hash, sparse_hash(&folder.path().join("sparse")));
    for (name, length) in [("59", 59), ("60", 60), ("100", 100), ("3000", 3000)] {
        let EntryKind::Symlink { target } = &tree[&format!("links/{name}")].kind else {
            panic!("{name}")
        };
        assert_eq!(target.len(), length);
    }
    assert_eq!(tree["links/file"].inode, tree["links/other"].inode);
    assert_eq!(tree["links/symlink"].links, 2);
    assert_eq!(tree["attributes/acl"].xattrs.len(), 2);
    assert_eq!(tree["attributes/acl"].xattrs[0].value, acl());
    assert_eq!(
        tree["attributes/link"].xattrs,
        vec![xattr("trusted.onlink", "2")]
    );
    assert_eq!(tree["swap/x"].kind, EntryKind::Directory);
    assert!(!tree.contains_key("swap/y/inner") && !tree.contains_key("nodes"));
    assert!(tree.contains_key("new\nline"));
}

#[test]
fn a_file_may_be_larger_than_32_bits_count() {
    const BYTES: u64 = (5 << 30) + 3;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    let source = std::fs::File::create(&path).unwrap();
    source.set_len(BYTES).unwrap();
    source.write_all_at(b"end", BYTES - 3).unwrap();
    let mut device = blank(64);
    let record = Change::File {
        path: "large".into(),
        meta: meta(0o644),
        content: Content::File(path),
        links: Links::Break,
    };
    let stats = applied(&mut device, vec![record]).unwrap();
    assert_eq!(stats.content_bytes, 4096);
    assert_clean(&device);
    let entries = ext4::walk(&mut device, ext4::Detail::Metadata).unwrap();
    let large = entries.iter().find(|entry| entry.path == b"large").unwrap();
    assert_eq!(
        large.kind,
        EntryKind::File {
            size: BYTES,
            hash: None
        }
    );
}

fn sparse_hash(path: &Path) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(std::fs::File::open(path).unwrap())
        .unwrap();
    *hasher.finalize().as_bytes()
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let (one, two) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let first = both_steps(one.path());
    let second = both_steps(two.path());
    assert_eq!(dirty_blocks(&first, &second), 0);
}

/// Changes with the allocation policy of this crate or of libext2fs. If it must, raise
/// `WRITER_FORMAT` with it, so that nothing built before is taken for the same.
#[test]
fn golden_digest() {
    let folder = tempfile::tempdir().unwrap();
    let digest = blake3::hash(both_steps(folder.path()).bytes());
    assert_eq!(
        digest.to_hex().as_str(),
        "369ecc72de8856af7404a70ec5a486f1e312cfa3f30673cc9129c2a32f7d619b"
    );
}
