//! When what is sent: a task for each receiver, which goes on from the last line that the receiver has. That number is
//! in the catalog, so neither a restart nor a receiver that is away loses a line.

use std::sync::Arc;
use std::time::Duration;

use catalog::{ActivityStore, Backend, CatalogError};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Record, SendError, Sink, SinkAddress};
use crate::errors;

/// How long this waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For lines that are linked meanwhile.
    pub round: Duration,
    /// Between tries where a receiver fails: this, then twice as long each time.
    pub first: Duration,
    pub most: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits {
            round: Duration::from_secs(1),
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
        }
    }
}

impl Waits {
    /// After so many failures, one after the other.
    pub fn after(&self, error: &SendError, failures: u32) -> Duration {
        match error {
            SendError::Status {
                pause: Some(asked), ..
            } => (*asked).max(self.first),
            _ => self.doubled(failures),
        }
    }

    fn doubled(&self, failures: u32) -> Duration {
        let doubled = 1 << failures.saturating_sub(1).min(16);
        self.first.saturating_mul(doubled).min(self.most)
    }
}

/// Lines in one batch, and bytes of their texts.
const BATCH_LINES: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot read what is to be sent")]
    Read(#[from] CatalogError),
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Lines of one server that follow each other, with their checkpoints.
pub struct Batch {
    pub records: Vec<Record>,
    /// How many of them are lines.
    pub lines: u64,
    /// Number of the last line.
    pub last: u64,
    /// Whether more may follow now.
    pub more: bool,
}

/// What follows the line `after`; none where nothing does.
pub async fn next_batch(
    store: &dyn ActivityStore,
    node: &str,
    after: u64,
) -> Result<Option<Batch>, CatalogError> {
    let found = store.activity_chain(node, after).await?;
    let all = found.len();
    let mut bytes = 0;
    let lines: Vec<_> = found
        .into_iter()
        .take(BATCH_LINES)
        .take_while(|line| {
            let fits = bytes < BATCH_BYTES;
            bytes += line.body.len();
            fits
        })
        .collect();
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return Ok(None);
    };
    let (first, last) = (first.seq, last.seq);
    let mut records = Vec::with_capacity(lines.len() + 2);
    if first > after + 1 {
        records.push(Record::of_gap(node, after + 1, first - 1, Timestamp::now()));
    }
    let mut points = store
        .activity_checkpoints(node, first)
        .await?
        .into_iter()
        .peekable();
    let count = lines.len();
    for line in lines {
        let seq = line.seq;
        records.push(Record::of_line(line));
        while let Some(end) = points.next_if(|end| end.seq <= seq) {
            records.push(Record::of_checkpoint(end));
        }
    }
    Ok(Some(Batch {
        records,
        lines: count as u64,
        last,
        more: count < all || all == catalog::ACTIVITY_MAX,
    }))
}

/// Sends a batch; where the receiver takes no such thing, its halves, down to the record that it does not take. That one
/// is told and left out: nothing after it would arrive otherwise.
pub async fn deliver(sink: &Sink, records: &[Record]) -> Result<(), SendError> {
    // Halves that wait. Each step makes them shorter, so this ends.
    let mut waiting = vec![records];
    while let Some(some) = waiting.pop() {
        match sink.send(some).await {
            Err(SendError::Refused(status)) => match some {
                [] => {}
                [one] => {
                    let (node, seq, kind) = (&one.node, one.seq, one.kind.word());
                    tracing::error!(
                        node,
                        seq,
                        kind,
                        status,
                        "a receiver does not take this line of the activity log"
                    );
                }
                _ => {
                    let (first, second) = some.split_at(some.len() / 2);
                    waiting.extend([second, first]);
                }
            },
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Sends a server's lines to one receiver for as long as the server runs.
pub struct Stream {
    pub catalog: Arc<dyn Backend>,
    pub node: String,
    pub address: SinkAddress,
    pub sink: Sink,
    pub waits: Waits,
}

impl Stream {
    pub fn start(self, stopped: watch::Receiver<bool>) -> JoinHandle<()> {
        tokio::spawn(self.run(stopped))
    }

    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut failures = 0;
        let mut wait = Duration::ZERO;
        loop {
            let round = async {
                tokio::time::sleep(wait).await;
                self.round().await
            };
            let outcome = tokio::select! {
                // What is under way is sent again after the next start.
                _ = stopped.wait_for(|stop| *stop) => return,
                outcome = round => outcome,
            };
            wait = match outcome {
                Ok(more) => {
                    if failures > 0 {
                        tracing::info!(sink = %self.address, "the receiver of the activity log is back");
                    }
                    failures = 0;
                    if more {
                        Duration::ZERO
                    } else {
                        self.waits.round
                    }
                }
                Err(error) => {
                    self.tell(&error, failures);
                    failures += 1;
                    match &error {
                        StreamError::Send(error) => self.waits.after(error, failures),
                        StreamError::Read(_) => self.waits.doubled(failures),
                    }
                }
            };
        }
    }

    /// Sends the next batch. Whether more waits.
    async fn round(&self) -> Result<bool, StreamError> {
        let sink = self.address.to_string();
        let Some(sent) = self.catalog.activity_sent(&self.node, &sink).await? else {
            return Ok(false);
        };
        let Some(batch) = next_batch(&*self.catalog, &self.node, sent).await? else {
            return Ok(false);
        };
        deliver(&self.sink, &batch.records).await?;
        self.catalog
            .note_activity_sent(&self.node, &sink, batch.last)
            .await?;
        Ok(batch.more)
    }

    /// Once for each time that it fails after it worked.
    fn tell(&self, error: &StreamError, failures: u32) {
        let (sink, cause) = (&self.address, errors::chain(error));
        match failures {
            0 => {
                tracing::warn!(%sink, cause, "a receiver of the activity log fails; lines wait for it")
            }
            _ => {
                tracing::debug!(%sink, cause, failures, "a receiver of the activity log still fails")
            }
        }
    }
}
