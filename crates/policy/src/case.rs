//! Unit tests of policies: a case says what there is and what must come out.
//!
//! A case that asks for something else than what it expects is told apart from one that cannot be run:
//! the second never passes by accident.

mod decided;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::decided::decided;
use crate::alias::Aliases;
use crate::definition::{self, Compiled, Definition};
use crate::effect::Effect;
use crate::error::Fault;
use crate::evaluate::{Evaluated, Evaluation, Surroundings};
use crate::field::resource_type;
use crate::json::{self, get, list, text};
use crate::parameters;
use crate::request::{self, Act};
use crate::verdict::{self, Question, State, Verdict};
use crate::version::{self, Pattern, Version};

/// Definitions that cases refer to, by path, id or name, and each in as many versions as there are.
#[derive(Debug, Default)]
pub struct Library {
    documents: HashMap<String, Vec<Value>>,
}

impl Library {
    /// Adds a document under its path, and under its own id and name.
    pub fn add(&mut self, path: &str, document: Value) {
        let mut keys = vec![path.to_ascii_lowercase()];
        for key in ["id", "name"] {
            let own = text(&document, key).map(str::to_ascii_lowercase);
            keys.extend(own);
        }
        // A version as a resource of its own stands below its definition.
        let id = text(&document, "id")
            .unwrap_or_default()
            .to_ascii_lowercase();
        if let Some((definition, _)) = id.split_once("/versions/") {
            let name = definition.rsplit('/').next().unwrap_or_default();
            keys.extend([definition.to_owned(), name.to_owned()]);
        }
        keys.sort();
        keys.dedup();
        for key in keys {
            self.documents
                .entry(key)
                .or_default()
                .push(document.clone());
        }
    }

    fn find(&self, name: &str) -> &[Value] {
        let name = name.trim_start_matches("./").to_ascii_lowercase();
        let tail = name.rsplit('/').next().unwrap_or_default();
        let found = self.documents.get(&name);
        found
            .or_else(|| self.documents.get(tail))
            .map_or(&[], Vec::as_slice)
    }
}

/// The newest of the documents whose version is meant. Where there is one alone and it names no version,
/// that one is meant.
fn of_version<'d>(documents: &[&'d Value], pattern: Option<&Pattern>) -> Option<&'d Value> {
    let versions: Vec<Option<Version>> = documents
        .iter()
        .map(|document| definition::version_of(document).and_then(|v| Version::parse(&v)))
        .collect();
    let alone = versions.len() == 1 && versions.iter().all(Option::is_none);
    let index = version::newest(&versions, pattern.filter(|_| !alone))?;
    documents.get(index).copied()
}

/// What came of one case.
#[derive(Debug)]
pub struct Outcome {
    pub id: String,
    pub title: String,
    pub verdict: Value,
    /// What differs from what the case expects; nothing if it passes.
    pub differences: Vec<String>,
    pub explained: Vec<Evaluated>,
}

impl Outcome {
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// One policy of a case, under one assignment.
struct Unit {
    keys: Vec<String>,
    reference: Option<String>,
    definition: Definition,
    parameters: Map<String, Value>,
    assignment: Value,
    around: Surroundings,
}

/// The cases of a file: one, a list, or `{"cases": […]}`.
pub fn cases(document: &Value) -> Vec<&Value> {
    match get(document, "cases").and_then(Value::as_array) {
        Some(cases) => cases.iter().collect(),
        None => match document {
            Value::Array(cases) => cases.iter().collect(),
            single => vec![single],
        },
    }
}

/// Runs one case. `now` counts where the case names no time of its own.
pub fn run(case: &Value, library: &Library, aliases: &Arc<Aliases>, now: Timestamp) -> Outcome {
    let mut differences = Vec::new();
    let expected = get(case, "expect").and_then(Value::as_object);
    let (mut verdict, explained) = match judge(case, library, aliases, now) {
        Ok(judged) => judged,
        Err(fault) => {
            let foreseen = expected.is_some_and(|expected| expected.contains_key("error"));
            if !foreseen {
                differences.push("the case cannot be run".to_owned());
            }
            (refused(&fault), Vec::new())
        }
    };
    verdict["evaluatedExpressions"] = explained.iter().map(Evaluated::to_json).collect();
    if let Some(expected) = expected {
        for (key, wanted) in expected {
            let got = get(&verdict, key).unwrap_or(&Value::Null);
            differ(key, wanted, got, &mut differences);
        }
    }
    let id = get(case, "id").map_or_else(String::new, |id| match id {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Outcome {
        id,
        title: text(case, "title").unwrap_or_default().to_owned(),
        verdict,
        differences,
        explained,
    }
}

/// The verdict on a case whose definition or values are refused before anything is evaluated.
fn refused(fault: &Fault) -> Value {
    json!({
        "applicable": null, "if": null, "effect": null, "complianceState": null, "request": null,
        "perPolicy": null, "perReference": null, "perAssignment": null,
        "error": fault.to_string(),
    })
}

/// Every member that is expected must be there; what is not expected may be anything.
fn differ(path: &str, wanted: &Value, got: &Value, differences: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(_)) => {
            for (key, wanted) in wanted {
                let named = get(got, key).or_else(|| ending(got, key, path));
                let got = named.unwrap_or(&Value::Null);
                differ(&format!("{path}.{key}"), wanted, got, differences);
            }
        }
        // A policy's verdict may be given by its state alone.
        (Value::String(_) | Value::Null, Value::Object(object))
            if object.contains_key("complianceState") =>
        {
            differ(path, wanted, &object["complianceState"], differences);
        }
        // A request's outcome may be given by one word.
        (Value::String(word), Value::Object(object)) if object.contains_key("decision") => {
            let word = match word.to_ascii_lowercase().as_str() {
                "denied" => json!("deny"),
                "allowed" => json!("allow"),
                _ => wanted.clone(),
            };
            differ(path, &word, &object["decision"], differences);
        }
        // Who refuses a request may be given by the policy's name alone.
        (Value::String(_), Value::Object(object)) if object.contains_key("policyAssignment") => {
            let names = ["policy", "policyDefinitionReferenceId", "policyAssignment"];
            let named = |name: &&str| object[*name].as_str().zip(wanted.as_str());
            let same = names
                .iter()
                .filter_map(named)
                .any(|(a, b)| a.eq_ignore_ascii_case(b));
            if !same {
                differences.push(format!("{path}: expected {wanted}, got {got}"));
            }
        }
        (Value::Array(wanted), Value::Object(got)) if path.starts_with("per") => {
            if wanted.len() != got.len() {
                differences.push(format!(
                    "{path}: expected {} entries, got {}",
                    wanted.len(),
                    got.len()
                ));
            }
            for (index, (wanted, got)) in wanted.iter().zip(got.values()).enumerate() {
                differ(&format!("{path}[{index}]"), wanted, got, differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (wanted, got)) in a.iter().zip(b).enumerate() {
                differ(&format!("{path}[{index}]"), wanted, got, differences);
            }
        }
        (Value::String(a), Value::String(b)) if same_word(a, b) => {}
        (a, b) if a == b => {}
        _ => differences.push(format!("{path}: expected {wanted}, got {got}")),
    }
}

/// The verdict of the one policy or assignment whose id ends so.
fn ending<'v>(got: &'v Value, name: &str, path: &str) -> Option<&'v Value> {
    let whole = got.as_object().filter(|_| path.starts_with("per"))?;
    let last = |id: &str| {
        id.trim_end_matches('/')
            .rsplit('/')
            .next()
            .map(str::to_ascii_lowercase)
    };
    let mut ending = whole.iter().filter(|(id, _)| last(id) == last(name));
    let (_, found) = ending.next()?;
    ending.next().is_none().then_some(found)
}

/// Words without case. Azure's pages have two names for two of the states.
fn same_word(wanted: &str, got: &str) -> bool {
    let one = |word: &str| match word.to_ascii_lowercase().as_str() {
        "conflicting" => "conflict".to_owned(),
        "exempted" => "exempt".to_owned(),
        word => word.replace("non-compliant", "noncompliant"),
    };
    one(wanted) == one(got)
}

fn judge(
    case: &Value,
    library: &Library,
    aliases: &Arc<Aliases>,
    now: Timestamp,
) -> Result<(Value, Vec<Evaluated>), Fault> {
    let aliases = &with_test_aliases(case, aliases)?;
    let null = Value::Null;
    let resource = &judged(case)?;
    let units = units(case, resource, library, aliases, now)?;
    let at_request =
        text(case, "evaluation").is_some_and(|how| how.eq_ignore_ascii_case("request"));
    let hierarchy = get(case, "hierarchy").unwrap_or(&null);
    let questions: Vec<Question<'_>> = units
        .iter()
        .map(|unit| question(case, unit, resource, hierarchy, aliases))
        .collect();
    let request = at_request.then(|| {
        let decision = request::decide(&questions, act(case));
        decided(&decision, &units, &questions)
    });
    // The verdict is on the resource as it was proposed; what the request became is said beside it.
    let verdicts = questions.iter().map(Question::answer).collect();
    Ok(summary(&units, verdicts, request))
}

/// What the request of a case would do.
fn act(case: &Value) -> Act {
    let request = get(case, "request").unwrap_or(&Value::Null);
    let method = text(request, "method")
        .unwrap_or("PUT")
        .to_ascii_uppercase();
    let patch = get(case, "resource").and_then(Value::as_object);
    // A patch says who is patched, and otherwise only what changes.
    let tags_only = patch.is_some_and(|patch| {
        let names =
            |known: &[&str], key: &String| known.iter().any(|k| k.eq_ignore_ascii_case(key));
        let changes = patch
            .keys()
            .filter(|key| !names(&["id", "name", "type"], key));
        changes.clone().count() > 0 && changes.clone().all(|key| names(&["tags"], key))
    });
    match method.as_str() {
        "DELETE" => Act::Delete,
        "PATCH" if tags_only => Act::WriteTags,
        _ => Act::Write,
    }
}

/// The resource that is judged: what a request proposes, on top of what exists where it is a PATCH, and
/// what exists where the request brings nothing.
fn judged(case: &Value) -> Result<Value, Fault> {
    let request = get(case, "request").unwrap_or(&Value::Null);
    let existing = ["existing", "existingResource", "resource"]
        .iter()
        .find_map(|name| get(request, name))
        .filter(|existing| existing.is_object());
    let patches = text(request, "method").is_some_and(|m| m.eq_ignore_ascii_case("PATCH"));
    match (get(case, "resource"), existing) {
        (Some(patch), Some(existing)) if patches => {
            let mut whole = existing.clone();
            json::patch(&mut whole, patch);
            Ok(whole)
        }
        (Some(resource), _) => Ok(resource.clone()),
        (None, Some(existing)) => Ok(existing.clone()),
        (None, None) => Err(Fault::new("resource", "a case needs its resource")),
    }
}

fn with_test_aliases(case: &Value, aliases: &Arc<Aliases>) -> Result<Aliases, Fault> {
    let mut all = Aliases::over(Arc::clone(aliases));
    if let Some(own) = get(case, "testAliases") {
        all.read_json(own)?;
    }
    Ok(all)
}

fn question<'a>(
    case: &'a Value,
    unit: &'a Unit,
    resource: &'a Value,
    hierarchy: &'a Value,
    aliases: &'a Aliases,
) -> Question<'a> {
    Question {
        definition: &unit.definition,
        parameters: &unit.parameters,
        reference: unit.reference.as_deref(),
        assignment: &unit.assignment,
        resource,
        related: list(case, "relatedResources"),
        exemptions: list(case, "exemptions"),
        attestations: list(case, "attestations"),
        hierarchy,
        around: &unit.around,
        aliases,
    }
}

/// The answers to all of a case's policies, and together.
fn summary(
    units: &[Unit],
    mut verdicts: Vec<Verdict>,
    request: Option<Value>,
) -> (Value, Vec<Evaluated>) {
    conflicts(&mut verdicts);
    let mut per_policy = Map::new();
    let mut per_reference = Map::new();
    let mut per_assignment: Vec<(String, Vec<&Verdict>)> = Vec::new();
    for (unit, verdict) in units.iter().zip(&verdicts) {
        let one = verdict.to_json();
        for key in &unit.keys {
            per_policy.insert(key.clone(), one.clone());
        }
        if let Some(reference) = &unit.reference {
            per_reference.insert(reference.clone(), one.clone());
        }
        let name = text(&unit.assignment, "id").or_else(|| text(&unit.assignment, "name"));
        let name = name.unwrap_or_default().to_owned();
        match per_assignment.iter_mut().find(|(known, _)| *known == name) {
            Some((_, of)) => of.push(verdict),
            None => per_assignment.push((name, vec![verdict])),
        }
    }
    let all: Vec<&Verdict> = verdicts.iter().collect();
    let mut summary = together(&all);
    summary["request"] = request.unwrap_or(Value::Null);
    summary["perPolicy"] = Value::Object(per_policy);
    summary["perReference"] = Value::Object(per_reference);
    let assignments = per_assignment
        .iter()
        .map(|(name, of)| (name.clone(), together(of)));
    summary["perAssignment"] = Value::Object(assignments.collect());
    let explained = verdicts
        .into_iter()
        .flat_map(|verdict| verdict.explained)
        .collect();
    (summary, explained)
}

/// Two policies that would set one property to different values, neither giving way, leave no state.
fn conflicts(verdicts: &mut [Verdict]) {
    let stubborn = |verdict: &Verdict| {
        matches!(verdict.effect, Some(Effect::Modify | Effect::Append))
            && verdict.conflict.unwrap_or(Effect::Deny) == Effect::Deny
    };
    let clash = |a: &Verdict, b: &Verdict| {
        stubborn(a)
            && stubborn(b)
            && a.planned
                .iter()
                .any(|one| b.planned.iter().any(|other| one.conflicts(other)))
    };
    let count = verdicts.len();
    let hit: Vec<bool> = (0..count)
        .map(|i| (0..count).any(|j| i != j && clash(&verdicts[i], &verdicts[j])))
        .collect();
    for (verdict, _) in verdicts.iter_mut().zip(hit).filter(|(_, hit)| *hit) {
        verdict.state = Some(State::Conflict);
    }
}

fn together(verdicts: &[&Verdict]) -> Value {
    if let [single] = verdicts {
        return single.to_json();
    }
    let state = State::rolled(verdicts.iter().filter_map(|verdict| verdict.state));
    let decisive = verdicts
        .iter()
        .find(|verdict| verdict.state == state && state.is_some())
        .or(verdicts.first());
    json!({
        "applicable": verdicts.iter().any(|verdict| verdict.applicable),
        "if": decisive.and_then(|verdict| verdict.condition),
        "effect": decisive.and_then(|verdict| verdict.effect).map(Effect::name),
        "complianceState": state.map(State::name),
        "error": verdicts.iter().find_map(|verdict| verdict.error.clone()),
    })
}

/// The policies of a case under its assignments.
fn units(
    case: &Value,
    resource: &Value,
    library: &Library,
    aliases: &Aliases,
    now: Timestamp,
) -> Result<Vec<Unit>, Fault> {
    let mut assignments: Vec<Value> = list(case, "assignments").to_vec();
    if assignments.is_empty() {
        assignments.push(
            get(case, "assignment")
                .cloned()
                .unwrap_or_else(|| json!({})),
        );
    }
    let policies = &policies(case);
    let mut units = Vec::new();
    for assignment in &assignments {
        let builder = Builder {
            case,
            resource,
            library,
            aliases,
            now,
            assignment,
        };
        let before = units.len();
        if policies.is_empty() {
            builder.add(case, None, &mut units)?;
            continue;
        }
        let wanted = crate::scope::own_text(assignment, "policyDefinitionId");
        for (index, policy) in policies.iter().enumerate() {
            let keys = keys(policy, index);
            let named = wanted.is_none_or(|id| {
                let tail = id.rsplit('/').next().unwrap_or(id);
                keys.iter()
                    .any(|key| key.eq_ignore_ascii_case(id) || key.eq_ignore_ascii_case(tail))
            });
            if named {
                builder.add(policy, Some(index), &mut units)?;
            }
        }
        // An assignment whose definition is named otherwise is of all the policies.
        if units.len() == before {
            for (index, policy) in policies.iter().enumerate() {
                builder.add(policy, Some(index), &mut units)?;
            }
        }
    }
    Ok(units)
}

/// The entries of `policies`; of an object, each under its name.
fn policies(case: &Value) -> Vec<Value> {
    let Some(Value::Object(named)) = get(case, "policies") else {
        return list(case, "policies").to_vec();
    };
    let entry = |(name, policy): (&String, &Value)| {
        let mut policy = policy.clone();
        if let Value::Object(object) = &mut policy {
            object.insert("name".to_owned(), Value::String(name.clone()));
        }
        policy
    };
    named.iter().map(entry).collect()
}

/// The names under which a policy's verdict is given.
fn keys(policy: &Value, index: usize) -> Vec<String> {
    let own = ["id", "name", "policyDefinitionReferenceId", "referenceId"]
        .iter()
        .find_map(|key| text(policy, key));
    let inner = get(policy, "definition").and_then(|definition| text(definition, "name"));
    vec![
        own.or(inner)
            .map_or_else(|| index.to_string(), str::to_owned),
    ]
}

fn missing(at: &str, name: &str, pattern: Option<&Pattern>) -> Fault {
    let reason = match pattern {
        None => format!("there is no definition `{name}`"),
        Some(pattern) => format!("there is no version `{pattern}` of the definition `{name}`"),
    };
    Fault::new(at, reason)
}

struct Builder<'a> {
    case: &'a Value,
    resource: &'a Value,
    library: &'a Library,
    aliases: &'a Aliases,
    now: Timestamp,
    assignment: &'a Value,
}

impl Builder<'_> {
    /// Adds what a case, or one entry of its `policies`, names: a definition or an initiative.
    fn add(
        &self,
        holder: &Value,
        index: Option<usize>,
        units: &mut Vec<Unit>,
    ) -> Result<(), Fault> {
        let own = get(holder, "assignment").unwrap_or(self.assignment);
        let document = self.document(holder, self.pattern(own)?.as_ref())?;
        let compiled = definition::compile(document, self.aliases)?;
        let mut given = Map::new();
        for source in [
            crate::scope::own(self.assignment, "parameters"),
            get(self.case, "parameters"),
        ] {
            given.extend(
                source
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default(),
            );
        }
        // What the case gives for all its policies need not suit each of them.
        let own_values = get(holder, "parameters").and_then(Value::as_object);
        let bare = get(holder, "policyRule").is_some() || get(holder, "properties").is_some();
        match (index, own_values) {
            (Some(_), Some(values)) if !bare => given = values.clone(),
            (Some(_), _) => given.retain(|name, _| compiled.declares(name)),
            (None, _) => {}
        }
        match compiled {
            Compiled::Definition(definition) => {
                let values = parameters::effective(&definition.parameters, &given, "parameters")?;
                let keys = index.map_or_else(|| vec!["0".to_owned()], |index| keys(holder, index));
                let id = text(document, "id").unwrap_or_default();
                units.push(Unit {
                    keys,
                    around: self.around(own, id, None),
                    reference: text(holder, "policyDefinitionReferenceId").map(str::to_owned),
                    definition: *definition,
                    parameters: values,
                    assignment: own.clone(),
                });
                Ok(())
            }
            Compiled::Initiative(initiative) => {
                let values = parameters::effective(&initiative.parameters, &given, "parameters")?;
                self.add_members(&initiative, &values, own, document, units)
            }
        }
    }

    fn add_members(
        &self,
        initiative: &definition::Initiative,
        values: &Map<String, Value>,
        assignment: &Value,
        document: &Value,
        units: &mut Vec<Unit>,
    ) -> Result<(), Fault> {
        for member in &initiative.members {
            let at = format!("policyDefinitions.{}", member.reference);
            let own = self.member_pattern(assignment, &member.reference)?;
            let version = own.as_ref().or(member.version.as_ref());
            let found = match &member.inline {
                Some(inline) => inline,
                None => self.definition(&member.definition_id, version, &at)?,
            };
            let definition = definition::definition(found, self.aliases)
                .map_err(|fault| Fault::new(format!("{at}.{}", fault.path), fault.reason))?;
            let id = text(found, "id").unwrap_or(&member.definition_id);
            let set = text(document, "id").unwrap_or_default();
            let around = self.around(assignment, id, Some((set, &member.reference)));
            let mut given = Map::new();
            for (name, operand) in &member.parameters {
                let mut evaluation = Evaluation::new(self.resource, values, &around, self.aliases);
                let value = evaluation.operand(operand).map_err(|error| {
                    Fault::new(format!("{at}.parameters.{name}"), error.to_string())
                })?;
                given.insert(name.clone(), value);
            }
            let parameters =
                parameters::effective(&definition.parameters, &given, &format!("{at}.parameters"))?;
            units.push(Unit {
                keys: vec![member.reference.clone()],
                reference: Some(member.reference.clone()),
                definition,
                parameters,
                assignment: assignment.clone(),
                around,
            });
        }
        Ok(())
    }

    /// The versions of its definition that an assignment means for the resource.
    fn pattern(&self, assignment: &Value) -> Result<Option<Pattern>, Fault> {
        let written = crate::scope::overridden_version(assignment, self.resource, None)
            .or_else(|| crate::scope::own_text(assignment, "definitionVersion"));
        written
            .map(Pattern::parse)
            .transpose()
            .map_err(|reason| Fault::new("assignment.definitionVersion", reason))
    }

    /// The versions that an assignment means for one member of its initiative.
    fn member_pattern(
        &self,
        assignment: &Value,
        reference: &str,
    ) -> Result<Option<Pattern>, Fault> {
        crate::scope::overridden_version(assignment, self.resource, Some(reference))
            .map(Pattern::parse)
            .transpose()
            .map_err(|reason| Fault::new("assignment.overrides", reason))
    }

    fn document<'d>(
        &'d self,
        holder: &'d Value,
        pattern: Option<&Pattern>,
    ) -> Result<&'d Value, Fault> {
        let inline = ["definition", "initiative"]
            .iter()
            .find_map(|key| get(holder, key));
        let path = match inline {
            Some(Value::String(path)) => Some(path.as_str()),
            Some(document) => {
                return of_version(&[document], pattern)
                    .ok_or_else(|| missing("definition", "definition", pattern));
            }
            None => ["definitionPath", "initiativePath", "policyDefinitionId"]
                .iter()
                .find_map(|key| text(holder, key)),
        };
        if path.is_none()
            && (get(holder, "policyRule").is_some() || get(holder, "properties").is_some())
        {
            return Ok(holder);
        }
        let path = path.ok_or_else(|| {
            Fault::new(
                "definition",
                "a case needs `definition`, `definitionPath`, `policies` or `initiative`",
            )
        })?;
        self.definition(path, pattern, "definitionPath")
    }

    /// A definition that the case brings along, or one of the library.
    fn definition(&self, name: &str, pattern: Option<&Pattern>, at: &str) -> Result<&Value, Fault> {
        let mut found = self.own_definitions(name);
        if found.is_empty() {
            found = self.library.find(name).iter().collect();
        }
        match found.is_empty() {
            true => Err(missing(at, name, None)),
            false => of_version(&found, pattern).ok_or_else(|| missing(at, name, pattern)),
        }
    }

    fn own_definitions(&self, name: &str) -> Vec<&Value> {
        let tail = name.rsplit('/').next().unwrap_or(name);
        let own = ["definitions", "policies"].iter().map(|place| {
            match get(self.case, place).unwrap_or(&Value::Null) {
                Value::Object(named) => crate::json::member(named, name)
                    .or_else(|| crate::json::member(named, tail))
                    .into_iter()
                    .collect(),
                Value::Array(items) => items
                    .iter()
                    .filter_map(|item| {
                        let inner = get(item, "definition")
                            .filter(|inner| inner.is_object())
                            .unwrap_or(item);
                        let names = [
                            text(item, "id"),
                            text(item, "name"),
                            text(inner, "id"),
                            text(inner, "name"),
                        ];
                        let is = |own: &str| {
                            own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(tail)
                        };
                        names.into_iter().flatten().any(is).then_some(inner)
                    })
                    .collect::<Vec<_>>(),
                _ => Vec::new(),
            }
        });
        own.into_iter()
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    fn around(&self, assignment: &Value, id: &str, set: Option<(&str, &str)>) -> Surroundings {
        let context = get(self.case, "context").unwrap_or(&Value::Null);
        let own = |name: &str| get(context, name).cloned();
        let resource_id = text(self.resource, "id").unwrap_or_default();
        let mut parts = resource_id.split('/').filter(|part| !part.is_empty());
        let subscription = parts.nth(1).unwrap_or_default();
        let group = parts.nth(1).unwrap_or_default();
        let subscription_id = format!("/subscriptions/{subscription}");
        Surroundings {
            now: self.now(context),
            resource_group: own("resourceGroup").unwrap_or_else(|| {
                json!({ "name": group, "id": format!("{subscription_id}/resourceGroups/{group}") })
            }),
            subscription: own("subscription").unwrap_or_else(|| {
                json!({ "subscriptionId": subscription, "id": subscription_id })
            }),
            request: self.request_context(context),
            policy: json!({
                "assignmentId": text(assignment, "id").unwrap_or_default(),
                "definitionId": id,
                "setDefinitionId": set.map_or("", |(set, _)| set),
                "definitionReferenceId": set.map_or("", |(_, reference)| reference),
            }),
        }
    }

    fn now(&self, context: &Value) -> Timestamp {
        let own = text(context, "now").or_else(|| text(context, "utcNow"));
        verdict::now(own, self.now)
    }

    /// The API version is the request's; a scan of what exists uses the newest that the type has.
    fn request_context(&self, context: &Value) -> Value {
        let mut request = get(context, "requestContext")
            .cloned()
            .unwrap_or_else(|| json!({}));
        let at_request =
            text(self.case, "evaluation").is_some_and(|how| how.eq_ignore_ascii_case("request"));
        let kind = resource_type(self.resource);
        let newest = get(context, "typeApiVersions")
            .and_then(|types| get(types, &kind))
            .and_then(|versions| match versions {
                Value::String(version) => Some(version.as_str()),
                Value::Array(all) => all.iter().filter_map(Value::as_str).max(),
                _ => None,
            });
        let asked = get(self.case, "request").and_then(|request| text(request, "apiVersion"));
        let version = match at_request {
            true => asked.or_else(|| text(&request, "apiVersion")).or(newest),
            false => newest.or_else(|| text(&request, "apiVersion")),
        };
        // Where nobody says which versions there are, the newest is of this day.
        let today = || {
            let now = self.now(context);
            now.strftime("%Y-%m-%d").to_string()
        };
        let version = version.map_or_else(today, str::to_owned);
        if let Value::Object(object) = &mut request {
            // Who asks is not known of what exists.
            object.entry("identity").or_insert_with(|| json!({}));
            object.insert("apiVersion".to_owned(), Value::String(version));
        }
        request
    }
}
