//! Who may do what: tenants' principals, role definitions, assignments, tokens, secrets, and the one
//! [`authorize`] that makes a [`Permit`].
//!
//! Decides, and does nothing else: no file, no socket, no clock of its own. Whoever wants to read or write
//! a resource needs a [`Permit`], and there is no other way to get one:
//!
//! ```compile_fail,E0451
//! fn forge(other: access::Permit) -> access::Permit {
//!     access::Permit { action: access::Action::new("*"), ..other }
//! }
//! ```

mod action;
mod around;
mod assertion;
mod grants;
mod identity;
mod permissions;
mod permit;
mod refresh;
mod role;
mod secret;
mod token;

pub use action::Action;
pub use around::{Around, LockLevel, Locks, Tree};
pub use assertion::{
    AssertionError, Certificate, CertificateError, FEDERATION_AUDIENCE, Federation, JWT_BEARER,
    Peek, Signed, TokenKeys, peek, verify_federated, verify_signed,
};
pub use grants::{Denial, Denied, Grants, Held};
pub use identity::{Caller, Identity};
pub use permissions::{Permissions, Role};
pub use permit::{
    Forbidden, Link, Origin, Permit, SystemReason, Visible, authorize, authorize_link,
    authorize_list, authorize_own,
};
pub use refresh::{RefreshToken, UrlToken};
pub use role::{
    Assignment, RoleDefinition, RoleId, RolePermission, built_in_ready, built_in_role,
    built_in_roles,
};
pub use secret::{ClientSecret, SecretError, SecretHash};
pub use token::{
    Bearer, Claims, KeyError, LIFETIME_SECONDS, NewToken, SigningKey, TokenError, TokenVerifier,
    VerifyingKey,
};
