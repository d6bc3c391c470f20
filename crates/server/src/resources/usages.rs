//! What a subscription uses of a region (`az vm list-usage`), and the sizes that machines may have there.

use std::sync::Arc;

use factory::deploy::SIZES;
use serde_json::{Value, json};
use wire::{ArmError, Location};

use super::{Reply, machine_disks, machines};
use crate::limits;
use crate::operation::Call;
use crate::state::Server;

pub const USAGES: &str = "Microsoft.Compute/locations/usages";
pub const SIZES_OF_LOCATION: &str = "Microsoft.Compute/locations/vmSizes";
pub const SIZES_OF_MACHINE: &str = "Microsoft.Compute/virtualMachines/vmSizes";
/// Machines have no limit of their own.
const UNLIMITED: u64 = u32::MAX as u64;
/// The largest OS disk, as Azure's largest image.
const OS_DISK_MIB: u64 = 2048 << 10;

pub async fn usages(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let name = call.id.part("locations").unwrap_or_default();
    server.need_region(name, "location")?;
    let location = Location::new(name);
    let mut value = Vec::new();
    let machines = (
        machines::KIND,
        "virtualMachines",
        "Virtual Machines",
        UNLIMITED,
    );
    let limited = server.room.limits.all();
    for (kind, name, shown, limit) in limited.into_iter().chain([machines]) {
        let found = limits::count(&server, &call, kind, Some(&location)).await?;
        value.push(json!({
            "name": { "value": name, "localizedValue": shown },
            "currentValue": found,
            "limit": limit,
            "unit": "Count",
        }));
    }
    Ok(Reply::ok(json!({ "value": value })))
}

/// Sizes are the installation's: every region and machine has the same.
pub async fn sizes(_server: Arc<Server>, _call: Call) -> Result<Reply, ArmError> {
    let size = |(name, cpus, memory): &(&str, u8, u32)| {
        json!({
            "name": name,
            "numberOfCores": cpus,
            "memoryInMB": memory,
            "osDiskSizeInMB": OS_DISK_MIB,
            "resourceDiskSizeInMB": 0,
            "maxDataDiskCount": machine_disks::DISKS_MAX,
        })
    };
    let value: Vec<Value> = SIZES.iter().map(size).collect();
    Ok(Reply::ok(json!({ "value": value })))
}
