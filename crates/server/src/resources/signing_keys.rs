//! The keys that sign tokens, and those that sign statements about disks: shown, and replaced. A private half never leaves
//! the catalog or the data folder.

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
pub const STATEMENTS: &str = "Bullion.Factory/statementKeys";
pub const ROTATE_STATEMENTS: &str = "Bullion.Factory/rotateStatementKey";

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

pub async fn statements(server: Arc<Server>, _call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(json!({ "value": shown_statements(&server) })))
}

/// A new key signs from now on; what the one before signed is trusted as before.
pub async fn rotate_statements(server: Arc<Server>, _call: Call) -> Result<Reply, ArmError> {
    server.work.rotate_statement_key().await?;
    Ok(Reply::ok(json!({ "value": shown_statements(&server) })))
}

fn shown_statements(server: &Server) -> Vec<Value> {
    let keys = server.work.statement_keys().into_iter().enumerate();
    keys.map(|(index, key)| {
        let id = key.id();
        json!({
            "id": format!("/providers/{STATEMENTS}/{id}"),
            "name": id,
            "type": STATEMENTS,
            "properties": { "signs": index == 0, "publicKey": key.pem() },
        })
    })
    .collect()
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
