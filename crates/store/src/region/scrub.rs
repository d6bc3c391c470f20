//! Scrubbing: every pack and every manifest of a region is read again within a period, a little at a
//! time, and what is found is repaired at once.
//!
//! Where a scrub is, is one small value that the caller keeps; when the next step is due is the
//! caller's to decide, who knows the period and the clock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Member, Region, seconds_now};
use crate::error::StoreError;
use crate::mend::Mended;
use crate::region::copy::Unlimited;
use crate::region::{Flow, Placement};
use crate::store::Store;

/// How far a scrub of a region is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Position {
    pub zone: String,
    pub store: String,
    /// The last pack that was read.
    pub pack: String,
    /// Rounds that ended.
    pub rounds: u64,
    pub round: Scrubbed,
}

/// What one round has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scrubbed {
    pub bytes: u64,
    pub packs: u64,
    pub frames: u64,
    pub damaged: u64,
    pub repaired: u64,
    pub lost: u64,
}

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Bytes that were read, by which a caller throttles.
    pub bytes: u64,
    /// Problems, one line each.
    pub problems: Vec<String>,
    /// The round ended with this step.
    pub ended: bool,
}

impl Region {
    /// Bytes of all packs, to know how much there is to read in one period.
    pub fn bytes(&self) -> u64 {
        let of = |store: &Store| store.usage().map_or(0, |usage| usage.pack_bytes);
        self.stores().iter().map(of).sum()
    }

    /// Reads the next pack after `at`, or, behind the last pack of a store, holds its disks against
    /// its packs. What is wrong is repaired from the other stores of the region and from `others`.
    pub fn scrub_step(&self, at: &mut Position, others: &[Store]) -> Found {
        let members = self.members();
        let key = |member: &Arc<Member>| (member.zone.clone(), member.name.clone());
        let here = (at.zone.clone(), at.store.clone());
        let mut found = Found {
            bytes: 0,
            problems: Vec::new(),
            ended: false,
        };
        // A store that went away is passed over.
        let member = members.iter().find(|member| key(member) >= here);
        let Some((member, store)) = member.map(|member| (member, member.store())) else {
            *at = Position {
                rounds: at.rounds + 1,
                ..Position::default()
            };
            found.ended = true;
            return found;
        };
        if key(member) != here {
            (at.zone, at.store) = key(member);
            at.pack.clear();
        }
        let Some(store) = store else {
            next_member(at);
            return found;
        };
        let next = store.packs().into_iter().find(|pack| *pack > at.pack);
        let helpers = self.helpers(&store, others);
        match next {
            Some(pack) => {
                if let Err(error) = scrub_pack(&store, &pack, &helpers, at, &mut found) {
                    found
                        .problems
                        .push(format!("{}: {pack}: {error}", member.shown()));
                }
                at.pack = pack;
            }
            None => {
                self.scrub_disks(member, &store, others, &mut found);
                next_member(at);
            }
        }
        found
    }

    /// All other stores that may help.
    fn helpers(&self, store: &Store, others: &[Store]) -> Vec<Store> {
        let all = self.stores().into_iter().chain(others.iter().cloned());
        all.filter(|other| !Arc::ptr_eq(&other.0, &store.0))
            .collect()
    }

    /// Disks that lack a frame, or whose manifest is damaged, are copied again.
    fn scrub_disks(
        &self,
        member: &Arc<Member>,
        store: &Store,
        others: &[Store],
        found: &mut Found,
    ) {
        let disks = match store.list() {
            Ok(disks) => disks,
            Err(error) => {
                found.problems.push(format!("{}: {error}", member.shown()));
                return;
            }
        };
        let only = Placement {
            members: vec![Arc::clone(member)],
            copies: 1,
            shared: 0,
        };
        for disk in disks.iter().filter(|disk| !store.has(&disk.digest)) {
            let flow: &dyn Flow = &Unlimited;
            let brought = self.bring(&disk.digest, &only, others, flow);
            let outcome = match brought.failed.first() {
                None => "it was copied again".to_owned(),
                Some((_, why)) => format!("it cannot be copied again: {why}"),
            };
            let digest = disk.digest;
            found.problems.push(format!(
                "{}: {digest} was incomplete; {outcome}",
                member.shown()
            ));
        }
        match store.drop_unreadable_packs() {
            Ok(0) => {}
            Ok(packs) => found.problems.push(format!(
                "{}: {packs} unreadable packs were removed",
                member.shown()
            )),
            Err(error) => found.problems.push(format!("{}: {error}", member.shown())),
        }
    }
}

/// Behind a store's name there is no other name with the same beginning.
fn next_member(at: &mut Position) {
    at.store.push('\u{10ffff}');
    at.pack.clear();
}

fn scrub_pack(
    store: &Store,
    pack: &str,
    helpers: &[Store],
    at: &mut Position,
    found: &mut Found,
) -> Result<(), StoreError> {
    let check = store.check_pack(pack)?;
    found.bytes += check.bytes;
    at.round.bytes += check.bytes;
    at.round.packs += 1;
    at.round.frames += check.frames;
    if check.is_sound() {
        return Ok(());
    }
    let Mended { frames, lost, .. } = store.mend_pack(pack, helpers, seconds_now())?;
    at.round.damaged += check.damaged.len() as u64;
    at.round.repaired += frames;
    at.round.lost += lost;
    let footer = match check.unreadable {
        true => "its footer was damaged, ",
        false => "",
    };
    found.problems.push(format!(
        "{pack}: {footer}{} frames were damaged, {frames} came from other stores, {lost} are in none",
        check.damaged.len()
    ));
    Ok(())
}
