//! `/metadata/identity/oauth2/token`: a token of the machine's own identity, or of one that is assigned to it.

use access::{Bearer, Identity, LIFETIME_SECONDS};
use catalog::Resource;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use wire::{AppId, PrincipalId, ResourceId, TenantId};

use super::{Machine, Refusal, bad, refused, unavailable};
use crate::exchange::{Base, Query, Reply};
use crate::oauth::TokenVersion;
use crate::sign_in;

/// How a request says which identity it means.
const SELECTORS: [(&str, Selector); 5] = [
    ("client_id", Selector::Client),
    ("object_id", Selector::Object),
    ("principal_id", Selector::Object),
    ("msi_res_id", Selector::Resource),
    ("mi_res_id", Selector::Resource),
];

#[derive(Clone, Copy)]
enum Selector {
    Client,
    Object,
    Resource,
}

/// One identity of the machine.
struct Held {
    app: AppId,
    principal: PrincipalId,
    /// Of a user-assigned identity, its own.
    id: Option<ResourceId>,
}

impl Held {
    fn is(&self, by: Selector, value: &str) -> bool {
        match by {
            Selector::Client => value.eq_ignore_ascii_case(&self.app.to_string()),
            Selector::Object => value.eq_ignore_ascii_case(&self.principal.to_string()),
            Selector::Resource => self.id.is_some() && ResourceId::parse(value).ok() == self.id,
        }
    }
}

pub(super) async fn answer(
    machine: &Machine,
    resource: &Resource,
    query: &Query,
) -> Result<Reply, Refusal> {
    let server = &machine.server;
    let base = Base::of(&HeaderMap::new(), &server.url);
    let asked = query.get("resource").filter(|asked| !asked.is_empty());
    let asked = asked.ok_or_else(|| bad("Required query variable 'resource' is missing"))?;
    let audience = sign_in::resource_of(asked, &base).ok_or_else(|| {
        let said = format!("The resource '{asked}' is nothing that tokens are given for.");
        refused(StatusCode::BAD_REQUEST, "invalid_resource", &said)
    })?;
    let held = held(machine, resource).await?;
    let identity = choose(held, query)?;
    let tenant = resource.tenant;
    // Deleted since it was assigned: its tokens would open nothing, and say so late.
    let alive = server.sign_in_principal(tenant, identity.app).await;
    let alive = alive.map_err(Reply::from)?;
    if alive != Some(identity.principal) {
        return Err(bad("Identity not found"));
    }
    let id = resource.id.to_string();
    let who = Identity {
        tenant,
        principal: identity.principal,
        app: identity.app,
    };
    let (bearer, version) = (Bearer::Resource(&id), TokenVersion::V1);
    let token = server
        .issue_token(base.as_str(), who, bearer, &audience, version)
        .await
        .map_err(Reply::from)?;
    let mut body = sign_in::answer(&token, LIFETIME_SECONDS, &audience, version);
    body["client_id"] = identity.app.to_string().into();
    Ok(Reply::ok(body))
}

/// The machine's own identity first, where it has one.
async fn held(machine: &Machine, resource: &Resource) -> Result<Vec<Held>, Refusal> {
    let own = own(machine, resource.tenant).await?;
    let assigned = resource.extra.get("identity");
    let assigned =
        assigned.and_then(|identity| identity.get("userAssignedIdentities")?.as_object());
    let of = |(id, ids): (&String, &Value)| {
        Some(Held {
            app: ids["clientId"].as_str()?.parse().ok()?,
            principal: ids["principalId"].as_str()?.parse().ok()?,
            id: Some(ResourceId::parse(id).ok()?),
        })
    };
    let assigned = assigned.into_iter().flatten().filter_map(of);
    Ok(own.into_iter().chain(assigned).collect())
}

async fn own(machine: &Machine, tenant: TenantId) -> Result<Option<Held>, Refusal> {
    let own = machine
        .server
        .auth
        .managed_identity(tenant, &machine.id)
        .await;
    Ok(own.map_err(unavailable)?.map(|(app, principal)| Held {
        app,
        principal,
        id: None,
    }))
}

/// The one that is named; without a name the machine's own, or the only one.
fn choose(mut held: Vec<Held>, query: &Query) -> Result<Held, Refusal> {
    let named: Vec<(Selector, &str)> = SELECTORS
        .iter()
        .filter_map(|(name, by)| Some((*by, query.get(name)?)))
        .collect();
    let one = match named.as_slice() {
        [] => match held.first() {
            Some(first) if first.id.is_none() || held.len() == 1 => Some(held.swap_remove(0)),
            Some(_) => {
                return Err(bad(
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the \
                     identity in the token request",
                ));
            }
            None => None,
        },
        [(by, value)] => held.into_iter().find(|one| one.is(*by, value)),
        _ => {
            return Err(bad(
                "Only one of client_id, object_id and msi_res_id may be given.",
            ));
        }
    };
    one.ok_or_else(|| bad("Identity not found"))
}
