#!/usr/bin/env bash
# Drives az through policies: a definition that refuses a write, then only notes it, its states and events. Run by
# `cargo xtask test --part az`, below `bullion dev --tenants 1 --`.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

sign_in "$BULLION_TENANT_1"
az group create -n g -l "$(az account list-locations --query '[0].name' -o tsv)" -o none

cat > "$work/rule.json" <<'RULE'
{
  "if": {
    "allOf": [
      { "field": "type", "equals": "Microsoft.Compute/galleries" },
      { "field": "tags['owner']", "exists": "false" }
    ]
  },
  "then": { "effect": "[parameters('effect')]" }
}
RULE
cat > "$work/parameters.json" <<'PARAMETERS'
{ "effect": { "type": "String", "defaultValue": "deny", "allowedValues": ["deny", "audit", "disabled"] } }
PARAMETERS
check need-owner policy definition create -n need-owner --rules "$work/rule.json" --params "$work/parameters.json" \
  --mode Indexed --query name
check Default policy assignment create -n owners --policy need-owner -g g --query enforcementMode
refused RequestDisallowedByPolicy sig create -g g -r bad
check Succeeded sig create -g g -r good --tags owner=me --query provisioningState
check audit policy assignment update -n owners -g g --params '{"effect":{"value":"audit"}}' --query parameters.effect.value
check Succeeded sig create -g g -r bad --query provisioningState

az policy state trigger-scan -g g
check 1 policy state list -g g --filter "complianceState eq 'NonCompliant'" --query 'length(@)'
check 1 policy state summarize -g g --query results.nonCompliantResources
check deny policy event list -g g --query "[?policyDefinitionAction=='deny'].policyDefinitionAction"
check 1.0.0 policy definition version list -n need-owner --query '[].version'

assignment=$(az policy assignment show -n owners -g g --query id -o tsv)
check waived policy exemption create -n waived --policy-assignment "$assignment" -g g --exemption-category Waiver --query name
az policy state trigger-scan -g g
check 0 policy state list -g g --filter "complianceState eq 'NonCompliant'" --query 'length(@)'
definition=$(az policy definition show -n need-owner --query id -o tsv)
check set policy set-definition create -n set --definitions "[{\"policyDefinitionId\":\"$definition\"}]" --query name
