//! Bytes that are no Windows: whatever they are, the answer is an answer. Real volumes and hives are read by the tests of
//! the tattoo in `factory`, which has the tools that make them.

use proptest::prelude::*;
use windisk::{Hive, HiveError, System, SystemError, Volume};

/// The first sector of a volume of 64 clusters of 4 KiB with its table at cluster 4, and that table's first record.
fn volume() -> Vec<u8> {
    let mut disk = vec![0u8; 64 * 4096];
    disk[3..11].copy_from_slice(b"NTFS    ");
    disk[0x0b..0x0e].copy_from_slice(&[0, 2, 8]);
    disk[0x30] = 4;
    disk[0x40] = 0xf6;
    let record = &mut disk[4 * 4096..][..1024];
    record[..8].copy_from_slice(&[b'F', b'I', b'L', b'E', 0x30, 0, 3, 0]);
    record[0x14] = 0x38;
    record[0x16] = 1;
    // One attribute, the table's content: eight clusters from the fourth on.
    let attribute = &mut record[0x38..];
    attribute[0] = 0x80;
    attribute[4] = 0x48;
    attribute[8] = 1;
    attribute[0x20] = 0x40;
    attribute[0x31] = 0x80;
    attribute[0x39] = 0x80;
    attribute[0x40..0x43].copy_from_slice(&[0x11, 8, 4]);
    attribute[0x48..0x4c].copy_from_slice(&[0xff; 4]);
    disk
}

fn open(disk: &Vec<u8>) -> Result<bool, String> {
    let opened = Volume::open(disk, 0..disk.len() as u64);
    opened
        .map(|found| found.is_some())
        .map_err(|error| error.to_string())
}

#[test]
fn a_volume_is_opened_or_refused_by_what_its_first_record_says() {
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: Result<bool, &str>| {
        let mut disk = volume();
        change(&mut disk);
        let expected = expected.map_err(|why| format!("the NTFS volume is damaged: {why}"));
        assert_eq!(open(&disk), expected);
    };
    let record = 4 * 4096;
    let attribute = record + 0x38;
    check(&|_| {}, Ok(true));
    check(&|disk| disk[3] = b'n', Ok(false));
    check(&|disk| disk.truncate(100), Ok(false));
    let first = Err("its first sector says what cannot be");
    check(&|disk| disk[0x0d] = 3, first);
    check(&|disk| disk[0x0d] = 0x81, first);
    check(&|disk| disk[0x40] = 0x80, first);
    check(&|disk| disk[0x30 + 7] = 0x7f, first);
    check(
        &|disk| disk[0x30] = 200,
        Err("something is outside the volume"),
    );
    check(
        &|disk| disk[record] = 0,
        Err("a block of its tables is none"),
    );
    check(
        &|disk| disk[record + 1022] = 9,
        Err("a block of its tables is torn"),
    );
    check(
        &|disk| disk[record + 5] = 0xff,
        Err("a block of its tables is torn"),
    );
    check(
        &|disk| disk[record + 0x16] = 0,
        Err("a record that is in use says it is not"),
    );
    check(
        &|disk| disk[attribute + 4] = 0,
        Err("an attribute leaves its record"),
    );
    check(
        &|disk| disk[attribute + 0x42] = 60,
        Err("the runs of a file are none"),
    );
    check(
        &|disk| disk[attribute + 0x41] = 0,
        Err("the runs of a file are none"),
    );
    let claims = Err("a file claims to be longer than it is");
    check(&|disk| disk[attribute + 0x37] = 0x7f, claims);
    check(&|disk| disk[attribute + 0x3f] = 0x7f, claims);
}

#[test]
fn a_disk_without_windows_says_so() {
    let mut disk = vec![0u8; 1 << 20];
    let none = System::find(&disk).err();
    assert!(matches!(none, Some(SystemError::Layout(_))), "{none:?}");
    disk[450] = 7;
    disk[454] = 8;
    disk[458] = 64;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(matches!(System::find(&disk).err(), Some(SystemError::None)));
}

#[test]
fn what_is_no_hive_is_refused() {
    let none: [&[u8]; 3] = [b"", b"regf", &[7; 9000]];
    for bytes in none {
        assert_eq!(Hive::open(bytes).unwrap_err(), HiveError::NotOne);
    }
}

proptest! {
    #[test]
    fn any_change_of_a_volume_is_survived(at in 0usize..0x400, place in 0usize..2, byte: u8) {
        let mut disk = volume();
        disk[place * 4 * 4096 + at] = byte;
        windisk::fuzzing::volume(&disk);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        windisk::fuzzing::cells(&bytes);
        windisk::fuzzing::volume(&bytes);
        windisk::fuzzing::volume_of_parts(&bytes);
    }
}
