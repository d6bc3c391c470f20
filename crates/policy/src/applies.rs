//! Applicability: whether a policy has anything to say about a resource.
//!
//! Without an existence search only `type`, `name` and `kind` decide; every other condition counts as
//! true where it stands, and so as false under a `not`.

use serde_json::Value;

use crate::condition::{Node, Operand, Subject};
use crate::definition::{Definition, Mode};
use crate::effect::Effect;
use crate::error::EvaluationError;
use crate::evaluate::Evaluation;
use crate::field::{Field, resource_type};
use crate::json::get;

/// Whether the mode takes the resource at all.
pub fn mode_takes(mode: Mode, resource: &Value) -> bool {
    let kind = resource_type(resource).to_ascii_lowercase();
    let container = matches!(
        kind.as_str(),
        "microsoft.resources/subscriptions"
            | "microsoft.resources/resourcegroups"
            | "microsoft.resources/subscriptions/resourcegroups"
    );
    if container {
        return mode == Mode::All;
    }
    if kind.starts_with("microsoft.resources/") {
        return false;
    }
    // Which types have tags and a location is known of some alone. Another child that shows neither is
    // taken to have none.
    let known = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(&kind));
    let child = kind.matches('/').count() > 1 && !known(TAGGED_CHILDREN);
    let untagged = kind.starts_with("microsoft.authorization/") || known(UNTAGGED);
    let bare = get(resource, "location").is_none() && get(resource, "tags").is_none();
    mode == Mode::All || !((child || untagged) && bare)
}

/// Types below others that have tags or a location: those that Azure's own definitions of mode Indexed are
/// about, and those of a factory.
const TAGGED_CHILDREN: &[&str] = &[
    "Microsoft.Automation/automationAccounts/runbooks",
    "Microsoft.Cache/redisEnterprise/databases",
    "Microsoft.Cdn/profiles/endpoints",
    "Microsoft.Compute/galleries/applications",
    "Microsoft.Compute/galleries/applications/versions",
    "Microsoft.Compute/galleries/images",
    "Microsoft.Compute/galleries/images/versions",
    "Microsoft.Compute/virtualMachines/extensions",
    "Microsoft.Compute/virtualMachines/runCommands",
    "Microsoft.ContainerRegistry/registries/privateEndpointConnections",
    "Microsoft.ContainerRegistry/registries/replications",
    "Microsoft.ContainerRegistry/registries/webhooks",
    "Microsoft.DevCenter/projects/pools",
    "Microsoft.DocumentDB/databaseAccounts/privateEndpointConnections",
    "Microsoft.HealthcareApis/workspaces/dicomServices",
    "Microsoft.HealthcareApis/workspaces/fhirServices",
    "Microsoft.HealthcareApis/workspaces/iotConnectors",
    "Microsoft.HybridCompute/machines/extensions",
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
    "Microsoft.Media/mediaServices/liveEvents",
    "Microsoft.Media/mediaServices/streamingEndpoints",
    "Microsoft.NetApp/netAppAccounts/capacityPools",
    "Microsoft.NetApp/netAppAccounts/capacityPools/volumes",
    "Microsoft.Network/networkManagers/ipamPools",
    "Microsoft.Network/networkWatchers/flowLogs",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks",
    "Microsoft.NotificationHubs/namespaces/notificationHubs",
    "Microsoft.PowerBI/tenants/workspaces",
    "Microsoft.Sql/managedInstances/databases",
    "Microsoft.Sql/servers/databases",
    "Microsoft.Sql/servers/elasticPools",
    "Microsoft.Storage/storageAccounts/objectReplicationPolicies",
    "Microsoft.Storage/storageAccounts/privateEndpointConnections",
    "Microsoft.Synapse/workspaces/bigDataPools",
    "Microsoft.Synapse/workspaces/kustoPools",
    "Microsoft.Synapse/workspaces/scopePools",
    "Microsoft.Synapse/workspaces/sqlPools",
    "Microsoft.TimeSeriesInsights/environments/eventSources",
    "Microsoft.Web/sites/config",
    "Microsoft.Web/sites/slots",
];
/// Types of their own that have neither, beside all of Microsoft.Authorization.
const UNTAGGED: &[&str] = &[
    "Microsoft.Insights/diagnosticSettings",
    "Microsoft.Security/assessments",
    "Microsoft.Security/autoProvisioningSettings",
    "Microsoft.Security/pricings",
    "Microsoft.Security/securityContacts",
];

#[derive(Default)]
struct Kinds {
    kind: bool,
    name: bool,
    types: bool,
    other: bool,
}

/// Which conditions of a rule decide whether it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deciding {
    Nothing,
    Types,
    TypesNamesKinds,
}

impl Deciding {
    pub fn of(rule: &Node) -> Deciding {
        let mut kinds = Kinds::default();
        survey(rule, &mut kinds);
        let one = !kinds.other && (kinds.kind != kinds.name);
        match (one, kinds.types) {
            (true, false) => Deciding::Nothing,
            (true, true) => Deciding::Types,
            (false, _) => Deciding::TypesNamesKinds,
        }
    }

    /// Whether a condition about this is one of them.
    pub fn on(self, subject: &Subject) -> bool {
        match subject {
            Subject::Field(Field::Type, _) => true,
            Subject::Field(Field::Name | Field::Kind, _) => self == Deciding::TypesNamesKinds,
            _ => false,
        }
    }
}

pub fn applies(node: &Node, evaluation: &mut Evaluation<'_>) -> Result<bool, EvaluationError> {
    match Deciding::of(node) {
        Deciding::Nothing => Ok(true),
        deciding => part(node, evaluation, false, deciding),
    }
}

fn survey(node: &Node, kinds: &mut Kinds) {
    match node {
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| survey(node, kinds)),
        Node::Not(inner) => survey(inner, kinds),
        Node::Leaf(leaf) => match &leaf.subject {
            Subject::Field(Field::Type, _) => kinds.types = true,
            Subject::Field(Field::Name, _) => kinds.name = true,
            Subject::Field(Field::Kind, _) => kinds.kind = true,
            _ => kinds.other = true,
        },
    }
}

fn part(
    node: &Node,
    evaluation: &mut Evaluation<'_>,
    negated: bool,
    deciding: Deciding,
) -> Result<bool, EvaluationError> {
    match node {
        Node::Not(inner) => Ok(!part(inner, evaluation, !negated, deciding)?),
        Node::All(nodes) => {
            for node in nodes {
                if !part(node, evaluation, negated, deciding)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Node::Any(nodes) => {
            for node in nodes {
                if part(node, evaluation, negated, deciding)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Node::Leaf(leaf) if deciding.on(&leaf.subject) => evaluation.leaf(leaf),
        Node::Leaf(_) => Ok(!negated),
    }
}

/// What no rule of this kind is about. One with an alias that does not exist is about nothing; subscriptions have no location, and only machines have an identity
/// that modify may change.
pub fn left_out(definition: &Definition, effect: Effect, resource: &Value) -> bool {
    let kind = resource_type(resource);
    let is = |known: &str| kind.eq_ignore_ascii_case(known);
    if definition.names_unreal
        || (definition.names_location && is("Microsoft.Resources/subscriptions"))
    {
        return true;
    }
    let machine =
        is("Microsoft.Compute/virtualMachines") || is("Microsoft.Compute/virtualMachineScaleSets");
    let identity = |field: &Operand| match field {
        Operand::Constant(Value::String(name)) => name.eq_ignore_ascii_case("identity.type"),
        _ => false,
    };
    let changes = &definition.then.changes;
    effect == Effect::Modify && !machine && changes.iter().any(|change| identity(&change.field))
}

/// Whether the rule looks at a property that this type does not have.
pub fn foreign_alias(node: &Node, resource: &Value) -> bool {
    let kind = resource_type(resource);
    match node {
        Node::All(nodes) => nodes.iter().any(|node| foreign_alias(node, resource)),
        Node::Any(_) | Node::Not(_) => false,
        Node::Leaf(leaf) => match &leaf.subject {
            Subject::Field(Field::Alias(alias), _) => alias.path(&kind).is_none(),
            _ => false,
        },
    }
}
