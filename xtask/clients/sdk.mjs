// Drives the npm SDK through one gallery's life, and compares what comes back.
// Run by `cargo xtask test --part sdk`, below `bullion dev --tenants 2 --`.
import assert from "node:assert/strict";
import { ComputeManagementClient } from "@azure/arm-compute";
import { ClientSecretCredential } from "@azure/identity";

const env = process.env;
const location = env.BULLION_LOCATION;
const credential = new ClientSecretCredential(env.BULLION_TENANT_1, env.BULLION_CLIENT_ID, env.BULLION_CLIENT_SECRET, {
  authorityHost: env.BULLION_URL,
  disableInstanceDiscovery: true,
});
const compute = new ComputeManagementClient(credential, env.BULLION_SUBSCRIPTION_1, {
  endpoint: env.BULLION_URL,
  credentials: { scopes: ["https://management.core.windows.net//.default"] },
});

function check(what, expected, seen) {
  assert.deepEqual(seen, expected, what);
  console.log(`ok  ${what}: ${JSON.stringify(seen)}`);
}

// The group that `bullion dev` made.
const group = "dev";
const gallery = await compute.galleries.createOrUpdate(group, "js", { location });
check("gallery", "js", gallery.name);
const definition = await compute.galleryImages.createOrUpdate(group, "js", "def", {
  location,
  osType: "Linux",
  osState: "Generalized",
  hyperVGeneration: "V2",
  identifier: { publisher: "p", offer: "o", sku: "s" },
});
check("definition", "s", definition.identifier.sku);
const version = await compute.galleryImageVersions.createOrUpdate(group, "js", "def", "1.0.0", {
  location,
  storageProfile: { source: { id: env.BULLION_IMAGE_1 } },
});
check("version", "Succeeded", version.provisioningState);
const names = [];
for await (const one of compute.galleryImageVersions.listByGalleryImage(group, "js", "def")) names.push(one.name);
check("versions", ["1.0.0"], names);
await assert.rejects(compute.galleries.get(group, "none"), (error) => error.statusCode === 404 && error.code === "ResourceNotFound");
await assert.rejects(compute.galleries.delete(group, "js"), (error) => error.code === "Conflict");
await compute.galleryImageVersions.delete(group, "js", "def", "1.0.0");
await compute.galleryImages.delete(group, "js", "def");
await compute.galleries.delete(group, "js");
await assert.rejects(compute.galleries.get(group, "js"), (error) => error.statusCode === 404);
console.log("ok  all gone");
