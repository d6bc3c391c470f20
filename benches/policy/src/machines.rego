package machines

import rego.v1

is_machine if lower(input.type) == "microsoft.compute/virtualmachines"

size := lower(object.get(input, ["properties", "hardwareProfile", "vmSize"], ""))

security := object.get(input, ["properties", "securityProfile"], {})

violations contains "allowed-sizes" if {
	is_machine
	not size in data.sizes
}

violations contains "managed-disks" if {
	is_machine
	input.properties.storageProfile.osDisk.vhd.uri
}

violations contains "encryption-at-host" if {
	is_machine
	object.get(security, "encryptionAtHost", false) != true
}

violations contains "boot-diagnostics" if {
	is_machine
	object.get(input, ["properties", "diagnosticsProfile", "bootDiagnostics", "enabled"], false) != true
}

violations contains "hotpatch" if {
	is_machine
	lower(input.properties.storageProfile.imageReference.sku) in {
		"2022-datacenter-azure-edition", "2022-datacenter-azure-edition-core",
		"2022-datacenter-azure-edition-core-smalldisk", "2022-datacenter-azure-edition-smalldisk",
	}
	object.get(input, ["properties", "osProfile", "windowsConfiguration", "patchSettings", "enableHotpatching"], false) != true
}

windows if startswith(lower(input.properties.storageProfile.imageReference.offer), "windows")

windows if startswith(lower(input.properties.storageProfile.osDisk.osType), "windows")

violations contains "secure-boot" if {
	is_machine
	windows
	lower(security.securityType) in {"trustedlaunch", "confidentialvm"}
	security.uefiSettings
	object.get(security.uefiSettings, "secureBootEnabled", false) != true
}

violations contains "virtual-tpm" if {
	is_machine
	lower(security.securityType) == "trustedlaunch"
	security.uefiSettings
	object.get(security.uefiSettings, "vTpmEnabled", false) != true
}

violations contains "allowed-places" if {
	not lower(input.location) in data.places
	lower(input.location) != "global"
}

violations contains "tag-and-value" if {
	lower(object.get(input, ["tags", "environment"], "")) != "prod"
}

violations contains "one-zone" if {
	is_machine
	count(object.get(input, "zones", [])) != 1
}
