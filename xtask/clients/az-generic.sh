#!/usr/bin/env bash
# Drives az through what all types have in common: tags, lists, providers, generic resource commands, the activity log. Run
# by `cargo xtask test --part az`, below `bullion dev --tenants 2 --`.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

az cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
az cloud set --name Bullion
check "$BULLION_SUBSCRIPTION_1" login --service-principal -u "$BULLION_CLIENT_ID" -p "$BULLION_CLIENT_SECRET" \
  --tenant "$BULLION_TENANT_1" --query "[0].id"

check a group create -n gen -l "$BULLION_LOCATION" --tags team=a --query tags.team
check b group update -n gen --set tags.team=b --query tags.team
check gen group list --tag team=b --query '[].name'
check gal sig create -g gen -r gal --query name
gallery=$(az sig show -g gen -r gal --query id --output tsv)
check 1 tag create --resource-id "$gallery" --tags x=1 --query properties.tags.x
check 2 tag update --resource-id "$gallery" --operation Merge --tags y=2 --query properties.tags.y
check 1 tag list --resource-id "$gallery" --query properties.tags.x
az tag delete --resource-id "$gallery" --yes
check 0 tag list --resource-id "$gallery" --query 'length(properties.tags)'

check gal resource list -g gen --resource-type Microsoft.Compute/galleries --query '[].name'
check "$gallery" resource show --ids "$gallery" --query id
check gal resource show -g gen -n gal --resource-type Microsoft.Compute/galleries --query name
check t resource tag --ids "$gallery" --tags k=t --query tags.k
check gal resource list --tag k=t --query '[].name'
check new resource update --ids "$gallery" --set properties.description=new --query properties.description

check Registered provider show -n Microsoft.Compute --query registrationState
az provider register -n Microsoft.Compute
check galleries provider show -n Microsoft.Compute --query "resourceTypes[?resourceType=='galleries'].resourceType"

log=(monitor activity-log list --resource-group gen --offset 1h)
check Microsoft.Compute/galleries/write "${log[@]}" --status Succeeded \
  --query "[?contains(resourceId, 'galleries')] | [-1].operationName.value"
correlation=$(az "${log[@]}" --query '[0].correlationId' --output tsv)
check "$correlation" monitor activity-log list --correlation-id "$correlation" --query '[0].correlationId'
az resource delete --ids "$gallery"
check "" resource list -g gen --query '[].name'
az group delete -n gen --yes
check false group exists -n gen
