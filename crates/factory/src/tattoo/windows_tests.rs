//! The record in real NTFS volumes and real hives; `hivexsh` says what is in them.

use std::sync::Arc;

use disk::{Changes, CowDisk, ReadAt};
use process::{Command, Stdin};

use super::windows::apply;
use super::{ApplyError, Tattoo, lines, read};
use crate::pipeline::chain;
use crate::testing::windows::{GENERALIZED, WindowsDisk, empty_hive, hive_in_state, seal};

/// A free page of a hive is enough for a record.
const ROOM: usize = 4;
const MIB: u64 = 1 << 20;

fn record() -> Tattoo {
    Tattoo {
        source_publisher: "MicrosoftWindowsServer".into(),
        os_version: "Windows Server 2025 – \"Dätacenter\" \\ x".into(),
        image_version: "1.0.0".into(),
        ..Tattoo::default()
    }
}

async fn applied(disk: &Arc<Vec<u8>>, record: &Tattoo) -> Result<Changes, ApplyError> {
    let work = tempfile::tempdir().unwrap();
    let parent: Arc<dyn ReadAt> = Arc::clone(disk) as Arc<dyn ReadAt>;
    apply(parent, record, work.path()).await
}

fn with(disk: &[u8], changes: &Changes) -> Vec<u8> {
    let mut bytes = vec![0; disk.len()];
    let cow = CowDisk::with_changes(disk.to_vec(), changes);
    cow.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What the tools of NTFS and hivex find in a disk.
async fn oracle(disk: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (volume, hive) = (folder.path().join("volume"), folder.path().join("hive"));
    std::fs::write(&volume, &disk[MIB as usize..]).unwrap();
    let cat = Command::new("ntfscat").arg(&volume);
    let cat = cat.arg("Windows/System32/config/software");
    cat.stdout_file(&hive).run().await.unwrap();
    let asked = b"cd \\Bullion\\Image\nlsval\n".to_vec();
    let shell = Command::new("hivexsh")
        .arg(&hive)
        .stdin(Stdin::Bytes(asked));
    let text = shell.run().await.unwrap().stdout_text();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_written_is_read_back_and_is_what_hivex_sees() {
    for scattered in [false, true] {
        let hive = hive_in_state(GENERALIZED, if scattered { 900 } else { ROOM }).await;
        let made = WindowsDisk {
            hive: Some(hive),
            scattered,
            ..WindowsDisk::default()
        };
        let disk = Arc::new(made.make().await);
        assert_eq!(read(&*disk).unwrap(), None);
        let first = applied(&disk, &record()).await.unwrap();
        assert!(first.bytes() <= 64 << 10, "{}", first.bytes());
        assert_eq!(first, applied(&disk, &record()).await.unwrap());

        let child = Arc::new(with(&disk, &first));
        let found = read(&*child).unwrap().unwrap();
        assert_eq!(Tattoo::parse(&found).unwrap(), record());
        let seen = oracle(&child).await;
        assert!(
            seen.contains(&r#""image.version"="1.0.0""#.to_owned()),
            "{seen:?}"
        );
        assert_eq!(seen.iter().filter(|line| line.contains('=')).count(), 13);

        // Another record replaces all of the first.
        let next = Tattoo {
            image_version: "2.0.0".into(),
            ..record()
        };
        let second = applied(&child, &next).await.unwrap();
        let found = read(&with(&child, &second)).unwrap().unwrap();
        assert_eq!(Tattoo::parse(&found).unwrap(), next);
    }
}

#[tokio::test]
async fn a_value_that_was_added_is_seen_and_makes_no_line() {
    let disk = WindowsDisk {
        hive: Some(empty_hive(2 * ROOM)),
        ..WindowsDisk::default()
    };
    let disk = Arc::new(disk.make().await);
    let child = with(&disk, &applied(&disk, &record()).await.unwrap());
    // The same length in the same place: `os.version` becomes a name with a line end and a `=`.
    let forged: Vec<u8> = child.clone();
    let at = forged
        .windows(10)
        .position(|part| part == b"os.version")
        .unwrap();
    let mut forged = forged;
    forged[at..at + 10].copy_from_slice(b"x=\ny=1.0.0");
    let found = read(&forged).unwrap().unwrap();
    assert!(matches!(
        lines(&found),
        Err(super::TattooError::Missing { key: "os.version" })
    ));
    let text = String::from_utf8(found).unwrap();
    assert!(text.contains("x\u{fffd}\u{fffd}y\u{fffd}1.0.0="), "{text}");
}

/// Why nothing is written into a disk.
#[track_caller]
fn refused(done: Result<Changes, ApplyError>, told: &str) {
    let error = done.expect_err("it is refused");
    let text = chain(&error);
    assert!(text.contains(told), "{text}");
}

#[tokio::test]
async fn a_hive_that_is_none_or_not_whole_is_refused() {
    let good = empty_hive(ROOM);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut hive = good.clone();
        change(&mut hive);
        hive
    };
    let number = |hive: &mut Vec<u8>, at: usize, value: u32| {
        hive[at..at + 4].copy_from_slice(&value.to_le_bytes());
        seal(hive);
    };
    let cases: [(Option<Vec<u8>>, &str); 8] = [
        (None, "there is no Windows on the disk"),
        (Some(Vec::new()), "compressed, encrypted or sparse"),
        (Some(vec![7; 9000]), "it is no registry hive"),
        (Some(good[..6000].to_vec()), "it was cut off"),
        (
            Some(changed(&|hive| number(hive, 0x28, 0xffff_f000))),
            "claims 4294967296 bytes",
        ),
        (
            Some(changed(&|hive| hive[0x30] ^= 1)),
            "the checksum of its head is wrong",
        ),
        (
            Some(changed(&|hive| number(hive, 8, 6))),
            "has changes in a log beside it",
        ),
        (Some(empty_hive(0)), "and room for 8192 on the disk"),
    ];
    for (hive, told) in cases {
        let disk = WindowsDisk {
            hive,
            ..WindowsDisk::default()
        };
        let disk = Arc::new(disk.make().await);
        refused(applied(&disk, &record()).await, told);
    }
}

#[tokio::test]
async fn a_volume_that_windows_would_first_put_in_order_is_refused() {
    let made = WindowsDisk {
        hive: Some(empty_hive(ROOM)),
        ..WindowsDisk::default()
    };
    let good = made.make().await;
    let hibernated = WindowsDisk {
        hibernated: true,
        ..made
    };
    let disk = Arc::new(hibernated.make().await);
    refused(applied(&disk, &record()).await, "Windows is hibernated");
    let disk = Arc::new(dirty(good.clone()));
    refused(applied(&disk, &record()).await, "it is marked as dirty");
    let disk = Arc::new(with_journal(good));
    refused(applied(&disk, &record()).await, "its journal is not empty");
}

#[tokio::test]
async fn any_byte_of_a_volume_s_tables_may_be_anything() {
    let made = WindowsDisk {
        hive: Some(empty_hive(ROOM)),
        ..WindowsDisk::default()
    };
    let disk = made.make().await;
    let table = table(&disk) - MIB as usize;
    let mut volume = disk[MIB as usize..].to_vec();
    // The first sector, and the records of the volume's own files and of the folders; far apart from one to the next.
    let places = (0..512)
        .step_by(7)
        .chain((table..table + (300 << 10)).step_by(997));
    for (index, at) in places.enumerate() {
        let kept = volume[at];
        volume[at] = [0, 0xff, kept ^ 0x80, kept.wrapping_add(1)][index % 4];
        windisk::fuzzing::volume(&volume);
        volume[at] = kept;
    }
}

/// Sets the flag in the record of the volume.
fn dirty(mut disk: Vec<u8>) -> Vec<u8> {
    let table = table(&disk);
    let at = table + 3 * 1024;
    let attribute = disk[at..at + 1024]
        .windows(4)
        .position(|part| part == [0x70, 0, 0, 0])
        .unwrap();
    disk[at + attribute + 0x18 + 0x0a] |= 1;
    disk
}

/// Writes a restart page that has a client with changes to be done again.
fn with_journal(mut disk: Vec<u8>) -> Vec<u8> {
    let mut page = vec![0u8; 4096];
    page[..8].copy_from_slice(&[b'R', b'S', b'T', b'R', 0x1e, 0, 9, 0]);
    page[0x18] = 0x30;
    page[0x30] = 1;
    for sector in 1..9 {
        page[sector * 512 - 2] = 1;
    }
    page[0x1e] = 1;
    // Of a journal that was never used, every byte is the same.
    let at = disk
        .chunks(4096)
        .position(|block| block.iter().all(|byte| *byte == 0xff))
        .unwrap();
    disk[at * 4096..][..4096].copy_from_slice(&page);
    disk
}

/// Where the master file table is.
fn table(disk: &[u8]) -> usize {
    let start = MIB as usize;
    let cluster = usize::from(disk[start + 0x0d]) * 512;
    let lcn = u64::from_le_bytes(disk[start + 0x30..][..8].try_into().unwrap());
    start + lcn as usize * cluster
}
