//! The domain builder: from a configuration to a domain that only needs to be unpaused.
//!
//! 1. [`Boot::load`] reads the kernel and the initrd, and refuses what cannot be booted, before
//!    there is a domain.
//! 2. [`Shell::make`] makes a domain with vCPUs and ports, and no memory (a restored domain
//!    needs that much, too).
//! 3. [`populate`] gives it memory, lays kernel, initrd, tables and `start_info` out in it (by
//!    [`overcast_core::builder`], as the hypervisor does it for Dom0), and sets vCPU 0 up.
//! 4. [`nodes`] makes what is known of it in the store, and its devices.
//!
//! What fails leaves a domain to be destroyed; [`remove`] does it.

pub mod nodes;
mod unpack;

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use overcast_core::addr::{Mfn, PAGE_SIZE, Pfn};
use overcast_core::builder::BuildError;
use overcast_core::builder::elf::Kernel;
use overcast_core::builder::layout::{Layout, RingPages};
use overcast_core::builder::populate::{
    Contents, InitialState, Initrd, Role, populate as write_domain,
};
use overcast_core::ids::EventPort;
use overcast_core::machine::{Frame, Memory};
use xen_abi::arch_x86::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use xen_abi::domctl::{DomctlCreatedomain, DomctlTscInfo, XEN_DOMCTL_CDF_OOS_OFF};
use xen_abi::memory::{XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED};
use xen_abi::xen::MMUEXT_PIN_L4_TABLE;
use zerocopy::FromZeros;

use crate::cli::parse_cpus;
use crate::config::DomainConfig;
use crate::config::domain::TscMode;
use crate::control::{Control, DomainInfo, Share, uuid};
use crate::daemon;
use crate::error::{Error, Result};
use crate::xen::foreign::{Access, ForeignMap};

/// The highest port that a domain may have, as libxl sets it.
const MAX_PORT: u32 = 1023;
/// The highest version of grant tables that a domain may use.
const GRANT_VERSION: u32 = 2;
/// KiB beyond its memory that a domain may have, as libxl sets it.
pub const SLACK_KIB: u64 = 1024;
/// Pages that a domain is given at a time, between which progress is told.
const POPULATE_AT_ONCE: usize = 16 << 10;
/// The largest file with a kernel, bytes: what it is when unpacked, with symbols.
const MAX_KERNEL: u64 = 1 << 30;
/// The largest initrd, bytes.
const MAX_INITRD: u64 = 4 << 30;
/// `GTF_permit_access`
const GTF_PERMIT_ACCESS: u64 = 1;
/// Grants that tools find at a domain's start: `GNTTAB_RESERVED_CONSOLE`, `_XENSTORE`.
const RESERVED_CONSOLE: usize = 0;
const RESERVED_XENSTORE: usize = 1;

/// Is told what is being done, and how much of it: done, of all.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Reads a file that has something in it, and at most so many bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let wrong = |why: String| Error::Boot {
        path: path.to_owned(),
        why,
    };
    let mut data = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut data))
        .map_err(|error| wrong(error.to_string()))?;
    match data.len() as u64 {
        0 => Err(wrong("it is empty".to_owned())),
        length if length > most => Err(wrong(format!("more than {} MiB", most >> 20))),
        _ => Ok(data),
    }
}

/// What a domain boots from.
pub struct Boot {
    path: PathBuf,
    /// The kernel's ELF file.
    elf: Vec<u8>,
    initrd: Vec<u8>,
}

impl Boot {
    /// Reads a kernel (bzImage or ELF, compressed or not) and an initrd.
    ///
    /// # Errors
    /// `Boot` with the file that cannot be used.
    pub fn load(kernel: &Path, initrd: Option<&Path>, progress: Progress<'_>) -> Result<Self> {
        progress("reading the kernel", 0, 0);
        let file = read(kernel, MAX_KERNEL)?;
        let refused = |error: BuildError| Error::Boot {
            path: kernel.to_owned(),
            why: error.to_string(),
        };
        progress("unpacking the kernel", 0, 0);
        let elf = unpack::unpack(&file).map_err(refused)?;
        Kernel::parse_guest(&elf).map_err(refused)?;
        let initrd = match initrd {
            None => Vec::new(),
            Some(path) => read(path, MAX_INITRD)?,
        };
        Ok(Self {
            path: kernel.to_owned(),
            elf,
            initrd,
        })
    }

    fn refused(&self, error: BuildError) -> Error {
        let why = match error {
            BuildError::TooSmall { needed, .. } => format!(
                "it needs {} MiB of memory at least, with its initrd",
                (needed * 4).div_ceil(1024)
            ),
            other => other.to_string(),
        };
        Error::Boot {
            path: self.path.clone(),
            why,
        }
    }

    /// The kernel, and where everything goes in a domain of so many pages.
    fn plan(&self, pages: u64) -> Result<(Kernel<'_>, Layout)> {
        let kernel = Kernel::parse_guest(&self.elf).map_err(|error| self.refused(error))?;
        let rings = RingPages {
            store: true,
            console: true,
        };
        let layout = Layout::with_rings(&kernel, pages, self.initrd.len() as u64, rings)
            .map_err(|error| self.refused(error))?;
        Ok((kernel, layout))
    }

    /// Whether a domain with so much memory can boot from it.
    pub fn check(&self, memory_kib: u64) -> Result<()> {
        self.plan(memory_kib / 4).map(|_| ())
    }
}

/// A domain without memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shell {
    /// Its number.
    pub domain: u16,
    /// The domain in which the store is.
    pub store_domain: u16,
    /// The domain's port of xenstore's event channel.
    pub store_port: EventPort,
    /// The domain's port of its console's event channel.
    pub console_port: EventPort,
}

/// Where the rings of a domain are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rings {
    /// The frame of xenstore's.
    pub store: Mfn,
    /// The frame of the console's.
    pub console: Mfn,
}

impl Shell {
    /// Makes a domain, paused, with vCPUs that are not set up, its limit of memory, its share of
    /// the CPUs, and ports for the store, which is in `store_domain` ([`nodes::store_domain`]),
    /// and for the console, to which Dom0 may bind.
    ///
    /// # Errors
    /// What the hypervisor refuses; then there is no domain.
    pub fn make(
        control: &Control,
        config: &DomainConfig,
        uuid: [u8; 16],
        store_domain: u16,
    ) -> Result<Self> {
        let mut new = DomctlCreatedomain::new_zeroed();
        new.handle = uuid;
        new.flags = XEN_DOMCTL_CDF_OOS_OFF;
        new.max_vcpus = config.max_vcpus;
        new.max_evtchn_port = MAX_PORT;
        new.max_grant_frames = -1;
        new.max_maptrack_frames = -1;
        new.grant_opts = GRANT_VERSION;
        let domain = control.create_domain(0, &new)?;
        Self::furnish(control, config, domain, store_domain).inspect_err(|_| {
            let _ = control.destroy(domain);
        })
    }

    fn furnish(
        control: &Control,
        config: &DomainConfig,
        domain: u16,
        store_domain: u16,
    ) -> Result<Self> {
        control.set_max_vcpus(domain, config.max_vcpus)?;
        control.set_node_affinity(domain)?;
        control.set_max_memory(domain, config.max_memory_kib.saturating_add(SLACK_KIB))?;
        control.set_address_size(domain, 64)?;
        control.set_memory_map(domain, config.max_memory_kib * 1024)?;
        let cpus = control.host()?.cpus;
        if config.tsc_mode != TscMode::Default {
            let mut tsc = DomctlTscInfo::new_zeroed();
            tsc.tsc_mode = config.tsc_mode.number();
            control.set_tsc_info(domain, &tsc)?;
        }
        for vcpu in 0..config.max_vcpus {
            let text = match config.cpus.as_slice() {
                [] => break,
                [all] => all,
                each => match each.get(vcpu as usize) {
                    Some(text) => text,
                    None => break,
                },
            };
            let cpus =
                parse_cpus(text, cpus).map_err(|why| Error::Usage(format!("cpus: {why}")))?;
            control.set_affinity(domain, vcpu, Some(&cpus), None)?;
        }
        if config.weight.is_some() || config.cap.is_some() {
            let now = control.share(domain)?;
            let share = Share {
                weight: config.weight.unwrap_or(now.weight),
                cap: config.cap.unwrap_or(now.cap),
            };
            control.set_share(domain, share)?;
        }
        Ok(Self {
            domain,
            store_domain,
            store_port: control.allocate_port(domain, store_domain)?,
            console_port: control.allocate_port(domain, 0)?,
        })
    }
}

/// Frames of a domain, by their numbers.
struct Mapped {
    map: ForeignMap,
    index: HashMap<u64, usize>,
}

impl Memory for Mapped {
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.map.frame(*self.index.get(&mfn.0)?)
    }

    fn end_mfn(&self) -> Mfn {
        Mfn(u64::MAX)
    }
}

/// Gives a domain its memory, and writes into it what it boots from.
pub fn populate(
    control: &Control,
    shell: &Shell,
    config: &DomainConfig,
    boot: &Boot,
    progress: Progress<'_>,
) -> Result<Rings> {
    let domain = shell.domain;
    let pages = config.memory_kib / 4;
    let (kernel, layout) = boot.plan(pages)?;

    let numbers: Vec<Pfn> = (0..pages).map(Pfn).collect();
    let mut frames = Vec::with_capacity(numbers.len());
    for chunk in numbers.chunks(POPULATE_AT_ONCE) {
        progress("giving it memory", frames.len() as u64, pages);
        frames.extend(control.populate(domain, chunk)?);
    }
    drop(numbers);

    progress("writing kernel and initrd", 0, 0);
    let info = control.domain_info(domain)?;
    let shared_info = Mfn(info.shared_info_frame);
    let frame_of = |pfn: Pfn| frames.get(usize::try_from(pfn.0).ok()?).copied();
    let used = usize::try_from(layout.first_free_pfn.0).unwrap_or(usize::MAX);
    let written = frames.get(..used).unwrap_or(&frames);
    let state = {
        let memory = Mapped {
            map: ForeignMap::all(control.privcmd(), domain, written, Access::Write)?,
            index: written
                .iter()
                .enumerate()
                .map(|(index, mfn)| (mfn.0, index))
                .collect(),
        };
        let contents = Contents {
            kernel: &kernel,
            layout: &layout,
            initrd: match boot.initrd.as_slice() {
                [] => Initrd::None,
                data => Initrd::Copy(data),
            },
            command_line: config.cmdline.as_bytes(),
            shared_info: shared_info.address(),
            store_port: shell.store_port,
            console_port: shell.console_port,
            role: Role::Guest,
        };
        write_domain(&memory, &frame_of, &contents).map_err(|error| boot.refused(error))?
        // The mapping ends here: it would keep page tables from being checked.
    };

    progress("checking its page tables", 0, 0);
    let at = |address: Option<u64>| {
        address
            .and_then(|address| layout.pfn_of(address))
            .and_then(frame_of)
            .ok_or_else(|| boot.refused(BuildError::OutOfBounds("the pages of rings")))
    };
    let rings = Rings {
        store: at(layout.store)?,
        console: at(layout.console)?,
    };
    if let Some(page) = kernel.notes.hypercall_page {
        control.hypercall_page(domain, at(Some(page))?)?;
    }
    control.pin_tables(domain, &[(MMUEXT_PIN_L4_TABLE, state.top_table)])?;
    write_shared_info(control, domain, shared_info)?;
    control.set_vcpu_context(domain, 0, &first_context(&state))?;
    grant_rings(control, shell, &rings)?;
    Ok(rings)
}

/// An empty `shared_info`, in which no vCPU takes events yet.
pub fn write_shared_info(control: &Control, domain: u16, frame: Mfn) -> Result<()> {
    /// Bytes of a `struct vcpu_info`, and of its field `evtchn_upcall_mask`.
    const VCPU_INFO: usize = 64;
    const UPCALL_MASK: usize = 1;
    let map = ForeignMap::all(control.privcmd(), domain, &[frame], Access::Write)?;
    if let Some(page) = map.frame(0) {
        page.zero();
        for vcpu in 0..xen_abi::arch_x86::XEN_LEGACY_MAX_VCPUS {
            page.store_u8(vcpu * VCPU_INFO + UPCALL_MASK, 1);
        }
    }
    Ok(())
}

/// vCPU 0's registers at its start (`struct vcpu_guest_context`).
fn first_context(state: &InitialState) -> Box<VcpuGuestContext> {
    /// What the registers hold after a reset.
    const DR6: u64 = 0xffff_0ff0;
    const DR7: u64 = 0x400;
    let mut context = Box::new(VcpuGuestContext::new_zeroed());
    context.flags = VGCF_IN_KERNEL | VGCF_ONLINE;
    context.user_regs.rip = state.rip;
    context.user_regs.rsp = state.rsp;
    context.user_regs.rsi = state.rsi;
    context.user_regs.rflags = state.rflags;
    context.user_regs.cs = state.cs;
    context.user_regs.ss = state.ss;
    context.kernel_ss = u64::from(state.ss);
    context.kernel_sp = state.rsp;
    context.ctrlreg[3] = state.top_table.address().0;
    context.debugreg[6] = DR6;
    context.debugreg[7] = DR7;
    context
}

/// Grants the pages of the rings to those who serve them, by the references that are kept for
/// that.
pub fn grant_rings(control: &Control, shell: &Shell, rings: &Rings) -> Result<()> {
    let table = ForeignMap::resource(
        control.privcmd(),
        shell.domain,
        XENMEM_RESOURCE_GRANT_TABLE,
        XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
        0,
        1,
    )?;
    if let Some(page) = table.frame(0) {
        // `struct grant_entry_v1`: flags and domain, 16 bits each, and the frame.
        for (reference, domain, mfn) in [
            (RESERVED_CONSOLE, 0, rings.console),
            (RESERVED_XENSTORE, shell.store_domain, rings.store),
        ] {
            if u32::try_from(mfn.0).is_ok() {
                let entry = GTF_PERMIT_ACCESS | u64::from(domain) << 16 | mfn.0 << 32;
                page.store(reference, entry);
            }
        }
    }
    Ok(())
}

/// Ends a domain and removes what is known of it.
pub fn remove(control: &Control, store: &mut crate::store::Store, domain: u16) -> Result<()> {
    let uuid = control.domain_info(domain).map(|info| uuid(&info.handle));
    // So that it does nothing any more while its devices go.
    let _ = control.pause(domain);
    nodes::remove_devices(store, domain)?;
    control.destroy(domain)?;
    nodes::remove(store, domain)?;
    // One that is moved within the machine is there twice.
    let last = |uuid: &String| {
        let mine = |info: &DomainInfo| info.uuid == *uuid && info.id != domain;
        control
            .domains()
            .is_ok_and(|domains| !domains.iter().any(mine))
    };
    if let Some(uuid) = uuid.ok().filter(last) {
        daemon::forget(&uuid);
    }
    Ok(())
}

/// Random bytes of the kernel's.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A random UUID (RFC 9562, version 4).
pub fn new_uuid() -> Result<[u8; 16]> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

const _: () = assert!(PAGE_SIZE == 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_vcpu_starts_where_the_builder_says() {
        let state = InitialState {
            rip: 1,
            rsp: 2,
            rsi: 3,
            cs: 0xe033,
            ss: 0xe02b,
            rflags: 0x200,
            top_table: Mfn(0x1234),
            tables: Vec::new(),
        };
        let context = first_context(&state);
        assert_eq!(context.ctrlreg[3], 0x123_4000);
        assert_eq!((context.kernel_ss, context.kernel_sp), (0xe02b, 2));
        assert_eq!((context.user_regs.rip, context.user_regs.rsi), (1, 3));
        assert_eq!(context.flags, 0x24);
    }

    #[test]
    fn kernels_that_cannot_be_booted_are_named_with_the_reason() {
        let path = std::env::temp_dir().join(format!("overcast-no-kernel-{}", std::process::id()));
        fs::write(&path, [b'x'; 4096]).expect("a file");
        let error = Boot::load(&path, None, &mut |_, _, _| ()).err();
        fs::remove_file(&path).expect("gone");
        let text = error.expect("no kernel").to_string();
        assert!(
            text.contains("overcast-no-kernel") && text.contains("format"),
            "{text}"
        );
        // A device that never ends is no kernel.
        let error = read(Path::new("/dev/zero"), 1 << 20).expect_err("too long");
        assert!(error.to_string().contains("more than 1 MiB"), "{error}");
        assert!(read(Path::new("/dev/null"), 1).is_err());
        let error = Boot::load(Path::new("/nowhere"), None, &mut |_, _, _| ()).err();
        assert_eq!(error.map(|error| error.exit_status()), Some(8));
    }
}
