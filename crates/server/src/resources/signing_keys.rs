//! The keys that sign tokens: shown, and replaced. A private half never leaves the catalog.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use wire::ArmError;

use super::Reply;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;
use crate::tokens::TokensError;

pub const KIND: &str = "Bullion.Factory/signingKeys";
pub const ROTATE: &str = "Bullion.Factory/rotateSigningKey";

pub async fn all(server: Arc<Server>, _call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(json!({ "value": shown(&server).await? })))
}

/// A new key signs from now on; tokens of the one before are good until they expire.
pub async fn rotate(server: Arc<Server>, _call: Call) -> Result<Reply, ArmError> {
    server
        .tokens
        .rotate(Timestamp::now())
        .await
        .map_err(failed)?;
    Ok(Reply::ok(json!({ "value": shown(&server).await? })))
}

async fn shown(server: &Server) -> Result<Vec<Value>, ArmError> {
    let keys = server.tokens.list().await.map_err(failed)?;
    let shown = keys.into_iter().enumerate().map(|(index, key)| {
        let (name, made_at, retires_at) = key;
        json!({
            "id": format!("/providers/{KIND}/{name}"),
            "name": name,
            "type": KIND,
            "properties": {
                "signs": index == 0,
                "madeAt": made_at.to_string(),
                "retiresAt": retires_at.to_string(),
            },
        })
    });
    Ok(shown.collect())
}

fn failed(error: TokensError) -> ArmError {
    errors::internal("the signing keys", &error)
}
