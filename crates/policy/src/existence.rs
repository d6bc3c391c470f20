//! The existence search: which related resources a policy looks at, and whether one satisfies it.

use serde_json::Value;

use crate::effect::Existence;
use crate::error::EvaluationError;
use crate::evaluate::{Evaluated, Evaluation};
use crate::field::{full_name, resource_type};
use crate::json::text;

/// Related resources that one search looks at.
pub const RELATED_MAX: usize = 10_000;

/// What the search found.
pub struct Found {
    pub satisfied: bool,
    pub looked_at: usize,
    /// The resource that satisfied it.
    pub resource: Option<String>,
    pub explained: Vec<Evaluated>,
}

/// Where the search looks, in the words of the details.
struct Where {
    kind: String,
    name: Option<String>,
    resource_kind: Option<String>,
    group: Option<String>,
    subscription_wide: bool,
}

pub fn search<'a>(
    existence: &Existence,
    resource: &'a Value,
    related: &'a [Value],
    mut begin: impl FnMut() -> Evaluation<'a>,
) -> Result<Found, EvaluationError> {
    let mut evaluation = begin();
    let mut word = |operand: &Option<crate::condition::Operand>| match operand {
        None => Ok(None),
        Some(operand) => match evaluation.operand(operand)? {
            Value::String(text) => Ok(Some(text)),
            _ => Err(EvaluationError::new(
                "the details of an existence search are texts",
            )),
        },
    };
    let place = Where {
        kind: word(&Some(existence.kind.clone()))?.unwrap_or_default(),
        name: word(&existence.name)?.filter(|name| !name.is_empty()),
        resource_kind: word(&existence.resource_kind)?,
        group: word(&existence.group)?.filter(|group| !group.is_empty()),
        subscription_wide: word(&existence.scope)?
            .is_some_and(|scope| scope.eq_ignore_ascii_case("subscription")),
    };
    let mut found = Found {
        satisfied: false,
        looked_at: 0,
        resource: None,
        explained: Vec::new(),
    };
    if related.len() > RELATED_MAX {
        let reason = format!("an existence search looks at no more than {RELATED_MAX} resources");
        return Err(EvaluationError::new(reason));
    }
    // A rule may ask whether the resource itself satisfies it, under its own name and type.
    let itself = resource_type(resource)
        .eq_ignore_ascii_case(&place.kind)
        .then_some(resource);
    let same = |other: &&Value| {
        text(other, "id").is_none_or(|id| {
            itself
                .and_then(|own| text(own, "id"))
                .is_none_or(|own| !own.eq_ignore_ascii_case(id))
        })
    };
    let candidates = itself.into_iter().chain(related.iter().filter(same));
    for candidate in candidates.filter(|candidate| place.covers(candidate, resource)) {
        found.looked_at += 1;
        let satisfied = match &existence.condition {
            None => true,
            Some(condition) => {
                let mut evaluation = begin().related(candidate);
                let holds = evaluation.holds(condition)?;
                found.explained.extend(evaluation.explained());
                holds
            }
        };
        if satisfied {
            found.satisfied = true;
            found.resource = text(candidate, "id").map(str::to_owned);
            break;
        }
    }
    Ok(found)
}

impl Where {
    fn covers(&self, candidate: &Value, resource: &Value) -> bool {
        resource_type(candidate).eq_ignore_ascii_case(&self.kind)
            && self.named(candidate)
            && self.resource_kind.as_ref().is_none_or(|kind| {
                text(candidate, "kind").is_some_and(|own| own.eq_ignore_ascii_case(kind))
            })
            && self.placed(candidate, resource)
    }

    fn named(&self, candidate: &Value) -> bool {
        let Some(wanted) = &self.name else {
            return true;
        };
        let full = full_name(candidate).unwrap_or_default();
        // `parent/?` is any child of the parent.
        if let Some(parent) = wanted.strip_suffix("/?") {
            return full
                .rsplit_once('/')
                .is_some_and(|(above, _)| above.eq_ignore_ascii_case(parent));
        }
        let own = full.rsplit('/').next().unwrap_or_default();
        full.eq_ignore_ascii_case(wanted) || own.eq_ignore_ascii_case(wanted)
    }

    fn placed(&self, candidate: &Value, resource: &Value) -> bool {
        let (Some(id), Some(base)) = (text(candidate, "id"), text(resource, "id")) else {
            return true;
        };
        let (id, base) = (id.to_ascii_lowercase(), base.to_ascii_lowercase());
        let kind = resource_type(resource).to_ascii_lowercase();
        let wanted = self.kind.to_ascii_lowercase();
        let child = wanted
            .strip_prefix(&kind)
            .is_some_and(|rest| rest.starts_with('/'));
        let container = kind.starts_with("microsoft.resources/");
        let below = id
            .strip_prefix(&base)
            .is_some_and(|rest| rest.starts_with('/'));
        if child && !container {
            return below;
        }
        // An extension sits on one resource, and says something about that one alone.
        let extension = id.matches("/providers/").count() > 1;
        if extension && !container {
            return below;
        }
        if self.subscription_wide {
            return same_part(&id, &base, 2);
        }
        if let Some(group) = &self.group {
            let group = format!("/resourcegroups/{}/", group.to_ascii_lowercase());
            return same_part(&id, &base, 2) && id.contains(&group);
        }
        if kind == "microsoft.resources/subscriptions" {
            return same_part(&id, &base, 2);
        }
        same_part(&id, &base, 4)
    }
}

/// Whether the first segments of two ids are the same: two name a subscription, four a resource group.
fn same_part(a: &str, b: &str, segments: usize) -> bool {
    let part = |id: &str| -> Vec<String> {
        let parts = id.split('/').filter(|segment| !segment.is_empty());
        parts.take(segments).map(str::to_owned).collect()
    };
    part(a) == part(b)
}
