//! The job behind `DELETE` of a resource group: machines first, each as its own deletion would, then the rest.

use catalog::NewJob;
use serde_json::json;
use wire::ResourceId;

pub const KIND: &str = "delete-group";

pub fn job(group: &ResourceId) -> NewJob {
    NewJob {
        kind: KIND.into(),
        input: json!({ "group": group.to_string() }),
        exclusive: Some(format!("delete {}", group.folded())),
        visible_at: Vec::new(),
    }
}
