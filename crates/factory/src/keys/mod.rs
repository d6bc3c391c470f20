//! Who keeps the secrets of the stores of this installation: a key file in the data folder, or the transit engine of a
//! Vault or OpenBao server. No block of an image and no secret in the open leaves this process for it; a secret is 32
//! bytes, and goes there when a store is opened or wrapped anew.

mod ring;
mod transit;
#[cfg(test)]
pub(crate) mod transit_tests;

pub use ring::KeyRing;
pub use transit::{Transit, TransitSettings};
