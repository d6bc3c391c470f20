//! The client commands' arguments: clap types and their help, nothing else.

pub mod app;
pub mod compliance;
pub mod encryption_sets;
pub mod signing_keys;
pub mod statements;
pub mod tattoo;

use camino::Utf8PathBuf;
use clap::{Args, Subcommand, ValueEnum};

use crate::io::Format;

const GLOBAL: &str = "Global options";

/// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// How results are printed on stdout
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = GLOBAL
    )]
    pub output: Format,

    /// Profile to use: server, CA and client secret [env: BULLION_PROFILE] [default:
    /// ~/.config/bullion/profile.json]
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub profile: Option<Utf8PathBuf>,

    /// Log to stderr, for example `info` or `cli=debug`
    #[arg(long, global = true, value_name = "FILTER", help_heading = GLOBAL)]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sign in and remember the server in the profile
    #[command(after_help = "Examples:
  bullion login --from /var/lib/bullion/admin.json
  bullion login --url https://factory.example:8443 --ca ca.pem --tenant TENANT-ID \\
      --client-id CLIENT-ID --client-secret-file secret.txt")]
    Login(Login),

    /// Forget the server: delete the profile
    #[command(after_help = "Example:
  bullion logout")]
    Logout,

    /// Show what `apply` would create, change or delete
    #[command(after_help = "Examples:
  bullion plan examples/golden-debian
  bullion plan . --output json --detailed-exitcode   # exit code 2 if there is something to do")]
    Plan(Plan),

    /// Make the server hold what a factory folder says
    #[command(after_help = "Examples:
  bullion apply examples/golden-debian
  bullion apply . --yes            # no question, for pipelines
  bullion apply . --yes --prune    # also delete what was removed from the folder")]
    Apply(Apply),

    /// Run, watch and cancel image builds
    #[command(subcommand)]
    Build(Build),

    /// Image definitions in galleries
    #[command(subcommand)]
    Image(Image),

    /// Versions of an image definition
    #[command(subcommand)]
    Version(Version),

    /// The packages in a version, as a bill of materials
    #[command(subcommand)]
    Sbom(statements::Sbom),

    /// Signed statements about a version: how it was built, what is in it, which tests it passed
    #[command(subcommand)]
    Statement(statements::Statement),

    /// The keys of the installation that sign tokens and statements: show and replace them
    #[command(subcommand)]
    SigningKey(signing_keys::SigningKey),

    /// Build a version again from what its build recorded, and compare the disks
    #[command(after_help = "Examples:
  bullion verify golden/debian-12/1.0.0
  bullion verify golden/debian-12/latest --reuse-base
  bullion verify golden/debian-12/1.0.0 --output json

The server builds it from the recorded template, pins and files, with nothing found from earlier
builds, and publishes nothing. What the tree executor built must be the same disk, bit for bit; what a
machine built must have the same files, but for times and what every machine notes for itself (logs,
keys, leases). Where they differ, the files that do are named.

Exit code: 0 if it is the same, 1 if it cannot be built again, 3 if it differs")]
    Verify(statements::Verify),

    /// Versions, and machines that run them, that an advisory or a package concerns
    #[command(after_help = "Examples:
  bullion affected CVE-2024-0727
  bullion affected 'openssl<3.0.15-1~deb12u1'
  bullion affected xz-utils --subscription production --output json

Advisories are those that the operator put into the folder `advisories` of the server's data folder. A package is found by
its own name or by that of its source.

Exit code: 0 if nothing is affected, 1 if something is, 2 if that could not be found out")]
    Affected(statements::Affected),

    /// Keys of a tenant's own, which encrypt versions in a region: make, replace and erase them
    #[command(subcommand)]
    EncryptionSet(encryption_sets::EncryptionSet),

    /// Bring a version to the next stage of its pipeline
    #[command(after_help = "Examples:
  bullion promote 1.0.0 --to test
  bullion promote 1.0.0 --to prod --pipeline golden --no-wait

The promotion goes on when this command stops; where it waits for approval, `bullion promotion approve` gives it.")]
    Promote(Promote),

    /// Promotions under way and past
    #[command(subcommand)]
    Promotion(Promotion),

    /// Applications and the secrets that they sign in with
    #[command(subcommand)]
    App(app::App),

    /// Machines deployed from images
    #[command(subcommand)]
    Vm(Vm),

    /// Whether resources follow the policies that are assigned to them, and why not
    #[command(subcommand)]
    Compliance(compliance::Compliance),

    /// What `tattoo read` asks; disks are read by the program.
    #[command(skip)]
    ReadTattoo(tattoo::ReadTattoo),

    /// What `policy what-if` asks, read from its files by the program.
    #[command(skip)]
    WhatIf(compliance::WhatIf),

    /// One request to the server, with the profile's sign-in
    #[command(after_help = "Examples:
  bullion rest GET '/subscriptions?api-version=2022-12-01'
  bullion rest GET /providers/Bullion.Factory/regions
  bullion rest PUT /providers/Bullion.Factory/regions/east --body '{\"properties\":{\"zones\":[\"1\"]}}'
  bullion rest POST PATH --body @body.json")]
    Rest(Rest),

    /// Print what points another client at this server
    #[command(subcommand)]
    Env(Env),

    /// Print the JSON Schema of a factory folder's documents
    #[command(after_help = "Example:
  bullion schema > factory.schema.json")]
    Schema,
}

#[derive(Debug, Args)]
pub struct Login {
    /// Take everything from a file such as the server's `admin.json`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "client_id", "client_secret_file", "ca"])]
    pub from: Option<Utf8PathBuf>,

    /// Address of the server, https://HOST:PORT
    #[arg(long, required_unless_present = "from")]
    pub url: Option<String>,

    /// PEM file of the server's certificate authority
    #[arg(long, value_name = "FILE")]
    pub ca: Option<Utf8PathBuf>,

    /// Tenant id to sign in to
    #[arg(long, value_name = "ID", required_unless_present = "from")]
    pub tenant: Option<String>,

    /// Application (client) id
    #[arg(long, value_name = "ID", required_unless_present = "from")]
    pub client_id: Option<String>,

    /// File with the client secret; `-` reads it from stdin
    #[arg(long, value_name = "FILE", required_unless_present = "from")]
    pub client_secret_file: Option<Utf8PathBuf>,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// Folder of the factory
    #[arg(value_name = "DIR")]
    pub folder: Utf8PathBuf,

    /// Exit with 2 when there is something to do, as `terraform plan` does
    #[arg(long)]
    pub detailed_exitcode: bool,
}

#[derive(Debug, Args)]
pub struct Apply {
    /// Folder of the factory
    #[arg(value_name = "DIR")]
    pub folder: Utf8PathBuf,

    /// Only show what would be done, as `plan` does
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,

    /// Also delete what this factory created and no longer declares
    #[arg(long)]
    pub prune: bool,
}

/// Where a resource is looked for when only its name is given.
#[derive(Debug, Clone, Default, Args)]
pub struct Scope {
    /// Subscription, by name or id; all that are visible unless given
    #[arg(long, short = 's', value_name = "NAME|ID")]
    pub subscription: Option<String>,

    /// Resource group; needed when a name is used in more than one
    #[arg(long, short = 'g', value_name = "NAME")]
    pub resource_group: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Build {
    /// Build an image template and follow the run
    #[command(after_help = "Examples:
  bullion build run golden-debian
  bullion build run golden-debian -g images --no-wait
  bullion build run golden-debian --junit checks.xml

Steps whose inputs did not change are found, not run again. Ctrl-C stops following; the run goes on.")]
    Run {
        /// Image template, by name or resource id
        template: String,
        /// Start the run and return
        #[arg(long, conflicts_with = "junit")]
        no_wait: bool,
        /// Write the results of the checks to this file, as JUnit XML
        #[arg(long, value_name = "FILE")]
        junit: Option<Utf8PathBuf>,
        #[command(flatten)]
        scope: Scope,
    },
    /// List runs, newest first
    #[command(after_help = "Example:
  bullion build list -g images")]
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one run with its steps
    #[command(after_help = "Examples:
  bullion build show RUN
  bullion build show RUN --junit checks.xml")]
    Show {
        /// Run, by name or resource id
        run: String,
        /// Write the results of the checks to this file, as JUnit XML
        #[arg(long, value_name = "FILE")]
        junit: Option<Utf8PathBuf>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Print a run's log
    #[command(after_help = "Example:
  bullion build log RUN --follow")]
    Log {
        /// Run, by name or resource id
        run: String,
        /// Keep printing until the run has ended
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Follow a run that goes on
    #[command(after_help = "Examples:
  bullion build watch RUN
  bullion build watch RUN --junit checks.xml")]
    Watch {
        /// Run, by name or resource id
        run: String,
        /// Write the results of the checks to this file, as JUnit XML
        #[arg(long, value_name = "FILE")]
        junit: Option<Utf8PathBuf>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Print the command that logs in to the machine of a run whose checks failed
    #[command(after_help = "Examples:
  bullion build shell RUN
  eval \"$(bullion build shell RUN)\"

A template with `errorHandling: {onValidationError: abort}` keeps the machine that failed its
checks for an hour, or until it is run again or the server stops. The key is a file on the server's
host; `bullion build exec` works from anywhere, and in a Windows.")]
    Shell {
        /// Run, by name or resource id
        run: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Run a command in the machine of a run whose checks failed
    #[command(after_help = "Examples:
  bullion build exec RUN -- systemctl --failed
  bullion build exec RUN -- 'Get-WinEvent -LogName System -MaxEvents 20'
  bullion build exec RUN < look.sh

The words are given, with spaces between them, to the shell of the machine: that of a user who may
`sudo`, or PowerShell as SYSTEM in a Windows. They come from stdin if none are given. A command has
100 seconds; the exit code is 0 if its is, and 1 otherwise.")]
    Exec {
        /// Run, by name or resource id
        run: String,
        /// Command; read from stdin unless given
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// End the machine that is kept of a run
    #[command(after_help = "Example:
  bullion build release RUN")]
    Release {
        /// Run, by name or resource id
        run: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Cancel the run of a template
    #[command(after_help = "Example:
  bullion build cancel golden-debian")]
    Cancel {
        /// Image template, by name or resource id
        template: String,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Subcommand)]
pub enum Image {
    /// List image definitions
    #[command(after_help = "Example:
  bullion image list")]
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one image definition
    #[command(after_help = "Example:
  bullion image show golden/debian-12")]
    Show {
        /// `gallery/definition`, or a resource id
        image: String,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Subcommand)]
pub enum Version {
    /// List the versions of an image definition, oldest first
    #[command(after_help = "Example:
  bullion version list golden/debian-12")]
    List {
        /// `gallery/definition`, or a resource id
        image: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one version: digest, source, regions
    #[command(after_help = "Examples:
  bullion version show golden/debian-12/1.0.0
  bullion version show golden/debian-12/latest")]
    Show {
        /// `gallery/definition/version`, or a resource id
        #[arg(value_name = "VERSION")]
        path: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Download a version as an image file; one that was cut off goes on where it ended
    #[command(after_help = "Examples:
  bullion version export golden/debian-12/1.0.0 debian.qcow2 --format qcow2
  bullion version export golden/debian-12/latest debian.vhd --format vhd
  bullion version export golden/debian-12/1.0.0 data.raw --lun 0
  bullion version export golden/debian-12/1.0.0 debian.raw && bullion store put debian.raw --at /srv/images

stdout gets the digest of the disk; `store put` of the file prints the same.")]
    Export {
        /// `gallery/definition/version`, or a resource id
        #[arg(value_name = "VERSION")]
        path: String,
        /// File to write, which must not exist
        out: Utf8PathBuf,
        #[arg(long, value_name = "FORMAT", default_value = "raw")]
        format: ExportFormat,
        /// The data disk with this lun, in the place of the one to boot from
        #[arg(long, value_name = "LUN")]
        lun: Option<u32>,
        #[command(flatten)]
        scope: Scope,
    },
}

/// A format that versions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The disk itself
    Raw,
    /// qcow2 with zstd clusters
    Qcow2,
    /// Fixed VHD of whole MiB, as Azure takes it
    Vhd,
    /// VHD that holds only what is used
    VhdDynamic,
    Vhdx,
}

impl ExportFormat {
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::Raw => "raw",
            ExportFormat::Qcow2 => "qcow2",
            ExportFormat::Vhd => "vhd",
            ExportFormat::VhdDynamic => "vhd-dynamic",
            ExportFormat::Vhdx => "vhdx",
        }
    }
}

#[derive(Debug, Args)]
pub struct Promote {
    /// Number of the version, such as `1.0.0`
    pub version: String,

    /// Stage to bring it to
    #[arg(long, value_name = "STAGE")]
    pub to: String,

    /// Pipeline, by name or resource id; needed when more than one is visible
    #[arg(long, value_name = "NAME|ID")]
    pub pipeline: Option<String>,

    /// Return as soon as the server has accepted it
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum Promotion {
    /// List promotions, newest first
    #[command(after_help = "Example:
  bullion promotion list")]
    List,
    /// Show one promotion: what each gate said, when and by whom
    #[command(after_help = "Example:
  bullion promotion show golden-prod-1.0.0")]
    Show {
        /// Promotion, by name or resource id
        promotion: String,
    },
    /// Say yes to a promotion that waits for it
    #[command(after_help = "Example:
  bullion promotion approve golden-prod-1.0.0 --comment 'change 4711'

Whoever built the version or asked for its promotion cannot approve it.")]
    Approve {
        /// Promotion, by name or resource id
        promotion: String,
        /// Why, for the record
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// Say no to a promotion that waits for approval
    #[command(after_help = "Example:
  bullion promotion reject golden-prod-1.0.0 --comment 'not before Monday'")]
    Reject {
        /// Promotion, by name or resource id
        promotion: String,
        /// Why, for the record
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// Stop a promotion and take back what it did
    #[command(after_help = "Example:
  bullion promotion cancel golden-prod-1.0.0")]
    Cancel {
        /// Promotion, by name or resource id
        promotion: String,
    },
    /// Prove that both stages hold the same disk: their bits are read and hashed anew
    #[command(after_help = "Example:
  bullion promotion verify golden-prod-1.0.0")]
    Verify {
        /// Promotion, by name or resource id
        promotion: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    Bios,
    Uefi,
}

#[derive(Debug, Subcommand)]
pub enum Vm {
    /// Create a machine from an image and wait until it has booted
    #[command(after_help = "Examples:
  bullion vm create web-1 --image golden/debian-12 --region south
  bullion vm create web-2 --image golden/debian-12/1.0.0 --region north --ssh-key id.pub")]
    Create(VmCreate),
    /// List machines
    #[command(after_help = "Example:
  bullion vm list")]
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one machine
    #[command(after_help = "Example:
  bullion vm show web-1")]
    Show {
        /// Machine, by name or resource id
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Stop and delete a machine
    #[command(after_help = "Example:
  bullion vm delete web-1 --yes")]
    Delete {
        /// Machine, by name or resource id
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Print the image record that was read inside the machine
    #[command(after_help = "Example:
  bullion vm tattoo web-1")]
    Tattoo {
        /// Machine, by name or resource id
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Print the command that logs in to a machine on the server's host
    #[command(after_help = "Example:
  $(bullion vm ssh web-1) uname -a")]
    Ssh {
        /// Machine, by name or resource id
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Args)]
pub struct VmCreate {
    /// Name of the machine
    pub name: String,

    /// `gallery/definition` for the latest version, `gallery/definition/version`, or a resource id
    #[arg(long)]
    pub image: String,

    /// Region to run in
    #[arg(long)]
    pub region: String,

    /// Size of the machine
    #[arg(long, default_value = "Standard_B1s")]
    pub size: String,

    /// Public key file that may log in as well
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<Utf8PathBuf>,

    /// Name of the administrator in the machine
    #[arg(long, default_value = "azureuser")]
    pub admin: String,

    /// Firmware to boot with; the server chooses unless given
    #[arg(long, value_enum)]
    pub firmware: Option<Firmware>,

    /// Return as soon as the server has accepted it
    #[arg(long)]
    pub no_wait: bool,

    #[command(flatten)]
    pub scope: Scope,
}

#[derive(Debug, Args)]
pub struct Rest {
    /// GET, PUT, POST, PATCH, DELETE or HEAD
    pub method: String,

    /// Path, with `?api-version=` or without
    pub path: String,

    /// JSON, or `@FILE`, or `-` for stdin
    #[arg(long)]
    pub body: Option<String>,

    /// Tenant id to sign in to instead of the profile's; found from the path's subscription
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Env {
    /// Lines that register this server as a cloud of the Azure CLI and sign in
    #[command(after_help = "Example:
  eval \"$(bullion env az)\" && az group list")]
    Az,
    /// Export lines that replace the profile by variables; they hold the client secret
    #[command(after_help = "Example:
  eval \"$(bullion env sh)\"")]
    Sh,
}
