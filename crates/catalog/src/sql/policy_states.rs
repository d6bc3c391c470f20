//! `PolicyStates` in SQL. Many rows travel as one JSON text, so that a scan's result is a few statements.

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::FromRow;

use super::resources::check_write;
use super::{
    Connection, Engine, Sql, SqlCatalog, Turn, again, commit, failed, query, query_as, rows,
};
use crate::error::{CatalogError, Result};
use crate::policy_states::{
    POLICY_STATES_MAX, PolicyState, PolicyStates, REASON_CHARS_MAX, REFUSALS_MAX, Refusal, Refused,
    StateEvent, StateKey, StateWrite, StoredState,
};
use crate::resource::BODY_BYTES_MAX;

/// The JSON of one transaction's rows: ids are at most 2 KiB each, reasons at most 8.
const ROWS_BYTES_MAX: usize = BODY_BYTES_MAX * 32;

#[derive(FromRow)]
struct StateRow {
    resource: String,
    assignment: String,
    reference: String,
    state: String,
    since: i64,
    reason: Option<String>,
}

#[derive(FromRow)]
struct EventRow {
    seq: i64,
    at: i64,
    resource: String,
    assignment: String,
    reference: String,
    state: Option<String>,
    reason: Option<String>,
    effect: Option<String>,
    principal: Option<String>,
}

#[async_trait]
impl<E: Engine> PolicyStates for SqlCatalog<E> {
    async fn policy_states(
        &self,
        permit: &Permit,
        after: Option<&StateKey>,
        limit: usize,
    ) -> Result<Vec<StoredState>> {
        let (resource, assignment, reference) = after.map_or_else(Default::default, folded);
        let found = query_as::<StateRow>(
            "select resource, assignment, reference, state, since, reason from policy_states
             where tenant = $1
               and (resource_key = $2 or (resource_key > $3 || '/' and resource_key < $3 || '0'))
               and (resource_key, assignment_key, reference_key) > ($4, $5, $6)
             order by resource_key, assignment_key, reference_key limit $7",
        )
        .bind(permit.tenant().to_string())
        .bind(permit.scope().folded())
        .bind(rows::prefix(permit.scope()))
        .bind(resource)
        .bind(assignment)
        .bind(reference)
        .bind(limited(limit))
        .fetch_all(&mut *self.reader("read states of policies").await?)
        .await
        .map_err(failed("read states of policies"))?;
        let states: Result<Vec<StoredState>> =
            found.into_iter().map(StateRow::into_state).collect();
        Ok(states?
            .into_iter()
            .filter(|state| permit.may_see(&state.key.resource))
            .collect())
    }

    async fn write_policy_states(
        &self,
        permit: &Permit,
        at: Timestamp,
        writes: &[StateWrite],
    ) -> Result<()> {
        const OPERATION: &str = "write states of policies";
        check_write(permit)?;
        if writes.len() > POLICY_STATES_MAX {
            return Err(CatalogError::TooLarge {
                what: "states of one write",
                limit: POLICY_STATES_MAX,
            });
        }
        let mut put = Vec::new();
        let mut ended = Vec::new();
        for write in writes {
            match write {
                StateWrite::Put(state) => put.push(put_row(permit, state)?),
                StateWrite::End(key) => ended.push(key_row(permit, key)?),
            }
        }
        let tenant = permit.tenant().to_string();
        again!({
            let mut tx = self.write(OPERATION).await?;
            // Two servers that judge the same change come one after the other, so that it is told once.
            self.take_turn(&mut tx, Turn::PolicyStates).await?;
            put_all(&mut tx, &tenant, at, &put).await?;
            end_all(&mut tx, &tenant, at, &ended).await?;
            commit(tx, OPERATION).await
        })
    }

    async fn note_refusals(
        &self,
        permit: &Permit,
        at: Timestamp,
        refusals: &[Refusal],
    ) -> Result<()> {
        const OPERATION: &str = "note refused requests";
        check_write(permit)?;
        if refusals.len() > REFUSALS_MAX {
            return Err(CatalogError::TooLarge {
                what: "refusals of one write",
                limit: REFUSALS_MAX,
            });
        }
        let tenant = permit.tenant().to_string();
        let rows: Vec<Value> = refusals
            .iter()
            .map(|refusal| refusal_row(permit, refusal))
            .collect::<Result<_>>()?;
        again!({
            let mut tx = self.write(OPERATION).await?;
            for row in &rows {
                insert_refusal(&mut tx, &tenant, at, row).await?;
            }
            commit(tx, OPERATION).await
        })
    }

    async fn policy_events(
        &self,
        permit: &Permit,
        from: Timestamp,
        to: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StateEvent>> {
        let found = query_as::<EventRow>(
            "select seq, at, resource, assignment, reference, state, reason, effect, principal from policy_events
             where tenant = $1 and at >= $2 and at <= $3 and seq > $4
               and (resource_key = $5 or (resource_key > $6 || '/' and resource_key < $6 || '0'))
             order by seq limit $7",
        )
        .bind(permit.tenant().to_string())
        .bind(rows::micros(from))
        .bind(rows::micros(to))
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(permit.scope().folded())
        .bind(rows::prefix(permit.scope()))
        .bind(limited(limit))
        .fetch_all(&mut *self.reader("read events of policies").await?)
        .await
        .map_err(failed("read events of policies"))?;
        let events: Result<Vec<StateEvent>> = found.into_iter().map(EventRow::into_event).collect();
        Ok(events?
            .into_iter()
            .filter(|event| permit.may_see(&event.key.resource))
            .collect())
    }
}

fn limited(limit: usize) -> i64 {
    i64::try_from(limit.clamp(1, POLICY_STATES_MAX)).unwrap_or(i64::MAX)
}

fn folded(key: &StateKey) -> (String, String, String) {
    (
        key.resource.folded().to_owned(),
        key.assignment.folded().to_owned(),
        key.reference.to_lowercase(),
    )
}

fn key_row(permit: &Permit, key: &StateKey) -> Result<Value> {
    if !key.resource.is_within(permit.scope()) {
        return Err(CatalogError::Mismatch {
            why: format!("{} is not within {}", key.resource, permit.scope()),
        });
    }
    let (resource, assignment, reference) = folded(key);
    Ok(json!({
        "rk": resource,
        "ak": assignment,
        "fk": reference,
        "r": key.resource.to_string(),
        "a": key.assignment.to_string(),
        "f": key.reference,
    }))
}

fn refusal_row(permit: &Permit, refusal: &Refusal) -> Result<Value> {
    let mut row = key_row(permit, &refusal.key)?;
    row["w"] = refusal.reason.as_deref().map(short).into();
    row["e"] = refusal.effect.clone().into();
    row["p"] = refusal.principal.clone().into();
    Ok(row)
}

async fn insert_refusal(
    tx: &mut impl Connection,
    tenant: &str,
    at: Timestamp,
    row: &Value,
) -> Result<()> {
    let member = |name: &str| row[name].as_str().map(str::to_owned);
    query(
        "insert into policy_events (tenant, at, resource_key, resource, assignment, reference, state, reason,
                                    effect, principal)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(tenant)
    .bind(rows::micros(at))
    .bind(member("rk"))
    .bind(member("r"))
    .bind(member("a"))
    .bind(member("f"))
    .bind(PolicyState::NonCompliant.as_str())
    .bind(member("w"))
    .bind(member("e"))
    .bind(member("p"))
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("note refused requests"))
}

fn short(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

fn put_row(permit: &Permit, state: &StoredState) -> Result<Value> {
    let mut row = key_row(permit, &state.key)?;
    row["s"] = state.state.as_str().into();
    row["t"] = rows::micros(state.since).into();
    row["w"] = state.reason.as_deref().map(short).into();
    Ok(row)
}

async fn put_all(
    tx: &mut impl Connection,
    tenant: &str,
    at: Timestamp,
    put: &[Value],
) -> Result<()> {
    const OPERATION: &str = "write states of policies";
    if put.is_empty() {
        return Ok(());
    }
    let rows = rows::to_json("states of one write", put, ROWS_BYTES_MAX)?;
    note(tx, tenant, at, &rows).await?;
    query(Sql::of(
        "insert into policy_states (tenant, resource_key, assignment_key, reference_key, resource, assignment,
                                    reference, state, since, reason)
         select $1, value ->> 'rk', value ->> 'ak', value ->> 'fk', value ->> 'r', value ->> 'a', value ->> 'f',
                value ->> 's', value ->> 't', value ->> 'w'
         from json_each($2) where true
         on conflict (tenant, resource_key, assignment_key, reference_key) do update set
             state = excluded.state, since = excluded.since, reason = excluded.reason",
        // Of rows with one key the last one counts: a statement may write a row once.
        "insert into policy_states (tenant, resource_key, assignment_key, reference_key, resource, assignment,
                                    reference, state, since, reason)
         select distinct on (2, 3, 4) $1, value ->> 'rk', value ->> 'ak', value ->> 'fk', value ->> 'r',
                value ->> 'a', value ->> 'f', value ->> 's', (value ->> 't')::bigint, value ->> 'w'
         from json_array_elements($2::json) with ordinality as rows (value, n)
         order by 2, 3, 4, n desc
         on conflict (tenant, resource_key, assignment_key, reference_key) do update set
             state = excluded.state, since = excluded.since, reason = excluded.reason",
    ))
    .bind(tenant)
    .bind(&rows)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed(OPERATION))
}

async fn end_all(
    tx: &mut impl Connection,
    tenant: &str,
    at: Timestamp,
    ended: &[Value],
) -> Result<()> {
    const OPERATION: &str = "end states of policies";
    if ended.is_empty() {
        return Ok(());
    }
    let rows = rows::to_json("states of one write", ended, ROWS_BYTES_MAX)?;
    note(tx, tenant, at, &rows).await?;
    query(Sql::of(
        "delete from policy_states where (tenant, resource_key, assignment_key, reference_key) in
             (select $1, value ->> 'rk', value ->> 'ak', value ->> 'fk' from json_each($2))",
        "delete from policy_states where (tenant, resource_key, assignment_key, reference_key) in
             (select $1, value ->> 'rk', value ->> 'ak', value ->> 'fk' from json_array_elements($2::json))",
    ))
    .bind(tenant)
    .bind(&rows)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed(OPERATION))
}

/// Before the rows are written: only what they change is an event.
async fn note(tx: &mut impl Connection, tenant: &str, at: Timestamp, rows: &str) -> Result<()> {
    query(Sql::of(
        "insert into policy_events (tenant, at, resource_key, resource, assignment, reference, state, reason)
         select $1, $2, value ->> 'rk', value ->> 'r', value ->> 'a', value ->> 'f', value ->> 's', value ->> 'w'
         from json_each($3)
         where (value ->> 's' is null) = exists (
             select 1 from policy_states
             where tenant = $1 and resource_key = value ->> 'rk' and assignment_key = value ->> 'ak'
               and reference_key = value ->> 'fk' and (value ->> 's' is null
                   or (state = value ->> 's' and reason is not distinct from value ->> 'w')))",
        "insert into policy_events (tenant, at, resource_key, resource, assignment, reference, state, reason)
         select $1, $2, value ->> 'rk', value ->> 'r', value ->> 'a', value ->> 'f', value ->> 's', value ->> 'w'
         from json_array_elements($3::json) with ordinality as rows (value, n)
         where (value ->> 's' is null) = exists (
             select 1 from policy_states
             where tenant = $1 and resource_key = value ->> 'rk' and assignment_key = value ->> 'ak'
               and reference_key = value ->> 'fk' and (value ->> 's' is null
                   or (state = value ->> 's' and reason is not distinct from value ->> 'w')))
         order by n",
    ))
    .bind(tenant)
    .bind(rows::micros(at))
    .bind(rows)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("note events of policies"))
}

fn state(text: &str) -> Result<PolicyState> {
    PolicyState::stored(text).ok_or_else(|| rows::corrupt("policy_states.state", text))
}

impl StateRow {
    fn into_state(self) -> Result<StoredState> {
        Ok(StoredState {
            key: StateKey {
                resource: rows::parsed("policy_states.resource", &self.resource)?,
                assignment: rows::parsed("policy_states.assignment", &self.assignment)?,
                reference: self.reference,
            },
            state: state(&self.state)?,
            since: rows::time(self.since),
            reason: self.reason,
        })
    }
}

impl EventRow {
    fn into_event(self) -> Result<StateEvent> {
        Ok(StateEvent {
            seq: self.seq.unsigned_abs(),
            at: rows::time(self.at),
            key: StateKey {
                resource: rows::parsed("policy_events.resource", &self.resource)?,
                assignment: rows::parsed("policy_events.assignment", &self.assignment)?,
                reference: self.reference,
            },
            state: self.state.as_deref().map(state).transpose()?,
            reason: self.reason,
            refused: self
                .effect
                .zip(self.principal)
                .map(|(effect, principal)| Refused { effect, principal }),
        })
    }
}
