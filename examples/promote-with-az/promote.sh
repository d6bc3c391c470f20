#!/usr/bin/env bash
# Promotes one image through three tenants with az alone, as a release pipeline does:
#
#   bullion dev --tenants 3 -- examples/promote-with-az/promote.sh
#
# Each stage (dev, test, prod) is a tenant of its own with its own gallery. A stage's service principal belongs to an
# application of that tenant. An administrator of the stage before lets the application in there, in a browser, and
# gives it Reader. So the principal reads one version of the stage before and writes to its own gallery, and nothing else.
#
# Needs az and curl.
set -euo pipefail

: "${BULLION_URL:?run this below \`bullion dev --tenants 3 --\`}"
: "${BULLION_TENANT_3:?this example needs three tenants: \`bullion dev --tenants 3 --\`}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export REQUESTS_CA_BUNDLE=$BULLION_CA
# Without this az asks Microsoft's own sign-in service about this server.
export AZURE_CORE_INSTANCE_DISCOVERY=false AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_ONLY_SHOW_ERRORS=true
back=https://example.com/consented
group=images
definition=golden
number=1.0.0

tenant() { local name=BULLION_TENANT_$1; echo "${!name}"; }
subscription() { local name=BULLION_SUBSCRIPTION_$1; echo "${!name}"; }
say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

# az as NAME: each identity has a configuration, and so a sign-in, of its own.
as() { local who=$1; shift; AZURE_CONFIG_DIR=$work/$who az "$@"; }

register() {
  as "$1" cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
  as "$1" cloud set --name Bullion
}

# sign_in NAME CLIENT_ID SECRET STAGE...
sign_in() {
  local who=$1 id=$2 secret=$3; shift 3
  register "$who"
  for stage in "$@"; do
    as "$who" login --service-principal --username "$id" --password "$secret" --tenant "$(tenant "$stage")" --output none
  done
}

curl_() { curl --silent --show-error --fail-with-body --cacert "$BULLION_CA" "$@"; }
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# A token of the administrator of STAGE's tenant.
admin_token() {
  curl_ --data-urlencode "client_id=$BULLION_ADMIN_CLIENT_ID" --data-urlencode "client_secret=$BULLION_ADMIN_CLIENT_SECRET" \
    --data grant_type=client_credentials --data-urlencode scope=https://management.azure.com/.default \
    "$BULLION_URL/$(tenant "$1")/oauth2/v2.0/token" | member access_token
}

# admin STAGE METHOD PATH [BODY]
admin() {
  curl_ --request "$2" --header "Authorization: Bearer $(admin_token "$1")" --header 'Content-Type: application/json' \
    --data "${4:-{\}}" "$BULLION_URL$3?api-version=2026-11-01"
}

# consent STAGE CLIENT_ID: what the administrator of STAGE's tenant does in a browser.
consent() {
  local url="$BULLION_URL/$(tenant "$1")/oauth2/authorize" page mark location
  local jar=$work/cookies-$1
  page=$(curl_ --get --cookie-jar "$jar" --data-urlencode "client_id=$2" --data response_type=code \
    --data-urlencode "redirect_uri=$back" "$url")
  mark=$(sed -n 's/.*name="mark" value="\([^"]*\)".*/\1/p' <<<"$page")
  location=$(curl_ --cookie "$jar" --output /dev/null --write-out '%{redirect_url}' \
    --data-urlencode "client_id=$2" --data response_type=code --data-urlencode "redirect_uri=$back" \
    --data-urlencode "mark=$mark" --data-urlencode "admin_id=$BULLION_ADMIN_CLIENT_ID" \
    --data-urlencode "admin_secret=$BULLION_ADMIN_CLIENT_SECRET" --data answer=approve "$url")
  case $location in
    "$back?code="*admin_consent=True*) ;;
    *) fail "the consent did not come back to the application, but to '$location'" ;;
  esac
}

gallery() { echo "golden_$1"; }
gallery_id() {
  echo "/subscriptions/$(subscription "$1")/resourceGroups/$group/providers/Microsoft.Compute/galleries/$(gallery "$1")"
}
version_id() { echo "$(gallery_id "$1")/images/$definition/versions/$number"; }

say "the owner of the subscriptions makes a gallery in each stage"
sign_in owner "$BULLION_CLIENT_ID" "$BULLION_CLIENT_SECRET" 1 2 3
for stage in 1 2 3; do
  as owner group create --subscription "$(subscription $stage)" --name $group --location "$BULLION_LOCATION" --output none
  as owner group create --subscription "$(subscription $stage)" --name other --location "$BULLION_LOCATION" --output none
  as owner sig create --subscription "$(subscription $stage)" -g $group -r "$(gallery $stage)" --output none
  as owner sig image-definition create --subscription "$(subscription $stage)" -g $group -r "$(gallery $stage)" \
    -i $definition --publisher factory --offer debian --sku 12 --os-type Linux --os-state Generalized \
    --hyper-v-generation V2 --output none
done

say "stage 1 publishes a version, from a managed image of its own"
as owner account set --subscription "$(subscription 1)"
as owner sig image-version create -g $group -r "$(gallery 1)" -i $definition -e $number \
  --managed-image "$BULLION_IMAGE_1" --target-regions "$BULLION_LOCATION" --replica-count 1 --output none

# promote STAGE: as the stage's own principal, from the stage before.
promote() {
  as "stage-$1" sig image-version create -g $group -r "$(gallery "$1")" -i $definition -e $number \
    --managed-image "$(version_id $(($1 - 1)))" --target-regions "$BULLION_LOCATION" --replica-count 1 "${@:2}"
}

for stage in 2 3; do
  before=$((stage - 1))
  say "stage $stage gets an application of its own, which stage $before lets in"
  path=/providers/Bullion.Factory/applications/stage-$stage
  app=$(admin $stage PUT $path "{\"properties\":{\"multiTenant\":true,\"redirectUris\":[\"$back\"]}}" | member appId)
  secret=$(admin $stage POST $path/addPassword | member secretText)
  consent $before "$app"

  # az looks the assignee up in the tenant of the subscription that is set.
  as owner account set --subscription "$(subscription $stage)"
  as owner role assignment create --assignee "$app" --role Contributor --scope "$(gallery_id $stage)" --output none
  as owner role assignment create --assignee "$app" --role Reader \
    --scope "/subscriptions/$(subscription $stage)/resourceGroups/$group" --output none
  as owner account set --subscription "$(subscription $before)"
  # A role elsewhere in the subscription lets az find it, and says nothing about the gallery.
  as owner role assignment create --assignee "$app" --role Reader \
    --scope "/subscriptions/$(subscription $before)/resourceGroups/other" --output none

  sign_in "stage-$stage" "$app" "$secret" $before $stage
  as "stage-$stage" account set --subscription "$(subscription $stage)"

  say "stage $stage may not read the version of stage $before yet"
  if said=$(promote $stage 2>&1); then fail "a version was made without the right to read its source"; fi
  grep --quiet LinkedAuthorizationFailed <<<"$said" || fail "refused, but otherwise: $said"

  say "stage $before gives it Reader, and the version is promoted"
  as owner role assignment create --assignee "$app" --role Reader --scope "$(gallery_id $before)" --output none
  state=$(promote $stage --query provisioningState --output tsv)
  [ "$state" = Succeeded ] || fail "the version of stage $stage is $state"
  as owner account set --subscription "$(subscription $stage)"
done

say "the three versions have one disk"
digests=$(for stage in 1 2 3; do
  as owner account set --subscription "$(subscription $stage)"
  as owner rest --method get --url "$(version_id $stage)?api-version=2024-03-03" --query properties.bullion.diskDigest --output tsv
done)
echo "$digests"
[ "$(sort --unique <<<"$digests" | wc --lines)" = 1 ] || fail "the disks differ"
replicated=$(as owner sig image-version show --subscription "$(subscription 3)" -g $group -r "$(gallery 3)" -i $definition \
  -e $number --expand ReplicationStatus --query replicationStatus.aggregatedState --output tsv)
[ "$replicated" = Completed ] || fail "the replication of stage 3 is $replicated"
say "promoted from stage 1 to stage 3"
