//! One behaviour of `apply` per test: in place, links, replacement, determinism.

use ext4::{Change, Content, EntryKind, Links, Meta, NodeKind, read_file};

use crate::fixture::*;

fn content(device: &mut ext4::MemoryDevice, path: &str) -> Option<Vec<u8>> {
    read_file(device, path.as_bytes(), 1 << 30).unwrap()
}

#[test]
fn an_edit_dirties_its_data_block_and_its_inode() {
    let mut device = blank(64);
    applied(
        &mut device,
        vec![dir("etc"), file("etc/motd", vec![b'x'; 3000])],
    )
    .unwrap();
    let before = device.clone();

    applied(&mut device, vec![file("etc/motd", vec![b'x'; 3010])]).unwrap();

    assert_eq!(dirty_blocks(&before, &device), 2);
    assert_clean(&device);
    assert_eq!(content(&mut device, "etc/motd"), Some(vec![b'x'; 3010]));
}

#[test]
fn the_same_again_changes_nothing() {
    let records = || {
        vec![
            dir("a"),
            file("a/f", "text"),
            symlink("a/l", "f"),
            Change::Xattrs {
                path: "a/f".into(),
                xattrs: vec![xattr("user.k", "v")],
            },
            hard_link("a/g", "a/f"),
        ]
    };
    let mut device = blank(64);
    applied(&mut device, records()).unwrap();
    let before = device.clone();
    // A name of a linked file that is written with `Break` becomes a file of its own, so the
    // second time keeps links.
    let again = records()
        .into_iter()
        .map(|change| match change {
            Change::File {
                path,
                meta,
                content,
                ..
            } => Change::File {
                path,
                meta,
                content,
                links: Links::Keep,
            },
            other => other,
        })
        .collect();
    applied(&mut device, again).unwrap();
    assert_eq!(dirty_blocks(&before, &device), 0);
}

#[test]
fn holes_follow_from_the_bytes() {
    let mut data = vec![7_u8; 5 * 4096];
    let mut device = blank(64);
    let free = applied(&mut device, vec![file("f", data.clone())])
        .unwrap()
        .free_bytes;
    data[4096..3 * 4096].fill(0);
    let punched = applied(&mut device, vec![file("f", data.clone())])
        .unwrap()
        .free_bytes;
    assert_eq!(punched - free, 2 * 4096);
    assert_eq!(content(&mut device, "f"), Some(data.clone()));
    let cut = applied(&mut device, vec![file("f", data[..100].to_vec())])
        .unwrap()
        .free_bytes;
    assert_eq!(cut - punched, 2 * 4096);
    assert_eq!(content(&mut device, "f"), Some(data[..100].to_vec()));
    let emptied = applied(&mut device, vec![file("f", "")])
        .unwrap()
        .free_bytes;
    assert_eq!(emptied - cut, 4096);
    assert_clean(&device);
}

#[test]
fn links_are_kept_or_broken_as_told() {
    let write = |links| {
        vec![Change::File {
            path: "a".into(),
            meta: meta(0o600),
            content: Content::Bytes(b"new".to_vec()),
            links,
        }]
    };
    let mut device = blank(64);
    applied(
        &mut device,
        vec![file("a", "old"), hard_link("b", "a"), hard_link("c", "b")],
    )
    .unwrap();

    let kept = tree_after(&mut device, write(Links::Keep));
    assert_eq!((kept["a"].inode, kept["a"].links), (kept["c"].inode, 3));
    assert_eq!(content(&mut device, "c"), Some(b"new".to_vec()));

    applied(&mut device, vec![file("c", "third")]).unwrap();
    let broken = tree_after(&mut device, write(Links::Break));
    assert_eq!(
        (broken["a"].links, broken["b"].links, broken["c"].links),
        (1, 1, 1)
    );
    assert_eq!(content(&mut device, "b"), Some(b"new".to_vec()));
}

#[test]
fn every_type_replaces_every_other() {
    let mut device = blank(64);
    let node = |kind| Change::Node {
        path: "x".into(),
        meta: meta(0o600),
        kind,
    };
    let forms = || {
        vec![
            file("x", vec![1; 9000]),
            dir("x"),
            symlink("x", "short"),
            symlink("x", vec![b'l'; 3000]),
            node(NodeKind::Fifo),
            node(NodeKind::Socket),
            node(NodeKind::Char { major: 1, minor: 3 }),
            node(NodeKind::Block {
                major: 259,
                minor: 70_000,
            }),
        ]
    };
    let mut changes = vec![];
    for first in forms() {
        for second in forms() {
            changes.push(first.clone());
            if matches!(first, Change::Dir { .. }) {
                changes.extend([file("x/inside", "1"), dir("x/deep"), file("x/deep/er", "2")]);
            }
            changes.push(second);
        }
    }
    let all = tree_after(&mut device, changes);
    assert_eq!(
        all["x"].kind,
        EntryKind::Node(NodeKind::Block {
            major: 259,
            minor: 70_000
        })
    );
    let removed = tree_after(
        &mut device,
        vec![remove("x"), remove("x"), remove("no/such/place")],
    );
    assert_eq!(removed.keys().collect::<Vec<_>>(), ["", "lost+found"]);
}

#[test]
fn metadata_alone_leaves_the_content() {
    let mut device = blank(64);
    applied(&mut device, vec![file("f", "same")]).unwrap();
    let wanted = Meta {
        uid: 70_000,
        gid: 4_000_000_000,
        mode: 0o4711,
        ..meta(0)
    };
    let tree = tree_after(
        &mut device,
        vec![
            Change::Meta {
                path: "f".into(),
                meta: wanted,
            },
            Change::Meta {
                path: "".into(),
                meta: Meta {
                    mode: 0o700,
                    ..wanted
                },
            },
        ],
    );
    assert_eq!(tree["f"].meta, wanted);
    assert_eq!(tree[""].meta.mode, 0o700);
    assert_eq!(content(&mut device, "f"), Some(b"same".to_vec()));
}

#[test]
fn attributes_are_a_whole_set() {
    let mut device = blank(64);
    let set = |xattrs| Change::Xattrs {
        path: "f".into(),
        xattrs,
    };
    let first = vec![xattr("user.a", "1"), xattr("user.big", vec![9; 3000])];
    let tree = tree_after(&mut device, vec![file("f", "x"), set(first.clone())]);
    assert_eq!(tree["f"].xattrs, first);
    let second = vec![xattr("trusted.t", ""), xattr("user.a", "2")];
    let tree = tree_after(&mut device, vec![set(second.clone())]);
    assert_eq!(tree["f"].xattrs, second);
    let tree = tree_after(&mut device, vec![set(vec![])]);
    assert_eq!(tree["f"].xattrs, vec![]);
}

#[test]
fn only_the_superblocks_write_time_is_no_change() {
    let mut device = blank(64);
    applied(&mut device, vec![file("f", "same")]).unwrap();
    let before = device.clone();
    ext4::apply(&mut device, &mut std::iter::empty(), EPOCH + 1000).unwrap();
    assert_eq!(dirty_blocks(&before, &device), 0);
}

#[test]
fn a_partition_is_written_inside_its_bounds() {
    const START: usize = 3 << 20;
    let fs = blank(64);
    let mut disk = vec![0xa5; START];
    disk.extend_from_slice(fs.bytes());
    disk.extend_from_slice(&[0x5a; 1 << 20]);
    let mut disk = ext4::MemoryDevice::new(disk);
    let length = fs.bytes().len();
    let mut partition = ext4::Partition::new(&mut disk, START as u64, length as u64).unwrap();
    ext4::apply(
        &mut partition,
        &mut vec![Ok(file("f", "inside"))].into_iter(),
        EPOCH,
    )
    .unwrap();

    let bytes = disk.into_bytes();
    assert!(bytes[..START].iter().all(|byte| *byte == 0xa5));
    assert!(bytes[START + length..].iter().all(|byte| *byte == 0x5a));
    let mut inner = ext4::MemoryDevice::new(bytes[START..START + length].to_vec());
    assert_clean(&inner);
    assert_eq!(content(&mut inner, "f"), Some(b"inside".to_vec()));
    assert!(ext4::Partition::new(&mut inner, 1 << 20, length as u64).is_err());
}

#[test]
fn one_path_at_a_time() {
    let mut device = blank(64);
    let long = vec![3_u8; 3 << 20];
    applied(
        &mut device,
        vec![dir("d"), file("d/b", long.clone()), symlink("d/a", "b")],
    )
    .unwrap();
    let mut tree = ext4::Tree::open(&mut device).unwrap();
    assert_eq!(tree.names(b"d").unwrap(), [b"a", b"b"]);
    assert_eq!(tree.names(b"d/b").unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(tree.entry(b"d/c").unwrap(), None);
    assert_eq!(
        tree.entry(b"d/a").unwrap().unwrap().kind,
        EntryKind::Symlink {
            target: b"b".to_vec()
        }
    );
    let mut check = |other: &[u8], expected| {
        let mut reader = other;
        assert_eq!(tree.same_content(b"d/b", &mut reader).unwrap(), expected);
    };
    check(&long, true);
    check(&long[1..], false);
    check(&[&long[..], b"x"].concat(), false);
    check(&[&long[1..], b"x"].concat(), false);
}
