//! Lists, page by page.

use std::collections::HashSet;

use serde_json::Value;

use super::{Ask, Client};
use wire::TenantId;

use crate::error::CliError;

/// Pages that one list may have.
const PAGES_MAX: usize = 10_000;

impl Client {
    /// Every item of a list, following `nextLink`.
    pub async fn list(
        &self,
        operation: &str,
        tenant: TenantId,
        path: &str,
    ) -> Result<Vec<Value>, CliError> {
        let mut items = Vec::new();
        let mut next = Some(path.to_owned());
        let mut seen = HashSet::new();
        while let Some(path) = next {
            if seen.len() == PAGES_MAX || !seen.insert(path.clone()) {
                return Err(CliError::BadAnswer {
                    operation: operation.to_owned(),
                    why: "its pages do not end".into(),
                });
            }
            let ask = Ask {
                operation,
                tenant,
                method: "GET",
                path: &path,
                body: None,
            };
            let mut body = self.send(ask).await?.body;
            let Some(Value::Array(page)) = body.get_mut("value").map(Value::take) else {
                return Err(CliError::BadAnswer {
                    operation: operation.to_owned(),
                    why: "a list without `value`".into(),
                });
            };
            items.extend(page);
            next = body
                .get("nextLink")
                .and_then(Value::as_str)
                .map(str::to_owned);
        }
        Ok(items)
    }
}
