//! Who may do what: every row of the operation table refuses a caller without rights, and the table itself is
//! compared with its committed listing.

use std::collections::BTreeSet;
use std::sync::Arc;

use access::{Around, Caller, Grants, Held, Identity, Locks, Tree, built_in_ready, built_in_roles};
use serde_json::json;
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId};

use super::site::{GROUP, SUBSCRIPTION, Site};
use crate::dispatch;
use crate::operation::{Operation, Subject, Tenancy};
use crate::path::{self, Place, Shape};
use crate::table;

const LISTING: &str = include_str!("operations.txt");
const ROLES: &str = include_str!("roles.txt");

/// A path that the row answers, at one of its places.
fn path_of(row: &Operation, place: Place) -> String {
    let base = match place {
        Place::Root => String::new(),
        Place::ManagementGroup => "/providers/Microsoft.Management/managementGroups/m".to_string(),
        Place::Subscription => format!("/subscriptions/{SUBSCRIPTION}"),
        Place::Group => GROUP.to_string(),
        Place::Resource => format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m"),
    };
    let (namespace, types) = row.kind.split_once('/').unwrap();
    let mut path = match namespace {
        "Microsoft.Resources" if !types.starts_with("tags") => base,
        _ => format!("{base}/providers/{namespace}"),
    };
    let types: Vec<&str> = types.split('/').collect();
    for (index, kind) in types.iter().enumerate() {
        path.push_str(&format!("/{kind}"));
        let last = index + 1 == types.len();
        if !last || row.shape == Shape::Named {
            path.push_str(match *kind {
                "subscriptions" => "/11111111-1111-4111-8111-111111111111",
                "roleAssignments" => "/22222222-2222-4222-8222-222222222222",
                "versions" => "/1.0.0",
                _ => "/x1",
            });
        }
    }
    path
}

/// The path with names in braces.
fn pattern(row: &Operation, place: Place) -> String {
    let path = path_of(row, place)
        .replace(GROUP, "{group}")
        .replace(&format!("/subscriptions/{SUBSCRIPTION}"), "{subscription}")
        .replace(
            "{group}/providers/Microsoft.Compute/virtualMachines/m",
            "{resource}",
        );
    ["/x1", "/1.0.0", "/22222222-2222-4222-8222-222222222222"]
        .iter()
        .fold(path, |path, name| path.replace(name, "/{name}"))
}

#[test]
fn the_table_is_as_it_was_committed() {
    let mut lines: Vec<String> = Vec::new();
    for row in table::all() {
        for place in row.places {
            let marks = [
                (row.subject == Subject::Parent).then_some("on its parent"),
                (row.subject == Subject::Own).then_some("empty without a right"),
                (row.tenancy == Tenancy::Installation).then_some("installation"),
            ];
            let marks: Vec<&str> = marks.into_iter().flatten().collect();
            let marks = if marks.is_empty() {
                String::new()
            } else {
                format!("  ({})", marks.join(", "))
            };
            let path = pattern(row, *place);
            lines.push(format!("{:6} {path}  {}{marks}", row.method, row.action));
        }
    }
    lines.sort();
    let listing = lines.join("\n") + "\n";
    if std::env::var_os("BULLION_UPDATE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/operations.txt");
        std::fs::write(file, &listing).unwrap();
        return;
    }
    assert_eq!(
        differing(&listing, LISTING),
        [""; 0],
        "the operation table has changed; if that is meant, BULLION_UPDATE=1 writes the listing anew"
    );
}

/// Where a role can be given, from the top, each with its letter in the committed table.
fn scopes() -> [(char, Place, String); 5] {
    let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    [
        ('R', Place::Root, "/".to_string()),
        (
            'M',
            Place::ManagementGroup,
            "/providers/Microsoft.Management/managementGroups/m".to_string(),
        ),
        (
            'S',
            Place::Subscription,
            format!("/subscriptions/{SUBSCRIPTION}"),
        ),
        ('G', Place::Group, GROUP.to_string()),
        ('X', Place::Resource, machine),
    ]
}

/// Of a principal with one role at one scope, in a tenant whose subscription is in the management group `m`.
fn grants_of(identity: &Identity, role: &access::RoleDefinition, scope: &str) -> Grants {
    let tenant = identity.tenant;
    let subscription: SubscriptionId = SUBSCRIPTION.parse().unwrap();
    let tree = Tree::new(
        tenant,
        [("m".to_string(), None)],
        [(subscription, "m".to_string())],
    );
    let held = Held {
        scope: ResourceId::parse(scope).unwrap(),
        role: built_in_ready(&role.id()).unwrap(),
        assignment: None,
    };
    let around = Arc::new(Around {
        tree,
        locks: Locks::default(),
    });
    Grants::of(
        tenant,
        identity.principal,
        Vec::new(),
        [held],
        Vec::new(),
        around,
    )
}

/// Role × operation × scope: for each operation at each place the letters of the scopes at which a role lets it be
/// done. A change of a right is a diff of `roles.txt`.
#[test]
fn what_roles_allow_is_as_it_was_committed() {
    let identity = Identity {
        tenant: TenantId::random(),
        principal: PrincipalId::random(),
        app: AppId::random(),
    };
    let caller = Caller::new(identity);
    let mut lines: Vec<String> = Vec::new();
    for row in table::all() {
        for place in row.places {
            let path = path::parse(&path_of(row, *place)).unwrap();
            let id = ResourceId::parse(&path.scope).unwrap();
            let subject = dispatch::subject(row, &id).unwrap();
            let may = |role: &access::RoleDefinition, scope: &str| {
                let grants = grants_of(&identity, role, scope);
                dispatch::authorize(row, &caller, &grants, &subject, identity.tenant).is_ok()
            };
            let mut line = format!("{:6} {}", row.method, pattern(row, *place));
            for role in built_in_roles() {
                let at: String = scopes()
                    .iter()
                    .filter(|(_, _, scope)| may(role, scope))
                    .map(|(letter, _, _)| *letter)
                    .collect();
                if !at.is_empty() {
                    line.push_str(&format!("  {}={at}", role.name.replace(' ', "")));
                }
            }
            lines.push(line);
        }
    }
    lines.sort();
    let listing = lines.join("\n") + "\n";
    if std::env::var_os("BULLION_UPDATE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/roles.txt");
        std::fs::write(file, &listing).unwrap();
        return;
    }
    assert_eq!(
        differing(&listing, ROLES),
        [""; 0],
        "what roles allow has changed; if that is meant, BULLION_UPDATE=1 writes the table anew"
    );
}

#[test]
fn every_path_of_every_row_leads_back_to_it() {
    for row in table::all() {
        for place in row.places {
            let path = path_of(row, *place);
            let parsed = path::parse(&path).unwrap();
            let rows = table::rows(&parsed);
            assert!(
                rows.iter().any(|found| std::ptr::eq(*found, row)),
                "{} {path} is {parsed:?}",
                row.method
            );
            let twins = rows
                .iter()
                .filter(|found| found.method == row.method)
                .count();
            assert_eq!(twins, 1, "{} {path} has two rows", row.method);
        }
    }
}

/// A caller who signed in but was given nothing is refused by every row, whether or not the thing exists.
#[tokio::test]
async fn a_stranger_is_refused_everywhere() {
    let site = Site::start().await.with_group().await;
    let (token, _) = site.stranger().await;
    let unknown = "33333333-3333-4333-8333-333333333333";
    for row in table::all() {
        for place in row.places {
            let path = path_of(row, *place);
            for path in [path.clone(), path.replace(SUBSCRIPTION, unknown)] {
                let method = row.method.as_str();
                let body = (method == "PUT" || method == "POST").then(|| json!({}));
                let seen = site.ask_as(&token, method, &path, body).await;
                if row.subject == Subject::Own {
                    assert_eq!(seen.status, 200, "{method} {path}: {:?}", seen.body);
                    continue;
                }
                assert_eq!(seen.status, 403, "{method} {path}: {:?}", seen.body);
                if method != "HEAD" {
                    assert_eq!(seen.code(), "AuthorizationFailed", "{method} {path}");
                }
                let anonymous = site.ask_as("bad", method, &path, None).await;
                assert_eq!(anonymous.status, 401, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_role_reaches_as_far_as_its_scope() {
    let site = Site::start().await.with_group().await;
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    site.put(&gallery, json!({ "location": "north" })).await;
    let (token, principal) = site.stranger().await;
    let reader = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
    let assignment = format!(
        "{gallery}/providers/Microsoft.Authorization/roleAssignments/22222222-2222-4222-8222-222222222222"
    );
    let role = format!("/providers/Microsoft.Authorization/roleDefinitions/{reader}");
    let body = json!({ "properties": { "roleDefinitionId": role, "principalId": principal } });
    assert_eq!(site.put(&assignment, body.clone()).await.status, 201);
    assert_eq!(site.put(&assignment, body.clone()).await.status, 200);
    let second = assignment.replace("22222222-", "33333333-");
    assert_eq!(site.put(&second, body.clone()).await.status, 409);

    let sub = format!("/subscriptions/{SUBSCRIPTION}");
    for (method, path, status) in [
        ("GET", gallery.clone(), 200),
        ("GET", format!("{gallery}/images"), 200),
        (
            "GET",
            format!("{sub}/providers/Microsoft.Compute/galleries"),
            200,
        ),
        ("PUT", gallery.clone(), 403),
        ("DELETE", gallery.clone(), 403),
        ("GET", GROUP.to_string(), 403),
        ("GET", format!("{gallery}2"), 403),
        ("PUT", assignment.clone(), 403),
    ] {
        let body = (method == "PUT").then(|| body.clone());
        let seen = site.ask_as(&token, method, &path, body).await;
        assert_eq!(seen.status, status, "{method} {path}: {:?}", seen.body);
    }
    assert_eq!(site.delete(&assignment).await.status, 200);
    assert_eq!(site.ask_as(&token, "GET", &gallery, None).await.status, 403);
}

/// What a body links to needs a right of its own.
#[tokio::test]
async fn a_template_publishes_only_where_its_author_may() {
    let site = Site::start().await.with_group().await;
    let other = GROUP.replace("/factory", "/other");
    site.put(&other, json!({ "location": "north" })).await;
    let definition = super::galleries::definition(&site, &other).await;
    let (token, principal) = site.stranger().await;
    let contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c";
    let body =
        json!({ "properties": { "roleDefinitionId": contributor, "principalId": principal } });
    let at = |scope: &str, guid: &str| {
        format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{guid}")
    };
    let first = at(GROUP, "22222222-2222-4222-8222-222222222222");
    assert_eq!(site.put(&first, body.clone()).await.status, 201);

    let template = format!("{GROUP}/providers/Microsoft.VirtualMachineImages/imageTemplates/t");
    let recipe = super::galleries::template(&definition);
    let seen = site
        .ask_as(&token, "PUT", &template, Some(recipe.clone()))
        .await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed"),
        "{:?}",
        seen.body
    );
    assert!(ResourceId::parse(&definition).is_ok());

    let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    let wanted = super::galleries::machine(&definition);
    let seen = site.ask_as(&token, "PUT", &machine, Some(wanted)).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed")
    );

    let second = at(&definition, "33333333-3333-4333-8333-333333333333");
    assert_eq!(site.put(&second, body).await.status, 201);
    let seen = site.ask_as(&token, "PUT", &template, Some(recipe)).await;
    assert_eq!(seen.status, 201, "{:?}", seen.body);
}

/// The lines that only one of two lists has, so that a failure shows those alone.
fn differing(now: &str, committed: &str) -> Vec<String> {
    let [now, committed] = [now, committed].map(|list| list.lines().collect::<BTreeSet<&str>>());
    let gone = committed.difference(&now).map(|line| format!("-{line}"));
    let new = now.difference(&committed).map(|line| format!("+{line}"));
    gone.chain(new).collect()
}
