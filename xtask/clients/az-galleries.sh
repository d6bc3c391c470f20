#!/usr/bin/env bash
# Drives az through what galleries do beyond being filled: updates, soft delete, sharing with another tenant and with
# everybody, applications, usages. Run by `cargo xtask test --part az`, below `bullion dev --tenants 2 --`.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

sign_in "$BULLION_TENANT_1" "$BULLION_TENANT_2"
az account set --subscription "$BULLION_SUBSCRIPTION_2"
az group create -n g -l "$BULLION_LOCATION" --output none

# A gallery with soft delete.
check true sig create -g g -r kept --soft-delete true --query softDeletePolicy.isSoftDeleteEnabled
az sig image-definition create -g g -r kept -i def --publisher p --offer o --sku s --os-type Linux --output none
version=(-g g -r kept -i def -e 1.0.0)
az sig image-version create "${version[@]}" --managed-image "$BULLION_IMAGE_2" --output none
check true sig image-version update "${version[@]}" --set publishingProfile.excludeFromLatest=true --query publishingProfile.excludeFromLatest
check 2 sig image-version update "${version[@]}" --add publishingProfile.targetRegions name=northeurope \
  --query 'length(publishingProfile.targetRegions)'
refused "Duplicate regions" sig image-version update "${version[@]}" --add publishingProfile.targetRegions name=NorthEurope
refused "allowDeletionOfReplicatedLocations" sig image-version update "${version[@]}" --target-regions "$BULLION_LOCATION"
check 3 sig image-definition update -g g -r kept -i def --set recommended.vCPUs.min=3 --query recommended.vCPUs.min
az sig image-version delete "${version[@]}"
refused ResourceNotFound sig image-version show "${version[@]}"
check 1.0.0 sig image-version list-soft-deleted -g g -r kept -i def --query '[].name'
refused "nested resources" sig image-definition delete -g g -r kept -i def
check Succeeded sig image-version undelete "${version[@]}" --query provisioningState
check 1.0.0 sig image-version list -g g -r kept -i def --query '[].name'

# Shared with the first tenant's subscription, which makes a version of it and loses it again.
az sig create -g g -r direct --permissions groups --output none
az sig image-definition create -g g -r direct -i def --publisher p --offer o --sku s --os-type Linux --output none
az sig image-version create -g g -r direct -i def -e 1.0.0 --managed-image "$BULLION_IMAGE_2" --output none
az sig share add -g g -r direct --subscription-ids "$BULLION_SUBSCRIPTION_1" --output none
check "$BULLION_SUBSCRIPTION_1" sig show -g g -r direct --sharing-groups --query 'sharingProfile.groups[0].ids[0]'
unique=$(az sig show -g g -r direct --query identifier.uniqueName --output tsv)
here=(--location "$BULLION_LOCATION" --gallery-unique-name "$unique" --subscription "$BULLION_SUBSCRIPTION_1")
check "$unique" sig list-shared --location "$BULLION_LOCATION" --subscription "$BULLION_SUBSCRIPTION_1" --query '[].name'
check "/SharedGalleries/$unique/Images/def" sig image-definition show-shared "${here[@]}" --gallery-image-definition def --query uniqueId
check 1.0.0 sig image-version list-shared "${here[@]}" --gallery-image-definition def --query '[].name'
az sig share reset -g g -r direct --output none
refused ResourceNotFound sig show-shared "${here[@]}"

# Shared with everybody.
check Community sig create -g g -r open --permissions community --publisher-uri https://example.test \
  --publisher-email a@example.test --eula https://example.test/eula --public-name-prefix golden --query sharingProfile.permissions
az sig share enable-community -g g -r open --output none
public=$(az sig show -g g -r open --query 'sharingProfile.communityGalleryInfo.publicNames[0]' --output tsv)
check "$public" sig list-community --location "$BULLION_LOCATION" --subscription "$BULLION_SUBSCRIPTION_1" --query '[].name'
check "/CommunityGalleries/$public" sig show-community --location "$BULLION_LOCATION" --public-gallery-name "$public" --query uniqueId
refused "Reset its sharing" sig delete -g g -r open

app=(-g g -r kept --application-name tool)
check Linux sig gallery-application create "${app[@]}" --os-type Linux --query supportedOSType
check 1.0.0 sig gallery-application version create "${app[@]}" -n 1.0.0 --package-file-link https://example.test/t.zip \
  --install-command true --remove-command true --query name
check 3 vm list-usage --location "$BULLION_LOCATION" --query "[?name.value=='galleries'].currentValue"
check 1024 vm list-sizes --location "$BULLION_LOCATION" --query "[?name=='Standard_B1s'].memoryInMB"
az group delete -n g --yes
