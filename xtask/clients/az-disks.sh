#!/usr/bin/env bash
# Drives az through data disks of versions and images, and through disks and snapshots that are read by a URL.
# Run by `cargo xtask test --part az`, below `bullion dev --tenants 2 --`.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

sign_in "$BULLION_TENANT_1" "$BULLION_TENANT_2"
az account set --subscription "$BULLION_SUBSCRIPTION_2"
az group create -n g -l "$BULLION_LOCATION" --output none
fact() { az resource show --ids "$1" --api-version 2024-03-03 --query "properties.bullion.$2" --output tsv; }

# Two disks of other bytes: one of the VHD, one empty, and a snapshot of each.
az disk create -g g -n os --source "$BULLION_VHD_URI" --os-type Linux --output none
check 1 disk create -g g -n data --size-gb 1 --query diskSizeGB
os=$(az snapshot create -g g -n os --source os --query id --output tsv)
data=$(az snapshot create -g g -n data --source data --query id --output tsv)

# A version of two snapshots.
az sig create -g g -r many --output none
definition=(-g g -r many -i def)
az sig image-definition create "${definition[@]}" --publisher p --offer o --sku s --os-type Linux --output none
create=(sig image-version create "${definition[@]}" -e 1.0.0 --os-snapshot "$os" --data-snapshots "$data" --data-snapshot-luns 3)
refused "between 0 and 63" "${create[@]::${#create[@]}-1}" 64
refused "Duplicated lun numbers" sig image-version create "${definition[@]}" -e 1.0.0 --os-snapshot "$os" \
  --data-snapshots "$data" "$os" --data-snapshot-luns 3 3
check 3 "${create[@]}" --query 'storageProfile.dataDiskImages[0].lun'
first=$(az sig image-version show "${definition[@]}" -e 1.0.0 --query id --output tsv)
check 1 sig image-version show "${definition[@]}" -e 1.0.0 --query 'storageProfile.dataDiskImages[0].sizeInGB'
check Completed sig image-version show "${definition[@]}" -e 1.0.0 --expand ReplicationStatus --query replicationStatus.aggregatedState
check "$(fact "$data" diskDigest)" resource show --ids "$first" --api-version 2024-03-03 --query 'properties.bullion.dataDisks[0].diskDigest'

# Another tenant's copy of it has both.
az group create -n h -l "$BULLION_LOCATION" --subscription "$BULLION_SUBSCRIPTION_1" --output none
other=(-g h -r many -i def --subscription "$BULLION_SUBSCRIPTION_1")
az sig create -g h -r many --subscription "$BULLION_SUBSCRIPTION_1" --output none
az sig image-definition create "${other[@]}" --publisher p --offer o --sku s --os-type Linux --output none
check 3 sig image-version create "${other[@]}" -e 1.0.0 --image-version "$first" --query 'storageProfile.dataDiskImages[0].lun'
second=$(az sig image-version show "${other[@]}" -e 1.0.0 --query id --output tsv)
check "$(fact "$data" diskDigest)" resource show --ids "$second" --subscription "$BULLION_SUBSCRIPTION_1" --api-version 2024-03-03 --query 'properties.bullion.dataDisks[0].diskDigest'

# A managed image with data disks, and a version of it.
check 2 image create -g g -n both --source os --data-disk-sources data "$BULLION_VHD_URI" --os-type Linux --hyper-v-generation V2 \
  --query 'length(storageProfile.dataDisks)'
image=$(az image show -g g -n both --query id --output tsv)
check 2 sig image-version create "${definition[@]}" -e 1.0.1 --managed-image "$image" --query 'length(storageProfile.dataDiskImages)'

# Disks and snapshots by URL: the bytes of the VHD that the disk was made of, whole and in parts.
for kind in disk snapshot; do
  url=$(az "$kind" grant-access -g g -n os --duration-in-seconds 3600 --access-level Read --query accessSAS --output tsv)
  check ActiveSAS "$kind" show -g g -n os --query diskState
  get() { curl --silent --fail --cacert "$BULLION_CA" "$@"; }
  get --output "$work/$kind.vhd" "$url"
  get --output "$work/$kind.part" --header 'x-ms-range: bytes=512-1535' "$url"
  [ "$(tail -c 512 "$work/$kind.vhd" | head -c 8)" = conectix ] || { echo "what came is no VHD" >&2; exit 1; }
  cmp --quiet "$work/$kind.part" <(tail -c +513 "$work/$kind.vhd" | head -c 1024) || { echo "a part is not of the whole" >&2; exit 1; }
  get --output "$work/source.vhd" "$BULLION_VHD_URI"
  cmp --quiet <(head -c -512 "$work/$kind.vhd") <(head -c -512 "$work/source.vhd") || { echo "the disk has other bytes" >&2; exit 1; }
  delete=("$kind" delete -g g -n os)
  [ "$kind" = snapshot ] || delete+=(--yes)
  refused "Call EndGetAccess" "${delete[@]}"
  az "$kind" revoke-access -g g -n os
  [ "$(curl --silent --output /dev/null --write-out '%{http_code}' --cacert "$BULLION_CA" "$url")" = 403 ] || { echo "a revoked URL is good" >&2; exit 1; }
  check Unattached "$kind" show -g g -n os --query diskState
done
refused "not uploaded" disk grant-access -g g -n os --duration-in-seconds 60 --access-level Write

# One data disk of a version as a disk.
check 1 disk create -g g -n third --gallery-image-reference "$first" --gallery-image-reference-lun 3 --query diskSizeGB
check "$(fact "$data" diskDigest)" resource show --ids "$(az disk show -g g -n third --query id --output tsv)" --api-version 2025-01-02 \
  --query properties.bullion.diskDigest
az group delete -n g --yes
