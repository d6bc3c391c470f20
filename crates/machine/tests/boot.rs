//! Machines that really run, with guests of a few instructions: what QEMU, its control socket,
//! its disk overlay and its process do. Needs no network and no image; always TCG, so that the
//! result does not depend on the host.

use disk::image::{self, Image, Limits, blank_layer};
use disk::{MemDisk, ReadAt, WriteAt};
use machine::{
    Accel, Acceleration, DataDisk, Firmware, Guest, Hypervisor, Lifetime, MachineDisk,
    MachineError, MachineSpec, MediaFile, Qemu, ServedDisk, Stopped,
};
use nbd::{Export, ExportMap, Listen, Options, Server};
use process::ProcessId;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Far more than any wait here needs; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(500);
const SECTOR: usize = 512;

/// Writes its own sector to the disk's second one, says `UP` on the serial port and halts.
#[rustfmt::skip]
const WRITES_AND_HALTS: &[u8] = &[
    0x31, 0xc0,             // xor ax, ax
    0x8e, 0xc0,             // mov es, ax
    0xbb, 0x00, 0x7c,       // mov bx, 0x7c00
    0xb8, 0x01, 0x03,       // mov ax, 0x0301: write one sector
    0xb9, 0x02, 0x00,       // mov cx, 2: cylinder 0, sector 2
    0xb6, 0x00,             // mov dh, 0: head 0; dl is the disk that we came from
    0xcd, 0x13,             // int 0x13
    0xba, 0xf8, 0x03,       // mov dx, 0x3f8
    0xb0, b'U', 0xee,       // out 'U'
    0xb0, b'P', 0xee,       // out 'P'
    0xb0, b'\n', 0xee,      // out '\n'
    0xf4, 0xeb, 0xfd,       // hlt, for ever
];

/// Says `BYE` on the serial port and switches the power off.
#[rustfmt::skip]
const POWERS_OFF: &[u8] = &[
    0xba, 0xf8, 0x03,       // mov dx, 0x3f8
    0xb0, b'B', 0xee,
    0xb0, b'Y', 0xee,
    0xb0, b'E', 0xee,
    0xba, 0x04, 0x06,       // mov dx, 0x604: ACPI's power management control
    0xb8, 0x00, 0x20,       // mov ax, 0x2000: sleep enable, type 0 (off)
    0xef,                   // out dx, ax
    0xf4, 0xeb, 0xfd,
];

/// Says what firmware might on the second serial port, and then what an agent would that has not read the medium.
#[rustfmt::skip]
const SPEAKS: &[u8] = &[
    0x31, 0xc0,             // xor ax, ax
    0x8e, 0xd8,             // mov ds, ax
    0xbe, 0x15, 0x7c,       // mov si, 0x7c15: the text behind this
    0xba, 0xf8, 0x02,       // mov dx, 0x2f8
    0xac,                   // lodsb
    0x84, 0xc0,             // test al, al
    0x74, 0x03,             // jz to the halt
    0xee,                   // out dx, al
    0xeb, 0xf8,             // jmp to lodsb
    0xf4, 0xeb, 0xfd,       // hlt, for ever
];
const SPOKEN: &[u8] = b"\x1b[2J\x1b[01;01Hboot\r\n#bullion:{\"say\":\"hello\",\"version\":1,\"key\":\"x\",\"boot\":\"1\"}\n\0";

struct Bench {
    folder: TempDir,
    qemu: Qemu,
}

impl Bench {
    fn new(guest: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = guest.to_vec();
        disk.resize(510, 0);
        disk.extend([0x55, 0xaa]);
        disk.resize(1024 * 1024, 0);
        std::fs::write(folder.path().join("disk, raw"), disk).unwrap();
        let qemu = Qemu::new(Acceleration {
            accel: Accel::Tcg,
            why: "a test".into(),
        });
        Self { folder, qemu }
    }

    fn spec(&self, lifetime: Lifetime) -> MachineSpec {
        // Deeper than a socket's path may be.
        let dir = self.folder.path().join("deep".repeat(30)).join("machine");
        MachineSpec {
            lifetime,
            snapshot: lifetime == Lifetime::Throwaway,
            firmware: Firmware::Bios,
            cpus: 1,
            memory_mib: 64,
            ..MachineSpec::new("tiny", dir, self.folder.path().join("disk, raw"))
        }
    }

    fn second_sector_written(&self) -> bool {
        let disk = std::fs::read(self.folder.path().join("disk, raw")).unwrap();
        disk[SECTOR..2 * SECTOR] == disk[..SECTOR]
    }
}

async fn says(guest: &Arc<dyn Guest>, text: &str) {
    let said = async {
        while !guest.serial_tail(1000).await.unwrap().contains(text) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let said = tokio::time::timeout(PATIENCE, said).await;
    said.expect("the guest did not say it");
}

async fn gone(id: ProcessId) {
    let gone = tokio::time::timeout(PATIENCE, id.gone()).await;
    gone.expect("it still runs").unwrap();
}

fn mode_of(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn throwaway_forgets_its_disk_and_ends_with_its_handle() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let spec = bench.spec(Lifetime::Throwaway);
    let dir = spec.dir.clone();
    let guest = bench.qemu.start(spec.clone()).await.unwrap();
    says(&guest, "UP").await;
    assert!(guest.is_running());
    assert_eq!(mode_of(&dir), 0o700);
    assert_eq!(mode_of(&guest.info().key_file), 0o600);
    let again = bench.qemu.start(spec).await.err().unwrap();
    assert!(matches!(again, MachineError::Occupied { .. }), "{again}");
    let id = ProcessId::of(guest.info().pid).unwrap();
    drop(guest);
    gone(id).await;
    assert!(!bench.second_sector_written());
    assert!(bench.qemu.adopt(&dir).await.unwrap().is_none());
}

/// The disk of a bench, served instead of opened; writes are counted and kept.
struct Served {
    disk: Mutex<MemDisk>,
    writes: AtomicU32,
}

impl ReadAt for Served {
    fn size(&self) -> u64 {
        self.disk.lock().unwrap().size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.disk.lock().unwrap().read_at(offset, buf)
    }
}

impl Export for Served {
    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.disk.lock().unwrap().write_at(offset, bytes)
    }
}

#[tokio::test]
async fn a_served_disk_is_booted_from_and_forgets_or_keeps_what_is_written() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let bytes = std::fs::read(bench.folder.path().join("disk, raw")).unwrap();
    let disk = Arc::new(Served {
        disk: Mutex::new(MemDisk::from(bytes)),
        writes: AtomicU32::new(0),
    });
    let exports = Arc::new(ExportMap::new());
    exports.put("disk-1", Arc::clone(&disk) as Arc<dyn Export>);
    let socket = bench.folder.path().join("deep".repeat(20)).join("nbd.sock");
    std::fs::create_dir(socket.parent().unwrap()).unwrap();
    let listen = [Listen::Unix(socket.clone())];
    let _server = Server::start(&listen, exports, Options::default()).unwrap();
    let second_sector = || {
        let mut sector = [0; SECTOR];
        disk.read_at(SECTOR as u64, &mut sector).unwrap();
        sector
    };
    let spec = MachineSpec {
        disk: MachineDisk::Served(ServedDisk {
            socket,
            export: "disk-1".to_owned(),
        }),
        ..bench.spec(Lifetime::Throwaway)
    };
    let guest = bench.qemu.start(spec.clone()).await.unwrap();
    says(&guest, "UP").await;
    guest.kill().await.unwrap();
    assert_eq!(disk.writes.load(Ordering::SeqCst), 0);
    assert_eq!(second_sector(), [0; SECTOR]);

    let spec = MachineSpec {
        snapshot: false,
        ..spec
    };
    let guest = bench.qemu.start(spec).await.unwrap();
    says(&guest, "UP").await;
    guest.stop(SHORT).await.unwrap();
    assert_ne!(second_sector(), [0; SECTOR]);
}

/// The server of the disk below goes away and comes back while its machine runs and while the disk is filled; then it is
/// not needed any more.
#[tokio::test]
async fn a_layer_waits_for_what_is_below_and_then_needs_it_no_more() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let bytes = std::fs::read(bench.folder.path().join("disk, raw")).unwrap();
    let mut expected = bytes.clone();
    expected.copy_within(..SECTOR, SECTOR);
    let socket = bench.folder.path().join("nbd.sock");
    let serve = |name: &'static str| {
        let exports = Arc::new(ExportMap::new());
        let disk = Served {
            disk: Mutex::new(MemDisk::from(bytes.clone())),
            writes: AtomicU32::new(0),
        };
        exports.put(name, Arc::new(disk) as Arc<dyn Export>);
        Server::start(&[Listen::Unix(socket.clone())], exports, Options::default()).unwrap()
    };
    let file = bench.folder.path().join("disk, qcow2");
    let named = "nbd+unix:///disk-1?socket=disk.sock";
    std::fs::write(&file, blank_layer(bytes.len() as u64, named)).unwrap();
    let data = bench.folder.path().join("data.qcow2");
    std::fs::copy(&file, &data).unwrap();
    let below = |file: &Path| image::below(MemDisk::from(std::fs::read(file).unwrap())).unwrap();
    assert_eq!(below(&file).as_deref(), Some(named));

    let server = serve("disk-1");
    let layer = |file: &Path| MachineDisk::Layer {
        file: file.to_owned(),
        below: Some(ServedDisk {
            socket: socket.clone(),
            export: "disk-1".to_owned(),
        }),
    };
    let spec = MachineSpec {
        disk: layer(&file),
        data_disks: vec![DataDisk {
            lun: 3,
            disk: layer(&data),
        }],
        ..bench.spec(Lifetime::Persistent)
    };
    let dir = spec.dir.clone();
    let guest = bench.qemu.start(spec).await.unwrap();
    says(&guest, "UP").await;
    drop(server);
    let filling = tokio::time::timeout(SHORT, guest.fill()).await;
    assert!(filling.is_err(), "it waits");
    assert!(guest.is_running());
    drop(guest);
    // Another process takes the machine over, and has the disk a moment later.
    let guest = bench.qemu.adopt(&dir).await.unwrap().unwrap();
    let (unknown, known) = tokio::join!(tokio::time::timeout(PATIENCE, guest.fill()), async {
        drop(serve("another-disk"));
        serve("disk-1")
    });
    unknown.expect("it is filled").unwrap();
    drop(known);
    assert_eq!((below(&file), below(&data)), (None, None));
    guest.fill().await.unwrap();
    guest.kill().await.unwrap();
    for (file, expected) in [(&file, &expected), (&data, &bytes)] {
        let image = MemDisk::from(std::fs::read(file).unwrap());
        let image = Image::open(image, Limits::default()).unwrap();
        let mut content = vec![0; expected.len()];
        image.read_at(0, &mut content).unwrap();
        assert!(content == *expected, "{}", file.display());
    }

    let spec = MachineSpec {
        disk: MachineDisk::Layer { file, below: None },
        ..bench.spec(Lifetime::Persistent)
    };
    let guest = bench.qemu.start(spec).await.unwrap();
    says(&guest, "UP").await;
    guest.fill().await.unwrap();
    guest.kill().await.unwrap();
}

#[tokio::test]
async fn persistent_is_adopted_and_starts_again() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let spec = bench.spec(Lifetime::Persistent);
    let dir = spec.dir.clone();
    let guest = bench.qemu.start(spec.clone()).await.unwrap();
    says(&guest, "UP").await;
    assert!(bench.second_sector_written());
    let before = guest.info().clone();
    drop(guest);

    // What a server does after a restart.
    let guest = bench.qemu.adopt(&dir).await.unwrap().expect("it runs");
    assert_eq!(*guest.info(), before);
    assert!(guest.is_running());
    // This guest does not hear the power button.
    assert_eq!(guest.stop(SHORT).await.unwrap(), Stopped::Forced);
    assert!(!guest.is_running());
    assert_eq!(guest.stop(SHORT).await.unwrap(), Stopped::Cleanly);
    guest.kill().await.unwrap();
    assert!(bench.qemu.adopt(&dir).await.unwrap().is_none());

    let guest = bench.qemu.start(spec).await.unwrap();
    assert_eq!(guest.info().host_key, before.host_key);
    guest.kill().await.unwrap();
    assert!(!guest.is_running());
}

/// A server that is killed right after it started a machine left one that the next server finds.
#[tokio::test]
async fn a_start_that_was_cut_off_is_adopted() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let spec = bench.spec(Lifetime::Persistent);
    let record = spec.dir.join("machine.json");
    let written = async {
        while !record.exists() {
            tokio::task::yield_now().await;
        }
    };
    let written = tokio::time::timeout(PATIENCE, written);
    tokio::select! {
        biased;
        written = written => written.expect("the machine is written down"),
        started = bench.qemu.start(spec.clone()) => drop(started.unwrap()),
    }
    let guest = bench.qemu.adopt(&spec.dir).await.unwrap().expect("it runs");
    says(&guest, "UP").await;
    guest.kill().await.unwrap();
}

#[tokio::test]
async fn another_process_with_the_same_id_is_not_adopted() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let spec = bench.spec(Lifetime::Persistent);
    let guest = bench.qemu.start(spec.clone()).await.unwrap();
    let file = spec.dir.join("machine.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let ticks = record["startTicks"].as_u64().unwrap();
    record["startTicks"] = (ticks + 1).into();
    std::fs::write(&file, record.to_string()).unwrap();
    assert!(bench.qemu.adopt(&spec.dir).await.unwrap().is_none());
    guest.kill().await.unwrap();
}

#[tokio::test]
async fn no_login_is_explained_by_the_console() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let guest = bench
        .qemu
        .start(bench.spec(Lifetime::Throwaway))
        .await
        .unwrap();
    says(&guest, "UP").await;
    let error = guest.wait_ready(Duration::from_secs(2)).await.unwrap_err();
    let MachineError::NotReady { serial, accel, .. } = &error else {
        panic!("{error}");
    };
    assert!(serial.contains("UP"), "{serial}");
    assert_eq!(*accel, Accel::Tcg);
}

#[tokio::test]
async fn a_machine_that_ends_while_we_wait_is_noticed() {
    for lifetime in [Lifetime::Throwaway, Lifetime::Persistent] {
        // It goes down by itself, perhaps before we look for the first time.
        let bench = Bench::new(POWERS_OFF);
        let guest = bench.qemu.start(bench.spec(lifetime)).await.unwrap();
        let error = guest.wait_ready(PATIENCE).await.unwrap_err();
        let MachineError::Ended { serial, .. } = &error else {
            panic!("{error}");
        };
        assert!(serial.contains("BYE"), "{serial}");

        // It is killed.
        let bench = Bench::new(WRITES_AND_HALTS);
        let guest = bench.qemu.start(bench.spec(lifetime)).await.unwrap();
        says(&guest, "UP").await;
        let id = ProcessId::of(guest.info().pid).unwrap();
        let (ready, killed) = tokio::join!(guest.wait_ready(PATIENCE), id.kill());
        killed.unwrap();
        let error = ready.unwrap_err();
        assert!(matches!(error, MachineError::Ended { .. }), "{error}");
        let error = guest.exec("true", PATIENCE).await.unwrap_err();
        assert!(matches!(error, MachineError::Ended { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_qemu_refuses_is_told() {
    let bench = Bench::new(WRITES_AND_HALTS);
    for lifetime in [Lifetime::Throwaway, Lifetime::Persistent] {
        let spec = MachineSpec {
            cpus: 255,
            memory_mib: 100_000_000,
            ..bench.spec(lifetime)
        };
        let error = bench.qemu.start(spec).await.err().unwrap();
        let MachineError::Ended { stderr, .. } = &error else {
            panic!("{error}");
        };
        assert!(!stderr.is_empty());
    }
}

#[tokio::test]
async fn a_machine_with_uefi_starts() {
    let bench = Bench::new(WRITES_AND_HALTS);
    let spec = MachineSpec {
        firmware: Firmware::Uefi,
        memory_mib: 256,
        ..bench.spec(Lifetime::Throwaway)
    };
    let guest = bench.qemu.start(spec).await.unwrap();
    // The firmware looks for something to boot and says so; this disk has nothing for it.
    says(&guest, "BdsDxe").await;
    guest.kill().await.unwrap();
}

#[tokio::test]
async fn a_windows_gets_the_devices_that_it_knows_and_is_heard_on_its_second_port() {
    let bench = Bench::new(&[SPEAKS, SPOKEN].concat());
    let file = bench.folder.path().join("a=b, c");
    std::fs::write(&file, "a setup").unwrap();
    let spec = MachineSpec {
        memory_mib: 64,
        data_disks: vec![DataDisk {
            lun: 2,
            disk: bench.folder.path().join("disk, raw").into(),
        }],
        media: vec![MediaFile {
            name: "0".to_owned(),
            path: file,
        }],
        ..bench.spec(Lifetime::Throwaway).windows()
    };
    let dir = spec.dir.clone();
    let guest = bench.qemu.start(spec).await.unwrap();
    let error = guest.wait_ready(PATIENCE).await.unwrap_err().to_string();
    assert!(
        error.contains("it has not read this machine's medium"),
        "{error}"
    );
    assert!(guest.exec("dir", PATIENCE).await.is_err());
    // What is on the medium is nobody else's to read, and is not kept twice.
    assert_eq!(mode_of(&dir), 0o700);
    assert!(dir.join("medium.iso").exists() && !dir.join("medium").exists());
    assert_eq!(guest.stop(SHORT).await.unwrap(), Stopped::Forced);
    assert!(!guest.is_running());
}
