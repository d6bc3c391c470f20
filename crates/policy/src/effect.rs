//! The `then` of a rule: which effect, and what its details say.

use serde_json::{Map, Value};

use crate::condition::{Compiler, Node, Operand};
use crate::error::Fault;
use crate::field::Field;
use crate::json::{get, member, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Audit,
    Deny,
    Disabled,
    Append,
    Modify,
    AuditIfNotExists,
    DeployIfNotExists,
    DenyAction,
    /// Like denyAction, but the action goes ahead and is only recorded.
    AuditAction,
    Manual,
}

const EFFECTS: &[(Effect, &str)] = &[
    (Effect::Audit, "audit"),
    (Effect::Deny, "deny"),
    (Effect::Disabled, "disabled"),
    (Effect::Append, "append"),
    (Effect::Modify, "modify"),
    (Effect::AuditIfNotExists, "auditIfNotExists"),
    (Effect::DeployIfNotExists, "deployIfNotExists"),
    (Effect::DenyAction, "denyAction"),
    (Effect::AuditAction, "auditAction"),
    (Effect::Manual, "manual"),
];

impl Effect {
    pub fn parse(name: &str) -> Option<Effect> {
        let known = EFFECTS
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name));
        known.map(|(effect, _)| *effect)
    }

    pub fn name(self) -> &'static str {
        let known = EFFECTS.iter().find(|(effect, _)| *effect == self);
        known.map_or("", |(_, name)| name)
    }

    pub fn looks_for_existence(self) -> bool {
        matches!(self, Effect::AuditIfNotExists | Effect::DeployIfNotExists)
    }
}

#[derive(Debug, Clone)]
pub struct Then {
    pub effect: Operand,
    pub existence: Option<Existence>,
    /// Of modify and append.
    pub changes: Vec<Change>,
    pub conflict: Option<Operand>,
    /// Of manual.
    pub default_state: Option<Operand>,
    /// Of denyAction.
    pub actions: Option<Operand>,
}

/// What an existence search looks for.
#[derive(Debug, Clone)]
pub struct Existence {
    pub kind: Operand,
    pub name: Option<Operand>,
    pub resource_kind: Option<Operand>,
    pub group: Option<Operand>,
    pub scope: Option<Operand>,
    pub condition: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Add,
    AddOrReplace,
    Remove,
    /// Of the append effect: adds to a list, and refuses to change what is there.
    Append,
}

#[derive(Debug, Clone)]
pub struct Change {
    pub operation: Operation,
    pub field: Operand,
    pub value: Option<Operand>,
    pub condition: Option<Operand>,
    pub path: String,
}

/// Operations of one definition.
const CHANGES_MAX: usize = 1_000;

/// Compiles `then`. The effect may be a parameter, so details of any effect may stand here.
pub fn compile(compiler: &mut Compiler<'_>, then: &Value, path: &str) -> Result<Then, Fault> {
    let Value::Object(object) = then else {
        return Err(Fault::new(path, "`then` is an object with an `effect`"));
    };
    for key in object.keys() {
        if !["effect", "details"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(key))
        {
            return Err(Fault::new(
                format!("{path}.{key}"),
                format!("`then` has no member `{key}`"),
            ));
        }
    }
    let at = format!("{path}.effect");
    let Some(Value::String(written)) = member(object, "effect") else {
        return Err(Fault::new(at, "`effect` is a text"));
    };
    let effect = compiler.operand(&Value::String(written.clone()), &at)?;
    let possible = possible_effects(compiler, &effect, written, &at)?;
    let mut then = Then {
        effect,
        existence: None,
        changes: Vec::new(),
        conflict: None,
        default_state: None,
        actions: None,
    };
    let at = format!("{path}.details");
    match member(object, "details") {
        None => {}
        Some(Value::Array(items)) => then.changes = appended(compiler, items, &at)?,
        Some(Value::Object(details)) => object_details(compiler, &mut then, details, &at)?,
        Some(_) => return Err(Fault::new(at, "`details` is an object or a list")),
    }
    for effect in possible {
        require(effect, &then, object, path)?;
    }
    Ok(then)
}

/// The effects that the rule may come to have, as far as that is known before it is assigned.
fn possible_effects(
    compiler: &Compiler<'_>,
    effect: &Operand,
    written: &str,
    at: &str,
) -> Result<Vec<Effect>, Fault> {
    let unknown = |name: &str| Fault::new(at, format!("there is no effect `{name}`"));
    if let Operand::Constant(Value::String(name)) = effect {
        return Effect::parse(name)
            .map(|effect| vec![effect])
            .ok_or_else(|| unknown(name));
    }
    let parameter = written
        .split('\'')
        .nth(1)
        .and_then(|name| member(compiler.parameters, name));
    let mut possible = Vec::new();
    let values = parameter
        .and_then(|p| get(p, "allowedValues"))
        .and_then(Value::as_array);
    let simple = written
        .to_ascii_lowercase()
        .replace(' ', "")
        .starts_with("[parameters('");
    for name in values
        .into_iter()
        .flatten()
        .filter(|_| simple)
        .filter_map(Value::as_str)
    {
        possible.push(Effect::parse(name).ok_or_else(|| unknown(name))?);
    }
    Ok(possible)
}

/// What an effect cannot do without.
fn require(
    effect: Effect,
    then: &Then,
    object: &Map<String, Value>,
    path: &str,
) -> Result<(), Fault> {
    let details = member(object, "details");
    let has = |name: &str| details.is_some_and(|details| get(details, name).is_some());
    let missing = match effect {
        Effect::AuditIfNotExists if then.existence.is_none() => "type",
        Effect::DeployIfNotExists if then.existence.is_none() => "type",
        Effect::DeployIfNotExists if !has("roleDefinitionIds") => "roleDefinitionIds",
        Effect::DeployIfNotExists if !has("deployment") => "deployment",
        Effect::Modify if then.changes.is_empty() => "operations",
        Effect::Modify if !has("roleDefinitionIds") => "roleDefinitionIds",
        Effect::DenyAction | Effect::AuditAction if then.actions.is_none() => "actionNames",
        Effect::Append if then.changes.is_empty() => {
            let reason = "`append` needs a list of fields and values";
            return Err(Fault::new(format!("{path}.details"), reason));
        }
        _ => return Ok(()),
    };
    let reason = format!("`{}` needs `{missing}`", effect.name());
    Err(Fault::new(format!("{path}.details"), reason))
}

fn object_details(
    compiler: &mut Compiler<'_>,
    then: &mut Then,
    details: &Map<String, Value>,
    path: &str,
) -> Result<(), Fault> {
    let operand = |compiler: &mut Compiler<'_>, name: &str| {
        member(details, name)
            .map(|value| compiler.operand(value, &format!("{path}.{name}")))
            .transpose()
    };
    let kind = operand(compiler, "type")?;
    let name = operand(compiler, "name")?;
    let resource_kind = operand(compiler, "kind")?;
    let group = operand(compiler, "resourceGroupName")?;
    let scope = operand(compiler, "existenceScope")?;
    then.conflict = operand(compiler, "conflictEffect")?;
    then.default_state = operand(compiler, "defaultState")?;
    then.actions = operand(compiler, "actionNames")?;
    let at = format!("{path}.existenceCondition");
    let condition = member(details, "existenceCondition")
        .map(|condition| compiler.existence_condition(condition, &at))
        .transpose()?;
    if let Some(kind) = kind {
        then.existence = Some(Existence {
            kind,
            name,
            resource_kind,
            group,
            scope,
            condition,
        });
    }
    deployment_parameters(compiler, details, path)?;
    let at = format!("{path}.operations");
    match member(details, "operations") {
        None => Ok(()),
        Some(Value::Array(items)) => {
            then.changes = operations(compiler, items, &at)?;
            Ok(())
        }
        Some(_) => Err(Fault::new(at, "`operations` is a list")),
    }
}

/// The template of a deployment is the deployment's; the values that it is given are the policy's.
fn deployment_parameters(
    compiler: &mut Compiler<'_>,
    details: &Map<String, Value>,
    path: &str,
) -> Result<(), Fault> {
    let properties = member(details, "deployment").and_then(|value| get(value, "properties"));
    let Some(values) = properties.and_then(|value| get(value, "parameters")) else {
        return Ok(());
    };
    let at = format!("{path}.deployment.properties.parameters");
    compiler.operand(values, &at).map(drop)
}

fn operations(
    compiler: &mut Compiler<'_>,
    items: &[Value],
    path: &str,
) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let operation = match text(item, "operation")
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            Some("add") => Operation::Add,
            Some("addorreplace") => Operation::AddOrReplace,
            Some("remove") => Operation::Remove,
            _ => {
                let reason = "expected `add`, `addOrReplace` or `remove`";
                return Err(Fault::new(format!("{at}.operation"), reason));
            }
        };
        changes.push(change(compiler, operation, item, at)?);
    }
    limited(changes, path)
}

fn appended(
    compiler: &mut Compiler<'_>,
    items: &[Value],
    path: &str,
) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{path}[{index}]");
        changes.push(change(compiler, Operation::Append, item, at)?);
    }
    limited(changes, path)
}

fn limited(changes: Vec<Change>, path: &str) -> Result<Vec<Change>, Fault> {
    match changes.len() <= CHANGES_MAX {
        true => Ok(changes),
        false => Err(Fault::new(
            path,
            format!("there are more than {CHANGES_MAX} operations"),
        )),
    }
}

fn change(
    compiler: &mut Compiler<'_>,
    operation: Operation,
    item: &Value,
    path: String,
) -> Result<Change, Fault> {
    let mut operand = |name: &str| {
        get(item, name)
            .map(|value| compiler.operand(value, &format!("{path}.{name}")))
            .transpose()
    };
    let field = operand("field")?;
    let value = operand("value")?;
    let condition = operand("condition")?;
    let field = field.ok_or_else(|| Fault::new(&path, "an operation needs its `field`"))?;
    if let Operand::Constant(name) = &field {
        let Value::String(name) = name else {
            return Err(Fault::new(format!("{path}.field"), "a field is a text"));
        };
        let at = format!("{path}.field");
        let named = compiler.named(name);
        let named = named.map_err(|reason| Fault::new(&at, reason))?;
        // What comes with Azure is taken as it is.
        if let Field::Alias(alias) = &named
            && operation != Operation::Append
            && !compiler.forgives
            && !alias.may_ever_change()
        {
            let reason = format!("the alias `{name}` cannot be modified");
            return Err(Fault::new(at, reason));
        }
    }
    if value.is_none() && operation != Operation::Remove {
        return Err(Fault::new(path, "the operation needs its `value`"));
    }
    Ok(Change {
        operation,
        field,
        value,
        condition,
        path,
    })
}
