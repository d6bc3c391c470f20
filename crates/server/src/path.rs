//! A request's path, taken apart the way ARM means it: pairs of a key and a name.
//!
//! An even number of segments names one thing, an odd number a collection in a scope or an action on a
//! resource. Knows no resource type; whether one exists is the operation table's to say.

use percent_encoding::percent_decode_str;

/// Longer than any id that fits the databases of Azure's own clients.
const PATH_BYTES_MAX: usize = 4096;
const SEGMENTS_MAX: usize = 32;
const SEGMENT_BYTES_MAX: usize = 260;

/// Where a type's first resource sits: what stands before its `/providers/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Root,
    ManagementGroup,
    Subscription,
    Group,
    /// On another resource: an extension.
    Resource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `…/{type}/{name}`: the path is the resource's id.
    Named,
    /// `…/{type}`: all of that type in the scope, or an action on it.
    Collection,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmPath {
    pub shape: Shape,
    /// `Microsoft.Compute/galleries/images`, in the caller's case.
    pub kind: String,
    pub place: Place,
    /// The id that is asked about: the resource, or the scope of a collection.
    pub scope: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is longer than {PATH_BYTES_MAX} bytes or {SEGMENTS_MAX} segments")]
    TooLong,
    #[error("the path holds '.' or '..' as a segment")]
    DotSegment,
    #[error("the path holds characters that are not allowed in a resource id")]
    BadCharacter,
    #[error("the path names no resource type")]
    NoType,
}

const RESOURCES: &str = "Microsoft.Resources";
const PROVIDERS: &str = "providers";

type Pair = [String; 2];

pub fn parse(path: &str) -> Result<ArmPath, PathError> {
    let segments = segments(path)?;
    let (pairs, rest) = segments.as_chunks::<2>();
    let tail = rest.first().map(String::as_str);
    let shape = if tail.is_some() {
        Shape::Collection
    } else {
        Shape::Named
    };
    let section = pairs.iter().rposition(|[key, _]| is(key, PROVIDERS));
    let (kind, outer, scope) = match section {
        _ if tail.is_some_and(|tail| is(tail, PROVIDERS)) => {
            (format!("{RESOURCES}/{PROVIDERS}"), pairs, pairs)
        }
        Some(at) => {
            let [_, namespace] = &pairs[at];
            let mut types: Vec<&str> = pairs[at + 1..].iter().map(|[key, _]| &**key).collect();
            types.extend(tail);
            if types.is_empty() {
                (format!("{RESOURCES}/{PROVIDERS}"), &pairs[..at], pairs)
            } else {
                let first_of_type = types.len() == 1 && tail.is_some();
                let scope = if first_of_type { &pairs[..at] } else { pairs };
                let kind = format!("{namespace}/{}", types.join("/"));
                (kind, &pairs[..at], scope)
            }
        }
        None => {
            let (key, outer) = match (tail, pairs) {
                (Some(tail), _) => (tail, pairs),
                (None, [outer @ .., [key, _]]) => (&**key, outer),
                (None, []) => return Err(PathError::NoType),
            };
            (format!("{RESOURCES}/{key}"), outer, pairs)
        }
    };
    Ok(ArmPath {
        shape,
        kind,
        place: place(outer),
        scope: id(scope),
    })
}

fn is(segment: &str, word: &str) -> bool {
    segment.eq_ignore_ascii_case(word)
}

fn place(outer: &[Pair]) -> Place {
    let Some([key, _]) = outer.last() else {
        return Place::Root;
    };
    let in_provider = outer.iter().any(|[key, _]| is(key, PROVIDERS));
    if is_management_group(outer) {
        Place::ManagementGroup
    } else if in_provider {
        Place::Resource
    } else if is(key, "subscriptions") {
        Place::Subscription
    } else if is(key, "resourceGroups") {
        Place::Group
    } else {
        Place::Resource
    }
}

fn is_management_group(outer: &[Pair]) -> bool {
    match outer {
        [[providers, namespace], [kind, _]] => {
            is(providers, PROVIDERS)
                && is(namespace, "Microsoft.Management")
                && is(kind, "managementGroups")
        }
        _ => false,
    }
}

fn id(pairs: &[Pair]) -> String {
    if pairs.is_empty() {
        return "/".into();
    }
    pairs
        .iter()
        .map(|[key, name]| format!("/{key}/{name}"))
        .collect()
}

/// Decoded segments. Empty ones are dropped, so `//` and a trailing `/` mean nothing, as clients rely on.
pub fn segments(path: &str) -> Result<Vec<String>, PathError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let mut segments = Vec::new();
    for raw in path.split('/').filter(|raw| !raw.is_empty()) {
        let decoded = percent_decode_str(raw)
            .decode_utf8()
            .map_err(|_| PathError::BadCharacter)?;
        if decoded == "." || decoded == ".." {
            return Err(PathError::DotSegment);
        }
        let bad = |c: char| c.is_control() || "/\\<>%&?#\"".contains(c);
        if decoded.len() > SEGMENT_BYTES_MAX || decoded.contains(bad) || decoded.trim() != decoded {
            return Err(PathError::BadCharacter);
        }
        if segments.len() == SEGMENTS_MAX {
            return Err(PathError::TooLong);
        }
        segments.push(decoded.into_owned());
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `shape kind place scope`, or the error.
    fn check(path: &str, expected: &str) {
        let seen = match parse(path) {
            Ok(path) => format!(
                "{:?} {} {:?} {}",
                path.shape, path.kind, path.place, path.scope
            ),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(seen, expected, "{path}");
    }

    #[test]
    fn paths_are_pairs() {
        check(
            "/subscriptions",
            "Collection Microsoft.Resources/subscriptions Root /",
        );
        check(
            "/subscriptions/s/",
            "Named Microsoft.Resources/subscriptions Root /subscriptions/s",
        );
        check(
            "/subscriptions/s/resourcegroups",
            "Collection Microsoft.Resources/resourcegroups Subscription /subscriptions/s",
        );
        check(
            "/subscriptions/s/resourceGroups/g",
            "Named Microsoft.Resources/resourceGroups Subscription /subscriptions/s/resourceGroups/g",
        );
        check(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute//galleries/x",
            "Named Microsoft.Compute/galleries Group /subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/x",
        );
        check(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries",
            "Collection Microsoft.Compute/galleries Group /subscriptions/s/resourceGroups/g",
        );
        check(
            "/subscriptions/s/providers/Microsoft.Compute/galleries",
            "Collection Microsoft.Compute/galleries Subscription /subscriptions/s",
        );
        check(
            "/subscriptions/s/resourceGroups/g/providers/M.C/galleries/x/images",
            "Collection M.C/galleries/images Group /subscriptions/s/resourceGroups/g/providers/M.C/galleries/x",
        );
        check(
            "/subscriptions/s/resourceGroups/g/providers/M.C/vms/v/providers/Bullion.Factory/operations/1",
            "Named Bullion.Factory/operations Resource /subscriptions/s/resourceGroups/g/providers/M.C/vms/v/providers/Bullion.Factory/operations/1",
        );
        check(
            "/providers/microsoft.management/managementgroups/m/providers/M.A/assignments/a",
            "Named M.A/assignments ManagementGroup /providers/microsoft.management/managementgroups/m/providers/M.A/assignments/a",
        );
        check(
            "/subscriptions/s/providers/M.P/states/latest/summarize",
            "Collection M.P/states/summarize Subscription /subscriptions/s/providers/M.P/states/latest",
        );
        check(
            "/subscriptions/s/providers",
            "Collection Microsoft.Resources/providers Subscription /subscriptions/s",
        );
        check(
            "/subscriptions/s/providers/Microsoft.Compute",
            "Named Microsoft.Resources/providers Subscription /subscriptions/s/providers/Microsoft.Compute",
        );
        check(
            "/providers/Bullion.Factory/regions",
            "Collection Bullion.Factory/regions Root /",
        );
        check("/a%20b/c", "Named Microsoft.Resources/a b Root /a b/c");
    }

    #[test]
    fn paths_that_are_refused() {
        check("/", "NoType");
        check("/subscriptions/../x", "DotSegment");
        check("/subscriptions/%2e%2e/x", "DotSegment");
        check("/subscriptions/a%2fb", "BadCharacter");
        check("/subscriptions/a%00b", "BadCharacter");
        check("/subscriptions/%ff", "BadCharacter");
        check("/subscriptions/%20a", "BadCharacter");
        check(&"/a".repeat(33), "TooLong");
        check(&format!("/{}", "a".repeat(5000)), "TooLong");
    }
}
