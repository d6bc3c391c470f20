# What the scripts that drive az share: a folder of their own, how a value is compared, how a refusal is, and the sign-in. To be sourced.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AZURE_CONFIG_DIR=$work/az REQUESTS_CA_BUNDLE=$BULLION_CA
export AZURE_CORE_INSTANCE_DISCOVERY=false AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_ONLY_SHOW_ERRORS=true

# check EXPECTED az-arguments...: the value, as text.
check() {
  local expected=$1 seen; shift
  seen=$(az "$@" --output tsv) || { echo "az ${*:1:3} failed" >&2; exit 1; }
  [ "$seen" = "$expected" ] || { printf 'az %s\n  gave     %s\n  expected %s\n' "$*" "$seen" "$expected" >&2; exit 1; }
  echo "ok  az ${*:1:3}: $seen"
}

# refused PART az-arguments...: it fails, and says so.
refused() {
  local part=$1 said; shift
  if said=$(az "$@" 2>&1); then echo "az $* was not refused" >&2; exit 1; fi
  grep --quiet --fixed-strings "$part" <<<"$said" || { printf 'az %s\n  said %s\n' "$*" "$said" >&2; exit 1; }
  echo "ok  az ${*:1:3}: refused, $part"
}

# sign_in TENANT...: the server as az's cloud, and the application signed in to each.
sign_in() {
  local tenant
  az cloud register --name Bullion --endpoint-resource-manager "$BULLION_URL"
  az cloud set --name Bullion
  for tenant; do
    az login --service-principal -u "$BULLION_CLIENT_ID" --password="$BULLION_CLIENT_SECRET" --tenant "$tenant" --output none
  done
}
