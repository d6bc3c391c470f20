//! `{resource}/providers/Bullion.Factory/compliance/default`: why a resource has the state that it has, and what
//! would change it.

use std::sync::Arc;

use serde_json::json;
use wire::ArmError;

use super::{Reply, failed};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/compliance";

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if !call.id.name().eq_ignore_ascii_case("default") {
        return Err(errors::not_found(&call.id));
    }
    let explained = server.comply.explain(&call.permit).await;
    let explained = explained.map_err(|error| failed("explaining a policy state", error))?;
    Ok(Reply::ok(json!({
        "id": call.id.to_string(),
        "name": call.id.name(),
        "type": KIND,
        "properties": explained,
    })))
}
