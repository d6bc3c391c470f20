//! The operation table: every ARM operation that this server answers, one row each.
//!
//! From these rows come the permission check, the denial test, the list of providers and the committed listing
//! in `tests/operations.txt`. A path that is in no row is answered by nothing.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::Method;

use crate::operation::{Operation, Subject, Tenancy, no_links};
use crate::path::{ArmPath, Place, Shape};
use crate::resources::templates::triggers;
use crate::resources::{
    activity_log, applications, consents, credentials, disk_access, disk_encryption_sets, disks,
    everything, exports, galleries, gallery_applications, groups, identities, images, locks,
    machine_disks, machines, managed_images, management_groups, marketplace, operations, people,
    pipelines, policies, power, promotions, roles, runs, shared, sharing, signing_keys,
    soft_delete, statements, subscriptions, tags, templates, tenancy, usages, versions,
};
use crate::{machine_tokens, managed};

const ROOT: &[Place] = &[Place::Root];
const SUBSCRIPTION: &[Place] = &[Place::Subscription];
const GROUP: &[Place] = &[Place::Group];
const LISTED: &[Place] = &[Place::Subscription, Place::Group];
const EXTENSION: &[Place] = &[Place::Group, Place::Resource];
const RESOURCE: &[Place] = &[Place::Resource];
const ANYWHERE: &[Place] = &[
    Place::Root,
    Place::ManagementGroup,
    Place::Subscription,
    Place::Group,
    Place::Resource,
];

/// Where definitions live.
const WRITTEN: &[Place] = &[Place::ManagementGroup, Place::Subscription];
/// Where policies hold.
const HELD: &[Place] = &[
    Place::ManagementGroup,
    Place::Subscription,
    Place::Group,
    Place::Resource,
];
const BELOW_SUBSCRIPTION: &[Place] = &[Place::Subscription, Place::Group, Place::Resource];

/// A handler as a table cell: its future, boxed.
macro_rules! run {
    ($handler:path) => {
        |server, call| Box::pin($handler(server, call))
    };
}

/// One row: method, shape, type, places, action, handler; what is unusual is set behind it.
macro_rules! row {
    ($method:ident $shape:ident $kind:expr, $places:expr, $action:expr, $handler:path $(, $field:ident: $value:expr)*) => {{
        #[allow(unused_mut)]
        let mut row = Operation {
            method: Method::$method,
            shape: Shape::$shape,
            kind: $kind,
            places: $places,
            subject: Subject::Path,
            tenancy: Tenancy::Scope,
            action: $action,
            links: no_links,
            run: run!($handler),
        };
        $(row.$field = $value;)*
        row
    }};
}

/// What belongs to the installation's tenant.
fn installation() -> Vec<Operation> {
    vec![
        row!(PUT Named tenancy::TENANT, ROOT, "Bullion.Factory/tenants/write", tenancy::put_tenant, tenancy: Tenancy::Installation),
        row!(GET Named tenancy::TENANT, ROOT, "Bullion.Factory/tenants/read", tenancy::get, tenancy: Tenancy::Installation),
        row!(GET Collection tenancy::TENANT, ROOT, "Bullion.Factory/tenants/read", tenancy::tenants, tenancy: Tenancy::Installation),
        row!(DELETE Named tenancy::TENANT, ROOT, "Bullion.Factory/tenants/delete", tenancy::remove_tenant, tenancy: Tenancy::Installation),
        row!(PUT Named tenancy::REGION, ROOT, "Bullion.Factory/regions/write", tenancy::put_region, tenancy: Tenancy::Installation),
        row!(GET Named tenancy::REGION, ROOT, "Bullion.Factory/regions/read", tenancy::get_region, tenancy: Tenancy::Installation),
        row!(GET Collection tenancy::REGION, ROOT, "Bullion.Factory/regions/read", tenancy::regions, tenancy: Tenancy::Installation),
    ]
}

/// Subscriptions, groups and what Azure shows beside them.
fn subscriptions() -> Vec<Operation> {
    vec![
        row!(PUT Named subscriptions::KIND, ROOT, "Microsoft.Resources/subscriptions/write", subscriptions::put),
        row!(GET Named subscriptions::KIND, ROOT, "Microsoft.Resources/subscriptions/read", subscriptions::get),
        row!(GET Collection subscriptions::KIND, ROOT, "Microsoft.Resources/subscriptions/read", subscriptions::all, subject: Subject::Own),
        row!(GET Collection "Microsoft.Resources/tenants", ROOT, "Microsoft.Resources/tenants/read", subscriptions::tenants, subject: Subject::Own),
        row!(GET Collection "Microsoft.Resources/locations", SUBSCRIPTION, "Microsoft.Resources/subscriptions/locations/read", subscriptions::locations),
        row!(GET Collection "Microsoft.Resources/providers", SUBSCRIPTION, "Microsoft.Resources/subscriptions/providers/read", subscriptions::providers),
        row!(GET Named "Microsoft.Resources/providers", SUBSCRIPTION, "Microsoft.Resources/subscriptions/providers/read", subscriptions::one_provider),
        row!(GET Collection everything::KIND, LISTED, "Microsoft.Resources/subscriptions/resources/read", everything::all),
        row!(GET Named tags::KIND, BELOW_SUBSCRIPTION, "Microsoft.Resources/tags/read", tags::get, subject: Subject::Parent),
        row!(PUT Named tags::KIND, BELOW_SUBSCRIPTION, "Microsoft.Resources/tags/write", tags::put, subject: Subject::Parent),
        row!(PATCH Named tags::KIND, BELOW_SUBSCRIPTION, "Microsoft.Resources/tags/write", tags::patch, subject: Subject::Parent),
        row!(DELETE Named tags::KIND, BELOW_SUBSCRIPTION, "Microsoft.Resources/tags/delete", tags::remove, subject: Subject::Parent),
        row!(GET Collection activity_log::KIND, SUBSCRIPTION, "Microsoft.Insights/eventtypes/values/read", activity_log::values, subject: Subject::Parent),
        row!(GET Collection activity_log::KIND, ROOT, "Microsoft.Insights/eventtypes/values/read", activity_log::values, subject: Subject::Parent),
        row!(GET Collection activity_log::CATEGORIES, ROOT, "Microsoft.Insights/eventCategories/read", activity_log::categories, subject: Subject::Everybody),
        row!(PUT Named groups::KIND, SUBSCRIPTION, "Microsoft.Resources/subscriptions/resourceGroups/write", groups::put),
        row!(GET Named groups::KIND, SUBSCRIPTION, "Microsoft.Resources/subscriptions/resourceGroups/read", groups::get),
        row!(HEAD Named groups::KIND, SUBSCRIPTION, "Microsoft.Resources/subscriptions/resourceGroups/read", groups::head),
        row!(GET Collection groups::KIND, SUBSCRIPTION, "Microsoft.Resources/subscriptions/resourceGroups/read", groups::all),
        row!(DELETE Named groups::KIND, SUBSCRIPTION, "Microsoft.Resources/subscriptions/resourceGroups/delete", groups::remove),
    ]
}

/// Who may sign in, and who may do what.
fn identity() -> Vec<Operation> {
    vec![
        row!(PUT Named applications::KIND, ROOT, "Bullion.Factory/applications/write", applications::put),
        row!(GET Named applications::KIND, ROOT, "Bullion.Factory/applications/read", applications::get),
        row!(GET Collection applications::KIND, ROOT, "Bullion.Factory/applications/read", applications::all),
        row!(DELETE Named applications::KIND, ROOT, "Bullion.Factory/applications/delete", applications::remove),
        row!(POST Collection "Bullion.Factory/applications/addPassword", ROOT, "Bullion.Factory/applications/addPassword/action", applications::add_password),
        row!(PUT Named credentials::CERTIFICATE, ROOT, "Bullion.Factory/applications/certificates/write", credentials::put_certificate),
        row!(GET Named credentials::CERTIFICATE, ROOT, "Bullion.Factory/applications/certificates/read", credentials::get),
        row!(GET Collection credentials::CERTIFICATE, ROOT, "Bullion.Factory/applications/certificates/read", credentials::certificates),
        row!(DELETE Named credentials::CERTIFICATE, ROOT, "Bullion.Factory/applications/certificates/delete", credentials::remove),
        row!(PUT Named credentials::FEDERATED, ROOT, "Bullion.Factory/applications/federatedCredentials/write", credentials::put_federated),
        row!(GET Named credentials::FEDERATED, ROOT, "Bullion.Factory/applications/federatedCredentials/read", credentials::get),
        row!(GET Collection credentials::FEDERATED, ROOT, "Bullion.Factory/applications/federatedCredentials/read", credentials::federated),
        row!(DELETE Named credentials::FEDERATED, ROOT, "Bullion.Factory/applications/federatedCredentials/delete", credentials::remove),
        row!(POST Collection "Bullion.Factory/applications/listPasswords", ROOT, "Bullion.Factory/applications/listPasswords/action", applications::list_passwords),
        row!(POST Collection "Bullion.Factory/applications/removePassword", ROOT, "Bullion.Factory/applications/removePassword/action", applications::remove_password),
        row!(PUT Named consents::KIND, ROOT, "Bullion.Factory/servicePrincipals/write", consents::put),
        row!(GET Named consents::KIND, ROOT, "Bullion.Factory/servicePrincipals/read", consents::get),
        row!(GET Collection consents::KIND, ROOT, "Bullion.Factory/servicePrincipals/read", consents::all),
        row!(DELETE Named consents::KIND, ROOT, "Bullion.Factory/servicePrincipals/delete", consents::remove),
    ]
}

/// People and groups.
fn people() -> Vec<Operation> {
    use people::{GROUP, MEMBER, USER};
    vec![
        row!(PUT Named USER, ROOT, "Bullion.Factory/users/write", people::put_user),
        row!(GET Named USER, ROOT, "Bullion.Factory/users/read", people::get),
        row!(GET Collection USER, ROOT, "Bullion.Factory/users/read", people::users),
        row!(DELETE Named USER, ROOT, "Bullion.Factory/users/delete", people::remove),
        row!(PUT Named GROUP, ROOT, "Bullion.Factory/groups/write", people::put_group),
        row!(GET Named GROUP, ROOT, "Bullion.Factory/groups/read", people::get),
        row!(GET Collection GROUP, ROOT, "Bullion.Factory/groups/read", people::groups),
        row!(DELETE Named GROUP, ROOT, "Bullion.Factory/groups/delete", people::remove),
        row!(PUT Named MEMBER, ROOT, "Bullion.Factory/groups/members/write", people::put_member),
        row!(GET Named MEMBER, ROOT, "Bullion.Factory/groups/members/read", people::get),
        row!(GET Collection MEMBER, ROOT, "Bullion.Factory/groups/members/read", people::members),
        row!(DELETE Named MEMBER, ROOT, "Bullion.Factory/groups/members/delete", people::remove),
    ]
}

/// Identities of machines and other resources, and the keys that sign everybody's tokens.
fn identities() -> Vec<Operation> {
    use identities::KIND;
    vec![
        row!(PUT Named KIND, GROUP, "Microsoft.ManagedIdentity/userAssignedIdentities/write", identities::put),
        row!(PATCH Named KIND, GROUP, "Microsoft.ManagedIdentity/userAssignedIdentities/write", identities::patch),
        row!(GET Named KIND, GROUP, "Microsoft.ManagedIdentity/userAssignedIdentities/read", identities::get),
        row!(GET Collection KIND, LISTED, "Microsoft.ManagedIdentity/userAssignedIdentities/read", identities::all),
        row!(DELETE Named KIND, GROUP, "Microsoft.ManagedIdentity/userAssignedIdentities/delete", identities::remove),
        row!(POST Collection "Bullion.Factory/issueIdentitySecret", RESOURCE, "Bullion.Factory/machineIdentities/issueSecret/action", machine_tokens::issue_secret),
        row!(GET Collection signing_keys::KIND, ROOT, "Bullion.Factory/signingKeys/read", signing_keys::all, tenancy: Tenancy::Installation),
        row!(POST Collection signing_keys::ROTATE, ROOT, "Bullion.Factory/signingKeys/rotate/action", signing_keys::rotate, tenancy: Tenancy::Installation),
        row!(GET Collection signing_keys::STATEMENTS, ROOT, "Bullion.Factory/signingKeys/read", signing_keys::statements, tenancy: Tenancy::Installation),
        row!(POST Collection signing_keys::ROTATE_STATEMENTS, ROOT, "Bullion.Factory/signingKeys/rotate/action", signing_keys::rotate_statements, tenancy: Tenancy::Installation),
    ]
}

/// Who may do what, and what nobody may.
fn rights() -> Vec<Operation> {
    use roles::{ASSIGNMENT, DEFINITION, DENIAL};
    use roles::{assignments, definitions, denials, operations};
    vec![
        row!(PUT Named ASSIGNMENT, ANYWHERE, "Microsoft.Authorization/roleAssignments/write", assignments::put),
        row!(GET Named ASSIGNMENT, ANYWHERE, "Microsoft.Authorization/roleAssignments/read", assignments::get),
        row!(GET Collection ASSIGNMENT, ANYWHERE, "Microsoft.Authorization/roleAssignments/read", assignments::all),
        row!(DELETE Named ASSIGNMENT, ANYWHERE, "Microsoft.Authorization/roleAssignments/delete", assignments::remove),
        row!(PUT Named DEFINITION, ANYWHERE, "Microsoft.Authorization/roleDefinitions/write", definitions::put, links: definitions::links),
        row!(GET Named DEFINITION, ANYWHERE, "Microsoft.Authorization/roleDefinitions/read", definitions::get),
        row!(GET Collection DEFINITION, ANYWHERE, "Microsoft.Authorization/roleDefinitions/read", definitions::all),
        row!(DELETE Named DEFINITION, ANYWHERE, "Microsoft.Authorization/roleDefinitions/delete", definitions::remove),
        row!(PUT Named DENIAL, ANYWHERE, "Microsoft.Authorization/denyAssignments/write", denials::put),
        row!(GET Named DENIAL, ANYWHERE, "Microsoft.Authorization/denyAssignments/read", denials::get),
        row!(GET Collection DENIAL, ANYWHERE, "Microsoft.Authorization/denyAssignments/read", denials::all),
        row!(DELETE Named DENIAL, ANYWHERE, "Microsoft.Authorization/denyAssignments/delete", denials::remove),
        row!(PUT Named locks::KIND, BELOW_SUBSCRIPTION, "Microsoft.Authorization/locks/write", locks::put),
        row!(GET Named locks::KIND, BELOW_SUBSCRIPTION, "Microsoft.Authorization/locks/read", locks::get),
        row!(GET Collection locks::KIND, BELOW_SUBSCRIPTION, "Microsoft.Authorization/locks/read", locks::all),
        row!(DELETE Named locks::KIND, BELOW_SUBSCRIPTION, "Microsoft.Authorization/locks/delete", locks::remove),
        row!(GET Collection operations::KIND, ROOT, "Microsoft.Authorization/providerOperations/read", operations::all, subject: Subject::Everybody),
        row!(GET Named operations::KIND, ROOT, "Microsoft.Authorization/providerOperations/read", operations::one, subject: Subject::Everybody),
    ]
}

/// Galleries and machines.
fn compute() -> Vec<Operation> {
    vec![
        row!(PUT Named galleries::KIND, GROUP, "Microsoft.Compute/galleries/write", galleries::put),
        row!(GET Named galleries::KIND, GROUP, "Microsoft.Compute/galleries/read", galleries::get),
        row!(GET Collection galleries::KIND, LISTED, "Microsoft.Compute/galleries/read", galleries::all),
        row!(DELETE Named galleries::KIND, GROUP, "Microsoft.Compute/galleries/delete", galleries::remove),
        row!(PUT Named images::KIND, GROUP, "Microsoft.Compute/galleries/images/write", images::put),
        row!(GET Named images::KIND, GROUP, "Microsoft.Compute/galleries/images/read", images::get),
        row!(GET Collection images::KIND, GROUP, "Microsoft.Compute/galleries/images/read", images::all),
        row!(DELETE Named images::KIND, GROUP, "Microsoft.Compute/galleries/images/delete", images::remove),
        row!(PUT Named versions::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/write", versions::put, links: versions::links),
        row!(GET Named versions::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/read", versions::get),
        row!(GET Collection versions::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/read", versions::all),
        row!(DELETE Named versions::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/delete", versions::remove),
        row!(GET Collection soft_delete::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/read", soft_delete::all, subject: Subject::Meant),
        row!(GET Named soft_delete::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/read", soft_delete::get, subject: Subject::Meant),
        row!(DELETE Named soft_delete::KIND, GROUP, "Microsoft.Compute/galleries/images/versions/delete", soft_delete::remove, subject: Subject::Meant),
        row!(POST Collection "Microsoft.Compute/galleries/share", GROUP, sharing::SHARE, sharing::share),
        row!(PUT Named machines::KIND, GROUP, "Microsoft.Compute/virtualMachines/write", machines::put, links: machines::links),
        row!(GET Named machines::KIND, GROUP, "Microsoft.Compute/virtualMachines/read", machines::get),
        row!(GET Collection machines::KIND, LISTED, "Microsoft.Compute/virtualMachines/read", machines::all),
        row!(DELETE Named machines::KIND, GROUP, "Microsoft.Compute/virtualMachines/delete", machines::remove),
        row!(GET Collection "Microsoft.Compute/virtualMachines/instanceView", GROUP, "Microsoft.Compute/virtualMachines/instanceView/read", machines::instance_view),
        row!(GET Collection usages::USAGES, SUBSCRIPTION, "Microsoft.Compute/locations/usages/read", usages::usages),
        row!(GET Collection usages::SIZES_OF_LOCATION, SUBSCRIPTION, "Microsoft.Compute/locations/vmSizes/read", usages::sizes),
        row!(GET Collection usages::SIZES_OF_MACHINE, GROUP, "Microsoft.Compute/virtualMachines/vmSizes/read", usages::sizes),
        row!(POST Collection "Microsoft.Compute/virtualMachines/start", GROUP, "Microsoft.Compute/virtualMachines/start/action", power::start),
        row!(POST Collection "Microsoft.Compute/virtualMachines/restart", GROUP, "Microsoft.Compute/virtualMachines/restart/action", power::restart),
        row!(POST Collection "Microsoft.Compute/virtualMachines/powerOff", GROUP, "Microsoft.Compute/virtualMachines/powerOff/action", power::power_off),
        row!(POST Collection "Microsoft.Compute/virtualMachines/deallocate", GROUP, "Microsoft.Compute/virtualMachines/deallocate/action", power::deallocate),
        row!(POST Collection "Microsoft.Compute/virtualMachines/redeploy", GROUP, "Microsoft.Compute/virtualMachines/redeploy/action", power::redeploy),
        row!(POST Collection "Microsoft.Compute/virtualMachines/generalize", GROUP, "Microsoft.Compute/virtualMachines/generalize/action", power::generalize),
        row!(POST Collection "Microsoft.Compute/virtualMachines/attachDetachDataDisks", GROUP, "Microsoft.Compute/virtualMachines/attachDetachDataDisks/action", machine_disks::attach_detach, links: machine_disks::links_of_action),
        row!(POST Collection "Microsoft.Compute/virtualMachines/capture", GROUP, "Microsoft.Compute/virtualMachines/capture/action", power::capture),
        row!(GET Named exports::KIND, RESOURCE, exports::ACTION, exports::get, subject: Subject::Parent),
        row!(GET Named "Bullion.Factory/machineImages", RESOURCE, "Bullion.Factory/machineImages/read", machines::image, subject: Subject::Parent),
    ]
}

/// What is known of the disks of versions.
fn statements() -> Vec<Operation> {
    vec![
        row!(GET Collection statements::KIND, RESOURCE, "Bullion.Factory/statements/read", statements::all),
        row!(GET Named statements::KIND, RESOURCE, "Bullion.Factory/statements/read", statements::get, subject: Subject::Parent),
        row!(GET Named statements::PACKAGES, RESOURCE, "Bullion.Factory/packages/read", statements::packages, subject: Subject::Parent),
        row!(POST Collection statements::COMPARE, GROUP, "Microsoft.Compute/galleries/images/versions/comparePackages/action", statements::compare, links: statements::links),
        row!(POST Collection statements::VERIFY, GROUP, "Microsoft.Compute/galleries/images/versions/verifyBuild/action", statements::verify),
        row!(GET Collection statements::AFFECTED, SUBSCRIPTION, "Bullion.Factory/affected/read", statements::affected),
    ]
}

/// Keys of a tenant's own.
fn keys() -> Vec<Operation> {
    use disk_encryption_sets::{ASSOCIATED, ERASE, KIND, READ, ROTATE};
    vec![
        row!(PUT Named KIND, GROUP, "Microsoft.Compute/diskEncryptionSets/write", disk_encryption_sets::put, links: managed::links),
        row!(GET Named KIND, GROUP, READ, disk_encryption_sets::get),
        row!(GET Collection KIND, LISTED, READ, disk_encryption_sets::all),
        row!(DELETE Named KIND, GROUP, "Microsoft.Compute/diskEncryptionSets/delete", disk_encryption_sets::remove),
        row!(GET Collection ASSOCIATED, GROUP, READ, disk_encryption_sets::associated),
        row!(POST Collection ROTATE, GROUP, "Microsoft.Compute/diskEncryptionSets/rotateKey/action", disk_encryption_sets::rotate),
        row!(POST Collection ERASE, GROUP, "Microsoft.Compute/diskEncryptionSets/erase/action", disk_encryption_sets::erase),
    ]
}

/// Packages beside images in galleries.
fn gallery_packages() -> Vec<Operation> {
    use gallery_applications::{KIND, VERSION};
    const WRITE: &str = "Microsoft.Compute/galleries/applications/write";
    const READ: &str = "Microsoft.Compute/galleries/applications/read";
    const WRITE_VERSION: &str = "Microsoft.Compute/galleries/applications/versions/write";
    const READ_VERSION: &str = "Microsoft.Compute/galleries/applications/versions/read";
    vec![
        row!(PUT Named KIND, GROUP, WRITE, gallery_applications::put),
        row!(GET Named KIND, GROUP, READ, gallery_applications::get),
        row!(GET Collection KIND, GROUP, READ, gallery_applications::all),
        row!(DELETE Named KIND, GROUP, "Microsoft.Compute/galleries/applications/delete", gallery_applications::remove),
        row!(PUT Named VERSION, GROUP, WRITE_VERSION, gallery_applications::put_version),
        row!(GET Named VERSION, GROUP, READ_VERSION, gallery_applications::get),
        row!(GET Collection VERSION, GROUP, READ_VERSION, gallery_applications::all_versions),
        row!(DELETE Named VERSION, GROUP, "Microsoft.Compute/galleries/applications/versions/delete", gallery_applications::remove),
    ]
}

/// Galleries of others, as those they are shared with read them.
fn open_galleries() -> Vec<Operation> {
    const SHARED_IMAGE: &str = "Microsoft.Compute/locations/sharedGalleries/images";
    const SHARED_VERSION: &str = "Microsoft.Compute/locations/sharedGalleries/images/versions";
    const COMMUNITY_IMAGE: &str = "Microsoft.Compute/locations/communityGalleries/images";
    const COMMUNITY_VERSION: &str =
        "Microsoft.Compute/locations/communityGalleries/images/versions";
    vec![
        row!(GET Collection shared::SHARED, SUBSCRIPTION, "Microsoft.Compute/locations/sharedGalleries/read", shared::galleries),
        row!(GET Named shared::SHARED, SUBSCRIPTION, "Microsoft.Compute/locations/sharedGalleries/read", shared::gallery),
        row!(GET Collection SHARED_IMAGE, SUBSCRIPTION, "Microsoft.Compute/locations/sharedGalleries/images/read", shared::definitions),
        row!(GET Named SHARED_IMAGE, SUBSCRIPTION, "Microsoft.Compute/locations/sharedGalleries/images/read", shared::definition),
        row!(GET Collection SHARED_VERSION, SUBSCRIPTION, "Microsoft.Compute/locations/sharedGalleries/images/versions/read", shared::all_versions),
        row!(GET Named SHARED_VERSION, SUBSCRIPTION, "Microsoft.Compute/locations/sharedGalleries/images/versions/read", shared::version),
        row!(GET Named shared::COMMUNITY, SUBSCRIPTION, "Microsoft.Compute/locations/communityGalleries/read", shared::gallery),
        row!(GET Collection COMMUNITY_IMAGE, SUBSCRIPTION, "Microsoft.Compute/locations/communityGalleries/images/read", shared::definitions),
        row!(GET Named COMMUNITY_IMAGE, SUBSCRIPTION, "Microsoft.Compute/locations/communityGalleries/images/read", shared::definition),
        row!(GET Collection COMMUNITY_VERSION, SUBSCRIPTION, "Microsoft.Compute/locations/communityGalleries/images/versions/read", shared::all_versions),
        row!(GET Named COMMUNITY_VERSION, SUBSCRIPTION, "Microsoft.Compute/locations/communityGalleries/images/versions/read", shared::version),
        row!(POST Collection shared::GRAPH, ROOT, "Microsoft.ResourceGraph/resources/read", shared::query, subject: Subject::Everybody),
    ]
}

/// What gallery versions are made of besides builds.
fn disks_and_images() -> Vec<Operation> {
    vec![
        row!(PUT Named managed_images::KIND, GROUP, "Microsoft.Compute/images/write", managed_images::put, links: managed_images::links),
        row!(GET Named managed_images::KIND, GROUP, "Microsoft.Compute/images/read", managed_images::get),
        row!(GET Collection managed_images::KIND, LISTED, "Microsoft.Compute/images/read", managed_images::all),
        row!(DELETE Named managed_images::KIND, GROUP, "Microsoft.Compute/images/delete", managed_images::remove),
        row!(PUT Named disks::DISK, GROUP, "Microsoft.Compute/disks/write", disks::put, links: disks::links),
        row!(GET Named disks::DISK, GROUP, "Microsoft.Compute/disks/read", disks::get),
        row!(GET Collection disks::DISK, LISTED, "Microsoft.Compute/disks/read", disks::all_disks),
        row!(DELETE Named disks::DISK, GROUP, "Microsoft.Compute/disks/delete", disks::remove),
        row!(POST Collection "Microsoft.Compute/disks/beginGetAccess", GROUP, "Microsoft.Compute/disks/beginGetAccess/action", disk_access::begin),
        row!(POST Collection "Microsoft.Compute/disks/endGetAccess", GROUP, "Microsoft.Compute/disks/endGetAccess/action", disk_access::end),
        row!(POST Collection "Microsoft.Compute/snapshots/beginGetAccess", GROUP, "Microsoft.Compute/snapshots/beginGetAccess/action", disk_access::begin),
        row!(POST Collection "Microsoft.Compute/snapshots/endGetAccess", GROUP, "Microsoft.Compute/snapshots/endGetAccess/action", disk_access::end),
        row!(PUT Named disks::SNAPSHOT, GROUP, "Microsoft.Compute/snapshots/write", disks::put, links: disks::links),
        row!(GET Named disks::SNAPSHOT, GROUP, "Microsoft.Compute/snapshots/read", disks::get),
        row!(GET Collection disks::SNAPSHOT, LISTED, "Microsoft.Compute/snapshots/read", disks::all_snapshots),
        row!(DELETE Named disks::SNAPSHOT, GROUP, "Microsoft.Compute/snapshots/delete", disks::remove),
    ]
}

/// Platform images, as `az vm image` asks for them.
fn marketplace() -> Vec<Operation> {
    const READ: &str = "Microsoft.Compute/locations/publishers/read";
    vec![
        row!(GET Collection marketplace::PUBLISHERS, SUBSCRIPTION, READ, marketplace::publishers),
        row!(GET Collection marketplace::OFFERS, SUBSCRIPTION, READ, marketplace::offers),
        row!(GET Collection marketplace::SKUS, SUBSCRIPTION, READ, marketplace::skus),
        row!(GET Collection marketplace::VERSIONS, SUBSCRIPTION, READ, marketplace::versions),
        row!(GET Named marketplace::VERSIONS, SUBSCRIPTION, READ, marketplace::version),
    ]
}

/// Templates, runs, and where operations are polled.
fn factory() -> Vec<Operation> {
    vec![
        row!(PUT Named templates::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/write", templates::put, links: templates::links),
        row!(PATCH Named templates::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/write", templates::patch, links: templates::links),
        row!(GET Named templates::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/read", templates::get),
        row!(GET Collection templates::KIND, LISTED, "Microsoft.VirtualMachineImages/imageTemplates/read", templates::all),
        row!(DELETE Named templates::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/delete", templates::remove),
        row!(POST Collection "Microsoft.VirtualMachineImages/imageTemplates/run", GROUP, "Microsoft.VirtualMachineImages/imageTemplates/run/action", templates::run),
        row!(POST Collection "Microsoft.VirtualMachineImages/imageTemplates/cancel", GROUP, "Microsoft.VirtualMachineImages/imageTemplates/cancel/action", templates::cancel),
        row!(GET Named templates::OUTPUT_KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/runOutputs/read", templates::output),
        row!(GET Collection templates::OUTPUT_KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/runOutputs/read", templates::outputs),
        row!(PUT Named triggers::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/triggers/write", triggers::put),
        row!(GET Named triggers::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/triggers/read", triggers::get),
        row!(GET Collection triggers::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/triggers/read", triggers::all),
        row!(DELETE Named triggers::KIND, GROUP, "Microsoft.VirtualMachineImages/imageTemplates/triggers/delete", triggers::remove),
        row!(GET Named runs::KIND, GROUP, "Bullion.Factory/runs/read", runs::get),
        row!(GET Collection runs::KIND, LISTED, "Bullion.Factory/runs/read", runs::all),
        row!(POST Collection "Bullion.Factory/runs/readLog", GROUP, "Bullion.Factory/runs/readLog/action", runs::read_log),
        row!(POST Collection "Bullion.Factory/runs/runCommand", GROUP, "Bullion.Factory/runs/runCommand/action", runs::run_command),
        row!(POST Collection "Bullion.Factory/runs/releaseMachine", GROUP, "Bullion.Factory/runs/releaseMachine/action", runs::release_machine),
        row!(GET Named operations::KIND, EXTENSION, "Bullion.Factory/operations/read", operations::status, subject: Subject::Parent),
        row!(GET Named operations::RESULT_KIND, EXTENSION, "Bullion.Factory/operationResults/read", operations::result, subject: Subject::Parent),
    ]
}

/// From stage to stage.
fn promotion() -> Vec<Operation> {
    vec![
        row!(PUT Named pipelines::KIND, GROUP, "Bullion.Factory/pipelines/write", pipelines::put),
        row!(GET Named pipelines::KIND, GROUP, "Bullion.Factory/pipelines/read", pipelines::get),
        row!(GET Collection pipelines::KIND, LISTED, "Bullion.Factory/pipelines/read", pipelines::all),
        row!(DELETE Named pipelines::KIND, GROUP, "Bullion.Factory/pipelines/delete", pipelines::remove),
        row!(PUT Named promotions::KIND, GROUP, "Bullion.Factory/promotions/write", promotions::put, links: promotions::links),
        row!(GET Named promotions::KIND, GROUP, "Bullion.Factory/promotions/read", promotions::get),
        row!(GET Collection promotions::KIND, LISTED, "Bullion.Factory/promotions/read", promotions::all),
        row!(POST Collection "Bullion.Factory/promotions/approve", GROUP, "Bullion.Factory/promotions/approve/action", promotions::approve),
        row!(POST Collection "Bullion.Factory/promotions/reject", GROUP, "Bullion.Factory/promotions/reject/action", promotions::reject),
        row!(POST Collection "Bullion.Factory/promotions/cancel", GROUP, "Bullion.Factory/promotions/cancel/action", promotions::cancel),
        row!(POST Collection "Bullion.Factory/promotions/verify", GROUP, "Bullion.Factory/promotions/verify/action", promotions::verify),
    ]
}

/// Groups of subscriptions.
fn management() -> Vec<Operation> {
    use management_groups::{KIND, MEMBER};
    vec![
        row!(PUT Named KIND, ROOT, "Microsoft.Management/managementGroups/write", management_groups::put),
        row!(GET Named KIND, ROOT, "Microsoft.Management/managementGroups/read", management_groups::get),
        row!(GET Collection KIND, ROOT, "Microsoft.Management/managementGroups/read", management_groups::all),
        row!(DELETE Named KIND, ROOT, "Microsoft.Management/managementGroups/delete", management_groups::remove),
        row!(GET Collection "Microsoft.Management/managementGroups/descendants", ROOT, "Microsoft.Management/managementGroups/descendants/read", management_groups::descendants),
        row!(PUT Named MEMBER, ROOT, "Microsoft.Management/managementGroups/subscriptions/write", management_groups::add),
        row!(GET Collection MEMBER, ROOT, "Microsoft.Management/managementGroups/subscriptions/read", management_groups::members),
        row!(GET Named MEMBER, ROOT, "Microsoft.Management/managementGroups/subscriptions/read", management_groups::member),
        row!(DELETE Named MEMBER, ROOT, "Microsoft.Management/managementGroups/subscriptions/delete", management_groups::take_out),
        row!(POST Collection "Microsoft.Management/register", SUBSCRIPTION, "Microsoft.Management/register/action", subscriptions::registered),
        row!(POST Collection "Microsoft.ManagedIdentity/register", SUBSCRIPTION, "Microsoft.ManagedIdentity/register/action", subscriptions::registered),
        row!(POST Collection "Microsoft.PolicyInsights/register", SUBSCRIPTION, "Microsoft.PolicyInsights/register/action", subscriptions::registered),
        row!(POST Collection "Microsoft.Compute/register", SUBSCRIPTION, "Microsoft.Compute/register/action", subscriptions::registered),
        row!(POST Collection "Microsoft.VirtualMachineImages/register", SUBSCRIPTION, "Microsoft.VirtualMachineImages/register/action", subscriptions::registered),
    ]
}

/// Policies: what is written, where it holds, and what it comes to.
fn policies() -> Vec<Operation> {
    use policies::{
        ASSIGNMENT, ATTESTATION, DEFINITION, DEFINITION_VERSION, EXEMPTION, SET, SET_VERSION,
    };
    use policies::{
        assignments, attestations, definitions, events, exemptions, explain, scans, states,
        versions, what_if,
    };
    const ALL_VERSIONS: &str = "Microsoft.Authorization/listPolicyDefinitionVersions";
    const ALL_SET_VERSIONS: &str = "Microsoft.Authorization/listPolicySetDefinitionVersions";
    const QUERY: &str = "Microsoft.PolicyInsights/policyStates/queryResults";
    const EVENTS: &str = "Microsoft.PolicyInsights/policyEvents/queryResults";
    const SUMMARIZE: &str = "Microsoft.PolicyInsights/policyStates/summarize";
    const TRIGGER: &str = "Microsoft.PolicyInsights/policyStates/triggerEvaluation";
    vec![
        row!(PUT Named DEFINITION, WRITTEN, "Microsoft.Authorization/policyDefinitions/write", definitions::put_definition),
        row!(GET Named DEFINITION, WRITTEN, "Microsoft.Authorization/policyDefinitions/read", definitions::get),
        row!(GET Named DEFINITION, ROOT, "Microsoft.Authorization/policyDefinitions/read", definitions::get, subject: Subject::Everybody),
        row!(GET Collection DEFINITION, WRITTEN, "Microsoft.Authorization/policyDefinitions/read", definitions::definitions),
        row!(GET Collection DEFINITION, ROOT, "Microsoft.Authorization/policyDefinitions/read", definitions::definitions),
        row!(DELETE Named DEFINITION, WRITTEN, "Microsoft.Authorization/policyDefinitions/delete", definitions::delete),
        row!(GET Collection DEFINITION_VERSION, WRITTEN, "Microsoft.Authorization/policyDefinitions/versions/read", versions::all),
        row!(GET Collection DEFINITION_VERSION, ROOT, "Microsoft.Authorization/policyDefinitions/versions/read", versions::all, subject: Subject::Everybody),
        row!(GET Named DEFINITION_VERSION, WRITTEN, "Microsoft.Authorization/policyDefinitions/versions/read", versions::get),
        row!(GET Named DEFINITION_VERSION, ROOT, "Microsoft.Authorization/policyDefinitions/versions/read", versions::get, subject: Subject::Everybody),
        row!(PUT Named DEFINITION_VERSION, WRITTEN, "Microsoft.Authorization/policyDefinitions/versions/write", versions::put, subject: Subject::Parent),
        row!(DELETE Named DEFINITION_VERSION, WRITTEN, "Microsoft.Authorization/policyDefinitions/versions/delete", versions::delete, subject: Subject::Parent),
        row!(POST Collection ALL_VERSIONS, WRITTEN, "Microsoft.Authorization/policyDefinitions/versions/read", versions::definition_versions),
        row!(POST Collection ALL_VERSIONS, ROOT, "Microsoft.Authorization/policyDefinitions/versions/read", versions::definition_versions, subject: Subject::Everybody),
        row!(PUT Named SET, WRITTEN, "Microsoft.Authorization/policySetDefinitions/write", definitions::put_set),
        row!(GET Named SET, WRITTEN, "Microsoft.Authorization/policySetDefinitions/read", definitions::get),
        row!(GET Named SET, ROOT, "Microsoft.Authorization/policySetDefinitions/read", definitions::get, subject: Subject::Everybody),
        row!(GET Collection SET, WRITTEN, "Microsoft.Authorization/policySetDefinitions/read", definitions::sets),
        row!(GET Collection SET, ROOT, "Microsoft.Authorization/policySetDefinitions/read", definitions::sets),
        row!(DELETE Named SET, WRITTEN, "Microsoft.Authorization/policySetDefinitions/delete", definitions::delete),
        row!(GET Collection SET_VERSION, WRITTEN, "Microsoft.Authorization/policySetDefinitions/versions/read", versions::all),
        row!(GET Collection SET_VERSION, ROOT, "Microsoft.Authorization/policySetDefinitions/versions/read", versions::all, subject: Subject::Everybody),
        row!(GET Named SET_VERSION, WRITTEN, "Microsoft.Authorization/policySetDefinitions/versions/read", versions::get),
        row!(GET Named SET_VERSION, ROOT, "Microsoft.Authorization/policySetDefinitions/versions/read", versions::get, subject: Subject::Everybody),
        row!(PUT Named SET_VERSION, WRITTEN, "Microsoft.Authorization/policySetDefinitions/versions/write", versions::put, subject: Subject::Parent),
        row!(DELETE Named SET_VERSION, WRITTEN, "Microsoft.Authorization/policySetDefinitions/versions/delete", versions::delete, subject: Subject::Parent),
        row!(POST Collection ALL_SET_VERSIONS, WRITTEN, "Microsoft.Authorization/policySetDefinitions/versions/read", versions::set_versions),
        row!(POST Collection ALL_SET_VERSIONS, ROOT, "Microsoft.Authorization/policySetDefinitions/versions/read", versions::set_versions, subject: Subject::Everybody),
        row!(PUT Named ASSIGNMENT, HELD, "Microsoft.Authorization/policyAssignments/write", assignments::put, links: managed::links),
        row!(PATCH Named ASSIGNMENT, HELD, "Microsoft.Authorization/policyAssignments/write", assignments::patch, links: managed::links),
        row!(GET Named ASSIGNMENT, HELD, "Microsoft.Authorization/policyAssignments/read", assignments::get),
        row!(GET Collection ASSIGNMENT, HELD, "Microsoft.Authorization/policyAssignments/read", assignments::all),
        row!(DELETE Named ASSIGNMENT, HELD, "Microsoft.Authorization/policyAssignments/delete", assignments::delete),
        row!(PUT Named EXEMPTION, HELD, "Microsoft.Authorization/policyExemptions/write", exemptions::put),
        row!(GET Named EXEMPTION, HELD, "Microsoft.Authorization/policyExemptions/read", exemptions::get),
        row!(GET Collection EXEMPTION, HELD, "Microsoft.Authorization/policyExemptions/read", exemptions::all),
        row!(DELETE Named EXEMPTION, HELD, "Microsoft.Authorization/policyExemptions/delete", exemptions::delete),
        row!(PUT Named ATTESTATION, BELOW_SUBSCRIPTION, "Microsoft.PolicyInsights/attestations/write", attestations::put),
        row!(GET Named ATTESTATION, BELOW_SUBSCRIPTION, "Microsoft.PolicyInsights/attestations/read", attestations::get),
        row!(GET Collection ATTESTATION, BELOW_SUBSCRIPTION, "Microsoft.PolicyInsights/attestations/read", attestations::all),
        row!(DELETE Named ATTESTATION, BELOW_SUBSCRIPTION, "Microsoft.PolicyInsights/attestations/delete", attestations::delete),
        row!(POST Collection QUERY, HELD, "Microsoft.PolicyInsights/policyStates/queryResults/read", states::query, subject: Subject::Judged),
        row!(POST Collection EVENTS, HELD, "Microsoft.PolicyInsights/policyEvents/queryResults/read", events::query, subject: Subject::Judged),
        row!(POST Collection SUMMARIZE, HELD, "Microsoft.PolicyInsights/policyStates/summarize/read", states::summarize, subject: Subject::Judged),
        row!(POST Collection TRIGGER, LISTED, "Microsoft.PolicyInsights/policyStates/triggerEvaluation/action", scans::trigger, subject: Subject::Parent),
        row!(GET Named scans::RESULT, LISTED, "Microsoft.PolicyInsights/asyncOperationResults/read", scans::result, subject: Subject::Parent),
        row!(GET Named explain::KIND, BELOW_SUBSCRIPTION, "Bullion.Factory/compliance/read", explain::get, subject: Subject::Parent),
        row!(POST Collection what_if::KIND, HELD, "Bullion.Factory/policyWhatIf/action", what_if::ask),
    ]
}

static TABLE: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let mut rows = installation();
    rows.extend(subscriptions());
    rows.extend(identity());
    rows.extend(people());
    rows.extend(identities());
    rows.extend(rights());
    rows.extend(compute());
    rows.extend(keys());
    rows.extend(gallery_packages());
    rows.extend(open_galleries());
    rows.extend(disks_and_images());
    rows.extend(statements());
    rows.extend(marketplace());
    rows.extend(factory());
    rows.extend(promotion());
    rows.extend(management());
    rows.extend(policies());
    rows
});

pub fn all() -> &'static [Operation] {
    &TABLE
}

/// The rows that a path can mean, of any method.
pub fn rows(path: &ArmPath) -> Vec<&'static Operation> {
    let fits = |row: &&Operation| {
        row.shape == path.shape
            && row.kind.eq_ignore_ascii_case(&path.kind)
            && row.places.contains(&path.place)
    };
    TABLE.iter().filter(fits).collect()
}

/// What callers are authorised for: what a custom role may name.
pub fn actions() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.action)
}

/// Namespaces with the types that have rows, for `az provider`.
pub fn namespaces() -> BTreeMap<String, Vec<String>> {
    let mut namespaces: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in TABLE.iter().filter(|row| row.shape == Shape::Named) {
        let Some((namespace, kind)) = row.kind.split_once('/') else {
            continue;
        };
        let types = namespaces.entry(namespace.to_string()).or_default();
        if !types.iter().any(|known| known == kind) {
            types.push(kind.to_string());
        }
    }
    namespaces
}
