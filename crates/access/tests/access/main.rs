//! Decisions as data: who may do what where, and a committed table of role × action.

mod rights;

use access::{
    Action, Assignment, Forbidden, Grants, Identity, Permit, RoleId, SystemReason, authorize,
    authorize_link, authorize_list, built_in_roles,
};
use wire::{AppId, ErrorCode, PrincipalId, ResourceId, TenantId};

const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
const GROUP: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg";
const READ: &str = "Microsoft.Compute/galleries/read";
const WRITE: &str = "Microsoft.Compute/galleries/write";

fn someone() -> Identity {
    Identity {
        tenant: TenantId::random(),
        principal: PrincipalId::random(),
        app: AppId::random(),
    }
}

fn id(text: &str) -> ResourceId {
    ResourceId::parse(text).unwrap()
}

fn granted(to: &Identity, role: &str, scope: &str) -> Grants {
    let assignment = Assignment {
        tenant: to.tenant,
        principal: to.principal,
        role: RoleId::new(role),
        scope: id(scope),
    };
    Grants::new(to.tenant, to.principal, vec![assignment])
}

fn check(role: &str, at: &str, action: &str, scope: &str, allowed: bool) {
    let who = someone();
    let grants = granted(&who, role, at);
    let seen = authorize(&who, &grants, &Action::new(action), &id(scope), who.tenant);
    assert_eq!(seen.is_ok(), allowed, "{role} at {at}: {action} at {scope}");
}

#[test]
fn rights_are_inherited_downwards_only() {
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    check(OWNER, "/", WRITE, &gallery, true);
    check(OWNER, GROUP, WRITE, &gallery, true);
    check(
        OWNER,
        &GROUP
            .to_uppercase()
            .replace("SUBSCRIPTIONS", "subscriptions"),
        WRITE,
        &gallery,
        true,
    );
    check(OWNER, &gallery, WRITE, GROUP, false);
    check(OWNER, &GROUP.replace("/rg", "/r"), WRITE, &gallery, false);
    check(READER, GROUP, READ, &gallery, true);
    check(READER, GROUP, WRITE, &gallery, false);
    check(
        "00000000-0000-0000-0000-000000000000",
        "/",
        READ,
        &gallery,
        false,
    );
}

#[test]
fn another_tenant_is_refused_before_rights_are_asked() {
    let who = someone();
    let grants = granted(&who, OWNER, "/");
    let other = TenantId::random();
    let refused = authorize(&who, &grants, &Action::new(READ), &id(GROUP), other).unwrap_err();
    assert_eq!(
        refused,
        Forbidden::WrongTenant {
            token: who.tenant,
            resource: other
        }
    );
    assert_eq!(
        refused.to_arm().code,
        ErrorCode::InvalidAuthenticationTokenTenant
    );
}

#[test]
fn grants_of_somebody_else_count_for_nothing() {
    let (who, other) = (someone(), someone());
    let grants = granted(&other, OWNER, "/");
    assert!(authorize(&who, &grants, &Action::new(READ), &id(GROUP), who.tenant).is_err());
    let stolen = Grants::new(
        who.tenant,
        who.principal,
        vec![Assignment {
            tenant: other.tenant,
            principal: who.principal,
            role: RoleId::new(OWNER),
            scope: id("/"),
        }],
    );
    assert!(authorize(&who, &stolen, &Action::new(READ), &id(GROUP), who.tenant).is_err());
}

#[test]
fn a_list_shows_what_the_caller_may_see() {
    let who = someone();
    let subscription = id(GROUP).parent().unwrap();
    let action = Action::new(READ);
    let grants = granted(&who, READER, GROUP);
    let permit = authorize_list(&who, &grants, &action, &subscription, who.tenant).unwrap();
    assert!(permit.may_see(&id(&format!(
        "{GROUP}/providers/Microsoft.Compute/galleries/g"
    ))));
    assert!(!permit.may_see(&id(&format!(
        "{GROUP}2/providers/Microsoft.Compute/galleries/g"
    ))));
    let nothing = Grants::new(who.tenant, who.principal, vec![]);
    assert!(authorize_list(&who, &nothing, &action, &subscription, who.tenant).is_err());
}

#[test]
fn a_link_needs_a_right_of_the_linked_tenant() {
    let (home, away) = (someone(), someone());
    let own = authorize(
        &home,
        &granted(&home, OWNER, "/"),
        &Action::new(WRITE),
        &id(GROUP),
        home.tenant,
    )
    .unwrap();
    let linked = id("/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/rg");
    let read = Action::new(READ);
    let mut proved = vec![(home, granted(&home, OWNER, "/"))];
    let refused = authorize_link(&own, &proved, &read, &linked, away.tenant).unwrap_err();
    assert_eq!(refused.to_arm().code, ErrorCode::LinkedAuthorizationFailed);
    proved.push((away, granted(&away, READER, "/")));
    assert!(authorize_link(&own, &proved, &read, &linked, away.tenant).is_ok());
}

#[test]
fn a_permit_reaches_no_further_than_it_says() {
    let gallery = id(&format!("{GROUP}/providers/Microsoft.Compute/galleries/g"));
    let permit = Permit::system(
        SystemReason::Startup,
        Action::new(WRITE),
        gallery.clone(),
        TenantId::random(),
    );
    assert!(permit.may_write());
    let parent = permit.to_read_ancestor(&id(GROUP)).unwrap();
    assert!(!parent.may_write());
    assert!(permit.to_read_ancestor(&id("/subscriptions/x")).is_none());
    assert!(permit.to_read_ancestor(&gallery).is_none());
    assert!(permit.to_descendant(&id(GROUP)).is_none());
    assert!(
        permit
            .to_descendant(&gallery.child("images", "d").unwrap())
            .is_some()
    );
}

/// A change of a role is a diff of `roles.txt`. `BULLION_UPDATE_GOLDEN=1` writes it.
#[test]
fn roles_are_what_is_committed() {
    let actions = [
        "Microsoft.Resources/subscriptions/read",
        "Microsoft.Resources/subscriptions/write",
        "Microsoft.Resources/subscriptions/resourceGroups/read",
        "Microsoft.Resources/subscriptions/resourceGroups/write",
        "Microsoft.Resources/subscriptions/resourceGroups/delete",
        READ,
        WRITE,
        "Microsoft.Compute/galleries/delete",
        "Microsoft.Compute/galleries/share/action",
        "Microsoft.Compute/galleries/images/read",
        "Microsoft.Compute/galleries/images/write",
        "Microsoft.Compute/galleries/images/versions/read",
        "Microsoft.Compute/galleries/images/versions/write",
        "Microsoft.Compute/galleries/images/versions/delete",
        "Microsoft.Compute/virtualMachines/read",
        "Microsoft.Compute/virtualMachines/write",
        "Microsoft.VirtualMachineImages/imageTemplates/write",
        "Microsoft.VirtualMachineImages/imageTemplates/run/action",
        "Microsoft.Authorization/roleAssignments/read",
        "Microsoft.Authorization/roleAssignments/write",
        "Bullion.Factory/tenants/write",
        "Bullion.Factory/regions/write",
        "Bullion.Factory/applications/write",
        "Bullion.Factory/applications/addPassword/action",
        "Bullion.Factory/promotions/write",
        "Bullion.Factory/promotions/approve/action",
        "Bullion.Factory/runs/read",
    ];
    let mut table = String::new();
    for role in built_in_roles() {
        table.push_str(&format!("{} {}\n", role.name, role.guid));
        for action in actions {
            let mark = if role.allows(&Action::new(action)) {
                "yes"
            } else {
                "-"
            };
            table.push_str(&format!("  {mark:<4}{action}\n"));
        }
    }
    let known: Vec<&str> = built_in_roles().iter().map(|role| role.name).collect();
    let named: Vec<&str> = wire::roles::ALL.iter().map(|role| role.name).collect();
    assert_eq!(known, named, "a role that can be asked for by name exists");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/roles.txt");
    if std::env::var_os("BULLION_UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(golden).unwrap_or_default());
}
