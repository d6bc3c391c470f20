//! The same ten rules in other engines: how many machines break one, and how fast that is found.
//!
//! Each engine is given its input in the form it works on, made before the clock starts: the figures are
//! of evaluation alone, as are those of our hot scan.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};
use regorus::languages::azure_policy::aliases::{AliasRegistry, normalizer};
use regorus::languages::azure_policy::{compiler, parser};
use regorus::rvm::RegoVM;
use regorus::{PolicyModule, Rc, Source, Value, compile_policy_with_entrypoint};
use serde_json::{Value as Json, json};

use crate::Cpu;
use crate::policies::{ALIASES, Document, PLACES, SIZES, values};

/// Violations that were found, evaluations that were made, and how long they took.
pub struct Measured {
    pub violations: usize,
    pub evaluations: usize,
    pub took: Duration,
}

/// The Azure Policy mode of regorus: each definition compiled to its bytecode, resources normalized.
pub fn azure_policy(documents: &[Document], machines: &[String]) -> Result<Measured> {
    let mut registry = AliasRegistry::new();
    registry.load_from_json(ALIASES)?;
    let registry = Rc::new(registry);
    let resources: Vec<Value> = machines
        .iter()
        .map(|machine| {
            let raw = Value::from_json_str(machine)?;
            Ok(normalizer::normalize(&raw, Some(&registry), None))
        })
        .collect::<Result<_>>()?;
    let mut measured = Measured {
        violations: 0,
        evaluations: 0,
        took: Duration::ZERO,
    };
    for document in documents {
        // A definition alone, as that engine reads it.
        let source = Source::from_contents(document.name.to_owned(), document.text.clone())?;
        let definition =
            parser::parse_policy_definition(&source).map_err(|error| anyhow!("{error}"))?;
        let program =
            compiler::compile_policy_definition_with_aliases(&definition, Rc::clone(&registry))?;
        let mut machine = RegoVM::new();
        machine.load_program(program);
        machine.set_context(Value::from_json_str(
            r#"{"resourceGroup": {}, "subscription": {}}"#,
        )?);
        let parameters = Value::from_json_str(&values(document, 0).to_string())?;
        let inputs: Vec<Value> = resources
            .iter()
            .map(|resource| {
                let mut input = Value::new_object();
                let map = input.as_object_mut()?;
                map.insert(Value::from("resource"), resource.clone());
                map.insert(Value::from("parameters"), parameters.clone());
                Ok(input)
            })
            .collect::<Result<_>>()?;
        let start = Cpu::now();
        for input in &inputs {
            machine.set_input(input.clone());
            let result = machine.execute_entry_point_by_name("main")?;
            measured.violations += usize::from(result != Value::Undefined);
        }
        measured.took += start.elapsed();
        measured.evaluations += inputs.len();
    }
    Ok(measured)
}

/// The ten rules written in Rego, all asked at once.
pub fn rego(machines: &[String]) -> Result<Measured> {
    let lower = |words: &[&str]| {
        words
            .iter()
            .map(|word| word.to_lowercase())
            .collect::<Vec<_>>()
    };
    let data = json!({"sizes": lower(SIZES), "places": lower(PLACES)});
    let module = PolicyModule {
        id: "machines.rego".into(),
        content: include_str!("machines.rego").into(),
    };
    let data = Value::from_json_str(&data.to_string())?;
    let policy =
        compile_policy_with_entrypoint(data, &[module], "data.machines.violations".into())?;
    let inputs: Vec<Value> = machines
        .iter()
        .map(|machine| Value::from_json_str(machine))
        .collect::<Result<_>>()?;
    let mut violations = 0;
    let start = Cpu::now();
    for input in &inputs {
        let result = policy.eval_with_input(input.clone())?;
        violations += result.as_set()?.len();
    }
    let took = start.elapsed();
    Ok(Measured {
        violations,
        evaluations: 10 * inputs.len(),
        took,
    })
}

/// The ten rules written in Cedar, all asked at once. Cedar has no text without case, so the values are
/// compared as they are.
pub fn cedar(machines: &[String]) -> Result<Measured> {
    let policies = PolicySet::from_str(include_str!("machines.cedar"))?;
    let who = EntityUid::from_str("User::\"factory\"")?;
    let what = EntityUid::from_str("Action::\"be\"")?;
    let mut asked = Vec::new();
    for (number, machine) in machines.iter().enumerate() {
        let machine: Json = serde_json::from_str(machine)?;
        let uid = EntityUid::from_str(&format!("Machine::\"{number}\""))?;
        let attributes = attributes(&machine).into_iter().collect();
        let entity = Entity::new(uid.clone(), attributes, Default::default())?;
        let request = Request::new(who.clone(), what.clone(), uid, Context::empty(), None)?;
        asked.push((request, Entities::from_entities([entity], None)?));
    }
    let authorizer = Authorizer::new();
    let mut violations = 0;
    let start = Cpu::now();
    for (request, entities) in &asked {
        let response = authorizer.is_authorized(request, &policies, entities);
        // Without a violation the one reason is the permit.
        let denied = response.decision() == cedar_policy::Decision::Deny;
        violations += if denied {
            response.diagnostics().reason().count()
        } else {
            0
        };
    }
    let took = start.elapsed();
    Ok(Measured {
        violations,
        evaluations: 10 * asked.len(),
        took,
    })
}

fn attributes(machine: &Json) -> Vec<(String, RestrictedExpression)> {
    let paths = [
        ("location", "/location"),
        ("vmSize", "/properties/hardwareProfile/vmSize"),
        ("vhdUri", "/properties/storageProfile/osDisk/vhd/uri"),
        ("imageSku", "/properties/storageProfile/imageReference/sku"),
        (
            "imageOffer",
            "/properties/storageProfile/imageReference/offer",
        ),
        ("osType", "/properties/storageProfile/osDisk/osType"),
        (
            "encryptionAtHost",
            "/properties/securityProfile/encryptionAtHost",
        ),
        ("securityType", "/properties/securityProfile/securityType"),
        (
            "secureBoot",
            "/properties/securityProfile/uefiSettings/secureBootEnabled",
        ),
        (
            "virtualTpm",
            "/properties/securityProfile/uefiSettings/vTpmEnabled",
        ),
        (
            "bootDiagnostics",
            "/properties/diagnosticsProfile/bootDiagnostics/enabled",
        ),
        (
            "hotpatching",
            "/properties/osProfile/windowsConfiguration/patchSettings/enableHotpatching",
        ),
    ];
    let mut attributes = Vec::new();
    for (name, path) in paths {
        let value = match machine.pointer(path) {
            Some(Json::String(text)) => RestrictedExpression::new_string(text.clone()),
            Some(Json::Bool(value)) => RestrictedExpression::new_bool(*value),
            _ => continue,
        };
        attributes.push((name.to_owned(), value));
    }
    let zones = machine["zones"].as_array().map_or(0, Vec::len);
    attributes.push((
        "zoneCount".to_owned(),
        RestrictedExpression::new_long(zones as i64),
    ));
    let environment = machine["tags"]["environment"].as_str().map(|value| {
        (
            "environment".to_owned(),
            RestrictedExpression::new_string(value.to_owned()),
        )
    });
    if let Ok(tags) = RestrictedExpression::new_record(environment) {
        attributes.push(("tags".to_owned(), tags));
    }
    attributes
}
