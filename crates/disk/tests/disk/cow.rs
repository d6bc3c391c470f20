//! A disk with changes is the disk that was written to.

use disk::{BLOCK_SIZE, CHUNK_SIZE, CowDisk, MemDisk, ReadAt, Window, WriteAt};
use proptest::prelude::*;

use crate::{apply, writes, written};

const SIZE: usize = CHUNK_SIZE / 4 + 100;

fn whole(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut bytes).expect("read all");
    bytes
}

/// What `next_data` admits to, with zeros elsewhere.
fn whole_by_data(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    let mut offset = 0;
    while let Some(data) = disk.next_data(offset).expect("next data") {
        assert!(
            data.start >= offset && data.end > data.start,
            "{data:?} after {offset}"
        );
        let range = data.start as usize..data.end as usize;
        disk.read_at(data.start, &mut bytes[range])
            .expect("read data");
        offset = data.end;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_like_the_disk_written_to(before in writes(SIZE), after in writes(SIZE)) {
        let parent = written(SIZE, &before);
        let mut expected = parent.clone();
        apply(&mut expected, &after);
        let mut cow = CowDisk::new(&parent);
        apply(&mut cow, &after);
        prop_assert_eq!(&whole(&cow), expected.as_bytes());
        prop_assert_eq!(&whole_by_data(&cow), expected.as_bytes());

        let changes = cow.into_changes().expect("changes");
        let block = |bytes: &[u8], index: u64| {
            let start = index as usize * BLOCK_SIZE;
            let mut block = bytes[start..bytes.len().min(start + BLOCK_SIZE)].to_vec();
            block.resize(BLOCK_SIZE, 0);
            block
        };
        for index in 0..SIZE.div_ceil(BLOCK_SIZE) as u64 {
            let (old, new) = (block(parent.as_bytes(), index), block(expected.as_bytes(), index));
            let kept = changes.get(index).map(|kept| kept.map_or(vec![0; BLOCK_SIZE], |b| b.to_vec()));
            prop_assert_eq!(kept, (old != new).then_some(new), "block {}", index);
        }
        prop_assert_eq!(&whole(&CowDisk::with_changes(&parent, changes)), expected.as_bytes());
    }

    #[test]
    fn a_window_is_that_part(seed in writes(SIZE), start in 0..SIZE, len in 0..SIZE) {
        let disk = written(SIZE, &seed);
        let range = start..(start + len).min(SIZE);
        let window = Window::new(&disk, range.start as u64..range.end as u64).expect("window");
        prop_assert_eq!(&whole(&window), &disk.as_bytes()[range.clone()]);
        prop_assert_eq!(&whole_by_data(&window), &disk.as_bytes()[range]);
    }
}

#[test]
fn ranges_that_leave_the_disk_are_refused() {
    fn check(disk: &mut dyn WriteAt) {
        let size = disk.size();
        for (offset, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 16)] {
            assert!(
                disk.read_at(offset, &mut vec![0; len]).is_err(),
                "read {len} at {offset}"
            );
            assert!(
                disk.write_at(offset, &vec![0; len]).is_err(),
                "write {len} at {offset}"
            );
        }
        disk.read_at(size, &mut [])
            .expect("nothing at the end is within the disk");
    }
    let parent = MemDisk::new(BLOCK_SIZE + 10);
    check(&mut parent.clone());
    check(&mut CowDisk::new(&parent));
    check(&mut Window::new(parent.clone(), 5..100).expect("window"));
    assert!(Window::new(&parent, 5..BLOCK_SIZE as u64 + 11).is_err());
}

#[test]
fn changes_are_limited() {
    let parent = MemDisk::new(4 * BLOCK_SIZE);
    let mut cow = CowDisk::new(&parent).limited(BLOCK_SIZE as u64);
    cow.write_at(0, &[1]).expect("the first block");
    cow.write_at(1, &[1]).expect("the same block again");
    let full = cow
        .write_at(BLOCK_SIZE as u64, &[1])
        .expect_err("a second block");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    cow.write_at(BLOCK_SIZE as u64, &[0])
        .expect("what changes nothing takes no room");
}
