//! Graph's users, groups and members: what `az ad user` and `az ad group` send.
//!
//! What is written here is the resource of the same thing, under the caller's right to write that resource.

use access::{Action, Grants, Identity, Permit};
use axum::body::Body;
use catalog::{Object, ObjectKind, Resource};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wire::{PrincipalId, ResourceId, TenantId};

use super::filter::Filter;
use super::{BODY_BYTES_MAX, Refusal, listed, need_any_role, principal, unsupported};
use crate::directory::{self, GROUP, USER};
use crate::errors;
use crate::exchange::{self, Base, Query, Reply};
use crate::hierarchy::{every, looking};
use crate::state::Server;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Me,
    Users,
    User(String),
    Groups,
    Group(String),
    Members(String),
    /// `members/$ref`
    NewMember(String),
    Member(String, String),
    Owners(String),
    Object(String),
    /// Of a user, group or any other object.
    MemberGroups(String),
    CheckMemberGroups(String),
}

/// The question that a path below the version is; segments are folded.
pub fn route(segments: &[&str]) -> Option<Ask> {
    let own = |text: &&str| (*text).to_string();
    Some(match segments {
        ["me"] => Ask::Me,
        ["users"] => Ask::Users,
        ["users", id] => Ask::User(own(id)),
        ["groups"] => Ask::Groups,
        ["groups", id] => Ask::Group(own(id)),
        ["groups", id, "members"] => Ask::Members(own(id)),
        ["groups", id, "members", "$ref"] => Ask::NewMember(own(id)),
        ["groups", id, "members", member, "$ref"] => Ask::Member(own(id), own(member)),
        ["groups", id, "owners"] => Ask::Owners(own(id)),
        ["directoryobjects", id] => Ask::Object(own(id)),
        [
            "users" | "groups" | "directoryobjects",
            id,
            "getmembergroups",
        ] => Ask::MemberGroups(own(id)),
        [
            "users" | "groups" | "directoryobjects",
            id,
            "checkmembergroups",
        ] => Ask::CheckMemberGroups(own(id)),
        _ => return None,
    })
}

/// One authenticated question.
pub struct Asked<'a> {
    pub server: &'a Server,
    pub caller: Identity,
    pub grants: Grants,
    pub base: &'a Base,
    pub method: &'a Method,
}

impl Asked<'_> {
    pub async fn answer(&self, ask: Ask, parts: &Parts, body: Body) -> Result<Reply, Refusal> {
        let method = self.method.as_str();
        let reads =
            method == "GET" || matches!(ask, Ask::MemberGroups(_) | Ask::CheckMemberGroups(_));
        if reads {
            need_any_role(&self.grants)?;
        }
        let body = match method {
            "POST" | "PATCH" => {
                let bytes = exchange::read_body(parts, body, BODY_BYTES_MAX).await?;
                exchange::json(&bytes)?
            }
            _ => Value::Null,
        };
        match (method, ask) {
            ("GET", Ask::Me) => self.object(&self.caller.principal.to_string()).await,
            ("GET", Ask::Users) => self.list(parts, USER, "users").await,
            ("GET", Ask::Groups) => self.list(parts, GROUP, "groups").await,
            ("GET", Ask::User(key)) => Ok(Reply::ok(user(&self.need_user(&key).await?))),
            ("GET", Ask::Group(key)) => Ok(Reply::ok(group(&self.need_group(&key).await?))),
            ("GET", Ask::Object(key)) => self.object(&key).await,
            ("GET", Ask::Members(key)) => self.members(&key).await,
            ("GET", Ask::Owners(key)) => {
                self.need_group(&key).await?;
                Ok(Reply::ok(json!({ "value": [] })))
            }
            ("POST", Ask::MemberGroups(key)) => self.groups_of(&key, None).await,
            ("POST", Ask::CheckMemberGroups(key)) => self.groups_of(&key, Some(&body)).await,
            ("POST", Ask::Users) => self.make_user(&body).await,
            ("PATCH", Ask::User(key)) => self.change_user(&key, &body).await,
            ("POST", Ask::Groups) => self.make_group(&body).await,
            ("PATCH", Ask::Group(key)) => self.change_group(&key, &body).await,
            ("POST", Ask::NewMember(key)) => self.add_member(&key, &body).await,
            ("DELETE", Ask::User(key)) => self.remove(self.need_user(&key).await?.id).await,
            ("DELETE", Ask::Group(key)) => self.remove(self.need_group(&key).await?.id).await,
            ("DELETE", Ask::Member(key, member)) => {
                let group = self.need_group(&key).await?;
                self.remove(member_id(&group, &member)?).await
            }
            _ => Err(unsupported("This method is not supported here.")),
        }
    }

    fn tenant(&self) -> TenantId {
        self.caller.tenant
    }

    /// The caller's right to a directory resource.
    fn permit(&self, verb: &str, id: &ResourceId) -> Result<Permit, Refusal> {
        let action = Action::new(format!("{}/{verb}", id.resource_type()));
        let permit = access::authorize(&self.caller, &self.grants, &action, id, self.tenant());
        permit.map_err(|refused| {
            tracing::info!(target: "bullion::activity", %refused, "refused");
            refused.to_arm().into()
        })
    }

    async fn need_user(&self, key: &str) -> Result<Resource, Refusal> {
        let found = directory::user(self.server, self.tenant(), key).await?;
        found.ok_or_else(|| missing(key))
    }

    async fn need_group(&self, key: &str) -> Result<Resource, Refusal> {
        let found = directory::group(self.server, self.tenant(), key).await?;
        found.ok_or_else(|| missing(key))
    }

    async fn list(&self, parts: &Parts, of: &str, kind: &str) -> Result<Reply, Refusal> {
        let query = Query::parse(parts.uri.query())?;
        let filter = Filter::parse(query.get("$filter").unwrap_or_default())?;
        let permit = looking(ResourceId::root(), self.tenant());
        let found = every(self.server, &permit, of).await?;
        let shown = found.iter().map(match of {
            USER => user,
            _ => group,
        });
        Ok(Reply::ok(listed(self.base, kind, shown, &filter)))
    }

    async fn object(&self, key: &str) -> Result<Reply, Refusal> {
        let principal: PrincipalId = key.parse().map_err(|_| missing(key))?;
        let found = self.server.auth.object(self.tenant(), principal).await;
        let found = found.map_err(errors::catalog)?;
        let object = found.ok_or_else(|| missing(key))?;
        let shown = shown_object(self.server, self.tenant(), &object).await?;
        shown.map(Reply::ok).ok_or_else(|| missing(key))
    }

    async fn members(&self, key: &str) -> Result<Reply, Refusal> {
        let found = self.need_group(key).await?;
        let group = directory::principal_of(Some(&found)).ok_or_else(|| missing(key))?;
        let members = self.server.auth.members(self.tenant(), group).await;
        let mut value: Vec<Value> = Vec::new();
        for member in members.map_err(errors::catalog)? {
            let object = self.server.auth.object(self.tenant(), member).await;
            if let Some(object) = object.map_err(errors::catalog)? {
                value.extend(shown_object(self.server, self.tenant(), &object).await?);
            }
        }
        Ok(Reply::ok(json!({ "value": value })))
    }

    /// The groups that an object is in, at any depth; of those that are asked for.
    async fn groups_of(&self, key: &str, asked: Option<&Value>) -> Result<Reply, Refusal> {
        let principal = match key.contains('@') {
            true => directory::principal_of(Some(&self.need_user(key).await?)),
            false => key.parse().ok(),
        };
        let principal = principal.ok_or_else(|| missing(key))?;
        let found = self.server.auth.object(self.tenant(), principal).await;
        found
            .map_err(errors::catalog)?
            .ok_or_else(|| missing(key))?;
        let grants = self.server.auth.grants(self.tenant(), principal).await;
        let grants = grants.map_err(errors::catalog)?;
        let wanted = asked.map(|body| body["groupIds"].as_array().cloned().unwrap_or_default());
        let groups = grants.held_as().iter().filter(|one| **one != principal);
        let value: Vec<Value> = groups
            .map(|one| Value::from(one.to_string()))
            .filter(|one| wanted.as_ref().is_none_or(|wanted| wanted.contains(one)))
            .collect();
        Ok(Reply::ok(json!({ "value": value })))
    }

    async fn make_user(&self, body: &Value) -> Result<Reply, Refusal> {
        let given = object(body)?;
        let name = given.get("userPrincipalName").and_then(Value::as_str);
        let name = name.ok_or_else(|| required("userPrincipalName"))?;
        let id = directory::id_of(USER, name)?;
        let permit = self.permit("write", &id)?;
        if directory::user(self.server, self.tenant(), name)
            .await?
            .is_some()
        {
            return Err(unsupported(
                "Another object with the same value for property userPrincipalName already exists.",
            ));
        }
        let put = directory::write_user(self.server, &permit, given, None).await?;
        Ok(created(user(&put.resource)))
    }

    async fn change_user(&self, key: &str, body: &Value) -> Result<Reply, Refusal> {
        let old = self.need_user(key).await?;
        let permit = self.permit("write", &old.id)?;
        directory::write_user(self.server, &permit, object(body)?, Some(&old)).await?;
        Ok(Reply::no_content())
    }

    async fn make_group(&self, body: &Value) -> Result<Reply, Refusal> {
        let given = object(body)?;
        if given.get("displayName").and_then(Value::as_str).is_none() {
            return Err(required("displayName"));
        }
        let id = directory::id_of(GROUP, &Uuid::new_v4().to_string())?;
        let permit = self.permit("write", &id)?;
        let put = directory::write_group(self.server, &permit, given, None).await?;
        Ok(created(group(&put.resource)))
    }

    async fn change_group(&self, key: &str, body: &Value) -> Result<Reply, Refusal> {
        let old = self.need_group(key).await?;
        let permit = self.permit("write", &old.id)?;
        directory::write_group(self.server, &permit, object(body)?, Some(&old)).await?;
        Ok(Reply::no_content())
    }

    /// The body names an object by its URL, whose last segment is the id.
    async fn add_member(&self, key: &str, body: &Value) -> Result<Reply, Refusal> {
        let url = body["@odata.id"]
            .as_str()
            .ok_or_else(|| required("@odata.id"))?;
        let member = url.rsplit('/').next().unwrap_or_default();
        let group = self.need_group(key).await?;
        let permit = self.permit("write", &member_id(&group, member)?)?;
        let put = directory::add_member(self.server, &permit).await?;
        if put.created {
            return Ok(Reply::no_content());
        }
        Err(unsupported(
            "One or more added object references already exist for the following modified properties: 'members'.",
        ))
    }

    async fn remove(&self, id: ResourceId) -> Result<Reply, Refusal> {
        let permit = self.permit("delete", &id)?;
        match directory::remove(self.server, &permit).await? {
            true => Ok(Reply::no_content()),
            false => Err(missing(id.name())),
        }
    }
}

fn member_id(group: &Resource, member: &str) -> Result<ResourceId, Refusal> {
    let principal: PrincipalId = member.parse().map_err(|_| missing(member))?;
    let id = group.id.child("members", &principal.to_string());
    id.map_err(|_| missing(member))
}

fn created(value: Value) -> Reply {
    Reply::new(StatusCode::CREATED, Some(value))
}

fn object(body: &Value) -> Result<&Map<String, Value>, Refusal> {
    body.as_object()
        .ok_or_else(|| unsupported("A JSON object is expected."))
}

fn required(name: &str) -> Refusal {
    unsupported(&format!(
        "A value is required for property '{name}' of the resource."
    ))
}

fn missing(key: &str) -> Refusal {
    let shown: String = key.chars().take(100).collect();
    Refusal::new(
        StatusCode::NOT_FOUND,
        "Request_ResourceNotFound",
        format!(
            "Resource '{shown}' does not exist or one of its queried reference-property objects are not present."
        ),
    )
}

/// Any object as Graph shows it; `None` if it went away.
pub async fn shown_object(
    server: &Server,
    tenant: TenantId,
    of: &Object,
) -> Result<Option<Value>, Refusal> {
    if of.kind == ObjectKind::ServicePrincipal {
        let all = server.auth.principals(tenant).await;
        let all = all.map_err(errors::catalog)?;
        let found = all.iter().find(|one| one.principal == of.principal);
        return Ok(found.map(principal));
    }
    let found = directory::resource(server, tenant, of).await?;
    Ok(found.map(|found| match of.kind {
        ObjectKind::User => user(&found),
        _ => group(&found),
    }))
}

fn user(resource: &Resource) -> Value {
    let inside = &resource.properties;
    json!({
        "@odata.type": "#microsoft.graph.user",
        "id": inside["principalId"],
        "userPrincipalName": inside["userPrincipalName"],
        "displayName": inside["displayName"],
        "mailNickname": inside["mailNickname"],
        "accountEnabled": inside["accountEnabled"],
        "mail": null,
        "givenName": null,
        "surname": null,
        "jobTitle": null,
        "mobilePhone": null,
        "businessPhones": [],
        "officeLocation": null,
        "preferredLanguage": null,
    })
}

fn group(resource: &Resource) -> Value {
    let inside = &resource.properties;
    json!({
        "@odata.type": "#microsoft.graph.group",
        "id": inside["principalId"],
        "displayName": inside["displayName"],
        "description": inside["description"],
        "mailNickname": inside["mailNickname"],
        "mailEnabled": false,
        "securityEnabled": true,
        "groupTypes": [],
        "createdDateTime": resource.system.created_at.to_string(),
    })
}
