"""Drives the Python SDK through galleries, groups, tags and roles, and compares what comes back.

Run by `cargo xtask test --part sdk`, below `bullion dev --tenants 2 --`.
"""

import os
import sys
import uuid

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

URL = os.environ["BULLION_URL"]
LOCATION = os.environ["BULLION_LOCATION"]
os.environ["REQUESTS_CA_BUNDLE"] = os.environ["BULLION_CA"]
DEFINITION = {"location": LOCATION, "properties": {
    "osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
    "identifier": {"publisher": "p", "offer": "o", "sku": "s"}}}
SCOPES = ["https://management.core.windows.net//.default"]


def check(what, expected, seen):
    if seen != expected:
        sys.exit(f"{what}\n  gave     {seen!r}\n  expected {expected!r}")
    print(f"ok  {what}: {seen!r}")


def refused(what, code, call):
    try:
        call()
    except HttpResponseError as error:
        check(what, code, error.error.code if error.error else None)
        return
    sys.exit(f"{what} was not refused")


def credential(tenant, secret=None):
    return ClientSecretCredential(
        os.environ[f"BULLION_TENANT_{tenant}"],
        os.environ["BULLION_CLIENT_ID"],
        secret or os.environ["BULLION_CLIENT_SECRET"],
        authority=URL,
        disable_instance_discovery=True,
        additionally_allowed_tenants=["*"],
    )


def client(kind, tenant, **more):
    subscription = os.environ[f"BULLION_SUBSCRIPTION_{tenant}"]
    return kind(credential(tenant), subscription, base_url=URL, credential_scopes=SCOPES, **more)


compute = client(ComputeManagementClient, 1)
resources = client(ResourceManagementClient, 1)
roles = client(AuthorizationManagementClient, 1)
subscription = os.environ["BULLION_SUBSCRIPTION_1"]

group = resources.resource_groups.create_or_update("sdk", {"location": LOCATION, "tags": {"team": "a"}})
check("group", "Succeeded", group.properties.provisioning_state)
check("group exists", True, resources.resource_groups.check_existence("sdk"))
check("group that is not there", False, resources.resource_groups.check_existence("none"))
check("group update", {"team": "b"}, resources.resource_groups.update("sdk", {"tags": {"team": "b"}}).tags)
check("groups by tag", ["sdk"], [g.name for g in resources.resource_groups.list(filter="tagName eq 'team' and tagValue eq 'b'")])

gallery = compute.galleries.begin_create_or_update("sdk", "gal", {"location": LOCATION}).result()
check("gallery", "gal", gallery.name)
definition = compute.gallery_images.begin_create_or_update(
    "sdk", "gal", "def",
    DEFINITION,
).result()
check("definition", "o", definition.identifier.offer)
for number in ["1.0.0", "1.9.0", "1.10.0"]:
    version = compute.gallery_image_versions.begin_create_or_update(
        "sdk", "gal", "def", number,
        {"location": LOCATION, "properties": {
            "storageProfile": {"source": {"id": os.environ["BULLION_IMAGE_1"]}},
            "publishingProfile": {"targetRegions": [{"name": LOCATION, "regionalReplicaCount": 2}]}}},
    ).result()
    check(f"version {number}", "Succeeded", version.provisioning_state)
check("versions in order", ["1.0.0", "1.9.0", "1.10.0"],
      [v.name for v in compute.gallery_image_versions.list_by_gallery_image("sdk", "gal", "def")])
shown = compute.gallery_image_versions.get("sdk", "gal", "def", "1.9.0", expand="ReplicationStatus")
check("replication", "Completed", shown.replication_status.aggregated_state)
check("replicas", 2, shown.publishing_profile.target_regions[0].regional_replica_count)
updated = compute.galleries.begin_update("sdk", "gal", {"tags": {"a": "1"}}).result()
check("gallery update", {"a": "1"}, updated.tags)
check("identifier kept", gallery.identifier.unique_name, compute.galleries.get("sdk", "gal").identifier.unique_name)
refused("gallery with definitions", "Conflict", lambda: compute.galleries.begin_delete("sdk", "gal").result())
refused("gallery elsewhere", "Conflict",
        lambda: compute.galleries.begin_create_or_update("sdk", "gal", {"location": "elsewhere"}).result())
try:
    compute.galleries.get("sdk", "none")
    sys.exit("a gallery that is not there was found")
except ResourceNotFoundError as error:
    check("absent gallery", "ResourceNotFound", error.error.code)

check("everything", ["gal"],
      [r.name for r in resources.resources.list(filter="resourceType eq 'Microsoft.Compute/galleries' and resourceGroup eq 'sdk'")])
tags = resources.tags.begin_update_at_scope(gallery.id, {"operation": "Merge", "properties": {"tags": {"b": "2"}}}).result()
check("tags merged", {"a": "1", "b": "2"}, dict(tags.properties.tags))
check("provider", "Registered", resources.providers.register("Microsoft.Compute").registration_state)

scope = group.id
reader = next(iter(roles.role_definitions.list(scope, filter="roleName eq 'Reader'")))
check("role", "Reader", reader.role_name)
me = next(iter(roles.role_assignments.list_for_subscription())).principal_id
name = str(uuid.uuid4())
made = roles.role_assignments.create(
    scope, name, {"properties": {"roleDefinitionId": reader.id, "principalId": me, "principalType": "ServicePrincipal"}})
check("assignment", me, made.principal_id)
check("assignment deleted", name, roles.role_assignments.delete(scope, name).name)

other = client(ComputeManagementClient, 2)
other.galleries.begin_create_or_update("dev", "py", {"location": LOCATION}).result()
other.gallery_images.begin_create_or_update(
    "dev", "py", "def", DEFINITION).result()
body = {"location": LOCATION, "properties": {"storageProfile": {"source": {"id": os.environ["BULLION_IMAGE_1"]}}}}
refused("another tenant's image without its token", "LinkedAuthorizationFailed",
        lambda: other.gallery_image_versions.begin_create_or_update("dev", "py", "def", "1.0.0", body).result())
token = credential(1).get_token(*SCOPES).token
made = other.gallery_image_versions.begin_create_or_update(
    "dev", "py", "def", "1.0.0", body, headers={"x-ms-authorization-auxiliary": f"Bearer {token}"}).result()
check("with its token", "Succeeded", made.provisioning_state)

for number in ["1.0.0", "1.9.0", "1.10.0"]:
    compute.gallery_image_versions.begin_delete("sdk", "gal", "def", number).result()
resources.resource_groups.begin_delete("sdk").result()
check("group is gone", False, resources.resource_groups.check_existence("sdk"))
