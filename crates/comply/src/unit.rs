//! One policy under one assignment: what is evaluated for a resource, ready to be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use catalog::Resource;
use jiff::Timestamp;
use policy::condition::Operand;
use policy::definition::Member;
use policy::evaluate::{Evaluation, Surroundings};
use policy::json::{get, list, text};
use policy::verdict::{Question, Verdict};
use policy::{Compiled, Definition, Fault, Initiative, parameters, scan};
use serde_json::{Map, Value, json};
use wire::ResourceId;

use crate::aliases;
use crate::kinds;
use crate::subject::Subject;

/// What the names of the computed aliases begin with, in lower case.
const IMAGE_ALIASES: &str = "bullion.factory/machineimage.";

/// A definition or initiative as it is stored or built in, compiled if that is possible.
#[derive(Debug)]
pub(crate) struct Document {
    pub id: String,
    pub name: String,
    pub display_name: String,
    pub category: String,
    pub form: Result<Form, Fault>,
    /// Tells this state of the stored document from others.
    pub mark: String,
    /// The version that it names.
    pub version: Option<String>,
    /// Tells this text from others, whatever it is stored as: a version that became an earlier one is the same.
    pub content: u64,
    pub needs: Needs,
    /// denyAction keeps the resource group of what it protects from being deleted, too.
    pub cascades: bool,
    /// Of an initiative: the groups of its policies, by reference.
    pub groups: Vec<(String, Vec<String>)>,
}

/// What a document is, compiled.
#[derive(Debug)]
pub(crate) enum Form {
    Definition(Arc<Definition>),
    Initiative(Initiative),
}

/// What of the surroundings a rule asks for. What it does not ask for is not looked up, and its change is not waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub group: bool,
    pub subscription: bool,
    pub now: bool,
    pub image: bool,
    /// `policy()`.
    pub policy: bool,
}

impl Needs {
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            group: self.group || other.group,
            subscription: self.subscription || other.subscription,
            now: self.now || other.now,
            image: self.image || other.image,
            policy: self.policy || other.policy,
        }
    }
}

impl Document {
    /// `mark` is the etag of a stored one.
    pub fn new(id: &str, document: &Value, mark: String) -> Document {
        let properties = get(document, "properties").unwrap_or(document);
        let name = id.rsplit('/').next().unwrap_or_default().to_owned();
        let display_name = text(properties, "displayName").unwrap_or(&name).to_owned();
        let metadata = get(properties, "metadata");
        let category = metadata.and_then(|metadata| text(metadata, "category"));
        // Written out, so that a function is found wherever it stands. More found than used only costs time.
        let written = properties.to_string().to_ascii_lowercase();
        let has = |word: &str| written.contains(word);
        let rule = get(properties, "policyRule");
        let details = rule
            .and_then(|rule| get(rule, "then"))
            .and_then(|then| get(then, "details"));
        let cascade = details
            .and_then(|details| get(details, "cascadeBehaviors"))
            .and_then(|behaviors| text(behaviors, "resourceGroup"));
        Document {
            id: id.to_owned(),
            name,
            display_name,
            category: category.unwrap_or_default().to_owned(),
            form: policy::compile(document, aliases()).map(|compiled| match compiled {
                Compiled::Definition(definition) => Form::Definition(Arc::from(definition)),
                Compiled::Initiative(initiative) => Form::Initiative(initiative),
            }),
            mark,
            version: policy::definition::version_of(document),
            content: content(properties),
            needs: Needs {
                group: has("resourcegroup("),
                subscription: has("subscription("),
                now: has("utcnow("),
                image: has(IMAGE_ALIASES),
                policy: has("policy("),
            },
            cascades: !cascade.is_some_and(|cascade| cascade.eq_ignore_ascii_case("allow")),
            groups: groups(properties),
        }
    }

    pub fn definition(&self) -> Result<&Arc<Definition>, String> {
        match &self.form {
            Ok(Form::Definition(definition)) => Ok(definition),
            Ok(Form::Initiative(_)) => {
                Err(format!("`{}` is an initiative, not a definition", self.id))
            }
            Err(fault) => Err(format!("the definition `{}` is broken: {fault}", self.id)),
        }
    }
}

/// Of everything that a verdict may depend on. Only ever compared with others of this process.
fn content(properties: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, value) in properties.as_object().into_iter().flatten() {
        if name != "versions" {
            (name, value.to_string()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The groups of an initiative's policies, which the compiled form does not keep.
fn groups(properties: &Value) -> Vec<(String, Vec<String>)> {
    let members = list(properties, "policyDefinitions").iter().enumerate();
    let group_names = |member: &Value| -> Vec<String> {
        let names = list(member, "groupNames").iter();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    members
        .map(|(index, member)| {
            let reference = text(member, "policyDefinitionReferenceId");
            // As the compiler numbers those without a reference.
            let reference = reference.map_or_else(|| (index + 1).to_string(), str::to_owned);
            (reference, group_names(member))
        })
        .collect()
}

/// An assignment, with what else speaks of it.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub id: ResourceId,
    pub display_name: String,
    /// Where it acts: what it is an extension of.
    pub scope: ResourceId,
    /// The scope is a management group.
    pub on_group: bool,
    /// As ARM shows it, its scope taken from its id.
    pub value: Value,
    pub created_at: Timestamp,
    pub set: Option<Arc<Document>>,
    pub exemptions: Vec<Value>,
    pub attestations: Vec<Value>,
}

/// Which policy under which assignment: ids in lower case, the reference empty for a single policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UnitKey {
    pub assignment: String,
    pub reference: String,
}

#[derive(Debug)]
pub(crate) struct Unit {
    pub key: UnitKey,
    pub assignment: Arc<Assignment>,
    pub reference: Option<String>,
    pub groups: Vec<String>,
    pub definition: Arc<Document>,
    /// Why it cannot be evaluated, for any resource.
    pub broken: Option<String>,
    pub parameters: Map<String, Value>,
    pub needs: Needs,
    pub existence: Option<Existence>,
    /// The effect that assignment and parameters give, as far as it is the same for all resources.
    pub effect: String,
    /// In its place for resources that an override of the version takes; the first that does counts.
    variants: Vec<Variant>,
    /// The version of the initiative that is meant has no such member.
    absent: bool,
    /// What `policy()` answers.
    context: Value,
    /// Everything that the states depend on but the resources, exemptions and attestations.
    pub mark: String,
}

/// A unit under another version, and the override that chooses it.
#[derive(Debug)]
struct Variant {
    entry: Value,
    unit: Arc<Unit>,
}

/// What an existence search looks for, as far as it is known before there is a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Existence {
    pub kind: String,
    /// Anywhere in the subscription, rather than in the resource's group.
    pub wide: bool,
}

impl Unit {
    fn new(
        assignment: &Arc<Assignment>,
        definition: &Arc<Document>,
        reference: Option<&str>,
    ) -> Unit {
        let set = assignment.set.as_ref();
        let mark = [
            assignment.value["etag"].as_str().unwrap_or_default(),
            &definition.id,
            &format!("{:x}", definition.content),
            &set.map_or_else(String::new, |set| format!("{} {:x}", set.id, set.content)),
        ]
        .join(" ");
        Unit {
            key: UnitKey {
                assignment: assignment.id.folded().to_owned(),
                reference: reference.unwrap_or_default().to_ascii_lowercase(),
            },
            reference: reference.map(str::to_owned),
            groups: Vec::new(),
            broken: None,
            parameters: Map::new(),
            needs: definition.needs,
            existence: None,
            effect: String::new(),
            variants: Vec::new(),
            absent: false,
            context: json!({
                "assignmentId": assignment.id.to_string(),
                "definitionId": definition.id,
                "setDefinitionId": set.map_or("", |set| &set.id),
                "definitionReferenceId": reference.unwrap_or_default(),
            }),
            assignment: Arc::clone(assignment),
            definition: Arc::clone(definition),
            mark,
        }
    }

    /// The unit that stands for an assignment of which nothing can be evaluated.
    fn broken(assignment: &Arc<Assignment>, definition: &Arc<Document>, why: String) -> Unit {
        Unit {
            broken: Some(why),
            ..Unit::new(assignment, definition, None)
        }
    }

    /// The parameters, and what follows from them.
    fn with(mut self, given: &Map<String, Value>) -> Unit {
        let definition = Arc::clone(&self.definition);
        let compiled = match definition.definition() {
            Ok(compiled) => compiled,
            Err(why) => {
                self.broken = Some(why);
                return self;
            }
        };
        match parameters::effective(&compiled.parameters, given, "parameters") {
            Ok(values) => self.parameters = values,
            Err(fault) => {
                self.broken = Some(fault.to_string());
                return self;
            }
        }
        self.effect = self.usual_effect(compiled);
        // A rule may be told which field to look at.
        let written = Value::Object(self.parameters.clone()).to_string();
        self.needs.image |= written.to_ascii_lowercase().contains(IMAGE_ALIASES);
        if let Some(existence) = &compiled.then.existence {
            let nothing = surroundings(Timestamp::UNIX_EPOCH, self.context.clone());
            match evaluate(&existence.kind, &self.parameters, &nothing) {
                Ok(Value::String(kind)) => {
                    let wide = existence.group.is_some() || existence.scope.is_some();
                    self.existence = Some(Existence { kind, wide });
                }
                _ => {
                    let why = "the type of what must exist is no text that the parameters give";
                    self.broken = Some(why.to_owned());
                }
            }
        }
        self
    }

    fn usual_effect(&self, definition: &Definition) -> String {
        let (assignment, reference) = (&self.assignment.value, self.reference.as_deref());
        if let Some(own) = policy::scope::overridden(assignment, &Value::Null, reference) {
            return own.to_ascii_lowercase();
        }
        let around = surroundings(Timestamp::UNIX_EPOCH, self.context.clone());
        match evaluate(&definition.then.effect, &self.parameters, &around) {
            Ok(Value::String(name)) => name.to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    /// What stands in the place of a member that a version of the initiative does not have.
    fn absent(of: &Unit) -> Unit {
        Unit {
            absent: true,
            ..Unit::new(&of.assignment, &of.definition, of.reference.as_deref())
        }
    }

    /// The unit in the version that is meant for a resource.
    pub fn meant(self: &Arc<Unit>, resource: &Value) -> Arc<Unit> {
        let reference = self.reference.as_deref();
        let takes = |variant: &&Variant| {
            let own = reference.filter(|_| policy::scope::of_members(&variant.entry));
            policy::scope::takes(&variant.entry, resource, own)
        };
        match self.variants.iter().find(takes) {
            Some(variant) => variant.unit.meant(resource),
            None => Arc::clone(self),
        }
    }

    /// Whether it is another for some resources.
    pub fn varies(&self) -> bool {
        !self.variants.is_empty()
    }

    fn put_instead(&mut self, entry: &Value, unit: Arc<Unit>) {
        self.mark = format!("{} | {}", self.mark, unit.mark);
        self.needs = self.needs.and(unit.needs);
        let entry = entry.clone();
        self.variants.push(Variant { entry, unit });
    }

    /// Itself and all that may stand in its place.
    fn all(&self) -> Vec<&Unit> {
        let instead = self.variants.iter().flat_map(|variant| variant.unit.all());
        std::iter::once(self).chain(instead).collect()
    }

    /// What it may have to search for.
    pub fn existences(&self) -> Vec<&Existence> {
        let all = self.all().into_iter();
        all.filter_map(|unit| unit.existence.as_ref()).collect()
    }

    pub fn compiled(&self) -> Option<&Arc<Definition>> {
        self.definition.definition().ok()
    }

    /// Whether it may change a request, and so be in conflict with another.
    pub fn changes(&self) -> bool {
        let changes = |unit: &Unit| {
            let then = unit.compiled().map(|definition| &definition.then);
            then.is_some_and(|then| !then.changes.is_empty())
        };
        self.all().into_iter().any(changes)
    }

    /// Whether it may forbid actions such as deleting.
    pub fn forbids_actions(&self) -> bool {
        let forbids = |unit: &Unit| {
            let then = unit.compiled().map(|definition| &definition.then);
            then.is_some_and(|then| then.actions.is_some())
        };
        self.all().into_iter().any(forbids)
    }

    /// Whether it keeps the resource group of what it protects, too.
    pub fn cascades(&self) -> bool {
        self.all().iter().any(|unit| unit.definition.cascades)
    }

    pub fn enforced(&self) -> bool {
        policy::scope::own_text(&self.assignment.value, "enforcementMode")
            .is_none_or(|mode| mode.eq_ignore_ascii_case("Default"))
    }

    /// What the assignment says to whoever does not comply.
    pub fn message(&self) -> Option<String> {
        let messages = policy::scope::own(&self.assignment.value, "nonComplianceMessages")?;
        let messages = messages.as_array()?;
        let of = |wanted: Option<&str>| {
            messages.iter().find(|message| {
                let reference =
                    text(message, "policyDefinitionReferenceId").filter(|own| !own.is_empty());
                match (reference, wanted) {
                    (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
                    (None, None) => true,
                    _ => false,
                }
            })
        };
        let own = self.reference.as_deref().and_then(|own| of(Some(own)));
        text(own.or_else(|| of(None))?, "message").map(str::to_owned)
    }

    /// The verdict on a resource. What cannot be evaluated is an error for every resource that the assignment takes.
    pub fn judge(&self, subject: &Subject, now: Timestamp) -> Verdict {
        let around = self.around(subject, now);
        match self.question(subject, &around) {
            Some(question) => question.answer(),
            None => self.fault(subject),
        }
    }

    pub fn around(&self, subject: &Subject, now: Timestamp) -> Surroundings {
        let mut around = surroundings(now, Value::Null);
        around.request = subject.request.clone();
        if self.needs.policy {
            around.policy = self.context.clone();
        }
        if self.needs.group {
            around.resource_group = subject.group.clone();
        }
        if self.needs.subscription {
            around.subscription = subject.subscription.clone();
        }
        around
    }

    /// What the engine is asked; nothing, if the policy is broken.
    pub fn question<'q>(
        &'q self,
        subject: &'q Subject,
        around: &'q Surroundings,
    ) -> Option<Question<'q>> {
        let sound = self.broken.is_none() && !self.absent;
        let definition = self.compiled().filter(|_| sound)?;
        Some(Question {
            definition,
            parameters: &self.parameters,
            reference: self.reference.as_deref(),
            assignment: &self.assignment.value,
            resource: &subject.value,
            related: subject.related(self),
            exemptions: &self.assignment.exemptions,
            attestations: &self.assignment.attestations,
            hierarchy: &subject.hierarchy,
            around,
            aliases: aliases(),
        })
    }

    /// The same for very many resources. Nothing, if the policy is broken, or changes resources and so may be in conflict
    /// with others.
    pub fn for_columns(&self, hierarchy: &Value, now: Timestamp) -> Option<scan::Policy> {
        let sound = self.broken.is_none() && !self.absent;
        let definition = self.compiled().filter(|_| sound)?;
        // Which version is meant is known of each resource alone.
        if self.changes() || !self.variants.is_empty() {
            return None;
        }
        let mut around = surroundings(now, self.context.clone());
        around.request = json!({});
        Some(scan::Policy {
            definition: Arc::clone(definition),
            parameters: self.parameters.clone(),
            reference: self.reference.clone(),
            assignment: self.assignment.value.clone(),
            exemptions: self.assignment.exemptions.clone(),
            attestations: self.assignment.attestations.clone(),
            hierarchy: hierarchy.clone(),
            around,
            aliases: Arc::clone(aliases()),
        })
    }

    /// The verdict of a broken policy; of one that is not meant at all, that it does not apply.
    pub fn fault(&self, subject: &Subject) -> Verdict {
        if self.broken.is_none() {
            return Verdict::default();
        }
        let assignment = &self.assignment.value;
        let taken = policy::scope::assigned(assignment, &subject.value, &subject.hierarchy);
        Verdict {
            applicable: taken,
            state: taken.then_some(policy::verdict::State::Error),
            error: self.broken.clone().filter(|_| taken),
            ..Verdict::default()
        }
    }
}

fn surroundings(now: Timestamp, policy: Value) -> Surroundings {
    Surroundings {
        now,
        resource_group: Value::Null,
        subscription: Value::Null,
        request: Value::Null,
        policy,
    }
}

fn evaluate(
    operand: &Operand,
    parameters: &Map<String, Value>,
    around: &Surroundings,
) -> Result<Value, policy::EvaluationError> {
    Evaluation::new(&Value::Null, parameters, around, aliases()).operand(operand)
}

/// Finds a definition or an initiative by its id and the versions that are meant; says why there is none.
pub(crate) trait Find: Fn(&str, Option<&str>) -> Result<Arc<Document>, String> {}
impl<F: Fn(&str, Option<&str>) -> Result<Arc<Document>, String>> Find for F {}

/// The assignment of a stored resource. What it is assigned to is found by `find`, which is given ids.
pub(crate) fn assignment(resource: &Resource, find: &impl Find) -> Option<Assignment> {
    let mut value = crate::subject::shown(resource);
    value["etag"] = resource.etag.to_string().into();
    let mut found = assigned(&resource.id, value, find)?;
    found.created_at = resource.system.created_at;
    Some(found)
}

/// The same of a body that need not be stored.
pub(crate) fn assigned(id: &ResourceId, mut value: Value, find: &impl Find) -> Option<Assignment> {
    let scope = id.parent()?;
    // The id decides where it acts, whatever the body says.
    if let Value::Object(object) = &mut value {
        object.retain(|key, _| !key.eq_ignore_ascii_case("scope"));
    }
    pin_scope(&mut value["properties"], &scope);
    let properties = &value["properties"];
    let set = text(properties, "policyDefinitionId");
    let set = set.and_then(|id| find(id, text(properties, "definitionVersion")).ok());
    let set = set.filter(|set| matches!(set.form, Ok(Form::Initiative(_))) || is_set(&set.id));
    let display = text(&value["properties"], "displayName");
    Some(Assignment {
        display_name: display.unwrap_or(id.name()).to_owned(),
        id: id.clone(),
        on_group: scope.resource_type().is(kinds::MANAGEMENT_GROUPS),
        scope,
        created_at: Timestamp::MIN,
        set,
        exemptions: Vec::new(),
        attestations: Vec::new(),
        value,
    })
}

/// Replaces whatever a body says of its scope by what its id says.
pub(crate) fn pin_scope(properties: &mut Value, scope: &ResourceId) {
    if let Value::Object(object) = properties {
        object.retain(|key, _| !key.eq_ignore_ascii_case("scope"));
        object.insert("scope".into(), scope.to_string().into());
    }
}

fn is_set(id: &str) -> bool {
    let kind = format!("/{}/", kinds::SET_DEFINITIONS).to_ascii_lowercase();
    id.to_ascii_lowercase().contains(&kind)
}

/// The units of an assignment: one for each policy, whatever version of it a resource is judged by.
pub(crate) fn units(assignment: &Arc<Assignment>, find: &impl Find) -> Vec<Unit> {
    let version = text(&assignment.value["properties"], "definitionVersion");
    let mut units = in_version(assignment, version, find);
    let entries = policy::scope::version_overrides(&assignment.value);
    for entry in entries.filter(|entry| !policy::scope::of_members(entry)) {
        let mut others = in_version(assignment, text(entry, "value"), find);
        for unit in &mut units {
            let same = others.iter().position(|other| other.key == unit.key);
            let other = match same {
                Some(at) => others.remove(at),
                None => Unit::absent(unit),
            };
            unit.put_instead(entry, Arc::new(other));
        }
        for other in others {
            let mut unit = Unit::absent(&other);
            unit.put_instead(entry, Arc::new(other));
            units.push(unit);
        }
    }
    units
}

/// The units of what is assigned, in one version of it.
fn in_version(assignment: &Arc<Assignment>, version: Option<&str>, find: &impl Find) -> Vec<Unit> {
    let properties = &assignment.value["properties"];
    let id = text(properties, "policyDefinitionId").unwrap_or_default();
    let given = get(properties, "parameters").and_then(Value::as_object);
    let given = given.cloned().unwrap_or_default();
    let document = match find(id, version) {
        Ok(document) => document,
        Err(why) => return vec![Unit::broken(assignment, &missing(id), why)],
    };
    match &document.form {
        Ok(Form::Initiative(initiative)) => {
            members(assignment, &document, initiative, &given, find)
        }
        _ => vec![Unit::new(assignment, &document, None).with(&given)],
    }
}

fn members(
    assignment: &Arc<Assignment>,
    set: &Arc<Document>,
    initiative: &Initiative,
    given: &Map<String, Value>,
    find: &impl Find,
) -> Vec<Unit> {
    let values = match parameters::effective(&initiative.parameters, given, "parameters") {
        Ok(values) => values,
        Err(fault) => return vec![Unit::broken(assignment, set, fault.to_string())],
    };
    let mut units = Vec::with_capacity(initiative.members.len());
    for written in &initiative.members {
        let version = written.version.as_ref().map(ToString::to_string);
        let mut unit = member(assignment, written, version.as_deref(), &values, find);
        let entries = policy::scope::version_overrides(&assignment.value);
        for entry in entries.filter(|entry| policy::scope::of_members(entry)) {
            let other = member(assignment, written, text(entry, "value"), &values, find);
            unit.put_instead(entry, Arc::new(other));
        }
        let mine = set
            .groups
            .iter()
            .find(|(reference, _)| written.reference.eq_ignore_ascii_case(reference));
        unit.groups = mine.map_or_else(Vec::new, |(_, groups)| groups.clone());
        units.push(unit);
    }
    units
}

/// One member of an initiative, in one version.
fn member(
    assignment: &Arc<Assignment>,
    member: &Member,
    version: Option<&str>,
    values: &Map<String, Value>,
    find: &impl Find,
) -> Unit {
    let definition = match find(&member.definition_id, version) {
        Ok(definition) => definition,
        Err(why) => {
            let nothing = missing(&member.definition_id);
            let unit = Unit::new(assignment, &nothing, Some(&member.reference));
            let broken = Some(why);
            return Unit { broken, ..unit };
        }
    };
    let unit = Unit::new(assignment, &definition, Some(&member.reference));
    let around = surroundings(Timestamp::UNIX_EPOCH, unit.context.clone());
    let mut own = Map::new();
    for (name, operand) in &member.parameters {
        match evaluate(operand, values, &around) {
            Ok(value) => drop(own.insert(name.clone(), value)),
            Err(error) => {
                let broken = Some(format!("parameters.{name}: {error}"));
                return Unit { broken, ..unit };
            }
        }
    }
    unit.with(&own)
}

/// Stands in the place of a definition that is not there.
fn missing(id: &str) -> Arc<Document> {
    let fault = Fault::new("policyDefinitionId", "there is no such definition");
    Arc::new(Document {
        id: id.to_owned(),
        name: id.rsplit('/').next().unwrap_or_default().to_owned(),
        display_name: String::new(),
        category: String::new(),
        form: Err(fault),
        mark: String::new(),
        version: None,
        content: 0,
        needs: Needs::default(),
        cascades: false,
        groups: Vec::new(),
    })
}
