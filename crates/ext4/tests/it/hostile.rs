//! What must be refused, and what an error leaves behind.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ext4::{BlockDevice, Change, Content, Ext4Error, Links, MemoryDevice, apply, read_file};

use crate::fixture::*;

fn message(error: &Ext4Error) -> String {
    error.to_string()
}

#[test]
fn bad_paths_are_refused() {
    let mut device = blank(64);
    let mut check = |path: &[u8], expected: &str| {
        let change = Change::Dir {
            path: path.to_vec(),
            meta: meta(0o755),
        };
        let error = applied(&mut device, vec![change]).unwrap_err();
        assert!(message(&error).contains(expected), "{path:?}: {error}");
    };
    check(b"/etc", "leading or trailing slash");
    check(b"etc/", "leading or trailing slash");
    check(b"a//b", "empty component");
    check(b"a/../b", "`..`");
    check(b".", "`.`");
    check(b"nul\0", "zero byte");
    check(&[b'x'; 256], "255");
    check(&[b'x'; 5000], "too long");
    check(b"no/such", "`/no` does not exist");
}

#[test]
fn wrong_types_are_refused() {
    let mut device = blank(64);
    applied(
        &mut device,
        vec![file("f", "x"), dir("d"), symlink("l", "d")],
    )
    .unwrap();
    let mut check = |change: Change, expected: &str| {
        let mut copy = device.clone();
        let error = applied(&mut copy, vec![change]).unwrap_err();
        assert_eq!(message(&error), expected);
        assert_eq!(tree(&mut device).len(), 5);
    };
    check(file("f/x", ""), "`/f` is not a directory");
    check(file("l/x", ""), "`/l` is not a directory");
    check(hard_link("h", "d"), "`/d` is not a file");
    check(
        hard_link("h", "gone"),
        "`/gone` does not exist in the image",
    );
    check(
        Change::Meta {
            path: "gone".into(),
            meta: meta(0),
        },
        "`/gone` does not exist in the image",
    );
    check(
        symlink("s", ""),
        "`/s (symlink target)` is 0 bytes; the limit is 4095",
    );
    check(
        remove(""),
        "`/` is not a usable path: the root cannot be replaced",
    );
}

#[test]
fn a_full_image_is_named() {
    let mut device = blank(16);
    let error = applied(&mut device, vec![file("big", vec![1; 32 << 20])]).unwrap_err();
    assert_eq!(
        message(&error),
        "no space left in the image while writing `/big`"
    );
}

#[test]
fn reading_respects_the_limit() {
    let mut device = blank(64);
    applied(&mut device, vec![file("f", vec![1; 100])]).unwrap();
    assert!(matches!(
        read_file(&mut device, b"f", 99),
        Err(Ext4Error::TooLarge {
            size: 100,
            limit: 99,
            ..
        })
    ));
    assert_eq!(read_file(&mut device, b"nothing", 99).unwrap(), None);
    assert_eq!(read_file(&mut device, b"f/nothing", 99).unwrap(), None);
    assert!(matches!(
        read_file(&mut device, b"lost+found", 99),
        Err(Ext4Error::WrongType { .. })
    ));
}

#[test]
fn other_file_systems_are_refused() {
    let check = |device: &mut MemoryDevice, expected: &str| {
        let error = applied(device, vec![dir("d")]).unwrap_err();
        assert!(message(&error).contains(expected), "{error}");
    };
    check(&mut MemoryDevice::new(vec![0; 1 << 20]), "cannot open");
    check(
        &mut MemoryDevice::new(vec![0; 100]),
        "superblock cannot be read",
    );
    check(
        &mut blank_with(16, &["-b", "1024"]),
        "blocks are 1024 bytes",
    );
    check(
        &mut blank_with(64, &["-O", "inline_data"]),
        "features 0x8000",
    );
    check(&mut blank_with(64, &["-O", "quota"]), "features 0x100");
    let mut dirty = blank(64).into_bytes();
    dirty[1024 + 0x3a] = 0; // s_state: not unmounted cleanly
    check(&mut MemoryDevice::new(dirty), "");
}

#[test]
fn content_that_cannot_be_read_names_the_path() {
    let mut device = blank(64);
    let content = |content| {
        vec![Change::File {
            path: "f".into(),
            meta: meta(0o644),
            content,
            links: Links::Break,
        }]
    };
    let error = applied(&mut device, content(Content::File("/no/such/file".into()))).unwrap_err();
    assert_eq!(message(&error), "cannot read the new content of `/f`");
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short");
    std::fs::write(&short, "abc").unwrap();
    let range = Content::FileRange {
        path: short,
        offset: 2,
        length: 5,
    };
    assert!(matches!(
        applied(&mut blank(64), content(range)),
        Err(Ext4Error::Content { .. })
    ));
}

#[test]
fn the_clock_must_be_set() {
    let mut device = blank(64);
    assert!(matches!(
        apply(&mut device, &mut std::iter::empty(), 0),
        Err(Ext4Error::BadClock { clock: 0 })
    ));
}

/// Passes everything on until the given number of calls, then does what it was told.
struct Failing {
    inner: MemoryDevice,
    calls_left: u64,
    panics: bool,
}

impl Failing {
    fn count(&mut self) -> io::Result<()> {
        match self.calls_left.checked_sub(1) {
            Some(left) => {
                self.calls_left = left;
                Ok(())
            }
            None if self.panics => panic!("the device panicked"),
            None => Err(io::Error::other("the device failed")),
        }
    }
}

impl BlockDevice for Failing {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.count()?;
        self.inner.read(offset, buf)
    }
    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.count()?;
        self.inner.write(offset, buf)
    }
    fn size(&self) -> u64 {
        self.inner.size()
    }
}

fn some_records() -> Vec<Change> {
    vec![
        dir("d"),
        file("d/f", vec![1; 20_000]),
        Change::Xattrs {
            path: "d/f".into(),
            xattrs: vec![xattr("user.x", vec![1; 2000])],
        },
        symlink("d/l", vec![b'x'; 500]),
        remove("d"),
    ]
}

#[test]
fn a_device_error_at_any_call_is_reported() {
    let blank = blank(64);
    let mut failures = 0;
    for calls_left in 0.. {
        let mut device = Failing {
            inner: blank.clone(),
            calls_left,
            panics: false,
        };
        match apply(&mut device, &mut some_records().into_iter().map(Ok), EPOCH) {
            Ok(_) => break,
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                assert_eq!(
                    source.as_deref(),
                    Some("the device failed"),
                    "after {calls_left}: {error}"
                );
                failures += 1;
            }
        }
    }
    assert!(failures > 20, "{failures}");
}

#[test]
fn a_panic_of_the_device_passes_through() {
    let blank = blank(64);
    for calls_left in [0, 3, 30] {
        let mut device = Failing {
            inner: blank.clone(),
            calls_left,
            panics: true,
        };
        let caught = catch_unwind(AssertUnwindSafe(|| {
            apply(&mut device, &mut some_records().into_iter().map(Ok), EPOCH)
        }));
        let panic = caught.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the device panicked"));
    }
}

#[test]
fn a_failing_source_of_changes_stops_the_work() {
    let mut device = blank(64);
    let mut changes = vec![Ok(dir("d")), Err("lost".into())].into_iter();
    assert!(matches!(
        apply(&mut device, &mut changes, EPOCH),
        Err(Ext4Error::Changes(_))
    ));
}
