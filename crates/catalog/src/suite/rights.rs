//! What decisions read: groups, custom roles, management groups, denials, locks; and that whatever changes of them counts
//! for the next decision.

use access::{
    Action, Assignment, Denial, Denied, Identity, LockLevel, Permissions, RoleId, authorize,
};
use serde_json::json;
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId};

use super::Backend;
use super::auth::reader_at;
use super::world::{DAY, World, system};
use crate::auth::{NewIdentity, ObjectKind, Record, RefreshUse, StoredKey, StoredRefresh};
use crate::clock::{Clock, ManualClock, later};
use crate::error::CatalogError;
use crate::resource::{Draft, Precondition};

const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
const READ: &str = "Microsoft.Compute/galleries/read";
const WRITE: &str = "Microsoft.Compute/galleries/write";
const DELETE: &str = "Microsoft.Compute/galleries/delete";

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    members_hold_what_their_groups_hold(&World::new(fresh).await).await;
    a_management_group_reaches_its_subscriptions(&World::new(fresh).await).await;
    custom_roles_hold_as_they_are(&World::new(fresh).await).await;
    denials_and_locks_count_at_once(&World::new(fresh).await).await;
    an_identity_lives_with_its_resource(&World::new(fresh).await).await;
    a_refresh_token_is_used_once(&World::new(fresh).await).await;
    a_new_key_ends_the_others(&World::new(fresh).await).await;
}

impl<B: Backend> World<B> {
    async fn put_with(&self, id: &ResourceId, record: Record) {
        let draft = Draft::new(json!({})).record(record);
        let permit = system(id, self.tenant);
        let put = self.catalog.put(&permit, draft, Precondition::None);
        put.await.expect("put");
    }

    async fn remove(&self, id: &ResourceId) {
        let permit = system(id, self.tenant);
        let removed = self.catalog.delete_tree(&permit, Precondition::None);
        removed.await.expect("remove");
    }

    async fn give(&self, principal: PrincipalId, role: &str, scope: &ResourceId) -> ResourceId {
        let id = extension(scope, "roleAssignments");
        let assignment = Assignment {
            tenant: self.tenant,
            principal,
            role: RoleId::new(role),
            scope: scope.clone(),
        };
        self.put_with(&id, Record::RoleAssignment(assignment)).await;
        id
    }

    /// What the principal may do now: `yes`, or why not.
    async fn may(&self, principal: PrincipalId, action: &str, scope: &ResourceId) -> String {
        let grants = self.catalog.grants(self.tenant, principal).await;
        let identity = Identity {
            tenant: self.tenant,
            principal,
            app: AppId::random(),
        };
        let (action, grants) = (Action::new(action), grants.expect("grants"));
        match authorize(&identity, &grants, &action, scope, self.tenant) {
            Ok(_) => "yes".into(),
            Err(refused) => refused.to_arm().code.as_str().into(),
        }
    }
}

const NO: &str = "AuthorizationFailed";

fn extension(scope: &ResourceId, kind: &str) -> ResourceId {
    let name = Uuid::new_v4().to_string();
    scope
        .extension("Microsoft.Authorization", kind, &name)
        .expect("an id")
}

fn bullion(kind: &str, name: &str) -> ResourceId {
    let id = ResourceId::root().extension("Bullion.Factory", kind, name);
    id.expect("an id")
}

async fn members_hold_what_their_groups_hold<B: Backend>(world: &World<B>) {
    let scope = world.id("/resourceGroups/rg");
    let (inner, outer) = (PrincipalId::random(), PrincipalId::random());
    let user = PrincipalId::random();
    let named = bullion("users", "ada@example.org");
    let record = Record::User {
        principal: user,
        name: "Ada@example.org".into(),
        password: None,
        enabled: true,
    };
    world.put_with(&named, record).await;
    for (name, principal) in [("inner", inner), ("outer", outer)] {
        let group = bullion("groups", name);
        world.put_with(&group, Record::Group { principal }).await;
    }
    let member = |group: &str, principal: PrincipalId| {
        let group = bullion("groups", group);
        let id = group.child("members", &principal.to_string());
        id.expect("an id")
    };
    let add = async |group: &str, principal| {
        let id = member(group, principal);
        world.put_with(&id, Record::Member { principal }).await;
    };
    add("inner", user).await;
    world.give(outer, READER, &scope).await;
    assert_eq!(world.may(user, READ, &scope).await, NO);
    add("outer", inner).await;
    assert_eq!(world.may(user, READ, &scope).await, "yes");
    // A circle is no way to hang.
    add("inner", outer).await;
    assert_eq!(world.may(user, READ, &scope).await, "yes");
    let members = world.catalog.members(world.tenant, inner).await;
    assert_eq!(members.expect("list"), [user, outer]);
    let found = world.catalog.user_named(world.tenant, "ADA@example.org");
    let found = found.await.expect("find").expect("is there");
    assert_eq!((found.principal, found.enabled), (user, true));
    for (principal, kind) in [
        (user, Some(ObjectKind::User)),
        (outer, Some(ObjectKind::Group)),
        (world.operator.principal, Some(ObjectKind::ServicePrincipal)),
        (PrincipalId::random(), None),
    ] {
        let object = world.catalog.object(world.tenant, principal).await;
        assert_eq!(object.expect("find").map(|object| object.kind), kind);
    }

    world.remove(&member("outer", inner)).await;
    assert_eq!(world.may(user, READ, &scope).await, NO);
    add("outer", inner).await;
    assert_eq!(world.may(user, READ, &scope).await, "yes");
    let given = world.catalog.assigned(world.tenant, &[outer, user]).await;
    assert_eq!(given.expect("find").len(), 1);
    world.remove(&bullion("groups", "outer")).await;
    assert_eq!(world.may(user, READ, &scope).await, NO);
    let given = world.catalog.assigned(world.tenant, &[outer]).await;
    assert_eq!(given.expect("find"), [], "rights go with their principal");
    let members = world.catalog.members(world.tenant, inner).await;
    assert_eq!(members.expect("list"), [user]);
    world.give(user, READER, &scope).await;
    world.remove(&named).await;
    assert_eq!(world.may(user, READ, &scope).await, NO);
    let objects = world.catalog.objects(world.tenant, ObjectKind::User).await;
    assert_eq!(objects.expect("list"), []);
}

async fn a_management_group_reaches_its_subscriptions<B: Backend>(world: &World<B>) {
    let group = |name: &str| ResourceId::management_group_scope(name).expect("an id");
    for (name, parent) in [("top", None), ("Low", Some("TOP")), ("side", None)] {
        let parent = parent.map(str::to_owned);
        let record = Record::ManagementGroup { parent };
        world.put_with(&group(name), record).await;
    }
    let reader = reader_at(world, &group("top")).await.principal;
    let subscription = world.id("");
    let scope = world.id("/resourceGroups/rg");
    let place = async |name: Option<&str>| {
        let group = name.map(str::to_owned);
        let record = Record::Placement { group };
        world.put_with(&subscription, record).await;
        world.may(reader, READ, &scope).await
    };
    assert_eq!(world.may(reader, READ, &scope).await, NO);
    assert_eq!(place(Some("low")).await, "yes");
    assert_eq!(place(Some("side")).await, NO);
    assert_eq!(place(Some("LOW")).await, "yes");
    // The group itself moves.
    let away = Record::ManagementGroup {
        parent: Some("side".into()),
    };
    world.put_with(&group("Low"), away).await;
    assert_eq!(world.may(reader, READ, &scope).await, NO);
    assert_eq!(place(None).await, NO);
}

async fn custom_roles_hold_as_they_are<B: Backend>(world: &World<B>) {
    let scope = world.id("/resourceGroups/rg");
    let principal = PrincipalId::random();
    let id = extension(&ResourceId::root(), "roleDefinitions");
    let allow = async |actions: &[&str]| {
        let permissions = Permissions {
            actions: actions.iter().map(|one| (*one).to_owned()).collect(),
            ..Permissions::default()
        };
        let record = Record::RoleDefinition {
            role: RoleId::new(id.name()),
            permissions: vec![permissions],
        };
        world.put_with(&id, record).await;
    };
    allow(&["*/read"]).await;
    let given = world.give(principal, id.name(), &scope).await;
    assert_eq!(world.may(principal, READ, &scope).await, "yes");
    assert_eq!(world.may(principal, WRITE, &scope).await, NO);
    allow(&["*/write"]).await;
    assert_eq!(world.may(principal, READ, &scope).await, NO);
    assert_eq!(world.may(principal, WRITE, &scope).await, "yes");
    let held = world
        .catalog
        .delete(&system(&id, world.tenant), Precondition::None)
        .await;
    assert!(
        matches!(held, Err(CatalogError::HasChildren { .. })),
        "{held:?}"
    );
    world.remove(&given).await;
    assert_eq!(world.may(principal, WRITE, &scope).await, NO);
    world.remove(&id).await;
    let elsewhere = Draft::new(json!({})).record(Record::RoleDefinition {
        role: RoleId::new(READER),
        permissions: Vec::new(),
    });
    let misplaced = system(&extension(&scope, "roleDefinitions"), world.tenant);
    let refused = world
        .catalog
        .put(&misplaced, elsewhere, Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
}

async fn denials_and_locks_count_at_once<B: Backend>(world: &World<B>) {
    let scope = world.id("/resourceGroups/rg");
    let principal = PrincipalId::random();
    world.give(principal, OWNER, &scope).await;
    let id = extension(&scope, "denyAssignments");
    let permissions = Permissions {
        actions: vec!["*/write".into()],
        ..Permissions::default()
    };
    let denial = Denial {
        id: id.clone(),
        name: "no writing".into(),
        scope: scope.clone(),
        permissions: vec![permissions],
        denied: Denied::Everyone,
        except: Vec::new(),
        here_only: false,
    };
    world.put_with(&id, Record::DenyAssignment(denial)).await;
    let denied = "DenyAssignmentAuthorizationFailed";
    assert_eq!(world.may(principal, WRITE, &scope).await, denied);
    assert_eq!(world.may(principal, DELETE, &scope).await, "yes");
    world.remove(&id).await;
    assert_eq!(world.may(principal, WRITE, &scope).await, "yes");

    let id = extension(&scope, "locks");
    world
        .put_with(&id, Record::Lock(LockLevel::CanNotDelete))
        .await;
    assert_eq!(world.may(principal, DELETE, &scope).await, "ScopeLocked");
    assert_eq!(world.may(principal, WRITE, &scope).await, "yes");
    world.put_with(&id, Record::Lock(LockLevel::ReadOnly)).await;
    assert_eq!(world.may(principal, WRITE, &scope).await, "ScopeLocked");
    world.remove(&id).await;
    assert_eq!(world.may(principal, DELETE, &scope).await, "yes");
}

async fn an_identity_lives_with_its_resource<B: Backend>(world: &World<B>) {
    let scope = world.id("/resourceGroups/rg");
    let machine = world.id("/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/m");
    let identity = || NewIdentity {
        app: AppId::random(),
        principal: PrincipalId::random(),
        display_name: "m".into(),
    };
    let found = async || {
        let found = world.catalog.managed_identity(world.tenant, &machine).await;
        found.expect("find")
    };
    let first = identity();
    let ids = (first.app, first.principal);
    world
        .put_with(&machine, Record::ManagedIdentity(Some(first)))
        .await;
    assert_eq!(found().await, Some(ids));
    let again = Record::ManagedIdentity(Some(identity()));
    world.put_with(&machine, again).await;
    assert_eq!(found().await, Some(ids), "kept");
    world.give(ids.1, READER, &scope).await;
    assert_eq!(world.may(ids.1, READ, &scope).await, "yes");
    let application = world.catalog.application(ids.0).await.expect("find");
    assert!(application.expect("is there").managed);
    world
        .put_with(&machine, Record::ManagedIdentity(None))
        .await;
    assert_eq!(found().await, None);
    assert_eq!(world.may(ids.1, READ, &scope).await, NO);
    let second = identity();
    let principal = second.principal;
    world
        .put_with(&machine, Record::ManagedIdentity(Some(second)))
        .await;
    world.give(principal, READER, &world.id("")).await;
    world.remove(&scope).await;
    let given = world.catalog.assigned(world.tenant, &[principal]).await;
    assert_eq!(given.expect("find"), []);
}

async fn a_refresh_token_is_used_once<B: Backend>(world: &World<B>) {
    let family = Uuid::new_v4();
    let token = |digest: &str| StoredRefresh {
        digest: digest.into(),
        family,
        tenant: world.tenant,
        principal: world.operator.principal,
        app: world.operator.app,
        expires_at: later(world.clock.now(), DAY),
    };
    let keep = async |digest: &str| {
        let kept = world.catalog.keep_refresh(token(digest)).await;
        kept.expect("keep");
    };
    let used = async |digest: &str| world.catalog.use_refresh(digest).await.expect("use");
    assert_eq!(used("a").await, RefreshUse::Unknown);
    keep("a").await;
    assert_eq!(used("a").await, RefreshUse::Good(token("a")));
    keep("b").await;
    assert_eq!(used("a").await, RefreshUse::UsedBefore);
    assert_eq!(used("b").await, RefreshUse::Unknown, "all of them are over");
    keep("c").await;
    world.clock.advance(DAY * 2);
    assert_eq!(used("c").await, RefreshUse::Unknown, "expired");
}

async fn a_new_key_ends_the_others<B: Backend>(world: &World<B>) {
    let key = |kid: &str| StoredKey {
        kid: kid.into(),
        private_pem: String::new(),
        made_at: world.clock.now(),
        retires_at: later(world.clock.now(), DAY * 90),
    };
    world
        .catalog
        .add_signing_key(key("old"))
        .await
        .expect("add");
    world.clock.advance(DAY);
    let until = later(world.clock.now(), DAY);
    let rotated = world.catalog.rotate_signing_key(key("new"), until).await;
    rotated.expect("rotate");
    let kids = async || -> Vec<String> {
        let keys = world.catalog.signing_keys().await.expect("read");
        keys.into_iter().map(|key| key.kid).collect()
    };
    assert_eq!(kids().await, ["new", "old"]);
    world.clock.advance(DAY * 2);
    assert_eq!(kids().await, ["new"]);
}
