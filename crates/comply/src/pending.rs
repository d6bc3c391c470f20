//! Scopes that are still to be looked at, a page at a time, so that a change of one resource does not wait for a million
//! others.

use catalog::Continuation;
use wire::{ResourceId, TenantId};

use crate::columns::Columns;
use crate::touched::Which;

/// A scope under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub tenant: TenantId,
    scope: ResourceId,
    /// What is left of it, the next at the end.
    pub roots: Vec<ResourceId>,
    /// Where the next page of the last of them begins.
    pub after: Option<Continuation>,
    pub which: Which,
    /// The scope's own resource was judged by everything already.
    pub own_judged: bool,
    /// What the pages so far have taught.
    pub columns: Option<Columns>,
    begun: bool,
}

impl Pending {
    pub fn new(
        tenant: TenantId,
        scope: ResourceId,
        roots: Vec<ResourceId>,
        which: Which,
    ) -> Pending {
        Pending {
            tenant,
            scope,
            roots,
            after: None,
            which,
            own_judged: false,
            columns: None,
            begun: false,
        }
    }
}

/// All of them. Small scopes come first: most are one resource.
#[derive(Debug, Default)]
pub(crate) struct Queue(Vec<Pending>);

impl Queue {
    /// Adds a scope, unless the same work waits already.
    pub fn add(&mut self, pending: Pending) {
        let waits = self.0.iter().any(|other| {
            let same = other.tenant == pending.tenant && other.scope == pending.scope;
            same && !other.begun && (other.which == pending.which || other.which == Which::All)
        });
        if !waits {
            self.0.push(pending);
        }
    }

    /// Takes the one with the longest id, of those the first.
    pub fn take(&mut self) -> Option<Pending> {
        let depth = |pending: &Pending| pending.scope.folded().matches('/').count();
        let deepest = self.0.iter().map(depth).max()?;
        let at = self
            .0
            .iter()
            .position(|pending| depth(pending) == deepest)?;
        let mut pending = self.0.remove(at);
        pending.begun = true;
        Some(pending)
    }

    /// Puts back what is not finished.
    pub fn put_back(&mut self, pending: Pending) {
        self.0.push(pending);
    }

    /// The tenant is looked at as a whole instead.
    pub fn drop_tenant(&mut self, tenant: TenantId) {
        self.0.retain(|pending| pending.tenant != tenant);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_smallest_scope_comes_first_and_nothing_twice() {
        let tenant = TenantId::random();
        let add = |queue: &mut Queue, id: &str, which: Which| {
            let id = ResourceId::parse(id).unwrap();
            queue.add(Pending::new(tenant, id.clone(), vec![id], which));
        };
        let some = || Which::Some(BTreeSet::new());
        let mut queue = Queue::default();
        add(&mut queue, "/subscriptions/a", some());
        add(&mut queue, "/subscriptions/a/resourceGroups/g", some());
        add(&mut queue, "/subscriptions/a", some());
        add(&mut queue, "/subscriptions/b", Which::All);
        add(&mut queue, "/subscriptions/b", some());
        let mut order = Vec::new();
        while let Some(pending) = queue.take() {
            order.push(pending.scope.to_string());
        }
        let expected = [
            "/subscriptions/a/resourceGroups/g",
            "/subscriptions/a",
            "/subscriptions/b",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn what_has_begun_does_not_count_as_waiting() {
        let (tenant, id) = (TenantId::random(), ResourceId::root());
        let new = || Pending::new(tenant, id.clone(), vec![id.clone()], Which::All);
        let mut queue = Queue::default();
        queue.add(new());
        let begun = queue.take().unwrap();
        queue.put_back(begun);
        queue.add(new());
        let taken = (0..3).filter_map(|_| queue.take());
        assert_eq!(taken.count(), 2);
    }
}
