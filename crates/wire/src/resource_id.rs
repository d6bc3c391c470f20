//! ARM resource ids: parsed once, compared without case, printed with the casing that Azure prints.
//!
//! An id is hostile text. Everything that could make two spellings of one resource (dot segments, encoded
//! slashes, control characters, blanks at an end) is refused rather than cleaned; only `//` and a trailing
//! `/` are folded away, because real clients send them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SubscriptionId;

const BYTES_MAX: usize = 2048;
const SEGMENTS_MAX: usize = 32;
const SEGMENT_BYTES_MAX: usize = 260;

/// Segments whose casing is ours to choose; anything else keeps the caller's.
const CANONICAL: &[&str] = &[
    "subscriptions",
    "resourceGroups",
    "providers",
    "Microsoft.Resources",
    "Microsoft.Compute",
    "Microsoft.VirtualMachineImages",
    "Microsoft.Authorization",
    "Microsoft.Subscription",
    "Microsoft.Network",
    "Microsoft.Management",
    "Microsoft.PolicyInsights",
    "Bullion.Factory",
    "galleries",
    "images",
    "versions",
    "imageTemplates",
    "runOutputs",
    "virtualMachines",
    "locations",
    "tenants",
    "regions",
    "applications",
    "runs",
    "operations",
    "machineImages",
    "roleAssignments",
    "roleDefinitions",
    "denyAssignments",
    "locks",
    "Microsoft.ManagedIdentity",
    "userAssignedIdentities",
    "signingKeys",
    "statementKeys",
    "users",
    "groups",
    "members",
    "deployments",
    "managementGroups",
    "policyDefinitions",
    "policySetDefinitions",
    "policyAssignments",
    "policyExemptions",
    "policyStates",
    "attestations",
];

/// The id of a resource, or the root `/`. Equality and hash fold case; `Display` keeps the caller's names.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ResourceId {
    /// Pairs of key and name, as printed.
    pairs: Vec<(String, String)>,
    /// The whole id in lower case: what is compared, hashed and stored as key.
    folded: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a resource id starts with '/'")]
    NotAbsolute,
    #[error(
        "a resource id has at most {BYTES_MAX} bytes and {SEGMENTS_MAX} segments of {SEGMENT_BYTES_MAX} bytes"
    )]
    TooLong,
    #[error("a resource id holds no '.' or '..' segment")]
    DotSegment,
    #[error("a resource id holds a character that is not allowed in it")]
    BadCharacter,
    #[error("a resource id is pairs of a type and a name; the last name is missing")]
    Odd,
}

/// `Microsoft.Compute/galleries/images`. Compared without case.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceType(String);

impl ResourceId {
    /// `/`: the installation, above every subscription.
    pub fn root() -> Self {
        Self::from_pairs(Vec::new())
    }

    pub fn subscription_scope(id: SubscriptionId) -> Self {
        Self::root().push("subscriptions", &id.to_string())
    }

    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > BYTES_MAX {
            return Err(IdError::TooLong);
        }
        let text = text.strip_prefix('/').ok_or(IdError::NotAbsolute)?;
        let segments: Vec<&str> = text.split('/').filter(|s| !s.is_empty()).collect();
        if segments.len() > SEGMENTS_MAX {
            return Err(IdError::TooLong);
        }
        segments
            .iter()
            .try_for_each(|segment| check_segment(segment))?;
        let (pairs, rest) = segments.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(IdError::Odd);
        }
        Ok(Self::from_pairs(
            pairs
                .iter()
                .map(|[key, name]| canonical_pair(key, name))
                .collect(),
        ))
    }

    fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        let folded = render(&pairs).to_lowercase();
        Self { pairs, folded }
    }

    fn push(&self, key: &str, name: &str) -> Self {
        let mut pairs = self.pairs.clone();
        pairs.push(canonical_pair(key, name));
        Self::from_pairs(pairs)
    }

    /// A child of the same provider: `…/galleries/g` and `("images", "d")` give `…/galleries/g/images/d`.
    /// The name is the caller's to have checked; it must be one segment.
    pub fn child(&self, kind: &str, name: &str) -> Result<Self, IdError> {
        check_segment(kind)?;
        check_segment(name)?;
        Ok(self.push(kind, name))
    }

    /// A resource of a provider below this scope: `{scope}/providers/{namespace}/{kind}/{name}`.
    pub fn extension(&self, namespace: &str, kind: &str, name: &str) -> Result<Self, IdError> {
        check_segment(namespace)?;
        self.push("providers", namespace).child(kind, name)
    }

    pub fn is_root(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The last segment: the resource's own name. Empty for the root.
    pub fn name(&self) -> &str {
        self.pairs.last().map_or("", |(_, name)| name)
    }

    /// Where the last `providers` section starts, unless it names no type yet.
    fn section(&self) -> Option<usize> {
        self.pairs
            .iter()
            .rposition(|(key, _)| key == "providers")
            .filter(|at| at + 1 < self.pairs.len())
    }

    pub fn resource_type(&self) -> ResourceType {
        match (self.section(), self.pairs.last()) {
            (Some(at), _) => {
                let mut text = self.pairs[at].1.clone();
                for (key, _) in &self.pairs[at + 1..] {
                    text.push('/');
                    text.push_str(key);
                }
                ResourceType(text)
            }
            (None, Some((key, _))) => ResourceType(format!("Microsoft.Resources/{key}")),
            (None, None) => ResourceType("Microsoft.Resources/tenants".into()),
        }
    }

    /// The resource that holds this one: the parent resource, or the scope that an extension sits on.
    pub fn parent(&self) -> Option<Self> {
        let last = self.pairs.len().checked_sub(1)?;
        let keep = match self.section() {
            Some(at) if at + 1 == last => at,
            _ => last,
        };
        Some(Self::from_pairs(self.pairs[..keep].to_vec()))
    }

    pub fn subscription(&self) -> Option<SubscriptionId> {
        let (key, name) = self.pairs.first()?;
        (key == "subscriptions").then(|| name.parse().ok())?
    }

    /// The resource group's name.
    pub fn resource_group(&self) -> Option<&str> {
        let (key, name) = self.pairs.get(1)?;
        (key == "resourceGroups").then_some(name.as_str())
    }

    /// The id of the resource group that this id lies in.
    pub fn group_scope(&self) -> Option<Self> {
        self.resource_group()
            .map(|_| Self::from_pairs(self.pairs[..2].to_vec()))
    }

    /// The management group that this id is or lies at: `/providers/Microsoft.Management/managementGroups/{name}`.
    /// Subscriptions in a group do not carry it in their ids.
    pub fn management_group(&self) -> Option<&str> {
        let ((providers, namespace), (kind, name)) = (self.pairs.first()?, self.pairs.get(1)?);
        let fits = providers == "providers"
            && namespace == "Microsoft.Management"
            && kind == "managementGroups";
        fits.then_some(name.as_str())
    }

    /// The id of a management group. The name must be one segment.
    pub fn management_group_scope(name: &str) -> Result<Self, IdError> {
        Self::root().extension("Microsoft.Management", "managementGroups", name)
    }

    /// The name under a type segment: `id.part("galleries")`.
    pub fn part(&self, kind: &str) -> Option<&str> {
        let pair = self
            .pairs
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(kind));
        pair.map(|(_, name)| name.as_str())
    }

    /// Whether this id is the scope or lies below it, segment by segment.
    pub fn is_within(&self, scope: &Self) -> bool {
        scope.is_root()
            || self.folded == scope.folded
            || self
                .folded
                .strip_prefix(&scope.folded)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Lower-case form: the key under which stores keep it. `/` for the root.
    pub fn folded(&self) -> &str {
        &self.folded
    }
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    if segment == "." || segment == ".." {
        return Err(IdError::DotSegment);
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    // ASCII only: lower-casing other letters can change length and meaning, and no Azure name needs them.
    let allowed = |b: u8| b.is_ascii_graphic() && !b"/\\<>%&?#\"".contains(&b) || b == b' ';
    let blank_end = segment.starts_with(' ') || segment.ends_with(' ');
    if segment.is_empty() || blank_end || !segment.bytes().all(allowed) {
        return Err(IdError::BadCharacter);
    }
    Ok(())
}

fn canonical(segment: &str) -> String {
    let known = CANONICAL
        .iter()
        .find(|known| known.eq_ignore_ascii_case(segment));
    known.map_or_else(|| segment.to_string(), |known| known.to_string())
}

fn canonical_pair(key: &str, name: &str) -> (String, String) {
    let key = canonical(key);
    let name = if key == "providers" {
        canonical(name)
    } else {
        name.to_string()
    };
    (key, name)
}

fn render(pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return "/".into();
    }
    pairs
        .iter()
        .map(|(key, name)| format!("/{key}/{name}"))
        .collect()
}

impl FromStr for ResourceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ResourceId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&render(&self.pairs))
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceId({self})")
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.folded == other.folded
    }
}

impl Eq for ResourceId {}

impl PartialOrd for ResourceId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ResourceId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded.cmp(&other.folded)
    }
}

impl Hash for ResourceId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded.hash(state);
    }
}

impl ResourceType {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }

    pub fn namespace(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    pub fn is(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceType({self})")
    }
}

impl PartialEq for ResourceType {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for ResourceType {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: &str = "/subscriptions/00000000-0000-0000-0000-000000000001";

    /// `canonical id | type | name | parent`, or the error.
    fn check(text: &str, expected: &str) {
        let seen = match ResourceId::parse(text) {
            Ok(id) => format!(
                "{id} | {} | {} | {}",
                id.resource_type(),
                id.name(),
                id.parent().map_or("-".into(), |p| p.to_string())
            ),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(seen.replace(S, "$S"), expected, "{text}");
    }

    #[test]
    fn ids() {
        check("/", "/ | Microsoft.Resources/tenants |  | -");
        check(
            S,
            "$S | Microsoft.Resources/subscriptions | 00000000-0000-0000-0000-000000000001 | /",
        );
        check(
            &format!("{S}/resourcegroups/RG/"),
            "$S/resourceGroups/RG | Microsoft.Resources/resourceGroups | RG | $S",
        );
        check(
            &format!(
                "{S}/resourceGroups/rg/providers/microsoft.compute//Galleries/G/images/d/versions/1.0.0"
            ),
            "$S/resourceGroups/rg/providers/Microsoft.Compute/galleries/G/images/d/versions/1.0.0 | Microsoft.Compute/galleries/images/versions | 1.0.0 | $S/resourceGroups/rg/providers/Microsoft.Compute/galleries/G/images/d",
        );
        check(
            &format!("{S}/resourceGroups/rg/providers/Microsoft.Compute/galleries/g"),
            "$S/resourceGroups/rg/providers/Microsoft.Compute/galleries/g | Microsoft.Compute/galleries | g | $S/resourceGroups/rg",
        );
        check(
            &format!(
                "{S}/providers/Microsoft.Compute/virtualMachines/v/providers/Bullion.Factory/machineImages/default"
            ),
            "$S/providers/Microsoft.Compute/virtualMachines/v/providers/Bullion.Factory/machineImages/default | Bullion.Factory/machineImages | default | $S/providers/Microsoft.Compute/virtualMachines/v",
        );
        check(
            "/providers/microsoft.management/managementgroups/Mg/providers/microsoft.authorization/policyassignments/a",
            "/providers/Microsoft.Management/managementGroups/Mg/providers/Microsoft.Authorization/policyAssignments/a | Microsoft.Authorization/policyAssignments | a | /providers/Microsoft.Management/managementGroups/Mg",
        );
        check(
            "/providers/Bullion.Factory/regions/north",
            "/providers/Bullion.Factory/regions/north | Bullion.Factory/regions | north | /",
        );
        check(
            &format!("{S}/providers/Microsoft.Compute"),
            "$S/providers/Microsoft.Compute | Microsoft.Resources/providers | Microsoft.Compute | $S",
        );
    }

    #[test]
    fn refused() {
        for (text, expected) in [
            ("subscriptions/x", "NotAbsolute"),
            ("/subscriptions", "Odd"),
            ("/subscriptions/..", "DotSegment"),
            ("/subscriptions/a%2fb", "BadCharacter"),
            ("/subscriptions/a\u{0}", "BadCharacter"),
            ("/subscriptions/ a", "BadCharacter"),
            ("/subscriptions/\u{130}", "BadCharacter"),
        ] {
            check(text, expected);
        }
        check(&"/a".repeat(34), "TooLong");
        check(&format!("/a/{}", "b".repeat(300)), "TooLong");
    }

    #[test]
    fn scopes_contain_whole_segments_only() {
        let id = |text: &str| ResourceId::parse(text).unwrap();
        assert!(id("/a/B/c/d").is_within(&id("/A/b")));
        assert!(id("/a/b").is_within(&id("/a/b")));
        assert!(!id("/a/bc").is_within(&id("/a/b")));
        assert!(id("/a/b").is_within(&ResourceId::root()));
        assert!(!ResourceId::root().is_within(&id("/a/b")));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,300}") {
            let _ = ResourceId::parse(&text);
        }

        #[test]
        fn what_is_printed_parses_to_the_same(segments in prop::collection::vec("[a-zA-Z0-9._-]{1,20}", 0..12)) {
            let text = format!("/{}", segments.join("/"));
            if let Ok(id) = ResourceId::parse(&text) {
                let again = ResourceId::parse(&id.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), id.to_string());
                prop_assert_eq!(&again, &id);
                prop_assert_eq!(id.folded(), &id.to_string().to_lowercase());
            }
        }
    }
}
