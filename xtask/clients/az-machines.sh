#!/usr/bin/env bash
# Drives az through the life of a machine that runs a real guest: it is switched, keeps its disk, and becomes an image.
# By hand, on the server's host, with the id of a running machine in BULLION_MACHINE, and BULLION_URL, BULLION_CA,
# BULLION_TENANT, BULLION_SUBSCRIPTION, BULLION_CLIENT_ID, BULLION_CLIENT_SECRET: it takes two minutes, and generalizes it.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

az cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
az cloud set --name Bullion
az login --service-principal -u "$BULLION_CLIENT_ID" -p "$BULLION_CLIENT_SECRET" --tenant "$BULLION_TENANT" --output none
az account set --subscription "$BULLION_SUBSCRIPTION"
here=(--ids "$BULLION_MACHINE")
power=(vm get-instance-view "${here[@]}" --query "instanceView.statuses[?starts_with(code, 'PowerState/')].displayStatus")
check "VM running" "${power[@]}"
name=${BULLION_MACHINE##*/}
location=$(az vm show "${here[@]}" --query location --output tsv)

# What Bullion says beyond Azure's: the machine's address, key and disk.
fact() { az resource show --ids "$1" --api-version 2024-07-01 --query "properties.bullion.$2" --output tsv; }
key=$(fact "$BULLION_MACHINE" ssh.keyFile) user=$(fact "$BULLION_MACHINE" ssh.user)
inside() {
  ssh -q -i "$key" -p "$(fact "$BULLION_MACHINE" ssh.port)" -o BatchMode=yes -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null "$user@127.0.0.1" "$@"
}
inside "echo kept | sudo tee /var/lib/kept"

refused "since the VM is running" vm generalize "${here[@]}"
az group create -n machines -l "$location" --output none
refused "requires the Virtual Machine '$name' to be Generalized" image create -g machines -n early --source "$BULLION_MACHINE" -l "$location"
az vm stop "${here[@]}"
check "VM stopped" "${power[@]}"
az vm stop "${here[@]}"
check "VM stopped" "${power[@]}"
az vm start "${here[@]}"
check "VM running" "${power[@]}"
[ "$(inside cat /var/lib/kept)" = kept ] || { echo "the disk was not kept" >&2; exit 1; }
az vm deallocate "${here[@]}"
check "VM deallocated" "${power[@]}"

generation=$(az vm get-instance-view "${here[@]}" --query instanceView.hyperVGeneration --output tsv)
az sig create -g machines -r captured --output none
for state in generalized specialized; do
  az sig image-definition create -g machines -r captured -i "$state" --publisher p --offer o --sku "$state" \
    --os-type Linux --os-state "$state" --hyper-v-generation "$generation" --output none
done
version=(sig image-version create -g machines -r captured -e 1.0.0 --virtual-machine "$BULLION_MACHINE" --query provisioningState)
refused "is not Specialized" "${version[@]}" -i generalized
check Succeeded "${version[@]}" -i specialized
az vm generalize "${here[@]}"
check "VM generalized" vm get-instance-view "${here[@]}" --query "instanceView.statuses[?code=='OSState/generalized'].displayStatus"
refused "since the VM is generalized" vm start "${here[@]}"
refused "is not Generalized" "${version[@]}" -i specialized -e 1.0.1
check Succeeded "${version[@]}" -i generalized
check "$generation" image create -g machines -n taken --source "$BULLION_MACHINE" -l "$location" --hyper-v-generation "$generation" --query hyperVGeneration
captured=$(fact "$(az image show -g machines -n taken --query id --output tsv)" diskDigest)
[ "$captured" != "$(fact "$BULLION_MACHINE" diskDigest)" ] || { echo "the image is not of the machine's own disk" >&2; exit 1; }
check "$captured" resource show --ids "$(az sig image-version show -g machines -r captured -i generalized -e 1.0.0 --query id \
  --output tsv)" --api-version 2024-03-03 --query properties.bullion.diskDigest
az group delete -n machines --yes
