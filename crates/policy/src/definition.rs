//! Definitions and initiatives: from a document to what can be evaluated.

use serde_json::{Map, Value};

use crate::alias::Aliases;
use crate::condition::{Compiler, Node, Operand};
use crate::effect::{self, Then};
use crate::error::Fault;
use crate::json::{self, get, list, member, text};
use crate::parameters;
use crate::version::Pattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    All,
    Indexed,
}

/// A compiled policy definition.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    pub mode: Mode,
    pub parameters: Map<String, Value>,
    pub condition: Node,
    pub then: Then,
    /// The version that the document names, or nothing.
    pub version: Option<String>,
    /// Whether the rule names the location: it is then of no subscription.
    pub names_location: bool,
    /// Whether the `if` names an alias that the table lacks: the policy is then of no resource.
    pub names_unreal: bool,
    names_tags: bool,
}

impl Definition {
    /// Whether a condition of the `if` looks at tags.
    pub fn looks_at_tags(&self) -> bool {
        self.names_tags
    }
}

/// A compiled initiative: its members are resolved by whoever holds the definitions.
#[derive(Debug, Clone)]
pub struct Initiative {
    pub name: String,
    pub parameters: Map<String, Value>,
    pub members: Vec<Member>,
}

#[derive(Debug, Clone)]
pub struct Member {
    pub definition_id: String,
    pub reference: String,
    pub parameters: Vec<(String, Operand)>,
    /// Which versions of the definition are meant; any, if nothing is said.
    pub version: Option<Pattern>,
    /// A definition written in place, as test cases do.
    pub inline: Option<Value>,
}

#[derive(Debug, Clone)]
pub enum Compiled {
    Definition(Box<Definition>),
    Initiative(Initiative),
}

impl Compiled {
    /// Whether there is a parameter of this name.
    pub fn declares(&self, name: &str) -> bool {
        let declared = match self {
            Compiled::Definition(definition) => &definition.parameters,
            Compiled::Initiative(initiative) => &initiative.parameters,
        };
        member(declared, name).is_some()
    }
}

/// Policies of one initiative.
pub const MEMBERS_MAX: usize = 1_000;

/// Compiles a document of either kind: a whole resource, or its bare properties.
pub fn compile(document: &Value, aliases: &Aliases) -> Result<Compiled, Fault> {
    let properties = properties(document)?;
    if member(properties, "policyDefinitions").is_some() {
        return initiative(document, aliases).map(Compiled::Initiative);
    }
    definition(document, aliases).map(|definition| Compiled::Definition(Box::new(definition)))
}

fn properties(document: &Value) -> Result<&Map<String, Value>, Fault> {
    let Value::Object(object) = document else {
        return Err(Fault::new("$", "expected an object"));
    };
    match member(object, "properties") {
        Some(Value::Object(properties)) => Ok(properties),
        Some(_) => Err(Fault::new("properties", "expected an object")),
        None => Ok(object),
    }
}

fn name(document: &Value, properties: &Map<String, Value>) -> String {
    let display = member(properties, "displayName").and_then(Value::as_str);
    text(document, "name")
        .or(display)
        .unwrap_or_default()
        .to_owned()
}

/// Whether the document is a customer's, and none of Azure's own.
fn is_custom(properties: &Map<String, Value>) -> bool {
    let kind = member(properties, "policyType").and_then(Value::as_str);
    kind.is_none_or(|kind| kind.eq_ignore_ascii_case("Custom"))
}

/// The parameters. Definitions that come with Azure have more of them than others may.
fn declared(properties: &Map<String, Value>, most: usize) -> Result<Map<String, Value>, Fault> {
    let declared = match member(properties, "parameters") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(declared)) => declared.clone(),
        Some(_) => return Err(Fault::new("parameters", "expected an object")),
    };
    let most = match is_custom(properties) {
        true => most,
        false => parameters::BUILT_IN_MAX,
    };
    parameters::check_declarations(&declared, "parameters", most)?;
    Ok(declared)
}

pub fn definition(document: &Value, aliases: &Aliases) -> Result<Definition, Fault> {
    let properties = properties(document)?;
    // A rule alone is taken for a definition without parameters.
    let bare = member(properties, "if").is_some() && member(properties, "then").is_some();
    let rule = if bare {
        Some(document)
    } else {
        member(properties, "policyRule")
    };
    let Some(Value::Object(rule)) = rule else {
        return Err(Fault::new(
            "policyRule",
            "a definition needs its `policyRule`",
        ));
    };
    let mode = match member(properties, "mode") {
        None | Some(Value::Null) => Mode::Indexed,
        Some(mode) => match mode.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("all") => Mode::All,
            Some("indexed" | "notspecified") => Mode::Indexed,
            _ => {
                let reason =
                    format!("the mode {mode} is not supported, only `All` and `Indexed` are");
                return Err(Fault::new("mode", reason));
            }
        },
    };
    let parameters = declared(properties, parameters::DEFINITION_MAX)?;
    for key in rule.keys() {
        if !["if", "then"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(key))
        {
            return Err(Fault::new(
                format!("policyRule.{key}"),
                format!("a rule has no member `{key}`"),
            ));
        }
    }
    let Some(condition) = member(rule, "if") else {
        return Err(Fault::new("policyRule.if", "a rule needs its `if`"));
    };
    let Some(then) = member(rule, "then") else {
        return Err(Fault::new("policyRule.then", "a rule needs its `then`"));
    };
    let mut compiler = Compiler::new(aliases, &parameters);
    compiler.forgives = !is_custom(properties);
    let condition = compiler.condition(condition, "policyRule.if")?;
    let unreal = compiler.forgave.get();
    let then = effect::compile(&mut compiler, then, "policyRule.then")?;
    let written = member(rule, "if").unwrap_or(&Value::Null);
    let deployed = member(rule, "then").and_then(|then| get(get(then, "details")?, "deployment"));
    let location = |document: &Value| names(document, 0, &|name| name == "location");
    Ok(Definition {
        name: name(document, properties),
        mode,
        condition,
        then,
        version: version(properties),
        names_unreal: unreal,
        names_location: location(written) || deployed.is_some_and(location),
        names_tags: names(written, 0, &|name| name.starts_with("tags")),
        parameters,
    })
}

/// Whether a part of a rule names such a field, as a field or in an expression.
fn names(document: &Value, depth: usize, is: &dyn Fn(&str) -> bool) -> bool {
    if depth > json::DEPTH_MAX {
        return false;
    }
    match document {
        Value::Object(object) => object.iter().any(|(key, value)| {
            let named = key.eq_ignore_ascii_case("field")
                && value
                    .as_str()
                    .is_some_and(|text| is(&text.trim().to_ascii_lowercase()));
            named || names(value, depth + 1, is)
        }),
        Value::Array(items) => items.iter().any(|item| names(item, depth + 1, is)),
        // A field in an expression is a text in quotes.
        Value::String(text) if text.starts_with('[') => text
            .split('\'')
            .skip(1)
            .step_by(2)
            .any(|quoted| is(&quoted.to_ascii_lowercase())),
        _ => false,
    }
}

/// The version that a whole document names.
pub fn version_of(document: &Value) -> Option<String> {
    properties(document).ok().and_then(version)
}

/// The version of a definition or initiative: its own member, or the older one in the metadata.
fn version(properties: &Map<String, Value>) -> Option<String> {
    let older = || text(member(properties, "metadata")?, "version");
    let own = member(properties, "version").and_then(Value::as_str);
    own.or_else(older).map(str::to_owned)
}

pub fn initiative(document: &Value, aliases: &Aliases) -> Result<Initiative, Fault> {
    let properties = properties(document)?;
    let parameters = declared(properties, parameters::INITIATIVE_MAX)?;
    let Some(Value::Array(items)) = member(properties, "policyDefinitions") else {
        return Err(Fault::new(
            "policyDefinitions",
            "expected a list of policies",
        ));
    };
    if items.is_empty() || items.len() > MEMBERS_MAX {
        let reason = format!("an initiative has 1 to {MEMBERS_MAX} policies");
        return Err(Fault::new("policyDefinitions", reason));
    }
    let groups = group_names(properties)?;
    let mut compiler = Compiler::new(aliases, &parameters);
    let mut members: Vec<Member> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("policyDefinitions[{index}]");
        let found = initiative_member(&mut compiler, item, index, &at)?;
        let taken = members
            .iter()
            .any(|other| other.reference.eq_ignore_ascii_case(&found.reference));
        if taken {
            let reason = format!("the reference `{}` is used twice", found.reference);
            return Err(Fault::new(
                format!("{at}.policyDefinitionReferenceId"),
                reason,
            ));
        }
        for (number, group) in list(item, "groupNames").iter().enumerate() {
            let group = group.as_str().unwrap_or_default();
            if !groups.iter().any(|known| known.eq_ignore_ascii_case(group)) {
                let at = format!("{at}.groupNames[{number}]");
                return Err(Fault::new(at, format!("there is no group `{group}`")));
            }
        }
        members.push(found);
    }
    Ok(Initiative {
        name: name(document, properties),
        parameters,
        members,
    })
}

fn group_names(properties: &Map<String, Value>) -> Result<Vec<String>, Fault> {
    let groups = member(properties, "policyDefinitionGroups").and_then(Value::as_array);
    let mut names: Vec<String> = Vec::new();
    for (index, group) in groups.into_iter().flatten().enumerate() {
        let at = format!("policyDefinitionGroups[{index}]");
        let name =
            text(group, "name").ok_or_else(|| Fault::new(&at, "a group needs its `name`"))?;
        if names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(Fault::new(at, format!("there are two groups `{name}`")));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn initiative_member(
    compiler: &mut Compiler<'_>,
    item: &Value,
    index: usize,
    at: &str,
) -> Result<Member, Fault> {
    let inline = get(item, "definition")
        .or_else(|| get(item, "policyDefinition"))
        .cloned();
    let id = text(item, "policyDefinitionId").or_else(|| text(item, "definitionPath"));
    let id = match (id, &inline) {
        (Some(id), _) => id.to_owned(),
        (None, Some(_)) => String::new(),
        (None, None) => return Err(Fault::new(at, "a policy needs its `policyDefinitionId`")),
    };
    if id.to_ascii_lowercase().contains("/policysetdefinitions/") {
        let reason = "an initiative holds definitions and no other initiative";
        return Err(Fault::new(format!("{at}.policyDefinitionId"), reason));
    }
    let mut parameters = Vec::new();
    let given = get(item, "parameters").and_then(Value::as_object);
    for (name, value) in given.into_iter().flatten() {
        let value = parameters::unwrapped(value);
        let operand = compiler.operand(value, &format!("{at}.parameters.{name}"))?;
        parameters.push((name.clone(), operand));
    }
    let version = match text(item, "definitionVersion") {
        None => None,
        Some(written) => {
            let at = format!("{at}.definitionVersion");
            Some(Pattern::parse(written).map_err(|reason| Fault::new(at, reason))?)
        }
    };
    let reference = text(item, "policyDefinitionReferenceId");
    Ok(Member {
        version,
        reference: reference.map_or_else(|| (index + 1).to_string(), str::to_owned),
        definition_id: id,
        parameters,
        inline,
    })
}
