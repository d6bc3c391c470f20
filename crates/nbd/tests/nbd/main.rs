//! The server as its clients see it: our own, and those of other programs.

mod hostile;
mod peers;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use disk::{BLOCK_SIZE, MemDisk, ReadAt, WriteAt};
use nbd::{Client, ClientError, Export, ExportMap, Listen, NbdError, Options, Server};
use tempfile::TempDir;

/// A disk in memory; reads below `ready` need no waiting, and those of `broken` fail.
struct Disk {
    bytes: Mutex<MemDisk>,
    ready: u64,
    broken: Range<u64>,
    is_writable: bool,
    flushes: Mutex<u32>,
}

impl Disk {
    /// Every other 64 KiB is a hole.
    fn striped(size: usize) -> Disk {
        let mut disk = MemDisk::new(size);
        for start in (0..size).step_by(128 << 10) {
            let len = (64 << 10).min(size - start);
            let bytes: Vec<u8> = (0..len)
                .map(|at| ((start >> 10) + at / 7) as u8 | 1)
                .collect();
            disk.write_at(start as u64, &bytes).unwrap();
        }
        Disk {
            bytes: Mutex::new(disk),
            ready: 0,
            broken: 0..0,
            is_writable: false,
            flushes: Mutex::default(),
        }
    }

    fn writable(size: usize) -> Disk {
        Disk {
            is_writable: true,
            ..Disk::striped(size)
        }
    }

    fn content(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().as_bytes().to_vec()
    }
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset < self.broken.end && self.broken.start < offset + buf.len() as u64 {
            return Err(io::Error::other("a bad place"));
        }
        self.bytes.lock().unwrap().read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.bytes.lock().unwrap().next_data(offset)
    }
}

impl Export for Disk {
    fn description(&self) -> String {
        "a disk of stripes".to_owned()
    }

    fn is_writable(&self) -> bool {
        self.is_writable
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        offset + (buf.len() as u64) <= self.ready && self.read_at(offset, buf).is_ok()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.lock().unwrap().write_at(offset, bytes)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().zero_at(offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        *self.flushes.lock().unwrap() += 1;
        Ok(())
    }
}

/// A server on a socket in a folder of its own.
struct Served {
    folder: TempDir,
    server: Server,
    disk: Arc<Disk>,
}

impl Served {
    fn new(disk: Disk) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(disk);
        let exports = Arc::new(ExportMap::new());
        exports.put("disk", Arc::clone(&disk) as Arc<dyn Export>);
        let listen = [Listen::Unix(folder.path().join("nbd.sock"))];
        let server = Server::start(&listen, exports, Options::default()).unwrap();
        Served {
            folder,
            server,
            disk,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket().display())
    }

    fn client(&self) -> Client {
        Client::connect_unix(&self.socket(), "disk").unwrap()
    }
}

const MIB: usize = 1 << 20;

#[test]
fn what_is_read_is_what_the_disk_holds() {
    let served = Served::new(Disk {
        ready: 300 << 10,
        ..Disk::striped(3 * MIB + 100)
    });
    let content = served.disk.content();
    let mut client = served.client();
    assert_eq!(client.size(), content.len() as u64);
    assert!(!client.is_writable());
    let end = content.len() as u64;
    let ranges = [
        (0, 1),
        (0, 4096),
        (5, 70_000),
        (MIB as u64, MIB as u32),
        (end - 1, 1),
        (7, 0),
    ];
    for (offset, len) in ranges.into_iter().chain([(0, end as u32)]) {
        let got = client.read(offset, len).unwrap();
        let start = offset as usize;
        assert!(
            got == content[start..start + len as usize],
            "{offset} {len}"
        );
    }
    // Many at once: ready ones overtake the others.
    for round in 0..40 {
        client.send_read(round * 65_536, 4096).unwrap();
    }
    let mut got: Vec<Vec<u8>> = (0..40).map(|_| client.receive_read().unwrap()).collect();
    let mut wanted: Vec<Vec<u8>> = (0..40)
        .map(|round| content[round * 65_536..][..4096].to_vec())
        .collect();
    got.sort();
    wanted.sort();
    assert!(got == wanted);
    client.disconnect().unwrap();
}

#[test]
fn holes_are_told() {
    let served = Served::new(Disk::striped(MIB));
    let mut client = served.client();
    let found = client.status(0, 256 << 10).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|part| (part.range.clone(), part.is_hole))
        .collect();
    let kib = |from: u64, to: u64| from << 10..to << 10;
    assert_eq!(
        found,
        [
            (kib(0, 64), false),
            (kib(64, 128), true),
            (kib(128, 192), false),
            (kib(192, 256), true)
        ]
    );
}

#[test]
fn bad_requests_are_refused_and_the_connection_lives() {
    let served = Served::new(Disk {
        broken: 400_000..400_001,
        ..Disk::striped(MIB)
    });
    let mut client = served.client();
    let refused = |result: Result<Vec<u8>, ClientError>, expected: NbdError| match result {
        Err(ClientError::Request(error)) => assert_eq!(error, expected),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    };
    refused(client.read(MIB as u64, 1), NbdError::Invalid);
    refused(client.read(u64::MAX, 4096), NbdError::Invalid);
    refused(client.read(397_312, 4096), NbdError::Io);
    refused(client.read(0, MIB as u32), NbdError::Io);
    refused(client.read(0, u32::MAX / 64), NbdError::Overflow);
    refused(
        client.write(0, &[1]).map(|()| vec![]),
        NbdError::NotPermitted,
    );
    refused(
        client.trim(0, 4096).map(|()| vec![]),
        NbdError::NotPermitted,
    );
    assert_eq!(client.read(0, 4).unwrap(), served.disk.content()[..4]);
    assert!(matches!(
        Client::connect_unix(&served.socket(), "other"),
        Err(ClientError::Refused(_))
    ));
}

#[test]
fn what_one_writes_all_read() {
    let served = Served::new(Disk::writable(MIB));
    let (mut one, mut other) = (served.client(), served.client());
    assert!(one.is_writable());
    let mut expected = served.disk.content();
    for (offset, len) in [(0usize, 512), (70_001, 100_000), (MIB - 3, 3)] {
        let bytes = vec![offset as u8 | 3; len];
        one.write(offset as u64, &bytes).unwrap();
        expected[offset..offset + len].copy_from_slice(&bytes);
    }
    one.zero(4096, 8192).unwrap();
    expected[4096..12_288].fill(0);
    one.flush().unwrap();
    assert!(other.read(0, MIB as u32).unwrap() == expected);
    let before = *served.disk.flushes.lock().unwrap();
    other.trim(0, BLOCK_SIZE as u32).unwrap();
    assert_eq!(
        *served.disk.flushes.lock().unwrap(),
        before + 1,
        "it was to be durable"
    );
    assert!(matches!(
        one.write(MIB as u64 - 1, &[1, 2]),
        Err(ClientError::Request(NbdError::NoSpace))
    ));
}

#[test]
fn a_server_that_stops_leaves_nothing() {
    let served = Served::new(Disk::striped(MIB));
    let mut client = served.client();
    client.read(0, 4096).unwrap();
    let socket = served.socket();
    let again = Server::start(
        &[Listen::Unix(socket.clone())],
        Arc::new(ExportMap::new()),
        Options::default(),
    );
    assert!(again.unwrap_err().to_string().contains("in use"));
    served.server.stop();
    assert!(!socket.exists());
    assert!(client.read(0, 4096).is_err());
}

#[test]
fn a_socket_that_was_left_is_taken_over_and_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("deep".repeat(40));
    std::fs::create_dir(&deep).unwrap();
    let socket = deep.join("nbd.sock");
    let start = || {
        let listen = [Listen::Unix(socket.clone())];
        Server::start(&listen, Arc::new(ExportMap::new()), Options::default())
    };
    let left = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    std::fs::rename(left, &socket).unwrap();
    start().unwrap().stop();
    std::fs::write(&socket, "mine").unwrap();
    assert!(start().is_err());
    assert_eq!(std::fs::read(&socket).unwrap(), b"mine");
}
