//! The activity log's server side: refusals and failures on their way into it, and the chain's links and signatures.
//!
//! Writes leave their line in the catalog, in their own transaction. What is here comes beside them, and never holds a
//! request up: a flood of refusals is counted rather than stored.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::{Grants, Identity, Origin, Permit};
use axum::extract::ConnectInfo;
use catalog::{
    ActivityStatus, Actor, Backend, CatalogError, Checkpoint, Entry, Keep, Note, Trimmed,
};
use factory::secret_file::{self, SEED_BYTES};
use http::Method;
use http::request::Parts;
use jiff::{Timestamp, ToSpan as _};
use provenance::SigningKey;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;
use wire::{ArmError, ErrorCode, ResourceId, TenantId};

use crate::data::{DataError, DataFolder};
use crate::errors;
use crate::exchange::Reply;
use crate::operation::Operation;
use crate::options::Settings;
use crate::sinks::stream::{Stream, Waits};
use crate::sinks::{Sink, SinkAddress, SinkError};

/// What the signatures are over.
pub const CHECKPOINT_TYPE: &str = "application/vnd.bullion.activity-checkpoint+json";
/// How soon a line is linked, and how often refusals are stored.
const ROUND: Duration = Duration::from_secs(1);
/// Refusals and failures stored in one round; the others are counted.
const NOTES_MAX: usize = 100;
/// So much longer are lines kept that a receiver does not have yet.
const UNSENT_TIMES: i64 = 2;
/// Rounds between two looks for lines that are too old.
const TRIM_ROUNDS: u32 = 3600;
/// Role assignments named in one line.
const RIGHTS_MAX: usize = 8;
/// Of a path that names no resource.
const PATH_CHARS_MAX: usize = 300;

/// One for each request, and one for those that belong together.
#[derive(Clone, Copy, Debug)]
pub struct RequestIds {
    pub request: Uuid,
    pub correlation: Uuid,
}

pub struct Recorder {
    notes: mpsc::Sender<Note>,
    skipped: Arc<AtomicU64>,
    /// Whose the lines are that belong to no tenant.
    installation: TenantId,
}

/// The key that this data folder's server signs its chain with; made at the first use.
///
/// # Errors
/// The file cannot be read or made, or is damaged. A new key in its place would leave the chain so far unproven.
pub fn signing_key(folder: &Path) -> Result<SigningKey, DataError> {
    let path = folder.join("activity-key");
    let seed = secret_file::read_or_make(&path).and_then(|bytes| {
        <[u8; SEED_BYTES]>::try_from(bytes).map_err(|bytes| {
            let why = format!(
                "it has {} bytes, not {SEED_BYTES}; put it back from a backup, or move it away for a new one (what the \
                 old key signed can then not be verified)",
                bytes.len()
            );
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    });
    match seed {
        Ok(seed) => Ok(SigningKey::from_seed(&seed)),
        Err(cause) => Err(DataError::Read { path, cause }),
    }
}

/// What is signed of a checkpoint.
pub fn checkpoint_text(end: &Checkpoint) -> Vec<u8> {
    let bare = Checkpoint {
        signed: String::new(),
        ..end.clone()
    };
    serde_json::to_vec(&bare).unwrap_or_default()
}

fn sign(key: &SigningKey, end: &Checkpoint) -> String {
    let envelope = key.seal(CHECKPOINT_TYPE, &checkpoint_text(end));
    serde_json::to_string(&envelope).unwrap_or_default()
}

/// The log of a folder's server.
pub struct Log {
    key: SigningKey,
    /// Whose the lines are that belong to no tenant.
    installation: TenantId,
    /// How long lines are kept.
    days: u32,
    node: String,
    sinks: Vec<(SinkAddress, Sink)>,
}

/// Begins to keep the log in the name of the folder's server.
pub async fn keep(
    catalog: &dyn Backend,
    folder: &DataFolder,
    installation: TenantId,
    settings: &Settings,
) -> Result<Log, KeepError> {
    let (node, key) = (folder.name()?, signing_key(folder.root())?);
    catalog
        .name_activity_key(&node, &key.public().pem())
        .await?;
    catalog.keep_activity(&node);
    let open = |address: &SinkAddress| Ok((address.clone(), Sink::new(address)?));
    let sinks: Result<Vec<_>, SinkError> = settings.activity_sinks.iter().map(open).collect();
    let named: Vec<String> = settings
        .activity_sinks
        .iter()
        .map(ToString::to_string)
        .collect();
    catalog.name_activity_sinks(&node, &named).await?;
    Ok(Log {
        key,
        installation,
        days: settings.activity_days,
        node,
        sinks: sinks?,
    })
}

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("cannot keep the key of the activity log")]
    Key(#[from] DataError),
    #[error("cannot begin the activity log")]
    Store(#[from] CatalogError),
    #[error("cannot send the activity log")]
    Sink(#[from] SinkError),
}

impl Recorder {
    /// Works until `stopped` says so, then once more.
    pub fn start(
        catalog: &Arc<dyn Backend>,
        mut log: Log,
        stopped: &watch::Receiver<bool>,
    ) -> (Recorder, JoinHandle<()>) {
        let installation = log.installation;
        let streams: Vec<JoinHandle<()>> = std::mem::take(&mut log.sinks)
            .into_iter()
            .map(|(address, sink)| Stream {
                catalog: Arc::clone(catalog),
                node: log.node.clone(),
                address,
                sink,
                waits: Waits::default(),
            })
            .map(|stream| stream.start(stopped.clone()))
            .collect();
        let (sender, notes) = mpsc::channel(NOTES_MAX);
        let skipped: Arc<AtomicU64> = Arc::default();
        let work = Work {
            catalog: Arc::clone(catalog),
            log,
            notes,
            skipped: Arc::clone(&skipped),
        };
        let recorder = Recorder {
            notes: sender,
            skipped,
            installation,
        };
        let stopped = stopped.clone();
        let working = async move {
            work.run(stopped).await;
            for stream in streams {
                if let Err(error) = stream.await {
                    tracing::error!(%error, "sending the activity log ended badly");
                }
            }
        };
        (recorder, tokio::spawn(working))
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Work {
    catalog: Arc<dyn Backend>,
    log: Log,
    notes: mpsc::Receiver<Note>,
    skipped: Arc<AtomicU64>,
}

impl Work {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut rounds = 0;
        loop {
            let stop = tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => true,
                () = tokio::time::sleep(ROUND) => false,
            };
            if let Err(error) = self.round(rounds % TRIM_ROUNDS == 0).await {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error = errors::chain(error), "the activity log is behind");
            }
            rounds += 1;
            if stop {
                return;
            }
        }
    }

    async fn round(&mut self, trims: bool) -> Result<(), CatalogError> {
        let mut notes = Vec::new();
        while notes.len() < NOTES_MAX
            && let Ok(note) = self.notes.try_recv()
        {
            notes.push(note);
        }
        let skipped = self.skipped.swap(0, Ordering::Relaxed);
        if skipped > 0 {
            notes.push(Note {
                tenant: self.log.installation,
                entry: Entry {
                    code: Some("TooMany".into()),
                    count: Some(skipped),
                    ..bare("/", "refused", ActivityStatus::Refused)
                },
            });
        }
        self.catalog.note(notes).await?;
        let key = &self.log.key;
        let sign = move |end: &Checkpoint| sign(key, end);
        while self.catalog.link_activity(&sign).await? == catalog::ACTIVITY_MAX {}
        if trims {
            self.trim().await?;
        }
        Ok(())
    }

    async fn trim(&self) -> Result<(), CatalogError> {
        let (now, days) = (Timestamp::now(), i64::from(self.log.days));
        let keep = Keep {
            since: now - (days * 24).hours(),
            unsent_since: now - (days * UNSENT_TIMES * 24).hours(),
        };
        let Trimmed { removed, unsent_to } = self.catalog.trim_activity(keep).await?;
        if let Some(last) = unsent_to {
            tracing::error!(
                last,
                "lines of the activity log were removed that a receiver never got: it was away for too long"
            );
        }
        tracing::debug!(removed, "old activities");
        Ok(())
    }
}

fn bare(id: &str, action: &str, status: ActivityStatus) -> Entry {
    Entry {
        event: Uuid::now_v7(),
        id: id.to_owned(),
        action: action.to_owned(),
        actor: Actor::Nobody,
        status,
        code: None,
        address: None,
        request: None,
        correlation: None,
        rights: Vec::new(),
        count: None,
    }
}

/// What became known of a request while it was decided, for its line if it comes to one.
#[derive(Default)]
pub struct Asked {
    pub caller: Option<Identity>,
    pub tenant: Option<TenantId>,
    pub row: Option<&'static Operation>,
    pub scope: Option<ResourceId>,
}

impl Asked {
    /// A line for what was refused, and for a write that was not done.
    pub fn note(&self, recorder: &Recorder, parts: &Parts, outcome: &Result<Reply, ArmError>) {
        let Err(error) = outcome else { return };
        let status = match error.code.status() {
            401 | 403 => ActivityStatus::Refused,
            429 => return,
            _ if self.row.is_some_and(writes) => ActivityStatus::Failed,
            _ => return,
        };
        let path = || parts.uri.path().chars().take(PATH_CHARS_MAX).collect();
        let ids = ids(parts);
        let entry = Entry {
            actor: match self.caller {
                Some(identity) => Actor::Principal {
                    principal: identity.principal,
                    app: identity.app,
                    tenant: identity.tenant,
                },
                None => Actor::Nobody,
            },
            code: Some(code_text(error.code)),
            address: address(parts).map(|address| address.to_string()),
            request: ids.map(|ids| ids.request),
            correlation: ids.map(|ids| ids.correlation),
            ..bare(
                &self.scope.as_ref().map_or_else(path, ResourceId::to_string),
                self.row.map_or(parts.method.as_str(), |row| row.action),
                status,
            )
        };
        let tenant = self.tenant.or(self.caller.map(|caller| caller.tenant));
        let tenant = tenant.unwrap_or(recorder.installation);
        recorder.note(Note { tenant, entry });
    }
}

fn code_text(code: ErrorCode) -> String {
    code.as_str().to_owned()
}

fn writes(row: &Operation) -> bool {
    ![Method::GET, Method::HEAD].contains(&row.method) && !row.action.ends_with("/read")
}

fn ids(parts: &Parts) -> Option<RequestIds> {
    parts.extensions.get::<RequestIds>().copied()
}

fn address(parts: &Parts) -> Option<IpAddr> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(peer.0.ip())
}

/// The permit of a write, with what its line will tell of the request. Reads leave none, and are not slowed down.
pub fn traced(permit: Permit, row: &Operation, grants: &Grants, parts: &Parts) -> Permit {
    let Some(ids) = ids(parts).filter(|_| writes(row)) else {
        return permit;
    };
    let rights = grants.rights(permit.action(), permit.scope(), RIGHTS_MAX);
    let origin = Origin {
        address: address(parts),
        request: ids.request,
        correlation: ids.correlation,
        rights: rights.iter().map(ResourceId::to_string).collect(),
    };
    permit.for_request(Arc::new(origin))
}
