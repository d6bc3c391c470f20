//! What machines run on here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What executes a machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's translator: works everywhere, ten times slower.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// What was chosen, and the reason in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceleration {
    /// The choice.
    pub accel: Accel,
    /// Why.
    pub why: String,
}
