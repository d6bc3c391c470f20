//! `Microsoft.Resources/resourceGroups`. Deleting a group deletes what is in it, as a job.

use std::sync::Arc;

use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER};
use wire::{ArmError, NameRule};

use super::{Reply, find, list, need, present, put_reply, settle_location, show, store, tracked};
use crate::body::ResourceBody;
use crate::errors;
use crate::exchange::RETRY_SECONDS;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Resources/resourceGroups";

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ResourceGroup
        .check(call.id.name())
        .map_err(|error| errors::invalid("resourceGroupName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    body.properties.clear();
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let draft = tracked(body, &location, old.as_ref());
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply(&put))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

/// `az group exists`: 204 or 404.
pub async fn head(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    need(&server, &call).await?;
    Ok(Reply::no_content())
}

/// 404 for an absent group, because az takes a 204 for an error; 202 and a place to ask otherwise.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let group = need(&server, &call).await?;
    call.preconditions.check(Some(&group))?;
    let job = server
        .submit(&call.permit, crate::removal::job(&call.id))
        .await?;
    let url = server.result_url(&call, &call.id, job)?;
    Ok(Reply::new(StatusCode::ACCEPTED, None)
        .with(LOCATION, &url)
        .with(RETRY_AFTER, RETRY_SECONDS))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = TagFilter::parse(call.query.get("$filter").unwrap_or_default())?;
    list(&server, &call, KIND, |group| {
        filter.fits(&group.tags).then(|| present(group))
    })
    .await
}

/// `tagName eq 'k' and tagValue eq 'v'`; the value may be left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct TagFilter {
    name: Option<String>,
    value: Option<String>,
}

impl TagFilter {
    fn parse(text: &str) -> Result<TagFilter, ArmError> {
        let mut filter = TagFilter::default();
        let bad = || {
            errors::invalid(
                "$filter",
                "The filter must be of the form: tagName eq 'name' and tagValue eq 'value'.",
            )
        };
        if text.trim().is_empty() {
            return Ok(filter);
        }
        for term in text.split(" and ") {
            let (name, value) = term.split_once(" eq ").ok_or_else(bad)?;
            let value = value.trim();
            let value = value
                .strip_prefix('\'')
                .and_then(|value| value.strip_suffix('\''));
            let value = value.ok_or_else(bad)?.replace("''", "'");
            match name.trim().to_lowercase().as_str() {
                "tagname" => filter.name = Some(value),
                "tagvalue" => filter.value = Some(value),
                _ => return Err(bad()),
            }
        }
        if filter.name.is_none() {
            return Err(bad());
        }
        Ok(filter)
    }

    fn fits(&self, tags: &std::collections::BTreeMap<String, String>) -> bool {
        let Some(name) = &self.name else {
            return true;
        };
        tags.iter().any(|(known, value)| {
            known.eq_ignore_ascii_case(name)
                && self.value.as_ref().is_none_or(|asked| asked == value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_filters() {
        let check = |text: &str, tags: &[(&str, &str)], expected: Option<bool>| {
            let tags = tags
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            let seen = TagFilter::parse(text).ok().map(|filter| filter.fits(&tags));
            assert_eq!(seen, expected, "{text}");
        };
        check("", &[], Some(true));
        check("tagname eq 'a'", &[("A", "1")], Some(true));
        check(
            "tagName eq 'a' and tagValue eq 'it''s'",
            &[("a", "it's")],
            Some(true),
        );
        check(
            "tagname eq 'a' and tagvalue eq '2'",
            &[("a", "1")],
            Some(false),
        );
        check("tagname eq 'a'", &[], Some(false));
        check("tagvalue eq 'a'", &[], None);
        check("name eq 'a'", &[], None);
        check("nonsense", &[], None);
    }
}
