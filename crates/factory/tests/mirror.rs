//! A mirror that fails half-way: a real archive behind a server that cuts off, refuses or changes what it passes on. The
//! error names the address, nothing half-made is kept, and the state is pinned when it is whole again.
//!
//! Needs root and apt's mirrors.

// A test asks apt where this machine's archive is, and says what it waits for.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use factory::source::{BaseRequest, DebianArchive, PlatformImage, Provider, SourceLine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const RELEASE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Packages that are passed on before the first one is spoilt.
const GOOD_FIRST: u32 = 5;

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
}

impl Mirror {
    async fn start(archives: Vec<(String, String)>) -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            web: reqwest::Client::new(),
            archives,
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
    let (folder, rest) = path.trim_start_matches('/').split_once('/')?;
    let (_, site) = state.archives.iter().find(|(name, _)| name == folder)?;
    let fetched = state.web.get(format!("{site}/{rest}")).send().await.ok()?;
    let mut status = fetched.status();
    let mut body = fetched.bytes().await.ok()?.to_vec();
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
    let provider = DebianArchive::new(folder.path()).with_silence(SILENCE);
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
    // One that hangs at each of two hundred packages is given up at each.
    for fault in [Fault::Cut, Fault::Refuse, Fault::WrongBytes] {
        mirror.set(fault);
        let work = tempfile::tempdir_in(folder.path()).expect("a folder");
        let made = provider
            .bootstrap(&pin, &request, work.path(), Arc::clone(&log))
            .await;
        names_the_mirror(fault, &told(&made.expect_err("a spoilt package")), &mirror);
        let kept = names_below(&folder.path().join("debs"));
        assert!(kept.is_empty(), "{kept:?}");
        assert!(!work.path().join("disk.raw").exists());
        assert!(names_below(&work.path().join("tree")).is_empty());
    }
}
