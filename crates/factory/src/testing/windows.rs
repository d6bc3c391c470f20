//! A disk with the volume and the registry of a Windows, made by the tools of NTFS and hivex: all that is looked at of one
//! without starting it. It is for tests only.

use std::fs;

use process::Command;

const MIB: usize = 1 << 20;
const VOLUME_MIB: usize = 12;
const HIVE_PAGE: usize = 4096;
const PREFIX: &str = r"HKEY_LOCAL_MACHINE\SOFTWARE";
/// What Windows says of itself between sysprep and its next start.
pub const GENERALIZED: &str = "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE";

/// What the Windows says it is, as regedit reads it and as people say it.
const VERSION: &str = "\"ProductName\"=\"Windows Server 2022 Datacenter\"\n\"DisplayVersion\"=\"21H2\"\n\
                       \"CurrentBuildNumber\"=\"20348\"\n\"UBR\"=dword:00000a8c\n";
pub const VERSION_TEXT: &str = "Windows Server 2022 Datacenter 21H2 (20348.2700)";

/// Makes the volume, by FUSE in a mount namespace of its own. With `scattered`, all of the volume is filled with files of one
/// cluster, of which every other goes, so that a long hive is in a hundred pieces; and it has so many names that where the pieces
/// are stands in another record than the file's first.
const SCRIPT: &str = r#"set -eu
mkdir mnt
ntfs-3g -o no_detach volume mnt > log 2>&1 &
mounted=$!
tries=0
until mountpoint -q mnt; do tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1; done
mkdir -p mnt/Windows/System32/config
n=0
while [ $n -lt 200 ]; do n=$((n + 1)); : > mnt/Windows/System32/some-library-$n.dll; done
if [ "$1" = scattered ]; then
  block=$(printf '%4096s' x)
  mkdir mnt/fill
  n=0
  while (printf '%s' "$block" > mnt/fill/$n) 2> /dev/null; do n=$((n + 1)); done
  while [ $n -gt 0 ]; do n=$((n - 2)); rm -f mnt/fill/$n; done
  : > mnt/Windows/System32/config/software
  while [ $n -lt 8 ]; do n=$((n + 1)); ln mnt/Windows/System32/config/software mnt/another-name-of-the-hive-$n; done
fi
[ ! -e hive ] || cat hive > mnt/Windows/System32/config/software
[ ! -e hiberfil ] || cp hiberfil mnt/hiberfil.sys
umount mnt
wait $mounted
"#;

/// What shall be on the disk.
#[derive(Debug, Clone, Default)]
pub struct WindowsDisk {
    /// The hive SOFTWARE; none: the folder is empty.
    pub hive: Option<Vec<u8>>,
    /// Whether the hive is in many pieces, if it is long.
    pub scattered: bool,
    pub hibernated: bool,
}

/// A hive with nothing but its root, and room for `pages` pages more.
pub fn empty_hive(pages: usize) -> Vec<u8> {
    let mut bytes = vec![0; HIVE_PAGE * (2 + pages)];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    let number = u32::to_le_bytes;
    put(0, b"regf");
    for (at, value) in [
        (4, 7),
        (8, 7),
        (0x14, 1),
        (0x18, 5),
        (0x20, 1),
        (0x24, 0x20),
    ] {
        put(at, &number(value));
    }
    put(0x28, &number(HIVE_PAGE as u32));
    let page = HIVE_PAGE;
    put(page, b"hbin");
    put(page + 8, &number(HIVE_PAGE as u32));
    // The root key, and behind it who may do what with it.
    let (root, rights) = (page + 0x20, page + 0x80);
    put(root, &(-0x60i32).to_le_bytes());
    put(root + 4, b"nk");
    put(root + 6, &[0x2c, 0]);
    let none = number(u32::MAX);
    for at in [0x10, 0x1c, 0x20, 0x28, 0x30] {
        put(root + 4 + at, &none);
    }
    put(root + 4 + 0x2c, &number(0x80));
    put(root + 4 + 0x48, &[4, 0]);
    put(root + 4 + 0x4c, b"ROOT");
    put(rights, &(-0x30i32).to_le_bytes());
    put(rights + 4, b"sk");
    for (at, value) in [(4, 0x80), (8, 0x80), (12, 1), (16, 0x14)] {
        put(rights + 4 + at, &number(value));
    }
    put(rights + 4 + 20, &[1, 0, 4, 0x80]);
    put(page + 0xb0, &number(HIVE_PAGE as u32 - 0xb0));
    seal(&mut bytes);
    bytes
}

/// Puts the checksum of a hive's head right.
pub fn seal(hive: &mut [u8]) {
    let words = hive[..0x1fc].chunks_exact(4);
    let sum = words.fold(0, |sum, word| {
        sum ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]])
    });
    hive[0x1fc..0x200].copy_from_slice(&sum.to_le_bytes());
}

/// A hive in which Windows says `state` of itself, and which one it is.
pub async fn hive_in_state(state: &str, pages: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let hive = folder.path().join("SOFTWARE");
    fs::write(&hive, empty_hive(pages)).expect("write a hive");
    let mut text = String::from("Windows Registry Editor Version 5.00\n\n");
    let mut key = PREFIX.to_owned();
    for part in ["Microsoft", "Windows", "CurrentVersion", "Setup", "State"] {
        key = format!("{key}\\{part}");
        text += &format!("[{key}]\n\n");
    }
    text += &format!("[{key}]\n\"ImageState\"=\"{state}\"\n\n");
    text += &format!("[{PREFIX}\\Microsoft\\Windows NT]\n\n");
    text += &format!("[{PREFIX}\\Microsoft\\Windows NT\\CurrentVersion]\n{VERSION}");
    let regedit = folder.path().join("state.reg");
    fs::write(&regedit, text).expect("write a file");
    let command = Command::new("hivexregedit").args(["--merge", "--prefix", PREFIX]);
    command
        .arg(&hive)
        .arg(&regedit)
        .run()
        .await
        .expect("hivexregedit");
    fs::read(&hive).expect("read a hive")
}

impl WindowsDisk {
    /// A raw disk with an MBR, whose second partition is the volume.
    pub async fn make(&self) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let volume = fs::File::create(path("volume")).expect("make a file");
        volume
            .set_len((VOLUME_MIB * MIB) as u64)
            .expect("make it longer");
        if let Some(hive) = &self.hive {
            fs::write(path("hive"), hive).expect("write a file");
        }
        if self.hibernated {
            fs::write(path("hiberfil"), b"HIBR and the memory").expect("write a file");
        }
        let made = Command::new("mkntfs").args(["-F", "-Q", "-q"]);
        made.arg(path("volume")).run().await.expect("mkntfs");
        let how = if self.scattered { "scattered" } else { "whole" };
        let made = Command::new("unshare").args(["-m", "sh", "-c", SCRIPT, "sh", how]);
        let made = made.cwd(folder.path()).run().await;
        made.expect("a volume, made by ntfs-3g");
        let volume = fs::read(path("volume")).expect("read the volume");
        let mut disk = vec![0; MIB];
        partition(&mut disk, 0, 0x82, 34..64);
        let start = (MIB / 512) as u32;
        partition(&mut disk, 1, 7, start..start + (volume.len() / 512) as u32);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk.extend(volume);
        disk
    }
}

fn partition(disk: &mut [u8], index: usize, kind: u8, sectors: std::ops::Range<u32>) {
    let entry = &mut disk[446 + 16 * index..][..16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&sectors.start.to_le_bytes());
    entry[12..16].copy_from_slice(&(sectors.end - sectors.start).to_le_bytes());
}
