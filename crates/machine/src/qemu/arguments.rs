//! QEMU's command line for a machine. It must not look at the system: the same spec gives the
//! same line.

use crate::agent::{self, medium};
use crate::{Accel, Firmware, MachineDisk, MachineSpec, Metadata, Network, System};
use crate::{metadata, seed, serial};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Debian's `ovmf`; the variables are copied for each machine.
pub(crate) const FIRMWARE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub(crate) const FIRMWARE_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// What QEMU calls the disk that the machine boots from.
pub(super) const DISK: &str = "disk";
/// How long a machine waits for a disk below its own that was there and is not: 30 days. Nothing
/// is lost while it waits, and an error would be.
const AWAY_SECONDS: u32 = 30 * 24 * 3600;
/// The ports of the machine's own disk controller: two are the disk's and the medium's.
pub(super) const DATA_PORTS: usize = 4;
const FIRST_DATA_PORT: usize = 2;
/// A link to the socket of a disk that is served.
const DISK_LINK: &str = "disk.sock";
pub(super) const VARS_FILE: &str = "efivars.fd";

/// A `-drive` value: `options,file=PATH`, with the commas of the path doubled as QEMU wants.
pub(crate) fn drive(options: &str, file: &Path) -> OsString {
    let mut value = format!("{options},file=").into_bytes();
    value.extend(doubled(file.as_os_str()));
    OsString::from_vec(value)
}

/// The same for a disk that is served. Its socket may lie deep, and a socket's path may not: it is
/// reached through a link in the machine's folder.
fn served(options: &str, link: &str, export: &str) -> OsString {
    let server = format!("file.server.type=unix,file.server.path={link}");
    format!("{options},file.driver=nbd,{server},file.export={export}").into()
}

/// What lies below a layer, as a device of its own: the name that the layer has for it is passed over then.
fn below(id: &str, link: &str, export: &str) -> String {
    format!(
        "driver=nbd,node-name={id}-below,read-only=on,server.type=unix,server.path={link},export={export},\
         reconnect-delay={AWAY_SECONDS}"
    )
}

/// All disks that a guest may write to: what QEMU calls each, and the link to its socket if it is served.
pub(super) fn disks(spec: &MachineSpec) -> impl Iterator<Item = (String, String, &MachineDisk)> {
    let data = spec.data_disks.iter().map(|data| {
        let id = format!("lun{}", data.lun);
        (id.clone(), format!("{id}.sock"), &data.disk)
    });
    std::iter::once((DISK.to_owned(), DISK_LINK.to_owned(), &spec.disk)).chain(data)
}

fn doubled(value: &OsStr) -> Vec<u8> {
    let bytes = value.as_bytes().iter();
    bytes
        .flat_map(|&byte| std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }))
        .collect()
}

/// The whole line but the program. Relative paths in it are in the machine's folder, where QEMU
/// is started.
pub(super) fn of(spec: &MachineSpec, accel: Accel, ssh_port: u16) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
    add(&["-name", &spec.name, "-machine", "q35"]);
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    // A guest that breaks out of QEMU meets a filter: no new programs, no other user.
    add(&[
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    add(&[
        "-smp",
        &spec.cpus.to_string(),
        "-m",
        &spec.memory_mib.to_string(),
    ]);
    add(&["-serial", &format!("file:{}", serial::FILE)]);
    add(&[
        "-qmp",
        &format!("unix:{},server=on,wait=off", super::qmp::SOCKET),
    ]);
    let restrict = match spec.network {
        Network::Isolated => "on",
        Network::Outbound => "off",
    };
    let network = format!("user,id=net,restrict={restrict}");
    // Network cards without their boot code: nothing here boots from the network.
    match spec.system {
        System::Linux => {
            add(&accel.args());
            add(&["-vga", "none", "-device", "virtio-rng-pci"]);
            let forward = format!("hostfwd=tcp:127.0.0.1:{ssh_port}-:22");
            add(&["-netdev", &format!("{network},{forward}")]);
            add(&["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        System::Windows => {
            add(&accel.windows_args());
            // Its boot manager draws. The clock is UTC's, as its medium tells it.
            add(&["-vga", "std", "-rtc", "base=utc"]);
            let port = format!("socket,id=agent,path={},server=on,wait=off", agent::SOCKET);
            add(&["-chardev", &port, "-device", "isa-serial,chardev=agent"]);
            add(&["-netdev", &network]);
            add(&["-device", "e1000e,netdev=net,romfile="]);
        }
    }
    if spec.firmware == Firmware::Uefi {
        let code = format!("if=pflash,format=raw,readonly=on,file={FIRMWARE_CODE}");
        add(&["-drive", &code]);
        add(&["-drive", &format!("if=pflash,format=raw,file={VARS_FILE}")]);
    }
    line.extend(of_disks(spec));
    if spec.metadata == Metadata::Cable {
        line.extend(cable().map(OsString::from));
    }
    line
}

/// The second network. After everything else, so that no other device gets another place, and the first card its name.
fn cable() -> [String; 4] {
    let (socket, mac) = (metadata::SOCKET, metadata::GUEST_MAC);
    [
        "-netdev".to_owned(),
        format!("stream,id=metadata,server=on,addr.type=unix,addr.path={socket}"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=metadata,mac={mac},romfile="),
    ]
}

/// What the machine has disks by.
fn of_disks(spec: &MachineSpec) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    // What is forgotten anyway need not be flushed.
    let options = if spec.snapshot {
        "snapshot=on,cache=unsafe"
    } else {
        "cache=writeback,discard=unmap"
    };
    for (id, link, disk) in disks(spec) {
        let raw = format!("if=none,id={id},format=raw,{options}");
        let layer = format!("if=none,id={id},format=qcow2,{options}");
        let drive = match disk {
            MachineDisk::File(file) => drive(&raw, file),
            MachineDisk::Served(disk) => served(&raw, &link, &disk.export),
            MachineDisk::Layer { file, below: None } => drive(&layer, file),
            MachineDisk::Layer {
                file,
                below: Some(disk),
            } => {
                let below = below(&id, &link, &disk.export);
                line.extend(["-blockdev".into(), below.into()]);
                drive(&format!("{layer},backing={id}-below"), file)
            }
        };
        line.extend(["-drive".into(), drive]);
    }
    if spec.system == System::Windows {
        line.extend(on_the_controller(spec));
        return line;
    }
    // In this order: guests name disks by it.
    let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
    add(&["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    let seed = format!(
        "if=none,id=seed,format=raw,readonly=on,file={}",
        seed::SEED_FILE
    );
    add(&["-drive", &seed, "-device", "virtio-blk-pci,drive=seed"]);
    for data in &spec.data_disks {
        let lun = format!("lun{}", data.lun);
        let device = format!("virtio-blk-pci,drive={lun},serial={lun}");
        add(&["-device", &device]);
    }
    line
}

/// The disks of a Windows, and its medium, at the machine's own controller.
fn on_the_controller(spec: &MachineSpec) -> Vec<OsString> {
    let medium = Path::new(medium::FILE);
    let medium = drive(
        "if=none,id=medium,format=raw,media=cdrom,readonly=on",
        medium,
    );
    let mut line: Vec<OsString> = vec!["-drive".into(), medium];
    let mut add = |device: String| line.extend(["-device".into(), device.into()]);
    add(format!("ide-hd,drive={DISK},bus=ide.0,bootindex=0"));
    add("ide-cd,drive=medium,bus=ide.1".to_owned());
    for (index, data) in spec.data_disks.iter().enumerate() {
        let (lun, port) = (data.lun, FIRST_DATA_PORT + index);
        add(format!(
            "ide-hd,drive=lun{lun},serial=lun{lun},bus=ide.{port}"
        ));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDisk, ServedDisk};

    fn line(spec: &MachineSpec, accel: Accel) -> String {
        let words = of(spec, accel, 2222);
        let words = words.iter().map(|word| word.to_string_lossy().into_owned());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn line_follows_the_spec() {
        let check = |spec: &MachineSpec, accel, has: &[&str], has_not: &[&str]| {
            let line = line(spec, accel);
            for part in has {
                assert!(line.contains(part), "{part} is not in {line}");
            }
            for part in has_not {
                assert!(!line.contains(part), "{part} is in {line}");
            }
        };
        let test = MachineSpec::new("t", "/m/t", "/d/a,b.raw");
        check(
            &test,
            Accel::Tcg,
            &[
                "-accel tcg,thread=multi",
                "snapshot=on",
                "restrict=on",
                "hostfwd=tcp:127.0.0.1:2222-:22",
                "file=/d/a,,b.raw",
                "OVMF_CODE_4M.fd",
                "-smp 2 -m 1024",
            ],
            &["-cpu host", "metadata"],
        );
        let socket = "/deep/nbd.sock".into();
        let export = "1f0c-7".to_owned();
        let disk = MachineDisk::Served(ServedDisk { socket, export });
        let file =
            "file.driver=nbd,file.server.type=unix,file.server.path=disk.sock,file.export=1f0c-7";
        let served = MachineSpec {
            disk,
            ..test.clone()
        };
        check(&served, Accel::Tcg, &["snapshot=on", file], &["/deep"]);
        let MachineDisk::Served(base) = &served.disk else {
            unreachable!()
        };
        let layer = |below| MachineSpec {
            disk: MachineDisk::Layer {
                file: "/m/disk.qcow2".into(),
                below,
            },
            snapshot: false,
            ..test.clone()
        };
        let file = "id=disk,format=qcow2,cache=writeback,discard=unmap";
        let base = layer(Some(base.clone()));
        check(
            &base,
            Accel::Tcg,
            &[
                file,
                "file=/m/disk.qcow2",
                "server.path=disk.sock,export=1f0c-7,reconnect-delay=",
                "backing=disk-below",
            ],
            &["/deep"],
        );
        check(&layer(None), Accel::Tcg, &[file], &["backing"]);
        let data = |lun, disk| DataDisk { lun, disk };
        let more = MachineSpec {
            data_disks: vec![data(0, "/d/0.raw".into()), data(7, served.disk.clone())],
            ..test.clone()
        };
        check(
            &more,
            Accel::Tcg,
            &[
                "id=lun0,format=raw,snapshot=on,cache=unsafe,file=/d/0.raw",
                "id=lun7,format=raw,snapshot=on,cache=unsafe,file.driver=nbd,file.server.type=unix,\
                 file.server.path=lun7.sock,",
                "drive=seed -device virtio-blk-pci,drive=lun0,serial=lun0 -device \
                 virtio-blk-pci,drive=lun7,serial=lun7",
            ],
            &[],
        );
        let windows = MachineSpec {
            data_disks: vec![data(3, "/d/0.raw".into())],
            ..test.clone().windows()
        };
        check(
            &windows,
            Accel::Kvm,
            &[
                "-accel kvm -cpu host,-arch-capabilities,hv-relaxed,",
                "-m 4096",
                "-vga std -rtc base=utc",
                "-serial file:serial.log",
                "-chardev socket,id=agent,path=agent.sock,server=on,wait=off -device isa-serial,chardev=agent",
                "-netdev user,id=net,restrict=on -device e1000e,netdev=net,romfile=",
                "-drive if=none,id=medium,format=raw,media=cdrom,readonly=on,file=medium.iso -device \
                 ide-hd,drive=disk,bus=ide.0,bootindex=0 -device ide-cd,drive=medium,bus=ide.1 -device \
                 ide-hd,drive=lun3,serial=lun3,bus=ide.2",
            ],
            &["virtio", "seed", "hostfwd"],
        );
        check(&windows, Accel::Tcg, &["-cpu max"], &["hv-"]);
        let server = MachineSpec {
            snapshot: false,
            firmware: Firmware::Bios,
            network: Network::Outbound,
            metadata: Metadata::Cable,
            ..test
        };
        check(
            &server,
            Accel::Kvm,
            &[
                "-accel kvm -cpu host,",
                "cache=writeback",
                "restrict=off",
                "-netdev stream,id=metadata,server=on,addr.type=unix,addr.path=metadata.sock",
            ],
            &["pflash", "snapshot=on", "cache=unsafe"],
        );
    }
}
