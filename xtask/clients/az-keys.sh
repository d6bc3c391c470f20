#!/usr/bin/env bash
# Drives az through a tenant's own key: a disk encryption set, a version that it encrypts, a new key, and the end of both.
# Run by `cargo xtask test --part az`, below `bullion dev --`.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

sign_in "$BULLION_TENANT_1"
az account set --subscription "$BULLION_SUBSCRIPTION_1"
az group create -n k -l "$BULLION_LOCATION" --output none
set=(-g k -n own)

check EncryptionAtRestWithCustomerKey disk-encryption-set create "${set[@]}" --key-url "$BULLION_URL/keys" --mi-system-assigned --query encryptionType
id=$(az disk-encryption-set show "${set[@]}" --query id --output tsv)
key() { az disk-encryption-set show "${set[@]}" --query activeKey.keyUrl --output tsv; }
first=$(key)
check own disk-encryption-set list -g k --query '[].name'
refused "names no key vault" disk-encryption-set create -g k -n other --key-url https://v.vault.azure.net/keys/k/1

# A version in the open, and one with the key that has the same disk.
az disk create -g k -n os --source "$BULLION_VHD_URI" --os-type Linux --output none
snapshot=$(az snapshot create -g k -n os --source os --query id --output tsv)
az sig create -g k -r keys --output none
definition=(-g k -r keys -i def)
az sig image-definition create "${definition[@]}" --publisher p --offer o --sku s --os-type Linux --output none
az sig image-version create "${definition[@]}" -e 1.0.0 --os-snapshot "$snapshot" --output none
open=$(az sig image-version show "${definition[@]}" -e 1.0.0 --query id --output tsv)
encrypted=(sig image-version create "${definition[@]}" -e 2.0.0 --image-version "$open" --target-regions "$BULLION_LOCATION")
refused "is not found" "${encrypted[@]}" --target-region-encryption "${id%/*}/none"
check "$id" "${encrypted[@]}" --target-region-encryption "$id" \
  --query 'publishingProfile.targetRegions[0].encryption.osDiskImage.diskEncryptionSetId'
version=$(az sig image-version show "${definition[@]}" -e 2.0.0 --query id --output tsv)
check Completed sig image-version show "${definition[@]}" -e 2.0.0 --expand ReplicationStatus --query replicationStatus.aggregatedState
refused "encrypted by a disk encryption set" sig image-version create "${definition[@]}" -e 3.0.0 --image-version "$version"
check "$version" disk-encryption-set list-associated-resources "${set[@]}" --query '[0]'
refused "cannot be deleted" disk-encryption-set delete "${set[@]}"

# A new key: what is stored stays as it is.
post() { az rest --method post --url "$BULLION_URL$id/$1?api-version=2023-04-02" "${@:2}"; }
post rotateKey --output none
second=$(key)
[ "$first" != "$second" ] || { echo "the key was not rotated" >&2; exit 1; }
az disk-encryption-set update "${set[@]}" --key-url "${second%/*}" --output none
[ "$second" != "$(key)" ] || { echo "a key without a version is no new one" >&2; exit 1; }
az tag update --resource-id "$id" --operation merge --tags a=1 --output none

# The bits of it, before and after its key is gone; those of the other version stay.
token=$(az account get-access-token --query accessToken --output tsv)
export_of() {
  curl --silent --show-error --fail --cacert "$BULLION_CA" --header "Authorization: Bearer $token" --output "$work/out" \
    "$BULLION_URL$1/providers/Bullion.Factory/exports/raw?api-version=2026-11-01"
}
export_of "$version" && sum=$(sha256sum <"$work/out")
[ "$(post erase --body '{}' --query done --output tsv)" = false ] && export_of "$version"
if post erase --body '{"confirm": "other"}' 2>"$work/said"; then echo "the wrong name erases" >&2; exit 1; fi
[ "$(post erase --body '{"confirm": "own"}' --query 'disks | length(@)' --output tsv)" = 1 ]
if export_of "$version" 2>/dev/null; then echo "what was erased can be read" >&2; exit 1; fi
export_of "$open" && [ "$sum" = "$(sha256sum <"$work/out")" ] || { echo "another version has other bytes" >&2; exit 1; }
echo "ok  erased, and the other version is whole"

az sig image-version delete "${definition[@]}" -e 2.0.0
az disk-encryption-set delete "${set[@]}"
check 0 disk-encryption-set list -g k --query 'length(@)'
