//! The activity log for auditors: written out as JSON lines, and its chains proved, without a server.
//!
//! Each chain is followed from its first line, or from the checkpoint that stayed when older lines were removed, and each
//! checkpoint is compared with the chain and with its signature. The key of this data folder's server is taken from the
//! folder, where whoever can change the database alone cannot reach it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use catalog::{
    ACTIVITY_MAX, ActivityStore, Backend, CHAIN_START, CatalogError, Checkpoint, FileAccess,
    Linked, Place, PlaceError, PostgresCatalog, SqliteCatalog, SqliteOptions,
};
use provenance::{Envelope, PublicKey};
use serde_json::{Value, json};

use crate::activity::{CHECKPOINT_TYPE, checkpoint_text, signing_key};
use crate::data::DataError;
use crate::sinks::{Record, SendError, Sink, SinkAddress, SinkError, stream};

/// Faults that are told one by one.
const FAULTS_MAX: usize = 100;
/// How often a batch that a receiver did not take is sent again.
const TRIES_MORE: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("there is no catalog in {0}")]
    NoCatalog(String),
    #[error("cannot read the catalog")]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("cannot read the key of the activity log")]
    Key(#[from] DataError),
    #[error("cannot write")]
    Write(#[from] std::io::Error),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("cannot send it to {sink}; {lines} lines were sent")]
    Send {
        sink: String,
        lines: u64,
        #[source]
        cause: SendError,
    },
}

/// What was found of one server's chain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Proof {
    pub node: String,
    pub lines: u64,
    /// The numbers of the first and the last line.
    pub first: u64,
    pub last: u64,
    pub checkpoints: u64,
    /// Lines after the last checkpoint are not signed yet.
    pub signed_to: u64,
    /// Empty: everything is as it was written.
    pub faults: Vec<String>,
}

async fn open(data: &Path, database: Option<&str>) -> Result<Box<dyn Backend>, AuditError> {
    if let Some(place) = database {
        let place: Place = place.parse()?;
        return Ok(Box::new(PostgresCatalog::open(&place).await?));
    }
    let path = data.join("bullion.db");
    if !path.exists() {
        return Err(AuditError::NoCatalog(data.display().to_string()));
    }
    let options = SqliteOptions {
        access: FileAccess::ReadOnly,
        ..SqliteOptions::default()
    };
    Ok(Box::new(SqliteCatalog::open_with(&path, options).await?))
}

/// Follows every chain.
pub async fn verify(data: &Path, database: Option<&str>) -> Result<Vec<Proof>, AuditError> {
    let catalog = open(data, database).await?;
    let own = signing_key_of(data)?;
    let mut proofs = Vec::new();
    for (node, key) in catalog.activity_nodes().await? {
        let named = PublicKey::from_pem(&key).ok();
        let mut proof = Proof {
            node: node.clone(),
            ..Proof::default()
        };
        let key = match &own {
            Some((name, own)) if *name == node => {
                if named != Some(*own) {
                    proof.fault("the key in the database is not the one in the data folder".into());
                }
                Some(*own)
            }
            _ => named,
        };
        follow(&*catalog, key, &mut proof).await?;
        proofs.push(proof);
    }
    catalog.close().await;
    Ok(proofs)
}

/// Name and key of the server of a data folder; none where it has not started yet.
fn signing_key_of(data: &Path) -> Result<Option<(String, PublicKey)>, AuditError> {
    let name = std::fs::read_to_string(data.join("server-id"));
    let (Ok(name), true) = (name, data.join("activity-key").exists()) else {
        return Ok(None);
    };
    Ok(Some((name.trim().to_owned(), *signing_key(data)?.public())))
}

impl Proof {
    fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }
}

async fn follow(
    store: &dyn ActivityStore,
    key: Option<PublicKey>,
    proof: &mut Proof,
) -> Result<(), AuditError> {
    let node = proof.node.clone();
    let mut points = checkpoints(store, &node).await?;
    let first = store.activity_chain(&node, 0).await?;
    let begins = first.first().map_or(0, |line| line.seq);
    let (mut seq, mut hash) = match begins {
        0 | 1 => (0, CHAIN_START.to_owned()),
        // Older ones were removed; what they ended with is signed.
        _ => match points.remove(&(begins - 1)) {
            Some(end) => {
                proof.check_signature(&end, key);
                (end.seq, end.hash)
            }
            None => {
                proof.fault(format!("lines before {begins} are missing"));
                (begins - 1, String::new())
            }
        },
    };
    proof.first = begins;
    loop {
        let lines = store.activity_chain(&node, seq).await?;
        let more = lines.len() == ACTIVITY_MAX;
        for line in lines {
            proof.check_line(&line, seq, &hash);
            (seq, hash) = (line.seq, line.hash.clone());
            proof.lines += 1;
            if let Some(end) = points.remove(&seq) {
                proof.check_end(&end, &hash, key);
            }
        }
        if !more {
            break;
        }
    }
    proof.last = seq;
    for (at, end) in points {
        // The one that stayed for lines that were removed, where none came after it.
        if proof.lines == 0 {
            proof.check_signature(&end, key);
        } else if at > seq || at >= begins {
            proof.fault(format!("line {at}, which was signed, is missing"));
        }
    }
    Ok(())
}

async fn checkpoints(
    store: &dyn ActivityStore,
    node: &str,
) -> Result<BTreeMap<u64, Checkpoint>, AuditError> {
    let mut all = BTreeMap::new();
    let mut from = 0;
    loop {
        let some = store.activity_checkpoints(node, from).await?;
        let more = some.len() == ACTIVITY_MAX;
        from = some.last().map_or(from, |last| last.seq + 1);
        all.extend(some.into_iter().map(|point| (point.seq, point)));
        if !more {
            return Ok(all);
        }
    }
}

impl Proof {
    fn check_line(&mut self, line: &Linked, before: u64, hash: &str) {
        if line.seq != before + 1 {
            self.fault(format!(
                "lines {} to {} are missing",
                before + 1,
                line.seq - 1
            ));
        } else if !hash.is_empty() && line.hash != line.hash_after(hash) {
            self.fault(format!("line {} was changed or moved", line.seq));
        }
    }

    fn check_end(&mut self, end: &Checkpoint, hash: &str, key: Option<PublicKey>) {
        if end.hash != hash {
            self.fault(format!("line {} is not what was signed", end.seq));
        }
        self.check_signature(end, key);
    }

    fn check_signature(&mut self, end: &Checkpoint, key: Option<PublicKey>) {
        self.checkpoints += 1;
        let envelope: Option<Envelope> = serde_json::from_str(&end.signed).ok();
        let keys: Vec<PublicKey> = key.into_iter().collect();
        let opened = envelope.and_then(|envelope| envelope.open(CHECKPOINT_TYPE, &keys).ok());
        match opened {
            Some((text, _)) if text == checkpoint_text(end) => self.signed_to = end.seq,
            _ => self.fault(format!("the signature at line {} is wrong", end.seq)),
        }
    }
}

/// Every linked line and checkpoint, one JSON object per line, chain after chain. How many lines.
pub async fn export(
    data: &Path,
    database: Option<&str>,
    out: &mut dyn Write,
) -> Result<u64, AuditError> {
    let catalog = open(data, database).await?;
    let mut count = 0;
    for (node, key) in catalog.activity_nodes().await? {
        writeln!(out, "{}", json!({ "node": node, "publicKey": key }))?;
        let mut points = checkpoints(&*catalog, &node).await?;
        let mut seq = 0;
        loop {
            let lines = catalog.activity_chain(&node, seq).await?;
            let more = lines.len() == ACTIVITY_MAX;
            for line in lines {
                seq = line.seq;
                writeln!(out, "{}", shown(&line))?;
                count += 1;
                if let Some(end) = points.remove(&seq) {
                    writeln!(out, "{}", json!({ "checkpoint": end }))?;
                }
            }
            if !more {
                break;
            }
        }
    }
    catalog.close().await;
    Ok(count)
}

/// Sends every linked line and checkpoint to a receiver, chain after chain. How many lines.
pub async fn send(
    data: &Path,
    database: Option<&str>,
    to: &SinkAddress,
) -> Result<u64, AuditError> {
    let sink = Sink::new(to)?;
    let catalog = open(data, database).await?;
    let mut lines = 0;
    for (node, _) in catalog.activity_nodes().await? {
        // What was removed before has no place in an export: it begins with what is kept.
        let begins = catalog.activity_chain(&node, 0).await?;
        let mut after = begins.first().map_or(0, |line| line.seq - 1);
        while let Some(batch) = stream::next_batch(&*catalog, &node, after).await? {
            sent(&sink, &batch.records)
                .await
                .map_err(|cause| AuditError::Send {
                    sink: to.to_string(),
                    lines,
                    cause,
                })?;
            (after, lines) = (batch.last, lines + batch.lines);
        }
    }
    catalog.close().await;
    Ok(lines)
}

async fn sent(sink: &Sink, records: &[Record]) -> Result<(), SendError> {
    let waits = stream::Waits::default();
    let mut failures = 0;
    loop {
        match stream::deliver(sink, records).await {
            Err(error) if failures < TRIES_MORE => {
                failures += 1;
                tokio::time::sleep(waits.after(&error, failures)).await;
            }
            outcome => return outcome,
        }
    }
}

/// A line as it was hashed, and beside it what it says.
fn shown(line: &Linked) -> Value {
    let mut shown = serde_json::to_value(line).unwrap_or_default();
    shown["activity"] = serde_json::from_str(&line.body).unwrap_or_default();
    shown
}

#[cfg(test)]
mod tests {
    use access::Permit;
    use async_trait::async_trait;
    use catalog::{ActivityRange, Note, Recorded, Sign};
    use provenance::SigningKey;

    use super::*;

    const NODE: &str = "node";

    /// A chain as a database may hold it after somebody was there.
    #[derive(Clone, Default)]
    struct Kept {
        lines: Vec<Linked>,
        points: Vec<Checkpoint>,
    }

    #[async_trait]
    impl ActivityStore for Kept {
        fn keep_activity(&self, _: &str) {}
        async fn note(&self, _: Vec<Note>) -> catalog::Result<()> {
            Ok(())
        }
        async fn activity(
            &self,
            _: &Permit,
            _: ActivityRange,
            _: usize,
        ) -> catalog::Result<Vec<Recorded>> {
            Ok(Vec::new())
        }
        async fn link_activity(&self, _: Sign<'_>) -> catalog::Result<usize> {
            Ok(0)
        }
        async fn trim_activity(&self, _: catalog::Keep) -> catalog::Result<catalog::Trimmed> {
            Ok(catalog::Trimmed::default())
        }
        async fn name_activity_sinks(&self, _: &str, _: &[String]) -> catalog::Result<()> {
            Ok(())
        }
        async fn activity_sent(&self, _: &str, _: &str) -> catalog::Result<Option<u64>> {
            Ok(None)
        }
        async fn note_activity_sent(&self, _: &str, _: &str, _: u64) -> catalog::Result<()> {
            Ok(())
        }
        async fn name_activity_key(&self, _: &str, _: &str) -> catalog::Result<()> {
            Ok(())
        }
        async fn activity_nodes(&self) -> catalog::Result<Vec<(String, String)>> {
            Ok(Vec::new())
        }
        async fn activity_chain(&self, _: &str, after: u64) -> catalog::Result<Vec<Linked>> {
            let mut lines = self.lines.clone();
            lines.sort_by_key(|line| line.seq);
            lines.retain(|line| line.seq > after);
            Ok(lines)
        }
        async fn activity_checkpoints(
            &self,
            _: &str,
            from: u64,
        ) -> catalog::Result<Vec<Checkpoint>> {
            Ok(self
                .points
                .iter()
                .filter(|point| point.seq >= from)
                .cloned()
                .collect())
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[7; 32])
    }

    fn sign(key: &SigningKey, end: &mut Checkpoint) {
        let envelope = key.seal(CHECKPOINT_TYPE, &checkpoint_text(end));
        end.signed = serde_json::to_string(&envelope).unwrap();
    }

    /// Six lines, signed after the third and the sixth.
    fn kept() -> Kept {
        let mut kept = Kept::default();
        let mut hash = CHAIN_START.to_owned();
        for seq in 1..=6 {
            let mut line = Linked {
                node: NODE.into(),
                seq,
                at: 1_000 + seq as i64,
                tenant: "t".into(),
                id_key: format!("/r/{seq}"),
                body: format!("{{\"n\":{seq}}}"),
                hash: String::new(),
            };
            hash = line.hash_after(&hash);
            line.hash.clone_from(&hash);
            kept.lines.push(line);
            if seq % 3 == 0 {
                let mut end = Checkpoint {
                    node: NODE.into(),
                    seq,
                    at: 2_000,
                    hash: hash.clone(),
                    signed: String::new(),
                };
                sign(&key(), &mut end);
                kept.points.push(end);
            }
        }
        kept
    }

    async fn check(change: impl Fn(&mut Kept), expected: &[&str]) {
        let mut kept = kept();
        change(&mut kept);
        let mut proof = Proof {
            node: NODE.into(),
            ..Proof::default()
        };
        follow(&kept, Some(*key().public()), &mut proof)
            .await
            .unwrap();
        assert_eq!(proof.faults, expected);
    }

    #[tokio::test]
    async fn a_chain_shows_what_was_done_to_it() {
        check(|_| {}, &[]).await;
        check(
            |kept| kept.lines[1].body = "{}".into(),
            &["line 2 was changed or moved"],
        )
        .await;
        check(
            |kept| kept.lines[1].at += 1,
            &["line 2 was changed or moved"],
        )
        .await;
        check(
            |kept| kept.lines[1].tenant = "u".into(),
            &["line 2 was changed or moved"],
        )
        .await;
        check(
            |kept| drop(kept.lines.remove(4)),
            &["lines 5 to 5 are missing"],
        )
        .await;
        let swap = |kept: &mut Kept| {
            let (a, b) = (kept.lines[3].body.clone(), kept.lines[4].body.clone());
            (kept.lines[3].body, kept.lines[4].body) = (b, a);
        };
        check(
            swap,
            &["line 4 was changed or moved", "line 5 was changed or moved"],
        )
        .await;
        let renumber = |kept: &mut Kept| (kept.lines[3].seq, kept.lines[4].seq) = (5, 4);
        let faults = [
            "line 4 was changed or moved",
            "line 5 was changed or moved",
            "line 6 was changed or moved",
        ];
        check(renumber, &faults).await;
        check(
            |kept| drop(kept.lines.pop()),
            &["line 6, which was signed, is missing"],
        )
        .await;
        check(
            |kept| drop(kept.lines.remove(0)),
            &["lines before 2 are missing"],
        )
        .await;
        // All hashes made anew, as one can without the key.
        let rewrite = |kept: &mut Kept| {
            kept.lines[4].body = "{}".into();
            let mut hash = CHAIN_START.to_owned();
            for line in &mut kept.lines {
                hash = line.hash_after(&hash);
                line.hash.clone_from(&hash);
            }
        };
        check(rewrite, &["line 6 is not what was signed"]).await;
        let forge = |kept: &mut Kept| {
            rewrite(kept);
            kept.points[1].hash.clone_from(&kept.lines[5].hash);
            sign(&SigningKey::from_seed(&[8; 32]), &mut kept.points[1]);
        };
        check(forge, &["the signature at line 6 is wrong"]).await;
        // What retention leaves, and what is not signed yet.
        check(|kept| drop(kept.lines.drain(..3)), &[]).await;
        check(|kept| drop(kept.points.pop()), &[]).await;
        check(|kept| kept.lines.clear(), &[]).await;
    }
}
