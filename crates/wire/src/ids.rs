//! Ids that are UUIDs on the wire, each its own type so that two of them cannot be swapped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {kind} (a UUID is expected)")]
pub struct IdKindError {
    kind: &'static str,
    text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// A fresh random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdKindError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Braced, URN and undashed forms are valid UUIDs but never valid here: clients send the
                // hyphenated form, and a second spelling of an id is a second way past a comparison.
                match Uuid::try_parse(text) {
                    Ok(id) if text.len() == 36 => Ok(Self(id)),
                    _ => Err(IdKindError { kind: $kind, text: text.chars().take(64).collect() }),
                }
            }
        }
    };
}

uuid_id!(
    /// A tenant (directory).
    TenantId,
    "tenant id"
);
uuid_id!(
    /// A subscription.
    SubscriptionId,
    "subscription id"
);
uuid_id!(
    /// The object id of a service principal, user or group inside one tenant.
    PrincipalId,
    "principal id"
);
uuid_id!(
    /// The client id of an application registration.
    AppId,
    "application id"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, ok: bool) {
        assert_eq!(text.parse::<TenantId>().is_ok(), ok, "{text}");
    }

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        check("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", true);
        check("8E3AF657-A8FF-443C-A75C-2FE8C4BCB635", true);
        check("8e3af657a8ff443ca75c2fe8c4bcb635", false);
        check("{8e3af657-a8ff-443c-a75c-2fe8c4bcb635}", false);
        check("", false);
    }
}
