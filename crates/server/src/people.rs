//! How people sign in: with name and password, once, and with refresh tokens from then on.
//!
//! For the public clients that people use, which have no secret of their own. A page for browsers has its place at
//! `/{tenant}/oauth2/v2.0/authorize`. Each refresh token is good for one use: one that comes a second time was copied,
//! and ends the sign-in that it came from.

use access::{Bearer, Identity, LIFETIME_SECONDS, RefreshToken};
use catalog::{RefreshUse, StoredRefresh, UserRecord};
use jiff::{Timestamp, ToSpan as _};
use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;
use wire::{AppId, TenantId};

use crate::errors;
use crate::exchange::Base;
use crate::oauth::TokenVersion;
use crate::sign_in::{self, Failure, Form, Refusal};
use crate::state::Server;

/// Azure's command line and PowerShell: known to every tenant, with nothing to prove.
const PUBLIC_CLIENTS: [&str; 2] = [
    "04b07795-8ddb-461a-bbee-02f9e1bf7b46",
    "1950a258-227b-4e31-a9cf-717495945fc2",
];
const REFRESH_DAYS: i64 = 14;

/// One request of somebody.
pub struct Asked<'a> {
    pub server: &'a Server,
    pub base: &'a Base,
    pub tenant: TenantId,
    pub version: TokenVersion,
    pub audience: &'a str,
}

impl Asked<'_> {
    pub async fn password(&self, form: &Form) -> Result<Value, Failure> {
        let app = public_client(form.need("client_id")?)?;
        let (name, password) = (form.need("username")?, form.need("password")?);
        let key = format!("{} {}", self.tenant, name.to_lowercase());
        if !self.server.attempts.may_try(&key) {
            return Err(invalid(
                50_053,
                "You've tried to sign in too many times with an incorrect user ID or password.",
            ));
        }
        let found = self.server.auth.user_named(self.tenant, name).await;
        let found = found.map_err(errors::catalog)?;
        let hash = found.as_ref().and_then(|user| user.password.clone());
        let password = SecretString::from(password);
        let fits = self.server.password_fits(hash, password).await?;
        let Some(user) = found.filter(|_| fits) else {
            self.server.attempts.failed(&key);
            return Err(invalid(
                50_126,
                "Error validating credentials due to invalid username or password.",
            ));
        };
        self.signed_in(app, &user, Uuid::new_v4()).await
    }

    pub async fn refresh(&self, form: &Form) -> Result<Value, Failure> {
        let app = public_client(form.need("client_id")?)?;
        let refused = || {
            invalid(
                70_000,
                "The provided grant is not valid any more: sign in anew.",
            )
        };
        let token = RefreshToken::presented(form.need("refresh_token")?).ok_or_else(refused)?;
        let used = self.server.auth.use_refresh(&token.digest()).await;
        let kept = match used.map_err(errors::catalog)? {
            RefreshUse::Good(kept) => kept,
            RefreshUse::UsedBefore => {
                tracing::warn!(target: "bullion::activity", tenant = %self.tenant,
                    "a refresh token came twice; the sign-in that it came from is ended");
                return Err(refused());
            }
            RefreshUse::Unknown => return Err(refused()),
        };
        if kept.tenant != self.tenant || kept.app != app {
            return Err(refused());
        }
        let found = self.server.auth.user(self.tenant, kept.principal).await;
        let user = found.map_err(errors::catalog)?.ok_or_else(refused)?;
        self.signed_in(app, &user, kept.family).await
    }

    async fn signed_in(
        &self,
        app: AppId,
        user: &UserRecord,
        family: Uuid,
    ) -> Result<Value, Failure> {
        if !user.enabled {
            return Err(invalid(50_057, "The user account is disabled."));
        }
        let identity = Identity {
            tenant: self.tenant,
            principal: user.principal,
            app,
        };
        let bearer = Bearer::User(user.resource.name());
        let (base, audience) = (self.base.as_str(), self.audience);
        let token = self
            .server
            .issue_token(base, identity, bearer, audience, self.version)
            .await?;
        let refresh = RefreshToken::random()
            .map_err(|error| errors::internal("making a refresh token", &error))?;
        let stored = StoredRefresh {
            digest: refresh.digest(),
            family,
            tenant: self.tenant,
            principal: user.principal,
            app,
            expires_at: Timestamp::now() + (REFRESH_DAYS * 24).hours(),
        };
        let kept = self.server.auth.keep_refresh(stored).await;
        kept.map_err(errors::catalog)?;
        let mut answer = sign_in::answer(&token, LIFETIME_SECONDS, audience, self.version);
        answer["refresh_token"] = refresh.expose().into();
        answer["scope"] = format!("{audience}/.default").into();
        Ok(answer)
    }
}

fn public_client(id: &str) -> Result<AppId, Refusal> {
    let known = PUBLIC_CLIENTS
        .iter()
        .find(|known| known.eq_ignore_ascii_case(id));
    known.and_then(|known| known.parse().ok()).ok_or_else(|| {
        let id: String = id.chars().take(80).collect();
        Refusal::client(
            7_000_218,
            format!("The application '{id}' is none that people sign in with: it proves itself, by 'client_credentials'."),
        )
    })
}

fn invalid(code: u32, message: &str) -> Failure {
    Refusal::bad("invalid_grant", code, message.into()).into()
}
