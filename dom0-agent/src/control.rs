//! The control operations of the hypervisor (`domctl.h`, `sysctl.h`, `version.h`), typed.

use serde::{Deserialize, Serialize};
use xen_abi::domctl::*;
use xen_abi::overcast::*;
use xen_abi::sysctl::*;
use xen_abi::version::*;
use xen_abi::xen::{HYPERVISOR_DOMCTL, HYPERVISOR_SYSCTL, HYPERVISOR_XEN_VERSION, XenctlBitmap};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::error::{Error, Result};
use crate::xen::privcmd::Privcmd;

/// Domains asked for at a time.
const CHUNK: usize = 64;
/// KiB of a page.
const PAGE_KIB: u64 = 4;

/// The hypervisor, to be controlled.
pub struct Control {
    privcmd: Privcmd,
}

/// Why a domain is not running any more, or that it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shutdown {
    /// It powered off (`SHUTDOWN_poweroff`).
    Poweroff,
    /// It wants to be started anew.
    Reboot,
    /// It is ready to be saved.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog ended it.
    Watchdog,
    /// Something else.
    Other,
}

/// What is known of a domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DomainInfo {
    /// Its number.
    pub id: u16,
    /// UUID.
    pub uuid: String,
    /// Memory that it has, KiB.
    pub memory_kib: u64,
    /// Memory that it may have, KiB.
    pub max_memory_kib: u64,
    /// vCPUs that are online.
    pub vcpus: u32,
    /// The most vCPUs that it can have.
    pub max_vcpus: u32,
    /// CPU time of all its vCPUs, ns.
    pub cpu_time_ns: u64,
    /// Whether a vCPU runs now.
    pub running: bool,
    /// Whether all its vCPUs wait.
    pub blocked: bool,
    /// Whether a control domain paused it.
    pub paused: bool,
    /// Why it shut down, if it did.
    pub shutdown: Option<Shutdown>,
    /// Whether it is being taken apart.
    pub dying: bool,
}

impl From<&DomctlGetdomaininfo> for DomainInfo {
    fn from(info: &DomctlGetdomaininfo) -> Self {
        let has = |flag| info.flags & flag != 0;
        let code = (info.flags >> XEN_DOMINF_SHUTDOWNSHIFT) & XEN_DOMINF_SHUTDOWNMASK;
        let reason = match code {
            0 => Shutdown::Poweroff,
            1 => Shutdown::Reboot,
            2 => Shutdown::Suspend,
            3 => Shutdown::Crash,
            4 => Shutdown::Watchdog,
            _ => Shutdown::Other,
        };
        Self {
            id: info.domain,
            uuid: uuid(&info.handle),
            memory_kib: info.tot_pages.saturating_mul(PAGE_KIB),
            max_memory_kib: info.max_pages.saturating_mul(PAGE_KIB),
            vcpus: info.nr_online_vcpus,
            max_vcpus: match info.max_vcpu_id {
                XEN_INVALID_MAX_VCPU_ID => 0,
                highest => highest.saturating_add(1),
            },
            cpu_time_ns: info.cpu_time,
            running: has(XEN_DOMINF_RUNNING),
            blocked: has(XEN_DOMINF_BLOCKED),
            paused: has(XEN_DOMINF_PAUSED),
            shutdown: has(XEN_DOMINF_SHUTDOWN).then_some(reason),
            dying: has(XEN_DOMINF_DYING),
        }
    }
}

impl DomainInfo {
    /// The state in the letters that Xen's tools use: `rbpscd`.
    pub fn letters(&self) -> String {
        let crashed = self.shutdown == Some(Shutdown::Crash);
        [
            (self.running, 'r'),
            (self.blocked, 'b'),
            (self.paused, 'p'),
            (self.shutdown.is_some() && !crashed, 's'),
            (crashed, 'c'),
            (self.dying, 'd'),
        ]
        .iter()
        .map(|&(set, letter)| if set { letter } else { '-' })
        .collect()
    }
}

/// A UUID as it is written.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// What is known of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HostInfo {
    /// Version of the interface and what follows it, like `4.17.5-overcast`.
    pub version: String,
    /// Kinds of guests that it can have.
    pub capabilities: String,
    /// The hypervisor's command line.
    pub command_line: String,
    /// CPUs that are online.
    pub cpus: u32,
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a socket.
    pub cores_per_socket: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// Speed of a CPU, kHz.
    pub cpu_khz: u32,
    /// Memory, KiB.
    pub memory_kib: u64,
    /// Memory that nobody has, KiB.
    pub free_memory_kib: u64,
    /// Name of the scheduler.
    pub scheduler: &'static str,
}

/// What a vCPU does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VcpuInfo {
    /// Its number.
    pub vcpu: u32,
    /// Whether it is online.
    pub online: bool,
    /// Whether it waits.
    pub blocked: bool,
    /// Whether it runs now.
    pub running: bool,
    /// Its CPU time, ns.
    pub cpu_time_ns: u64,
    /// The CPU on which it ran last.
    pub cpu: u32,
    /// CPUs on which it may run.
    pub hard_affinity: Vec<u32>,
    /// CPUs on which it should run.
    pub soft_affinity: Vec<u32>,
}

/// A domain's share of the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Its weight against others'; 256 is usual.
    pub weight: u16,
    /// The most it may have, percent of one CPU; 0 for no limit.
    pub cap: u16,
}

impl Control {
    /// Opens the way to the hypervisor.
    pub fn open() -> Result<Self> {
        Ok(Self {
            privcmd: Privcmd::open()?,
        })
    }

    /// What makes the hypercalls, for mappings and buffers.
    pub fn privcmd(&self) -> &Privcmd {
        &self.privcmd
    }

    /// An operation on a domain, with its argument, into which the answer comes.
    pub(crate) fn domctl<T: FromBytes + IntoBytes + Immutable>(
        &self,
        operation: &'static str,
        cmd: u32,
        domain: u16,
        argument: &mut T,
    ) -> Result<()> {
        self.domctl_numbered(operation, cmd, domain, argument)?;
        Ok(())
    }

    /// As [`Self::domctl`]; gives the domain that the answer is about. What the hypervisor wrote
    /// is in the argument even if it failed.
    pub(crate) fn domctl_numbered<T: FromBytes + IntoBytes + Immutable>(
        &self,
        operation: &'static str,
        cmd: u32,
        domain: u16,
        argument: &mut T,
    ) -> Result<u16> {
        let mut buffer = self.privcmd.buffer::<Domctl>(1)?;
        let call = &mut buffer.items_mut()[0];
        call.cmd = cmd;
        call.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
        call.domain = domain;
        put(&mut call.u, argument);
        let handle = buffer.handle().0;
        let result = self.privcmd.call(operation, HYPERVISOR_DOMCTL, &[handle]);
        take(&buffer.items()[0].u, argument);
        result.map(|_| buffer.items()[0].domain)
    }

    /// An operation on the machine, with its argument, into which the answer comes.
    pub(crate) fn sysctl<T: FromBytes + IntoBytes + Immutable>(
        &self,
        operation: &'static str,
        cmd: u32,
        argument: &mut T,
    ) -> Result<()> {
        let mut buffer = self.privcmd.buffer::<Sysctl>(1)?;
        let call = &mut buffer.items_mut()[0];
        call.cmd = cmd;
        call.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
        put(&mut call.u, argument);
        let handle = buffer.handle().0;
        self.privcmd.call(operation, HYPERVISOR_SYSCTL, &[handle])?;
        take(&buffer.items()[0].u, argument);
        Ok(())
    }

    /// All domains, by number.
    pub fn domains(&self) -> Result<Vec<DomainInfo>> {
        let mut all = Vec::new();
        let list = self.privcmd.buffer::<DomctlGetdomaininfo>(CHUNK)?;
        let mut first = 0u32;
        while let Ok(first_domain) = u16::try_from(first) {
            let mut argument = SysctlGetdomaininfolist::new_zeroed();
            argument.first_domain = first_domain;
            argument.max_domains = CHUNK as u32;
            argument.buffer = list.handle();
            self.sysctl("list domains", XEN_SYSCTL_GETDOMAININFOLIST, &mut argument)?;
            let count = (argument.num_domains as usize).min(CHUNK);
            let got = list.items().get(..count).unwrap_or_default();
            all.extend(got.iter().map(DomainInfo::from));
            match got.last() {
                Some(last) if count == CHUNK => first = u32::from(last.domain) + 1,
                _ => break,
            }
        }
        Ok(all)
    }

    /// What the hypervisor's backends did for domains' devices; `None` if the hypervisor has
    /// none, or does not say.
    pub fn device_counts(&self) -> Result<Option<Vec<DeviceCounts>>> {
        let mut room = CHUNK;
        loop {
            let list = self.privcmd.buffer::<DeviceCounts>(room)?;
            let mut argument = SysctlDeviceCounts::new_zeroed();
            argument.buffer = list.handle();
            argument.room = room as u32;
            match self.sysctl(
                "ask for devices",
                OVERCAST_SYSCTL_DEVICE_COUNTS,
                &mut argument,
            ) {
                Err(Error::Hypercall { errno, .. }) if errno == xen_abi::errno::ENOSYS => {
                    return Ok(None);
                }
                other => other?,
            }
            let count = argument.count as usize;
            if let Some(got) = list.items().get(..count) {
                return Ok(Some(got.to_vec()));
            }
            room = count.saturating_add(CHUNK);
        }
    }

    /// The machine.
    pub fn host(&self) -> Result<HostInfo> {
        let mut physical = SysctlPhysinfo::new_zeroed();
        self.sysctl("ask for the machine", XEN_SYSCTL_PHYSINFO, &mut physical)?;
        let mut scheduler = SysctlSchedId::new_zeroed();
        self.sysctl("ask for the scheduler", XEN_SYSCTL_SCHED_ID, &mut scheduler)?;
        Ok(HostInfo {
            version: self.version()?,
            capabilities: self.version_text(XENVER_CAPABILITIES, XEN_CAPABILITIES_INFO_LEN)?,
            command_line: self.version_text(XENVER_COMMANDLINE, 1024)?,
            cpus: physical.nr_cpus,
            threads_per_core: physical.threads_per_core,
            cores_per_socket: physical.cores_per_socket,
            nodes: physical.nr_nodes,
            cpu_khz: physical.cpu_khz,
            memory_kib: physical.total_pages.saturating_mul(PAGE_KIB),
            free_memory_kib: physical.free_pages.saturating_mul(PAGE_KIB),
            scheduler: match scheduler.sched_id {
                XEN_SCHEDULER_CREDIT => "credit",
                XEN_SCHEDULER_CREDIT2 => "credit2",
                XEN_SCHEDULER_ARINC653 => "arinc653",
                XEN_SCHEDULER_RTDS => "rtds",
                XEN_SCHEDULER_NULL => "null",
                _ => "unknown",
            },
        })
    }

    fn version(&self) -> Result<String> {
        let number = self.privcmd.call(
            "ask for the version",
            HYPERVISOR_XEN_VERSION,
            &[XENVER_VERSION.into(), 0],
        )?;
        let extra = self.version_text(XENVER_EXTRAVERSION, XEN_EXTRAVERSION_LEN)?;
        Ok(format!("{}.{}{extra}", number >> 16, number & 0xffff))
    }

    fn version_text(&self, what: u32, length: usize) -> Result<String> {
        let buffer = self.privcmd.buffer::<u8>(length)?;
        let args = [what.into(), buffer.handle().0];
        self.privcmd
            .call("ask for the version", HYPERVISOR_XEN_VERSION, &args)?;
        Ok(text(buffer.items()))
    }

    /// The hypervisor's log, from its begin; empties it if `clear`.
    pub fn console_ring(&self, clear: bool) -> Result<Vec<u8>> {
        const PIECE: usize = 16 << 10;
        let buffer = self.privcmd.buffer::<u8>(PIECE)?;
        let mut log = Vec::new();
        let mut index = 0;
        loop {
            let mut argument = SysctlReadconsole::new_zeroed();
            argument.incremental = 1;
            argument.index = index;
            argument.buffer = buffer.handle();
            argument.count = PIECE as u32;
            self.sysctl("read the log", XEN_SYSCTL_READCONSOLE, &mut argument)?;
            let got = buffer.items().get(..argument.count as usize);
            let got = got.unwrap_or_default();
            if got.is_empty() {
                break;
            }
            log.extend_from_slice(got);
            index = argument.index;
        }
        if clear {
            let mut argument = SysctlReadconsole::new_zeroed();
            argument.clear = 1;
            argument.buffer = buffer.handle();
            self.sysctl("empty the log", XEN_SYSCTL_READCONSOLE, &mut argument)?;
        }
        Ok(log)
    }

    /// Sends debug keys to the hypervisor, as on its serial line.
    pub fn debug_keys(&self, keys: &str) -> Result<()> {
        let mut buffer = self.privcmd.buffer::<u8>(keys.len())?;
        buffer.items_mut().copy_from_slice(keys.as_bytes());
        let mut argument = SysctlDebugKeys::new_zeroed();
        argument.keys = buffer.handle();
        argument.nr_keys = keys.len() as u32;
        self.sysctl("send debug keys", XEN_SYSCTL_DEBUG_KEYS, &mut argument)
    }

    /// Pauses a domain.
    pub fn pause(&self, domain: u16) -> Result<()> {
        self.domctl("pause", XEN_DOMCTL_PAUSEDOMAIN, domain, &mut [0u64; 0])
    }

    /// Undoes one pause.
    pub fn unpause(&self, domain: u16) -> Result<()> {
        self.domctl("unpause", XEN_DOMCTL_UNPAUSEDOMAIN, domain, &mut [0u64; 0])
    }

    /// Ends a domain and gives back what it has.
    pub fn destroy(&self, domain: u16) -> Result<()> {
        loop {
            match self.domctl("destroy", XEN_DOMCTL_DESTROYDOMAIN, domain, &mut [0u64; 0]) {
                Err(Error::Hypercall { errno, .. }) if errno == xen_abi::errno::EAGAIN => {}
                other => return other,
            }
        }
    }

    /// Sets how much memory a domain may have, KiB.
    pub fn set_max_memory(&self, domain: u16, kib: u64) -> Result<()> {
        let mut argument = DomctlMaxMem { max_memkb: kib };
        self.domctl("set memory", XEN_DOMCTL_MAX_MEM, domain, &mut argument)
    }

    /// A domain's share of the CPUs.
    pub fn share(&self, domain: u16) -> Result<Share> {
        let mut argument = DomctlSchedulerOp::new_zeroed();
        argument.sched_id = XEN_SCHEDULER_CREDIT2;
        argument.cmd = XEN_DOMCTL_SCHEDOP_GETINFO;
        self.domctl(
            "ask for the share",
            XEN_DOMCTL_SCHEDULER_OP,
            domain,
            &mut argument,
        )?;
        let mut credit2 = DomctlSchedCredit2::new_zeroed();
        take(&argument.u, &mut credit2);
        Ok(Share {
            weight: credit2.weight,
            cap: credit2.cap,
        })
    }

    /// Sets a domain's share of the CPUs.
    pub fn set_share(&self, domain: u16, share: Share) -> Result<()> {
        let mut credit2 = DomctlSchedCredit2::new_zeroed();
        credit2.weight = share.weight;
        credit2.cap = share.cap;
        let mut argument = DomctlSchedulerOp::new_zeroed();
        argument.sched_id = XEN_SCHEDULER_CREDIT2;
        argument.cmd = XEN_DOMCTL_SCHEDOP_PUTINFO;
        put(&mut argument.u, &credit2);
        self.domctl(
            "set the share",
            XEN_DOMCTL_SCHEDULER_OP,
            domain,
            &mut argument,
        )
    }

    /// A domain's vCPUs.
    pub fn vcpus(&self, domain: &DomainInfo) -> Result<Vec<VcpuInfo>> {
        let mut physical = SysctlPhysinfo::new_zeroed();
        self.sysctl("ask for the machine", XEN_SYSCTL_PHYSINFO, &mut physical)?;
        let cpus = physical.max_cpu_id.saturating_add(1).min(4096);
        (0..domain.max_vcpus)
            .map(|vcpu| self.vcpu(domain.id, vcpu, cpus))
            .collect()
    }

    fn vcpu(&self, domain: u16, vcpu: u32, cpus: u32) -> Result<VcpuInfo> {
        let mut info = DomctlGetvcpuinfo::new_zeroed();
        info.vcpu = vcpu;
        self.domctl("ask for a vCPU", XEN_DOMCTL_GETVCPUINFO, domain, &mut info)?;
        let bytes = (cpus as usize).div_ceil(8);
        let hard = self.privcmd.buffer::<u8>(bytes)?;
        let soft = self.privcmd.buffer::<u8>(bytes)?;
        let mut affinity = DomctlVcpuaffinity::new_zeroed();
        affinity.vcpu = vcpu;
        affinity.flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
        let map = |buffer: &crate::xen::privcmd::Buffer<u8>| {
            let mut map = XenctlBitmap::new_zeroed();
            map.bitmap = buffer.handle();
            map.nr_bits = cpus;
            map
        };
        affinity.cpumap_hard = map(&hard);
        affinity.cpumap_soft = map(&soft);
        self.domctl(
            "ask for an affinity",
            XEN_DOMCTL_GETVCPUAFFINITY,
            domain,
            &mut affinity,
        )?;
        Ok(VcpuInfo {
            vcpu,
            online: info.online != 0,
            blocked: info.blocked != 0,
            running: info.running != 0,
            cpu_time_ns: info.cpu_time,
            cpu: info.cpu,
            hard_affinity: bits(hard.items()),
            soft_affinity: bits(soft.items()),
        })
    }

    /// Sets where a vCPU may run (`hard`) and where it should (`soft`); `None` leaves as is.
    pub fn set_affinity(
        &self,
        domain: u16,
        vcpu: u32,
        hard: Option<&[u32]>,
        soft: Option<&[u32]>,
    ) -> Result<()> {
        let highest = [hard, soft]
            .into_iter()
            .flatten()
            .flat_map(|cpus| cpus.iter().copied())
            .max()
            .unwrap_or(0);
        let bytes = highest as usize / 8 + 1;
        let mut argument = DomctlVcpuaffinity::new_zeroed();
        argument.vcpu = vcpu;
        let fill = |cpus: &[u32]| -> Result<_> {
            let mut buffer = self.privcmd.buffer::<u8>(bytes)?;
            for &cpu in cpus {
                buffer.items_mut()[cpu as usize / 8] |= 1 << (cpu % 8);
            }
            Ok(buffer)
        };
        let hard = hard.map(fill).transpose()?;
        let soft = soft.map(fill).transpose()?;
        for (buffer, flag, map) in [
            (&hard, XEN_VCPUAFFINITY_HARD, &mut argument.cpumap_hard),
            (&soft, XEN_VCPUAFFINITY_SOFT, &mut argument.cpumap_soft),
        ] {
            if let Some(buffer) = buffer {
                argument.flags |= flag;
                map.bitmap = buffer.handle();
                map.nr_bits = bytes as u32 * 8;
            }
        }
        self.domctl(
            "set an affinity",
            XEN_DOMCTL_SETVCPUAFFINITY,
            domain,
            &mut argument,
        )
    }
}

/// Puts an argument into the union of a request; it fits, as the ABI's sizes are asserted.
fn put<T: IntoBytes + Immutable>(union: &mut [u64], argument: &T) {
    let bytes = argument.as_bytes();
    if let Some(room) = union.as_mut_bytes().get_mut(..bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

/// Takes the answer out of the union of a request.
fn take<T: FromBytes + IntoBytes>(union: &[u64], argument: &mut T) {
    let bytes = argument.as_mut_bytes();
    if let Some(answer) = union.as_bytes().get(..bytes.len()) {
        bytes.copy_from_slice(answer);
    }
}

/// A text that ends with a zero, or with its room.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())])
        .trim_end()
        .to_owned()
}

/// The numbers of the bits that are set.
fn bits(bytes: &[u8]) -> Vec<u32> {
    (0..bytes.len() as u32 * 8)
        .filter(|&bit| bytes[bit as usize / 8] & (1 << (bit % 8)) != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(flags: u32) -> DomainInfo {
        let mut raw = DomctlGetdomaininfo::new_zeroed();
        raw.flags = flags;
        raw.tot_pages = 256;
        raw.max_vcpu_id = 3;
        DomainInfo::from(&raw)
    }

    #[test]
    fn states_are_told_in_letters() {
        assert_eq!(info(XEN_DOMINF_RUNNING).letters(), "r-----");
        assert_eq!(
            info(XEN_DOMINF_BLOCKED | XEN_DOMINF_PAUSED).letters(),
            "-bp---"
        );
        let crashed = XEN_DOMINF_SHUTDOWN | (3 << XEN_DOMINF_SHUTDOWNSHIFT);
        assert_eq!(info(crashed).letters(), "----c-");
        assert_eq!(
            info(XEN_DOMINF_SHUTDOWN | XEN_DOMINF_DYING).letters(),
            "---s-d"
        );
        assert_eq!(info(0).memory_kib, 1024);
        assert_eq!(info(0).max_vcpus, 4);
    }

    #[test]
    fn uuids_have_their_dashes() {
        let bytes = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
        assert_eq!(uuid(&bytes), "01234567-89ab-cdef-0123-456789abcdef");
    }

    #[test]
    fn texts_end_with_a_zero_or_their_room() {
        assert_eq!(text(b"abc\0def"), "abc");
        assert_eq!(text(b"abc "), "abc");
        assert_eq!(bits(&[0b101, 0x80]), [0, 2, 15]);
    }
}
