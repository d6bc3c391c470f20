//! Values that exist only once a resource does: the id of a tenant, of an application, of a principal.
//!
//! A body says where such a value goes and which resource has it; `plan` fills it in, once from what the server
//! holds and again from what `apply` has just created. Nothing is looked up here.

use serde_json::Value;
use wire::ResourceId;

use super::Realm;

/// What stands in a plan for a value that only `apply` brings.
pub const KNOWN_AFTER_APPLY: &str = "(known after apply)";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Later {
    /// A property that the server gives to a resource of the folder.
    Property {
        realm: Realm,
        id: ResourceId,
        name: &'static str,
    },
    /// The id of a policy that the server brings, by display name.
    BuiltIn { initiative: bool, name: String },
}

/// A place in a body that is filled in later.
#[derive(Debug, Clone)]
pub struct Hole {
    /// JSON pointer into the body, where null stands until then.
    pub pointer: String,
    /// As the plan names the place: `stages[test].application`.
    pub field: String,
    pub from: Later,
}

/// What fills holes.
pub trait Known {
    fn value(&self, later: &Later) -> Option<Value>;
}

/// Fills what is known; gives the fields that are not.
pub fn fill(body: &mut Value, holes: &[Hole], known: &impl Known) -> Vec<String> {
    let mut open = Vec::new();
    for hole in holes {
        let value = known.value(&hole.from);
        if value.is_none() {
            open.push(hole.field.clone());
        }
        if let Some(place) = body.pointer_mut(&hole.pointer) {
            *place = value.unwrap_or_else(|| KNOWN_AFTER_APPLY.into());
        }
    }
    open
}
