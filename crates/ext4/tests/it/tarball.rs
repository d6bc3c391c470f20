//! Archives from GNU tar and by hand: order, links, limits, damage.

use std::path::Path;

use ext4::{Change, Content, Detail, EntryKind, TarError, from_tar, walk};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use crate::fixture::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(5);
    header.set_size(size);
    header
}

fn archive(path: &Path, build: impl FnOnce(&mut Builder<std::fs::File>)) {
    let mut builder = Builder::new(std::fs::File::create(path).unwrap());
    build(&mut builder);
    builder.finish().unwrap();
}

#[test]
fn order_and_times_do_not_depend_on_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tar");
    archive(&path, |tar| {
        tar.append_data(&mut header(EntryType::Regular, 1), "z/file", &b"1"[..])
            .unwrap();
        tar.append_link(&mut header(EntryType::Link, 0), "a-link", "z/file")
            .unwrap();
        tar.append_data(&mut header(EntryType::Directory, 0), "z/", &b""[..])
            .unwrap();
        let mut late = header(EntryType::Directory, 0);
        late.set_mtime(10_000);
        tar.append_data(&mut late, "./", &b""[..]).unwrap();
    });
    let changes = from_tar(&path, 100).unwrap();
    let paths: Vec<&[u8]> = changes.iter().map(Change::path).collect();
    assert_eq!(paths, [&b""[..], b"a-link", b"z", b"z/file"]);
    assert!(matches!(&changes[0], Change::Dir { meta, .. } if meta.mtime.seconds == 100));
    assert!(matches!(
        &changes[1],
        Change::File {
            content: Content::FileRange { length: 1, .. },
            ..
        }
    ));
    assert!(matches!(&changes[3], Change::HardLink { target, .. } if target == b"a-link"));
}

#[test]
fn bad_archives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tar");
    let check = |expected: &str, build: &dyn Fn(&mut Builder<std::fs::File>)| {
        archive(&path, |tar| build(tar));
        let error = from_tar(&path, 100).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("points to `/gone`", &|tar| {
        tar.append_link(&mut header(EntryType::Link, 0), "link", "gone")
            .unwrap();
    });
    check("stored as a sparse file", &|tar| {
        tar.append_pax_extensions([("GNU.sparse.major", &b"1"[..])])
            .unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0), "f", &b""[..])
            .unwrap();
    });
    check("access control list", &|tar| {
        tar.append_pax_extensions([("SCHILY.acl.access", &b"user::rw-"[..])])
            .unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0), "f", &b""[..])
            .unwrap();
    });
    check("`..`", &|tar| {
        let mut bad = header(EntryType::Regular, 0);
        bad.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"../x");
        bad.set_cksum();
        tar.append(&bad, &b""[..]).unwrap();
    });
    std::fs::write(&path, [1; 700]).unwrap();
    assert!(matches!(
        from_tar(&path, 1),
        Err(TarError::Damaged { offset: 512, .. })
    ));
    std::fs::write(&path, [0; 100]).unwrap();
    assert!(matches!(from_tar(&path, 1), Err(TarError::Read { .. })));
}

#[test]
fn a_tree_packed_by_gnu_tar_is_written_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let long = format!("{0}/{0}", "n".repeat(80));
    std::fs::create_dir_all(tree.join(&long).join("deep")).unwrap();
    std::fs::write(tree.join(&long).join("deep/file"), vec![b'd'; 123_456]).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), tree.join("link")).unwrap();
    std::fs::hard_link(tree.join(&long).join("deep/file"), tree.join("twin")).unwrap();
    for format in ["gnu", "posix", "ustar"] {
        let out = folder.path().join(format);
        let mut command = tool("tar");
        command
            .arg(format!("--format={format}"))
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&out);
        // The oldest format holds no link target of this length.
        let entries: &[&str] = if format == "ustar" {
            &["--exclude=./link", "."]
        } else {
            &["."]
        };
        assert!(command.args(entries).status().unwrap().success());
        let mut device = blank(64);
        applied(&mut device, from_tar(&out, EPOCH).unwrap()).unwrap();
        assert_clean(&device);
        let entries = walk(&mut device, Detail::ContentHash).unwrap();
        let find = |path: &str| {
            entries
                .iter()
                .find(|entry| entry.path == path.as_bytes())
                .unwrap()
        };
        let file = find(&format!("{long}/deep/file"));
        assert_eq!((file.inode, file.links), (find("twin").inode, 2));
        let hash = Some(*blake3::hash(&[b'd'; 123_456]).as_bytes());
        assert_eq!(
            file.kind,
            EntryKind::File {
                size: 123_456,
                hash
            }
        );
        assert!(file.meta.mtime.seconds <= EPOCH);
        if format != "ustar" {
            assert_eq!(
                find("link").kind,
                EntryKind::Symlink {
                    target: vec![b't'; 300]
                }
            );
        }
    }
}

proptest! {
    /// Whatever the bytes, the answer is changes or an error, never a panic.
    #[test]
    fn any_bytes_are_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        kind in prop::sample::select(b"0123456xgLKS".to_vec()),
        valid_checksum in any::<bool>(),
    ) {
        if valid_checksum && bytes.len() >= 512 {
            bytes[156] = kind;
            bytes[124..136].copy_from_slice(b"00000000700\0");
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tar");
        std::fs::write(&path, &bytes).unwrap();
        let _ = from_tar(&path, 1);
    }
}
