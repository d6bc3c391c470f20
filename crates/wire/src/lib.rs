//! What travels: ARM resource ids, bodies, api-versions, the error envelope, OAuth messages.
//!
//! Serde types and pure functions only. This crate opens no file and no socket, decides no right and
//! knows no storage: client and server share it, and nothing else.

mod api_version;
pub mod compute;
mod error;
pub mod factory;
mod ids;
mod location;
mod names;
pub mod oauth;
pub mod odata;
mod operation;
mod page;
pub mod policy;
pub mod promotion;
mod resource_id;
pub mod resources;
pub mod roles;
mod state;
pub mod template;
mod version;

pub use api_version::{ApiVersion, ApiVersionError};
pub use error::{ArmError, ArmErrorBody, Envelope, ErrorCode};
pub use ids::{AppId, IdKindError, PrincipalId, SubscriptionId, TenantId};
pub use location::Location;
pub use names::{NameError, NameRule};
pub use operation::{OperationState, OperationStatus};
pub use page::Paged;
pub use resource_id::{IdError, ResourceId, ResourceType};
pub use state::ProvisioningState;
pub use version::{VersionNumber, VersionNumberError};
