#!/usr/bin/env bash
# Drives az through the life of a machine that runs a real guest: it acts as its identity from inside, is switched, keeps
# its disk, and becomes an image, of which az makes another machine. On the server's host, with the id of a running machine
# in BULLION_MACHINE, and BULLION_URL, BULLION_CA, BULLION_TENANT, BULLION_CLIENT_ID,
# BULLION_CLIENT_SECRET. The test `e2e` of the part `boot` runs it; at its end the machine is generalized.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"

sign_in "$BULLION_TENANT"
subscription=${BULLION_MACHINE#/subscriptions/}
az account set --subscription "${subscription%%/*}"
here=(--ids "$BULLION_MACHINE")
power=(vm get-instance-view "${here[@]}" --query "instanceView.statuses[?starts_with(code, 'PowerState/')].displayStatus")
check "VM running" "${power[@]}"
name=${BULLION_MACHINE##*/}
location=$(az vm show "${here[@]}" --query location --output tsv)

# What Bullion says beyond Azure's: the machine's address, key and disk.
fact() { az resource show --ids "$1" --api-version 2024-07-01 --query "properties.bullion.$2" --output tsv; }
key=$(fact "$BULLION_MACHINE" ssh.keyFile) user=$(fact "$BULLION_MACHINE" ssh.user)
inside() { inside_of "$BULLION_MACHINE" "$@"; }
inside_of() {
  local machine=$1; shift
  ssh -q -i "$key" -p "$(fact "$machine" ssh.port)" -o BatchMode=yes -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null "$user@127.0.0.1" "$@"
}
inside "echo kept | sudo tee /var/lib/kept"

# asks PATH [HEADER]: what the metadata service answers inside the machine.
asks() {
  inside bash -s "$(printf %q "$1")" "$(printf %q "${2-Metadata: true}")" <<'END'
exec 3<>/dev/tcp/169.254.169.254/80
printf 'GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n%s\r\n\r\n' "$1" "$2" >&3
cat <&3
END
}
said() {
  grep --quiet --fixed-strings "$1" <<<"$2" || { printf 'the metadata service said\n%s\nwithout %s\n' "$2" "$1" >&2; exit 1; }
  echo "ok  metadata: $1"
}
# as_machine PATH: the status that ARM answers the machine's token with.
as_machine() {
  az rest --skip-authorization-header --headers "Authorization=Bearer $token" --url "$BULLION_URL$1?api-version=2024-07-01" \
    --query name --output tsv 2>&1 || true
}
group=${BULLION_MACHINE%/providers/*}
token_path='/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/'
said '"name":"'"$name"'"' "$(asks '/metadata/instance?api-version=2021-02-01')"
said 'Required metadata header not specified' "$(asks "$token_path" 'X-None: 1')"
said 'Identity not found' "$(asks "$token_path")"
az vm identity assign "${here[@]}" --output none
principal=$(az vm show "${here[@]}" --query identity.principalId --output tsv)
token=$(asks "$token_path" | grep --only-matching '"access_token":"[^"]*' | cut -d '"' -f 4)
[[ $(as_machine "$BULLION_MACHINE") = *AuthorizationFailed* ]] || { echo "a machine without a role may read" >&2; exit 1; }
az role assignment create --assignee-object-id "$principal" --assignee-principal-type ServicePrincipal --role Reader \
  --scope "$BULLION_MACHINE" --output none
said "$name" "$(as_machine "$BULLION_MACHINE")"
said AuthorizationFailed "$(as_machine "$group")"
said X-Forwarded-For "$(asks "$token_path" $'Metadata: true\r\nX-Forwarded-For: 192.0.2.1')"

refused "since the VM is running" vm generalize "${here[@]}"
az group create -n machines -l "$location" --output none
refused "requires the Virtual Machine '$name' to be Generalized" image create -g machines -n early --source "$BULLION_MACHINE" -l "$location"
az vm stop "${here[@]}"
check "VM stopped" "${power[@]}"
az vm stop "${here[@]}"
check "VM stopped" "${power[@]}"
# A data disk is put on while the machine is off, and inside it goes by its lun.
at=(-g "$(az vm show "${here[@]}" --query resourceGroup --output tsv)")
az vm disk attach "${at[@]}" --vm-name "$name" --name "$name-data" --new --size-gb 1 --sku Standard_LRS --output none
check "$name-data" vm show "${here[@]}" --query "storageProfile.dataDisks[?lun==\`0\`].name"
az vm start "${here[@]}"
check "VM running" "${power[@]}"
[ "$(inside cat /var/lib/kept)" = kept ] || { echo "the disk was not kept" >&2; exit 1; }
on_data() { inside "sudo mount /dev/disk/by-id/virtio-lun0 /mnt && $1; sudo umount /mnt"; }
inside sudo mkfs.ext4 -q /dev/disk/by-id/virtio-lun0
on_data "echo data | sudo tee /mnt/kept"
before=$(inside cat /proc/sys/kernel/random/boot_id)
az vm restart "${here[@]}" --output none
check "VM running" "${power[@]}"
[ "$(inside cat /proc/sys/kernel/random/boot_id)" != "$before" ] || { echo "it was not restarted" >&2; exit 1; }
[ "$(on_data "cat /mnt/kept")" = data ] || { echo "the data disk was not kept" >&2; exit 1; }
said '"access_token":"' "$(asks "$token_path")"
az vm deallocate "${here[@]}"
check "VM deallocated" "${power[@]}"
check Attached disk show "${at[@]}" -n "$name-data" --query diskState
az vm disk detach "${at[@]}" --vm-name "$name" --name "$name-data" --output none
check Unattached disk show "${at[@]}" -n "$name-data" --query diskState
az disk delete "${at[@]}" -n "$name-data" --yes

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

# Another machine, of the image that was just taken of the first one.
other=$group/providers/Microsoft.Compute/virtualMachines/$name-2
az resource create --id "$other" --api-version 2024-07-01 --is-full-object --output none --properties "{
  \"location\": \"$location\", \"tags\": { \"made-by\": \"az\" }, \"identity\": { \"type\": \"SystemAssigned\" }, \"properties\": {
    \"hardwareProfile\": { \"vmSize\": \"$(az vm show "${here[@]}" --query hardwareProfile.vmSize --output tsv)\" },
    \"osProfile\": { \"computerName\": \"$name-2\", \"adminUsername\": \"$user\" },
    \"storageProfile\": { \"imageReference\": { \"id\": \"$(az sig image-version show -g machines -r captured -i generalized \
      -e 1.0.0 --query id --output tsv)\" } } } }"
check "VM running" vm get-instance-view --ids "$other" --query "instanceView.statuses[?starts_with(code, 'PowerState/')].displayStatus"
key=$(fact "$other" ssh.keyFile)
[ "$(inside_of "$other" cat /var/lib/kept)" = kept ] || { echo "it is not of the image" >&2; exit 1; }
az vm delete --ids "$other" --yes
az group delete -n machines --yes
