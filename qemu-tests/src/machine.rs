//! What machine QEMU is to be, and what is to boot on it.

use crate::artefacts;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the guest's kernel runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// The machine itself.
    Bare,
    /// Real Xen 4.17, the oracle.
    Xen,
    /// Ours.
    Overcast,
}

impl System {
    /// A word for tables and file names.
    pub fn name(self) -> &'static str {
        match self {
            System::Bare => "bare",
            System::Xen => "xen",
            System::Overcast => "overcast",
        }
    }
}

/// QEMU's machine types that are tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Board {
    /// PCI Express, ICH9.
    Q35,
    /// PIIX4.
    Pc,
    /// No PCI, no legacy but a serial port.
    Microvm,
}

/// What a machine that boots from its disk boots by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// A machine, to be started with [`crate::session::Session::start`].
#[derive(Clone, Debug)]
pub struct Machine {
    /// What runs on it.
    pub system: System,
    /// Its type.
    pub board: Board,
    /// QEMU's CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u64,
    /// Back memory by pages that the host need not have: for sizes beyond the host's.
    pub sparse_memory: bool,
    /// Guest time is the number of executed instructions.
    pub icount: bool,
    /// Options of the hypervisor.
    pub options: String,
    /// The guest's kernel, and then its other modules: a path with arguments each.
    pub modules: Vec<(PathBuf, String)>,
    /// Boot from a disk by this firmware; the system, its options and modules are
    /// then the disk's matter.
    pub firmware: Option<Firmware>,
    /// Run in the network namespace of the process with this number.
    pub namespace: Option<u32>,
    /// More arguments for QEMU.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine of 1 GiB and one CPU with nothing to boot above the system.
    pub fn empty(system: System) -> Self {
        Self {
            system,
            board: Board::Q35,
            // Real Xen's Dom0 crashes with SMAP under QEMU 7.2.
            cpu: match system {
                System::Xen => "max,-smap,-smep",
                System::Bare | System::Overcast => "max",
            }
            .to_owned(),
            cpus: 1,
            memory: 1024,
            sparse_memory: false,
            icount: false,
            options: "console=com1 loglvl=all guest_loglvl=all".to_owned(),
            modules: Vec::new(),
            firmware: None,
            namespace: None,
            extra: Vec::new(),
        }
    }

    /// A machine with Debian's kernel and an initial RAM disk; `arguments` go to
    /// the kernel beside those that its console needs.
    pub fn linux(system: System, initramfs: &str, arguments: &str) -> Result<Self, String> {
        let console = match system {
            System::Bare => "console=ttyS0",
            System::Xen | System::Overcast => "console=hvc0 earlyprintk=xen",
        };
        let mut machine = Self::empty(system);
        machine.modules = vec![
            (
                artefacts::kernel()?,
                format!("{console} panic=-1 {arguments}"),
            ),
            (artefacts::initramfs(initramfs)?, String::new()),
        ];
        Ok(machine)
    }

    /// A machine with a virtio disk that holds the Debian root, and a root shell on
    /// the console (`quick: shell`, prompt `:~# `); `arguments` go to the kernel.
    /// What it writes to the disk is forgotten when it ends.
    pub fn debian_disk(system: System, arguments: &str) -> Result<Self, String> {
        let arguments = format!("net.ifnames=0 init=/sbin/quick {arguments}");
        let mut machine = Self::linux(system, "disk", &arguments)?;
        let disk = artefacts::root_disk()?;
        machine.extra.extend([
            "-drive".to_owned(),
            format!("file={},format=raw,if=virtio,snapshot=on", disk.display()),
        ]);
        Ok(machine)
    }

    /// The same with a network card (`n0`) on a wire to another machine: datagrams between two
    /// ports of this host, the own and the other's.
    pub fn wired(mut self, [local, remote]: [u16; 2], mac: &str) -> Self {
        let inet = |end: &str, port: u16| {
            format!("{end}.type=inet,{end}.host=127.0.0.1,{end}.port={port}")
        };
        self.extra.extend([
            "-netdev".to_owned(),
            format!(
                "dgram,id=n0,{},{}",
                inet("local", local),
                inet("remote", remote)
            ),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=n0,mac={mac},romfile="),
        ]);
        self
    }

    /// A machine that boots the disk image for clouds, on a disk larger than the image
    /// was made for. What it writes is under `build/tests`, named for the test.
    pub fn cloud_image(firmware: Firmware, name: &str) -> Result<Self, String> {
        let mut machine = Self::empty(System::Overcast).cpus(2);
        machine.firmware = Some(firmware);
        let image = artefacts::image()?;
        let disk = artefacts::made(&format!("{name}.qcow2"), &[])?;
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&image, &disk])
            .arg("3G")
            .status()
            .map_err(|e| format!("qemu-img cannot be started: {e}"))?;
        if !made.success() {
            return Err(format!("qemu-img: {made}"));
        }
        machine.extra.extend([
            "-drive".to_owned(),
            format!("file={},if=virtio", disk.display()),
        ]);
        if firmware == Firmware::Uefi {
            let [code, variables] = artefacts::ovmf()?;
            machine.extra.extend([
                "-drive".to_owned(),
                format!("if=pflash,format=raw,readonly=on,file={}", code.display()),
                "-drive".to_owned(),
                format!(
                    "if=pflash,format=raw,snapshot=on,file={}",
                    variables.display()
                ),
            ]);
        }
        Ok(machine)
    }

    /// The same with `cpus` CPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The same with a CPU model.
    pub fn cpu(mut self, cpu: &str) -> Self {
        self.cpu = cpu.to_owned();
        self
    }

    /// The same with `memory` MiB.
    pub fn memory(mut self, memory: u64) -> Self {
        self.memory = memory;
        self
    }

    /// The same as another type of machine.
    pub fn board(mut self, board: Board) -> Self {
        self.board = board;
        self
    }

    /// The same with options added to the hypervisor's.
    pub fn options(mut self, options: &str) -> Self {
        self.options.push(' ');
        self.options.push_str(options);
        self
    }

    /// The command that starts the machine, its serial port at stdin and stdout.
    pub fn command(&self) -> Result<Command, String> {
        let qemu = "qemu-system-x86_64";
        let mut command = match self.namespace {
            None => Command::new(qemu),
            Some(process) => {
                let mut command = Command::new("nsenter");
                command.args([&format!("--net=/proc/{process}/ns/net"), qemu]);
                command
            }
        };
        command.args(["-accel", "tcg", "-display", "none", "-serial", "stdio"]);
        command.args(["-monitor", "none", "-nic", "none", "-no-reboot"]);
        command.args(["-cpu", &self.cpu, "-smp", &self.cpus.to_string()]);
        command.args(["-m", &self.memory.to_string()]);
        let mut board = match self.board {
            Board::Q35 => "q35",
            Board::Pc => "pc",
            Board::Microvm => "microvm,pit=on,pic=on,rtc=on,isa-serial=on",
        }
        .to_owned();
        if self.sparse_memory {
            board.push_str(",memory-backend=memory");
            let size = self.memory;
            command.args([
                "-object".to_owned(),
                format!("memory-backend-ram,id=memory,size={size}M,reserve=off"),
            ]);
        }
        command.args(["-machine", &board]);
        if self.board != Board::Microvm {
            command.args(["-vga", "none"]);
        }
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.firmware.is_some() {
            command.args(&self.extra);
            return Ok(command);
        }
        match self.system {
            System::Bare => {
                let mut modules = self.modules.iter();
                if let Some((kernel, arguments)) = modules.next() {
                    command
                        .arg("-kernel")
                        .arg(kernel)
                        .args(["-append", arguments]);
                }
                if let Some((initrd, _)) = modules.next() {
                    command.arg("-initrd").arg(initrd);
                }
            }
            System::Xen | System::Overcast => {
                let image = match self.system {
                    System::Overcast => artefacts::overcast()?,
                    _ => artefacts::xen()?,
                };
                command
                    .arg("-kernel")
                    .arg(image)
                    .args(["-append", &self.options]);
                if !self.modules.is_empty() {
                    let modules: Vec<_> = self
                        .modules
                        .iter()
                        .map(|(path, arguments)| module(path, arguments))
                        .collect();
                    command.args(["-initrd", &modules.join(",")]);
                }
            }
        }
        command.args(&self.extra);
        Ok(command)
    }
}

/// A module for `-initrd`, where a comma separates and a doubled one is a comma.
fn module(path: &Path, arguments: &str) -> String {
    let path = path.display().to_string();
    let text = if arguments.is_empty() {
        path
    } else {
        format!("{path} {arguments}")
    };
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_of_modules_are_doubled() {
        assert_eq!(module(Path::new("/a"), "run=x,y"), "/a run=x,,y");
        assert_eq!(module(Path::new("/a"), ""), "/a");
    }

    #[test]
    fn bare_machines_boot_the_kernel_itself() {
        let mut machine = Machine::empty(System::Bare).cpus(4).board(Board::Pc);
        machine.modules = vec![
            ("/kernel".into(), "a b".into()),
            ("/initrd".into(), "".into()),
        ];
        let command = machine.command().unwrap();
        let arguments: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
        let after = |name: &str| arguments[arguments.iter().position(|a| *a == name).unwrap() + 1];
        assert_eq!(after("-kernel"), "/kernel");
        assert_eq!(after("-append"), "a b");
        assert_eq!(after("-initrd"), "/initrd");
        assert_eq!(after("-smp"), "4");
        assert_eq!(after("-machine"), "pc");
    }
}
