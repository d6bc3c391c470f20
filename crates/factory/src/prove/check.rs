//! Statements are looked at before a disk is used: who signed them, and whether they are about that disk. What follows
//! from a statement that proves nothing is decided by whoever asks.

use catalog::{CatalogError, StoredStatement};
use disk::DiskDigest;
use jobs::StepError;
use provenance::{
    Envelope, IN_TOTO_PAYLOAD, PredicateType, Provenance, PublicKey, Statement, VerifyError,
};
use serde_json::{Value, json};

use super::PROVENANCE;
use crate::factory::Factory;
use crate::pipeline::failed;

/// The code of a step that found a provenance that proves nothing.
pub const PROVENANCE_INVALID: &str = "ProvenanceInvalid";

/// Why a statement proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("read the statement")]
    Kept(#[from] CatalogError),
    #[error("it is no signed envelope")]
    NoEnvelope(#[source] serde_json::Error),
    #[error(transparent)]
    Signature(#[from] VerifyError),
    #[error("what was signed is no statement")]
    NoStatement(#[source] serde_json::Error),
    #[error("it is about another disk")]
    OtherDisk,
    #[error("it is no provenance")]
    NoProvenance,
    #[error("its provenance is not understood")]
    Predicate(#[source] serde_json::Error),
}

/// A statement whose signature is right and which is about the disk that it is kept for.
#[derive(Debug, Clone)]
pub struct Opened {
    pub envelope: Envelope,
    pub statement: Statement,
    pub key: PublicKey,
}

/// Looks at what is kept about `disk`, whose digest begins with `bd1:`.
pub fn open(
    kept: &StoredStatement,
    disk: &str,
    trusted: &[PublicKey],
) -> Result<Opened, ProofError> {
    let envelope: Envelope =
        serde_json::from_str(&kept.envelope).map_err(ProofError::NoEnvelope)?;
    let (payload, key) = envelope.open(IN_TOTO_PAYLOAD, trusted)?;
    let statement: Statement = serde_json::from_slice(&payload).map_err(ProofError::NoStatement)?;
    if !statement.concerns(disk) {
        return Err(ProofError::OtherDisk);
    }
    Ok(Opened {
        envelope,
        statement,
        key,
    })
}

/// A provenance that was looked at.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    key_id: String,
    provenance: Provenance,
}

impl Proof {
    /// What a gate writes down.
    pub fn evidence(&self) -> Value {
        json!({
            "keyId": self.key_id,
            "builder": self.provenance.run_details.builder.id,
            "run": self.provenance.run_details.metadata.invocation_id,
            "recipeDigest": self.provenance.build_definition.external_parameters["recipeDigest"],
        })
    }
}

impl Factory {
    /// The signed provenance of a disk, `None` where there is none: it was not built here. The permit is one under which
    /// a version with that disk was read.
    async fn proof(
        &self,
        permit: &access::Permit,
        disk: &DiskDigest,
    ) -> Result<Option<Proof>, ProofError> {
        let disk = disk.to_string();
        let Some(kept) = self.statements.statement(permit, &disk, PROVENANCE).await? else {
            return Ok(None);
        };
        let opened = open(&kept, &disk, &self.statement_keys())?;
        if opened.statement.predicate_type != PredicateType::Provenance {
            return Err(ProofError::NoProvenance);
        }
        let provenance = serde_json::from_value(opened.statement.predicate);
        Ok(Some(Proof {
            key_id: opened.key.id(),
            provenance: provenance.map_err(ProofError::Predicate)?,
        }))
    }

    /// The same for a version that is about to be used: one whose provenance proves nothing is not.
    pub(crate) async fn proof_for_use(
        &self,
        permit: &access::Permit,
        version: &wire::ResourceId,
        disk: &DiskDigest,
    ) -> Result<Option<Proof>, StepError> {
        match self.proof(permit, disk).await {
            Ok(proof) => Ok(proof),
            Err(ProofError::Kept(error)) => Err(error.into()),
            Err(error) => {
                let why = failed(PROVENANCE_INVALID, &error);
                let StepError::Failed { message, .. } = &why else {
                    return Err(why);
                };
                let message = format!(
                    "the signed provenance of {version} proves nothing: {message}; it is not used. Build it again, or \
                     trust the key that signed it: put its public key, in PEM, into keys/trusted of the data folder"
                );
                Err(StepError::failed(PROVENANCE_INVALID, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use provenance::{SigningKey, Subject, disk_digest_set};

    use super::*;

    #[test]
    fn a_statement_is_signed_by_a_trusted_key_and_about_its_disk() {
        let key = SigningKey::from_seed(&[1; 32]);
        let subject = Subject {
            name: "golden/debian 1.0.0".into(),
            digest: disk_digest_set("bd1:aa"),
        };
        let statement = Statement::new(subject, PredicateType::Provenance, json!({}));
        let payload = serde_json::to_vec(&statement).unwrap();
        let kept = |envelope: String| StoredStatement {
            name: PROVENANCE.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            envelope,
        };
        let sealed = |payload: &[u8]| {
            let envelope = key.seal(IN_TOTO_PAYLOAD, payload);
            kept(serde_json::to_string(&envelope).unwrap())
        };
        let trusted = [*key.public()];
        let good = open(&sealed(&payload), "bd1:aa", &trusted).unwrap();
        assert_eq!((good.statement, good.key), (statement, *key.public()));

        let check = |kept: StoredStatement, disk: &str, keys: &[PublicKey], expected: &str| {
            let error = open(&kept, disk, keys).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(sealed(&payload), "bd1:ab", &trusted, "another disk");
        check(sealed(&payload), "bd1:aa", &[], "none of the trusted");
        check(sealed(b"[]"), "bd1:aa", &trusted, "no statement");
        check(kept("{}".into()), "bd1:aa", &trusted, "no signed envelope");
    }
}
