//! The names and ids of the built-in roles, for those who ask for one by name.
//!
//! What a role allows is `access`'s part; here it only has a name.

/// A built-in role, as it is called and as resources refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltInRole {
    pub name: &'static str,
    /// In lower case.
    pub guid: &'static str,
}

macro_rules! roles {
    ($($constant:ident $name:literal $guid:literal;)*) => {
        $(pub const $constant: BuiltInRole = BuiltInRole { name: $name, guid: $guid };)*

        pub const ALL: &[BuiltInRole] = &[$($constant),*];
    };
}

// Azure's ids where Azure has the role.
roles! {
    OWNER "Owner" "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
    CONTRIBUTOR "Contributor" "b24988ac-6180-42a0-ab88-20f7382dd24c";
    READER "Reader" "acdd72a7-3385-48ef-bd42-f606fba81ae7";
    USER_ACCESS_ADMINISTRATOR "User Access Administrator" "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9";
    GALLERY_IMAGE_READER "Compute Gallery Image Reader" "cf7c76d2-98a3-4358-a134-615aa78bf44d";
    GALLERY_PUBLISHER "Compute Gallery Artifacts Publisher" "85a2d0d9-2eba-4c9c-b355-11c2cc0788ab";
    GALLERY_SHARING_ADMIN "Compute Gallery Sharing Admin" "1ef6a3be-d0ac-425d-8c01-acb62866290b";
    POLICY_CONTRIBUTOR "Resource Policy Contributor" "36243c78-bf99-498c-9df9-86d9f8d28608";
    MANAGED_IDENTITY_OPERATOR "Managed Identity Operator" "f1a07417-d97a-45cb-824c-7a7467783830";
    MANAGED_IDENTITY_CONTRIBUTOR "Managed Identity Contributor" "e40ec5ca-96e0-45a2-b4ff-59039f2c2b59";
    PROMOTION_REQUESTER "Bullion Promotion Requester" "a34cc2a0-d536-4c09-b23d-d7da98129246";
    PROMOTION_APPROVER "Bullion Promotion Approver" "326ffd6e-c40a-4a36-bf38-5bf8c29e3b3f";
}

/// The role with this name, which is compared exactly.
pub fn named(name: &str) -> Option<BuiltInRole> {
    ALL.iter().find(|role| role.name == name).copied()
}
