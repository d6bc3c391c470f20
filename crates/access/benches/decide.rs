//! How long one decision takes, in a tenant with 10,000 assignments that one principal holds all of, its groups' among
//! them: the most that a decision can have to look through.
//!
//! `cargo bench -p access`. Decisions are timed in batches on one thread; the median batch is what counts, as others may be
//! busy on the machine, and the slowest one in a hundred stands beside it.

use std::error::Error;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Instant;

use access::{
    Action, Around, Denial, Denied, Grants, Held, Identity, LockLevel, Locks, Permissions, Role,
    RoleId, Tree, authorize, built_in_ready, built_in_roles,
};
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ASSIGNMENTS: usize = 10_000;
const SUBSCRIPTIONS: usize = 1000;
const LEVELS: usize = 6;
const GROUPS: usize = 200;
const CUSTOM_ROLES: usize = 200;
const DENIALS: usize = 100;
const LOCKS: usize = 2000;
const BATCHES: usize = 1000;
const BATCH: u32 = 100;
/// The limit that the issue sets.
const LIMIT_NANOSECONDS: f64 = 5000.0;

const READ: &str = "Microsoft.Compute/galleries/images/versions/read";
const WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";
const SHARE: &str = "Microsoft.Compute/galleries/share/action";

struct Site {
    identity: Identity,
    grants: Grants,
    subscriptions: Vec<SubscriptionId>,
}

fn main() -> Result<()> {
    let site = Site::new()?;
    let mut out = io::stdout().lock();
    let version = "/providers/Microsoft.Compute/galleries/g/images/debian/versions/1.0.0";
    let own = |at: usize, group: &str| {
        let subscription = site.subscriptions[at % SUBSCRIPTIONS];
        format!("/subscriptions/{subscription}/resourceGroups/{group}{version}")
    };
    for (what, action, scope, allowed) in [
        ("allowed by its resource group", WRITE, own(7, "g7"), true),
        (
            "allowed by a management group above",
            READ,
            own(3, "none"),
            true,
        ),
        ("refused", SHARE, own(3, "none"), false),
        ("denied", WRITE, own(11, "g11"), false),
        ("locked", WRITE, own(13, "g13"), false),
    ] {
        let [median, slow] = site.measure(action, &scope, allowed)?;
        let held = match median <= LIMIT_NANOSECONDS {
            true => "",
            false => "  OVER THE LIMIT",
        };
        writeln!(out, "{what:<40} {median:>7.0} ns {slow:>7.0} ns{held}")?;
    }
    Ok(())
}

impl Site {
    fn new() -> Result<Site> {
        let tenant = TenantId::random();
        let principal = PrincipalId::random();
        let app = AppId::random();
        let subscriptions: Vec<SubscriptionId> = (0..SUBSCRIPTIONS)
            .map(|_| SubscriptionId::random())
            .collect();
        let parent = |level: usize| (level > 0).then(|| format!("level{}", level - 1));
        let groups = (0..LEVELS).map(|level| (format!("level{level}"), parent(level)));
        let lowest = format!("level{}", LEVELS - 1);
        let placed = subscriptions.iter().map(|one| (*one, lowest.clone()));
        let tree = Tree::new(tenant, groups, placed);
        let group = |at: usize| -> Result<ResourceId> {
            let subscription = subscriptions[at % SUBSCRIPTIONS];
            let id = format!("/subscriptions/{subscription}/resourceGroups/g{at}");
            Ok(ResourceId::parse(&id)?)
        };
        let mut locks = Vec::new();
        for at in 0..LOCKS {
            let level = match at {
                13 => LockLevel::ReadOnly,
                _ => LockLevel::CanNotDelete,
            };
            locks.push((group(at)?, level));
        }
        let locks = Locks::new(locks);
        let custom: Vec<Arc<Role>> = (0..CUSTOM_ROLES).map(custom_role).map(Arc::new).collect();
        let mut held = Vec::new();
        for at in 0..ASSIGNMENTS {
            let role = match at % 2 {
                0 => custom[at % CUSTOM_ROLES].clone(),
                _ => {
                    // The contributor's is the longest list.
                    let role = &built_in_roles()[1];
                    built_in_ready(&role.id()).ok_or("no such role")?
                }
            };
            let scope = group(at)?;
            held.push(Held {
                scope,
                role,
                assignment: None,
            });
        }
        let reader = RoleId::new(wire::roles::READER.guid);
        held.push(Held {
            scope: ResourceId::management_group_scope("level0")?,
            role: built_in_ready(&reader).ok_or("no such role")?,
            assignment: None,
        });
        let mut denials = Vec::new();
        for at in 0..DENIALS {
            denials.push(denial(group(11 + at * 10)?)?);
        }
        let groups = (0..GROUPS).map(|_| PrincipalId::random()).collect();
        let around = Arc::new(Around { tree, locks });
        Ok(Site {
            identity: Identity {
                tenant,
                principal,
                app,
            },
            grants: Grants::of(tenant, principal, groups, held, denials, around),
            subscriptions,
        })
    }

    /// Nanoseconds of one decision: the median, and the 99th percentile.
    fn measure(&self, action: &str, scope: &str, allowed: bool) -> Result<[f64; 2]> {
        let (action, scope) = (Action::new(action), ResourceId::parse(scope)?);
        let tenant = self.identity.tenant;
        let once = || authorize(&self.identity, &self.grants, &action, &scope, tenant);
        if once().is_ok() != allowed {
            return Err(format!("{action} at {scope} is not {allowed}").into());
        }
        let mut each: Vec<f64> = Vec::with_capacity(BATCHES);
        for _ in 0..BATCHES {
            let begun = Instant::now();
            for _ in 0..BATCH {
                let _ = black_box(once());
            }
            each.push(begun.elapsed().as_nanos() as f64 / f64::from(BATCH));
        }
        each.sort_by(f64::total_cmp);
        Ok([each[BATCHES / 2], each[BATCHES * 99 / 100]])
    }
}

fn custom_role(number: usize) -> Role {
    let mut actions: Vec<String> = (0..20)
        .map(|at| format!("Contoso.R{number}/things{at}/*"))
        .collect();
    actions.push("Microsoft.Compute/galleries/images/*".into());
    Role::of([&Permissions {
        actions,
        not_actions: vec!["Microsoft.Compute/galleries/images/delete".into()],
        ..Permissions::default()
    }])
}

fn denial(scope: ResourceId) -> Result<Denial> {
    let permissions = Permissions {
        actions: vec!["Microsoft.Compute/*/write".into()],
        ..Permissions::default()
    };
    Ok(Denial {
        id: scope.extension("Microsoft.Authorization", "denyAssignments", "d")?,
        name: "frozen".into(),
        scope,
        permissions: vec![permissions],
        denied: Denied::Everyone,
        except: Vec::new(),
        here_only: false,
    })
}
