//! What serving a disk costs the server: processor time for one random read of 4 KiB, beside
//! nbdkit and qemu-nbd in the same run, with the same client.
//!
//! `cargo bench -p store --bench serve` measures a made-up disk; `BULLION_BENCH_DISK=<raw image>`
//! a real one. Servers are processes of their own, and this program is its own server.
//!
//! With `BULLION_BENCH_BOOT=1` the disk is booted instead, twice, until it asks for a login: what
//! is read of the store for that, and how much of it before the machine asks.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::export::{Options as ExportOptions, export};
use disk::image::Format;
use disk::{BLOCK_SIZE, DiskDigest, MemDisk, ReadAt, WriteAt};
use nbd::{Client, ExportMap, Listen, Options, Server};
use process::{Child, Command};
use store::keys::FakeKeys;
use store::{FileDisk, FrameSource, ImageFile, Keys, Serving, Store, StoreOptions};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MIB: usize = 1 << 20;
const MADE_UP_BYTES: usize = 512 * MIB;
/// Reads that a client has open at a time.
const DEPTH: usize = 16;
const HOT_READS: u64 = 400_000;
const COLD_READS: u64 = 40_000;
/// Tries in turn, so that a busy moment does not hit one server alone.
const ROUNDS: usize = 3;
/// Until an emulated machine must ask for a login.
const BOOT: Duration = Duration::from_secs(900);
/// Until a server that was started must answer.
const START: Duration = Duration::from_secs(30);
/// The argument that makes this program the server.
const SERVE: &str = "--serve-for-bench";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, store, digest, socket, cache] = &arguments[..]
        && first == SERVE
    {
        return serve(store.as_ref(), digest, socket.as_ref(), cache.parse()?);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match std::env::var_os("BULLION_BENCH_BOOT") {
        Some(_) => runtime.block_on(boots()),
        None => runtime.block_on(compare()),
    }
}

async fn boots() -> Result<()> {
    let mut out = io::stdout().lock();
    let path = std::env::var_os("BULLION_BENCH_DISK").ok_or("BULLION_BENCH_DISK names no disk")?;
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("store"), options())?;
    let digest = store.ingest(&FileDisk::open(path.as_ref())?)?.digest;
    for name in ["without a trace", "with the trace of the first"] {
        let source: Arc<dyn FrameSource> = Arc::new(store.clone());
        let serving = Serving::new()?;
        let disk = Arc::new(serving.disk(&source, &digest)?);
        disk.record();
        let exports = Arc::new(ExportMap::new());
        exports.put("disk", Arc::clone(&disk) as Arc<dyn nbd::Export>);
        let socket = folder.path().join("nbd.sock");
        let server = Server::start(&[Listen::Unix(socket)], exports, Options::default())?;
        let seconds = boot(folder.path()).await?;
        let (trace, stats) = (disk.recorded(), serving.stats());
        server.stop();
        let asked = stats.asked_frames + stats.ahead_used_frames + stats.ahead_late_frames;
        writeln!(
            out,
            "boot {name}: {seconds:.0} s to the login; the machine read {:.1} MiB of blocks; of the store \
             {:.1} MiB were read, {:.1} of them ahead; of {asked} frames that were asked for {:.1} % were there",
            trace.bytes() as f64 / MIB as f64,
            (stats.asked_bytes + stats.ahead_bytes) as f64 / MIB as f64,
            stats.ahead_bytes as f64 / MIB as f64,
            100.0 * stats.ahead_used_frames as f64 / asked as f64,
        )?;
        store.put_trace(&digest, &trace)?;
    }
    Ok(())
}

/// Seconds from the start of an emulated machine to the word that a console ends its boot with.
async fn boot(folder: &Path) -> Result<f64> {
    let disk = "if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file.driver=nbd,\
                file.server.type=unix,file.server.path=nbd.sock,file.export=disk";
    let serial = folder.join("serial");
    fs::write(&serial, "")?;
    let child = Command::new("qemu-system-x86_64")
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "1024",
        ])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "file:serial",
            "-drive",
            disk,
        ])
        .args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"])
        .env("TMPDIR", folder)
        .cwd(folder)
        .deadline(BOOT)
        .spawn()?;
    let start = Instant::now();
    let mut turn = tokio::time::interval(Duration::from_millis(100));
    let said = loop {
        turn.tick().await;
        let said = String::from_utf8_lossy(&fs::read(&serial)?).into_owned();
        if said.contains("login:") || start.elapsed() > BOOT || child.id().is_none() {
            break said;
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    child.kill().await?;
    match said.contains("login:") {
        true => Ok(seconds),
        false => Err(format!("the machine did not come to a login: {said}").into()),
    }
}

/// Encrypted, as stores are. The key is the same in every process.
fn options() -> StoreOptions {
    StoreOptions {
        keys: Keys::Service(Arc::new(FakeKeys::default())),
        ..StoreOptions::default()
    }
}

/// Serves until it is killed.
fn serve(folder: &Path, digest: &str, socket: &Path, cache: u64) -> Result<()> {
    let store = Store::open(folder, options())?;
    let source: Arc<dyn FrameSource> = Arc::new(store);
    let serving = Serving::with_cache(cache)?;
    let disk = serving.disk(&source, &digest.parse::<DiskDigest>()?)?;
    let exports = Arc::new(ExportMap::new());
    exports.put("disk", Arc::new(disk));
    let _server = Server::start(
        &[Listen::Unix(socket.to_owned())],
        exports,
        Options::default(),
    )?;
    loop {
        std::thread::park();
    }
}

/// One server to be measured: its name, how many reads, and its command line with `SOCKET` in it.
type Case = (&'static str, u64, Vec<String>);

async fn compare() -> Result<()> {
    let mut out = io::stdout().lock();
    let folder = tempfile::tempdir()?;
    let (name, raw) = match std::env::var_os("BULLION_BENCH_DISK") {
        Some(path) => (path.to_string_lossy().into_owned(), path.into()),
        None => {
            let made = folder.path().join("disk.raw");
            fs::write(&made, made_up().as_bytes())?;
            ("made-up disk".to_owned(), made)
        }
    };
    let disk = FileDisk::open(&raw)?;
    let blocks = blocks(&disk)?;
    let data = blocks.len() * BLOCK_SIZE / MIB;
    writeln!(out, "{name}: {data} MiB of data")?;
    let cases = cases(folder.path(), &raw, &disk)?;
    for round in 1..=ROUNDS {
        for (number, (name, reads, words)) in cases.iter().enumerate() {
            let socket = folder.path().join(format!("{round}-{number}.sock"));
            let socket_text = socket.display().to_string();
            let words = words.iter().map(|word| match word.as_str() {
                "SOCKET" => socket_text.as_str(),
                word => word,
            });
            let words: Vec<&str> = words.collect();
            let child = Command::new(words[0])
                .args(&words[1..])
                .deadline(Duration::from_secs(3600))
                .spawn()?;
            let measured = measure(&child, &socket, &blocks, *reads);
            child.kill().await?;
            let (cpu, wall) = measured?;
            writeln!(
                out,
                "round {round}  {name:<26} {cpu:6.1} us of processor time, {wall:7.1} us on the clock per read"
            )?;
        }
    }
    Ok(())
}

/// The same disk in a store, as it is, and as qcow2, each with who serves it.
fn cases(folder: &Path, raw: &Path, disk: &FileDisk) -> Result<Vec<Case>> {
    let store = folder.join("store");
    let digest = Store::open(&store, options())?.ingest(disk)?.digest;
    let qcow2 = folder.join("disk.qcow2");
    let mut image = ImageFile::create(&qcow2)?;
    let options = ExportOptions {
        format: Format::Qcow2,
        id: Uuid::nil(),
    };
    export(disk, &options, &mut image, &|_| true)?;
    image.finish()?;
    let own = std::env::current_exe()?;
    let ours = |cache: u64| {
        let (own, store) = (own.display().to_string(), store.display().to_string());
        let cache = cache.to_string();
        vec![
            own,
            SERVE.into(),
            store,
            digest.to_string(),
            "SOCKET".into(),
            cache,
        ]
    };
    let words = |line: &[&str], last: &Path| {
        let words = line.iter().map(|word| (*word).to_owned());
        words.chain([last.display().to_string()]).collect()
    };
    let nbdkit = words(&["nbdkit", "-f", "-r", "-U", "SOCKET", "file"], raw);
    let qemu = words(
        &["qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", "SOCKET"],
        &qcow2,
    );
    Ok(vec![
        ("hot, ours", HOT_READS, ours(4 << 30)),
        ("hot, nbdkit raw", HOT_READS, nbdkit),
        ("cold, ours", COLD_READS, ours(1 << 20)),
        ("cold, qemu-nbd qcow2 zstd", COLD_READS, qemu),
    ])
}

/// Microseconds per read: processor time of the server, and time on the clock.
fn measure(child: &Child, socket: &Path, blocks: &[u64], reads: u64) -> Result<(f64, f64)> {
    let pid = child.id().ok_or("the server has ended")?.pid;
    let start = Instant::now();
    let mut client = loop {
        // Names of exports: ours, and the empty one of the others.
        let tried =
            Client::connect_unix(socket, "disk").or_else(|_| Client::connect_unix(socket, ""));
        match tried {
            Ok(client) => break client,
            Err(error) if start.elapsed() > START => return Err(error.into()),
            Err(_) => std::thread::yield_now(),
        }
    };
    // All of it once, which fills caches where there are any.
    for first in blocks.chunks(16) {
        client.read(first[0] * BLOCK_SIZE as u64, BLOCK_SIZE as u32)?;
    }
    let (clock, cpu) = (Instant::now(), cpu_seconds(pid)?);
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        blocks[(state % blocks.len() as u64) as usize] * BLOCK_SIZE as u64
    };
    for _ in 0..DEPTH {
        client.send_read(next(), BLOCK_SIZE as u32)?;
    }
    for _ in DEPTH as u64..reads {
        client.receive_read()?;
        client.send_read(next(), BLOCK_SIZE as u32)?;
    }
    for _ in 0..DEPTH {
        client.receive_read()?;
    }
    let per_read = |seconds: f64| seconds * 1e6 / reads as f64;
    let (cpu, wall) = (cpu_seconds(pid)? - cpu, clock.elapsed().as_secs_f64());
    Ok((per_read(cpu), per_read(wall)))
}

/// Of a whole process, in steps of 10 ms.
fn cpu_seconds(pid: u32) -> Result<f64> {
    const PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("an odd stat file")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / PER_SECOND)
}

/// Blocks that may hold data.
fn blocks(disk: &dyn ReadAt) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(data) = disk.next_data(offset)? {
        let block = BLOCK_SIZE as u64;
        found.extend(data.start.div_ceil(block)..data.end / block);
        offset = data.end;
    }
    Ok(found)
}

/// Text-like, random and repeated blocks, always the same; every other MiB is a hole.
fn made_up() -> MemDisk {
    let mut disk = MemDisk::new(MADE_UP_BYTES);
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = [0; BLOCK_SIZE];
    for chunk in (0..MADE_UP_BYTES / MIB).step_by(2) {
        for at in (0..MIB).step_by(BLOCK_SIZE) {
            match next() % 8 {
                0 | 1 => bytes.fill_with(|| next() as u8),
                _ => bytes.fill_with(|| b"etaoin shrdlu\n\0\0\0"[(next() % 17) as usize]),
            }
            let offset = (chunk * MIB + at) as u64;
            disk.write_at(offset, &bytes).expect("within the disk");
        }
    }
    disk
}
