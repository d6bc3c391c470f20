//! A provider for tests: pins and disks at once, without network or root, and failures on demand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use disk::layout::HybridLayout;
use ext4::{Change, Content, FileTime, Links, Meta};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::bootstrap::RawFile;
use super::content::ImageIds;
use super::{
    Archive, BaseInputs, BaseRequest, LogLine, Pin, PlatformImage, Product, Provider, SourceError,
    SourceLine, SuiteState, boot,
};

const DISK_BYTES: u64 = 96 << 20;

/// Offers `Debian:debian-12:12-gen2` with a handful of files.
pub struct FakeProvider {
    /// Grows when the archive "moves".
    point: AtomicU32,
    pub resolved: AtomicU32,
    pub bootstrapped: AtomicU32,
    /// What the next bootstrap fails with.
    pub fail_next: Mutex<Option<String>>,
    /// While set, a bootstrap begins and never ends.
    pub hangs: AtomicBool,
    /// A bootstrap that hangs has begun.
    pub hanging: Notify,
}

impl Default for FakeProvider {
    fn default() -> Self {
        FakeProvider {
            point: AtomicU32::new(1),
            resolved: AtomicU32::new(0),
            bootstrapped: AtomicU32::new(0),
            fail_next: Mutex::new(None),
            hangs: AtomicBool::new(false),
            hanging: Notify::new(),
        }
    }
}

impl FakeProvider {
    /// From now on the archive holds something newer.
    pub fn move_archive(&self) {
        self.point.fetch_add(1, Ordering::SeqCst);
    }
}

fn tree(pin: &Pin) -> Vec<Change> {
    let meta = |mode| Meta {
        uid: 0,
        gid: 0,
        mode,
        mtime: FileTime::from_seconds(pin.epoch),
    };
    let files: BTreeMap<&str, String> = [
        (
            "etc/os-release",
            format!("PRETTY_NAME=\"{}\"\n", pin.os_version),
        ),
        ("etc/hostname", "fake\n".to_owned()),
    ]
    .into();
    let mut changes = vec![Change::Dir {
        path: "etc".into(),
        meta: meta(0o755),
    }];
    changes.extend(files.into_iter().map(|(path, text)| Change::File {
        path: path.into(),
        meta: meta(0o644),
        content: Content::Bytes(text.into_bytes()),
        links: Links::Break,
    }));
    changes
}

#[async_trait::async_trait]
impl Provider for FakeProvider {
    fn products(&self) -> Vec<Product> {
        vec![Product {
            publisher: "Debian".to_owned(),
            offer: "debian-12".to_owned(),
            sku: "12-gen2".to_owned(),
            versions: Vec::new(),
        }]
    }

    async fn resolve(
        &self,
        image: &PlatformImage,
        _mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError> {
        self.resolved.fetch_add(1, Ordering::SeqCst);
        if !image.is_product("Debian", "debian-12", "12-gen2") {
            return Err(SourceError::UnknownImage {
                image: image.to_string(),
                known: "Debian:debian-12:12-gen2".to_owned(),
            });
        }
        let point = self.point.load(Ordering::SeqCst);
        let date = Timestamp::from_second(1_800_000_000 + i64::from(point)).unwrap_or_default();
        let suite = SuiteState {
            suite: "bookworm".to_owned(),
            date,
            in_release_sha256: format!("{point:064x}"),
            packages: Vec::new(),
        };
        let pinned = PlatformImage {
            version: format!("12.{point}.20270115"),
            ..image.clone()
        };
        Ok(Pin::new(
            pinned,
            format!("Fake Linux 12.{point}"),
            vec![suite],
            Vec::new(),
        ))
    }

    async fn inputs(&self, pin: &Pin, request: &BaseRequest) -> Result<BaseInputs, SourceError> {
        Ok(vec![
            ("recipe".to_owned(), "fake 1".to_owned()),
            ("state".to_owned(), pin.state.to_string()),
            ("disk-gib".to_owned(), request.disk_gib.to_string()),
        ])
    }

    async fn bootstrap(
        &self,
        pin: &Pin,
        _request: &BaseRequest,
        work: &Path,
        log: LogLine,
    ) -> Result<PathBuf, SourceError> {
        let failure = self
            .fail_next
            .lock()
            .ok()
            .and_then(|mut failure| failure.take());
        if let Some(text) = failure {
            return Err(SourceError::Provider(text));
        }
        if self.hangs.load(Ordering::SeqCst) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        self.bootstrapped.fetch_add(1, Ordering::SeqCst);
        log("a fake tree");
        let ids = ImageIds::of("fake");
        let layout = HybridLayout::new(DISK_BYTES, ids.partitions)?;
        let raw = work.join("disk.raw");
        let file = std::fs::File::create(&raw).map_err(SourceError::file("make", &raw))?;
        file.set_len(DISK_BYTES)
            .map_err(SourceError::file("size", &raw))?;
        boot::blank_root(work, &raw, &layout, &ids, pin.epoch).await?;
        let mut device = RawFile::open(&raw)?;
        layout.write_tables(&mut device)?;
        super::bootstrap::write_tree(&mut device, &layout, tree(pin), pin.epoch)?;
        Ok(raw)
    }

    async fn archive(&self, _pin: &Pin) -> Result<Option<Archive>, SourceError> {
        Ok(None)
    }
}
