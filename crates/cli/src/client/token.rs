//! Sign-in with a client secret: one token per tenant, kept in memory until it nears its end.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Client;
use wire::TenantId;

use crate::error::CliError;

/// The audience that every Azure client asks for.
const SCOPE: &str = "https://management.azure.com/.default";
/// A token this close to its end is replaced, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Tokens(Mutex<HashMap<TenantId, Token>>);

struct Token {
    text: SecretString,
    until: Instant,
}

impl Tokens {
    pub fn forget(&self, tenant: TenantId) {
        self.lock().remove(&tenant);
    }

    fn find(&self, tenant: TenantId) -> Option<String> {
        let tokens = self.lock();
        let token = tokens.get(&tenant)?;
        (token.until > Instant::now()).then(|| token.text.expose_secret().to_owned())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Token>> {
        // A panic while the map was held cannot leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// A token for this tenant, signing in if there is none that lasts.
    pub async fn token(&self, tenant: TenantId) -> Result<String, CliError> {
        if let Some(token) = self.tokens.find(tenant) {
            return Ok(token);
        }
        let operation = format!("sign in to tenant {tenant}");
        let profile = self.profile();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", profile.client_id.as_str()),
            ("client_secret", profile.client_secret.expose_secret()),
            ("scope", SCOPE),
        ];
        let url = format!("{}/{tenant}/oauth2/v2.0/token", profile.url);
        let reply = self
            .exchange(&operation, self.http.post(url).form(&form))
            .await?;
        let text = |key: &str| reply.body.get(key).and_then(Value::as_str);
        let Some(token) = text("access_token").filter(|_| reply.status.is_success()) else {
            let described = text("error_description").map(str::to_owned);
            return Err(CliError::SignIn {
                tenant,
                client: profile.client_id.clone(),
                description: described
                    .unwrap_or_else(|| format!("the server answered {}", reply.status)),
                code: text("error").unwrap_or("").to_owned(),
            });
        };
        let lasts = reply
            .body
            .get("expires_in")
            .and_then(Value::as_u64)
            .unwrap_or(300);
        let until = Instant::now() + Duration::from_secs(lasts).saturating_sub(MARGIN);
        let entry = Token {
            text: token.to_owned().into(),
            until,
        };
        self.tokens.lock().insert(tenant, entry);
        Ok(token.to_owned())
    }
}
