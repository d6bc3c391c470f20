//! A mirror that fails half-way: a real archive behind a server that cuts off, refuses or changes what it passes on. The
//! error names the address, nothing half-made is kept, and the state is pinned when it is whole again. And the same
//! archive as that of another distribution, which an operator describes.
//!
//! Needs root and apt's mirrors.

// A test asks apt where this machine's archive is, and says what it waits for.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use factory::build::ParentDisk;
use factory::fake_keys::FakeKeys;
use factory::fetch::{Reach, Web};
use factory::source::{AptArchive, BaseRequest, Marketplace, PlatformImage, Provider, SourceLine};
use process::Command;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const RELEASE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Packages that are passed on before the first one is spoilt.
const GOOD_FIRST: u32 = 5;
/// Packages at which it may hang until it is given up.
const HUNG_MAX: u32 = 6;

/// What happens to files that are spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The connection ends in the middle of a file.
    Cut,
    /// Nothing more comes from the middle of a file on.
    Hang,
    Refuse,
    WrongBytes,
}

const FAULTS: [Fault; 5] = [
    Fault::None,
    Fault::Cut,
    Fault::Hang,
    Fault::Refuse,
    Fault::WrongBytes,
];
/// Nobody wants to wait as long as users do.
const SILENCE: Duration = Duration::from_secs(2);

/// Passes on an archive.
struct Mirror {
    port: u16,
    state: Arc<State>,
}

struct State {
    web: reqwest::Client,
    /// Where each of our folders really is: `debian`, `debian-security`.
    archives: Vec<(String, String)>,
    /// What is not passed on, by its path.
    own: Mutex<BTreeMap<String, Vec<u8>>>,
    fault: AtomicU8,
    passed: AtomicU32,
}

impl State {
    /// Indexes, by their hashes and by their names, and all packages but the first few.
    fn spoils(&self, path: &str) -> bool {
        if path.ends_with(".deb") {
            return self.passed.fetch_add(1, Ordering::SeqCst) >= GOOD_FIRST;
        }
        path.contains("/by-hash/") || path.contains("/Packages")
    }

    /// What the real archive answers.
    async fn pass_on(&self, path: &str) -> Option<(reqwest::StatusCode, Vec<u8>)> {
        let (folder, rest) = path.trim_start_matches('/').split_once('/')?;
        let (_, site) = self.archives.iter().find(|(name, _)| name == folder)?;
        let fetched = self.web.get(format!("{site}/{rest}")).send().await.ok()?;
        let status = fetched.status();
        Some((status, fetched.bytes().await.ok()?.to_vec()))
    }
}

impl Mirror {
    async fn start(archives: Vec<(String, String)>) -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            web: reqwest::Client::new(),
            archives,
            own: Mutex::default(),
            fault: AtomicU8::new(0),
            passed: AtomicU32::new(0),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Mirror { port, state }
    }

    fn set(&self, fault: Fault) {
        let index = FAULTS.iter().position(|one| *one == fault).unwrap_or(0);
        self.state
            .fault
            .store(u8::try_from(index).unwrap_or(0), Ordering::SeqCst);
        self.state.passed.store(0, Ordering::SeqCst);
    }

    fn lines(&self) -> Vec<SourceLine> {
        let line = |folder: &str, suite: &str| SourceLine {
            uri: format!("http://127.0.0.1:{}/{folder}", self.port),
            suite: suite.to_owned(),
            components: vec!["main".to_owned()],
            signed_by: Some(KEYRING.to_owned()),
        };
        vec![
            line("debian", RELEASE),
            line("debian", &format!("{RELEASE}-updates")),
            line("debian-security", &format!("{RELEASE}-security")),
        ]
    }
}

/// Requests of one connection, one after the other.
async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut pending = Vec::new();
    while let Some(path) = next_request(&mut stream, &mut pending).await {
        if answer(&mut stream, &state, &path).await.is_none() {
            return;
        }
    }
}

async fn next_request(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = pending.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            return head.split(' ').nth(1).map(str::to_owned);
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok()?;
        if count == 0 || pending.len() > REQUEST_BYTES_MAX {
            return None;
        }
        pending.extend_from_slice(&piece[..count]);
    }
}

/// Nothing once the connection is to be closed.
async fn answer(stream: &mut TcpStream, state: &State, path: &str) -> Option<()> {
    let own = state
        .own
        .lock()
        .expect("what is our own")
        .get(path)
        .cloned();
    let (mut status, mut body) = match own {
        Some(body) => (reqwest::StatusCode::OK, body),
        None => state.pass_on(path).await?,
    };
    let whole = body.len();
    let fault = match status.is_success() && state.spoils(path) {
        true => FAULTS[usize::from(state.fault.load(Ordering::SeqCst))],
        false => Fault::None,
    };
    match fault {
        Fault::None => {}
        Fault::Cut | Fault::Hang => body.truncate(whole / 2),
        Fault::Refuse => {
            status = reqwest::StatusCode::SERVICE_UNAVAILABLE;
            body.clear();
        }
        Fault::WrongBytes => {
            let half = body.iter_mut().skip(whole / 2);
            half.for_each(|byte| *byte ^= 0x55);
        }
    }
    let told = match fault {
        Fault::Cut | Fault::Hang => whole,
        _ => body.len(),
    };
    let reason = status.canonical_reason().unwrap_or("Unknown");
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Length: {told}\r\n\r\n",
        status.as_u16()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()?;
    if fault == Fault::Hang {
        // Until whoever waits for the rest has had enough.
        let _ = stream.read(&mut [0; 1]).await;
    }
    (told == body.len()).then_some(())
}

/// Where this machine takes the release from, by the folder that we show it in.
fn archives() -> Vec<(String, String)> {
    let listing = std::process::Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(SITE) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ])
        .output()
        .expect("apt-get");
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let of = |suite: &str| {
        let wanted = format!(" {suite} main");
        let line = listing.lines().find(|line| line.ends_with(&wanted));
        let site = line.and_then(|line| line.split(' ').next());
        site.unwrap_or_else(|| panic!("apt has no {suite}"))
            .trim_end_matches('/')
            .to_owned()
    };
    vec![
        ("debian".to_owned(), of(RELEASE)),
        (
            "debian-security".to_owned(),
            of(&format!("{RELEASE}-security")),
        ),
    ]
}

/// An error and its causes, as a run tells them.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

fn names_below(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[track_caller]
fn names_the_mirror(fault: Fault, text: &str, mirror: &Mirror) {
    println!("{fault:?}: {text}");
    assert!(
        text.contains(&format!("127.0.0.1:{}", mirror.port)),
        "{fault:?}: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_fails_half_way_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mirror = Mirror::start(archives()).await;
    let provider = AptArchive::new(folder.path()).with_silence(SILENCE);
    let image: PlatformImage = "Debian:debian-12:12-gen2:latest".parse().expect("an image");
    let lines = mirror.lines();
    for fault in &FAULTS[1..] {
        let fault = *fault;
        mirror.set(fault);
        let error = provider
            .resolve(&image, &lines)
            .await
            .expect_err("a spoilt list");
        names_the_mirror(fault, &told(&error), &mirror);
        assert!(
            provider.products()[0].versions.is_empty(),
            "nothing is pinned"
        );
    }
    mirror.set(Fault::None);
    let pin = provider
        .resolve(&image, &lines)
        .await
        .expect("a whole mirror");

    let request = BaseRequest { disk_gib: 2 };
    let log: factory::source::LogLine = Arc::new(|line: &str| println!("{line}"));
    for fault in &FAULTS[1..] {
        let fault = *fault;
        mirror.set(fault);
        let work = tempfile::tempdir_in(folder.path()).expect("a folder");
        let made = provider
            .bootstrap(&pin, &request, work.path(), Arc::clone(&log))
            .await;
        names_the_mirror(fault, &told(&made.expect_err("a spoilt package")), &mirror);
        // There are two hundred, and apt would wait at each.
        let asked = mirror.state.passed.load(Ordering::SeqCst);
        assert!(
            fault != Fault::Hang || asked < GOOD_FIRST + HUNG_MAX,
            "{asked}"
        );
        let kept = names_below(&folder.path().join("debs"));
        assert!(kept.is_empty(), "{kept:?}");
        assert!(!work.path().join("disk.raw").exists());
        assert!(names_below(&work.path().join("tree")).is_empty());
    }
}

/// The packages of Debian as those of another distribution: of another name and suite, and signed by a key of our own.
struct OwnArchive {
    mirror: Mirror,
    keys: FakeKeys,
    data: PathBuf,
}

impl OwnArchive {
    async fn start(data: &Path) -> OwnArchive {
        let mut archives = archives();
        let debian = archives[0].1.clone();
        archives.push(("own".to_owned(), debian));
        let mirror = Mirror::start(archives).await;
        let list = format!("/own/dists/{RELEASE}/main/binary-amd64/Packages.xz");
        let (_, packed) = mirror.state.pass_on(&list).await.expect("Debian's list");
        let file = data.join("Packages.xz");
        std::fs::write(&file, packed).expect("write a file");
        let unpack = Command::new("xz").arg("-d").arg(&file).run();
        unpack.await.expect("xz");
        let packages = std::fs::read(data.join("Packages")).expect("the list");
        let hash: String = Sha256::digest(&packages)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let release = format!(
            "Origin: Example\nSuite: own\nCodename: own\nDate: Thu, 25 Apr 2024 15:10:33 UTC\n\
             Architectures: amd64\nComponents: main\nSHA256:\n {hash} {} main/binary-amd64/Packages\n",
            packages.len()
        );
        let keys = FakeKeys::new(data, "own@example.com").await;
        let signed = keys.clear_signed(&release).await;
        let own = BTreeMap::from([
            ("/own/dists/own/InRelease".to_owned(), signed),
            (
                "/own/dists/own/main/binary-amd64/Packages".to_owned(),
                packages,
            ),
        ]);
        *mirror.state.own.lock().expect("what is our own") = own;
        OwnArchive {
            mirror,
            keys,
            data: data.to_owned(),
        }
    }

    /// What an operator writes, with the keys of the archive.
    async fn describe(&self) {
        let shelf = self.data.join("marketplace/Example/own/server");
        std::fs::create_dir_all(&shelf).expect("a folder");
        std::fs::write(shelf.join("own.gpg"), self.keys.ring().await).expect("write a file");
        let description = serde_json::json!({
            "name": "Example Linux",
            "number": "1.0",
            "mirror": format!("http://127.0.0.1:{}/own", self.mirror.port),
            "suites": ["own"],
            "components": ["main"],
            "keyring": "own.gpg",
            "packages": [
                "cloud-init", "initramfs-tools", "linux-image-cloud-amd64", "openssh-server",
                "systemd-sysv", "udev",
            ],
        });
        let file = shelf.join("archive.json");
        std::fs::write(file, description.to_string()).expect("write a file");
    }
}

/// A file of the image.
fn read(disk: &ParentDisk, path: &str) -> String {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(disk.path());
    let mut device = ext4::SeekDevice::new(file.expect("open the disk")).expect("the disk");
    let root = disk.root().range();
    let length = root.end - root.start;
    let mut part = ext4::Partition::new(&mut device, root.start, length).expect("the root");
    let mut tree = ext4::Tree::open(&mut part).expect("the tree");
    let bytes = tree.read(path.as_bytes(), 64 << 20).expect(path);
    String::from_utf8(bytes.expect(path)).expect(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distribution_that_is_described_is_installed() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let own = OwnArchive::start(folder.path()).await;
    own.describe().await;
    let web = Arc::new(Web::new(Reach::default()).expect("a client"));
    let marketplace = Marketplace::new(folder.path(), &web);
    let image: PlatformImage = "Example:own:server:latest".parse().expect("an image");
    let pin = marketplace.resolve(&image, &[]).await.expect("a pin");
    assert_eq!(pin.image.version, "1.0.20240425");
    let request = BaseRequest { disk_gib: 2 };
    let log: factory::source::LogLine = Arc::new(|line: &str| println!("{line}"));
    let work = tempfile::tempdir_in(folder.path()).expect("a folder");
    let made = marketplace.bootstrap(&pin, &request, work.path(), log);
    let raw = made
        .await
        .unwrap_or_else(|error| panic!("{}", told(&error)));
    let disk = ParentDisk::open(&raw).expect("a disk");
    let text = |path: &str| read(&disk, path);
    assert!(text("boot/grub/grub.cfg").contains("menuentry \"Example Linux\""));
    // The image goes by the keys of its own packages, and nothing of this machine is in it.
    assert_eq!(text("etc/apt/sources.list"), pin.sources_list());
    assert!(
        !pin.sources_list().contains("signed-by"),
        "{}",
        pin.sources_list()
    );
    assert!(text("var/lib/dpkg/status").contains("Package: linux-image-cloud-amd64\n"));
    let debs = folder.path().join("cache/archives/Example/own/server/debs");
    assert!(names_below(&debs).len() > 50, "fetched packages are kept");
    assert!(
        !folder.path().join("cache/debs").exists(),
        "and not among Debian's"
    );
}
