//! Blank file systems, the checker, and short ways to write records.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use ext4::{
    ApplyStats, BLOCK_SIZE, Change, Content, Detail, Entry, Ext4Error, FileTime, Links,
    MemoryDevice, Meta, Xattr, apply, walk,
};

pub const EPOCH: i64 = 1_700_000_000;
const UUID: &str = "5e1f0000-0000-4000-8000-000000000001";

#[expect(
    clippy::disallowed_methods,
    reason = "short-lived tools with files of the test's own; this crate depends on none of ours"
)]
pub fn tool(program: &str) -> Command {
    Command::new(program)
}

pub fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> std::process::Output {
    tool(program)
        .args(arguments)
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string())
        .env("MKE2FS_CONFIG", "/dev/null")
        .output()
        .unwrap_or_else(|error| {
            panic!("`{program}` is needed by this test (package e2fsprogs): {error}")
        })
}

/// A new file system of `mib` MiB without anything in it but `lost+found`.
pub fn blank(mib: u64) -> MemoryDevice {
    blank_with(mib, &[])
}

pub fn blank_with(mib: u64, options: &[&str]) -> MemoryDevice {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fs");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(mib << 20)
        .unwrap();
    let extended = format!("hash_seed={UUID},lazy_itable_init=1,lazy_journal_init=1,nodiscard");
    let features = "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
                    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
    let fixed = [
        "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-I", "256", "-U", UUID, "-E",
        &extended, "-O", features,
    ];
    let mut arguments: Vec<&std::ffi::OsStr> = fixed
        .iter()
        .chain(options)
        .map(|text| text.as_ref())
        .collect();
    arguments.push(path.as_os_str());
    let output = run("mke2fs", &arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    MemoryDevice::new(std::fs::read(&path).unwrap())
}

/// Runs `e2fsck -fn` and fails with its report when it finds anything.
pub fn assert_clean(device: &MemoryDevice) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fs");
    write_sparse(&path, device.bytes());
    let output = run("e2fsck", &["-fn".as_ref(), path.as_os_str()]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

pub fn write_sparse(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, piece) in bytes.chunks(1 << 16).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (index << 16) as u64).unwrap();
        }
    }
}

pub fn applied(device: &mut MemoryDevice, changes: Vec<Change>) -> Result<ApplyStats, Ext4Error> {
    apply(device, &mut changes.into_iter().map(Ok), EPOCH)
}

/// Applies, checks the file system and gives its tree.
pub fn tree_after(device: &mut MemoryDevice, changes: Vec<Change>) -> BTreeMap<String, Entry> {
    applied(device, changes).unwrap();
    assert_clean(device);
    tree(device)
}

pub fn tree(device: &mut MemoryDevice) -> BTreeMap<String, Entry> {
    walk(device, Detail::ContentHash)
        .unwrap()
        .into_iter()
        .map(|entry| (String::from_utf8_lossy(&entry.path).into_owned(), entry))
        .collect()
}

pub fn dirty_blocks(before: &MemoryDevice, after: &MemoryDevice) -> usize {
    before
        .bytes()
        .chunks(BLOCK_SIZE)
        .zip(after.bytes().chunks(BLOCK_SIZE))
        .filter(|(old, new)| old != new)
        .count()
}

pub fn meta(mode: u32) -> Meta {
    Meta {
        uid: 0,
        gid: 0,
        mode,
        mtime: FileTime::from_seconds(EPOCH - 100),
    }
}

pub fn dir(path: &str) -> Change {
    Change::Dir {
        path: path.into(),
        meta: meta(0o755),
    }
}

pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Change {
    Change::File {
        path: path.into(),
        meta: meta(0o644),
        content: Content::Bytes(content.into()),
        links: Links::Break,
    }
}

pub fn symlink(path: &str, target: impl Into<Vec<u8>>) -> Change {
    Change::Symlink {
        path: path.into(),
        meta: meta(0o777),
        target: target.into(),
    }
}

pub fn hard_link(path: &str, target: &str) -> Change {
    Change::HardLink {
        path: path.into(),
        target: target.into(),
    }
}

pub fn remove(path: &str) -> Change {
    Change::Remove { path: path.into() }
}

pub fn xattr(name: &str, value: impl Into<Vec<u8>>) -> Xattr {
    Xattr {
        name: name.into(),
        value: value.into(),
    }
}
