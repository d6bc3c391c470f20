#!/usr/bin/env bash
# An image goes into a gallery that speaks Azure's interface: as a page blob into a real Azurite, from there into a version,
# which az then reads. On the server's host, with the id of an image template that was built in BULLION_TEMPLATE, the
# server's data folder in BULLION_DATA, its blob server's program in AZURITE, and BULLION_URL, BULLION_CA, BULLION_TENANT,
# BULLION_CLIENT_ID, BULLION_CLIENT_SECRET. The server's `fetch_hosts` list 127.0.0.1 and localhost, and its `fetch_ca` is
# its own. The test `e2e` of the part `boot` runs it.
set -euo pipefail
. "$(dirname "$0")/az-helpers.sh"
# What the emulator's makers publish.
account=devstoreaccount1
account_key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==

"$AZURITE" --blobHost 127.0.0.1 --blobPort 0 --location "$work/azurite" --skipApiVersionCheck --disableTelemetry \
  >"$work/azurite.log" 2>&1 &
azurite=$!
trap 'kill $azurite; rm -rf "$work"' EXIT
listens='s|.*successfully listens on ||p; s|.*successfully listening at ||p'
until blob_end=$(sed -n "$listens" "$work/azurite.log") && [ -n "$blob_end" ]; do
  kill -0 $azurite || { cat "$work/azurite.log" >&2; exit 1; }
  sleep 0.2
done
storage=(--connection-string "DefaultEndpointsProtocol=http;AccountName=$account;AccountKey=$account_key;BlobEndpoint=$blob_end/$account")

sign_in "$BULLION_TENANT"
subscription=${BULLION_TEMPLATE#/subscriptions/}
az account set --subscription "${subscription%%/*}"
az storage container create --name images "${storage[@]}" --output none
signature=$(az storage container generate-sas --name images --permissions rcwdl --expiry 2099-01-01 "${storage[@]}" --output tsv)
location=$(az resource show --ids "$BULLION_TEMPLATE" --api-version 2024-02-01 --query location --output tsv)
az group create --name elsewhere --location "$location" --output none
az sig create --resource-group elsewhere --gallery-name elsewhere --output none
az sig image-definition create --resource-group elsewhere --gallery-name elsewhere --gallery-image-definition golden \
  --publisher Elsewhere --offer golden --sku gen2 --os-type Linux --hyper-v-generation V2 --output none
definition=$(az sig image-definition show --resource-group elsewhere --gallery-name elsewhere \
  --gallery-image-definition golden --query id --output tsv)

# The secrets that the template names.
secrets=$BULLION_DATA/secrets/$BULLION_TENANT
mkdir -p "$secrets"
printf '%s\n' "$signature" >"$secrets/elsewhere-container"
printf '{ "clientId": "%s", "clientSecret": "%s", "tenantId": "%s", "activeDirectoryEndpointUrl": "%s", "resourceManagerEndpointUrl": "%s" }\n' \
  "$BULLION_CLIENT_ID" "$BULLION_CLIENT_SECRET" "$BULLION_TENANT" "$BULLION_URL" "$BULLION_URL" >"$secrets/elsewhere"

# The template with one more place to go to, and a run, which finds all but the delivery done.
template=$BULLION_URL$BULLION_TEMPLATE
az rest --method get --url "$template?api-version=2026-11-01" --resource "$BULLION_URL" >"$work/template.json"
python3 - "$work/template.json" "$definition" "$location" "$blob_end/$account/images" <<'END'
import json, sys
path, definition, location, container = sys.argv[1:]
template = json.load(open(path))
properties = {name: value for name, value in template["properties"].items()
              if name not in ("provisioningState", "lastRunStatus", "exactStagingResourceGroup")}
properties["distribute"] = [place for place in properties["distribute"] if place["runOutputName"] != "elsewhere"]
properties["distribute"].append({
    "type": "Bullion.AzureGallery", "runOutputName": "elsewhere", "galleryImageId": definition, "location": location,
    "container": container, "sas": "elsewhere-container", "credential": "elsewhere", "artifactTags": {"via": "azurite"}})
json.dump({name: template[name] for name in ("location", "tags", "identity") if template.get(name)} | {"properties": properties},
          open(path, "w"))
END
az rest --method put --url "$template?api-version=2026-11-01" --resource "$BULLION_URL" --body "@$work/template.json" --output none
az image builder run --ids "$BULLION_TEMPLATE"

# What came of it: the same bytes, read from the version there.
digest=$(az resource show --ids "$BULLION_TEMPLATE/runOutputs/elsewhere" --api-version 2024-02-01 --query properties.artifactId --output tsv)
[ "$digest" = "$definition/versions/1.0.0" ] || { echo "the run's output is $digest" >&2; exit 1; }
version=(sig image-version show --resource-group elsewhere --gallery-name elsewhere --gallery-image-definition golden
  --gallery-image-version 1.0.0)
check Succeeded "${version[@]}" --query provisioningState
check azurite "${version[@]}" --query tags.via
sent=$(az "${version[@]}" --query 'tags."bullion-disk"' --output tsv)
arrived=$(az resource show --ids "$definition/versions/1.0.0" --api-version 2024-03-03 --query properties.bullion.diskDigest --output tsv)
[ "$sent" = "$arrived" ] || { echo "sent was $sent, there is $arrived" >&2; exit 1; }
echo "ok  the version there has the disk $arrived"
if az "${version[@]}" --output json | grep --quiet 'sig='; then echo "the version shows a signature" >&2; exit 1; fi
check 0 storage blob list --container-name images "${storage[@]}" --query 'length(@)'

# Again: the version is found.
az image builder run --ids "$BULLION_TEMPLATE"
check 1 sig image-version list --resource-group elsewhere --gallery-name elsewhere --gallery-image-definition golden --query 'length(@)'
