//! A prefix of an object store as a place.
//!
//! The calls of a place block; requests run on one small runtime of this module, so a caller may be
//! any thread, one of another runtime too. A write counts when the object store has confirmed it.
//! Nothing here relies on conditional writes, which some object stores accept and ignore.

use std::future::Future;
use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::claim::Claim;
use super::{Entry, Place};

/// Threads for all object stores of a process; they only wait for sockets.
const RUNTIME_THREADS: usize = 2;
/// Parts of one upload that are on their way together.
const PARTS_AT_ONCE: usize = 4;
/// What S3 takes at least for a part that is not the last.
const PART_BYTES: usize = 5 << 20;
/// What is longer goes in parts, as packs do.
const WHOLE_BYTES: usize = 8 << 20;
/// Files that one list may name: some terabytes in packs.
const MAX_LISTED: usize = 4 << 20;

/// How requests to an object store are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a request to the last of its answer.
    pub request: Duration,
    pub connect: Duration,
    /// Tries after the first one, of requests that may be repeated; the waits between them grow.
    pub retries: usize,
    pub first_backoff: Duration,
    pub last_backoff: Duration,
    /// Requests at one time.
    pub at_once: usize,
    /// How often a process says that it still has the store.
    pub beat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            retries: 5,
            first_backoff: Duration::from_millis(100),
            last_backoff: Duration::from_secs(5),
            at_once: 16,
            beat: Duration::from_secs(10),
        }
    }
}

/// A prefix that this process has for itself.
#[derive(Debug)]
pub struct ObjectPlace {
    objects: Objects,
    claim: Claim,
    honours_conditions: bool,
}

/// The objects below a prefix. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    turns: Arc<Semaphore>,
}

/// One runtime for all object stores. It lives as long as the process.
pub(super) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("object-store")
            .enable_all()
            .build()
    });
    made.as_ref()
        .map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Waits for a future on this thread while the runtime works on it.
pub(super) fn wait<T: Send + 'static>(
    work: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = sync_channel(1);
    runtime()?.spawn(async move {
        // Nobody listens if the caller's thread panicked.
        let _ = send.send(work.await);
    });
    receive
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the request ended without an answer")))
}

impl ObjectPlace {
    /// Takes the prefix for this process; `WouldBlock` says that another one has it. `client` has
    /// bounds of its own for one request.
    pub(super) fn open(
        client: Arc<dyn ObjectStore>,
        prefix: &str,
        limits: Limits,
    ) -> io::Result<ObjectPlace> {
        let objects = Objects {
            store: client,
            prefix: prefix.to_owned(),
            turns: Arc::new(Semaphore::new(limits.at_once.max(1))),
        };
        let probed = objects.clone();
        let honours_conditions = wait(async move { probed.probe().await })?;
        let claim = Claim::take(&objects, honours_conditions, limits.beat)?;
        Ok(ObjectPlace {
            objects,
            claim,
            honours_conditions,
        })
    }

    /// Whether a write that must not replace anything is refused where something is there.
    pub fn honours_conditions(&self) -> bool {
        self.honours_conditions
    }
}

impl Objects {
    fn path(&self, name: &str) -> Path {
        match self.prefix.is_empty() {
            true => Path::from(name),
            false => Path::from(format!("{}/{name}", self.prefix)),
        }
    }

    /// Writes a small object twice under a condition that the second write breaks. This also shows
    /// at the start whether the keys are good for what will be needed.
    async fn probe(&self) -> io::Result<bool> {
        let name = format!(".probe-{:016x}", rand::random::<u64>());
        self.put(&name, b"probe".to_vec()).await?;
        let again = self.create(&name, b"again".to_vec()).await;
        self.delete(&name).await?;
        // A store that knows no conditions says so in many ways.
        Ok(matches!(again, Err(error) if error.kind() == io::ErrorKind::AlreadyExists))
    }

    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.put_as(name, bytes, PutMode::Overwrite).await
    }

    /// Writes what must not be there; honoured only by some object stores.
    pub(super) async fn create(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.put_as(name, bytes, PutMode::Create).await
    }

    async fn put_as(&self, name: &str, bytes: Vec<u8>, mode: PutMode) -> io::Result<()> {
        let _turn = self.turn().await?;
        let (path, options) = (self.path(name), PutOptions::from(mode));
        let put = self.store.put_opts(&path, bytes.into(), options).await;
        put.map(drop).map_err(failed)
    }

    async fn put_in_parts(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let _turn = self.turn().await?;
        let mut upload = self
            .store
            .put_multipart(&self.path(name))
            .await
            .map_err(failed)?;
        let sent = send_parts(&mut *upload, bytes.into()).await;
        if let Err(error) = sent {
            // What is there of it costs room only; a rule of the bucket clears what this does not.
            let _ = upload.abort().await;
            return Err(error);
        }
        upload.complete().await.map(drop).map_err(failed)
    }

    async fn range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let _turn = self.turn().await?;
        let path = self.path(name);
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let end = offset.checked_add(len as u64).ok_or_else(short)?;
        if len == 0 {
            let meta = self.store.head(&path).await.map_err(failed)?;
            return if end > meta.size {
                Err(short())
            } else {
                Ok(Vec::new())
            };
        }
        match self.store.get_range(&path, offset..end).await {
            Ok(bytes) if bytes.len() == len => Ok(bytes.into()),
            // A range that goes past the end is answered with what there is.
            Ok(_) => Err(short()),
            Err(error) => {
                let error = failed(error);
                if error.kind() == io::ErrorKind::NotFound {
                    return Err(error);
                }
                // One that begins past the end is refused, in words that differ.
                match self.store.head(&path).await {
                    Ok(meta) if end > meta.size => Err(short()),
                    _ => Err(error),
                }
            }
        }
    }

    /// A small object, whole.
    pub(super) async fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let _turn = self.turn().await?;
        let got = async { self.store.get(&self.path(name)).await?.bytes().await };
        match got.await.map_err(failed) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn size(&self, name: &str) -> io::Result<Option<u64>> {
        let _turn = self.turn().await?;
        match self.store.head(&self.path(name)).await.map_err(failed) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An object store lists what is below a folder, so the end of `prefix` is looked at here.
    async fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let _turn = self.turn().await?;
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let root = self.path(folder);
        let root = Some(&root).filter(|path| !path.as_ref().is_empty());
        let mut listed = self.store.list(root);
        let mut found = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(failed)? {
            let name = meta.location.as_ref();
            let name = match self.prefix.as_str() {
                "" => Some(name),
                own => name
                    .strip_prefix(own)
                    .and_then(|name| name.strip_prefix('/')),
            };
            let own = |name: &&str| name.starts_with(prefix) && !name.starts_with('.');
            if let Some(name) = name.filter(own) {
                found.push(Entry {
                    name: name.to_owned(),
                    bytes: meta.size,
                });
            }
            if found.len() > MAX_LISTED {
                return Err(io::Error::other(format!(
                    "there are over {MAX_LISTED} files"
                )));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    pub(super) async fn delete(&self, name: &str) -> io::Result<()> {
        let _turn = self.turn().await?;
        match self.store.delete(&self.path(name)).await.map_err(failed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    async fn turn(&self) -> io::Result<tokio::sync::SemaphorePermit<'_>> {
        self.turns.acquire().await.map_err(io::Error::other)
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, bytes: bytes::Bytes) -> io::Result<()> {
    let mut sending = JoinSet::new();
    for start in (0..bytes.len()).step_by(PART_BYTES) {
        if sending.len() >= PARTS_AT_ONCE {
            joined(sending.join_next().await)?;
        }
        let part = bytes.slice(start..bytes.len().min(start + PART_BYTES));
        sending.spawn(upload.put_part(PutPayload::from(part)));
    }
    while !sending.is_empty() {
        joined(sending.join_next().await)?;
    }
    Ok(())
}

type Joined = Result<object_store::Result<()>, tokio::task::JoinError>;

fn joined(part: Option<Joined>) -> io::Result<()> {
    match part {
        Some(Ok(sent)) => sent.map_err(failed),
        Some(Err(error)) => Err(io::Error::other(error)),
        None => Ok(()),
    }
}

/// The error of an object store, of the kind that a folder's would have.
fn failed(error: object_store::Error) -> io::Error {
    use object_store::Error;
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => io::ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        Error::NotSupported { .. } | Error::NotImplemented { .. } => io::ErrorKind::Unsupported,
        other => kind_of(other),
    };
    io::Error::new(kind, error)
}

/// What the library has no name for is told by the connection's error, or by the status in the text.
fn kind_of(error: &object_store::Error) -> io::ErrorKind {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Timeout => io::ErrorKind::TimedOut,
                HttpErrorKind::Connect => io::ErrorKind::NotConnected,
                _ => io::ErrorKind::ConnectionAborted,
            };
        }
        cause = inner.source();
    }
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match () {
        () if says(&["507", "StorageFull", "QuotaExceeded", "InsufficientStorage"]) => {
            io::ErrorKind::StorageFull
        }
        () if says(&["code: 503", "SlowDown", "code: 429"]) => io::ErrorKind::ResourceBusy,
        () => io::ErrorKind::Other,
    }
}

impl Place for ObjectPlace {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        super::check_name(name)?;
        self.claim.check()?;
        let (objects, name, bytes) = (self.objects.clone(), name.to_owned(), bytes.to_vec());
        wait(async move {
            match bytes.len() > WHOLE_BYTES {
                true => objects.put_in_parts(&name, bytes).await,
                false => objects.put(&name, bytes).await,
            }
        })
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        super::check_name(name)?;
        let (objects, name) = (self.objects.clone(), name.to_owned());
        wait(async move { objects.range(&name, offset, len).await })
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        super::check_name(name)?;
        let (objects, name) = (self.objects.clone(), name.to_owned());
        wait(async move { objects.size(&name).await })
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let (objects, prefix) = (self.objects.clone(), prefix.to_owned());
        wait(async move { objects.list(&prefix).await })
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        super::check_name(name)?;
        self.claim.check()?;
        let (objects, name) = (self.objects.clone(), name.to_owned());
        wait(async move { objects.delete(&name).await })
    }
}
