//! What `tattoo read` wants to know.

use std::collections::BTreeMap;

use super::Scope;

/// A record that was read, or a machine whose record is to be asked for.
#[derive(Debug)]
pub struct ReadTattoo {
    /// The disk or machine, as it was named.
    pub what: String,
    /// The lines of the record in a disk; none for a machine.
    pub record: Option<BTreeMap<String, String>>,
    /// The version that it is held against, instead of the one that the machine was made from or that the record names.
    pub version: Option<String>,
    /// Whether a record that cannot be checked is a failure.
    pub must_be_signed: bool,
    pub scope: Scope,
}
