#!/usr/bin/env bash
# Drives az through what it does with galleries, images and roles, and compares what comes back. Run by
# `cargo xtask test --part az`, below `bullion dev --tenants 2 --`.
set -euo pipefail

. "$(dirname "$0")/az-helpers.sh"

az cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
az cloud set --name Bullion
refused AADSTS7000215 login --service-principal -u "$BULLION_CLIENT_ID" -p wrong --tenant "$BULLION_TENANT_1"
refused AADSTS700016 login --service-principal -u "$BULLION_TENANT_1" -p wrong --tenant "$BULLION_TENANT_1"
refused AADSTS90002 login --service-principal -u "$BULLION_CLIENT_ID" -p wrong --tenant "$BULLION_SUBSCRIPTION_1"
for n in 1 2; do
  tenant=BULLION_TENANT_$n subscription=BULLION_SUBSCRIPTION_$n
  check "${!subscription}" login --service-principal -u "$BULLION_CLIENT_ID" -p "$BULLION_CLIENT_SECRET" \
    --tenant "${!tenant}" --query "[?tenantId=='${!tenant}'].id"
done
az account set --subscription "$BULLION_SUBSCRIPTION_2"

check Succeeded group create -n g -l "$BULLION_LOCATION" --query properties.provisioningState
check true group exists -n g
check false group exists -n none
check "$BULLION_LOCATION" sig create -g g -r gal --query location
check V2 sig image-definition create -g g -r gal -i def --publisher p --offer o --sku s --os-type Linux \
  --os-state Generalized --query hyperVGeneration
refused "already exists. Choose a different publisher" sig image-definition create -g g -r gal -i again --publisher p \
  --offer o --sku s --os-type Linux --os-state Generalized

version=(sig image-version create -g g -r gal -i def)
check Succeeded "${version[@]}" -e 1.0.0 --managed-image "$BULLION_IMAGE_1" \
  --target-regions "$BULLION_LOCATION=2" northeurope --query provisioningState
check 2 sig image-version show -g g -r gal -i def -e 1.0.0 --query "publishingProfile.targetRegions[0].regionalReplicaCount"
check Completed sig image-version show -g g -r gal -i def -e 1.0.0 --expand ReplicationStatus \
  --query replicationStatus.aggregatedState
check Succeeded "${version[@]}" -e 1.10.0 --os-vhd-uri "$BULLION_VHD_URI" --os-vhd-storage-account any --query provisioningState
refused "blob folder" "${version[@]}" -e 1.11.0 --os-vhd-uri http://localhost/x.vhd --os-vhd-storage-account any
refused "must contain the location" "${version[@]}" -e 1.11.0 --managed-image "$BULLION_IMAGE_2" --target-regions northeurope

check V2 image create -g g -n img --source "$BULLION_VHD_URI" --os-type Linux --hyper-v-generation V2 --query hyperVGeneration
check b image update -g g -n img --set tags.a=b --query tags.a
check V1 image create -g g -n first --source "$BULLION_VHD_URI" --os-type Linux --query hyperVGeneration
refused "different Hypervisor generation ['V1']" "${version[@]}" -e 1.11.0 --managed-image first
check Succeeded disk create -g g -n d --source "$BULLION_VHD_URI" --query provisioningState
check 4 disk create -g g -n empty --size-gb 4 --query diskSizeGB
check Succeeded snapshot create -g g -n s --source d --query provisioningState
check Succeeded "${version[@]}" -e 1.9.0 --os-snapshot s --query provisioningState
check $'1.0.0\n1.9.0\n1.10.0' sig image-version list -g g -r gal -i def --query '[].name'
check img image list -g g --query "[?name=='img'].name"
az snapshot delete -g g -n s
az disk delete -g g -n d --yes
az image delete -g g -n img
refused ResourceNotFound image show -g g -n img
refused "nested resources" sig delete -g g -r gal

builder=(-g g -n tpl)
check Succeeded image builder create "${builder[@]}" --image-source Debian:debian-12:12-gen2:latest --identity me \
  --shared-image-destinations "gal/def=$BULLION_LOCATION" --scripts https://example.org/setup.sh --query provisioningState
check Shell image builder show "${builder[@]}" --query 'customize[0].type'
defer=(-g g -n second --defer -o none)
az image builder create "${defer[@]}" --image-source Debian:debian-12:12-gen2:latest --identity me
az image builder output add "${defer[@]}" --managed-image made --managed-image-location "$BULLION_LOCATION" --output-name one
az image builder output add "${defer[@]}" --is-vhd --output-name two
az image builder customizer add "${defer[@]}" --customizer-name up --type shell --inline-script true
az image builder validator add "${defer[@]}" --continue-distribute-on-failure true
az image builder optimizer add "${defer[@]}" --enable-vm-boot true
az image builder error-handler add "${defer[@]}" --on-customizer-error abort
check $'Enabled\nabort\ntrue' image builder update -g g -n second \
  --query '[optimize.vmBoot.state, errorHandling.onCustomizerError, validate.continueDistributeOnFailure]'
check $'second\ntpl' image builder list -g g --query 'sort([].name)'
check tr image builder trigger create -g g --image-template-name tpl --trigger-name tr --kind SourceImage \
  --query name
az image builder run "${builder[@]}" --no-wait
refused "in progress" image builder run "${builder[@]}"
az image builder cancel "${builder[@]}"
az image builder wait "${builder[@]}" --custom "lastRunStatus.runState!='Running'" --interval 1 --timeout 60
check '' image builder show-runs "${builder[@]}"
az image builder delete "${builder[@]}"
check Debian vm image list-publishers -l "$BULLION_LOCATION" --query '[].name'
check $'11-gen2' vm image list-skus -l "$BULLION_LOCATION" -p Debian -f debian-11 --query '[].name'

scope=/subscriptions/$BULLION_SUBSCRIPTION_2/resourceGroups/g
check Bullion cloud show --query name
check "$BULLION_CLIENT_ID" ad sp show --id "$BULLION_CLIENT_ID" --query appId
check Reader role definition list --name Reader --query '[].roleName'
check "$scope" role assignment create --assignee "$BULLION_CLIENT_ID" --role Reader --scope "$scope" --query scope
check Reader role assignment list --scope "$scope" --query '[].roleDefinitionName'
check "$BULLION_CLIENT_ID" role assignment list --query '[].principalName'
az role assignment delete --assignee "$BULLION_CLIENT_ID" --role Reader --scope "$scope"
check "" role assignment list --scope "$scope" --query '[].roleDefinitionName'

# By certificate, in the home of the application and in the tenant that consented.
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=dev -keyout "$work/key.pem" -out "$work/cert.pem" 2> "$work/openssl"
cat "$work/key.pem" "$work/cert.pem" > "$work/both.pem"
token=$(curl --silent --fail --cacert "$BULLION_CA" --data grant_type=client_credentials \
  --data-urlencode "client_id=$BULLION_ADMIN_CLIENT_ID" --data-urlencode "client_secret=$BULLION_ADMIN_CLIENT_SECRET" \
  --data-urlencode scope=https://management.azure.com/.default "$BULLION_URL/$BULLION_TENANT_1/oauth2/v2.0/token" \
  | sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p')
body="{\"properties\":{\"certificate\":\"$(openssl x509 -in "$work/cert.pem" -outform DER | base64 --wrap=0)\"}}"
curl --silent --show-error --fail-with-body --output "$work/answer" --cacert "$BULLION_CA" --request PUT \
  --header "Authorization: Bearer $token" --header 'Content-Type: application/json' --data "$body" \
  "$BULLION_URL/providers/Bullion.Factory/applications/dev/certificates/laptop?api-version=2026-11-01"
export AZURE_CONFIG_DIR=$work/certificate
az cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
az cloud set --name Bullion
for n in 1 2; do
  tenant=BULLION_TENANT_$n subscription=BULLION_SUBSCRIPTION_$n
  check "${!subscription}" login --service-principal -u "$BULLION_CLIENT_ID" --certificate "$work/both.pem" \
    --tenant "${!tenant}" --query "[?tenantId=='${!tenant}'].id"
done
check dev ad sp show --id "$BULLION_CLIENT_ID" --query displayName
check dev group show -n dev --query name

# Roles of one's own, locks, people and groups: as the operator, who writes the directory.
export AZURE_CONFIG_DIR=$work/operator
az cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
az cloud set --name Bullion
here=/subscriptions/$BULLION_SUBSCRIPTION_2
check "$BULLION_SUBSCRIPTION_2" login --service-principal -u "$BULLION_ADMIN_CLIENT_ID" -p "$BULLION_ADMIN_CLIENT_SECRET" \
  --tenant "$BULLION_TENANT_2" --query "[?tenantId=='$BULLION_TENANT_2'].id"
role="{\"Name\":\"Version Writer\",\"Description\":\"d\",\"Actions\":[\"Microsoft.Compute/galleries/images/versions/*\"],
  \"AssignableScopes\":[\"$here\"]}"
check CustomRole role definition create --role-definition "$role" --query roleType
refused "same name already exists" role definition create --role-definition "$role"
refused InvalidActionOrNotAction role definition create --role-definition "${role/versions/verions}"
check e role definition update --role-definition "${role/\"d\"/\"e\"}" --query description
check ops ad group create --display-name ops --mail-nickname ops --query displayName
group=$(az ad group list --display-name ops --query '[0].id' --output tsv)
check ada@example.org ad user create --display-name Ada --user-principal-name ada@example.org --password Correct-Horse-1 \
  --query userPrincipalName
user=$(az ad user show --id ada@example.org --query id --output tsv)
az ad group member add --group "$group" --member-id "$user"
check true ad group member check --group "$group" --member-id "$user" --query value
check ops ad user get-member-groups --id ada@example.org --query '[].displayName'
check Group role assignment create --assignee-object-id "$group" --assignee-principal-type Group --role "Version Writer" \
  --scope "$scope" --query principalType
check ops role assignment list --assignee ada@example.org --include-groups --all --query '[].principalName'
check "Version Writer" role assignment list --scope "$scope" --include-inherited --query "[?scope=='$scope'].roleDefinitionName"
refused RoleDefinitionHasAssignments role definition delete --name "Version Writer"
az role assignment delete --assignee "$group" --scope "$scope"
az role definition delete --name "Version Writer"
az ad group member remove --group "$group" --member-id "$user"
check false ad group member check --group "$group" --member-id "$user" --query value
az ad user delete --id ada@example.org
check CanNotDelete lock create -n keep -g g --lock-type CanNotDelete --notes n --query level
refused ScopeLocked group delete -n g --yes
check ReadOnly lock update -n keep -g g --lock-type ReadOnly --query level
refused ScopeLocked sig create -g g -r other
check keep lock list --query '[].name'
az lock delete -n keep -g g
check shared identity create -g g -n shared --query name
refused PrincipalNotFound role assignment create --assignee-object-id "$user" --assignee-principal-type User --role Reader --scope "$scope"

az group delete -n g --yes --subscription "$BULLION_SUBSCRIPTION_2"
check false group exists -n g --subscription "$BULLION_SUBSCRIPTION_2"
