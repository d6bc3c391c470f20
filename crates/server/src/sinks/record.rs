//! What is told to receivers: linked lines, signed checkpoints, and where lines are missing. Data only.

use catalog::{ActivityStatus, Checkpoint, Entry, Linked};
use jiff::Timestamp;
use serde_json::json;

/// The longest text that is sent in one record; no line comes near it.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// What a record tells of; also how much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Done(ActivityStatus),
    /// The end of the chain so far, signed.
    Checkpoint,
    /// Lines that were removed before they were sent.
    Gap,
}

/// One record for a receiver. Server and number tell it from all others; a checkpoint has its last line's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub node: String,
    pub seq: u64,
    /// Microseconds since 1970.
    pub at: i64,
    pub tenant: String,
    /// With `node`, `seq`, `at`, `tenant` and `text` what the hash of a line is over.
    pub id_key: String,
    pub hash: String,
    /// Of a line: who did what, in JSON, and where that cannot be read here, nothing.
    pub entry: Option<Entry>,
    /// JSON; of a line exactly what was hashed.
    pub text: String,
}

impl Kind {
    /// A word that receivers may filter by.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Done(status) => status.as_str(),
            Kind::Checkpoint => "Checkpoint",
            Kind::Gap => "Gap",
        }
    }
}

impl Record {
    pub fn of_line(line: Linked) -> Record {
        let entry: Option<Entry> = serde_json::from_str(&line.body).ok();
        let status = entry.as_ref().map(|entry| entry.status);
        let text = match line.body.len() {
            0..=TEXT_BYTES_MAX => line.body,
            bytes => json!({ "tooLong": bytes }).to_string(),
        };
        Record {
            kind: Kind::Done(status.unwrap_or(ActivityStatus::Succeeded)),
            node: line.node,
            seq: line.seq,
            at: line.at,
            tenant: line.tenant,
            id_key: line.id_key,
            hash: line.hash,
            entry,
            text,
        }
    }

    pub fn of_checkpoint(end: Checkpoint) -> Record {
        Record {
            text: serde_json::to_string(&end).unwrap_or_default(),
            hash: end.hash,
            ..bare(Kind::Checkpoint, end.node, end.seq, end.at)
        }
    }

    /// The lines from `first` to `last` are gone.
    pub fn of_gap(node: &str, first: u64, last: u64, now: Timestamp) -> Record {
        Record {
            text: json!({ "missing": { "first": first, "last": last } }).to_string(),
            ..bare(Kind::Gap, node.to_owned(), last, now.as_microsecond())
        }
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_microsecond(self.at).unwrap_or_default()
    }
}

fn bare(kind: Kind, node: String, seq: u64, at: i64) -> Record {
    Record {
        kind,
        node,
        seq,
        at,
        tenant: String::new(),
        id_key: String::new(),
        hash: String::new(),
        entry: None,
        text: String::new(),
    }
}
