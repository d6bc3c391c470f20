//! Made-up virtual machines as Resource Manager shows them, always the same ones.

use std::fmt::Write;

const SIZES: &[&str] = &[
    "Standard_D2s_v5",
    "Standard_D4s_v5",
    "Standard_D8s_v5",
    "Standard_D16s_v5",
    "Standard_E2s_v5",
    "Standard_E4s_v5",
    "Standard_E8s_v5",
    "Standard_F4s_v2",
    "Standard_F8s_v2",
    "Standard_B2ms",
    "Standard_B4ms",
    "Standard_L8s_v3",
    "Standard_M64s",
    "Standard_NC6s_v3",
    "Standard_DS2_v2",
];
const PLACES: &[&str] = &[
    "eastus",
    "westeurope",
    "northeurope",
    "westus2",
    "southeastasia",
    "uksouth",
];
const ENVIRONMENTS: &[&str] = &["prod", "test", "dev", "stage"];
/// Publisher, offer, SKU, system.
const IMAGES: &[(&str, &str, &str, &str)] = &[
    ("Canonical", "ubuntu-24_04-lts", "server", "Linux"),
    ("Debian", "debian-13", "13-gen2", "Linux"),
    ("RedHat", "RHEL", "9-lvm-gen2", "Linux"),
    (
        "MicrosoftWindowsServer",
        "WindowsServer",
        "2022-datacenter-azure-edition",
        "Windows",
    ),
    (
        "MicrosoftWindowsServer",
        "WindowsServer",
        "2019-datacenter-gensecond",
        "Windows",
    ),
];

/// The same numbers every time.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    pub fn of<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }
}

/// Writes one machine as JSON.
pub fn write(number: usize, numbers: &mut Numbers, out: &mut String) {
    let (group, subscription) = (numbers.below(200), numbers.below(4));
    let base = format!(
        "/subscriptions/00000000-0000-0000-0000-00000000000{subscription}/resourceGroups/rg-{group}/providers"
    );
    let (publisher, offer, sku, system) = IMAGES[numbers.below(IMAGES.len())];
    let zones = ["[]", "[\"1\"]", "[\"2\"]", "[\"1\",\"2\"]"][numbers.below(4)];
    let environment = numbers.of(ENVIRONMENTS);
    let trusted = numbers.below(3) > 0;
    let on = |value: usize| if value > 0 { "true" } else { "false" };
    let identity = ["", r#""identity":{"type":"SystemAssigned"},"#][numbers.below(2)];
    let windows = match system {
        "Windows" => format!(
            r#""windowsConfiguration":{{"provisionVMAgent":true,"enableAutomaticUpdates":true,"patchSettings":{{"patchMode":"AutomaticByOS","enableHotpatching":{}}}}}"#,
            on(numbers.below(2))
        ),
        _ => {
            r#""linuxConfiguration":{"disablePasswordAuthentication":true,"provisionVMAgent":true}"#
                .to_owned()
        }
    };
    let security = match trusted {
        true => format!(
            r#""securityProfile":{{"securityType":"TrustedLaunch","encryptionAtHost":{},"uefiSettings":{{"secureBootEnabled":{},"vTpmEnabled":{}}}}},"#,
            on(numbers.below(2)),
            on(numbers.below(4)),
            on(numbers.below(5))
        ),
        false => String::new(),
    };
    let disk = match numbers.below(20) {
        0 => r#""vhd":{"uri":"https://example.blob.core.windows.net/vhds/os.vhd"}"#.to_owned(),
        _ => format!(
            r#""managedDisk":{{"id":"{base}/Microsoft.Compute/disks/vm-{number}-os","storageAccountType":"Premium_LRS"}}"#
        ),
    };
    let size = numbers.of(SIZES);
    let place = numbers.of(PLACES);
    let owner = numbers.below(400);
    let boot = on(numbers.below(3));
    let gigabytes = 32 << numbers.below(4);
    // Writing to a text cannot fail.
    let _ = write!(
        out,
        r#"{{"id":"{base}/Microsoft.Compute/virtualMachines/vm-{number}","name":"vm-{number}","type":"Microsoft.Compute/virtualMachines","location":"{place}","zones":{zones},{identity}"tags":{{"environment":"{environment}","owner":"team-{owner}","costCenter":"{}","createdBy":"factory"}},"properties":{{"vmId":"00000000-0000-4000-8000-{number:012}","provisioningState":"Succeeded","timeCreated":"2026-03-01T00:00:00.0000000Z","hardwareProfile":{{"vmSize":"{size}"}},"storageProfile":{{"imageReference":{{"publisher":"{publisher}","offer":"{offer}","sku":"{sku}","version":"latest","exactVersion":"1.0.{}"}},"osDisk":{{"osType":"{system}","name":"vm-{number}-os","createOption":"FromImage","caching":"ReadWrite",{disk},"deleteOption":"Detach","diskSizeGB":{gigabytes}}},"dataDisks":[{{"lun":0,"name":"vm-{number}-data","createOption":"Attach","caching":"None","managedDisk":{{"id":"{base}/Microsoft.Compute/disks/vm-{number}-data","storageAccountType":"Premium_LRS"}},"diskSizeGB":128}}]}},"osProfile":{{"computerName":"vm-{number}","adminUsername":"azureuser",{windows},"secrets":[],"allowExtensionOperations":true}},{security}"networkProfile":{{"networkInterfaces":[{{"id":"{base}/Microsoft.Network/networkInterfaces/vm-{number}-nic","properties":{{"deleteOption":"Detach","primary":true}}}}]}},"diagnosticsProfile":{{"bootDiagnostics":{{"enabled":{boot}}}}}}}}}"#,
        owner % 50,
        numbers.below(30),
    );
}

/// Some machines, one JSON each.
pub fn some(count: usize) -> Vec<String> {
    let mut numbers = Numbers::new(7);
    let one = |number| {
        let mut text = String::with_capacity(2_600);
        write(number, &mut numbers, &mut text);
        text
    };
    (0..count).map(one).collect()
}
