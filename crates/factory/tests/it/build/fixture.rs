//! A bootless image with a static shell in it, and what must be gone afterwards.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk::layout::{HybridLayout, PartitionIds};
use disk::{Changes, ReadAt};
use ext4::{Change, Content, FileTime, Links, Meta, SeekDevice};
use factory::build::{
    Action, BuildContext, BuildError, Customizer, ParentDisk, SandboxProgram, StepOutcome,
    TreeExecutor,
};
use store::FileDisk;

pub const EPOCH: i64 = 1_763_000_000;
const DISK_BYTES: u64 = 256 << 20;
const BUSYBOX: &str = "/bin/busybox";
const GONE_WITHIN: Duration = Duration::from_secs(10);
const UUID: &str = "5e1f0000-0000-4000-8000-000000000001";

#[expect(
    clippy::disallowed_methods,
    reason = "short-lived tools on files of the test's own"
)]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string())
        .output()
        .unwrap_or_else(|error| panic!("`{program}` is needed by this test: {error}"));
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn meta(mode: u32) -> Meta {
    Meta {
        uid: 0,
        gid: 0,
        mode,
        mtime: FileTime::from_seconds(EPOCH - 1000),
    }
}

fn dir(path: &str, mode: u32) -> Change {
    Change::Dir {
        path: path.into(),
        meta: meta(mode),
    }
}

pub fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Change {
    let content = Content::Bytes(content.into());
    Change::File {
        path: path.into(),
        meta: meta(mode),
        content,
        links: Links::Break,
    }
}

/// A tree that a shell script runs in, as records.
fn base_tree() -> Vec<Change> {
    assert!(
        Path::new(BUSYBOX).exists(),
        "this test needs the package `busybox-static`"
    );
    let mut records = vec![
        dir("bin", 0o755),
        dir("dev", 0o755),
        dir("etc", 0o755),
        dir("proc", 0o555),
        dir("root", 0o700),
        dir("run", 0o755),
        dir("sys", 0o555),
        dir("tmp", 0o1777),
        dir("usr", 0o755),
        dir("usr/sbin", 0o755),
        dir("var", 0o755),
        dir("var/log", 0o755),
        Change::File {
            path: "bin/busybox".into(),
            meta: meta(0o755),
            content: Content::File(BUSYBOX.into()),
            links: Links::Break,
        },
    ];
    for applet in tool(BUSYBOX, &["--list"])
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        records.push(Change::Symlink {
            path: format!("bin/{applet}").into(),
            meta: meta(0o777),
            target: "busybox".into(),
        });
    }
    records
}

/// One test's folder with a parent disk in it.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub lines: Arc<Mutex<Vec<String>>>,
    pub context: BuildContext,
}

impl Bench {
    pub fn new() -> Self {
        Bench::in_folder(tempfile::tempdir().unwrap())
    }

    pub fn in_folder(folder: tempfile::TempDir) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let context = BuildContext {
            epoch: EPOCH,
            apt: None,
            secrets: Vec::new(),
            deadline: Duration::from_secs(60),
            on_line: Arc::new(move |line: &str| sink.lock().unwrap().push(line.to_owned())),
            keep: None,
        };
        Bench {
            folder,
            lines,
            context,
        }
    }

    /// With an epoch of its own, by which the processes of this bench are told from others'.
    pub fn marked() -> Self {
        static NEXT: AtomicI64 = AtomicI64::new(EPOCH + 1);
        let mut bench = Bench::new();
        bench.context.epoch = NEXT.fetch_add(1, Ordering::Relaxed);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn executor(&self) -> TreeExecutor {
        let program = SandboxProgram::new(env!("CARGO_BIN_EXE_build-sandbox"));
        let executor = TreeExecutor::new(&self.path("work"), program).unwrap();
        executor.check().expect("these tests mount file systems");
        executor
    }

    /// A disk of the base tree and `more`.
    pub fn parent(&self, more: Vec<Change>) -> Arc<ParentDisk> {
        let path = self.path("parent.raw");
        let mut disk = FileDisk::create(&path, DISK_BYTES).unwrap();
        let id = |number: u128| uuid::Uuid::from_u128(number);
        let ids = PartitionIds {
            disk: id(1),
            bios_boot: id(2),
            esp: id(3),
            root: id(4),
        };
        let layout = HybridLayout::new(DISK_BYTES, ids).unwrap();
        layout.write_tables(&mut disk).unwrap();
        let root = layout.root();
        let extended = format!(
            "offset={},hash_seed={UUID},lazy_itable_init=1,nodiscard",
            root.start
        );
        let blocks = format!("{}k", (root.end - root.start) / 1024);
        let path_text = path.to_str().unwrap();
        tool(
            "mke2fs",
            &[
                "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-U", UUID, "-E", &extended,
                path_text, &blocks,
            ],
        );
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut device = SeekDevice::new(file).unwrap();
        let length = root.end - root.start;
        let mut partition = ext4::Partition::new(&mut device, root.start, length).unwrap();
        let mut records = base_tree();
        records.extend(more);
        ext4::apply(&mut partition, &mut records.into_iter().map(Ok), EPOCH).unwrap();
        Arc::new(ParentDisk::open(&path).unwrap())
    }

    pub async fn run(
        &self,
        parent: &Arc<ParentDisk>,
        action: Action,
    ) -> Result<StepOutcome, BuildError> {
        let customizer = Customizer::new("step", action).unwrap();
        self.executor()
            .run(Arc::clone(parent), &customizer, &self.context)
            .await
    }

    pub async fn shell(
        &self,
        parent: &Arc<ParentDisk>,
        script: &str,
    ) -> Result<StepOutcome, BuildError> {
        self.run(parent, shell(script)).await
    }

    /// The child as a disk of its own.
    pub fn child(&self, parent: &ParentDisk, changes: &Changes) -> Arc<ParentDisk> {
        let path = self.path("child.raw");
        fs::copy(parent.path(), &path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for (index, block) in changes.iter() {
            let zeros = [0; disk::BLOCK_SIZE];
            file.write_all_at(block.unwrap_or(&zeros), index * disk::BLOCK_SIZE as u64)
                .unwrap();
        }
        let child = Arc::new(ParentDisk::open(&path).unwrap());
        assert_clean(self, &child);
        child
    }

    pub fn output(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    /// Nothing of the sandbox may outlive a step: no mount, no loop device, no process, no folder.
    pub async fn assert_nothing_left(&self) {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let started = Instant::now();
        loop {
            let left = left_over(&folder, self.context.epoch);
            if left.is_empty() {
                break;
            }
            assert!(started.elapsed() < GONE_WITHIN, "left over: {left:?}");
            tokio::task::yield_now().await;
        }
        let work: Vec<_> = fs::read_dir(self.path("work"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(work.is_empty(), "{work:?}");
    }
}

/// Mounts, loop devices and processes that have to do with the folder.
fn left_over(folder: &str, epoch: i64) -> Vec<String> {
    let mark = format!("SOURCE_DATE_EPOCH={epoch}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(folder))
        .map(|line| format!("mount {line}"))
        .collect();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let backing =
            fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if backing.starts_with(folder) {
            left.push(format!("loop device of {backing}"));
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let shown = String::from_utf8_lossy(&command).replace('\0', " ");
        let marked = epoch != EPOCH
            && environment
                .windows(mark.len())
                .any(|window| window == mark.as_bytes());
        if marked || shown.contains(folder) {
            left.push(format!("process {shown}"));
        }
    }
    left
}

pub fn shell(script: &str) -> Action {
    Action::Shell {
        lines: script.lines().map(str::to_owned).collect(),
        secrets: Vec::new(),
    }
}

pub fn assert_clean(bench: &Bench, disk: &ParentDisk) {
    let path = bench.path("fsck.raw");
    let root = disk.root().range();
    let copy = fs::File::create(&path).unwrap();
    copy.set_len(root.end - root.start).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut offset = root.start;
    while offset < root.end {
        let length = piece.len().min((root.end - offset) as usize);
        disk.disk().read_at(offset, &mut piece[..length]).unwrap();
        if piece[..length].iter().any(|byte| *byte != 0) {
            copy.write_all_at(&piece[..length], offset - root.start)
                .unwrap();
        }
        offset += length as u64;
    }
    tool("e2fsck", &["-fn", path.to_str().unwrap()]);
}

/// Reads a file of the root file system.
pub fn read(disk: &ParentDisk, path: &str) -> Option<Vec<u8>> {
    look(disk, |tree| tree.read(path.as_bytes(), 1 << 30).unwrap())
}

pub fn entry(disk: &ParentDisk, path: &str) -> Option<ext4::Entry> {
    look(disk, |tree| tree.entry(path.as_bytes()).unwrap())
}

fn look<T>(disk: &ParentDisk, look: impl FnOnce(&mut ext4::Tree<'_>) -> T) -> T {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk.path())
        .unwrap();
    let mut device = SeekDevice::new(file).unwrap();
    let root = disk.root().range();
    let mut partition =
        ext4::Partition::new(&mut device, root.start, root.end - root.start).unwrap();
    look(&mut ext4::Tree::open(&mut partition).unwrap())
}
