//! Arguments of `compliance`, and the questions of `policy what-if`.

use clap::{Args, Subcommand};

use super::Scope;

/// The part of the world whose policies are looked at.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyScope {
    /// Resource id to look at and below: a management group, subscription, resource group or resource
    #[arg(long, value_name = "ID", conflicts_with_all = ["subscription", "resource_group"])]
    pub scope: Option<String>,

    /// Subscription, by name or id; all that are visible unless given
    #[arg(long, short = 's', value_name = "NAME|ID")]
    pub subscription: Option<String>,

    /// Resource group
    #[arg(long, short = 'g', value_name = "NAME")]
    pub resource_group: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Compliance {
    /// How many resources are in which state, for each assignment
    #[command(after_help = "Examples:
  bullion compliance summary
  bullion compliance summary --subscription production
  bullion compliance summary --scope /providers/Microsoft.Management/managementGroups/all --output json")]
    Summary {
        #[command(flatten)]
        scope: PolicyScope,
    },
    /// Resources and their states, those that are not compliant first
    #[command(after_help = "Examples:
  bullion compliance list
  bullion compliance list --state NonCompliant --subscription production
  bullion compliance list --filter \"resourceType eq 'Microsoft.Compute/virtualMachines'\"")]
    List {
        /// Only this state: NonCompliant, Compliant, Error, Conflict, Protected, Exempt or Unknown
        #[arg(long)]
        state: Option<String>,
        /// OData condition over the members of a state, as in Azure
        #[arg(long, value_name = "CONDITION")]
        filter: Option<String>,
        #[command(flatten)]
        scope: PolicyScope,
    },
    /// Why a machine, or any other resource, is in the state that it is in, and what would change it
    #[command(after_help = "Examples:
  bullion compliance explain web-1
  bullion compliance explain /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Compute/galleries/NAME

Exit code: 0 if it is compliant or exempt, 1 if not")]
    Explain {
        /// Machine, by name or resource id; or the resource id of anything else
        machine: String,
        #[command(flatten)]
        scope: Scope,
    },
}

/// A question about policies that are not assigned, or a resource that does not exist. Not an argument type: its
/// documents come from files, which may hold comments and are read by whoever knows the policy language.
#[derive(Debug)]
pub struct WhatIf {
    pub scope: PolicyScope,
    pub about: WhatIfAbout,
}

#[derive(Debug)]
pub enum WhatIfAbout {
    /// A definition or an initiative, and the values of its parameters by name.
    Policy {
        definition: serde_json::Value,
        parameters: serde_json::Map<String, serde_json::Value>,
    },
    /// A resource, whole, with its id.
    Resource(serde_json::Value),
}
