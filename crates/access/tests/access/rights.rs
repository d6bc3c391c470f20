//! What reaches where: management groups, groups, custom roles, deny assignments and locks, as data.

use std::sync::Arc;

use access::{
    Action, Around, Denial, Denied, Forbidden, Grants, Held, Identity, LockLevel, Locks,
    Permissions, Role, RoleId, Tree, Visible, authorize, authorize_list, authorize_own,
    built_in_ready,
};
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId, roles};

const SUBSCRIPTION: &str = "/subscriptions/00000000-0000-0000-0000-000000000001";
const OTHER: &str = "/subscriptions/00000000-0000-0000-0000-000000000002";
const READ: &str = "Microsoft.Compute/galleries/read";
const WRITE: &str = "Microsoft.Compute/galleries/write";
const DELETE: &str = "Microsoft.Compute/galleries/delete";
const SHARE: &str = "Microsoft.Compute/galleries/share/action";

fn id(text: &str) -> ResourceId {
    ResourceId::parse(text).unwrap()
}

fn group(name: &str) -> String {
    format!("/providers/Microsoft.Management/managementGroups/{name}")
}

fn in_group(rest: &str) -> String {
    format!("{SUBSCRIPTION}/resourceGroups/rg{rest}")
}

/// A principal in a tenant where `low` is below `top` and the first subscription is in `low`.
struct Case {
    who: Identity,
    groups: Vec<PrincipalId>,
    held: Vec<Held>,
    denials: Vec<Denial>,
    locks: Vec<(ResourceId, LockLevel)>,
}

impl Case {
    fn new() -> Case {
        let who = Identity {
            tenant: TenantId::random(),
            principal: PrincipalId::random(),
            app: AppId::random(),
        };
        Case {
            who,
            groups: Vec::new(),
            held: Vec::new(),
            denials: Vec::new(),
            locks: Vec::new(),
        }
    }

    fn with(role: roles::BuiltInRole, scope: &str) -> Case {
        let mut case = Case::new();
        let role = built_in_ready(&RoleId::new(role.guid)).unwrap();
        let scope = id(scope);
        case.held.push(Held {
            scope,
            role,
            assignment: None,
        });
        case
    }

    fn denied(mut self, denied: Denied, except: &[PrincipalId], actions: &str, at: &str) -> Case {
        let permissions = Permissions {
            actions: vec![actions.into()],
            ..Permissions::default()
        };
        self.denials.push(Denial {
            id: id(&format!(
                "{at}/providers/Microsoft.Authorization/denyAssignments/d"
            )),
            name: "keep out".into(),
            scope: id(at),
            permissions: vec![permissions],
            denied,
            except: except.to_vec(),
            here_only: false,
        });
        self
    }

    fn locked(mut self, scope: &str, level: LockLevel) -> Case {
        self.locks.push((id(scope), level));
        self
    }

    fn grants(&self) -> Grants {
        let groups = [
            ("Top".to_string(), None),
            ("low".to_string(), Some("TOP".to_string())),
            ("a".to_string(), Some("b".to_string())),
            ("b".to_string(), Some("a".to_string())),
        ];
        let first: SubscriptionId = id(SUBSCRIPTION).subscription().unwrap();
        let tree = Tree::new(self.who.tenant, groups, [(first, "LOW".to_string())]);
        let locks = Locks::new(self.locks.clone());
        Grants::of(
            self.who.tenant,
            self.who.principal,
            self.groups.clone(),
            self.held.clone(),
            self.denials.clone(),
            Arc::new(Around { tree, locks }),
        )
    }

    /// `yes`, or what is in the way.
    fn check(&self, action: &str, scope: &str, expected: &str) {
        let seen = authorize(
            &self.who,
            &self.grants(),
            &Action::new(action),
            &id(scope),
            self.who.tenant,
        );
        let seen = match seen {
            Ok(_) => "yes".to_string(),
            Err(Forbidden::Locked { locked, .. }) => {
                let names: Vec<&str> = locked.iter().map(ResourceId::name).collect();
                format!("locked {}", names.join(","))
            }
            Err(refused) => refused.to_arm().code.as_str().to_string(),
        };
        assert_eq!(seen, expected, "{action} at {scope}");
    }
}

const NO: &str = "AuthorizationFailed";
const DENIED: &str = "DenyAssignmentAuthorizationFailed";

#[test]
fn a_role_at_a_management_group_holds_in_its_subscriptions() {
    let gallery = in_group("/providers/Microsoft.Compute/galleries/g");
    for (at, in_first, in_other) in [
        (group("low"), "yes", NO),
        (group("TOP"), "yes", NO),
        ("/".into(), "yes", "yes"),
        (group("a"), NO, NO),
        (SUBSCRIPTION.into(), "yes", NO),
    ] {
        let case = Case::with(roles::READER, &at);
        case.check(READ, &gallery, in_first);
        case.check(READ, OTHER, in_other);
        case.check(WRITE, &gallery, NO);
    }
    let case = Case::with(roles::READER, &group("top"));
    case.check(READ, &group("low"), "yes");
    Case::with(roles::READER, &group("low")).check(READ, &group("top"), NO);
    let mut case = Case::new();
    let root = group(&case.who.tenant.to_string());
    let role = built_in_ready(&RoleId::new(roles::READER.guid)).unwrap();
    let scope = id(&root);
    case.held.push(Held {
        scope,
        role,
        assignment: None,
    });
    case.check(READ, &gallery, "yes");
    case.check(READ, OTHER, "yes");
    case.check(READ, "/", NO);
    let own = |case: &Case| {
        let action = Action::new("Microsoft.Resources/subscriptions/read");
        let root = ResourceId::root();
        let permit = authorize_own(&case.who, &case.grants(), &action, &root, case.who.tenant);
        let permit = permit.unwrap();
        [SUBSCRIPTION, OTHER].map(|one| permit.may_see(&id(one)))
    };
    assert_eq!(own(&case), [true, true]);
    assert_eq!(
        own(&Case::with(roles::READER, &group("top"))),
        [true, false]
    );
}

#[test]
fn a_list_at_a_management_group_shows_what_is_below_it() {
    let case = Case::with(roles::READER, &in_group(""));
    let action = Action::new(READ);
    let at = |scope: &str| {
        let tenant = case.who.tenant;
        authorize_list(&case.who, &case.grants(), &action, &id(scope), tenant)
    };
    let permit = at(&group("top")).unwrap();
    assert_eq!(*permit.visible(), Visible::Only(vec![id(&in_group(""))]));
    assert!(at(&group("a")).is_err());
    assert!(at(OTHER).is_err());
}

#[test]
fn a_custom_role_is_what_it_lists() {
    let permissions = Permissions {
        actions: vec!["Microsoft.Compute/galleries/*".into()],
        not_actions: vec!["Microsoft.Compute/galleries/delete".into()],
        ..Permissions::default()
    };
    let mut case = Case::new();
    let role = Arc::new(Role::of([&permissions]));
    let scope = id(SUBSCRIPTION);
    case.held.push(Held {
        scope,
        role,
        assignment: None,
    });
    case.check(WRITE, &in_group(""), "yes");
    case.check(DELETE, &in_group(""), NO);
    // Another role may give what this one leaves out: an exception is no denial.
    let role = built_in_ready(&RoleId::new(roles::OWNER.guid)).unwrap();
    let scope = id(&in_group(""));
    case.held.push(Held {
        scope,
        role,
        assignment: None,
    });
    case.check(DELETE, &in_group(""), "yes");
}

#[test]
fn a_denial_wins_over_every_role() {
    let gallery = in_group("/providers/Microsoft.Compute/galleries/g");
    let group_id = PrincipalId::random();
    let owner = || Case::with(roles::OWNER, "/");
    let case = owner().denied(Denied::Everyone, &[], "Microsoft.Compute/*", SUBSCRIPTION);
    case.check(WRITE, &gallery, DENIED);
    case.check(READ, &gallery, "yes");
    case.check(WRITE, OTHER, "yes");
    Case::new()
        .denied(Denied::Everyone, &[], "*", SUBSCRIPTION)
        .check(WRITE, &gallery, NO);
    let case = owner().denied(Denied::Everyone, &[group_id], "*", SUBSCRIPTION);
    case.check(WRITE, &gallery, DENIED);
    let mut excepted = case;
    excepted.groups.push(group_id);
    excepted.check(WRITE, &gallery, "yes");
    let these = Denied::These(vec![group_id]);
    let mut case = owner().denied(these, &[], "*/delete", &group("top"));
    case.check(DELETE, &gallery, "yes");
    case.groups.push(group_id);
    case.check(DELETE, &gallery, DENIED);
    case.check(DELETE, OTHER, "yes");
    case.denials[0].here_only = true;
    case.check(DELETE, &gallery, "yes");
    case.check(DELETE, &group("top"), DENIED);
}

#[test]
fn a_lock_keeps_its_scope() {
    let gallery = in_group("/providers/Microsoft.Compute/galleries/g");
    let owner = || Case::with(roles::OWNER, "/");
    let case = owner().locked(&in_group(""), LockLevel::CanNotDelete);
    case.check(DELETE, &gallery, "locked rg");
    case.check(WRITE, &gallery, "yes");
    case.check(
        "Microsoft.Resources/subscriptions/delete",
        SUBSCRIPTION,
        "locked rg",
    );
    case.check("Microsoft.Compute/galleries/delete", &in_group("2"), "yes");
    case.check("Microsoft.Authorization/locks/delete", &in_group(""), "yes");
    let case = owner().locked(&gallery, LockLevel::ReadOnly);
    case.check(WRITE, &gallery, "locked g");
    case.check(SHARE, &gallery, "locked g");
    case.check(READ, &gallery, "yes");
    case.check(WRITE, &in_group(""), "yes");
    case.check(DELETE, &in_group(""), "locked g");
    let case = owner()
        .locked(&gallery, LockLevel::CanNotDelete)
        .locked(&gallery, LockLevel::ReadOnly)
        .locked(&gallery, LockLevel::CanNotDelete);
    case.check(WRITE, &gallery, "locked g");
    // A caller without rights learns of no lock.
    Case::new()
        .locked(&gallery, LockLevel::ReadOnly)
        .check(WRITE, &gallery, NO);
}
